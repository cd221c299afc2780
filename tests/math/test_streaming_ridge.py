"""`StreamingRidge` is a scikit-learn estimator, and equals Ridge whatever the pieces."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

from dmcore import StreamingRidge


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
