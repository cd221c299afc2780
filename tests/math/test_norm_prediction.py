"""Norm prediction from moments equals scikit-learn on the stacked tokens; planted norms are found; rounding has no R2."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from dmcore.math.bootstrap import bootstrap_units, interval, poisson_weights
from dmcore.math.moments import InputMoments, MomentAccumulator, TargetMoments, error_targets
from dmcore.math.norm_prediction import (
    COEFFICIENTS,
    PROBE,
    NormFit,
    NormMoments,
    NormSums,
    estimates,
    fit_norms,
    norms_of,
    vectors_of,
)
from dmcore.math.split import FoldedFit, fit_folds, split_tokens
from dmcore.results.scaling import QUANTITIES

N_CONTEXTS, LENGTH, SKIP, N_FOLDS, D, SEED = 60, 50, 5, 4, 12, 3
FOLDS = (torch.arange(N_CONTEXTS) * 7 % N_FOLDS).repeat_interleave(LENGTH)
KEPT = torch.arange(LENGTH).repeat(N_CONTEXTS) >= SKIP
BIAS = torch.linspace(-1.0, 2.0, D, dtype=torch.float64)


def activations(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations with outlier dimensions far from zero, and an error with a linear and a nonlinear part."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.ones(D, dtype=torch.float64)
    scale[2], scale[7] = 300.0, 1000.0
    latent = torch.randn(len(FOLDS), D, generator=g, dtype=torch.float64)
    latent[~KEPT] *= 50.0
    x = (latent @ torch.randn(D, D, generator=g, dtype=torch.float64) + 4.0) * scale
    noise = torch.randn(len(FOLDS), D, generator=g, dtype=torch.float64)
    return x, (0.2 * x / scale + (1.0 + latent.relu()[:, :1]) * noise + latent.abs()) * scale.sqrt()


CHUNKS = [(first, slice(first * LENGTH, (first + 10) * LENGTH)) for first in range(0, N_CONTEXTS, 10)]
"""Of ten contexts: the first, and its tokens."""
CELLS = [[fold] for fold in range(N_FOLDS)]


def linear_maps(x: torch.Tensor, error: torch.Tensor) -> tuple[InputMoments, FoldedFit]:
    """The Gram matrices of the kept tokens, and the maps of the split."""
    inputs, targets = InputMoments(N_FOLDS, x[:500].double().mean(0)), TargetMoments(N_FOLDS, D, D + 1)
    accumulator = MomentAccumulator(inputs, targets, inputs.shift)
    accumulator.add(x, error_targets(error), torch.where(KEPT, FOLDS, -1))
    accumulator.finish()
    return inputs, fit_folds(inputs, targets, CELLS, full=False)


def chunk_of(x: torch.Tensor, error: torch.Tensor, linear: FoldedFit, rows: slice) -> dict[str, torch.Tensor]:
    """The six quantities of some tokens."""
    return vectors_of(x[rows], error[rows], split_tokens(linear, x[rows], error[rows], FOLDS[rows]).linear)


def first_pass(
    x: torch.Tensor, error: torch.Tensor, inputs: InputMoments, linear: FoldedFit, bias: torch.Tensor | None
) -> NormMoments:
    """Moments, in chunks."""
    moments = NormMoments(inputs, CELLS, error[:500].double().mean(0), len(QUANTITIES) + (bias is not None))
    for _, rows in CHUNKS:
        norms = norms_of(chunk_of(x, error, linear, rows), bias)
        moments.add(x[rows], error[rows], norms, torch.where(KEPT, FOLDS, -1)[rows])
    moments.finish()
    return moments


def run(
    x: torch.Tensor, error: torch.Tensor, bias: torch.Tensor | None = BIAS
) -> tuple[dict, NormFit, dict[str, torch.Tensor]]:
    """Both passes, in chunks; also the six quantities of all tokens."""
    inputs, linear = linear_maps(x, error)
    fit = fit_norms(first_pass(x, error, inputs, linear, bias), linear)
    sums = NormSums(fit, bootstrap_units(N_CONTEXTS))
    for first, rows in CHUNKS:
        vectors = chunk_of(x, error, linear, rows)
        sums.add(vectors, norms_of(vectors, bias), torch.where(KEPT, FOLDS, -1)[rows], (first, 10))
    return estimates(sums, fit, SEED), fit, chunk_of(x, error, linear, slice(None))


def plain(source: torch.Tensor, norm: torch.Tensor) -> list[float]:
    """R2 with its interval, the plain way: one scikit-learn fit a fold on stacked tokens."""
    v, y, folds = source[KEPT].double().numpy(), norm[KEPT].numpy(), FOLDS[KEPT].numpy()
    predicted = np.zeros_like(y)
    for fold in range(N_FOLDS):
        train = folds != fold
        predicted[~train] = LinearRegression().fit(v[train], y[train]).predict(v[~train])
    weights = np.concatenate([np.ones((1, N_CONTEXTS)), poisson_weights(N_CONTEXTS, SEED)])
    per_context = [part.reshape(N_CONTEXTS, -1).sum(1) for part in ((y - predicted) ** 2, (y - y.mean()) ** 2)]
    r2 = 1.0 - (weights @ per_context[0]) / (weights @ per_context[1])
    expected = interval(float(r2[0]), r2[1:])
    return [expected.value, expected.low, expected.high]


def check_against_plain(found: dict, vectors: dict[str, torch.Tensor], quantities: list[str], tolerance: float) -> None:
    for quantity in quantities:
        norm = vectors[quantity].double().square().sum(1)
        for predictor in ("x", "itself"):
            r2 = found[quantity, predictor]
            expected = plain(vectors["x" if predictor == "x" else quantity], norm)
            np.testing.assert_allclose([r2.value, r2.low, r2.high], expected, atol=tolerance, rtol=0)


def test_all_tests_equal_scikit_learn_on_the_stacked_tokens() -> None:
    found, fit, vectors = run(*activations())
    assert bool(fit.varies.all())
    check_against_plain(found, vectors, list(QUANTITIES), 1e-8)
    centred = vectors["recon"] - BIAS
    probe = found[PROBE, "itself"]
    expected = plain(centred, centred.square().sum(1))
    np.testing.assert_allclose([probe.value, probe.low, probe.high], expected, atol=1e-8, rtol=0)
    whole = LinearRegression().fit(centred[KEPT].numpy(), centred[KEPT].square().sum(1).numpy())
    assert fit.probe is not None and fit.probe.full_map is not None
    slope = fit.probe.full_map.weight[:, 0].numpy()
    np.testing.assert_allclose(slope, whole.coef_, rtol=1e-7, atol=1e-9 * np.abs(whole.coef_).max())


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_moments_of_every_quantity_are_those_of_its_stacked_tokens(quantity: str) -> None:
    x, error = activations()
    inputs, linear = linear_maps(x, error)
    gram, cross = first_pass(x, error, inputs, linear, BIAS).of(quantity, linear)
    vectors = chunk_of(x, error, linear, slice(None))
    norms = norms_of(vectors, BIAS)
    for fold in range(N_FOLDS):
        rows = KEPT & FOLDS.eq(fold)
        v = torch.cat([vectors[quantity][rows] - gram.shift, torch.ones(int(rows.sum()), 1, dtype=x.dtype)], 1)
        expected = {"gram": v.T @ v, "cross": v.T @ norms[rows], "target_sq": norms[rows].square().sum(0)}
        found = {"gram": gram.gram[fold], "cross": cross.cross[fold], "target_sq": cross.target_sq[fold]}
        for name, matrix in expected.items():
            scale = float(matrix.abs().max())
            torch.testing.assert_close(found[name], matrix, rtol=1e-9, atol=1e-12 * scale)


def test_float32_agrees_with_scikit_learn_in_float64() -> None:
    x, error = activations()
    found, _, vectors = run(x.float(), error.float())
    check_against_plain(found, vectors, list(QUANTITIES), 1e-5)


def test_the_six_quantities_are_the_sums_that_their_moments_are_made_of() -> None:
    x, error, linear = torch.randn(3, 7, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = vectors_of(x, error, linear)
    assert tuple(found) == QUANTITIES == tuple(COEFFICIENTS)
    for quantity, (of_x, of_error, of_linear) in COEFFICIENTS.items():
        torch.testing.assert_close(found[quantity], of_x * x + of_error * error + of_linear * linear)


def test_parts_that_lie_in_a_plane_are_predicted_from_within_it() -> None:
    x, _ = activations()
    g = torch.Generator().manual_seed(5)
    plane = torch.randn(2, D, generator=g, dtype=torch.float64)
    plane[:, :3] = 0.0
    z = (x - x.mean(0)) / x.std(0)
    wobble = torch.randn(len(x), 2, generator=g, dtype=torch.float64) * (1.0 + z[:, 4:5].abs())
    error = (z @ torch.randn(D, 2, generator=g, dtype=torch.float64) + wobble + z[:, 5:7].square()) @ plane
    found, _, vectors = run(x, error)
    assert torch.linalg.matrix_rank(vectors["linear"][KEPT], rtol=1e-9) == 2
    check_against_plain(found, vectors, ["error", "linear", "nonlinear"], 1e-7)


def test_the_norm_of_features_that_are_on_or_off_is_linear_and_that_of_noise_is_not() -> None:
    g = torch.Generator().manual_seed(1)
    directions = torch.linalg.qr(torch.randn(D, D, generator=g, dtype=torch.float64)).Q
    on = (torch.rand(len(FOLDS), D, generator=g) < 0.2).double()
    recon = BIAS + (on * torch.linspace(1.0, 3.0, D, dtype=torch.float64)) @ directions
    noise = torch.randn(len(FOLDS), D, generator=g, dtype=torch.float64)
    found, _, _ = run(recon + noise, noise)
    assert found["recon", "itself"] == pytest.approx(1.0, abs=1e-10)
    assert found[PROBE, "itself"] == pytest.approx(1.0, abs=1e-10)
    assert found["recon", "itself"].low == pytest.approx(1.0, abs=1e-9)
    assert 0.1 < found["recon", "x"] < 0.9
    assert abs(found["error", "itself"]) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_that_are_constant_up_to_rounding_have_no_r2_and_warn_of_nothing(dtype: torch.dtype) -> None:
    x = activations()[0].to(dtype)
    constant = BIAS.to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        identity, fit, vectors = run(x, torch.zeros_like(x))
        dead, dead_fit, dead_vectors = run(x, x - constant)
        still, _, _ = run(x, x - constant, bias=None)
    constant_in_dead = {"recon", "recon_plus_nonlinear", "nonlinear", PROBE}
    for found, null in ((identity, {"error", "linear", "nonlinear"}), (dead, constant_in_dead)):
        assert {quantity for (quantity, _), r2 in found.items() if np.isnan(r2)} == null
        assert all(np.isnan([r2.low, r2.high]).all() for (quantity, _), r2 in found.items() if quantity in null)
    assert dead_fit.probe is None and fit.probe is not None
    assert (PROBE, "itself") not in still
    tolerance = 1e-8 if dtype == torch.float64 else 1e-5
    check_against_plain(identity, vectors, ["x", "recon", "recon_plus_nonlinear"], tolerance)
    check_against_plain(dead, dead_vectors, ["x", "error", "linear"], tolerance)
