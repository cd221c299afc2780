"""The comparison of a site's SAEs, from a sweep to what the command prints, on a small real study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import dmcore
from dmcore.errors import StoreError
from dmcore.results import RECORD, SCALING, Scaling, scaling_spec
from dmcore.results.scaling import TABLES
from dmcore.run.cli import main
from dmcore.run.pipeline import Pipeline
from dmcore.specs import load_study
from dmcore.store.fingerprint import content_key
from dmcore.store.published import open_published
from dmcore.store.store import Store
from tests.builders import HOOKS, build_model, build_sae, write_contexts
from tests.texts_alone import texts_alone

WIDTHS, KS = (24, 48, 96, 192), (3, 6)
MAIN, OTHER = HOOKS[0], HOOKS[2]


def scaling_study(folder: Path, *, more: tuple[tuple[int, int], ...] = ()) -> Path:
    """TopK SAEs of four widths and two L0s at one site (and `more`), one SAE at another."""
    if not (folder / "model").is_dir():
        build_model(folder / "model")
        write_contexts(folder / "contexts")
    lines = ["schema = 1", 'name = "wide"', 'title = "Widths"', "seed = 0", "[model]", 'path = "model"']
    lines += ["[texts]", 'path = "contexts"', "[settings]", "skip_positions = 4"]
    grid = [(MAIN, width, k) for width in WIDTHS for k in KS] + [(OTHER, 48, 3)] + [(MAIN, *one) for one in more]
    for hook, width, k in grid:
        path = f"saes/{hook}/topk_{width}_{k}"
        if not (folder / path).is_dir():
            build_sae("topk", hook, seed=width + k, d_sae=width, k=k).save_model(folder / path)
        lines += ["[[saes]]", f'hook = "{hook}"', f'path = "{path}"', "check = false"]
    study = folder / f"study{len(more)}.toml"
    study.write_text("\n".join(lines) + "\n")
    return study


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scaling_study(tmp_path_factory.mktemp("scaling"))


@pytest.fixture(scope="module")
def swept(study_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[dict[str, Any]]]:
    store = Store(tmp_path_factory.mktemp("cache"))
    outcome = Pipeline(store).sweep(load_study(study_path))
    assert not outcome.failures
    assert not outcome.unscaled
    return store, outcome.records


def scaling_of(store: Store, records: list[dict[str, Any]], site: str) -> Scaling:
    entry = store.find(SCALING, content_key(scaling_spec(site, pl.DataFrame(records, schema=RECORD))))
    assert entry is not None
    return Scaling.read(entry.path)


def assert_same(ours: Scaling, theirs: Scaling) -> None:
    assert ours.about == theirs.about
    for name in TABLES:
        assert_frame_equal(ours[name], theirs[name])
    for name in ("norms.npy", "tokens.npy"):
        assert (ours.folder / name).read_bytes() == (theirs.folder / name).read_bytes()


def test_a_sweep_compares_the_saes_of_every_site_and_the_page_finds_it(
    swept: tuple[Store, list[dict[str, Any]]],
) -> None:
    store, _ = swept
    published = open_published("wide", store)
    for site, n_saes in ((MAIN, 8), (OTHER, 1)):
        scaling = published.scaling(site)
        assert len(scaling.about["saes"]) == n_saes
        for name, schema in TABLES.items():
            assert scaling[name].schema == pl.Schema(schema), name
        assert scaling["pairs"].height == n_saes**2
        assert scaling["norm_tests"].height == n_saes * 12
    main_site = published.scaling(MAIN)
    assert main_site["targets"]["set"].n_unique() == len(KS)
    assert set(main_site["laws"]["law"]) == {"power", "power_zero", "exponential", "constant"}
    assert len(main_site["curves"])
    alone = published.scaling(OTHER)
    assert not len(alone["laws"])
    assert any("width" in text for text in alone["remarks"]["text"])


def test_the_numbers_are_those_of_the_records(swept: tuple[Store, list[dict[str, Any]]]) -> None:
    store, records = swept
    scaling = scaling_of(store, records, MAIN)
    by_key = {record["summary_key"]: record for record in records}
    rows = [by_key[key] for key in scaling.about["summaries"]]
    tests = scaling["norm_tests"].filter(quantity="error", predictor="x").sort("sae")
    np.testing.assert_allclose(tests["r2"], [row["r2_error_norm_sq"] for row in rows], atol=1e-6)
    alone = [texts_alone(store.root / "summary" / row["summary_key"], "r2_error_norm_sq") for row in rows]
    np.testing.assert_allclose(tests["r2_low"], [one.low for one in alone], atol=1e-6)
    np.testing.assert_allclose(tests["r2_high"], [one.high for one in alone], atol=1e-6)
    for row in scaling["constancy"].filter(metric="fvu").to_dicts():
        members = scaling["members"].filter(set=row["set"]).sort("d_sae")["sae"]
        assert row["ratio"] == pytest.approx(rows[members[-1]]["fvu"] / rows[members[0]]["fvu"], rel=1e-12)
    # Over the kept tokens the mean of |e|^2 / scale^2 is the FVU; here all contexts are looked at.
    assert len(scaling.about["browsed"]) == scaling.about["n_contexts"]
    skip = scaling.about["skip_positions"]
    norms = np.stack([scaling.norms(context)[skip:] for context in scaling.about["browsed"]])
    np.testing.assert_allclose((norms**2).mean((0, 1))[:, 0], [row["fvu"] for row in rows], rtol=2e-3)
    np.testing.assert_allclose((norms**2).mean((0, 1))[:, 2], [row["fvu_nonlinear"] for row in rows], rtol=2e-3)


def test_comparing_again_from_the_summaries_alone_gives_the_same(
    swept: tuple[Store, list[dict[str, Any]]], study_path: Path, tmp_path: Path
) -> None:
    store, records = swept
    bare = tmp_path / "cache"
    for stage in ("summary", "index"):
        shutil.copytree(store.root / stage, bare / stage)
    assert Pipeline(Store(bare)).scale(load_study(study_path)) == {}
    for site in (MAIN, OTHER):
        assert_same(scaling_of(Store(bare), records, site), scaling_of(store, records, site))


def test_an_sae_more_makes_a_comparison_of_all_and_keeps_the_old_one(
    swept: tuple[Store, list[dict[str, Any]]], study_path: Path, tmp_path: Path
) -> None:
    store, records = swept
    copy = tmp_path / "cache"
    shutil.copytree(store.root, copy)
    larger = load_study(scaling_study(study_path.parent, more=((384, 3),)))
    outcome = Pipeline(Store(copy)).sweep(larger)
    assert outcome.computed == 1
    assert not outcome.failures | outcome.unscaled
    found = scaling_of(Store(copy), outcome.records, MAIN)
    assert found["members"].filter(set=found.set_of(outcome.records[-1]["summary_key"]))["d_sae"].to_list() == [
        *WIDTHS,
        384,
    ]
    scaling_of(Store(copy), records, MAIN)


def test_a_damaged_comparison_is_made_again(
    swept: tuple[Store, list[dict[str, Any]]], study_path: Path, tmp_path: Path
) -> None:
    store, records = swept
    copy = tmp_path / "cache"
    shutil.copytree(store.root, copy)
    before = scaling_of(store, records, MAIN)
    (copy / SCALING / before.folder.name / "pairs.parquet").write_bytes(b"nothing")
    outcome = Pipeline(Store(copy)).sweep(load_study(study_path))
    assert outcome.computed == 0
    assert_same(scaling_of(Store(copy), records, MAIN), before)


def test_two_workers_compare_the_same(
    swept: tuple[Store, list[dict[str, Any]]], study_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, records = swept
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["sweep", str(study_path), "--workers", "2", "--device", "cpu"]) == 0
    assert_same(scaling_of(Store(tmp_path), records, MAIN), scaling_of(store, records, MAIN))


def test_a_notebook_opens_the_same_comparison(
    swept: tuple[Store, list[dict[str, Any]]], study_path: Path, tmp_path: Path
) -> None:
    store, records = swept
    found = dmcore.scaling(study_path, cache=store.root, device="cpu", progress=False)
    assert list(found) == [MAIN, OTHER]
    assert_same(found[MAIN], scaling_of(store, records, MAIN))
    with pytest.raises(StoreError, match="sweep it first"):
        dmcore.scaling(study_path, cache=tmp_path, device="cpu", progress=False)


def test_the_command_prints_every_site_and_refuses_in_sentences(
    swept: tuple[Store, list[dict[str, Any]]],
    study_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(swept[0].root))
    assert main(["scaling", str(study_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(printed) == [MAIN, OTHER]
    assert len(printed[MAIN]["pairs"]) == 64
    assert {row["law"] for row in printed[MAIN]["laws"]} >= {"power", "constant"}
    assert main(["scaling", str(study_path), "--site", OTHER]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{OTHER}: 1 SAEs")
    assert main(["scaling", str(study_path), "--site", "blocks.9.hook_resid_post"]) == 1
    assert MAIN in capsys.readouterr().err
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    assert main(["scaling", str(study_path)]) == 1
    assert "sweep" in capsys.readouterr().err


def test_what_is_deleted_while_it_is_compared_gives_a_sentence(
    swept: tuple[Store, list[dict[str, Any]]], study_path: Path, tmp_path: Path
) -> None:
    shutil.copytree(swept[0].root, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / SCALING)

    class Slippery(Store):
        """Loses the replicates of a summary once it has been found for the comparison."""

        def get_or_make(self, stage: str, *arguments: Any, **more: Any) -> Any:
            if stage == SCALING:
                next((self.root / "summary").glob("*/replicates.parquet")).unlink()
            return super().get_or_make(stage, *arguments, **more)

    reasons = Pipeline(Slippery(tmp_path / "cache")).scale(load_study(study_path))
    assert all("sweep the study again" in reason for reason in reasons.values())
    assert reasons
