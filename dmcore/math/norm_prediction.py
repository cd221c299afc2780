"""How well a linear map predicts the squared norm of an activation, its reconstruction, and the error and its parts.

The six quantities v of `QUANTITIES` are sums of x, the error e and the linear error l (out of fold, `split_tokens`).
Within one fold l is an affine map of x. The second moments of every v therefore follow from three that do not know v.

1. `NormMoments`, first pass: for each fold, `[x, 1]^T e`, the Gram matrix of e, and x and e against all |v|^2. The Gram
   matrix of x exists already. Two products of d^2 a token take the place of the five that one Gram matrix a quantity costs.
2. `fit_norms`: for each fold, the maps from x and from v itself to |v|^2, fitted on the other folds.
3. `NormSums`, second pass: squared residuals of each bootstrap unit; `estimates`: R2 with its interval.

    r2 = 1 - sum (|v|^2 - prediction)^2 / sum (|v|^2 - mean |v|^2)^2      over all tokens, each predicted out of fold

Paper: the norm prediction tests. Equivalent to `sklearn.linear_model.LinearRegression` fitted fold by fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from dmcore.estimate import Estimate
from dmcore.math.bootstrap import interval, poisson_weights, ratio
from dmcore.math.linear_map import AffineMap
from dmcore.math.moments import InputMoments, MomentAccumulator, TargetMoments
from dmcore.math.split import ROUNDING, FoldedFit, fit_folds, row_norm_sq
from dmcore.results.scaling import QUANTITIES

COEFFICIENTS = {
    "x": (1.0, 0.0, 0.0),
    "recon": (1.0, -1.0, 0.0),
    "recon_plus_nonlinear": (1.0, 0.0, -1.0),
    "error": (0.0, 1.0, 0.0),
    "linear": (0.0, 0.0, 1.0),
    "nonlinear": (0.0, 1.0, -1.0),
}
"""Each quantity as a sum of x, error and linear error."""
PROBE = "probe"
"""|Sae(x) - b_dec|^2, predicted from Sae(x): one norm more, after those of `QUANTITIES`, for SAEs that have a b_dec."""


def vectors_of(x: Tensor, error: Tensor, linear: Tensor) -> dict[str, Tensor]:
    """The six quantities of some tokens, (n_tokens, d_model) each, in the order of `QUANTITIES`."""
    found = {
        "x": x,
        "recon": x - error,
        "recon_plus_nonlinear": x - linear,
        "error": error,
        "linear": linear,
        "nonlinear": error - linear,
    }
    return {name: found[name] for name in QUANTITIES}


def norms_of(vectors: Mapping[str, Tensor], bias: Tensor | None) -> Float64[Tensor, "n_tokens n_norms"]:
    """Squared norms in the order of `QUANTITIES`, then that of `PROBE` where there is a decoder bias."""
    rows = [vectors[name] for name in QUANTITIES]
    rows += [] if bias is None else [vectors["recon"] - bias.to(vectors["recon"].dtype)]
    return torch.stack([row_norm_sq(v) for v in rows], dim=1)


class NormMoments:
    """Moments of x, e and the squared norms in each fold, from which those of every quantity follow.

    Args:
        inputs: the Gram matrices of x, over cells.
        cells_of_fold: the cells of `inputs` that hold each fold's kept tokens.
        error_shift: (d_model,) about the mean error.
        n_norms: squared norms of each token, as `norms_of` gives them.
    """

    def __init__(
        self, inputs: InputMoments, cells_of_fold: Sequence[Sequence[int]], error_shift: Tensor, n_norms: int
    ) -> None:
        n_folds, self.d_model = len(cells_of_fold), inputs.shift.shape[0]
        self.cells_of_fold, self.n_norms = cells_of_fold, n_norms
        self._inputs = inputs
        self._error = InputMoments(n_folds, error_shift)
        self._from_x = TargetMoments(n_folds, self.d_model, self.d_model + n_norms, inputs.shift.device)
        self._from_error = TargetMoments(n_folds, self.d_model, n_norms, inputs.shift.device)
        self._add_x = MomentAccumulator(None, self._from_x, inputs.shift)
        self._add_error = MomentAccumulator(self._error, self._from_error, self._error.shift)

    def add(self, x: Tensor, error: Tensor, norms: Tensor, folds: Int64[Tensor, " n_tokens"]) -> None:
        """Add tokens; those whose fold is below 0 are skipped."""
        self._add_x.add(x, torch.cat([error.to(norms.dtype), norms], dim=1), folds)
        self._add_error.add(error, norms, folds)

    def finish(self) -> None:
        """Must be called once, after the last tokens."""
        self._add_x.finish()
        self._add_error.finish()

    def norm_means(self) -> tuple[Float64[Tensor, " n_norms"], Float64[Tensor, " n_norms"]]:
        """Mean and standard deviation of each squared norm."""
        cross, sq = self._from_x.pooled(range(len(self.cells_of_fold)))
        count = sum(float(self._inputs.pooled(cells)[-1, -1]) for cells in self.cells_of_fold)
        means = cross[-1, self.d_model :] / count
        return means, (sq[self.d_model :] / count - means.square()).clamp_min(0.0).sqrt()

    def of(self, quantity: str, linear: FoldedFit) -> tuple[InputMoments, TargetMoments]:
        """Gram matrices of a quantity, and it against all norms; a cell a fold.

        Args:
            quantity: one of `QUANTITIES`.
            linear: the maps whose first d_model targets are the linear error of the fold.
        """
        of_x, of_error, of_linear = COEFFICIENTS[quantity]
        offsets = torch.stack([fitted.offset[: self.d_model] for fitted in linear.fold_maps])
        centre = offsets.mean(0)
        shift = of_x * self._inputs.shift + of_error * self._error.shift + of_linear * centre
        gram = InputMoments(len(self.cells_of_fold), shift)
        cross = TargetMoments(len(self.cells_of_fold), self.d_model, self.n_norms, shift.device)
        for fold, fitted in enumerate(linear.fold_maps):
            weight = fitted.weight[:, : self.d_model].double()
            affine = torch.cat([weight, (offsets[fold] - centre)[None]])
            self._fill(fold, COEFFICIENTS[quantity], affine, gram.gram[fold], cross.cross[fold])
            cross.target_sq[fold] = self._from_x.target_sq[fold, self.d_model :]
        return gram, cross

    def _fill(
        self, fold: int, coefficients: tuple[float, float, float], affine: Tensor, gram: Tensor, cross: Tensor
    ) -> None:
        """One fold of `of`; `[x - shift, 1] @ affine` is the fold's linear error about its own shift."""
        of_x, of_error, of_linear = coefficients
        d = self.d_model
        gram_x, gram_e = self._inputs.pooled(self.cells_of_fold[fold]), self._error.gram[fold]
        from_x, from_e = self._from_x.cross[fold], self._from_error.cross[fold]
        x_with_e = from_x[:, :d] - torch.outer(gram_x[:, -1], self._error.shift)
        square, sums = gram[:-1, :-1], gram[-1, :-1]
        square += of_x**2 * gram_x[:-1, :-1] + of_error**2 * gram_e[:-1, :-1]
        sums += of_x * gram_x[-1, :-1] + of_error * gram_e[-1, :-1]
        cross[:-1] = of_x * from_x[:-1, d:] + of_error * from_e[:-1]
        if of_x * of_error:
            square += of_x * of_error * _with_transpose(x_with_e[:-1])
        if of_linear:
            x_with_linear = gram_x @ affine
            square += of_linear**2 * (affine.T @ x_with_linear)
            sums += of_linear * x_with_linear[-1]
            cross[:-1] += of_linear * (affine.T @ from_x[:, d:])
            if of_x:
                square += of_x * of_linear * _with_transpose(x_with_linear[:-1])
            if of_error:
                square += of_error * of_linear * _with_transpose(affine.T @ x_with_e)
        cross[-1] = from_x[-1, d:]
        gram[:-1, -1] = sums
        gram[-1, -1] = gram_x[-1, -1]


