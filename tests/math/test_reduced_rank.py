"""Reduced-rank maps are the best of their rank, and all ranks at once equal each rank by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmcore.errors import DataError
from dmcore.math.linear_map import fit_map
from dmcore.math.moments import InputMoments, MomentAccumulator, TargetMoments
from dmcore.math.reduced_rank import ReducedRank, ranks_shown, reduced_rank, skip_parameters

N, D_IN, D_OUT = 900, 7, 5


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D_IN, generator=g, dtype=torch.float64) @ torch.randn(D_IN, D_IN, generator=g).double() + 3.0
    y = x @ torch.randn(D_IN, D_OUT, generator=g).double() + torch.randn(N, D_OUT, generator=g).double() * 2 - 1.0
    return x, y


def reduced(x: torch.Tensor, y: torch.Tensor) -> ReducedRank:
    shift = x[:50].mean(0)
    inputs, targets = InputMoments(1, shift), TargetMoments(1, x.shape[1], y.shape[1])
    adds = MomentAccumulator(inputs, targets, shift)
    adds.add(x, y, torch.zeros(len(x), dtype=torch.int64))
    adds.finish()
    return reduced_rank(fit_map(inputs.gram[0], targets.cross[0], shift), inputs.gram[0])


def test_each_rank_is_the_singular_value_decomposition_of_the_stacked_predictions() -> None:
    x, y = data()
    maps = reduced(x, y)
    centred_x, centred_y = (v - v.mean(0) for v in (x, y))
    weight = torch.linalg.lstsq(centred_x, centred_y).solution
    _, _, right = torch.linalg.svd(centred_x @ weight, full_matrices=False)
    for rank in range(D_OUT + 1):
        best = weight @ right[:rank].T @ right[:rank]
        expected = centred_x @ best + y.mean(0)
        torch.testing.assert_close(maps.at(rank).predict(x), expected, rtol=1e-9, atol=1e-9)
        assert np.linalg.matrix_rank(maps.at(rank).weight.numpy(), tol=1e-8) == rank
    assert maps.full_rank == D_OUT


def test_no_other_map_of_the_rank_leaves_less() -> None:
    x, y = data(1)
    maps, g = reduced(x, y), torch.Generator().manual_seed(2)
    for rank in (1, 2, 3):
        fitted = maps.at(rank)
        least = float((y - fitted.predict(x)).square().sum())
        left, _, right = torch.linalg.svd(fitted.weight)
        for _ in range(30):
            # Another map of this rank, as good as it can be on the space of inputs that it reads.
            reads = left[:, :rank] + 0.1 * torch.randn(D_IN, rank, generator=g, dtype=torch.float64)
            design = torch.cat([x @ reads, torch.ones(N, 1, dtype=torch.float64)], 1)
            assert float((y - design @ torch.linalg.lstsq(design, y).solution).square().sum()) >= least - 1e-9
        assert right.shape == (D_OUT, D_OUT)


def test_squared_errors_of_all_ranks_equal_each_map_by_itself() -> None:
    (x, y), (new_x, new_y) = data(), data(3)
    maps = reduced(x, y)
    for a, b in ((x, y), (new_x, new_y)):
        at_once = maps.squared_errors(a, b)
        assert at_once.shape == (N, D_OUT + 1)
        for rank in range(D_OUT + 1):
            expected = (b - maps.at(rank).predict(a)).square().sum(1)
            torch.testing.assert_close(at_once[:, rank], expected, rtol=1e-9, atol=1e-8)
    training = maps.squared_errors(x, y).sum(0)
    assert bool((training.diff() <= 1e-9).all()), "on the training tokens every rank leaves less"
    single = maps.to(torch.float32).squared_errors(x.float(), y.float())
    torch.testing.assert_close(single.double(), maps.squared_errors(x, y), rtol=1e-3, atol=1e-3)


def test_a_map_of_low_rank_is_recovered_at_that_rank() -> None:
    x, _ = data()
    g = torch.Generator().manual_seed(5)
    y = x @ torch.randn(D_IN, 2, generator=g).double() @ torch.randn(2, D_OUT, generator=g).double() + 0.5
    left = reduced(x, y).squared_errors(x, y).sum(0)
    assert float(left[1]) > 1.0 and float(left[2]) < 1e-12 * float(left[0])
    assert float(left[-1]) < 1e-12 * float(left[0])


def test_a_constant_dimension_and_a_rank_that_is_not_there() -> None:
    x, y = data()
    x[:, 2] = 7.0
    maps = reduced(x, y)
    assert bool(torch.isfinite(maps.squared_errors(x, y)).all())
    for rank in (-1, D_OUT + 1):
        with pytest.raises(DataError, match="choose 0 to 5"):
            maps.at(rank)


def test_parameters_and_the_ranks_that_are_shown() -> None:
    assert ranks_shown(128) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert ranks_shown(6) == [1, 2, 4, 6]
    assert ranks_shown(1) == [1]
    assert skip_parameters(0, 10) == 0
    assert skip_parameters(3, 10) == 60
    assert skip_parameters(10, 10) == 100
