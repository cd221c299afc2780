"""Matching pursuit and orthogonal matching pursuit: one atom a step, as in gradient pursuit, with other values.

- *Matching pursuit* (Mallat and Zhang 1993): the atom takes all of its inner product with the residual,
  `w_j += <d_j, r> / |d_j|^2`; those before it stay as they are. An atom may be chosen again.
- *Orthogonal matching pursuit* (Pati et al. 1993): the values are made anew, the least squares of `x` on the support. The
  Cholesky factor of the support's Gram matrix grows by a row a step (Rubinstein et al. 2008).
- *Non-negative* (Bruckstein et al. 2008): the largest signed inner product, and non-negative least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dmcore.math.atoms import ROWS_PER_SLAB, Atoms, DecoderRows, atoms_of, checked_activations, checked_targets
from dmcore.math.best_atom import Best, best_atom_scan
from dmcore.math.nnls import nnls_gram
from dmcore.math.pursuit_state import Batch, Rule, pursue
from dmcore.math.sparse_codes import SparseCodes

DEPENDENT = 64
"""An atom whose distance from the span of the support is, squared, below this many roundings of its own is in it."""


@dataclass(frozen=True)
class Projection:
    """The newest atom takes its whole inner product."""

    again: bool = True
    keeps_zeros: bool = True
    needs_gram: bool = False

    def __call__(self, batch: Batch, best: Best, who: Tensor, slots: Tensor) -> None:
        rows = best.rows[who]
        batch.values[who, slots[who]] += (rows * batch.residual[who]).sum(1) / rows.square().sum(1)


@dataclass(frozen=True)
class LeastSquares:
    """All values made anew, of either sign; no atom ever leaves, so that every token's newest is in the last slot."""

    again: bool = False
    keeps_zeros: bool = True
    needs_gram: bool = True

    def __call__(self, batch: Batch, best: Best, who: Tensor, slots: Tensor) -> None:  # noqa: ARG002
        last = batch.n_used - 1
        if batch.factor.numel() == 0:
            batch.factor = torch.zeros_like(batch.gram)
            batch.factor.diagonal(dim1=1, dim2=2).fill_(1.0)
        factor = batch.factor[who, : last + 1, : last + 1]
        norm_sq = batch.gram[who, last, last]
        side = batch.gram[who, :last, last, None]
        if last:
            side = torch.linalg.solve_triangular(factor[:, :last, :last], side, upper=False)
        left = norm_sq - side.square().sum((1, 2))
        inside = left <= DEPENDENT * torch.finfo(left.dtype).eps * norm_sq
        batch.atoms[who[inside], last] = -1
        batch.ended[who[inside]] = True
        factor[:, last, :last] = side.squeeze(2)
        factor[:, last, last] = left.clamp_min(0).sqrt()
        who, factor = who[~inside], factor[~inside]
        batch.factor[who, : last + 1, : last + 1] = factor
        values = torch.cholesky_solve(batch.along[who, : last + 1, None], factor)
        batch.values[who, : last + 1] = values.squeeze(2)


@dataclass(frozen=True)
class NonNegativeLeastSquares:
    """All values made anew, none below 0; atoms at 0 leave."""

    again: bool = False
    keeps_zeros: bool = False
    needs_gram: bool = True

    def __call__(self, batch: Batch, best: Best, who: Tensor, slots: Tensor) -> None:  # noqa: ARG002
        used = slice(0, batch.n_used)
        allowed = batch.atoms[who, used] >= 0
        values = nnls_gram(batch.gram[who, used, used].double(), batch.along[who, used].double(), allowed)
        batch.values[who, used] = values.to(batch.values.dtype)


def matching_pursuit(
    x: Float[Tensor, "n_tokens d_model"],
    decoder: Tensor | DecoderRows | Atoms,
    targets: Int[Tensor, " n_targets"] | int,
    *,
    bias: Float[Tensor, " d_model"] | None = None,
    nonnegative: bool = True,
    refill: bool = False,
    normalise: bool = False,
    block: int = ROWS_PER_SLAB,
) -> SparseCodes:
    """The codes of some tokens by matching pursuit; see the module.

    Args:
        x, decoder, targets, bias, normalise, block: as in `dmcore.math.pursuit.gradient_pursuit`.
        nonnegative: choose the largest inner product, and end where none is above 0; else the largest magnitude.
        refill: go on until the token has as many atoms as its target, or 4 steps were taken for each; else take as many
            steps as the target, of which those that choose an atom again add none.

    Raises:
        DataError: as `gradient_pursuit`.
    """
    x = checked_activations(x, bias)
    atoms = atoms_of(decoder, x, normalise=normalise, block=block)
    counts = checked_targets(targets, x.shape[0], atoms.d_sae).to(x.device)
    scan = best_atom_scan(atoms, x, signed=nonnegative)
    return pursue(x, atoms, counts, scan, Projection(), Rule(refill=refill))


def orthogonal_matching_pursuit(
    x: Float[Tensor, "n_tokens d_model"],
    decoder: Tensor | DecoderRows | Atoms,
    targets: Int[Tensor, " n_targets"] | int,
    *,
    bias: Float[Tensor, " d_model"] | None = None,
    nonnegative: bool = True,
    refill: bool = False,
    normalise: bool = False,
    block: int = ROWS_PER_SLAB,
) -> SparseCodes:
    """The codes of some tokens by orthogonal matching pursuit; see the module.

    With `nonnegative=False` and rows of norm 1, equivalent to `sklearn.linear_model.orthogonal_mp`.

    Args:
        x, decoder, targets, bias, normalise, block: as in `dmcore.math.pursuit.gradient_pursuit`.
        nonnegative: choose the largest inner product, keep all values at or above 0; else the largest magnitude.
        refill: where atoms leave at 0, go on until the token has as many as its target, or 4 steps were taken for each.

    Raises:
        DataError: as `gradient_pursuit`.
    """
    x = checked_activations(x, bias)
    atoms = atoms_of(decoder, x, normalise=normalise, block=block)
    counts = checked_targets(targets, x.shape[0], atoms.d_sae).to(x.device)
    scan = best_atom_scan(atoms, x, signed=nonnegative)
    refit = NonNegativeLeastSquares() if nonnegative else LeastSquares()
    return pursue(x, atoms, counts, scan, refit, Rule(refill=refill and nonnegative))