def _with_transpose(matrix: Tensor) -> Tensor:
    return matrix + matrix.T


@dataclass(frozen=True)
class NormFit:
    """Maps to squared norms, each fitted on the folds in which a token is not."""

    from_x: FoldedFit
    """From x to the norms of all quantities, in their order."""
    from_itself: dict[str, FoldedFit]
    """From each quantity to its own norm; quantities whose norm does not vary are left out."""
    probe: FoldedFit | None
    """From Sae(x) to |Sae(x) - b_dec|^2, with a map on all tokens; None without a b_dec, or if that norm does not vary."""
    means: Float64[Tensor, " n_norms"]
    """Mean of each norm, over all tokens."""
    varies: Bool[Tensor, " n_norms"]
    """Whether each norm varies by more than rounding."""


def fit_norms(moments: NormMoments, linear: FoldedFit, *, ridge: float = 0.0) -> NormFit:
    """Fit all maps, with a bias.

    Args:
        moments: of all tokens.
        linear: the maps of the linear error, as in `NormMoments.of`.
        ridge: as in `fit_map`.
    """
    folds = [[fold] for fold in range(len(moments.cells_of_fold))]
    means, spread = moments.norm_means()
    varies = spread > ROUNDING * (means * means[QUANTITIES.index("x")]).sqrt()

    def fit(gram: InputMoments, cross: TargetMoments, norms: slice, full: bool = False) -> FoldedFit:
        chosen = TargetMoments(len(folds), moments.d_model, norms.stop - norms.start, gram.shift.device)
        chosen.cross, chosen.target_sq = cross.cross[:, :, norms], cross.target_sq[:, norms]
        return fit_folds(gram, chosen, folds, ridge=ridge, full=full)

    from_x = fit(*moments.of("x", linear), slice(0, len(QUANTITIES)))
    from_itself, probe = {}, None
    for number, quantity in enumerate(QUANTITIES):
        wanted = quantity == "recon" and bool(varies[len(QUANTITIES) :].any())
        if quantity == "x" or not (bool(varies[number]) or wanted):
            continue
        both = moments.of(quantity, linear)
        if bool(varies[number]):
            from_itself[quantity] = fit(*both, slice(number, number + 1))
        if wanted:
            probe = fit(*both, slice(len(QUANTITIES), len(QUANTITIES) + 1), full=True)
    if bool(varies[0]):
        own = tuple(fitted.columns(0, 1) for fitted in from_x.fold_maps)
        from_itself["x"] = FoldedFit(own, None)
    return NormFit(from_x, from_itself, probe, means, varies)


