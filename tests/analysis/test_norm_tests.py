"""The norm tests of an SAE equal the plain way on stacked tokens, and agree with the record that the split made."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from safetensors.torch import load_file
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

import dmcore.analysis.norm_tests as module
from dmcore.analysis.activations import Activations, ActivationWriter
from dmcore.analysis.encode import decoded, encoded, error_moments, site_moments
from dmcore.analysis.norm_tests import NORM_TABLES, NormTestInputs, norm_tests, read_norm_tests
from dmcore.analysis.partition import Partition
from dmcore.analysis.split_pass import SplitInputs, split_pass
from dmcore.analysis.summarise import write_split
from dmcore.errors import Cancelled
from dmcore.progress import Progress, Reporter
from dmcore.results.scaling import QUANTITIES, TABLES
from dmcore.sources.dictionary import Dictionary
from dmcore.sources.sae_layouts import open_weights
from dmcore.sources.sliced_dictionary import SlicedDictionary
from dmcore.specs import Settings
from tests.builders import D_MODEL, WIDTH, build_sae
from tests.texts_alone import texts_alone

CPU, SEED = torch.device("cpu"), 5
N_CONTEXTS, LENGTH, SKIP = 300, 24, 4
SETTINGS = Settings(skip_positions=SKIP, compare_skips=())


def acts(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(n_contexts, length, d_model) correlated activations whose first positions are wild."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N_CONTEXTS, LENGTH, D_MODEL, generator=g) @ torch.randn(D_MODEL, D_MODEL, generator=g) * 0.4 + 0.5
    x[:, :SKIP] *= 30.0
    return x.to(dtype)


def given_for(
    folder: Path, x: torch.Tensor, sae: Dictionary | SlicedDictionary, settings: Settings = SETTINGS
) -> NormTestInputs:
    """The entries of an SAE up to its split, as a sweep makes them."""
    for name in ("acts", "codes", "split"):
        (folder / name).mkdir(parents=True)
    writer = ActivationWriter(folder / "acts", x.shape[0], x.shape[1])
    writer.write(0, x)
    writer.finish()
    stored, quiet = Activations(folder / "acts"), Reporter()
    partition = Partition.of(settings, x.shape[0], x.shape[1], SEED)
    inputs = site_moments(stored, partition, CPU, quiet, "site")
    made = encoded(stored, sae, folder / "codes", CPU)
    targets = error_moments(made, inputs, partition, quiet, "sae", stored.n_tokens)
    again = decoded(stored, sae, folder / "codes", CPU)
    splitting = SplitInputs(inputs, targets, partition, settings, SEED, sae.d_sae, stored.n_tokens)
    found = split_pass(again, splitting, folder / "split", quiet, "sae")
    write_split(found, inputs, partition, settings, folder / "split")
    return NormTestInputs(
        stored, sae, folder / "codes", folder / "split", inputs, partition, settings, SEED, torch.device("cpu")
    )


def tables_of(given: NormTestInputs, folder: Path) -> dict[str, pl.DataFrame]:
    folder.mkdir()
    norm_tests(given, folder, Reporter(), "sae")
    return read_norm_tests(folder)


def stacked(given: NormTestInputs, x: torch.Tensor) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The six quantities of the kept tokens in float64, their folds, and their latents, the plain way."""
    rows, sae = x.flatten(0, 1), given.sae
    codes = sae.encode(rows)
    recon = sae.decode(codes, rows)
    latents = np.zeros((len(rows), sae.d_sae))
    tokens = np.repeat(np.arange(len(rows)), codes.l0.numpy())
    latents[tokens, codes.latents.numpy()] = codes.values.double().numpy()
    folds = np.repeat(given.partition.folds, LENGTH)
    maps, linear = load_file(given.split / "maps.safetensors"), torch.zeros_like(rows)
    for fold in range(given.partition.n_folds):
        of_fold = torch.from_numpy(folds == fold)
        weight, bias = maps[f"fold_{fold}.weight"].to(rows), maps[f"fold_{fold}.bias"].to(rows)
        linear[of_fold] = (rows[of_fold] @ weight + bias)[:, :-1]
    error = rows - recon
    found = (rows, recon, rows - linear, error, linear, error - linear)
    kept = np.tile(np.arange(LENGTH), N_CONTEXTS) >= SKIP
    vectors = {name: v.double().numpy()[kept] for name, v in zip(QUANTITIES, found, strict=True)}
    return vectors, folds[kept], latents[kept]


