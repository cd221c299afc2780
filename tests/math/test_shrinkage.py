"""Undone shrinkage from moments against stacked least squares; what a planted map looks like."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmcore.math.corrections import Rows
from dmcore.math.joint_moments import ACTS, JointMoments
from dmcore.math.map_facts import (
    SHARES,
    directions,
    row_cosines,
    shape_chance,
    shape_shares,
)
from dmcore.math.shrinkage import RECON, fit_scaled
from dmcore.math.spectrum import scatter_of

D, N, FOLDS = 6, 400, 4


def planted(error_of: object = None, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, JointMoments]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=g, dtype=torch.float64) * torch.arange(1, D + 1) + 3.0
    noise = torch.randn(N, D, generator=g, dtype=torch.float64)
    error = 0.3 * x + noise + 1.0 if error_of is None else error_of(x)  # type: ignore[operator]
    folds = torch.arange(N) % FOLDS
    moments = JointMoments({ACTS: x[:50].mean(0)}, FOLDS, D)
    moments.add({ACTS: x}, error, folds)
    moments.finish()
    return x, error, folds, moments


def rows_of(x: torch.Tensor, error: torch.Tensor, moments: JointMoments) -> Rows:
    return Rows({ACTS: x - moments.shifts[ACTS]}, error, torch.ones(len(x), 1, dtype=x.dtype))


@pytest.mark.parametrize("fit_bias", [True, False])
@pytest.mark.parametrize("per_dimension", [True, False])
@pytest.mark.parametrize("regressor", [ACTS, RECON])
def test_the_numbers_are_those_of_stacked_least_squares(regressor: str, per_dimension: bool, fit_bias: bool) -> None:
    x, error, folds, moments = planted()
    b_dec = torch.linspace(-1, 1, D, dtype=torch.float64)
    train = folds != 1
    z = x if regressor == ACTS else x - error
    if fit_bias:
        z, y = z - z[train].mean(0), error - error[train].mean(0)
    else:
        z, y = z - (b_dec if regressor == RECON else 0.0), error
    columns = range(D) if per_dimension else [slice(None)]
    wanted = [
        np.linalg.lstsq(z[train][:, c].reshape(-1, 1).numpy(), y[train][:, c].reshape(-1).numpy())[0][0]
        for c in columns
    ]
    found = fit_scaled(
        moments, [0, 2, 3], regressor, per_dimension=per_dimension, fit_bias=fit_bias, decoder_bias=b_dec
    )
    np.testing.assert_allclose(found.scale.numpy(), wanted, rtol=1e-9)
    left = y - torch.tensor(wanted) * z
    torch.testing.assert_close(found.after(rows_of(x, error, moments)), left, rtol=1e-9, atol=1e-9)


def test_shrinkage_that_was_planted_is_undone_whole() -> None:
    x, error, _, moments = planted(lambda x: 0.1 * x)
    for regressor, scale in ((ACTS, 0.1), (RECON, 0.1 / 0.9)):
        found = fit_scaled(moments, [0, 1, 2], regressor)
        assert float(found.scale) == pytest.approx(scale, rel=1e-10)
        assert float(found.after(rows_of(x, error, moments)).abs().max()) < 1e-10


def test_a_dead_sae_has_nothing_to_scale_in_its_reconstruction() -> None:
    x, error, _, moments = planted(lambda x: x - 2.0)
    found = fit_scaled(moments, [0, 1, 2], RECON)
    assert found.scale.tolist() == [0.0]
    left = found.after(rows_of(x, error, moments))
    torch.testing.assert_close(left, error - found.target_mean)


def test_on_sums_of_tokens_it_gives_the_sum() -> None:
    x, error, _, moments = planted()
    found = fit_scaled(moments, [0, 1], ACTS, per_dimension=True)
    rows = rows_of(x, error, moments)
    total = Rows(
        {ACTS: rows.inputs[ACTS].sum(0, keepdim=True)}, error.sum(0, keepdim=True), torch.full((1, 1), N + 0.0)
    )
    torch.testing.assert_close(found.after(total)[0], found.after(rows).sum(0), rtol=1e-9, atol=1e-8)


def test_shares_of_a_map_add_up_and_name_what_was_planted() -> None:
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(D, D, generator=g, dtype=torch.float64)
    found = shape_shares(weight)
    assert found["symmetric"] + found["antisymmetric"] == pytest.approx(1.0)
    assert 0 <= found["identity"] <= found["diagonal"] <= found["symmetric"] + 1e-12
    identity = shape_shares(0.3 * torch.eye(D, dtype=torch.float64))
    assert identity == pytest.approx({"identity": 1, "diagonal": 1, "symmetric": 1, "antisymmetric": 0, "slope": 0.3})
    turned = shape_shares(weight - weight.T)
    assert (turned["antisymmetric"], turned["identity"]) == pytest.approx((1.0, 0.0))
    assert all(np.isnan(shape_shares(torch.zeros(D, D))[name]) for name in SHARES)


def test_chance_is_the_mean_over_random_maps() -> None:
    g = torch.Generator().manual_seed(2)
    drawn = [shape_shares(torch.randn(4, 4, generator=g, dtype=torch.float64)) for _ in range(4000)]
    for name, chance in shape_chance(4).items():
        assert np.mean([one[name] for one in drawn]) == pytest.approx(chance, rel=0.06), name


def test_directions_are_those_of_the_map() -> None:
    x, _, _, moments = planted()
    weight = moments.fit([ACTS], range(FOLDS)).weight
    scatter = scatter_of(moments.gram([ACTS], range(FOLDS)))
    plain = directions(weight, scatter, "plain")
    torch.testing.assert_close(plain.reads @ plain.values.diag() @ plain.writes.T, weight)
    data = directions(weight, scatter, "data")
    predicted = (x - x.mean(0)) @ weight @ data.writes
    torch.testing.assert_close(predicted.square().sum(0), data.values, rtol=1e-8, atol=1e-8)
    covariance = predicted.T @ predicted
    torch.testing.assert_close(covariance, covariance.diagonal().diag(), rtol=0, atol=1e-6)
    first = weight @ data.writes[:, 0]
    assert float((first / first.norm() @ data.reads[:, 0]).abs()) == pytest.approx(1.0)
    torch.testing.assert_close(data.reads.T @ data.reads, torch.eye(D, dtype=torch.float64))


def test_the_nearest_decoder_row_is_found_across_slices_and_chance_is_that_of_random_directions() -> None:
    g = torch.Generator().manual_seed(3)
    rows = torch.randn(50, D, generator=g, dtype=torch.float64)
    rows[7] = 0.0
    wanted = torch.nn.functional.normalize(torch.stack([-rows[31], rows[4] + 0.01 * rows[5]], dim=1), dim=0)
    found = row_cosines(wanted, lambda a, b: rows[a:b], 50, rows_at_once=16, n_random=2000)
    assert found is not None
    assert found.latents.tolist() == [31, 4]
    assert float(found.cosines[0]) == pytest.approx(1.0)
    random = torch.nn.functional.normalize(torch.randn(D, 4000, generator=g, dtype=torch.float64), dim=0)
    best = (torch.nn.functional.normalize(rows, dim=1) @ random).abs().amax(0)
    assert found.chance == pytest.approx(float(best.quantile(0.95)), abs=0.01)
    assert row_cosines(wanted, lambda _a, _b: None, 50) is None
