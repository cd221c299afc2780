"""SAEs on the parts, measured: every number against a plain computation on all tokens at once."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from dmcore.analysis.activations import Activations, Chunk
from dmcore.analysis.codes import Codes
from dmcore.analysis.part_saes import PartChunk, PartSums
from dmcore.errors import StoreError
from dmcore.math.bootstrap import poisson_weights
from dmcore.math.latent_matching import match_latents, random_rows
from dmcore.progress import Progress, Reporter
from dmcore.results.parts import PARTS_TABLES, Parts
from dmcore.run.looks.inspect import Inspector
from dmcore.run.parts import train_all
from dmcore.run.pipeline import Pipeline
from dmcore.run.plan import make_plan
from dmcore.sources.saes import load_dictionary
from dmcore.specs import PARTS, SaeSpec, Study
from dmcore.store.fingerprint import content_key
from dmcore.store.published import open_published
from dmcore.store.store import Store
from tests.builders import D_MODEL, LENGTH, N_CONTEXTS
from tests.training.part_studies import BASE, build_parts_study

SKIP = 4


@dataclass(frozen=True)
class Measured:
    """A study whose SAEs on the parts have been trained and measured."""

    study: Study
    store: Store
    parts: Parts
    vectors: dict[str, Tensor]
    """All tokens of each part, out of fold, in float64, by a plain computation."""
    kept: np.ndarray
    """(n_tokens,) whether each counts."""


def plain_parts(study: Study, store: Store) -> dict[str, Tensor]:
    """The parts by least squares on stacked tensors: for each fold, on the kept tokens of all others."""
    plan = make_plan(study, store)
    hook = study.base.hook
    entry = store.find("activations", content_key(plan.sites[hook]))
    acts = Activations(entry.path)
    x = acts.read(Chunk(0, acts.n_contexts, acts.length), torch.device("cpu"))
    base = load_dictionary(study, study.base, D_MODEL, "cpu")
    error = (x - base.decode(base.encode(x), x)).double()
    x = x.double()
    contexts = np.repeat(np.arange(N_CONTEXTS), LENGTH)
    kept = np.tile(np.arange(LENGTH) >= SKIP, N_CONTEXTS)
    linear = torch.zeros_like(error)
    one = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    for fold in range(5):
        held_out = plan.partition.folds[contexts] == fold
        train = torch.from_numpy(~held_out & kept)
        linear[torch.from_numpy(held_out)] = (
            one[torch.from_numpy(held_out)] @ torch.linalg.lstsq(one[train], error[train]).solution
        )
    return {"x": x, "error": error, "linear": linear, "nonlinear": error - linear}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    study = build_parts_study(tmp_path_factory.mktemp("measured"), engine="lean", width=96)
    store = Store(study.folder / "cache")
    pipeline = Pipeline(store, "cpu")
    pipeline.sweep(study)
    train_all(study, "cpu", Reporter(), store)
    outcome = pipeline.sweep(study)
    assert not (outcome.failures or outcome.parts)
    parts = Inspector(pipeline, study).parts()
    kept = np.tile(np.arange(LENGTH) >= SKIP, N_CONTEXTS)
    return Measured(study, store, parts, plain_parts(study, store), kept)


def part_folder(measured: Measured, part: str, seed: int) -> Path:
    """The entry of one SAE."""
    found = []
    for entry in measured.store.entries():
        if entry.manifest.stage == "part" and entry.manifest.spec["part"] == part:
            numbers = json.loads((entry.path / "numbers.json").read_text())
            row = measured.parts["saes"].filter(part=part, seed=seed).row(0, named=True)
            found += [entry.path] if numbers["fvu"] == row["fvu"] else []
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("part", PARTS)
def test_every_number_is_that_of_a_plain_computation(part: str, seed: int, measured: Measured) -> None:
    row = measured.parts["saes"].filter(part=part, seed=seed).row(0, named=True)
    v = measured.vectors[part].float()
    sae = load_dictionary(measured.study, SaeSpec(measured.study.base.hook, row["sae"], check=False), D_MODEL, "cpu")
    codes = sae.encode(v)
    missed = (v - sae.decode(codes, v)).double()[measured.kept].square().sum(1)
    x, v = (measured.vectors[name][measured.kept] for name in ("x", part))
    scatter = (v - v.mean(0)).square().sum(1)
    assert row["fvu"] == pytest.approx(float(missed.sum() / scatter.sum()), rel=1e-5)
    assert row["variance_share"] == pytest.approx(float(scatter.sum() / (x - x.mean(0)).square().sum()), rel=1e-5)
    l0 = codes.l0.numpy()[measured.kept]
    assert row["l0"] == pytest.approx(l0.mean(), rel=1e-3)
    used = np.unique(codes.latents.numpy()[np.repeat(measured.kept, codes.l0.numpy())])
    assert row["dead_share"] == pytest.approx(1 - len(used) / 96, abs=1e-9)
    assert (row["d_sae"], row["train_tokens"]) == (96, json.loads(_log(measured, row).read_text())["tokens"])
    # Its intervals: the same Poisson weights of contexts for every SAE, means held.
    weights = poisson_weights(N_CONTEXTS, measured.study.seed)
    per_context = [t.numpy().reshape(N_CONTEXTS, -1).sum(1) for t in (missed, scatter)]
    draws = (weights @ per_context[0]) / (weights @ per_context[1])
    stored = measured.parts["replicates"].filter(part=part, seed=seed).sort("replicate")["fvu"].to_numpy()
    np.testing.assert_allclose(stored, draws, rtol=1e-5)
    assert (row["fvu_low"], row["fvu_high"]) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), rel=1e-5)


def _log(measured: Measured, row: dict) -> Path:
    return measured.study.resolve(row["sae"]) / "train.json"


def test_the_parts_measured_are_out_of_fold(measured: Measured) -> None:
    """In sample the nonlinear part would be smaller, by the degrees of freedom of the map."""
    x, error = (measured.vectors[name][measured.kept] for name in ("x", "error"))
    one = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    in_sample = error - one @ torch.linalg.lstsq(one, error).solution
    shares = measured.parts["saes"].filter(part="nonlinear")["variance_share"]
    total = float((x - x.mean(0)).square().sum())
    assert float(shares[0]) > 1.02 * float(in_sample.square().sum()) / total


def test_codes_on_disk_are_the_latents_of_all_tokens(measured: Measured) -> None:
    row = measured.parts["saes"].filter(part="nonlinear", seed=1).row(0, named=True)
    sae = load_dictionary(measured.study, SaeSpec(measured.study.base.hook, row["sae"], check=False), D_MODEL, "cpu")
    stored = Codes(part_folder(measured, "nonlinear", 1)).read(Chunk(0, N_CONTEXTS, LENGTH), torch.device("cpu"))
    v = measured.vectors["nonlinear"].float()
    decoded, wanted = sae.decode(stored, v), sae.decode(sae.encode(v), v)
    torch.testing.assert_close(decoded, wanted, rtol=1e-3, atol=1e-3)
    assert len(stored.offsets) == N_CONTEXTS * LENGTH + 1


def test_means_and_differences_are_of_paired_replicates(measured: Measured) -> None:
    draws = {
        part: np.mean(
            [measured.parts["replicates"].filter(part=part, seed=seed)["fvu"].to_numpy() for seed in (0, 1)], axis=0
        )
        for part in PARTS
    }
    for row in measured.parts["means"].to_dicts():
        values = measured.parts["saes"].filter(part=row["part"])["fvu"].to_numpy()
        assert row["fvu"] == pytest.approx(values.mean())
        assert row["seed_sd"] == pytest.approx(values.std(ddof=1))
        assert (row["fvu_low"], row["fvu_high"]) == pytest.approx(tuple(np.percentile(draws[row["part"]], [2.5, 97.5])))
    rows = {(row["part"], row["other"]): row for row in measured.parts["differences"].to_dicts()}
    assert len(rows) == 12
    row, both = rows["nonlinear", "linear"], draws["nonlinear"] - draws["linear"]
    means = dict(measured.parts["means"].select("part", "fvu").iter_rows())
    assert row["difference"] == pytest.approx(means["nonlinear"] - means["linear"])
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(np.percentile(both, [2.5, 97.5])))
    assert rows["linear", "nonlinear"]["difference"] == -row["difference"]


def test_stability_is_that_of_the_latents_in_use(measured: Measured) -> None:
    for row in measured.parts["stability"].to_dicts():
        rows = []
        for seed in (0, 1):
            sae = measured.parts["saes"].filter(part=row["part"], seed=seed).row(0, named=True)
            spec = SaeSpec(measured.study.base.hook, sae["sae"], check=False)
            counts = np.load(part_folder(measured, row["part"], seed) / "uses.npy")
            decoder = load_dictionary(measured.study, spec, D_MODEL, "cpu").decoder_rows(0, 96)
            rows.append(decoder[torch.from_numpy(counts > 0)])
            assert (counts == 0).mean() == pytest.approx(sae["dead_share"])
        found = match_latents(*rows)
        assert (row["first"], row["second"]) == (0, 1)
        assert (row["n_first"], row["n_second"]) == (len(rows[0]), len(rows[1]))
        assert row["mean_cosine"] == pytest.approx(found.cosine.mean())
        assert row["share_above_07"] == pytest.approx((found.cosine > 0.7).sum() / min(map(len, rows)))
        assert row["method"] == "assignment"
        chance = match_latents(random_rows(len(rows[0]), D_MODEL, 0), random_rows(len(rows[1]), D_MODEL, 1))
        assert row["random_mean_cosine"] == pytest.approx(chance.cosine.mean())
        assert row["shaped_mean_cosine"] > 0.3
    assert measured.parts["saes"]["dead_share"].max() > 0, "some latents are not in use, and are left out"


def test_curves_are_those_of_the_training(measured: Measured) -> None:
    for row in measured.parts["saes"].to_dicts():
        curve = measured.parts["curves"].filter(part=row["part"], seed=row["seed"]).drop("part", "seed").to_dicts()
        log = json.loads(_log(measured, row).read_text())
        assert curve == log["curve"]
        assert row["train_fvu"] == log["fvu"]


def test_tables_have_their_schemas_and_pages_find_them(measured: Measured) -> None:
    published = open_published("tiny", measured.store)
    key = published.records.filter(pl.col("sae") == BASE)["summary_key"][0]
    found = published.parts(key)
    assert found is not None
    assert found.folder == measured.parts.folder
    assert found.about["base"] == BASE
    assert found.about["n_tokens"] == measured.kept.sum()
    for name, schema in PARTS_TABLES.items():
        assert dict(found[name].schema) == schema
    other = published.records.filter(pl.col("sae") != BASE)["summary_key"][0]
    assert published.parts(other) is None


def test_latents_are_looked_for_in_the_base_and_wider_saes(measured: Measured) -> None:
    pipeline = Pipeline(measured.store, "cpu")
    found = Inspector(pipeline, measured.study).learned()
    published = open_published("tiny", measured.store)
    key = published.records.filter(pl.col("sae") == BASE)["summary_key"][0]
    by_page = published.learned(key, measured.parts)
    assert by_page is not None
    assert by_page.latents.equals(found.latents)
    own = published.records.filter(pl.col("sae") == BASE).row(0, named=True)
    wider = published.records.filter((pl.col("site") == own["site"]) & (pl.col("d_sae") > own["d_sae"]))
    assert found.about["against"][0] == BASE
    assert len(found.about["against"]) == 1 + wider["d_sae"].n_unique()
    for row in measured.parts["saes"].to_dicts():
        here = found.latents.filter(part=row["part"], seed=row["seed"], against=BASE)
        uses = np.load(part_folder(measured, row["part"], row["seed"]) / "uses.npy")
        assert here["latent"].to_list() == np.flatnonzero(uses > 0).tolist(), "latents that fire, and no other"
        spec = SaeSpec(measured.study.base.hook, row["sae"], check=False)
        mine, base = (load_dictionary(measured.study, one, D_MODEL, "cpu") for one in (spec, measured.study.base))
        rows = [sae.decoder_rows(0, sae.d_sae).double().numpy() for sae in (mine, base)]
        units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in rows]
        cosines = (units[0] @ units[1].T)[here["latent"].to_numpy()]
        np.testing.assert_allclose(here["cosine"], cosines.max(1), atol=1e-5)
    shares = found.shares().filter(part="nonlinear", against=BASE).row(0, named=True)
    each = [
        (found.latents.filter(part="nonlinear", against=BASE, seed=seed)["cosine"] >= 0.9).mean() for seed in (0, 1)
    ]
    assert shares["same"] == pytest.approx(np.mean(each), abs=1e-12)
    assert (shares["same_least"], shares["same_most"]) == (min(each), max(each))


def test_a_second_sweep_makes_nothing_and_missing_work_is_made_again(measured: Measured) -> None:
    stages: list[str] = []

    def sink(progress: Progress) -> None:
        stages.append(progress.stage)

    pipeline = Pipeline(measured.store, "cpu", Reporter(sink))
    assert not pipeline.sweep(measured.study).parts
    assert stages == []
    numbers = measured.parts.record()
    for entry in list(measured.store.entries()):
        if entry.manifest.stage in {"parts", "codes", "targets"} or (
            entry.manifest.stage == "part" and entry.manifest.spec["part"] == "linear"
        ):
            measured.store.remove(entry)
    assert not pipeline.sweep(measured.study).parts
    measures = [stage for stage in dict.fromkeys(stages) if stage.startswith("measure")]
    assert len(measures) == 2, "the two SAEs on the linear part, and no other"
    assert Inspector(pipeline, measured.study).parts().record() == numbers


def test_what_is_not_trained_is_a_warning_and_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = build_parts_study(tmp_path, seeds=[0])
    outcome = Pipeline(Store(tmp_path / "cache"), "cpu").sweep(study)
    assert not (outcome.failures or outcome.unscaled or outcome.parts)
    assert f"4 of the 4 SAEs on parts of {BASE} have not been trained: run" in caplog.text


def test_a_broken_sae_is_a_sentence_and_leaves_the_sweep_whole(measured: Measured, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(measured.study.folder, folder)
    study, store = replace(measured.study, folder=folder), Store(folder / "cache")
    from safetensors.torch import load_file, save_file

    file = folder / measured.parts["saes"]["sae"][0] / "sae_weights.safetensors"
    tensors = load_file(file)
    tensors["W_enc"][0, 0] = float("nan")
    save_file(tensors, file)
    outcome = Pipeline(store, "cpu").sweep(study)
    assert "holds NaN" in outcome.parts
    assert not outcome.failures
    assert len(outcome.records) == len(study.saes)


def test_a_table_that_cannot_be_read_is_a_sentence(measured: Measured, tmp_path: Path) -> None:
    shutil.copytree(measured.parts.folder, tmp_path / "entry")
    (tmp_path / "entry" / "means.parquet").write_bytes(b"no table")
    found = Parts.read(tmp_path / "entry")
    with pytest.raises(StoreError, match="sweep the study again"):
        found["means"]
    with pytest.raises(StoreError, match="sweep the study again"):
        Parts.read(tmp_path)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_sums_over_chunks_are_those_of_all_tokens(offset: float) -> None:
    """However the tokens come, and however far the mean is from what the first chunk says."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(12, 10, 5, generator=generator).double() + torch.arange(12)[:, None, None] + offset
    missed = torch.randn(12, 10, 5, generator=generator).double()
    sums = PartSums(12, 5)
    for first in range(0, 12, 5):
        n = min(5, 12 - first)
        chunk = Chunk(first, n, 10)
        kept = chunk.positions(torch.device("cpu")) >= 3
        some = slice(first, first + n)
        sums.add(PartChunk(chunk, v[some].flatten(0, 1), kept), missed[some].flatten(0, 1))
    mean = v[:, 3:].flatten(0, 1).mean(0)
    np.testing.assert_allclose(sums.scatter(), (v[:, 3:] - mean).square().sum((1, 2)), rtol=1e-9)
    np.testing.assert_allclose(sums.error_sq, missed[:, 3:].square().sum((1, 2)), rtol=1e-12)
    assert sums.n_tokens.tolist() == [7.0] * 12
