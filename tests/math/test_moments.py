"""Moments: they add up, they do not cancel, and maps from them equal maps from the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from dmcore.errors import DataError
from dmcore.math.linear_map import fit_map, ridge_basis, ridge_path, squared_error
from dmcore.math.moments import InputMoments, MomentAccumulator, TargetMoments

D, M = 7, 3


def data(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=g, dtype=torch.float64) @ torch.randn(D, D, generator=g, dtype=torch.float64) + 5
    return x, x @ torch.randn(D, M, generator=g, dtype=torch.float64) + torch.randn(
        n, M, generator=g, dtype=torch.float64
    )


def accumulate(
    x: torch.Tensor, y: torch.Tensor, cells: torch.Tensor, shift: torch.Tensor, chunk: int, n_cells: int = 3
) -> tuple[InputMoments, TargetMoments]:
    inputs, targets = InputMoments(n_cells, shift), TargetMoments(n_cells, x.shape[1], y.shape[1])
    accumulator = MomentAccumulator(inputs, targets, shift)
    for rows in torch.arange(len(x)).split(chunk):
        accumulator.add(x[rows], y[rows], cells[rows])
    accumulator.finish()
    return inputs, targets


@pytest.mark.parametrize("chunk", [1, 17, 1024, 5000])
def test_moments_equal_the_naive_products_for_any_chunking(chunk: int) -> None:
    x, y = data(2500)
    cells = torch.arange(2500) * 7 % 4 - 1  # some tokens are in no cell
    inputs, targets = accumulate(x, y, cells, x.mean(0), chunk)
    for cell in range(3):
        rows = torch.cat([x - x.mean(0), torch.ones(2500, 1)], 1)[cells == cell]
        torch.testing.assert_close(inputs.gram[cell], rows.T @ rows, rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(targets.cross[cell], rows.T @ y[cells == cell], rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(targets.target_sq[cell], y[cells == cell].square().sum(0))


def test_the_whole_is_exactly_the_sum_of_its_folds_and_shards_merge() -> None:
    x, y = data(3000)
    cells, shift = torch.arange(3000) % 3, x[:10].mean(0)
    inputs, targets = accumulate(x, y, cells, shift, 500)
    assert torch.equal(inputs.pooled([0, 1, 2]), inputs.gram[0] + inputs.gram[1] + inputs.gram[2])
    parts = [accumulate(x[s], y[s], cells[s], shift, 500) for s in (slice(0, 1100), slice(1100, 3000))]
    merged, merged_targets = parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
    torch.testing.assert_close(merged.gram, inputs.gram, rtol=1e-13, atol=1e-9)
    torch.testing.assert_close(merged_targets.cross, targets.cross, rtol=1e-13, atol=1e-8)
    assert float(merged.n_tokens.sum()) == 3000


def test_moments_about_different_shifts_are_not_added() -> None:
    x, y = data(100)
    one, _ = accumulate(x, y, torch.zeros(100, dtype=torch.int64), x.mean(0), 50)
    other, _ = accumulate(x, y, torch.zeros(100, dtype=torch.int64), x[0], 50)
    with pytest.raises(DataError, match="same shift"):
        one + other


@pytest.mark.parametrize("fit_bias", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 3.0, 1e5])
def test_a_map_from_moments_is_scikit_learns_ridge(fit_bias: bool, ridge: float) -> None:
    x, y = data(400)
    inputs, targets = accumulate(x, y, torch.zeros(400, dtype=torch.int64), x[:5].mean(0), 128)
    fitted = fit_map(inputs.pooled([0]), targets.pooled([0])[0], inputs.shift, ridge=ridge, fit_bias=fit_bias)
    reference = Ridge(alpha=ridge, fit_intercept=fit_bias).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(fitted.weight.T.numpy(), reference.coef_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(fitted.predict(x).numpy(), reference.predict(x.numpy()), rtol=1e-8, atol=1e-8)
    residual = (y - fitted.predict(x)).square().sum(0)
    from_moments = squared_error(fitted, inputs.pooled([0]), *targets.pooled([0]))
    torch.testing.assert_close(from_moments, residual, rtol=1e-9, atol=1e-6)


def test_a_mean_a_million_times_the_spread_does_not_cancel() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, D, generator=g, dtype=torch.float64)
    y = x[:, :1] * 2.0
    far = x + 1e6
    inputs, targets = accumulate(far, y, torch.zeros(2000, dtype=torch.int64), far[:16].mean(0), 512)
    fitted = fit_map(inputs.pooled([0]), targets.pooled([0])[0], inputs.shift)
    expected = torch.zeros(D, 1, dtype=torch.float64)
    expected[0] = 2.0
    torch.testing.assert_close(fitted.weight, expected, rtol=0, atol=1e-8)


def test_the_ridge_path_equals_one_fit_a_ridge() -> None:
    x, y = data(1500)
    cells = torch.arange(1500) % 3
    inputs, targets = accumulate(x, y, cells, x[:5].mean(0), 512)
    train, test = [0, 2], [1]
    basis = ridge_basis(inputs.pooled(train), inputs.pooled(test))
    ridges = torch.tensor([0.0, 1e-3, 1.0, 100.0, 1e6], dtype=torch.float64)
    path = ridge_path(
        basis,
        (inputs.pooled(train), targets.pooled(train)[0]),
        (inputs.pooled(test), *targets.pooled(test)),
        ridges,
    )
    held_out = cells == 1
    for ridge, error in zip(ridges.tolist(), path.tolist(), strict=True):
        reference = Ridge(alpha=ridge).fit(x[~held_out].numpy(), y[~held_out].numpy())
        expected = ((y[held_out].numpy() - reference.predict(x[held_out].numpy())) ** 2).sum()
        assert error == pytest.approx(expected, rel=1e-8)
