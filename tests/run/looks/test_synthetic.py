"""What is planted in an SAE and looked for: exact cases, kept and found, commands; the ground truth of known features."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import dmcore.analysis.ground_truth as analysis
import dmcore.analysis.planted as planting
from dmcore.analysis.ground_truth import Size
from dmcore.errors import DataError, SpecError, StoreError
from dmcore.progress import Reporter
from dmcore.results.agreement import agreement_by, less_price, with_agreement
from dmcore.results.synthetic import (
    ABLATED,
    COMPONENTS,
    GROUND_TRUTH_TABLES,
    INGREDIENTS,
    LEVELS,
    NOISES,
    PLANTED_TABLES,
    GroundTruth,
    Planted,
    PlantedSettings,
)
from dmcore.run.cli import main
from dmcore.run.looks.ground_truth import make_ground_truth
from dmcore.run.looks.inspect import Inspector
from dmcore.run.pipeline import Pipeline
from dmcore.specs import Study, load_study
from dmcore.store.store import Store
from dmcore.store.synthetic import find_ground_truth, find_planted
from dmcore.training.known_features import Training
from tests.builders import HOOKS, LENGTH, N_CONTEXTS, build_study

NAME = f"saes/{HOOKS[0]}/topk"
FEW = {name: (values[0], values[-1]) for name, values in INGREDIENTS.items()} | {
    "tokens": (64.0, 256.0),
    "density": (4.0,),
}
SMALL = Size(d_model=8, n_features=24, context_length=8, truth_tokens=40_000)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load_study(build_study(tmp_path_factory.mktemp("study"), architectures=("topk",)))


@pytest.fixture(scope="module")
def store(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("cache"))
    assert not Pipeline(store).sweep(study, scale=False).failures
    return store


@pytest.fixture(scope="module")
def found(study: Study, store: Store) -> Planted:
    return Inspector(Pipeline(store), study).synthetic(NAME)


def cell(
    found: Planted, noise: str = "gaussian", ablated: float = 0.0, acts: float = 0.0, recon: float = 0.0
) -> dict[str, Any]:
    rows = found["cells"].filter(noise=noise, ablated=ablated, on_acts=acts, on_recon=recon)
    return rows.row(0, named=True)


def test_every_cell_in_which_something_was_planted_is_there_once(found: Planted) -> None:
    cells = found["cells"]
    assert cells.columns == list(PLANTED_TABLES["cells"])
    keys = set(cells.select("noise", "ablated", "on_acts", "on_recon").rows())
    assert keys == {key for key in product(NOISES, ABLATED, LEVELS, LEVELS) if any(key[1:])}
    assert len(cells) == len(keys)
    assert (cells["truth_linear"] + cells["truth_nonlinear"] - cells["truth_fvu"]).abs().max() < 1e-9
    assert (cells["linear"] + cells["nonlinear"] - cells["fvu"]).abs().max() < 1e-9
    assert found.about["sample_tokens"] == N_CONTEXTS * (LENGTH - 4), "a small study is taken whole"


def test_noise_on_the_reconstruction_is_all_nonlinear_exactly(found: Planted) -> None:
    for noise, level in product(NOISES, LEVELS[1:]):
        row = cell(found, noise, recon=level)
        assert row["truth_nonlinear"] == pytest.approx(row["planted_recon"], rel=1e-9)
        assert row["truth_linear"] == pytest.approx(0.0, abs=1e-9)
        assert row["planted_recon"] == pytest.approx(level * found.about["error_share"], rel=1e-6)
        assert row["planted_acts"] == 0
        assert row["fvu"] == pytest.approx(row["planted_recon"], rel=0.15)
    both = cell(found, recon=1.0)
    assert less_price(pl.DataFrame([both]))["nonlinear"][0] == pytest.approx(both["truth_nonlinear"], rel=0.1)


def test_noise_on_the_activation_is_as_linear_as_its_covariance_says(
    found: Planted, study: Study, store: Store
) -> None:
    """Two noises of one covariance differ in nothing but the estimates; the truth is Wiener's filter of Sae(x)."""
    cov_x, cov_noise = covariances(study, store)
    for level in LEVELS[1:]:
        row = cell(found, "residual", acts=level)
        both = cov_x + level * cov_noise
        kept = np.trace(level * cov_noise @ np.linalg.pinv(both, rcond=1e-10) @ (level * cov_noise))
        assert row["truth_linear"] == pytest.approx(kept / np.trace(both), rel=1e-6)
        assert row["planted_acts"] == pytest.approx(level * np.trace(cov_noise) / np.trace(both), rel=1e-6)


