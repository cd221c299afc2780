"""The structure of an SAE's error equals the plain way on stacked tokens; what cannot be had is null, with a sentence."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

import dmcore.analysis.error_spectra as spectra_module
from dmcore.analysis.error_spectra import ContextGroups, PartMoments, decoder_basis, spectrum_tables
from dmcore.analysis.structure import StructureInputs, structure
from dmcore.analysis.token_kinds import unnamed_vocabulary
from dmcore.errors import Cancelled, DataError, StoreError
from dmcore.progress import Progress, Reporter
from dmcore.results.structure import BASES, SPECTRUM_PARTS, STRUCTURE_TABLES, Structure
from dmcore.sources.contexts import Contexts
from dmcore.sources.dictionary import Dictionary
from dmcore.specs import Settings
from tests.analysis.test_norm_tests import LENGTH, N_CONTEXTS, SETTINGS, SKIP, acts, given_for, stacked
from tests.builders import D_MODEL, WIDTH, build_sae

ROOT = Path(__file__).parents[2]


def named_vocabulary(ids: object) -> pl.DataFrame:
    """Even ids are numbers, odd ones words."""
    kinds = [(i, f" {i}", "number" if i % 2 == 0 else "word start") for i in sorted({int(i) for i in ids})]
    return pl.DataFrame(kinds, schema=STRUCTURE_TABLES["vocabulary"], orient="row")


def inputs_for(
    folder: Path, x: torch.Tensor, sae: Dictionary, settings: Settings = SETTINGS, vocabulary=named_vocabulary
) -> StructureInputs:
    """The entries of an SAE up to its split, and texts of 40 tokens."""
    given = given_for(folder, x, sae, settings)
    tokens = np.random.default_rng(9).integers(0, 40, x.shape[:2]).astype(np.uint16)
    fields = {f.name: getattr(given, f.name) for f in dataclasses.fields(given)}
    return StructureInputs(**fields, contexts=Contexts(tokens, "fingerprint"), vocabulary=vocabulary)


def found_of(given: StructureInputs, folder: Path) -> Structure:
    """The structure, with every warning an error."""
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        structure(given, folder, Reporter(), "sae")
    return Structure.read(folder)


class Affine:
    """An object of one's own that gives x back, less a constant."""

    d_in = d_sae = D_MODEL

    def __init__(self, less: float) -> None:
        self.less = less

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents - self.less