def predict_out_of_fold(
    fit: FoldedFit, rows: Float[Tensor, "n_tokens d"], folds: Int64[Tensor, " n_tokens"]
) -> Float[Tensor, "n_tokens n_targets"]:
    """Prediction of each token by the map of its fold; what stands for tokens whose fold is below 0 means nothing."""
    shift = fit.fold_maps[0].shift
    together = AffineMap(
        torch.cat([fitted.weight for fitted in fit.fold_maps], dim=1),
        torch.cat([fitted.offset for fitted in fit.fold_maps]),
        shift,
    )
    of_all = together.predict(rows).unflatten(1, (len(fit.fold_maps), -1))
    where = folds.clamp_min(0)[:, None, None].expand(-1, 1, of_all.shape[2])
    return of_all.gather(1, where).squeeze(1)


class NormSums:
    """Squared residuals and scatters of the tokens of each bootstrap unit, in float64."""

    def __init__(self, fit: NormFit, units: np.ndarray) -> None:
        self._fit, self._units = fit, units
        n = len(fit.means)
        self.residuals = {kind: np.zeros((int(units.max()) + 1, n)) for kind in ("x", "itself")}
        self.scatter = np.zeros((int(units.max()) + 1, n))

    def add(
        self,
        vectors: Mapping[str, Tensor],
        norms: Float64[Tensor, "n_tokens n_norms"],
        folds: Int64[Tensor, " n_tokens"],
        contexts: tuple[int, int],
    ) -> None:
        """Add the tokens of some whole contexts of one length (first context, number); those of folds below 0 are skipped."""
        fit, n = self._fit, len(QUANTITIES)
        from_x, itself = torch.zeros_like(norms), torch.zeros_like(norms)
        from_x[:, :n] = predict_out_of_fold(fit.from_x, vectors["x"], folds).to(norms.dtype)
        for quantity, own in fit.from_itself.items():
            itself[:, QUANTITIES.index(quantity)] = predict_out_of_fold(own, vectors[quantity], folds)[:, 0].to(norms)
        if fit.probe is not None:
            itself[:, n] = predict_out_of_fold(fit.probe, vectors["recon"], folds)[:, 0].to(norms)
        first, count = contexts
        where, kept = self._units[first : first + count], (folds >= 0)[:, None]
        pairs = [(self.residuals["x"], from_x), (self.residuals["itself"], itself), (self.scatter, fit.means)]
        for sums, about in pairs:
            squares = torch.where(kept, (norms - about).square(), 0.0)
            np.add.at(sums, where, squares.unflatten(0, (count, -1)).sum(1).cpu().numpy())


def estimates(sums: NormSums, fit: NormFit, seed: int) -> dict[tuple[str, str], Estimate]:
    """R2 by (quantity, predictor), with 95 % intervals (Poisson bootstrap over contexts, maps held fixed).

    The predictor is "x" or "itself"; `(PROBE, "itself")` is there if there is a b_dec. nan where the norm does not vary.
    """
    n_units = len(sums.scatter)
    weights = np.concatenate([np.ones((1, n_units)), poisson_weights(n_units, seed)])
    found = {}
    for number, quantity in enumerate((*QUANTITIES, PROBE)[: len(fit.means)]):
        for predictor in ("x", "itself") if quantity != PROBE else ("itself",):
            found[quantity, predictor] = Estimate(np.nan)
            if bool(fit.varies[number]):
                r2 = 1.0 - ratio(sums.residuals[predictor][:, number], sums.scatter[:, number], weights)
                found[quantity, predictor] = interval(float(r2[0]), r2[1:])
    return found