def covariances(study: Study, store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Of Sae(x) and of the error over kept tokens, by SAELens and numpy."""
    import torch

    from dmcore.run.plan import make_plan
    from dmcore.sources.models import load_model
    from tests.builders import build_sae

    tokens = torch.from_numpy(np.array(make_plan(study, store).contexts.tokens).astype(np.int64))
    x = load_model(study, "cpu").run(tokens, [HOOKS[0]], with_loss=False).acts[HOOKS[0]][:, 4:].flatten(0, 1)
    sae = build_sae("topk", HOOKS[0])
    with torch.no_grad():
        recon = sae.decode(sae.encode(x))
    return tuple(np.cov(v.double().numpy().T, bias=True) for v in (recon, x - recon))  # type: ignore[return-value]


def test_correlations_are_those_of_the_cells(found: Planted) -> None:
    table = found["correlations"]
    assert len(table) == len(NOISES) * len(ABLATED) * 4
    row = table.filter(noise="gaussian", ablated=0.25, planted="recon", found="nonlinear").row(0, named=True)
    cells = found["cells"].filter(noise="gaussian", ablated=0.25)
    assert row["r"] == pytest.approx(np.corrcoef(cells["planted_recon"], cells["nonlinear"])[0, 1])
    assert row["r_low"] <= row["r"] <= row["r_high"]
    assert row["r"] > 0.5 > table.filter(noise="gaussian", ablated=0.25, planted="recon", found="linear")["r"][0]


def test_ablating_more_leaves_more_and_starts_with_the_least_used(found: Planted) -> None:
    sizes = [cell(found, ablated=share, recon=1.0)["planted_absent"] for share in ABLATED]
    assert sizes[0] == 0 < sizes[1] < sizes[2] < 1


def test_it_is_made_once_and_found_by_the_summary(found: Planted, study: Study, store: Store) -> None:
    made = (found.folder / "manifest.json").stat().st_mtime_ns
    again = Inspector(Pipeline(store), study).synthetic(NAME)
    assert (again.folder / "manifest.json").stat().st_mtime_ns == made
    key = json.loads((found.folder / "manifest.json").read_text())["spec"]["summary"]
    there = find_planted(store, key)
    assert there is not None and there.folder == found.folder
    assert find_planted(store, "0" * 32) is None


def test_the_command_prints_lines_and_records(
    found: Planted, study: Study, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(store.root))
    path = str(study.folder / "study.toml")
    assert main(["synthetic", path, "topk", "--json"]) == 1, "three SAEs end so"
    assert main(["synthetic", path, NAME, "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["sae"], len(record["cells"])) == (NAME, len(found["cells"]))
    assert main(["synthetic", path, NAME]) == 0
    text = capsys.readouterr().out
    assert "held out by context" in text and "correlation of" in text
    assert main(["synthetic"]) == 1
    assert "name a study file, or demo, or say --ground-truth" in capsys.readouterr().err
    assert main(["synthetic", path, "--ground-truth"]) == 1
    assert "need no study" in capsys.readouterr().err


def test_what_cannot_be_done_is_said(study: Study, store: Store, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="give a whole number"):
        PlantedSettings(-1)
    with pytest.raises(StoreError, match="sweep the study first"):
        Inspector(Pipeline(Store(tmp_path)), study).synthetic(NAME)
    with pytest.raises(DataError, match="fewer than 5 folds"):
        analysis.sampled(analysis.World.build(8, 24, 4.0), SMALL, 24, 0)
    assert planting.ablated(0.25) == "ablated_0.25"


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> GroundTruth:
    with pytest.MonkeyPatch.context() as patched:
        for place in ("dmcore.analysis.ground_truth", "dmcore.training.known_features"):
            patched.setattr(f"{place}.INGREDIENTS", FEW)
        store = Store(tmp_path_factory.mktemp("truth"))
        return make_ground_truth(store, Reporter(), SMALL, Training(tokens=60_000, truth_tokens=40_000))


def test_the_components_of_a_known_error_add_up_and_are_what_was_asked_for(truth: GroundTruth) -> None:
    settings, components = truth["settings"], truth["components"]
    assert settings.columns == list(GROUND_TRUTH_TABLES["settings"])
    assert len(settings) == np.prod([len(values) for values in FEW.values()])
    sums = components.group_by("setting").agg(pl.col("linear", "nonlinear").sum(), pl.col("component"))
    both = sums.join(settings, on="setting")
    assert (both["linear"] - both["truth_linear"]).abs().max() < 1e-9
    assert (both["nonlinear"] - both["truth_nonlinear"]).abs().max() < 1e-9
    assert all(set(names) == set(COMPONENTS) for names in both["component"])
    for component, level, column in (("absent", 0.0, "absent"), ("shrunk", 0.0, "shrinkage"), ("introduced", 0.0, "introduced"),
                                     ("dense", 0.0, "dense"), ("manifold", 0.0, "circles")):  # fmt: skip
        none = settings.filter(pl.col(column) == level)["setting"]
        sizes = components.filter((pl.col("component") == component) & pl.col("setting").is_in(none.implode()))["size"]
        assert sizes.max() == 0, component
    introduced = components.filter((pl.col("component") == "introduced") & (pl.col("size") > 0))
    assert introduced["r2"].abs().max() < 3 * SMALL.d_model / SMALL.truth_tokens
    shares = introduced["nonlinear"] / introduced["size"]
    assert 0.93 < shares.min() <= shares.max() < 1.005, "all of it but its mean, which a bias predicts"  # type: ignore[operator]


def test_with_enough_tokens_the_estimate_is_in_its_interval_of_the_truth(truth: GroundTruth) -> None:
    many = truth["settings"].filter(tokens=256.0)
    judged = with_agreement(less_price(many))
    assert judged["nonlinear_inside"].mean() > 0.8
    assert judged["linear_inside"].mean() > 0.8
    ratios = {row["level"]: row["nonlinear_ratio"] for row in agreement_by(truth["settings"], "tokens").to_dicts()}
    assert 0.99 < ratios[256.0] < 1.03
    trained = with_agreement(less_price(truth["trained"].filter(tokens=256.0)))
    assert trained["nonlinear_ratio"].to_list() == pytest.approx([1.0] * len(trained), abs=0.08)
    assert trained["truth_fvu"].max() < 0.6, "it was trained"


def test_known_features_are_found_without_a_study_and_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = find_ground_truth(Store(tmp_path / "empty"))
    assert shipped is not None, "it comes with the package"
    assert len(shipped["settings"]) == np.prod([len(values) for values in INGREDIENTS.values()])
    assert shipped.setting(**{name: values[-1] for name, values in INGREDIENTS.items()}) is not None
    monkeypatch.setattr("dmcore.store.synthetic.SHIPPED", tmp_path / "nothing")
    assert find_ground_truth(Store(tmp_path / "empty")) is None
    shutil.copytree(shipped.folder.parent, tmp_path / "own" / shipped.folder.parent.name)
    there = find_ground_truth(Store(tmp_path / "own"))
    assert there is not None and there.folder.is_relative_to(tmp_path / "own")


def test_the_shipped_ground_truth_is_printed_by_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = find_ground_truth(Store(tmp_path))
    assert shipped is not None
    shutil.copytree(shipped.folder.parent, tmp_path / shipped.folder.parent.name)
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    assert main(["synthetic", "--ground-truth"]) == 0
    assert "tokens      1024" in capsys.readouterr().out
    assert main(["synthetic", "--ground-truth", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record) == {"about", *GROUND_TRUTH_TABLES}


def test_shares_within_the_interval_are_counted_and_an_absent_part_has_no_ratio() -> None:
    rows = pl.DataFrame({
        "truth_linear": [0.1, 0.0], "linear": [0.11, 0.0], "linear_low": [0.09, 0.0], "linear_high": [0.12, 0.0],
        "truth_nonlinear": [0.2, 0.2], "nonlinear": [0.22, 0.24], "nonlinear_low": [0.21, 0.19], "nonlinear_high": [0.23, 0.25],
        "price": [0.1, None], "kind": [1.0, 1.0],
    })  # fmt: skip
    judged = with_agreement(rows)
    assert judged["linear_inside"].to_list() == [True, True]
    assert judged["nonlinear_inside"].to_list() == [False, True]
    assert judged["linear_ratio"].to_list() == pytest.approx([1.1, None])
    (row,) = agreement_by(rows, "kind").to_dicts()
    assert (row["n"], row["linear_inside"], row["nonlinear_inside"]) == (2, 1.0, 0.5)
    less = less_price(rows)
    assert less["nonlinear"].to_list() == pytest.approx([0.2, 0.24])
    assert less["linear"].to_list() == pytest.approx([0.13, 0.0])
    assert with_agreement(less)["nonlinear_inside"].to_list() == [True, True]
