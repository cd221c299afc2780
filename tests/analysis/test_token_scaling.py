"""Errors token by token across SAEs: equal to brute force over small tables, and faults are told in a sentence."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from dmcore.analysis import token_norms, token_scaling
from dmcore.analysis.partition import Partition
from dmcore.analysis.split_pass import TOKEN_COLUMNS
from dmcore.analysis.token_kinds import UNKNOWN, token_kind, unnamed_vocabulary
from dmcore.analysis.token_scaling import TokenSources, token_tables
from dmcore.analysis.token_slices import by_domain, by_position
from dmcore.analysis.worst_tokens import browsed_contexts, largest
from dmcore.errors import Cancelled, DataError
from dmcore.math.bootstrap import interval, poisson_weights
from dmcore.progress import Progress, Reporter
from dmcore.results.scaling import PARTS, TABLES
from dmcore.sources.contexts import Contexts

N_SAES, N_CONTEXTS, LENGTH, SKIP, SEED, SCALE = 3, 90, 70, 5, 11, 3.5
N_WORDS = 40
TEXTS = {i: [" the", "ing", "7", "\n", "("][i % 5] for i in range(N_WORDS)} | {1: "<s>"}


def words(ids: Iterable[int]) -> pl.DataFrame:
    rows = [(i, TEXTS[i], token_kind(TEXTS[i], special=i == 1)) for i in sorted(set(ids))]
    return pl.DataFrame(rows, schema=TABLES["vocabulary"], orient="row")


def write_table(path: Path, squares: np.ndarray, rows_in_group: int = 4096) -> Path:
    """A table of tokens; squares: (3, n_contexts, length) of `PARTS`."""
    columns = {name: np.zeros(squares[0].size, dtype=np.float32) for name in TOKEN_COLUMNS}
    columns |= {f"{part}_sq": squares[i].reshape(-1).astype(np.float32) for i, part in enumerate(PARTS)}
    pq.write_table(pa.table(columns), path, row_group_size=rows_in_group, compression="none")
    return path


def planted_squares(g: np.random.Generator) -> np.ndarray:
    """(n_saes, 3, n_contexts, length) float32, with ties, an effect that SAEs share, and great norms at the start."""
    shared = g.gamma(2.0, size=(N_CONTEXTS, LENGTH))
    squares = shared + g.gamma(2.0, size=(N_SAES, len(PARTS), N_CONTEXTS, LENGTH))
    squares[:, :, :, 0] = 1e12
    return squares.round(2).astype(np.float32)


def build_sources(
    folder: Path, squares: np.ndarray | None = None, **overrides: object
) -> tuple[TokenSources, np.ndarray]:
    """Sources over small tables, and the squared norms in them."""
    g = np.random.default_rng(0)
    squares = planted_squares(g) if squares is None else squares
    tokens = g.integers(2, N_WORDS, (N_CONTEXTS, LENGTH)).astype(np.uint16)
    tokens[:, 0] = 1
    domains = np.repeat(g.integers(0, 3, (N_CONTEXTS, 1)), LENGTH, axis=1)
    domains[4, 30:] = 3  # in one context alone
    values = {
        "tables": [
            write_table(folder / f"{sae}.parquet", some, rows_in_group=400 + 77 * sae)
            for sae, some in enumerate(squares)
        ],
        "names": [f"sae {i}" for i in range(len(squares))],
        "contexts": Contexts(tokens, "", domains, ("code", "prose", "maths", "law")),
        "partition": Partition(np.arange(N_CONTEXTS) % 4, 4, (0, SKIP)),
        "skip_positions": SKIP,
        "seed": SEED,
        "act_scale": SCALE,
        "vocabulary": words,
    }
    return TokenSources(**{**values, **overrides}), squares


def test_tables_have_the_promised_columns_and_leave_two_arrays_alone(tmp_path: Path) -> None:
    sources, _ = build_sources(tmp_path)
    (tmp_path / "out").mkdir()
    tables, browsed = token_tables(sources, tmp_path / "out", Reporter())
    assert {name: dict(table.schema) for name, table in tables.items()} == {
        name: TABLES[name] for name in ("pairs", "worst", "slices", "vocabulary")
    }
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["norms.npy", "tokens.npy"]
    shown = set(sources.contexts.tokens[browsed].ravel().tolist())
    for column in ("before", "after"):
        shown |= set(tables["worst"][column].explode().drop_nulls().to_list())
    assert set(tables["vocabulary"]["token"]) == shown | set(tables["worst"]["token"])


def test_pairs_equal_fits_of_norms_at_kept_tokens(tmp_path: Path) -> None:
    sources, squares = build_sources(tmp_path)
    tables, _ = token_tables(sources, tmp_path, Reporter())
    norms = np.sqrt(squares[..., SKIP:].astype(np.float64))
    folds = np.repeat(sources.partition.folds, LENGTH - SKIP)
    for source, target in ((0, 1), (2, 0)):
        row = tables["pairs"].row(source * N_SAES + target, named=True)
        assert (row["source"], row["target"]) == (source, target)
        X, y = norms[source, [0, 2]].reshape(2, -1).T, norms[target, 0].ravel()
        for name, columns in (("r2", X[:, :1]), ("r2_both", X)):
            predicted = np.empty(len(y))
            for fold in range(4):
                fitted = LinearRegression().fit(columns[folds != fold], y[folds != fold])
                predicted[folds == fold] = fitted.predict(columns[folds == fold])
            assert row[name] == pytest.approx(r2_score(y, predicted), abs=1e-8)
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        assert row["spearman"] == pytest.approx(spearmanr(X[:, 0], y).statistic, abs=1e-10)
    assert tables["pairs"].filter(pl.col("source") == pl.col("target"))["closed"].null_count() == N_SAES
    assert (tables["pairs"].filter(pl.col("source") == pl.col("target"))["r2"] == 1.0).all()


def test_results_do_not_depend_on_the_size_of_the_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, _ = build_sources(tmp_path)
    whole, _ = token_tables(sources, tmp_path, Reporter())
    monkeypatch.setattr(token_scaling, "TOKENS_PER_CHUNK", 3 * LENGTH + 1)
    assert len(list(sources.chunks())) == 30
    parts, _ = token_tables(sources, tmp_path, Reporter())
    for name, column in ((n, c) for n, table in whole.items() for c in table.columns):
        if whole[name][column].dtype == pl.Float64:
            left, right = (table[name][column].to_numpy() for table in (whole, parts))
            np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-10)
        else:
            assert whole[name][column].equals(parts[name][column])


def test_worst_tokens_equal_a_sort_of_all(tmp_path: Path) -> None:
    sources, squares = build_sources(tmp_path)
    worst = token_tables(sources, tmp_path, Reporter())[0]["worst"]
    tokens = sources.contexts.tokens
    assert len(worst) == N_SAES * len(PARTS) * 20
    for (sae, part), rows in worst.group_by("sae", "part", maintain_order=True):
        values = squares[sae, PARTS.index(part)]
        every = sorted((-values[c, p], c, p) for c in range(N_CONTEXTS) for p in range(SKIP, LENGTH))
        assert list(zip(rows["context"], rows["position"], strict=True)) == [(c, p) for _, c, p in every[:20]]
        assert rows["rank"].to_list() == list(range(20))
        np.testing.assert_allclose(rows["norm"], [np.sqrt(-v) / SCALE for v, _, _ in every[:20]], rtol=1e-6)
        np.testing.assert_allclose(rows["share"], [-v / values[:, SKIP:].sum(dtype=float) for v, _, _ in every[:20]])
        for row in rows.iter_rows(named=True):
            text, position = tokens[row["context"]].tolist(), row["position"]
            assert text[position] == row["token"]
            assert row["before"] == text[max(0, position - 16) : position]
            assert row["after"] == text[position + 1 : position + 9]


def test_largest_takes_the_first_of_equal_values() -> None:
    g = np.random.default_rng(0)
    for size, distinct in ((5, 100), (300, 4), (300, 1000), (50, 1)):
        values = g.integers(0, distinct, size).astype(np.float32)
        np.testing.assert_array_equal(largest(values, 20), np.argsort(-values, kind="stable")[:20])


def test_browsed_contexts_hold_most_of_the_worst_and_some_at_equal_steps() -> None:
    worst = pl.DataFrame({"context": [900] * 5 + [100] * 5 + [7] + [c for c in range(200, 260) for _ in range(2)]})
    browsed = browsed_contexts(worst, 1000)
    assert len(browsed) == 64
    assert browsed == sorted(set(browsed))
    assert {100, 900, *range(200, 238)} <= set(browsed)  # 40 in all, of equal counts the first
    others = sorted(set(browsed) - {100, 900, *range(200, 238)})
    assert (others[0], others[-1]) == (0, 999)
    left = [c for c in range(1000) if c not in {100, 900, *range(200, 238)}]
    assert set(np.diff([left.index(c) for c in others])) <= {41, 42}
    assert browsed_contexts(worst.filter(pl.col("context") < 50), 50) == list(range(50))
    assert len(browsed_contexts(worst.clear(), 1000)) == 64


def test_arrays_hold_norms_at_all_positions_of_the_browsed_contexts(tmp_path: Path) -> None:
    sources, squares = build_sources(tmp_path)
    _, browsed = token_tables(sources, tmp_path, Reporter())
    norms = np.load(tmp_path / "norms.npy", allow_pickle=False)
    tokens = np.load(tmp_path / "tokens.npy", allow_pickle=False)
    assert (norms.dtype, tokens.dtype) == (np.float16, np.int32)
    assert len(browsed) == 64
    np.testing.assert_array_equal(tokens, sources.contexts.tokens[browsed])
    expected = np.sqrt(squares[:, :, browsed].astype(float)).transpose(2, 3, 0, 1) / SCALE
    np.testing.assert_allclose(norms[:, 1:], expected[:, 1:], rtol=1e-3)
    assert (norms[:, 0] == np.finfo(np.float16).max).all()  # 1e6 / 3.5 is too large, and is no infinity


def test_slices_equal_sums_over_masks_with_intervals_over_contexts(tmp_path: Path) -> None:
    sources, squares = build_sources(tmp_path)
    slices = token_tables(sources, tmp_path, Reporter())[0]["slices"]
    kept = squares[..., SKIP:].astype(float)
    tokens, positions = sources.contexts.tokens[:, SKIP:], np.arange(SKIP, LENGTH)[None]
    masks = {
        ("class", "word part"): np.isin(tokens, [i for i in range(N_WORDS) if TEXTS[i] == "ing"]),
        ("position", "5-31"): np.broadcast_to(positions < 32, tokens.shape),
        ("position", "64-69"): np.broadcast_to(positions >= 64, tokens.shape),
        ("domain", "prose"): sources.contexts.domains[:, SKIP:] == 1,
    }
    weights = poisson_weights(N_CONTEXTS, SEED)
    for (by, group), mask in masks.items():
        row = slices.filter(sae=1, by=by, group=group).row(0, named=True)
        assert row["n_tokens"] == mask.sum() > 0
        ratios = {}
        for i, part in enumerate(PARTS):
            inside = weights @ (kept[1, i] * mask).sum(1) / (weights @ mask.sum(1))
            ratios[f"{part}_ratio"] = (
                kept[1, i][mask].mean() / kept[1, i].mean(),
                inside / (weights @ kept[1, i].mean(1) / weights.sum(1)),
            )
        nonlinear, error = ((kept[1, i] * mask).sum(1) for i in (2, 0))
        ratios["nonlinear_share"] = (nonlinear.sum() / error.sum(), (weights @ nonlinear) / (weights @ error))
        for name, (value, replicates) in ratios.items():
            expected = interval(value, replicates)
            found = [row[f"{name}{end}"] for end in ("", "_low", "_high")]
            np.testing.assert_allclose(found, [value, expected.low, expected.high], rtol=1e-9, err_msg=f"{by} {name}")


def test_slices_cover_all_kept_tokens_and_a_group_of_one_context_has_no_interval(tmp_path: Path) -> None:
    sources, _ = build_sources(tmp_path)
    slices = token_tables(sources, tmp_path, Reporter())[0]["slices"]
    totals = slices.group_by("sae", "by").agg(pl.col("n_tokens").sum())
    assert len(totals) == N_SAES * 3
    assert (totals["n_tokens"] == N_CONTEXTS * (LENGTH - SKIP)).all()
    assert "special" not in slices["group"].to_list()  # only at a position that is skipped
    law = slices.filter(group="law")
    assert law["n_tokens"].to_list() == [40] * N_SAES
    assert law["error_ratio"].null_count() == 0
    assert law["error_ratio_low"].null_count() == law["nonlinear_share_high"].null_count() == N_SAES
    assert slices.filter(pl.col("group") != "law")["error_ratio_low"].null_count() == 0
    first = slices.filter(sae=0, by="domain")
    assert first["n_tokens"].to_list() == sorted(first["n_tokens"], reverse=True)
    assert first["order"].to_list() == [0, 1, 2, 3]


def test_ranges_of_positions_end_at_powers_of_two() -> None:
    assert by_position((2, 1008), 16).names == ("16-31", "32-63", "64-127", "128-255", "256-511", "512-1023")
    assert by_position((2, 20), 0).names == ("0-19",)
    skipped = by_position((2, 60), 40)
    assert skipped.names == ("40-63", "64-99")
    assert skipped.of_token[1].tolist() == [0] * 24 + [1] * 36
    assert by_position((2, 10), 32).names == ("32-41",)


def test_domains_past_the_twelfth_are_one_group() -> None:
    names = (*(f"d{i}" for i in range(14)), "other", "empty")
    counts = [5, 5, 90, *range(20, 31), 80]
    domains = np.repeat(np.arange(15), counts)[None]
    grouping = by_domain(domains, names)
    assert grouping.names == ("d2", *(f"d{i}" for i in range(13, 2, -1)), "other")
    assert np.bincount(grouping.of_token[0]).tolist() == [90, *range(30, 19, -1), 5 + 5 + 80]


def test_without_a_tokenizer_or_domains_there_is_no_split_by_them(tmp_path: Path) -> None:
    sources, _ = build_sources(tmp_path, vocabulary=unnamed_vocabulary)
    sources = replace(sources, contexts=replace(sources.contexts, domains=None, domain_names=()))
    tables, _ = token_tables(sources, tmp_path, Reporter())
    assert set(tables["slices"]["by"]) == {"position"}
    assert set(tables["vocabulary"]["kind"]) == {UNKNOWN}


@pytest.mark.parametrize("constant", [4.0, 0.3, 0.0])
def test_an_sae_of_constant_norm_or_without_a_linear_part_gives_nulls(constant: float, tmp_path: Path) -> None:
    squares = planted_squares(np.random.default_rng(1))
    squares[0, 0] = constant
    squares[1, 1] = 0.0
    sources, _ = build_sources(tmp_path, squares)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables, _ = token_tables(sources, tmp_path, Reporter())
    pairs = tables["pairs"]
    numbers = pairs.columns[2:]
    of_constant = pairs.filter((pl.col("source") == 0) | (pl.col("target") == 0)).select(numbers)
    assert len(of_constant) == 5
    assert all(of_constant[c].null_count() == 5 for c in numbers)
    assert all(pairs.filter(source=1, target=2)[c].null_count() == 0 for c in numbers)
    assert tables["worst"].filter(sae=1, part="linear").is_empty()
    zero = tables["slices"].filter(sae=1)
    assert zero["linear_ratio"].null_count() == len(zero)
    assert zero["error_ratio"].null_count() == 0
    assert not any(
        table[c].is_nan().any() for table in tables.values() for c in table.columns if table[c].dtype.is_float()
    )


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_what_is_no_norm_is_refused_by_the_name_of_its_sae(wrong: float, tmp_path: Path) -> None:
    squares = planted_squares(np.random.default_rng(1))
    squares[2, 1, 5, 0] = wrong
    sources, _ = build_sources(tmp_path, squares)
    with pytest.raises(DataError, match="sae 2 has norms of the linear part .* run the study again"):
        token_tables(sources, tmp_path, Reporter())


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    sources, squares = build_sources(tmp_path)
    write_table(tmp_path / "1.parquet", squares[1][:, :-1])
    with pytest.raises(DataError, match="sae 1 has 6,230 tokens, but the texts have 6,300"):
        token_tables(sources, tmp_path, Reporter())
    (tmp_path / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="sae 1 cannot be read"):
        token_tables(sources, tmp_path, Reporter())
    pq.write_table(pa.table({"error_sq": [1.0]}), tmp_path / "0.parquet")
    with pytest.raises(DataError, match="sae 0 has 1 tokens"):
        token_tables(sources, tmp_path, Reporter())
    pq.write_table(pa.table({"other": [1.0]}), tmp_path / "0.parquet")
    with pytest.raises(DataError, match="sae 0 cannot be read"):
        token_tables(sources, tmp_path, Reporter())


def test_sources_that_make_no_sense_are_refused_at_once(tmp_path: Path) -> None:
    sources, _ = build_sources(tmp_path)
    for change, message in (
        ({"act_scale": 0.0}, "give tokens on which they vary"),
        ({"names": ["one"]}, "3 tables of tokens and 1 names"),
        ({"skip_positions": LENGTH}, "lower it"),
    ):
        with pytest.raises(DataError, match=message):
            replace(sources, **change)


def test_progress_is_reported_and_a_cancel_leaves_nothing_behind(tmp_path: Path) -> None:
    sources, _ = build_sources(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    seen: list[Progress] = []
    token_tables(sources, out, Reporter(seen.append))
    last = {progress.stage: progress for progress in seen}
    assert list(last) == ["errors by token", "pairs of SAEs", "intervals of pairs", "contexts to look at"]
    assert all(progress.done == progress.total > 0 for progress in last.values())
    for stage in last:
        folder = tmp_path / stage.replace(" ", "-")
        folder.mkdir()
        reached: list[str] = []
        reporter = Reporter(lambda p, r=reached: r.append(p.stage), lambda r=reached, s=stage: s in r)
        with pytest.raises(Cancelled, match=stage):
            token_tables(sources, folder, reporter)
        assert list(folder.iterdir()) == []


def test_ranks_and_norms_come_back_from_the_disk_as_they_were_put(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    squares = g.integers(0, 9, (2, 2, 6, 5)).astype(np.float32)
    norms = token_norms.TokenNorms(2, 6, 5, tmp_path)
    for error_sq, nonlinear_sq in squares:
        norms.put(error_sq, nonlinear_sq)
    roots = np.sqrt(squares.astype(float))
    centred = (roots - roots.mean((2, 3), keepdims=True)) / roots.std((2, 3), keepdims=True)
    columns = norms.columns(slice(2, 5))
    np.testing.assert_array_equal(columns[:, 0], 1.0)
    np.testing.assert_allclose(columns[:, 1:], centred[:, :, 2:5].transpose(2, 1, 0, 3).reshape(3, 4, 5), atol=1e-14)
    ranks = norms.ranks(slice(0, 6))
    assert ranks.sum() == pytest.approx(0.0, abs=1e-12)
    below = (squares[1, 0].ravel() < squares[1, 0, 3, 2]).sum()
    equal = (squares[1, 0] == squares[1, 0, 3, 2]).sum()
    assert ranks[3, 1, 2] * 30 + 15.5 == pytest.approx(below + (equal + 1) / 2)
    norms.close()
    assert list(tmp_path.iterdir()) == []
