"""`StreamingRidge`: ridge regression from moments, as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from dmcore.errors import DataError
from dmcore.math.linear_map import check_ridge, fit_map
from dmcore.math.moments import InputMoments, MomentAccumulator, TargetMoments

CHUNK = 8192


class StreamingRidge(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Least squares or ridge over data that comes in pieces; memory does not grow with the number of rows.

    Minimises `|y - X w - b|^2 + alpha |w|^2` (the bias is not penalised), as `sklearn.linear_model.Ridge` does on all the
    rows at once. Statistics are float64, about the mean of the first piece.

    Args:
        alpha: penalty on the squared weights, 0 or above; 0 is least squares (minimum norm if singular).
        fit_intercept: whether to fit a bias.

    Attributes:
        coef_: (n_features,) or (n_targets, n_features).
        intercept_: float or (n_targets,).
        n_samples_seen_: rows so far.
    """

    def __init__(self, alpha: float = 0.0, fit_intercept: bool = True) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any) -> StreamingRidge:
        """Forget what was seen, then fit `X` (n_samples, n_features) to `y` (n_samples,) or (n_samples, n_targets)."""
        for name in ("_inputs", "_targets", "n_samples_seen_"):
            if hasattr(self, name):
                delattr(self, name)
        return self._update(X, y, reset=True)

    def partial_fit(self, X: Any, y: Any) -> StreamingRidge:
        """Add rows to those already seen, and refit."""
        return self._update(X, y, reset=not hasattr(self, "_inputs"))

    def _update(self, X: Any, y: Any, reset: bool) -> StreamingRidge:
        check_ridge("alpha", self.alpha)
        X, y = validate_data(self, X, y, reset=reset, multi_output=True, y_numeric=True, dtype=np.float64)
        rows, targets = torch.tensor(X), torch.tensor(np.asarray(y, dtype=np.float64))
        flat = targets.ndim == 1
        targets = targets.reshape(len(rows), -1)
        if reset:
            self._flat = flat
            self._inputs = InputMoments(1, rows.mean(0))
            self._targets = TargetMoments(1, rows.shape[1], targets.shape[1])
            self._target_shift = targets.mean(0)
            self.n_samples_seen_ = 0
        elif targets.shape[1] != self._targets.cross.shape[2]:
            raise DataError(
                f"y has {targets.shape[1]} targets, but {self._targets.cross.shape[2]} were seen before: call fit to start anew."
            )
        elif flat != self._flat:
            raise DataError(
                f"y has {1 if flat else 2} axes, but {1 if self._flat else 2} before: give it as before, or call fit."
            )
        accumulator = MomentAccumulator(self._inputs, self._targets, self._inputs.shift)
        for x, t in zip(rows.split(CHUNK), targets.split(CHUNK), strict=True):
            accumulator.add(x, t - self._target_shift, torch.zeros(len(x), dtype=torch.int64))
        accumulator.finish()
        self.n_samples_seen_ += len(rows)
        self._solve()
        return self

    def _solve(self) -> None:
        gram, (cross, _) = self._inputs.pooled([0]), self._targets.pooled([0])
        if not self.fit_intercept:
            cross = cross + torch.outer(gram[:, -1], self._target_shift)
        fitted = fit_map(gram, cross, self._inputs.shift, ridge=float(self.alpha), fit_bias=self.fit_intercept)
        weight = fitted.weight.T.numpy()
        bias = (fitted.bias + self._target_shift).numpy() if self.fit_intercept else np.zeros(weight.shape[0])
        self.coef_ = weight[0] if self._flat else weight
        self.intercept_ = float(bias[0]) if self._flat else bias

    def predict(self, X: Any) -> np.ndarray:
        """(n_samples,) or (n_samples, n_targets) predictions."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return X @ self.coef_.T + self.intercept_
