"""Pairs of SAEs: equal to fits by hand, to scipy and to statsmodels; planted dependence is found, and noise is not."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import kstest, rankdata, spearmanr
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from dmcore.math import bootstrap
from dmcore.math.bootstrap import bootstrap_units, interval, poisson_weights
from dmcore.math.intervals import interval_ends
from dmcore.math.token_pairs import PairEstimates, PairMoments, PairSums, pair_estimates

N_CONTEXTS, N_KEPT, N_FOLDS = 24, 15, 4
FOLDS = np.arange(N_CONTEXTS) % N_FOLDS
INTERVALS = ("r2", "spearman", "r2_both", "closed")


def estimates(y: np.ndarray, z: np.ndarray, folds: np.ndarray = FOLDS, chunk: int = 7) -> PairEstimates:
    """The fast path, over chunks of contexts; y and z are (n_saes, n_contexts, n_kept)."""
    columns = np.concatenate([y, z])
    spread = columns.std((1, 2), keepdims=True)
    columns = (columns - columns.mean((1, 2), keepdims=True)) * (spread > 0) / np.where(spread > 0, spread, 1)
    values = np.concatenate([np.ones((1, *y.shape[1:])), columns]).swapaxes(0, 1)
    ranks = np.stack([rankdata(row, axis=None).reshape(row.shape) for row in y]).swapaxes(0, 1)
    ranks = (ranks - (y[0].size + 1) / 2) / y[0].size
    starts = range(0, y.shape[1], chunk)
    moments = PairMoments(len(y), int(folds.max()) + 1)
    for first in starts:
        moments.add(values[first : first + chunk], folds[first : first + chunk])
    sums = PairSums(moments, bootstrap_units(y.shape[1]))
    for first in starts:
        rows = slice(first, first + chunk)
        sums.add(values[rows], ranks[rows], np.arange(y.shape[1])[rows], folds[rows])
    return pair_estimates(sums, seed=3)


def planted(seed: int = 0, n_saes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Norms that share an effect of the context and of the token, with ties, far from zero and of different sizes."""
    g = np.random.default_rng(seed)
    of_context, of_token = g.normal(size=(N_CONTEXTS, 1)), g.normal(size=(N_CONTEXTS, N_KEPT))
    noise = g.normal(size=(2 * n_saes, N_CONTEXTS, N_KEPT))
    both = (50 + of_context + of_token + noise) * np.logspace(-2, 2, 2 * n_saes)[:, None, None]
    both[1] = both[1].round(1)
    return both[:n_saes], both[n_saes:] + 0.3 * both[:n_saes]


def held_out(regressors: list[np.ndarray], target: np.ndarray, folds: np.ndarray = FOLDS) -> np.ndarray:
    """(n_tokens,) predictions by scikit-learn from the other folds."""
    X, y = np.stack([r.reshape(-1) for r in regressors], axis=1), target.reshape(-1)
    of_token = np.repeat(folds, target.shape[1])
    predicted = np.empty(len(y))
    for fold in np.unique(folds):
        test = of_token == fold
        predicted[test] = LinearRegression().fit(X[~test], y[~test]).predict(X[test])
    return predicted


def test_held_out_r2_equals_that_of_fits_by_hand_in_every_fold() -> None:
    y, z = planted()
    found = estimates(y, z)
    for i, j in itertools.permutations(range(3), 2):
        r2 = r2_score(y[j].reshape(-1), held_out([y[i]], y[j]))
        both = r2_score(y[j].reshape(-1), held_out([y[i], z[i]], y[j]))
        assert found.r2[0, i, j] == pytest.approx(r2, abs=1e-8)
        assert found.r2_both[0, i, j] == pytest.approx(both, abs=1e-8)
        assert found.closed[0, i, j] == pytest.approx((both - r2) / (1 - r2), abs=1e-8)


def test_rank_correlation_with_ties_equals_that_of_scipy() -> None:
    y, z = planted()
    assert len(np.unique(y[1])) < y[1].size / 2
    found = estimates(y, z)
    for i, j in itertools.permutations(range(3), 2):
        assert found.spearman[0, i, j] == pytest.approx(spearmanr(y[i].ravel(), y[j].ravel()).statistic, abs=1e-10)


