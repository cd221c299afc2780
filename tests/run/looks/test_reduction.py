"""What reduces an SAE's error: made on demand, found by pages and the command, refused in sentences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dmcore.errors import SpecError, StoreError
from dmcore.results import RECORD
from dmcore.results.earlier import ROLES, comes_before, earlier_hooks, earlier_saes
from dmcore.results.reduction import CODING, METRICS, REDUCTION_TABLES
from dmcore.run.cli import main
from dmcore.run.looks.inspect import Inspector
from dmcore.run.pipeline import Pipeline
from dmcore.specs import load_study
from dmcore.specs.hooks import CROSS_SITES, SITES
from dmcore.store.published import open_published
from dmcore.store.store import Store
from tests.builders import build_model, build_sae, write_contexts
from tests.texts_alone import SUMS, texts_alone

RESIDUAL, MLP, BEFORE, Z = (
    "blocks.2.hook_resid_post",
    "blocks.2.hook_mlp_out",
    "blocks.1.hook_resid_post",
    "blocks.1.attn.hook_z",
)
GRID = [(RESIDUAL, 24, 3), (RESIDUAL, 48, 3), (RESIDUAL, 96, 3), (RESIDUAL, 96, 6), (MLP, 24, 3), (MLP, 48, 3)]
GRID += [(BEFORE, 48, 2), (BEFORE, 48, 3), (Z, 48, 3)]
NAME = f"saes/{RESIDUAL}/topk_48_3"
FEW = ["gradient_pursuit", "nnls_on_support"]
Swept = tuple[Store, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reduction")
    build_model(folder / "model")
    write_contexts(folder / "contexts")
    lines = ["schema = 1", 'name = "reduced"', 'title = "Reduced"', "seed = 0", "[model]", 'path = "model"']
    lines += ["[texts]", 'path = "contexts"', "[settings]", "skip_positions = 4"]
    for hook, width, k in GRID:
        path = f"saes/{hook}/topk_{width}_{k}"
        build_sae("topk", hook, seed=width + k, d_sae=width, k=k).save_model(folder / path)
        lines += ["[[saes]]", f'hook = "{hook}"', f'path = "{path}"', "check = false"]
    study = folder / "study.toml"
    study.write_text("\n".join(lines) + "\n")
    return study


@pytest.fixture(scope="module")
def swept(study_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    store = Store(tmp_path_factory.mktemp("cache"))
    outcome = Pipeline(store).sweep(load_study(study_path), scale=False)
    assert not outcome.failures
    return store, outcome.records


def record_of(swept: Swept, name: str = NAME) -> dict[str, Any]:
    return next(record for record in swept[1] if record["sae"] == name)


def test_a_reduction_is_made_once_and_a_page_finds_it(swept: Swept, study_path: Path) -> None:
    store, records = swept
    look = Inspector(Pipeline(store), load_study(study_path))
    found, own = look.reduction(f"{RESIDUAL}/topk_48_3"), record_of(swept)
    row = found.method("encoder")
    for metric in ("fvu", "fvu_nonlinear", "r2_error", "r2_error_norm_sq"):
        assert row[metric] == pytest.approx(own[metric], abs=1e-5), "those of the record"
    summary = store.root / "summary" / own["summary_key"]
    for metric in SUMS:
        alone = texts_alone(summary, metric)
        assert (row[f"{metric}_low"], row[f"{metric}_high"]) == pytest.approx((alone.low, alone.high), abs=1e-5)
    assert row["l0"] == own["l0"]
    assert (found.about["n_tokens"], found.about["n_contexts"]) == (own["n_tokens"], own["n_contexts"])
    published = open_published("reduced", store)
    there = published.reduction(own["summary_key"])
    assert there is not None and there.folder == found.folder
    assert published.wider(own["summary_key"]) == look.wider(NAME)
    made = (found.folder / "manifest.json").stat().st_mtime_ns
    assert Inspector(Pipeline(store), load_study(study_path)).reduction(NAME).folder == found.folder
    assert (found.folder / "manifest.json").stat().st_mtime_ns == made
    assert all(published.reduction(r["summary_key"]) is None for r in records if r["sae"] != NAME)
    for name, schema in REDUCTION_TABLES.items():
        assert found[name].schema == pl.Schema(schema), name
    assert found["methods"]["method"].to_list()[-len(CODING) :] == list(CODING)


def test_the_study_says_which_saes_are_of_earlier_components(swept: Swept, study_path: Path) -> None:
    found = Inspector(Pipeline(swept[0]), load_study(study_path)).reduction(NAME)
    parts = {row["role"]: row for row in found["components"].to_dicts()}
    assert {role: row["sae"] for role, row in parts.items()} == {
        "previous": f"saes/{BEFORE}/topk_48_3",
        "mlp": f"saes/{MLP}/topk_48_3",
    }
    assert parts["mlp"]["summary_key"] == record_of(swept, f"saes/{MLP}/topk_48_3")["summary_key"]
    assert found.method("earlier_previous+mlp")["extra_l0"] == pytest.approx(sum(row["l0"] for row in parts.values()))
    assert "no SAE with results at blocks.2.attn.hook_z or blocks.2.hook_attn_out" in found["remarks"]["text"][0]


def test_wider_saes_are_rows_with_paired_intervals_and_nothing_is_computed(swept: Swept, study_path: Path) -> None:
    store, _ = swept
    look = Inspector(Pipeline(store), load_study(study_path))
    before = sorted(store.root.glob("*/*"))
    (row,) = look.wider(NAME)
    assert sorted(store.root.glob("*/*")) == before
    own, wide = record_of(swept), record_of(swept, f"saes/{RESIDUAL}/topk_96_3")
    assert (row["method"], row["kind"], row["source"]) == ("wider_96", "wider", wide["sae"])
    assert row["fvu"] == wide["fvu"] and row["nonlinear_removed"] == 1 - wide["fvu_nonlinear"] / own["fvu_nonlinear"]
    assert row["error_removed_low"] < row["error_removed"] < row["error_removed_high"]
    assert row["parameters_added"] == 48 * (2 * own["d_model"] + 1)
    assert set(row) == set(REDUCTION_TABLES["methods"])
    assert [one["method"] for one in look.wider(f"{RESIDUAL}/topk_24_3")] == ["wider_48", "wider_96"]
    assert look.wider(f"{RESIDUAL}/topk_96_3") == []


def test_a_place_in_the_model_tells_what_comes_before() -> None:
    assert earlier_hooks(RESIDUAL) == {
        "previous": ["blocks.1.hook_resid_post", "blocks.2.hook_resid_pre"],
        "mlp": ["blocks.2.hook_mlp_out"],
        "attention": ["blocks.2.attn.hook_z", "blocks.2.hook_attn_out"],
    }
    assert earlier_hooks("blocks.3.hook_resid_pre") == earlier_hooks(RESIDUAL), "the same activation"
    assert earlier_hooks("blocks.0.attn.hook_z") == {
        "previous": ["blocks.0.hook_resid_pre"],
        "mlp": [],
        "attention": [],
    }
    assert earlier_hooks("blocks.0.hook_resid_pre") == {"previous": [], "mlp": [], "attention": []}
    for stack, sites in (("blocks", SITES), ("decoder", {**SITES, **CROSS_SITES})):
        for site in sites:
            hook = f"{stack}.4.{site}"
            found = earlier_hooks(hook)
            assert list(found) == list(ROLES) and found["previous"]
            assert all(comes_before(one, hook) and not comes_before(hook, one) for few in found.values() for one in few)
    assert not comes_before("encoder.1.hook_mlp_out", "decoder.2.hook_mlp_out")


def test_the_nearest_width_comes_before_the_nearest_l0() -> None:
    rows = [(RESIDUAL, 64, 8.0), (BEFORE, 256, 8.0), (BEFORE, 96, 2.0), (BEFORE, 96, 7.0), (MLP, 64, 0.0)]
    records = pl.DataFrame(
        [{"summary_key": str(i), "site": site, "d_sae": width, "l0": l0} for i, (site, width, l0) in enumerate(rows)]
    )
    assert set(records.columns) <= set(RECORD)
    found, missing = earlier_saes(records, "0")
    assert found == {"previous": "3", "mlp": "4"}
    assert len(missing) == 1 and "attn.hook_z" in missing[0]
    first = records.with_columns(pl.lit("blocks.0.hook_resid_pre").alias("site"))
    assert earlier_saes(first, "0") == ({}, ["Nothing that an SAE could read comes before blocks.0.hook_resid_pre."])


def test_earlier_saes_and_methods_can_be_chosen(swept: Swept, study_path: Path) -> None:
    look = Inspector(Pipeline(swept[0]), load_study(study_path))
    found = look.reduction(NAME, earlier=[f"{BEFORE}/topk_48_2", f"saes/{Z}/topk_48_3"], methods=["encoder", *FEW])
    assert found["components"]["role"].to_list() == ["previous", "attention"]
    assert [m for m in found["methods"]["method"] if m in CODING] == FEW
    assert found.folder != look.reduction(NAME).folder
    alone = look.reduction(NAME, earlier=[], methods=[])
    assert set(alone["methods"]["kind"]) == {"encoder", "shrinkage", "skip"}
    assert len(alone["regressions"]) == 0
    both = found["methods"].filter(pl.col("kind") == "skip"), alone["methods"].filter(pl.col("kind") == "skip")
    for metric in METRICS:
        assert both[0][metric].to_list() == pytest.approx(both[1][metric].to_list(), rel=1e-6)
    for chosen, said in (
        ([f"saes/{RESIDUAL}/topk_24_3"], "does not come before"),
        ([f"{BEFORE}/topk_48_2", f"{BEFORE}/topk_48_3"], "both the previous component"),
        (["nothing"], "no SAE called nothing"),
    ):
        with pytest.raises(SpecError, match=said):
            look.reduction(NAME, earlier=chosen)
    with pytest.raises(SpecError, match="no coding method 'magic'"):
        look.reduction(NAME, methods=["magic"])
    with pytest.raises(SpecError, match="does not come before"):
        look.reduction(f"{BEFORE}/topk_48_3", earlier=[NAME])


def test_from_summaries_alone_the_numbers_are_the_same(swept: Swept, study_path: Path, tmp_path: Path) -> None:

    for stage in ("summary", "index"):
        shutil.copytree(swept[0].root / stage, tmp_path / stage)
    study = load_study(study_path)
    first, again = (Inspector(Pipeline(one), study).reduction(NAME, methods=FEW) for one in (swept[0], Store(tmp_path)))
    assert first.folder != again.folder
    for table in REDUCTION_TABLES:
        both = [found[table].drop("seconds_per_1000", strict=False) for found in (first, again)]
        assert both[0].equals(both[1]), table


def test_the_command_prints_a_league_table_and_records(
    swept: Swept, study_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(swept[0].root))
    names = [NAME, f"{RESIDUAL}/topk_24_3"]
    assert main(["reduce", str(study_path), *names, "--methods", ",".join(FEW), "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    by_sae = {name: [r for r in records if r["sae"].endswith(name)] for name in names}
    assert [r["method"] for r in by_sae[NAME]][-3:] == [*FEW, "wider_96"]
    assert [r["method"] for r in by_sae[names[1]]][-4:] == [*FEW, "wider_48", "wider_96"]
    for record in records:
        assert record["site"] == RESIDUAL and record["d_sae"] in (24, 48)
        assert {"l0", "method", "kind", "parameters_added"} < set(record)
        for metric in METRICS:
            if record[metric] is not None:
                assert record[f"{metric}_low"] <= record[metric] <= record[f"{metric}_high"]
    assert main(["reduce", str(study_path), NAME, "--methods", "none", "--earlier", f"{BEFORE}/topk_48_3"]) == 0
    text = capsys.readouterr().out
    head, title, *lines = text.splitlines()
    assert head.startswith(f"{NAME}: 600 tokens in 30 contexts")
    column = title.index("nonlinear_removed")
    assert any(line.split()[0] == "earlier_previous" for line in lines)
    table = [line for line in lines if line.split()[0].startswith(("encoder", "skip_", "shrinkage", "wider"))]
    assert all(line[column - 2 : column].isspace() and not line[column].isspace() for line in table)
    assert any("held-out R2 from" in line for line in lines)
    for arguments, said in (
        (["topk_9_9"], "no SAE called topk_9_9"),
        ([NAME, "--methods", "magic"], "no coding method 'magic'"),
        ([f"{BEFORE}/topk_48_3", "--earlier", NAME], "does not come before"),
    ):
        assert main(["reduce", str(study_path), *arguments]) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_two_processes_share_the_saes_and_find_the_same(
    swept: Swept, study_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "cache")
    shutil.copytree(swept[0].root, store.root)
    shutil.rmtree(store.root / "reduction", ignore_errors=True)
    monkeypatch.setenv("DMCORE_CACHE", str(store.root))
    names = [NAME, f"{RESIDUAL}/topk_24_3", f"{RESIDUAL}/topk_96_3"]
    command = ["reduce", str(study_path), *names, "--methods", "nnls_on_support", "--loss-contexts", "0", "--json"]
    monkeypatch.setattr("dmcore.run.looks.error_looks.make_reduction", lambda *_: pytest.fail("the processes made it"))
    assert main([*command, "--workers", "2"]) == 0
    shared = json.loads(capsys.readouterr().out)
    monkeypatch.undo()
    monkeypatch.setenv("DMCORE_CACHE", str(store.root))
    shutil.rmtree(store.root / "reduction")
    assert main(command) == 0
    for one, other in zip(shared, json.loads(capsys.readouterr().out), strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds_per_1000"}:
            same = pytest.approx(other[name], rel=1e-9, abs=1e-12) if isinstance(other[name], float) else other[name]
            assert one[name] == same, name
    assert main([*command, "--workers", "0"]) == 1
    assert "--workers is 0" in capsys.readouterr().err


def test_pursuit_codes_at_the_l0_that_is_asked_for_and_takes_what_a_reduction_found(
    swept: Swept, study_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(swept[0].root))

    def rows(*options: str) -> dict[str, dict]:
        assert main(["pursuit", str(study_path), NAME, "--methods", ",".join(FEW), *options, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {row["sae"].endswith(NAME) for row in found} == {True}
        return {row["method"]: row for row in found}

    usual = rows()
    assert list(usual) == ["encoder", *FEW]
    wider = {name: rows("--l0", str(l0)) for l0, name in ((1, "one"), (7, "seven"))}
    pursued = next(name for name in FEW if name != "nnls_on_support")
    assert wider["one"][pursued]["l0"] == 1.0
    assert wider["one"][pursued]["fvu"] > usual[pursued]["fvu"] > wider["seven"][pursued]["fvu"]
    # Made twice: float32 products may add in another order, which |error|^2 shows in its eighth digit.
    for column, value in (
        usual["encoder"] | {"seconds_per_1000": wider["seven"]["encoder"]["seconds_per_1000"]}
    ).items():
        is_float = isinstance(value, float)
        assert wider["seven"]["encoder"][column] == (pytest.approx(value, rel=1e-6) if is_float else value), column
    # The same numbers as of the whole comparison, which is not made again once it is there.
    assert main(["reduce", str(study_path), NAME, "--methods", ",".join(FEW), "--json"]) == 0
    whole = {row["method"]: row for row in json.loads(capsys.readouterr().out)}
    assert whole[pursued]["fvu"] == pytest.approx(usual[pursued]["fvu"], rel=1e-9)
    monkeypatch.setattr("dmcore.run.looks.error_looks.make_reduction", lambda *_: pytest.fail("it is there"))
    assert rows()[pursued]["fvu"] == whole[pursued]["fvu"]
    assert main(["pursuit", str(study_path), NAME, "--methods", ",".join(FEW)]) == 0
    assert pursued in capsys.readouterr().out
    for option, said in ((("--l0", "0"), "leaves nothing to choose"), (("--l0", "49"), "above the 48 latents")):
        assert main(["pursuit", str(study_path), NAME, *option]) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_a_reduction_needs_a_result_first(study_path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="sweep the study first"):
        Inspector(Pipeline(Store(tmp_path)), load_study(study_path)).reduction(NAME)
    assert not list(tmp_path.glob("reduction/*"))


def test_a_table_that_has_gone_is_said_in_a_sentence(swept: Swept, study_path: Path, tmp_path: Path) -> None:
    from dmcore.results.reduction import Reduction

    with pytest.raises(StoreError, match="makes it again"):
        Reduction.read(tmp_path)
    found = Inspector(Pipeline(swept[0]), load_study(study_path)).reduction(NAME)
    with pytest.raises(StoreError, match="no method 'none'"):
        found.method("none")
    assert found.r2("none", "error") is None