@pytest.fixture(scope="module", autouse=True)
def few_high_tokens() -> Iterator[None]:
    """Clusters of 400 tokens take a tenth of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dmcore.analysis.structure.MOST_TOKENS", 400)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[StructureInputs, torch.Tensor, Structure]:
    folder = tmp_path_factory.mktemp("structure")
    x = acts(dtype=torch.float64)
    given = inputs_for(folder / "entries", x, Dictionary(build_sae("topk")))
    return given, x, found_of(given, folder / "out")


def plain_parts(given: StructureInputs, x: torch.Tensor) -> dict[str, np.ndarray]:
    vectors = stacked(given, x)[0]
    return {part: vectors[part] for part in SPECTRUM_PARTS}


def test_spectra_are_those_of_numpy_on_the_stacked_tokens(made) -> None:
    given, x, found = made
    vectors = plain_parts(given, x)
    variance_of_x = np.square(vectors["x"] - vectors["x"].mean(0)).sum()
    for part, rows in vectors.items():
        values = np.linalg.eigvalsh(np.cov(rows.T, bias=True))[::-1]
        row, p = found.part(part), values / values.sum()
        assert row["variance_share"] == pytest.approx(values.sum() * len(rows) / variance_of_x, rel=1e-5)
        assert row["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
        assert row["participation_ratio"] == pytest.approx(1 / np.square(p).sum(), rel=1e-5)
        for percent in (50, 90, 99):
            directions = 1 + int(np.searchsorted(p.cumsum(), percent / 100))
            assert np.ceil(row[f"directions_{percent}"]) == directions
        for name in ("effective_rank", "participation_ratio", "directions_90"):
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        spectrum = found["spectra"].filter(pl.col("part") == part)
        np.testing.assert_allclose(spectrum["share"], p, rtol=1e-4)
        assert spectrum["direction"].to_list() == list(range(1, D_MODEL + 1))
    assert found.about["n_groups"] == 20 and found.about["n_tokens"] == len(vectors["x"])


def test_intervals_of_ranks_are_the_jackknife_over_groups_of_contexts_in_one_fold(made) -> None:
    given, x, found = made
    groups = ContextGroups.of(given.partition.folds, D_MODEL, given.seed)
    of_token = np.repeat(groups.of_context, LENGTH - SKIP)
    assert [len(set(given.partition.folds[groups.of_context == g])) for g in range(20)] == [1] * 20
    assert np.bincount(groups.of_context).tolist() == [15] * 20
    rows = plain_parts(given, x)["nonlinear"]

    def rank(some: np.ndarray) -> float:
        p = np.linalg.eigvalsh(np.cov(some.T))
        return float(np.log(np.exp(-(p / p.sum() * np.log(p / p.sum())).sum())))

    without = np.array([rank(rows[of_token != g]) for g in range(20)])
    margin = 2.093024054408263 * np.sqrt(19 / 20 * np.square(without - without.mean()).sum())
    row = found.part("nonlinear")
    assert np.log(row["effective_rank_high"] / row["effective_rank_low"]) / 2 == pytest.approx(margin, rel=1e-3)


def test_alignment_is_the_variance_of_the_projected_tokens(made) -> None:
    given, x, found = made
    vectors = plain_parts(given, x)
    decoder = given.sae.decoder_rows(0, WIDTH).double().numpy()
    centred = vectors["x"] - vectors["x"].mean(0)
    bases = {"x": np.linalg.svd(centred, full_matrices=False)[2], "decoder": np.linalg.svd(decoder)[2]}
    table = found["alignment"]
    assert len(table) == len(SPECTRUM_PARTS) * len(BASES) * 4
    for row in table.to_dicts():
        rows = vectors[row["part"]] - vectors[row["part"]].mean(0)
        expected = np.square(rows @ bases[row["basis"]][: row["k"]].T).sum() / np.square(rows).sum()
        assert row["share"] == pytest.approx(expected, abs=1e-6)
        assert row["share_low"] <= row["share"] <= row["share_high"]
        assert row["chance"] == row["k"] / D_MODEL


def test_lifts_are_those_of_dense_codes_and_shares_of_the_table(made) -> None:
    given, x, found = made
    latents = stacked(given, x)[2]
    table = pl.read_parquet(given.split / "tokens.parquet")
    kept = np.tile(np.arange(LENGTH), N_CONTEXTS) >= SKIP
    shares = (table["nonlinear_sq"] / table["error_sq"]).to_numpy()[kept]
    n_high = -(-len(shares) // 10)
    high = np.zeros(len(shares), dtype=bool)
    high[np.argsort(-shares, kind="stable")[:n_high]] = True
    about = found.about
    assert (about["n_high"], about["n_shared"]) == (n_high, len(shares))
    assert about["least_share"] == pytest.approx(shares[high].min())
    active = latents != 0
    assert about["n_tested"] == (active.sum(0) >= 20).sum()
    listed = found["latents"]
    assert 0 < len(listed) == about["n_significant"]
    for row in listed.to_dicts():
        own = active[:, row["latent"]]
        assert (row["n_active"], row["n_high"]) == (own.sum(), (own & high).sum())
        assert row["lift"] == pytest.approx(own[high].mean() / own.mean())
        assert row["adjusted_p"] <= 0.05 and not row["lift_low"] <= 1.0 <= row["lift_high"]
        assert (row["lift"] > 1) == (row["side"] == "largest")
    tokens = given.contexts.tokens[:, SKIP:].reshape(-1)
    groups = {(row["by"], row["group"]): row for row in found["groups"].to_dicts()}
    assert set(groups) == {("class", "number"), ("class", "word start"), ("position", "4-23")}
    even = groups["class", "number"]
    assert even["n_active"] == (tokens % 2 == 0).sum()
    assert even["lift"] == pytest.approx((tokens[high] % 2 == 0).mean() / (tokens % 2 == 0).mean())
    assert groups["position", "4-23"]["lift"] == 1.0


def test_a_gaussian_has_no_clusters_and_the_high_tokens_are_those_of_the_table(made) -> None:
    found = made[2]
    assert found.about["clustered"] == {"error": 400, "nonlinear": 400}
    assert found.chosen_k("nonlinear") is None
    assert "No clusters beyond chance" in found.remark("clusters", "nonlinear")
    assert len(found["silhouettes"]) == 22 and found["clusters"].filter(pl.col("part") == "nonlinear").is_empty()


def test_tables_have_their_schemas_and_come_out_the_same_again(made, tmp_path: Path) -> None:
    given, _, found = made
    again = found_of(given, tmp_path / "again")
    assert again.about == found.about
    for name, schema in STRUCTURE_TABLES.items():
        assert dict(found[name].schema) == schema
        assert_frame_equal(found[name], again[name], check_exact=True)
        floats = found[name].select(pl.col(pl.Float64))
        assert not any(floats[column].is_nan().any() for column in floats.columns)


def part_of(rows: np.ndarray, n_groups: int, name: str = "error") -> PartMoments:
    augmented = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    grams = np.stack([some.T @ some for some in np.array_split(augmented, n_groups)])
    return PartMoments(name, torch.from_numpy(grams), torch.zeros(rows.shape[1]).double(), 1e-12)


def test_planted_directions_are_stable_and_noise_is_at_chance() -> None:
    g, d = np.random.default_rng(0), 16
    noise = g.standard_normal((20_000, d))
    basis = np.linalg.qr(g.standard_normal((d, d)))[0]
    planted = noise * np.where(np.arange(d) < 4, [6.0, 5.0, 4.0, 3.0] + [0.0] * 12, 0.3) @ basis.T
    parts = {"x": part_of(noise, 20, "x"), "error": part_of(planted, 20)}
    tables, remarks = spectrum_tables(parts, Dictionary(build_sae("topk")), 0, lambda: None)
    assert not remarks
    stability = {(row["part"], row["k"]): row for row in tables["stability"].to_dicts()}
    assert stability["error", 4]["overlap_least"] > 0.99 and stability["error", 4]["n_splits"] == 8
    assert stability["error", 4]["chance"] == 0.25
    assert stability["x", 4]["overlap"] == pytest.approx(0.25, abs=0.1)
    assert stability["x", 8]["overlap"] == pytest.approx(0.5, abs=0.1)
    within = tables["alignment"].filter((pl.col("part") == "error") & (pl.col("basis") == "x") & (pl.col("k") == 8))
    assert 0.2 < within["share"][0] < 0.8
    error = tables["parts"].row(1, named=True)
    expected = np.array([36, 25, 16, 9] + [0.09] * 12) / (86 + 1.08)
    assert error["effective_rank_low"] < np.exp(-(expected * np.log(expected)).sum()) < error["effective_rank_high"]
    assert error["participation_ratio_low"] < 1 / np.square(expected).sum() < error["participation_ratio_high"]


def test_the_decoder_basis_is_that_of_its_singular_vectors_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = Dictionary(build_sae("topk"))
    monkeypatch.setattr(spectra_module, "ROWS_BYTES", 8 * D_MODEL * 7)
    values, vectors = decoder_basis(sae)
    _, singular, right = np.linalg.svd(sae.decoder_rows(0, WIDTH).double().numpy())
    np.testing.assert_allclose(values, singular**2, rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(vectors.numpy() * right.T, axis=0)), 1.0, rtol=1e-9)


def test_wide_activations_have_fewer_groups_but_one_a_fold() -> None:
    folds = np.arange(300) % 5
    assert len(ContextGroups.of(folds, 128, 0).folds) == 20
    assert len(ContextGroups.of(folds, 4096, 0).folds) == 15
    assert len(ContextGroups.of(folds, 40_000, 0).folds) == 5
    assert len(ContextGroups.of(np.arange(2), 8, 0).folds) == 2


def test_a_dead_sae_has_no_nonlinear_structure_and_its_error_has_that_of_x(tmp_path: Path) -> None:
    sae = build_sae("jumprelu")
    sae.threshold.data.fill_(1e6)
    found = found_of(inputs_for(tmp_path / "entries", acts(), Dictionary(sae)), tmp_path / "out")
    assert found.part("nonlinear")["effective_rank"] is None
    assert found.part("error")["effective_rank"] == pytest.approx(found.part("x")["effective_rank"], rel=1e-6)
    assert found.part("error")["variance_share"] == pytest.approx(1.0, rel=1e-6)
    assert "0 up to rounding" in found.remark("parts", "nonlinear")
    assert "0 up to rounding" in found.remark("clusters", "nonlinear")
    assert "nonlinear part is 0" in found.remark("latents")
    assert found["latents"].is_empty() and found["groups"].is_empty() and found.about["n_high"] == 0
    assert found.chosen_k("error") is None  # x is Gaussian


@pytest.mark.parametrize("less", [0.0, 1.5])
def test_an_exact_sae_and_one_with_a_constant_error_have_sentences(less: float, tmp_path: Path) -> None:
    given = inputs_for(tmp_path / "entries", acts(dtype=torch.float64), Dictionary(Affine(less)))
    found = found_of(given, tmp_path / "out")
    for part in ("error", "linear", "nonlinear"):
        row = found.part(part)
        assert row["variance_share"] == 0.0 and row["effective_rank"] is None
        there = less > 0 and part != "nonlinear"
        assert ("does not vary" if there else "0 up to rounding") in found.remark("parts", part)
    assert found.part("x")["effective_rank"] > 1
    assert set(found["spectra"]["part"]) == set(found["stability"]["part"]) == {"x"}
    assert ("one direction" if less else "0 up to rounding") in found.remark("clusters", "error")
    assert "is 0 up to rounding" in found.remark("latents")
    assert "no decoder rows" in found.remark("alignment")
    assert found["silhouettes"].is_empty() and found["latents"].is_empty()


def test_more_dimensions_than_tokens_and_one_context_a_half_are_no_trouble(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, n_folds=2, ridge=1.0)
    given = inputs_for(
        tmp_path / "entries", acts()[:2, :10], Dictionary(build_sae("topk")), settings, unnamed_vocabulary
    )
    found = found_of(given, tmp_path / "out")
    assert found.about["n_tokens"] == 12 < D_MODEL and found.about["n_groups"] == 2
    row = found.part("x")
    assert row["rank"] == 11 and 1 < row["effective_rank"] < 11
    stability = found["stability"].filter(pl.col("part") == "x")
    assert stability["n_splits"].to_list() == [1] * 4
    assert stability["overlap"].is_null().to_list() == [False, False, False, True]  # halves have rank 5
    assert "12 kept tokens" in found.remark("clusters", "error")
    assert "none was tested" in found.remark("latents")
    assert "not known" in found.remark("groups")
    assert set(found["groups"]["by"]) == {"position"}


def test_numbers_do_not_depend_on_how_the_tokens_come_in(made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, _, found = made
    monkeypatch.setattr("dmcore.analysis.activations.TOKENS_PER_CHUNK", 5 * LENGTH)
    monkeypatch.setattr(type(given.acts), "chunks", lambda self: spectra_chunks(self.n_contexts, self.length))
    again = found_of(given, tmp_path / "out")
    for name in ("parts", "stability", "latents", "groups", "silhouettes"):
        assert_frame_equal(found[name], again[name], rel_tol=1e-6)


def spectra_chunks(n_contexts: int, length: int):
    from dmcore.analysis.activations import chunks_of

    return chunks_of(n_contexts, length, 5 * length)


def test_a_table_of_tokens_that_does_not_fit_is_refused(made, tmp_path: Path) -> None:
    given, _, _ = made
    table = pl.read_parquet(given.split / "tokens.parquet")
    for name, content in {
        "few": table[:-1],
        "many": pl.concat([table, table[:1]]),
        "nan": table.with_columns(error_sq=pl.when(pl.int_range(pl.len()) == 100).then(np.nan).otherwise("error_sq")),
    }.items():
        split = tmp_path / name
        split.mkdir()
        content.with_columns(pl.all().cast(pl.Float32)).write_parquet(split / "tokens.parquet")
        (split / "maps.safetensors").write_bytes((given.split / "maps.safetensors").read_bytes())
        with pytest.raises(DataError, match="delete its split entry"):
            structure(dataclasses.replace(given, split=split), tmp_path, Reporter(), "sae")


def test_the_stages_report_and_obey_a_cancel(made, tmp_path: Path) -> None:
    given = made[0]
    seen: list[Progress] = []
    structure(given, tmp_path, Reporter(seen.append), "sae")
    last = {progress.stage: (progress.done, progress.total) for progress in seen}
    n_tokens = N_CONTEXTS * LENGTH
    assert last == {"structure of sae": (n_tokens, n_tokens), "directions and clusters of sae": (22, 22)}
    for after, stage in ((1, "structure of sae"), (3, "directions and clusters of sae")):
        calls = iter(range(50))
        reporter = Reporter(should_cancel=lambda calls=calls, after=after: next(calls) >= after)
        with pytest.raises(Cancelled, match=stage):
            structure(given, tmp_path, reporter, "sae")


def test_reading_needs_no_torch_and_what_cannot_be_read_is_a_sentence(made, tmp_path: Path) -> None:
    folder = made[2].folder
    script = (
        "import sys; from pathlib import Path; from dmcore.results.structure import Structure;"
        f"found = Structure.read(Path({str(folder)!r})); found['parts']; found.texts; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    with pytest.raises(StoreError, match="make it anew"):
        Structure.read(tmp_path)
    (tmp_path / "about.json").write_text("{}")
    with pytest.raises(StoreError, match="make it anew"):
        Structure.read(tmp_path)["parts"]
