"""Reduced-rank regression: the best map of each rank from x to an SAE's error, and what each leaves, all ranks at once.

1. With the least-squares map `e ~ x W`, let V be the eigenvectors of `W^T Sigma_x W`, the covariance of its predictions, the
   largest first. Of all maps of rank r, `W V_r V_r^T` leaves the least training residual (Izenman 1975, Reduced-rank
   regression for the multivariate linear model): the residual of W and what is cut off its predictions are orthogonal.
2. In the basis V a map of rank r predicts the first r coordinates and no others. With `q = (e - mean) V`, `p = (x - mean) W V`
   a token's squared error at rank r is `|e - mean|^2 - sum_{i<=r} q_i^2 + sum_{i<=r} (q_i - p_i)^2`: one cumulative sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.errors import DataError
from dmcore.math.linear_map import AffineMap, centred


@dataclass(frozen=True)
class ReducedRank:
    """The maps of all ranks; rank 0 predicts the mean."""

    along: Float[Tensor, "d_in n_ranks"]
    """`W V`: column i gives coordinate i of the prediction."""
    vectors: Float[Tensor, "d_target n_ranks"]
    """V, orthonormal columns, those along which the predictions vary most first."""
    input_mean: Float[Tensor, " d_in"]
    """Mean of the training tokens, less `shift`."""
    target_mean: Float[Tensor, " d_target"]
    """Prediction at that mean; with a bias the mean of the training targets."""
    shift: Float[Tensor, " d_in"]

    @property
    def full_rank(self) -> int:
        """The largest rank; there the map is the one that was reduced."""
        return self.vectors.shape[1]

    def at(self, rank: int) -> AffineMap:
        """The map of a rank, 0 to `full_rank`.

        Raises:
            DataError: there is no such rank.
        """
        if not 0 <= rank <= self.full_rank:
            raise DataError(f"There is no map of rank {rank}: choose 0 to {self.full_rank}.")
        weight = self.along[:, :rank] @ self.vectors[:, :rank].T
        return AffineMap(weight, self.target_mean - self.input_mean @ weight, self.shift)

    def squared_errors(
        self, x: Float[Tensor, "n_tokens d_in"], target: Float[Tensor, "n_tokens d_target"]
    ) -> Float[Tensor, "n_tokens n_maps"]:
        """`|target - prediction|^2` of each token at ranks 0 to `full_rank`, in the dtype of `x`."""
        about = target - self.target_mean.to(x.dtype)
        predicted = (x - (self.shift + self.input_mean).to(x.dtype)) @ self.along.to(x.dtype)
        in_basis = about @ self.vectors.to(x.dtype)
        change = (in_basis - predicted).square() - in_basis.square()
        none = about.square().sum(1, keepdim=True)
        return torch.cat([none, none + change.cumsum(1)], dim=1).clamp_min(0.0)

    def to(self, dtype: torch.dtype) -> ReducedRank:
        """The same in another dtype."""
        return ReducedRank(
            *(v.to(dtype) for v in (self.along, self.vectors, self.input_mean, self.target_mean, self.shift))
        )


def reduced_rank(fitted: AffineMap, gram: Float[Tensor, "d_aug d_aug"]) -> ReducedRank:
    """Reduce a map to every rank.

    Args:
        fitted: from x to the error, least squares or ridge, fitted on the tokens of `gram`; float64.
        gram: (d_in + 1, d_in + 1) `sum [x - shift, 1]^T [x - shift, 1]` of the training tokens.

    With the least-squares map equal, up to signs, to the singular vectors of the stacked predictions about their mean.
    """
    weight = fitted.weight.double()
    scatter, _ = centred(gram, gram[:, :-1])
    predicted = weight.T @ scatter @ weight
    _, vectors = torch.linalg.eigh((predicted + predicted.T) / 2)
    ordered = vectors.flip(1).contiguous()
    mean = gram[-1, :-1] / gram[-1, -1]
    return ReducedRank(weight @ ordered, ordered, mean, fitted.offset + mean @ weight, fitted.shift)


def skip_parameters(rank: int, d_model: int) -> int:
    """Numbers that a skip adds to an SAE: two factors of a rank, or one matrix if that is smaller; its bias goes into b_dec."""
    return min(2 * rank * d_model, d_model**2)


def ranks_shown(d_model: int) -> list[int]:
    """Ranks 1, 2, 4, ... below `d_model`, then `d_model`."""
    return [*(2**k for k in range(d_model.bit_length()) if 2**k < d_model), d_model]
