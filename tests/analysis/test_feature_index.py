"""The features of an SAE: equal to dense numpy and brute-force searches over small codes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from dmcore.analysis import feature_codes
from dmcore.analysis.activations import Chunk
from dmcore.analysis.codes import CodesWriter
from dmcore.analysis.feature_codes import LatentMajor
from dmcore.analysis.feature_index import DecoderRows, FeatureSources, feature_index, read_features
from dmcore.errors import Cancelled, DataError, StoreError
from dmcore.math.sparse_codes import codes_from_dense
from dmcore.progress import Progress, Reporter
from dmcore.results.features import LATENTS, N_AFTER, N_BEFORE, N_BINS, VOCABULARY, Features
from dmcore.results.scaling import PARTS
from dmcore.sources.contexts import Contexts
from tests.analysis.test_token_scaling import write_table

N_CONTEXTS, LENGTH, SKIP, D_SAE, N_WORDS, D_MODEL, SEED = 24, 50, 6, 40, 30, 8, 5
ROOT = Path(__file__).parents[2]


def planted_acts() -> np.ndarray:
    """(n_contexts, length, d_sae): dead, active once, active only at skipped positions, ties, and always active."""
    g = np.random.default_rng(0)
    frequency = np.linspace(0.01, 0.6, D_SAE)
    acts = np.where(g.random((N_CONTEXTS, LENGTH, D_SAE)) < frequency, g.gamma(2.0, size=(1, 1, D_SAE)), 0.0)
    acts *= g.gamma(3.0, size=acts.shape)
    acts[:, 0] *= 50.0
    acts[:, :, 3] = 0.0
    acts[:, :, 4] = 0.0
    acts[7, 20, 4] = 1.25
    acts[:, SKIP:, 5] = 0.0
    acts[:, :SKIP, 5] = 2.0
    acts[:, :, 20:25] = np.ceil(acts[:, :, 20:25])
    acts[:, :, 30] = 0.5
    acts[2, :, 31] = 100.0 + np.arange(LENGTH)
    return acts.astype(np.float32)


def write_codes(folder: Path, acts: np.ndarray, per_chunk: int = 5) -> Path:
    """The codes of some dense activations, as a pass writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    n_contexts, length, d_sae = acts.shape
    writer = CodesWriter(folder, d_sae)
    for first in range(0, n_contexts, per_chunk):
        some = torch.from_numpy(acts[first : first + per_chunk])
        writer.append(codes_from_dense(some.reshape(-1, d_sae)), Chunk(first, len(some), length))
    writer.close()
    return folder


def build_sources(folder: Path, acts: np.ndarray | None = None, **overrides: object) -> FeatureSources:
    """Sources over small dense activations."""
    acts = planted_acts() if acts is None else acts
    g = np.random.default_rng(1)
    n_contexts, length, d_sae = acts.shape
    squares = g.gamma(2.0, size=(len(PARTS), n_contexts, length)).round(1).astype(np.float32)
    squares[:, :, :SKIP] = 1e9
    rows = torch.from_numpy(g.normal(size=(d_sae, D_MODEL))).float()
    values = {
        "codes": write_codes(folder / "codes", acts),
        "d_sae": d_sae,
        "contexts": Contexts(g.integers(0, N_WORDS, (n_contexts, length)).astype(np.uint16), ""),
        "skip_positions": SKIP,
        "tokens": write_table(folder / "tokens.parquet", squares),
        "rows": lambda first, last: rows[first:last],
        "seed": SEED,
    }
    return FeatureSources(**{**values, **overrides})


