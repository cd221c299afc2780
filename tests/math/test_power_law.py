"""Laws of width: planted ones come back, the fit is scipy's, and 95 % means 95 %."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy import stats
from scipy.optimize import least_squares

from dmcore.errors import DataError
from dmcore.math.bootstrap import poisson_weights
from dmcore.math.decay import Decay
from dmcore.math.power_law import LawFit, fit_power_law
from dmcore.math.rival_laws import N_PARAMS, fit_exponential, fit_law, predict_widest

Law = tuple[float, float, float]


NARROW, WIDE = 2.0 ** np.arange(8, 13), 2.0 ** np.arange(14, 19)
LAWS: list[Law] = [(0.1, 2.0, 0.4), (0.05, 1.5, 0.3), (0.02, 5.0, 0.6)]


def planted(law: Law, widths: np.ndarray) -> np.ndarray:
    c, a, m = law
    return c + a * widths**-m


def inside(fit: LawFit, law: Law, scatter: bool) -> list[bool]:
    estimates = (fit.scatter_c, fit.scatter_a, fit.scatter_m) if scatter else (fit.c, fit.a, fit.m)
    return [one.low <= truth <= one.high for one, truth in zip(estimates, law, strict=True)]


def assert_calibrated(hits: list[list[bool]]) -> None:
    coverage = np.mean(hits, axis=0)
    assert len(hits) == 400
    assert ((coverage >= 0.92) & (coverage <= 0.98)).all(), f"c, a, m inside in {coverage}"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["log", "linear"])
def test_intervals_hold_a_planted_law_95_times_in_100_with_and_without_replicates(space: str) -> None:
    g = np.random.default_rng([11, len(space)])
    texts, scatter = [], []
    for trial in range(400):
        widths, law = (NARROW, WIDE)[trial % 2], LAWS[trial % 3]
        values = planted(law, widths) * (1 + 0.01 * g.normal(size=5))
        replicates = values * (1 + 0.01 * g.normal(size=(300, 5)))
        fit = fit_power_law(widths, values, replicates=replicates, space=space)
        texts.append(inside(fit, law, scatter=False))
        scatter.append(inside(fit, law, scatter=True))
    assert_calibrated(texts)
    assert_calibrated(scatter)


@pytest.mark.usefixtures("unchecked")
def test_intervals_from_a_bootstrap_over_contexts_hold_a_planted_law_95_times_in_100() -> None:
    g = np.random.default_rng(12)
    weights = poisson_weights(200, seed=3, n_replicates=500)
    hits = []
    for trial in range(200):
        law = LAWS[trial % 3]
        size = g.gamma(4.0, 1.0, (200, 1))
        shared, own = 0.3 * g.normal(size=(200, 1)), 0.1 * g.normal(size=(200, 5))
        error = size * planted(law, WIDE) * (1 + shared + own)
        fit = fit_power_law(
            WIDE, error.sum(0) / size.sum(), replicates=(weights @ error) / (weights @ size), space="log"
        )
        hits.append(inside(fit, law, scatter=False))
    coverage = np.mean(hits, axis=0)
    assert ((coverage >= 0.91) & (coverage <= 0.985)).all(), f"c, a, m inside in {coverage}"


def scipy_fit(widths: np.ndarray, values: np.ndarray, space: str) -> tuple[np.ndarray, float]:
    """c, a * (first width)^-m and m of bounded least squares from several starts."""
    relative, transform = widths / widths[0], np.log if space == "log" else np.asarray
    found = [
        least_squares(
            lambda p: transform(p[0] + p[1] * relative ** -p[2]) - transform(values),
            [0.5 * values.min(), values.max() - 0.5 * values.min(), start],
            bounds=([0, 0, 0], [np.inf, np.inf, 4]),
            x_scale=[values.min(), values.min(), 0.1],
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
        )
        for start in (0.1, 0.4, 1.0, 2.0)
    ]
    best = min(found, key=lambda one: one.cost)
    return best.x, 2 * best.cost


@pytest.mark.parametrize("space", ["log", "linear"])
def test_the_fit_is_that_of_scipy(space: str) -> None:
    g = np.random.default_rng(5)
    for trial in range(24):
        widths = (NARROW, WIDE)[trial % 2]
        values = planted(LAWS[trial % 3], widths) * (1 + 0.01 * g.normal(size=5))
        fit = fit_power_law(widths, values, space=space)
        expected, rss = scipy_fit(widths, values, space)
        assert fit.rss <= rss * (1 + 1e-9)
        if not fit.at_bound:
            found = [fit.c, fit.a * widths[0] ** -fit.m, fit.m]
            np.testing.assert_allclose(found, expected, rtol=1e-6)
            assert fit.rss == pytest.approx(rss, rel=1e-9)


@pytest.mark.parametrize("space", ["log", "linear"])
@pytest.mark.parametrize("law", LAWS)
def test_a_law_without_noise_comes_back(law: Law, space: str) -> None:
    fit = fit_power_law(WIDE, planted(law, WIDE), space=space)
    np.testing.assert_allclose([fit.c, fit.a, fit.m], law, rtol=1e-7)
    np.testing.assert_allclose(fit.predict(WIDE * 64), planted(law, WIDE * 64), rtol=1e-8)
    assert fit.at_bound == ()
    assert np.isnan(fit.aic)


def test_a_second_call_gives_the_same_bits() -> None:
    g = np.random.default_rng(1)
    values = planted(LAWS[0], NARROW) * (1 + 0.01 * g.normal(size=5))
    replicates = values * (1 + 0.01 * g.normal(size=(300, 5)))
    first, second = (fit_power_law(NARROW, values, replicates=replicates) for _ in range(2))
    for name in ("c", "a", "m", "scatter_c", "scatter_a", "scatter_m"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one, one.low, one.high) == (other, other.low, other.high)
    np.testing.assert_array_equal(first.band(WIDE), second.band(WIDE))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["log", "linear"])
def test_where_saes_scatter_far_more_than_the_texts_the_interval_is_that_of_refits(space: str) -> None:
    g = np.random.default_rng(8)
    values = planted(LAWS[0], NARROW) * (1 + np.array([0.02, -0.03, 0.01, 0.03, -0.02]))
    noise = 0.003 * (np.sqrt(0.95) * g.normal(size=(100, 1)) + np.sqrt(0.05) * g.normal(size=(100, 5)))
    replicates = values * np.exp(noise - noise.mean(0))
    fit = fit_power_law(NARROW, values, replicates=replicates, space=space)
    plain = fit_power_law(NARROW, values, space=space)
    assert (fit.c, fit.a, fit.m) == (plain.c, plain.a, plain.m)
    refits = [fit_power_law(NARROW, one, space=space) for one in replicates]
    for name in ("c", "a", "m"):
        low, high = np.percentile([getattr(refit, name) for refit in refits], [2.5, 97.5])
        estimate = getattr(fit, name)
        assert estimate.high - estimate.low == pytest.approx(high - low, rel=0.25)
        assert estimate.low == pytest.approx(low, abs=0.2 * (high - low))
        scatter = getattr(fit, f"scatter_{name}")
        assert scatter.high - scatter.low > 5 * (high - low)
    predicted = np.percentile([refit.predict(WIDE) for refit in refits], [2.5, 97.5], axis=0)
    np.testing.assert_allclose(fit.band(WIDE), predicted, rtol=0.003)


def test_without_replicates_the_interval_is_that_of_the_scatter() -> None:
    values = planted(LAWS[0], NARROW) * np.array([1.01, 0.99, 1.0, 1.01, 0.99])
    fit = fit_power_law(NARROW, values)
    assert (fit.m.low, fit.m.high) == (fit.scatter_m.low, fit.scatter_m.high)
    assert fit.m.low < fit.m < fit.m.high
    np.testing.assert_array_equal(fit.band(WIDE), fit.band(WIDE, scatter=True))


def test_the_interval_without_a_floor_is_that_of_linear_regression_in_logarithms() -> None:
    values = 3 * NARROW**-0.25 * np.array([1.01, 0.98, 1.0, 1.015, 0.99])
    fit = fit_power_law(NARROW, values, floor=False)
    reference = sm.OLS(np.log(values), sm.add_constant(-np.log(NARROW))).fit()
    assert fit.m == pytest.approx(reference.params[1], rel=1e-9)
    assert fit.rss == pytest.approx(reference.ssr, rel=1e-9)
    np.testing.assert_allclose([fit.m.low, fit.m.high], reference.conf_int()[1], rtol=2e-3)
    np.testing.assert_allclose(np.log([fit.a.low, fit.a.high]), reference.conf_int()[0], rtol=2e-3)
    assert fit.aic == pytest.approx(5 * np.log(reference.ssr / 5) + 2 * 2)


def test_bounds_are_named_and_kept() -> None:
    steep = fit_power_law(NARROW, np.array([0.4, 0.3, 0.3, 0.3, 0.3]))
    assert steep.at_bound == ("m",)
    assert steep.m == pytest.approx(4)
    no_floor = fit_power_law(NARROW, np.array([0.4, 0.39, 0.37, 0.3, 0.2]))
    assert no_floor.at_bound == ("c",)
    assert no_floor.c == 0
    zero = fit_power_law(NARROW, np.array([0.4, 0.39, 0.37, 0.3, 0.2]), floor=False)
    assert no_floor.rss == pytest.approx(zero.rss)
    assert no_floor.m == pytest.approx(zero.m)
    rising = fit_power_law(NARROW, np.array([0.2, 0.21, 0.22, 0.23, 0.24]))
    assert rising.at_bound == ("a",)
    assert rising.a == 0
    assert np.isnan(rising.m)
    assert rising.c == pytest.approx(np.exp(np.log([0.2, 0.21, 0.22, 0.23, 0.24]).mean()))


def test_equal_values_are_a_constant_whatever_the_replicates_do() -> None:
    values = np.full(5, 0.3)
    for replicates in (None, np.full((100, 5), 0.3), 0.3 + 0.01 * np.random.default_rng(0).normal(size=(100, 5))):
        for law in N_PARAMS:
            fit = fit_law(law, NARROW, values, replicates=replicates)
            np.testing.assert_allclose(fit.predict(WIDE), 0.3)
            assert law == "constant" or "a" in fit.at_bound
            assert np.isfinite(fit.band(WIDE)).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("error")
def test_odd_data_never_stop_a_fit_and_the_estimate_is_inside_its_interval() -> None:
    g = np.random.default_rng(6)
    widths = np.array([16.0, 17.0, 256.0, 4096.0, 65536.0])
    odd = [
        g.uniform(0.01, 1, 5),
        10.0 ** g.uniform(-8, 3, 5),
        0.3 + 1e-12 * g.normal(size=5),
        np.array([1.0, 0.1, 0.1, 0.1, 0.1]),
        np.array([0.3, 0.3, 0.3, 0.3, 0.01]),
        np.array([0.5, 1e-12, 1e-12, 1e-12, 1e-12]),
        0.1 + 0.3 * np.exp(-3.0 * np.arange(5)),
    ]
    for values in odd:
        shared = np.exp(0.02 * g.normal(size=(50, 1)))
        for replicates in (None, values * shared, values * shared * np.exp(0.3 * g.normal(size=(50, 5)))):
            for space, law in [(space, law) for space in ("log", "linear") for law in N_PARAMS]:
                fit = fit_law(law, widths, values, replicates=replicates, space=space)
                assert np.isfinite(fit.predict(widths)).all()
                assert np.isfinite(fit.band(widths * 16)).all()
                for estimate in (fit.c, fit.a, fit.m):
                    assert not (estimate < estimate.low or estimate > estimate.high)


def test_an_exponential_law_comes_back_and_beats_a_power_law_where_it_is_planted() -> None:
    values = 0.1 + 0.5 * np.exp(-NARROW / 900)
    fit = fit_exponential(NARROW, values)
    np.testing.assert_allclose([fit.c, fit.a, fit.m], [0.1, 0.5, 900], rtol=1e-7)
    g = np.random.default_rng(2)
    for law, truth in (("exponential", values), ("power", planted(LAWS[2], NARROW))):
        noisy = truth * (1 + 0.002 * g.normal(size=5))
        for space in ("log", "linear"):
            aic = {name: fit_law(name, NARROW, noisy, space=space).aic for name in N_PARAMS}
            assert aic["constant"] == max(aic.values())
            assert min(aic, key=lambda name: aic[name]) == law


def test_the_constant_is_the_mean_with_the_interval_of_a_t_test() -> None:
    values = np.array([0.3, 0.31, 0.28, 0.3, 0.29])
    fit = fit_law("constant", NARROW, values)
    logs = np.log(values)
    half = stats.t.ppf(0.975, 4) * logs.std(ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(
        [fit.c.low, fit.c, fit.c.high], np.exp(logs.mean() + half * np.array([-1, 0, 1])), rtol=1e-4
    )
    assert fit_law("constant", NARROW, values, space="linear").c == pytest.approx(values.mean())


def test_the_widest_is_predicted_by_the_law_of_the_others() -> None:
    values = planted(LAWS[0], NARROW)
    found = predict_widest("power", NARROW[::-1], np.append(values[:-1], 99.0)[::-1])
    assert found == pytest.approx(values[-1], rel=1e-8)
    assert np.isnan(predict_widest("power", NARROW[1:], values[1:])), "three points are no test of three parameters"
    assert np.isfinite(predict_widest("power_zero", NARROW[1:], values[1:]))


def test_slopes_are_those_of_finite_differences() -> None:
    x = np.array([0.0, 0.3, 0.8, 1.0, 1.7])
    for floor, rate in ((True, None), (False, None), (True, 2.0), (False, 2.0)):
        law = Decay(x, 8.0, floor, rate)
        handle = law.handle(np.array(0.1 * floor), np.array(0.3), np.array(2.0))
        np.testing.assert_allclose(law.natural(handle), [0.1 * floor, 0.3, 2.0], rtol=1e-12)
        np.testing.assert_allclose(law.values(handle), 0.1 * floor + 0.3 * np.exp(-2 * x), rtol=1e-12)
        steps = 1e-6 * np.eye(law.n_params)
        numeric = np.stack([(law.values(handle + s) - law.values(handle - s)) / 2e-6 for s in steps], -1)
        np.testing.assert_allclose(law.slopes(handle), numeric, atol=1e-8)


def test_what_cannot_be_fitted_is_refused_with_a_remedy() -> None:
    with pytest.raises(DataError, match="give more widths"):
        fit_power_law(NARROW[:2], np.array([0.3, 0.2]))
    with pytest.raises(DataError, match="no logarithm"):
        fit_power_law(NARROW, np.array([0.3, 0.2, 0.1, 0.05, 0.0]))
    with pytest.raises(DataError, match="not finite"):
        fit_power_law(NARROW, np.array([0.3, 0.2, np.nan, 0.05, 0.01]))
    with pytest.raises(DataError, match="use log or linear"):
        fit_power_law(NARROW, np.array([0.3, 0.2, 0.1, 0.05, 0.04]), space="root")


def test_the_least_squares_are_found_though_their_start_is_not_among_the_best() -> None:
    widths = np.array([512, 2048, 32768, 131072, 262144, 524288], dtype=float)
    values = np.array([0.052441041, 0.176434165, 0.032352913, 0.05981502, 0.068028815, 0.121840912])
    x, best = np.log(widths / 512), np.inf
    for seed in range(30):
        r = np.random.default_rng(seed)
        fitted = least_squares(
            lambda p: np.log((p[0] + np.exp(p[1] - p[2] * x)) / values),
            [0.03 * r.random(), np.log(0.1 + r.random()), 0.01 + r.random()],
            bounds=([1e-9, -20, 1e-4], [0.2, 5, 4]),
        )
        best = min(best, 2 * fitted.cost)
    law = fit_power_law(widths, values)
    np.testing.assert_allclose(law.rss, best, rtol=1e-6)
    assert law.c > 0.06 and law.at_bound == ()


@pytest.mark.parametrize(
    ("widths", "values", "more", "said"),
    [
        ([256, 512, 1024, np.inf], [0.3, 0.25, 0.22, 0.2], {}, "widths that are not positive"),
        ([256, 512, 1024, 2048], [3e199, 2.5e199, 2.2e199, 2e199], {"space": "linear"}, "divide them by one number"),
        ([256, 512, 1024, 2048], [0.3, 0.25, 0.22, 0.2], {"floor": "no"}, "floor is 'no': give True or False"),
    ],
)
def test_what_has_no_law_is_a_sentence(
    unchecked: None, widths: list[float], values: list[float], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        fit_power_law(np.array(widths), np.array(values), **more)


def test_tensors_that_are_being_trained_are_numbers_too(unchecked: None) -> None:
    values = [0.3, 0.25, 0.22, 0.2]
    trained = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    assert fit_power_law([256, 512, 1024, 2048], trained).c == fit_power_law([256, 512, 1024, 2048], values).c