def plain_r2(source: np.ndarray, norm: np.ndarray, folds: np.ndarray) -> float:
    predicted = np.zeros_like(norm)
    for fold in np.unique(folds):
        train = folds != fold
        predicted[~train] = LinearRegression().fit(source[train], norm[train]).predict(source[~train])
    return float(r2_score(norm, predicted))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-8)])
@pytest.mark.parametrize("architecture", ["topk", "gated"])
def test_all_numbers_equal_scikit_learn_on_the_stacked_tokens(
    architecture: str, dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    x = acts(dtype=dtype)
    given = given_for(tmp_path / "entries", x, Dictionary(build_sae(architecture)))
    tables = tables_of(given, tmp_path / "out")
    vectors, folds, latents = stacked(given, x)
    rows = tables["norm_tests"].to_dicts()
    assert [(row["quantity"], row["predictor"]) for row in rows] == [
        (q, p) for q in QUANTITIES for p in ("x", "itself")
    ]
    for row in rows:
        v = vectors[row["quantity"]]
        expected = plain_r2(vectors["x"] if row["predictor"] == "x" else v, (v**2).sum(1), folds)
        assert row["r2"] == pytest.approx(expected, abs=tolerance)
        assert row["r2_low"] < row["r2"] < row["r2_high"]
    r = vectors["recon"] - given.sae.decoder_bias.double().numpy()
    norm = (r**2).sum(1)
    slope = LinearRegression().fit(r, norm).coef_
    check = tables["latent_checks"].row(0, named=True)
    assert check["probe_r2"] == pytest.approx(plain_r2(r, norm, folds), abs=tolerance)
    active = latents != 0
    decoder = given.sae.decoder_rows(0, WIDTH).double().numpy()
    sizes = np.linalg.norm(decoder, axis=1)
    often = np.flatnonzero(active.sum(0) >= 10)
    probe = (decoder @ slope / sizes)[often]
    size = (latents.sum(0) / np.maximum(active.sum(0), 1) * sizes)[often]
    assert check["n_latents"] == len(often)
    assert check["pearson"] == pytest.approx(pearsonr(probe, size).statistic, abs=1e-6)
    assert check["spearman"] == pytest.approx(spearmanr(probe, size).statistic, abs=1e-6)
    shown = tables["latents"].sort("latent")
    assert shown["latent"].to_list() == often.tolist()
    np.testing.assert_allclose(shown["probe"], probe, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shown["mean_active"], size, rtol=1e-6)
    np.testing.assert_allclose(shown["frequency"], active.mean(0)[often], rtol=1e-6)


@pytest.mark.parametrize("architecture", ["topk", "standard", "jumprelu", "gated", "matching_pursuit"])
def test_the_norm_of_the_error_from_x_is_that_of_the_record_and_varies_with_the_texts(
    architecture: str, tmp_path: Path
) -> None:
    given = given_for(tmp_path / "entries", acts(), Dictionary(build_sae(architecture)))
    table = tables_of(given, tmp_path / "out")["norm_tests"]
    row = table.filter((pl.col("quantity") == "error") & (pl.col("predictor") == "x")).row(0, named=True)
    record = json.loads((given.split / "about.json").read_text())
    assert row["r2"] == pytest.approx(record["r2_error_norm_sq"], abs=1e-6)
    alone = texts_alone(given.split, "r2_error_norm_sq", given.seed)
    assert (row["r2_low"], row["r2_high"]) == pytest.approx((alone.low, alone.high), abs=1e-6)


def test_the_ridge_of_the_study_is_that_of_the_tests(tmp_path: Path) -> None:
    sae = Dictionary(build_sae("topk"))
    plain = tables_of(given_for(tmp_path / "a", acts(), sae), tmp_path / "out_a")["norm_tests"]
    ridged = given_for(tmp_path / "b", acts(), sae, dataclasses.replace(SETTINGS, ridge=3e4))
    row = tables_of(ridged, tmp_path / "out_b")["norm_tests"].row(QUANTITIES.index("error") * 2, named=True)
    record = json.loads((ridged.split / "about.json").read_text())
    assert row["r2"] == pytest.approx(record["r2_error_norm_sq"], abs=1e-6)
    assert abs(row["r2"] - plain["r2"][QUANTITIES.index("error") * 2]) > 1e-2


def test_tables_have_their_schemas_without_the_sae_and_come_out_the_same_again(tmp_path: Path) -> None:
    given = given_for(tmp_path / "entries", acts(), Dictionary(build_sae("jumprelu")))
    first, second = tables_of(given, tmp_path / "one"), tables_of(given, tmp_path / "two")
    assert tuple(first) == NORM_TABLES
    for name, table in first.items():
        assert dict(table.schema) == {column: dtype for column, dtype in TABLES[name].items() if column != "sae"}
        assert_frame_equal(table, second[name], check_exact=True)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {f"{name}.parquet" for name in NORM_TABLES}


def planted_sae(sizes: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """A JumpReLU SAE in float64 whose first latents read and write orthogonal directions, with decoder rows of `sizes`."""
    sae = build_sae("jumprelu", apply_b_dec_to_input=True).double()
    sae.dtype, n = torch.float64, len(sizes)
    random = torch.randn(D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    basis = torch.linalg.qr(random).Q
    sae.W_enc.data.zero_()
    sae.W_enc.data[:, :n] = basis[:n].T / sizes
    sae.W_dec.data[:n] = basis[:n] * sizes[:, None]
    sae.b_enc.data.zero_()
    sae.threshold.data.fill_(0.1)
    return sae, basis


def test_the_probe_finds_the_size_of_latents_that_are_orthogonal_and_on_or_off(tmp_path: Path) -> None:
    g, n = torch.Generator().manual_seed(2), 10
    heights, sizes = (torch.linspace(*ends, n, dtype=torch.float64) for ends in ((0.5, 4.0), (2.0, 0.6)))
    sae, basis = planted_sae(sizes)
    on = (torch.rand(N_CONTEXTS, LENGTH, n, generator=g) < 0.25).double()
    rest = torch.randn(N_CONTEXTS, LENGTH, D_MODEL - n, generator=g, dtype=torch.float64) @ basis[n:]
    x = sae.b_dec.data + (on * heights * sizes) @ basis[:n] + rest
    tables = tables_of(given_for(tmp_path / "entries", x, Dictionary(sae)), tmp_path / "out")
    check = tables["latent_checks"].row(0, named=True)
    assert check["n_latents"] == n
    assert [check[name] for name in ("pearson", "spearman", "probe_r2")] == pytest.approx([1.0, 1.0, 1.0], abs=1e-9)
    latents = tables["latents"].sort("latent")
    np.testing.assert_allclose(latents["mean_active"], heights * sizes, rtol=1e-6)
    np.testing.assert_allclose(latents["probe"], heights * sizes, rtol=1e-6)
    r2 = {(row["quantity"], row["predictor"]): row["r2"] for row in tables["norm_tests"].to_dicts()}
    assert r2["recon", "itself"] == pytest.approx(1.0, abs=1e-9)
    assert abs(r2["error", "x"]) < 0.02  # Gaussian


class Plain:
    """An object of one's own, without a decoder matrix: it keeps half of the positive part."""

    d_in = d_sae = D_MODEL

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / 2


@pytest.mark.parametrize("kind", ["custom", "layer_norm"])
def test_an_sae_without_decoder_rows_has_norm_tests_and_no_latents(kind: str, tmp_path: Path) -> None:
    sae = Plain() if kind == "custom" else build_sae("topk", normalize_activations="layer_norm")
    x = acts()
    given = given_for(tmp_path / "entries", x, Dictionary(sae))
    tables = tables_of(given, tmp_path / "out")
    assert tables["latent_checks"].row(0) == (0, None, None, None)
    assert len(tables["latents"]) == 0
    vectors, folds, _ = stacked(given, x)
    row = tables["norm_tests"].row(3, named=True)
    assert (row["quantity"], row["predictor"]) == ("recon", "itself")
    expected = plain_r2(vectors["recon"], (vectors["recon"] ** 2).sum(1), folds)
    assert row["r2"] == pytest.approx(expected, abs=1e-6)


def test_a_dead_sae_has_no_numbers_where_nothing_varies_and_warns_of_nothing(tmp_path: Path) -> None:
    sae = build_sae("jumprelu")
    sae.threshold.data.fill_(1e6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables = tables_of(given_for(tmp_path / "entries", acts(), Dictionary(sae)), tmp_path / "out")
    null = tables["norm_tests"].filter(pl.col("r2").is_null())
    assert set(null["quantity"]) == {"recon", "recon_plus_nonlinear", "nonlinear"}
    assert null["r2_low"].is_null().all() and tables["norm_tests"]["r2"].is_nan().sum() == 0
    assert tables["latent_checks"].row(0) == (0, None, None, None)
    assert len(tables["latents"]) == 0


@pytest.mark.parametrize("rescales", [False, True])
def test_an_sae_in_slices_has_the_tables_of_the_whole_one(
    rescales: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = build_sae("topk", rescale_acts_by_decoder_norm=rescales)
    sae.save_model(tmp_path / "sae")
    whole = tables_of(given_for(tmp_path / "whole", acts(), Dictionary(sae)), tmp_path / "out_whole")
    monkeypatch.setattr(module, "ROWS_BYTES", 8 * D_MODEL * 11)
    asked: list[tuple[int, int]] = []
    sliced = SlicedDictionary(open_weights(tmp_path / "sae"))
    decoder = sliced.decoder
    monkeypatch.setattr(sliced, "decoder", lambda a, b: asked.append((a, b)) or decoder(a, b))
    given = given_for(tmp_path / "sliced", acts(), sliced)
    asked.clear()
    found = tables_of(given, tmp_path / "out_sliced")
    assert {(first, last) for first, last in asked if last - first < WIDTH} == {
        (first, min(first + 11, WIDTH)) for first in range(0, WIDTH, 11)
    }
    for name in NORM_TABLES:
        assert_frame_equal(found[name], whole[name], rel_tol=1e-4, abs_tol=1e-5)


def test_latents_are_shown_at_equal_steps_of_frequency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = given_for(tmp_path / "entries", acts(), Dictionary(build_sae("standard")))
    whole = tables_of(given, tmp_path / "all")["latents"]
    assert whole["frequency"].is_sorted()
    monkeypatch.setattr(module, "SHOWN_LATENTS", 5)
    few = tables_of(given, tmp_path / "few")
    assert few["latent_checks"]["n_latents"][0] == len(whole)
    picked = [round(step * (len(whole) - 1) / 4) for step in range(5)]
    assert_frame_equal(few["latents"], whole[picked])


def test_latents_active_on_too_few_kept_tokens_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = given_for(tmp_path / "entries", acts(), Dictionary(build_sae("topk")))
    counts = (stacked(given, acts())[2] != 0).sum(0)
    least = int(np.sort(counts)[20])
    monkeypatch.setattr(module, "LEAST_ACTIVE", least)
    tables = tables_of(given, tmp_path / "out")
    expected = np.flatnonzero(counts >= least)
    assert 0 < len(expected) < WIDTH
    assert sorted(tables["latents"]["latent"]) == expected.tolist()


def test_both_passes_report_and_obey_a_cancel(tmp_path: Path) -> None:
    given = given_for(tmp_path / "entries", acts(), Dictionary(build_sae("topk")))
    seen: list[Progress] = []
    norm_tests(given, tmp_path, Reporter(seen.append), "sae")
    assert (seen[-1].done, seen[-1].total, seen[-1].unit) == (2 * N_CONTEXTS * LENGTH,) * 2 + ("tokens",)
    for after in (1, 3):  # two chunks a pass
        calls = iter(range(10))
        with pytest.raises(Cancelled, match="norm tests of sae was cancelled"):
            norm_tests(
                given, tmp_path, Reporter(should_cancel=lambda calls=calls, after=after: next(calls) >= after), "sae"
            )