def make(sources: FeatureSources, folder: Path) -> Features:
    """The features, made and opened."""
    folder.mkdir(parents=True, exist_ok=True)
    feature_index(sources, folder, Reporter())
    return read_features(folder)


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So little at once that there are many chunks and slabs."""
    monkeypatch.setattr(feature_codes, "ENTRIES_AT_ONCE", 700)
    monkeypatch.setattr(feature_codes, "LATENTS_AT_ONCE", 7)


def test_the_entry_has_the_promised_files_columns_and_vocabulary(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(2)
    sources = build_sources(tmp_path, unembedding=torch.randn(D_MODEL, 70, generator=g))
    features = make(sources, tmp_path / "out")
    table = features.latents.collect()
    assert dict(table.schema) == LATENTS
    assert table["latent"].to_list() == list(range(D_SAE))
    assert dict(features.vocabulary.schema) == VOCABULARY
    ids = set(table["promoted"].explode().to_list()) | set(table["suppressed"].explode().to_list())
    ids |= {int(i) for latent in range(D_SAE) for e in features.examples(latent) for i in e.tokens}
    assert max(ids) > N_WORDS
    assert set(features.vocabulary["token"].to_list()) == ids | set(table["token"].drop_nulls().to_list())
    assert features.texts[7] == "#7"
    assert features.about["n_alive"] == D_SAE - 2
    assert features.about["n_tokens"] == N_CONTEXTS * (LENGTH - SKIP)
    assert features.about["left_out"] == 0
    assert table["label"].to_list() == [""] * D_SAE
    assert table["base"].null_count() == table["widest_cosine"].null_count() == D_SAE


@pytest.mark.usefixtures("small_slabs")
def test_statistics_equal_dense_numpy(tmp_path: Path) -> None:
    acts = planted_acts()
    sources = build_sources(tmp_path, acts)
    table = make(sources, tmp_path / "out").latents.collect()
    kept = acts[:, SKIP:].reshape(-1, D_SAE).astype(np.float64)
    ids = sources.contexts.tokens[:, SKIP:].reshape(-1)
    squares = pl.read_parquet(tmp_path / "tokens.parquet")
    for latent, row in enumerate(table.iter_rows(named=True)):
        a = kept[:, latent]
        active = a > 0
        assert row["n_active"] == active.sum()
        assert row["frequency"] == pytest.approx(active.mean(), rel=1e-14)
        if not active.any():
            numbers = [row[c] for c in table.columns if c not in {"latent", "frequency", "n_active", "label"}]
            assert latent in {3, 5} and numbers == [None] * len(numbers)
            continue
        assert row["mean_active"] == pytest.approx(a[active].mean(), rel=1e-13)
        assert row["max_active"] == a.max()
        times = np.bincount(ids[active])
        assert (row["token"], row["token_share"]) == (times.argmax(), pytest.approx(times.max() / active.sum()))
        for part in PARTS:
            norms = np.sqrt(
                squares[f"{part}_sq"].to_numpy().reshape(N_CONTEXTS, LENGTH)[:, SKIP:].ravel().astype(float)
            )
            high = np.argsort(-norms, kind="stable")[: -(-len(norms) // 10)]
            assert row[f"{part}_share"] == pytest.approx(a[high].sum() / a.sum(), rel=1e-12, abs=1e-15)
            if latent == 30:  # the same everywhere
                assert row[f"{part}_r"] is None
            else:
                assert row[f"{part}_r"] == pytest.approx(np.corrcoef(a, norms)[0, 1], abs=1e-12)


def test_a_latent_that_is_nearly_constant_has_an_exact_correlation(tmp_path: Path) -> None:
    acts = np.full((N_CONTEXTS, LENGTH, 1), 1000.0, dtype=np.float32)
    acts += np.random.default_rng(3).normal(size=acts.shape).astype(np.float32) * 0.01
    sources = build_sources(tmp_path, acts)
    found = make(sources, tmp_path / "out").latent(0)["error_r"]
    norms = np.sqrt(pl.read_parquet(tmp_path / "tokens.parquet")["error_sq"].to_numpy().astype(float))
    kept = norms.reshape(N_CONTEXTS, LENGTH)[:, SKIP:].ravel()
    assert found == pytest.approx(np.corrcoef(acts[:, SKIP:, 0].ravel().astype(float), kept)[0, 1], abs=1e-9)


@pytest.mark.usefixtures("small_slabs")
def test_histograms_equal_numpy_and_hold_every_active_token(tmp_path: Path) -> None:
    acts = planted_acts()
    features = make(build_sources(tmp_path, acts), tmp_path / "out")
    for latent in (0, 4, 12, 31, 39):
        a = acts[:, SKIP:, latent].astype(np.float64).ravel()
        counts, edges = np.histogram(a[a > 0], bins=N_BINS, range=(0.0, a.max()))
        found = features.histogram(latent)
        np.testing.assert_allclose(found.edges, edges, rtol=1e-14)
        np.testing.assert_array_equal(found.counts, counts)
    assert features.histogram(3).counts.sum() == 0


@pytest.mark.usefixtures("small_slabs")
def test_top_examples_equal_a_brute_force_search(tmp_path: Path) -> None:
    acts = planted_acts()
    sources = build_sources(tmp_path, acts)
    features = make(sources, tmp_path / "out")
    full = 0
    for latent in range(D_SAE):
        every = [(-acts[c, p, latent], c, p) for c in range(N_CONTEXTS) for p in range(SKIP, LENGTH)]
        expected, of_context = [], [0] * N_CONTEXTS
        for value, context, position in sorted(every):
            if value < 0 and of_context[context] < 2 and len(expected) < 20:
                of_context[context] += 1
                expected.append((context, position, -value))
        found = [(e.context, e.position, e.activation) for e in features.examples(latent) if e.decile is None]
        assert found == expected
        full += len(expected) == 20
    assert full > 30  # so that the bound of 20 was met, and ties among it


def test_lower_deciles_have_three_examples_from_their_own_range(tmp_path: Path) -> None:
    acts = planted_acts()
    features = make(build_sources(tmp_path, acts), tmp_path / "out")
    for latent in (0, 4, 12, 22, 39):
        every = [(-acts[c, p, latent], c, p) for c in range(N_CONTEXTS) for p in range(SKIP, LENGTH)]
        ranked = [(c, p) for value, c, p in sorted(every) if value < 0]
        n = len(ranked)
        lower = [e for e in features.examples(latent) if e.decile is not None]
        assert [e.decile for e in lower] == sorted((e.decile for e in lower), reverse=True)
        for decile in range(9):
            own = {ranked[j] for j in range(n) if 9 - (10 * j) // n == decile}
            found = [(e.context, e.position) for e in lower if e.decile == decile]
            assert len(set(found)) == len(found) == min(3, len(own))
            assert set(found) <= own
    assert n > 300  # deciles of many, of which three are drawn


def test_fewer_examples_can_be_asked_for(tmp_path: Path) -> None:
    features = make(build_sources(tmp_path, n_top=4, n_per_decile=0), tmp_path / "out")
    assert [len(features.examples(latent)) for latent in (0, 4, 39)] == [4, 1, 4]
    one = make(build_sources(tmp_path, n_per_decile=1), tmp_path / "one")
    assert [e.decile for e in one.examples(39)] == [None] * 20 + [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert features.about["n_per_decile"] == 0


def test_examples_depend_on_the_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(sources: FeatureSources, folder: str) -> list[tuple[int, int]]:
        found = make(sources, tmp_path / folder)
        return [(e.context, e.position) for latent in range(D_SAE) for e in found.examples(latent)]

    sources = build_sources(tmp_path)
    whole = drawn(sources, "whole")
    monkeypatch.setattr(feature_codes, "ENTRIES_AT_ONCE", 300)
    monkeypatch.setattr(feature_codes, "LATENTS_AT_ONCE", 3)
    assert drawn(sources, "parts") == whole
    for path in (tmp_path / "whole").iterdir():
        if path.suffix == ".parquet":
            assert pl.read_parquet(path).equals(pl.read_parquet(tmp_path / "parts" / path.name))
        else:
            assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()
    assert drawn(replace(sources, seed=SEED + 1), "other") != whole


@pytest.mark.usefixtures("small_slabs")
def test_windows_hold_the_context_and_the_activation_at_every_token_of_it(tmp_path: Path) -> None:
    acts = planted_acts()
    sources = build_sources(tmp_path, acts)
    features = make(sources, tmp_path / "out")
    seen = 0
    for latent in range(D_SAE):
        largest = acts[:, SKIP:, latent].max()
        for e in features.examples(latent):
            start, stop = max(0, e.position - N_BEFORE), min(LENGTH, e.position + N_AFTER + 1)
            assert e.at == e.position - start
            np.testing.assert_array_equal(e.tokens, sources.contexts.tokens[e.context, start:stop])
            expected = acts[e.context, start:stop, latent]
            np.testing.assert_allclose(e.activations, expected, rtol=1e-3, atol=largest * 1e-7)
            assert e.activation == acts[e.context, e.position, latent]
            seen += start < SKIP and bool(expected[: SKIP - start].any())
    assert seen > 10  # windows that reach into skipped positions, where latents are active too


@pytest.mark.parametrize("shape", [(1, 12, 3), (3, 1, 2), (4, 10, 1), (2, 9, 70_000)])
def test_odd_sizes_are_read_right(shape: tuple[int, int, int], tmp_path: Path) -> None:
    g = np.random.default_rng(4)
    acts = np.zeros(shape, dtype=np.float32)
    where = tuple(g.integers(0, size, 40) for size in shape)
    acts[where] = g.random(40) + 0.5
    acts[0, -1, -1] = 3.0
    sources = build_sources(tmp_path, acts, skip_positions=0, tokens=None)
    features = make(sources, tmp_path / "out")
    table = features.latents.collect()
    assert table["n_active"].to_list() == (acts > 0).sum((0, 1)).tolist()
    last = features.examples(shape[2] - 1)
    assert (last[0].context, last[0].position, last[0].activation) == (0, shape[1] - 1, 3.0)
    assert table["error_r"].null_count() == shape[2]


def test_an_sae_that_is_dead_everywhere_has_rows_and_no_examples(tmp_path: Path) -> None:
    sources = build_sources(tmp_path, np.zeros((3, 10, 4), dtype=np.float32))
    features = make(sources, tmp_path / "out")
    assert features.latents.collect()["n_active"].to_list() == [0] * 4
    assert features.about["n_alive"] == 0
    assert [features.examples(latent) for latent in range(4)] == [[]] * 4
    assert features.vocabulary.is_empty()


def test_activations_that_are_not_above_zero_are_left_out_and_counted(tmp_path: Path) -> None:
    acts = planted_acts()
    flipped = acts.copy()
    flipped[3, 10:20] *= -1
    features = make(build_sources(tmp_path, flipped), tmp_path / "out")
    assert features.about["left_out"] == (acts[3, 10:20] > 0).sum() > 0
    expected = (flipped[:, SKIP:] > 0).sum((0, 1))
    assert features.latents.collect()["n_active"].to_list() == expected.tolist()


def test_neighbours_and_logits_equal_plain_products(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    base, widest = (torch.randn(n, D_MODEL, generator=g) for n in (25, 90))
    unembedding = torch.randn(D_MODEL, 55, generator=g)
    sources = build_sources(tmp_path, unembedding=unembedding)
    sources = replace(sources, others={"base": DecoderRows.of(base), "widest": DecoderRows.of(widest)})
    table = make(sources, tmp_path / "out").latents.collect()
    assert sources.rows is not None
    rows = sources.rows(0, D_SAE)
    for name, other in (("base", base), ("widest", widest)):
        cosines = torch.nn.functional.cosine_similarity(rows[:, None], other[None], dim=-1)
        assert table[name].to_list() == cosines.argmax(1).tolist()
        np.testing.assert_allclose(table[f"{name}_cosine"], cosines.max(1).values, rtol=1e-5)
    logits = rows @ unembedding
    logits = (logits - logits.mean(1, keepdim=True)).numpy()
    for latent in range(D_SAE):
        order = np.argsort(-logits[latent])
        row = table.row(latent, named=True)
        assert row["promoted"] == order[:10].tolist()
        assert row["suppressed"] == order[::-1][:10].tolist()
        np.testing.assert_allclose(row["promoted_logit"], logits[latent, order[:10]], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(row["suppressed_logit"], logits[latent, order[::-1][:10]], rtol=1e-4, atol=1e-5)


def test_a_search_finds_labels_common_and_promoted_tokens(tmp_path: Path) -> None:
    unembedding = torch.zeros(D_MODEL, 60)
    unembedding[0, 40] = 5.0
    unembedding[1, 41] = 5.0

    def words(ids: object) -> pl.DataFrame:
        rows = [(i, " Paris" if i == 40 else f"w{i}.", "word start") for i in ids]  # type: ignore[attr-defined]
        return pl.DataFrame(rows, schema=VOCABULARY, orient="row")

    sources = build_sources(tmp_path, unembedding=unembedding, vocabulary=words)
    features = make(sources, tmp_path / "out")
    table = features.latents.collect()
    promoted = [n for n, ids in enumerate(table["promoted"].to_list()) if 40 in ids]
    assert 0 < len(promoted) < D_SAE
    assert features.search("paris").collect()["latent"].to_list() == promoted
    token = table["token"][0]
    found = features.search(f"w{token}.").collect()
    expected = [n for n, row in enumerate(table.iter_rows(named=True)) if token in [row["token"], *row["promoted"]]]
    assert found["latent"].to_list() == expected
    assert features.search("nothing has this").collect().is_empty()
    assert features.search(".*").collect().is_empty()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_activations_that_are_no_numbers_are_refused(wrong: float, tmp_path: Path) -> None:
    acts = planted_acts()
    acts[5, 10, 2] = wrong
    sources = build_sources(tmp_path, acts)
    with pytest.raises(DataError, match="NaN or infinite: check the SAE's weights"):
        make(sources, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_weights_and_tables_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    sources = build_sources(tmp_path)
    broken = torch.ones(D_SAE, D_MODEL)
    broken[9, 2] = torch.nan
    others = {"base": DecoderRows.of(torch.ones(3, D_MODEL))}
    for change, message in (
        ({"rows": lambda a, b: broken[a:b], "others": others}, "decoder row holds NaN"),
        ({"others": {"base": DecoderRows.of(broken)}}, "decoder row holds NaN"),
        ({"rows": lambda a, b: broken[a:b], "unembedding": torch.ones(D_MODEL, 20)}, "unembedding give NaN"),
        ({"unembedding": torch.full((D_MODEL, 20), torch.nan)}, "unembedding give NaN"),
        ({"unembedding": torch.ones(D_MODEL + 1, 20)}, "that of the same model"),
        ({"others": {"base": DecoderRows.of(torch.ones(3, 5))}}, "of one site"),
    ):
        with pytest.raises(DataError, match=message):
            make(replace(sources, **change), tmp_path / "out")
    squares = np.ones((len(PARTS), N_CONTEXTS, LENGTH))
    squares[1, 3, 3] = np.nan
    write_table(tmp_path / "tokens.parquet", squares)
    with pytest.raises(DataError, match="norms of the linear part that are not finite"):
        make(sources, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    sources = build_sources(tmp_path)
    with pytest.raises(DataError, match="have latent 39, but the SAE has 30"):
        make(replace(sources, d_sae=30), tmp_path / "out")
    fewer = Contexts(sources.contexts.tokens[:-1], "")
    with pytest.raises(DataError, match="24 contexts of 1,200 tokens, but the texts have 23 of 1,150"):
        make(replace(sources, contexts=fewer, tokens=None), tmp_path / "out")
    longer = Contexts(np.zeros((N_CONTEXTS, LENGTH + 1), dtype=np.uint16), "")
    with pytest.raises(DataError, match="of other texts"):
        make(replace(sources, contexts=longer, tokens=None), tmp_path / "out")
    with pytest.raises(DataError, match="cannot be read: delete that entry"):
        make(replace(sources, codes=tmp_path / "nowhere"), tmp_path / "out")
    with pytest.raises(DataError, match="lower it"):
        replace(sources, skip_positions=LENGTH)
    with pytest.raises(DataError, match="raise n_top"):
        replace(sources, n_top=0)
    with pytest.raises(DataError, match="give one that has"):
        replace(sources, d_sae=0)
    with pytest.raises(DataError, match="no columns for wide"):
        replace(sources, others={"wide": DecoderRows.of(torch.ones(3, D_MODEL))})
    (tmp_path / "codes" / "values.npy").unlink()
    with pytest.raises(DataError, match="cannot be read: delete that entry"):
        make(sources, tmp_path / "out")


@pytest.mark.usefixtures("small_slabs")
def test_progress_is_reported_and_a_cancel_leaves_nothing_behind(tmp_path: Path) -> None:
    others = {"base": DecoderRows.of(torch.randn(30, D_MODEL))}
    sources = build_sources(tmp_path, others=others, unembedding=torch.randn(D_MODEL, 40))
    seen: list[Progress] = []
    (tmp_path / "out").mkdir()
    feature_index(sources, tmp_path / "out", Reporter(seen.append))
    last = {progress.stage: progress for progress in seen}
    assert list(last) == [
        "active tokens of each latent",
        "codes by latent",
        "examples of latents",
        "nearest latents in base",
        "promoted tokens",
    ]
    assert all(progress.done == progress.total > 0 for progress in last.values())
    for number, stage in enumerate(last):
        folder = tmp_path / str(number)
        folder.mkdir()
        reached: list[str] = []
        reporter = Reporter(lambda p, r=reached: r.append(p.stage), lambda r=reached, s=stage: s in r)
        with pytest.raises(Cancelled, match=stage):
            feature_index(sources, folder, reporter)
        assert list(folder.iterdir()) == []


def test_slabs_are_the_columns_of_the_dense_codes(tmp_path: Path, small_slabs: None) -> None:
    acts = planted_acts()
    codes, dense = write_codes(tmp_path / "codes", acts), acts.reshape(-1, D_SAE)
    with LatentMajor(codes, D_SAE, N_CONTEXTS, LENGTH, tmp_path, Reporter()) as by_latent:
        assert by_latent.n_slabs > 8
        latent = 0
        for slab in by_latent.slabs():
            assert slab.first == latent
            for own in range(slab.n_latents):
                part = slice(slab.offsets[own], slab.offsets[own + 1])
                where = np.flatnonzero(dense[:, latent])
                np.testing.assert_array_equal(slab.tokens[part], where)
                np.testing.assert_array_equal(slab.values[part], dense[where, latent])
                latent += 1
        assert latent == D_SAE
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]


def test_a_latent_that_is_not_there_and_a_missing_file_are_told_in_a_sentence(tmp_path: Path) -> None:
    features = make(build_sources(tmp_path), tmp_path / "out")
    for latent in (-1, D_SAE):
        with pytest.raises(StoreError, match="latents 0 to 39"):
            features.examples(latent)
    (tmp_path / "out" / "hit_place.npy").unlink()
    with pytest.raises(StoreError, match="make them anew"):
        features.examples(0)
    with pytest.raises(StoreError, match="make them anew"):
        read_features(tmp_path)


def test_reading_features_does_not_import_torch(tmp_path: Path) -> None:
    make(build_sources(tmp_path), tmp_path / "out")
    script = (
        "import sys; from pathlib import Path; from dmcore.results.features import read_features\n"
        f"f = read_features(Path({str(tmp_path / 'out')!r}))\n"
        "assert f.examples(12) and f.histogram(12).counts.any() and f.latent(12) and len(f.search('#1').collect())\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
