"""Latents that fire where much of the error is nonlinear: dense arrays give the same, a planted latent is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import dmcore.analysis.latent_lift as module
from dmcore.analysis.activations import Chunk, chunks_of
from dmcore.analysis.latent_lift import LatentLift, TokenTable, high_shares, shares_of
from dmcore.analysis.token_kinds import unnamed_vocabulary
from dmcore.errors import DataError
from dmcore.math.sparse_codes import codes_from_dense
from dmcore.results.structure import STRUCTURE_TABLES

N_CONTEXTS, LENGTH, SKIP, D_SAE = 120, 50, 6, 90
FREQUENT, RARE = 7, 8
"""Latents that are planted: three times as likely, and three times less, where the share is high."""


def planted(folder: Path) -> tuple[TokenTable, np.ndarray, np.ndarray, np.ndarray]:
    """A table of tokens in uneven row groups, the shares in it, dense latents, and token ids."""
    g = np.random.default_rng(0)
    error = g.gamma(3.0, size=(N_CONTEXTS, LENGTH)).astype(np.float32)
    error[g.random(error.shape) < 0.02] = 0.0
    nonlinear = (error * g.beta(2.0, 3.0, size=error.shape)).astype(np.float32)
    share = np.divide(nonlinear, error, out=np.full_like(error, -1.0), where=error > 0)
    likely = np.where(share > np.quantile(share[:, SKIP:][error[:, SKIP:] > 0], 0.9), 3.0, 1.0)[..., None]
    frequency = np.broadcast_to(np.geomspace(0.0005, 0.2, D_SAE), (N_CONTEXTS, LENGTH, D_SAE)).copy()
    frequency[..., [FREQUENT]] = 0.1 * likely
    frequency[..., [RARE]] = 0.3 / likely**2
    latents = (g.random(frequency.shape) < frequency) * g.gamma(2.0, size=frequency.shape)
    latents[:, :SKIP] = 1.0  # skipped positions do not count
    path = folder / "tokens.parquet"
    columns = {"error_sq": error.reshape(-1), "act_norm_sq": error.reshape(-1), "nonlinear_sq": nonlinear.reshape(-1)}
    pl.DataFrame(columns).write_parquet(path, row_group_size=777)
    tokens = g.integers(0, 30, (N_CONTEXTS, LENGTH)).astype(np.uint16)
    return TokenTable(path, N_CONTEXTS, LENGTH, SKIP), share, latents.astype(np.float32), tokens


def words_of(ids: np.ndarray) -> pl.DataFrame:
    rows = [(int(i), str(i), "number" if i < 10 else "space") for i in np.unique(ids)]
    return pl.DataFrame(rows, schema=STRUCTURE_TABLES["vocabulary"], orient="row")


def filled(table: TokenTable, latents: np.ndarray, tokens: np.ndarray, words: pl.DataFrame, size: int) -> LatentLift:
    found = LatentLift(D_SAE, high_shares(table), tokens, words, SKIP)
    chunks = list(chunks_of(N_CONTEXTS, LENGTH, size))
    for chunk, columns in zip(chunks, table.chunks(chunks), strict=True):
        rows = torch.from_numpy(latents[chunk.first_context : chunk.first_context + chunk.n_contexts])
        found.add(chunk, codes_from_dense(rows.reshape(-1, D_SAE)), columns)
    return found


@pytest.mark.parametrize("size", [LENGTH, 7 * LENGTH, 10**6])
def test_lifts_are_those_of_dense_arrays_and_planted_latents_are_found(size: int, tmp_path: Path) -> None:
    table, share, latents, tokens = planted(tmp_path)
    found = filled(table, latents, tokens, words_of(tokens), size)
    tables, counts = found.tables()
    flat, active = share[:, SKIP:].reshape(-1), latents[:, SKIP:].reshape(-1, D_SAE) > 0
    there = flat >= 0
    n_high = -(-int(there.sum()) // 10)
    high = np.zeros(len(flat), dtype=bool)
    high[np.argsort(-flat, kind="stable")[:n_high]] = True
    lifts = found.latents.lifts()
    np.testing.assert_array_equal(lifts.n_active, active[there].sum(0))
    np.testing.assert_array_equal(lifts.n_high, active[high].sum(0))
    known = lifts.n_active > 0
    np.testing.assert_allclose(lifts.lift[known], (active[high].mean(0) / active[there].mean(0))[known])
    assert found.least_share == pytest.approx(flat[high].min())
    assert counts["n_tested"] == (lifts.n_active >= 20).sum() < D_SAE
    assert counts["n_significant"] == len(tables["latents"])
    first = {row["side"]: row for row in tables["latents"].to_dicts() if row["rank"] == 0}
    assert first["largest"]["latent"] == FREQUENT and first["largest"]["lift_low"] > 2
    assert first["smallest"]["latent"] == RARE and first["smallest"]["lift_high"] < 0.5
    groups = {(row["by"], row["group"]): row for row in tables["groups"].to_dicts()}
    assert list(groups) == [("class", "number"), ("class", "space"), ("position", "6-31"), ("position", "32-49")]
    number = tokens[:, SKIP:].reshape(-1) < 10
    assert groups["class", "number"]["n_active"] == (number & there).sum()
    assert groups["class", "number"]["n_high"] == (number & high).sum()
    late = np.tile(np.arange(SKIP, LENGTH) >= 32, N_CONTEXTS)
    assert groups["position", "32-49"]["n_high"] == (late & high).sum()
    expected = late[high].mean() / late[there].mean()
    assert groups["position", "32-49"]["lift"] == pytest.approx(expected)


def test_only_so_many_latents_of_a_side_are_listed_in_the_order_of_their_lifts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, share, latents, tokens = planted(tmp_path)
    g = np.random.default_rng(1)
    strength = np.linspace(0.2, 5.0, D_SAE)  # every latent has to do with the share
    high = (share > 0.65)[..., None]
    latents = (g.random(latents.shape) < np.where(high, 0.15 * strength, 0.15)).astype(np.float32)
    found = filled(table, latents, tokens, words_of(tokens), 10**6)
    whole = found.tables()[0]["latents"]
    monkeypatch.setattr(module, "SHOWN", 4)
    few = found.tables()[0]["latents"]
    for side, descending in (("largest", True), ("smallest", False)):
        all_of = whole.filter(pl.col("side") == side)
        assert len(all_of) > 4
        assert all_of["lift"].is_sorted(descending=descending)
        assert few.filter(pl.col("side") == side).equals(all_of[:4])
        assert few.filter(pl.col("side") == side)["rank"].to_list() == [0, 1, 2, 3]


def test_of_latents_that_never_fire_on_high_tokens_the_most_active_come_first(tmp_path: Path) -> None:
    table, share, _, tokens = planted(tmp_path)
    kept = share[:, SKIP:]
    n_high = -(-int((kept >= 0).sum()) // 10)
    least = np.sort(kept[kept >= 0])[len(kept[kept >= 0]) - n_high]
    rates = np.full(D_SAE, 0.1)
    rates[3], rates[5] = 0.3, 0.5
    latents = (np.random.default_rng(2).random((*share.shape, D_SAE)) < rates).astype(np.float32)
    latents[share >= least] *= np.isin(np.arange(D_SAE), (1, 3, 5), invert=True)
    found = filled(table, latents, tokens, words_of(tokens), 10**6).tables()[0]["latents"]
    never = found.filter((pl.col("side") == "smallest") & (pl.col("lift") == 0))
    assert never["latent"].to_list() == [5, 3, 1]


def test_without_texts_of_tokens_there_are_positions_alone(tmp_path: Path) -> None:
    table, _, latents, tokens = planted(tmp_path)
    found = filled(table, latents, tokens, unnamed_vocabulary(np.unique(tokens)), 10**6)
    assert set(found.tables()[0]["groups"]["by"]) == {"position"}


def test_latents_that_are_shuffled_between_contexts_are_not_listed(tmp_path: Path) -> None:
    table, _, latents, tokens = planted(tmp_path)
    found = filled(table, np.roll(latents, 1, axis=0), tokens, words_of(tokens), 10**6)
    tables, counts = found.tables()
    assert counts["n_tested"] > 50 and len(tables["latents"]) <= 1


def test_the_table_is_read_in_whole_contexts_and_skipped_positions_are_marked(tmp_path: Path) -> None:
    table, share, _, _ = planted(tmp_path)
    found = np.concatenate(list(table.chunks([Chunk(0, 3, LENGTH), Chunk(3, N_CONTEXTS - 3, LENGTH)])), axis=1)
    skipped = np.tile(np.arange(LENGTH) < SKIP, N_CONTEXTS)
    assert (found[:, skipped] == -1).all() and (found[:, ~skipped] >= 0).all()
    np.testing.assert_array_equal(shares_of(found)[~skipped], share.reshape(-1)[~skipped])
    assert (shares_of(found)[skipped] == -1).all()


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens.parquet").write_text("no table")
    with pytest.raises(DataError, match="delete its split entry"):
        list(TokenTable(tmp_path / "tokens.parquet", 2, 5, 0).chunks())
    pl.DataFrame({"error_sq": [1.0]}).write_parquet(tmp_path / "tokens.parquet")
    with pytest.raises(DataError, match="delete its split entry"):
        list(TokenTable(tmp_path / "tokens.parquet", 1, 1, 0).chunks())