def test_tests_of_the_added_norm_equal_those_of_statsmodels() -> None:
    y, z = planted()
    found = estimates(y, z)
    groups = np.repeat(np.arange(N_CONTEXTS), N_KEPT)
    for i, j in itertools.permutations(range(3), 2):
        one, both = (
            sm.OLS(y[j].ravel(), sm.add_constant(np.stack([v.ravel() for v in regressors], axis=1)))
            for regressors in ([y[i]], [y[i], z[i]])
        )
        f, p, _ = both.fit().compare_f_test(one.fit())
        clustered = both.fit(cov_type="cluster", cov_kwds={"groups": groups})
        assert found.f[i, j] == pytest.approx(f, rel=1e-8)
        assert found.p[i, j] == pytest.approx(p, rel=1e-7, abs=1e-300)
        assert found.z[i, j] == pytest.approx(clustered.tvalues[2], rel=1e-8)
        assert abs(found.z[i, j] ** 2 - f) > 1e-3 * f  # clusters matter here, so the test can tell


def naive(
    y: np.ndarray, z: np.ndarray, i: int, j: int, weights: np.ndarray, folds: np.ndarray
) -> dict[str, np.ndarray]:
    """Replicates, token by token: each token weighs as its context's unit does."""
    of_token = weights[:, np.repeat(bootstrap_units(len(folds)), N_KEPT)]
    target = y[j].reshape(-1)
    one = (target - held_out([y[i]], y[j], folds)) ** 2
    both = (target - held_out([y[i], z[i]], y[j], folds)) ** 2
    total = (target - target.mean()) ** 2
    a, b = (rankdata(v) - (target.size + 1) / 2 for v in (y[i].ravel(), target))
    r2, r2_both = 1 - of_token @ one / (of_token @ total), 1 - of_token @ both / (of_token @ total)
    spearman = (of_token @ (a * b)) / np.sqrt((of_token @ a**2) * (of_token @ b**2))
    return {"r2": r2, "r2_both": r2_both, "closed": (r2_both - r2) / (1 - r2), "spearman": spearman}


@pytest.mark.parametrize("most_units", [2000, 7])
def test_intervals_equal_those_of_a_bootstrap_over_tokens(most_units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MAX_UNITS", most_units)  # 7: contexts of several folds share a unit
    y, z = planted(n_saes=2)
    found = estimates(y, z)
    weights = poisson_weights(min(N_CONTEXTS, most_units), 3)
    for name, replicates in naive(y, z, 0, 1, weights, FOLDS).items():
        value, low, high = getattr(found, name)[:, 0, 1]
        expected = interval(value, replicates)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-8), name
        assert low < value < high


def test_bundling_changes_no_estimate_and_no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    y, z = planted()
    plain = estimates(y, z)
    monkeypatch.setattr(bootstrap, "MAX_UNITS", 5)
    bundled = estimates(y, z, chunk=24)
    for name in INTERVALS:
        np.testing.assert_allclose(getattr(bundled, name)[0], getattr(plain, name)[0], atol=1e-12)
    for name in ("f", "p", "z"):
        np.testing.assert_allclose(getattr(bundled, name), getattr(plain, name), rtol=1e-9)
    assert abs(bundled.r2[1] - plain.r2[1]).max() > 1e-3  # the intervals do change


def test_an_exact_line_is_found_exactly_and_leaves_nothing_to_close() -> None:
    y, z = planted()
    y[2] = 2 * y[0] + 1
    found = estimates(y, z)
    np.testing.assert_allclose(found.r2[:, [0, 2], [2, 0]], 1.0, atol=1e-12)
    assert np.isnan(found.closed[:, 0, 2]).all()
    assert np.isnan([found.f[0, 2], found.p[0, 2], found.z[0, 2]]).all()
    assert found.spearman[0, 0, 2] == pytest.approx(1.0, abs=1e-12)


def test_a_planted_nonlinear_norm_closes_its_share_of_the_variance() -> None:
    g = np.random.default_rng(1)
    shape = (300, 60)
    source, own, noise = g.normal(size=(3, *shape))
    nonlinear = 0.5 * source + own  # 1 apart from the source
    target = source + 3 * nonlinear + 2 * noise
    folds = np.arange(300) % 5
    found = estimates(np.stack([source, target]), np.stack([nonlinear, noise]), folds, chunk=50)
    # What y leaves is 9 of own and 4 of noise; z closes the 9.
    assert found.closed[0, 0, 1] == pytest.approx(9 / 13, abs=0.01)
    assert found.closed[1, 0, 1] < 9 / 13 < found.closed[2, 0, 1]
    assert found.r2[0, 0, 1] == pytest.approx(1 - 13 / (2.5**2 + 13), abs=0.01)
    assert found.p[0, 1] == 0.0
    assert found.z[0, 1] > 100


