"""Lifts equal brute force, their intervals a bootstrap over contexts, and what is not there is seldom claimed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import false_discovery_control
from scipy.stats import t as student_t

from dmcore.math.lift import Lifts, LiftSums, adjusted

Array = np.ndarray


def sums_of(active: Array, marked: Array, step: int = 7) -> LiftSums:
    """Active (n_contexts, length, n_items), marked (n_contexts, length), a few contexts at a time."""
    found = LiftSums(active.shape[2])
    for first in range(0, len(active), step):
        some, high = active[first : first + step], marked[first : first + step]
        context, token, item = np.nonzero(some)
        n_tokens = np.full(len(some), some.shape[1])
        found.add(context, item, high[context, token], high.sum(1), n_tokens)
    return found


def lifts_of(active: Array, marked: Array) -> Lifts:
    return sums_of(active, marked).lifts()


def planted(n_contexts: int = 300, length: int = 30, n_items: int = 12, seed: int = 0) -> tuple[Array, Array]:
    """Items of many frequencies; number 0 is three times as likely on marked tokens; contexts have topics."""
    g = np.random.default_rng(seed)
    marked = g.random((n_contexts, length)) < 0.1
    topic = np.exp(0.7 * g.standard_normal((n_contexts, 1, n_items)))
    frequency = np.minimum(np.geomspace(0.05, 0.6, n_items) * topic, 0.95).repeat(length, axis=1)
    frequency[..., 0] = np.where(marked, 0.15, 0.05)
    return g.random((n_contexts, length, n_items)) < frequency, marked


def test_counts_and_lifts_are_those_of_dense_arrays() -> None:
    active, marked = planted()
    found = lifts_of(active, marked)
    B, A = active.sum((0, 1)), (active & marked[..., None]).sum((0, 1))
    np.testing.assert_array_equal(found.n_active, B)
    np.testing.assert_array_equal(found.n_high, A)
    np.testing.assert_array_equal(found.n_contexts, active.any(1).sum(0))
    np.testing.assert_allclose(found.lift, (A / marked.sum()) / (B / marked.size))
    sums = sums_of(active, marked)
    assert (sums.n_marked, sums.n_tokens) == (marked.sum(), marked.size)


def test_variances_are_those_of_influences_summed_by_context() -> None:
    active, marked = planted(n_contexts=40)
    sums = sums_of(active, marked)
    b, a = active.sum(1), (active & marked[..., None]).sum(1)
    h, n = marked.sum(1)[:, None], np.full((40, 1), marked.shape[1])
    c = (0.7, -1.3, 0.4, -0.2)
    expected = np.square(c[0] * a + c[1] * b + c[2] * h + c[3] * n).sum(0)
    np.testing.assert_allclose(sums._sum_of_squares(*c), expected, rtol=1e-10)


def test_a_planted_item_is_found_and_its_lift_is_in_the_interval() -> None:
    found = lifts_of(*planted())
    assert found.p[0] < 1e-6
    assert found.low[0] < 2.5 < found.high[0]  # 0.15 over 0.1 * 0.15 + 0.9 * 0.05
    assert found.low[0] > 1.5
    assert (adjusted(found.p)[1:] > 0.05).all()


def test_intervals_are_those_of_a_bootstrap_over_contexts() -> None:
    g = np.random.default_rng(1)
    active, marked = planted(n_contexts=400)
    strong = np.exp(1.5 * g.standard_normal((400, 1)))  # marked tokens come together as well
    marked = g.random(marked.shape) < np.minimum(0.05 * strong, 0.9)
    a, b, h = (active & marked[..., None]).sum(1), active.sum(1), marked.sum(1)
    drawn = []
    for _ in range(1000):
        w = np.bincount(g.integers(0, 400, 400), minlength=400)
        drawn.append((w @ a) / (w @ h) / ((w @ b) / (w.sum() * marked.shape[1])))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    found = lifts_of(active, marked)
    np.testing.assert_allclose(found.high - found.low, high - low, rtol=0.15)
    np.testing.assert_allclose((found.high + found.low) / 2, (high + low) / 2, rtol=0.03)


def test_items_that_have_nothing_to_do_with_the_marks_pass_no_more_often_than_they_should() -> None:
    g = np.random.default_rng(2)
    n_contexts, length, n_items = 200, 40, 2000
    context_share = 0.1 * np.exp(0.8 * g.standard_normal((n_contexts, 1)) - 0.32)
    marked = g.random((n_contexts, length)) < context_share
    frequency = np.geomspace(0.003, 0.1, n_items) * np.exp(0.8 * g.standard_normal((n_contexts, 1, n_items)))
    found = lifts_of(g.random((n_contexts, length, n_items)) < frequency, marked)
    p = found.p[found.n_active >= 20]
    assert len(p) > 1500
    assert 0.005 < (p < 0.05).mean() < 0.07
    assert (adjusted(p) <= 0.05).sum() <= 1


def test_a_rare_item_on_no_marked_token_is_no_finding_and_a_common_one_is() -> None:
    g = np.random.default_rng(3)
    marked = g.random((300, 30)) < 0.1
    active = np.zeros((300, 30, 2), dtype=bool)
    for item, n in enumerate((20, 2000)):
        free = np.flatnonzero(~marked.reshape(-1))
        active.reshape(-1, 2)[g.permutation(free)[:n], item] = True
    found = lifts_of(active, marked)
    assert (found.lift == 0).all() and (found.low == 0).all()
    assert found.p[0] > 0.05 and found.high[0] > 1.0
    assert found.p[1] < 1e-6 and found.high[1] < 0.5


def test_an_item_on_marked_tokens_alone_has_the_largest_lift_there_can_be() -> None:
    marked = np.random.default_rng(4).random((200, 20)) < 0.1
    active = marked[..., None].copy()
    found = lifts_of(active, marked)
    assert found.lift[0] == pytest.approx(1 / marked.mean())
    assert found.high[0] == pytest.approx(found.lift[0])
    assert 1.0 < found.low[0] < found.lift[0]
    assert found.p[0] < 1e-6


def test_three_marked_tokens_out_of_three_are_little_evidence() -> None:
    marked = np.random.default_rng(7).random((200, 20)) < 0.1
    active = np.zeros((200, 20, 1), dtype=bool)
    for context in np.flatnonzero(marked.any(1))[[0, 50, 100]]:
        active[context, np.flatnonzero(marked[context])[0], 0] = True
    found = lifts_of(active, marked)
    assert found.lift[0] == pytest.approx(1 / marked.mean())
    assert found.low[0] == pytest.approx(0.025 ** (1 / 3) / marked.mean())


def test_p_is_that_of_a_t_test_of_sums_over_contexts_where_that_is_the_wider() -> None:
    g = np.random.default_rng(8)
    marked = g.random((60, 30)) < np.where(np.arange(60) % 4 == 0, 0.4, 0.05)[:, None]  # marks come together
    active = (g.random(marked.shape) < np.where(marked, 0.5, 0.1))[..., None]
    p, q = marked.mean(), active.mean((0, 1))
    of_context = ((active - q) * (marked - p)[..., None]).sum(1)
    clustered = 60 * of_context.var(0, ddof=1)
    assert clustered[0] > 1.2 * active[..., 0].sum() * p * (1 - p) * (1 - q[0])
    expected = 2 * student_t.sf(abs(of_context.sum(0)[0]) / np.sqrt(clustered[0]), active[..., 0].any(1).sum() - 1)
    assert 1e-30 < expected < 1e-3
    assert lifts_of(active, marked).p[0] == pytest.approx(expected, rel=1e-6)


def test_one_context_full_of_an_item_is_no_evidence() -> None:
    marked = np.random.default_rng(5).random((100, 50)) < 0.05
    marked[3] = True
    active = np.zeros((100, 50, 2), dtype=bool)
    active[3, :, 0] = True  # in one context: no interval
    active[[3, 4], :, 1] = True
    found = lifts_of(active, marked)
    assert np.isnan([found.p[0], found.low[0], found.high[0]]).all()
    assert found.lift[1] > 5 and found.p[1] > 0.05


def test_nothing_marked_nothing_active_and_nothing_at_all_are_nan_without_a_warning() -> None:
    active, marked = planted(n_contexts=20)
    active[..., 3] = False
    found = lifts_of(active, marked)
    assert np.isnan([found.lift[3], found.low[3], found.high[3], found.p[3]]).all()
    for nothing in (lifts_of(active, np.zeros_like(marked)), LiftSums(4).lifts()):
        assert np.isnan(np.stack([nothing.lift, nothing.low, nothing.high, nothing.p])).all()


def test_everything_marked_has_lifts_of_one_and_no_findings() -> None:
    active, marked = planted(n_contexts=20)
    found = lifts_of(active, np.ones_like(marked))
    np.testing.assert_allclose(found.lift, 1.0)
    assert not (found.p < 0.05).any()


def test_adjusted_p_are_those_of_scipy_and_nan_is_no_test() -> None:
    p = np.array([0.01, np.nan, 0.02, 0.5, 0.03])
    found = adjusted(p)
    np.testing.assert_allclose(found[[0, 2, 3, 4]], false_discovery_control(p[[0, 2, 3, 4]]))
    assert np.isnan(found[1]) and np.isnan(adjusted(np.array([np.nan]))).all()
