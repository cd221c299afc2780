"""The shrinkage ladder finds what was planted, and equals the plain way on stacked tokens."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from dmcore.analysis.partition import Partition
from dmcore.analysis.reduction_passes import TokenSources
from dmcore.analysis.shrinkage import ShrinkageInputs, shrinkage
from dmcore.analysis.shrinkage_fits import groups_of, outlying
from dmcore.errors import DataError
from dmcore.math.bootstrap import poisson_weights
from dmcore.progress import Reporter
from dmcore.results.shrinkage import FULL, SCALES, SHRINKAGE_TABLES, Shrinkage
from dmcore.specs import Settings
from tests.analysis.test_error_reduction import kept_rows, plain, random, stored
from tests.analysis.test_norm_tests import CPU, LENGTH, N_CONTEXTS, SEED, SETTINGS, SKIP
from tests.builders import D_MODEL

SCALE = torch.linspace(0.6, 1.6, D_MODEL).double()


def acts_of(seed: int = 0) -> torch.Tensor:
    return random(seed) * SCALE + 0.5


def found_of(folder: Path, x: torch.Tensor, error: torch.Tensor, settings: Settings = SETTINGS) -> Shrinkage:
    own = stored(folder / "in", x, x - error)
    partition = Partition.of(settings, own.acts.n_contexts, own.acts.length, SEED)
    sources = TokenSources(own, {}, partition, settings.skip_positions, CPU)
    (folder / "out").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shrinkage(ShrinkageInputs(sources, settings, SEED), folder / "out", Reporter(), "sae")
    found = Shrinkage.read(folder / "out")
    for name, schema in SHRINKAGE_TABLES.items():
        assert found[name].schema == pl.Schema(schema), name
    return found


def noise(size: float, seed: int = 9) -> torch.Tensor:
    return size * random(seed)


def test_planted_shrinkage_is_the_whole_of_the_first_rung(tmp_path: Path) -> None:
    x = acts_of()
    found = found_of(tmp_path, x, 0.1 * x)
    scale, recon, full = found.rung("scale_x"), found.rung("scale_recon"), found.rung(FULL)
    for row in (scale, recon, found.rung("diagonal"), full):
        assert row["r2"] == pytest.approx(1.0, abs=1e-6)
    assert scale["alpha"] == pytest.approx(0.1, abs=1e-6) and recon["alpha"] == pytest.approx(1 / 9, abs=1e-5)
    assert scale["share"] == pytest.approx(1.0, abs=1e-6)
    assert scale["left"] is None or abs(scale["left"]) < 0.5, "what is left is rounding"
    shape = {row["fact"]: row["value"] for row in found["shape"].to_dicts()}
    assert shape["identity"] == pytest.approx(1.0, abs=1e-6) and shape["slope"] == pytest.approx(0.1, abs=1e-6)
    assert shape["antisymmetric"] == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(found["spectrum"]["singular"], 0.1, atol=1e-5)
    ranks = found["ranks"].sort("rank")
    assert ranks["scaled"][0] == pytest.approx(1.0, abs=1e-6), "nothing is left for any rank"
    assert ranks["r2"][3] < 0.7, "but shrinkage is of no low rank"


def test_with_noise_nothing_is_linear_once_shrinkage_is_taken_away(tmp_path: Path) -> None:
    x = acts_of()
    found = found_of(tmp_path, x, 0.3 * x + noise(0.3))
    scale, full = found.rung("scale_x"), found.rung(FULL)
    assert scale["r2"] > full["r2"], "a map with fewer numbers loses less where they are enough"
    assert scale["left_high"] < 0.0, "held out, the map of what is left is worse than none"
    assert scale["share_low"] > 0.95


def test_a_planted_map_of_rank_three_takes_three_directions(tmp_path: Path) -> None:
    x = acts_of()
    g = torch.Generator().manual_seed(4)
    reads, writes = (torch.linalg.qr(torch.randn(D_MODEL, 3, generator=g).double())[0] for _ in range(2))
    weight = reads @ torch.diag(torch.tensor([0.9, 0.6, 0.4]).double()) @ writes.T
    found = found_of(tmp_path, x, x @ weight)
    ranks = found["ranks"].sort("rank")["r2"]
    assert ranks[2] < 0.97 and ranks[3] == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(found["spectrum"].sort("direction")["singular"][:4], [0.9, 0.6, 0.4, 0.0], atol=1e-4)
    assert found.rung("scale_x")["r2"] < 0.1
    assert found.rung("scale_x")["left"] == pytest.approx(1.0, abs=1e-5), "all that is left is linear"


def test_a_planted_diagonal_is_its_rung(tmp_path: Path) -> None:
    x = acts_of()
    diagonal = torch.linspace(-0.4, 0.5, D_MODEL).double()
    found = found_of(tmp_path, x, x * diagonal)
    assert found.rung("diagonal")["r2"] == pytest.approx(1.0, abs=1e-6)
    assert found.rung("scale_x")["r2"] < 0.5
    gain = found.rung("diagonal")
    assert gain["before"] == "scale_x"
    assert gain["gain"] == pytest.approx(gain["r2"] - found.rung("scale_x")["r2"], abs=1e-12)
    shape = {row["fact"]: row["value"] for row in found["shape"].to_dicts()}
    assert shape["diagonal"] == pytest.approx(1.0, abs=1e-6) and shape["identity"] < 0.1


def test_directions_along_the_components_of_x_are_aligned_with_them(tmp_path: Path) -> None:
    x = random(0) * torch.linspace(3.0, 0.3, D_MODEL).double()
    weight = torch.zeros(D_MODEL, D_MODEL).double()
    weight[0, 0], weight[1, 5] = 0.5, 0.4
    found = found_of(tmp_path, x, x @ weight)
    rows = {(r["side"], r["weighting"]): r for r in found["alignment"].to_dicts() if r["basis"] == "x" and r["k"] == 2}
    assert rows["reads", "plain"]["overlap"] > 0.98 and rows["reads", "data"]["overlap"] > 0.98
    assert rows["writes", "plain"]["overlap"] == pytest.approx(0.5, abs=0.05), "one of the two that it writes"
    assert rows["reads", "plain"]["chance"] == 2 / D_MODEL


def test_ablating_components_takes_what_is_read_from_them(tmp_path: Path) -> None:
    x = random(0) * torch.linspace(3.0, 0.5, D_MODEL).double()
    weight = torch.zeros(D_MODEL, D_MODEL).double()
    weight[10, 2] = 1.0
    found = found_of(tmp_path, x, x @ weight + noise(0.05))
    rows = {(r["first"], r["last"]): r for r in found["ablations"].to_dicts()}
    assert list(rows) == groups_of(D_MODEL) == [(1, 4), (5, 16)]
    assert rows[5, 16]["drop_share"] > 0.95 and rows[1, 4]["drop_share"] < 0.05
    assert rows[5, 16]["r2_high"] < found.rung(FULL)["r2_low"]
    assert sum(r["variance_share"] for r in rows.values()) == pytest.approx(1.0)


def test_outlying_dimensions_are_named_and_left_out(tmp_path: Path) -> None:
    scale = torch.ones(D_MODEL).double()
    scale[[3, 7]] = torch.tensor([20.0, 10.0]).double()
    assert outlying(scale.square()) == (3, 7) and outlying(torch.ones(4)) == ()
    x = random(0) * scale
    error = 0.2 * x + noise(0.2)
    found = found_of(tmp_path, x, error)
    assert found["outliers"]["dimension"].to_list() == [3, 7]
    cases = {row["case"]: row for row in found["without"].to_dicts()}
    assert set(cases) == {"all", "inputs", "targets", "both", "only"}
    assert cases["all"]["r2"] == pytest.approx(found.rung(FULL)["r2"])
    assert cases["all"]["r2"] > 0.9, "two dimensions make most of the variance"
    assert cases["inputs"]["r2"] < 0.1
    x_rows, e_rows, train_of = kept_rows(x), kept_rows(error), folds()
    kept = [i for i in range(D_MODEL) if i not in (3, 7)]
    left, unread = np.zeros_like(e_rows), np.zeros_like(e_rows)
    for fold in range(SETTINGS.n_folds):
        train = train_of != fold
        left[~train] = (e_rows - plain(x_rows, e_rows, train))[~train]
        unread[~train] = (e_rows - plain(x_rows[:, kept], e_rows, train))[~train]
    about = e_rows - e_rows.mean(0)

    def r2(residual: np.ndarray, columns: list[int]) -> float:
        return 1 - np.square(residual[:, columns]).sum() / np.square(about[:, columns]).sum()

    every = list(range(D_MODEL))
    wanted = {
        "inputs": r2(unread, every),
        "targets": r2(left, kept),
        "both": r2(unread, kept),
        "only": r2(left, [3, 7]),
    }
    for case, value in wanted.items():
        assert cases[case]["r2"] == pytest.approx(value, abs=1e-5), case
        assert cases[case]["drop"] == pytest.approx(cases["all"]["r2"] - cases[case]["r2"], abs=1e-9)


def folds() -> np.ndarray:
    """(n_tokens,) of the kept tokens."""
    partition = Partition.of(SETTINGS, N_CONTEXTS, LENGTH, SEED)
    return np.repeat(partition.folds, LENGTH - SKIP)


def test_every_number_of_the_ladder_equals_the_plain_way(tmp_path: Path) -> None:
    x = acts_of()
    g = torch.Generator().manual_seed(5)
    error = 0.2 * x + x @ (0.1 * torch.randn(D_MODEL, D_MODEL, generator=g).double()) + noise(0.4) + 0.3
    found = found_of(tmp_path, x, error)
    X, E, of = kept_rows(x), kept_rows(error), folds()
    contexts = np.repeat(np.arange(N_CONTEXTS), LENGTH - SKIP)
    left: dict[str, np.ndarray] = {name: np.zeros_like(E) for name in (*SCALES, FULL, "rank_2")}
    after: dict[str, np.ndarray] = {name: np.zeros_like(E) for name in SCALES}
    for fold in range(SETTINGS.n_folds):
        train, test = of != fold, of == fold
        e = E - E[train].mean(0)
        for name in SCALES:
            z = X if name != "scale_recon" else X - E
            z = z - z[train].mean(0)
            per = (z[train] * e[train]).sum(0), np.square(z[train]).sum(0)
            scale = per[0] / per[1] if name == "diagonal" else per[0].sum() / per[1].sum()
            rest = e - scale * z
            left[name][test] = rest[test]
            after[name][test] = (rest - plain(X, rest, train))[test]
        predicted = plain(X, E, train)
        left[FULL][test] = (E - predicted)[test]
        _, _, v = np.linalg.svd(predicted[train] - predicted[train].mean(0), full_matrices=False)
        low = (predicted - E[train].mean(0)) @ v[:2].T @ v[:2] + E[train].mean(0)
        left["rank_2"][test] = (E - low)[test]
    scatter = np.square(E - E.mean(0)).sum(1)
    weights = np.concatenate([np.ones((1, N_CONTEXTS)), poisson_weights(N_CONTEXTS, SEED)])

    def draws(residual: np.ndarray, total: np.ndarray) -> np.ndarray:
        sums = [np.bincount(contexts, weights=v) for v in (np.square(residual).sum(1), total)]
        return 1 - (weights @ sums[0]) / (weights @ sums[1])

    r2 = {name: draws(residual, scatter) for name, residual in left.items()}
    for name, drawn in r2.items():
        row = found.rung(name)
        low, high = np.percentile(drawn[1:], [2.5, 97.5])
        assert (row["r2"], row["r2_low"], row["r2_high"]) == pytest.approx((drawn[0], low, high), abs=2e-6), name
        share = drawn / r2[FULL]
        low, high = np.percentile(share[1:], [2.5, 97.5])
        assert (row["share"], row["share_low"], row["share_high"]) == pytest.approx((share[0], low, high), abs=2e-5)
    for name in SCALES:
        total = np.square(left[name] - left[name].mean(0)).sum(1)
        drawn = draws(after[name], total)
        row = found.rung(name)
        ends = np.percentile(drawn[1:], [2.5, 97.5])
        assert (row["left"], row["left_low"], row["left_high"]) == pytest.approx((drawn[0], *ends), abs=5e-6), name
    assert found["ranks"].sort("rank")["r2"][-1] == pytest.approx(found.rung(FULL)["r2"], abs=1e-9)
    assert found["ranks"].sort("rank")["scaled"][-1] == pytest.approx(found.rung(FULL)["r2"], abs=1e-6)


@pytest.mark.parametrize("fit_bias", [True, False])
def test_without_bias_the_full_map_is_that_of_the_study(tmp_path: Path, fit_bias: bool) -> None:
    x = acts_of()
    found = found_of(tmp_path, x, 0.2 * x + noise(0.2), Settings(skip_positions=SKIP, fit_bias=fit_bias))
    X, E, of = kept_rows(x), kept_rows(0.2 * x + noise(0.2)), folds()
    left = np.zeros_like(E)
    for fold in range(SETTINGS.n_folds):
        train = of != fold
        made = plain(X, E, train) if fit_bias else X @ np.linalg.lstsq(X[train], E[train], rcond=None)[0]
        left[~train] = (E - made)[~train]
    wanted = 1 - np.square(left).sum() / np.square(E - E.mean(0)).sum()
    assert found.rung(FULL)["r2"] == pytest.approx(wanted, abs=1e-6)
    assert found.rung("scale_x")["alpha"] == pytest.approx(0.2, abs=0.02)


def test_an_error_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    x = acts_of().float()
    found = found_of(tmp_path, x.double(), torch.zeros_like(x).double())
    assert found["ladder"].is_empty() and found["ablations"].is_empty()
    assert any("does not vary" in text for text in found["remarks"]["text"])


def test_shares_are_given_only_where_there_is_a_linear_part(tmp_path: Path) -> None:
    found = found_of(tmp_path, acts_of(), noise(0.3))
    assert found.rung(FULL)["r2"] < 0.05
    assert found["ladder"]["share"].null_count() == len(found["ladder"])
    assert any("no share of a linear part" in text for text in found["remarks"]["text"])


def test_too_few_tokens_are_refused_in_a_sentence(tmp_path: Path) -> None:
    x = acts_of()[:3, : SKIP + 4]
    with pytest.raises(DataError, match="give more tokens"):
        found_of(tmp_path, x, 0.1 * x, Settings(skip_positions=SKIP, n_folds=2))