def test_independent_noise_closes_nothing_and_its_p_are_uniform() -> None:
    g = np.random.default_rng(2)
    y, z = 5 + g.normal(size=(2, 15, N_CONTEXTS, N_KEPT))
    found = estimates(y, z)
    apart = ~np.eye(15, dtype=bool)
    assert abs(np.median(found.closed[0][apart])) < 0.02
    assert (found.r2[0][apart] < 0.05).all()
    # Pairs share SAEs, so not all 210 are independent: a loose bound on the distance, which a wrong p still fails.
    assert kstest(found.p[apart], "uniform").statistic < 0.15
    assert 0.8 < found.z[apart].std() < 1.3


def test_an_sae_and_itself_have_the_diagonal_that_is_promised() -> None:
    found = estimates(*planted())
    for name in ("r2", "r2_both", "spearman"):
        np.testing.assert_array_equal(getattr(found, name)[:, range(3), range(3)], 1.0)
    assert np.isnan(found.closed[:, range(3), range(3)]).all()
    assert all(np.isnan(np.diag(v)).all() for v in (found.f, found.p, found.z))
    np.testing.assert_allclose(found.spearman[0], found.spearman[0].T, atol=1e-15)


def test_a_norm_that_is_constant_gives_no_numbers_and_no_warning() -> None:
    y, z = planted(n_saes=4)
    untouched = estimates(y[2:], z[2:])
    y[0], z[1] = 7.3, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimates(y, z)
    for name in INTERVALS:
        values = getattr(found, name)
        assert np.isnan(values[:, 0]).all(), name
        assert np.isnan(values[:, :, 0]).all(), name
        np.testing.assert_allclose(values[:, 2:, 2:], getattr(untouched, name), atol=1e-9)
    assert np.isfinite(found.r2[0, 1, 2:]).all()  # y of SAE 1 varies, its z does not
    assert np.isnan(found.r2_both[:, 1, 2:]).all()
    assert np.isnan(found.closed[:, 1]).all()
    assert np.isnan(np.stack([found.f, found.p, found.z])[:, :2]).all()
    assert np.isfinite(np.stack([found.f, found.p, found.z])[:, 2, 3]).all()


@pytest.mark.parametrize("slope", [0.9, 1 / 3, -0.7, 123.4])
def test_a_nonlinear_norm_on_a_line_with_the_error_norm_adds_nothing(slope: float) -> None:
    y, z = planted()
    z[:] = slope * y + 2
    found = estimates(y, z)
    np.testing.assert_allclose(found.r2_both, found.r2, atol=1e-12)
    np.testing.assert_allclose(found.closed[:, ~np.eye(3, dtype=bool)], 0.0, atol=1e-12)
    assert np.isnan(np.stack([found.f, found.p, found.z])).all()


@pytest.mark.parametrize("value", [4.0, 0.1, 1 / 3, -123.4])
def test_a_norm_that_varies_in_one_fold_alone_is_predicted_by_the_mean_there(value: float) -> None:
    y, z = planted()
    y[0, FOLDS != 1] = value
    predicted = held_out([y[0]], y[2]).reshape(y[2].shape)
    predicted[FOLDS == 1] = y[2, FOLDS != 1].mean()  # set here: scikit-learn fits a slope to the rounding of 1 / 3
    found = estimates(y, z)
    assert found.r2[0, 0, 2] == pytest.approx(r2_score(y[2].reshape(-1), predicted.reshape(-1)), abs=1e-8)
    assert found.r2[0, 2, 0] == pytest.approx(r2_score(y[0].reshape(-1), held_out([y[2]], y[0])), abs=1e-8)


def test_interval_ends_equal_the_interval_of_each_statistic() -> None:
    g = np.random.default_rng(0)
    values, replicates = g.normal(size=(4, 3)), g.normal(size=(100, 4, 3))
    replicates[:50, 0, 0] = np.nan
    replicates[5:, 1, 1] = np.inf
    values[2, 2] = np.nan
    ends = interval_ends(values, replicates)
    for index in np.ndindex(4, 3):
        one = interval(values[index], replicates[(slice(None), *index)])
        np.testing.assert_allclose(ends[(slice(None), *index)], [one.low, one.high], rtol=1e-14)
    assert np.isnan(ends[:, [1, 2], [1, 2]]).all()
    assert np.isfinite(ends[:, 0, 0]).all()
    assert np.isnan(interval_ends(values, replicates[:10])).all()
