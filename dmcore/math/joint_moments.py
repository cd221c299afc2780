"""Moments of several inputs of the same tokens at once, so that any of them can be regressed on, for any part of an error.

1. One pass adds `G = sum [z_1, ..., z_m, 1]^T [z_1, ..., z_m, 1]` and `C = sum [z_1, ..., z_m, 1]^T e` for each fold, each input
   about a shift of its own. One of the inputs is x itself.
2. A regression on some of the inputs is a solve with the rows and columns of those inputs.
3. The error's linear part is `L(x)` with the map L of the fold, the nonlinear part `e - L(x)`. Their cross moments are
   `G_zx L` and `C_z - G_zx L`: no further pass. For the tokens of fold f both the map L and the regression are those that were
   fitted on the other folds, on which the targets are made with the same L; nothing of fold f is seen before.

Memory is (sum of the inputs' dimensions)^2 for each fold, whatever the number of tokens. Source: section 5.2 of the paper,
where the parts are regressed on the SAE outputs of earlier components by `lstsq` on stacked tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from dmcore.math.linear_map import AffineMap, fit_map
from dmcore.math.moments import InputMoments, MomentAccumulator, TargetMoments

ACTS = "x"
"""The name of the activations among the inputs."""
TARGETS = ("error", "linear", "nonlinear")
"""What is predicted: the whole error and its two parts."""


class JointMoments:
    """Gram and cross moments of named inputs, a cell a fold.

    Args:
        shifts: for each input (d_k,) about which its moments are taken; `ACTS` must be among them.
        n_folds: of contexts.
        d_target: dimensions of the error.
    """

    def __init__(self, shifts: Mapping[str, Tensor], n_folds: int, d_target: int) -> None:
        self.shifts = {name: shift.double() for name, shift in shifts.items()}
        self.n_folds = n_folds
        together = torch.cat(list(self.shifts.values()))
        self._inputs = InputMoments(n_folds, together)
        self._targets = TargetMoments(n_folds, together.numel(), d_target, together.device)
        self._adds = MomentAccumulator(self._inputs, self._targets, together)
        starts, self._columns = 0, {}
        for name, shift in self.shifts.items():
            self._columns[name] = range(starts, starts + shift.numel())
            starts += shift.numel()
        self._constant = starts

    def add(self, inputs: Mapping[str, Tensor], error: Tensor, folds: Int64[Tensor, " n_tokens"]) -> None:
        """Add tokens: each input (n_tokens, d_k), the error (n_tokens, d_target); those of a fold below 0 are skipped."""
        self._adds.add(torch.cat([inputs[name] for name in self.shifts], dim=1), error, folds)

    def finish(self) -> None:
        """Must be called once, after the last tokens."""
        self._adds.finish()

    def others(self, fold: int) -> list[int]:
        """All folds but one."""
        return [one for one in range(self.n_folds) if one != fold]

    def width(self, names: Sequence[str]) -> int:
        """Dimensions of some inputs together."""
        return sum(len(self._columns[name]) for name in names)

    def shift(self, names: Sequence[str]) -> Float64[Tensor, " d_in"]:
        """The shifts of some inputs, one after the other."""
        return torch.cat([self.shifts[name] for name in names])

    def n_tokens(self, folds: Sequence[int]) -> float:
        """Tokens of some folds."""
        return float(sum(self._inputs.gram[fold, -1, -1] for fold in folds))

    def between(self, names: Sequence[str], others: Sequence[str], folds: Sequence[int]) -> Float64[Tensor, "d_a d_b"]:
        """`sum [z, 1]^T [z', 1]` of some inputs against others, over some folds."""
        rows, columns = self._where(names), self._where(others)
        first, *rest = folds
        total = self._inputs.gram[first][rows][:, columns]
        for fold in rest:
            total += self._inputs.gram[fold][rows][:, columns]
        return total

    def gram(self, names: Sequence[str], folds: Sequence[int]) -> Float64[Tensor, "d_aug d_aug"]:
        """`sum [z, 1]^T [z, 1]` of some inputs."""
        return self.between(names, names, folds)

    def cross(
        self, names: Sequence[str], folds: Sequence[int], target: str = "error", linear: AffineMap | None = None
    ) -> Float64[Tensor, "d_aug d_target"]:
        """`sum [z, 1]^T y` of some inputs against one of `TARGETS`; its parts need the map of the linear part."""
        if target == "error":
            where = self._where(names)
            return torch.stack([self._targets.cross[fold][where] for fold in folds]).sum(0)
        assert linear is not None, "the parts of an error are made by a map"
        predicted = self.between(names, [ACTS], folds) @ augmented(linear)
        return predicted if target == "linear" else self.cross(names, folds) - predicted

    def target_sq(
        self, folds: Sequence[int], target: str = "error", linear: AffineMap | None = None
    ) -> Float64[Tensor, " d_target"]:
        """`sum y^2` of one of `TARGETS`."""
        whole = self._targets.target_sq[list(folds)].sum(0)
        if target == "error":
            return whole
        assert linear is not None, "the parts of an error are made by a map"
        weights = augmented(linear)
        linear_sq = (weights * (self.gram([ACTS], folds) @ weights)).sum(0)
        if target == "linear":
            return linear_sq
        return whole - 2.0 * (weights * self.cross([ACTS], folds)).sum(0) + linear_sq

    def fit(
        self,
        names: Sequence[str],
        folds: Sequence[int],
        target: str = "error",
        linear: AffineMap | None = None,
        *,
        ridge: float = 0.0,
        fit_bias: bool = True,
    ) -> AffineMap:
        """The map from some inputs, one after the other, to one of `TARGETS`, fitted on some folds; as `fit_map`."""
        cross = self.cross(names, folds, target, linear)
        return fit_map(self.gram(names, folds), cross, self.shift(names), ridge=ridge, fit_bias=fit_bias)

    def _where(self, names: Sequence[str]) -> Tensor:
        columns = [column for name in names for column in self._columns[name]]
        return torch.tensor([*columns, self._constant], device=self._inputs.gram.device)


def augmented(fitted: AffineMap) -> Float64[Tensor, "d_aug d_target"]:
    """The weights of `[z - shift, 1]`."""
    return torch.cat([fitted.weight.double(), fitted.offset[None].double()])


def held_out_r2(
    moments: JointMoments, names: Sequence[str], *, ridge: float = 0.0, fit_bias: bool = True
) -> dict[str, float]:
    """Held-out R2 of each of `TARGETS` from some inputs, pooled over tokens and dimensions, about the mean of all tokens.

    From the moments alone. nan where a target does not vary.
    """
    residual, total = dict.fromkeys(TARGETS, 0.0), dict.fromkeys(TARGETS, 0.0)
    sums = {target: torch.zeros_like(moments.cross([ACTS], [0])[-1]) for target in TARGETS}
    for fold in range(moments.n_folds):
        others = moments.others(fold)
        linear = moments.fit([ACTS], others, ridge=ridge, fit_bias=fit_bias)
        gram = moments.gram(names, [fold])
        for target in TARGETS:
            weights = augmented(moments.fit(names, others, target, linear, ridge=ridge, fit_bias=fit_bias))
            cross, sq = moments.cross(names, [fold], target, linear), moments.target_sq([fold], target, linear)
            residual[target] += float((sq - (weights * (2.0 * cross - gram @ weights)).sum(0)).sum())
            total[target] += float(sq.sum())
            sums[target] += cross[-1]
    n_tokens = moments.n_tokens(range(moments.n_folds))
    scatter = {target: total[target] - float(sums[target].square().sum()) / n_tokens for target in TARGETS}
    return {t: 1.0 - residual[t] / scatter[t] if scatter[t] > 1e-12 * total[t] else float("nan") for t in TARGETS}
