"""`StreamingRidge` is a scikit-learn estimator, and equals Ridge whatever the pieces."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

from dmcore import StreamingRidge
from dmcore.errors import DataError


@parametrize_with_checks([StreamingRidge(), StreamingRidge(alpha=2.0, fit_intercept=False)])
def test_scikit_learns_own_checks(estimator: StreamingRidge, check: object) -> None:
    check(estimator)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_targets", [None, 1, 3])
def test_pieces_equal_the_whole(fit_intercept: bool, n_targets: int | None) -> None:
    g = np.random.default_rng(0)
    X = g.normal(size=(500, 6)) * [1, 10, 100, 1, 1, 1] + 7
    y = X @ g.normal(size=(6, n_targets or 1)) + g.normal(size=(500, n_targets or 1)) + 100
    y = y[:, 0] if n_targets is None else y
    streaming = StreamingRidge(alpha=4.0, fit_intercept=fit_intercept)
    for rows in np.split(np.arange(500), [3, 50, 211]):
        streaming.partial_fit(X[rows], y[rows])
    reference = Ridge(alpha=4.0, fit_intercept=fit_intercept).fit(X, y)
    np.testing.assert_allclose(streaming.coef_, np.reshape(reference.coef_, streaming.coef_.shape), rtol=1e-8)
    np.testing.assert_allclose(streaming.intercept_, reference.intercept_, rtol=1e-7)
    np.testing.assert_allclose(streaming.predict(X), reference.predict(X).reshape(y.shape), rtol=1e-8)
    assert streaming.n_samples_seen_ == 500


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_of_all_solutions_it_is_the_shortest(fit_intercept: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 8)) * np.array([1, 10, 100, 1, 1, 1, 1, 0])
    x[:, 4] = x[:, 3]
    y = x @ rng.normal(size=(8, 2)) + fit_intercept
    ours = StreamingRidge(fit_intercept=fit_intercept).fit(x, y)
    theirs = LinearRegression(fit_intercept=fit_intercept).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-8)
    new = rng.normal(size=(20, 8))
    np.testing.assert_allclose(ours.predict(new), theirs.predict(new), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("alpha", [-1.0, np.nan, np.inf, "1", True, None])
def test_a_penalty_that_is_none_is_a_sentence(alpha: object) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(DataError, match="a penalty is a finite number, 0 or above"):
        StreamingRidge(alpha=alpha).fit(x, x[:, 0])  # type: ignore[arg-type]
    assert StreamingRidge(alpha=np.float32(0.5)).fit(x, x[:, 0]).coef_.shape == (3,)


def test_targets_keep_their_axes_from_piece_to_piece() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    seen = StreamingRidge().fit(x, x[:, 0])
    with pytest.raises(DataError, match="y has 2 axes, but 1 before"):
        seen.partial_fit(x, x[:, :1])
    assert seen.partial_fit(x, x[:, 0]).coef_.shape == (3,)
    assert seen.fit(x, x[:, :1]).coef_.shape == (1, 3)
