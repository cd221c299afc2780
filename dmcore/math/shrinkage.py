"""Undone shrinkage: the error as x, or as the reconstruction, times a number, or times one number a dimension.

1. The regressor is `x - c_x` or `Sae(x) - c_r`. With a bias the centre is the mean of the training tokens, and b_dec goes into
   the bias; without one it is 0 or b_dec, so that `e ~ alpha x` and `e ~ alpha (Sae(x) - b_dec)` hold word for word.
2. The numbers come from sums of x, e and their products in each dimension: no token is read. `Sae(x) = x - e`.
3. Both together are no rung of their own: `e = 1 x - 1 Sae(x)` is an identity.

Equivalent to `numpy.linalg.lstsq` on the regressor of all dimensions, one after the other, stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.math.corrections import Rows
from dmcore.math.joint_moments import ACTS, JointMoments

RECON = "recon"
"""The name of the reconstruction as a regressor; `ACTS` is the other."""
LEAST_VARIANCE = 1e-12
"""Share of the variance of x below which a regressor does not vary: its number is 0."""


@dataclass(frozen=True)
class Scaled:
    """`target_mean + scale (z - centre)` as a prediction of the error, z being x or Sae(x); a `Correction`."""

    regressor: str
    """`ACTS` or `RECON`."""
    scale: Float[Tensor, " d_scale"]
    """One for all dimensions, or one for each."""
    centre: Float[Tensor, " d_model"]
    """Less the shift of x."""
    target_mean: Float[Tensor, " d_model"]

    def after(self, rows: Rows) -> Tensor:
        """(n_rows, d_model) the error that is left."""
        z = rows.inputs[ACTS] if self.regressor == ACTS else rows.inputs[ACTS] - rows.error
        return rows.error - rows.count * self.target_mean - self.scale * (z - rows.count * self.centre)

    def to(self, dtype: torch.dtype) -> Scaled:
        """The same in another dtype."""
        return Scaled(self.regressor, *(part.to(dtype) for part in (self.scale, self.centre, self.target_mean)))


def fit_scaled(
    moments: JointMoments,
    folds: Sequence[int],
    regressor: str,
    *,
    per_dimension: bool = False,
    fit_bias: bool = True,
    decoder_bias: Tensor | None = None,
) -> Scaled:
    """The numbers that leave the least squared error on some folds.

    Args:
        moments: of x and the error.
        folds: that it is fitted on.
        regressor: `ACTS` or `RECON`.
        per_dimension: one number for each dimension instead of one for all.
        fit_bias: whether there is a bias.
        decoder_bias: (d_model,) b_dec, for `RECON` without bias; None where an SAE has none: 0.
    """
    gram, cross = moments.gram([ACTS], folds), moments.cross([ACTS], folds)
    count, sum_x, sum_e = gram[-1, -1], gram[-1, :-1], cross[-1]
    xx, xe, ee = gram.diagonal()[:-1], cross[:-1].diagonal(), moments.target_sq(folds)
    shift = moments.shifts[ACTS]
    of_x = regressor == ACTS
    # About the shift of x: Sae(x) - shift is (x - shift) - e.
    zz, ze, sum_z = (xx, xe, sum_x) if of_x else (xx - 2.0 * xe + ee, xe - ee, sum_x - sum_e)
    if fit_bias:
        centre, target = sum_z / count, sum_e / count
    else:
        fixed = torch.zeros_like(shift) if of_x or decoder_bias is None else decoder_bias.to(shift)
        centre, target = fixed - shift, torch.zeros_like(shift)
    about_zz = zz - 2.0 * centre * sum_z + count * centre.square()
    about_ze = ze - centre * sum_e - target * sum_z + count * centre * target
    if not per_dimension:
        about_zz, about_ze = about_zz.sum()[None], about_ze.sum()[None]
    varies = about_zz > LEAST_VARIANCE * (xx - sum_x.square() / count).sum() / about_zz.numel()
    scale = torch.where(varies, about_ze / torch.where(varies, about_zz, 1.0), torch.zeros_like(about_zz))
    return Scaled(regressor, scale, centre, target)
