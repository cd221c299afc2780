"""Gradient pursuit (Blumensath and Davies 2008): codes that a dictionary allows when no encoder limits them.

For each token, with residual `r = x - b_dec - sum_S w_i d_i` and as many steps as it may have atoms:

1. *Choose* the atom of largest signed inner product with `r`, `g_j = <d_j, r>`.
2. *Step* along the gradient on the support S with that atom: `w += alpha g`, `alpha = |g|^2 / |sum_S g_i d_i|^2`, the exact
   minimum of `|r|^2` on that line.
3. *Clamp* at zero. An atom at zero leaves the support; it may be chosen again.

Section 5.1 of "Decomposing the dark matter of sparse autoencoders", whose authors publish their code for it
(github.com/JoshEngels/SAE-Dark-Matter). Two things are decided there that the text leaves open, both by `again=True`:
an atom of the support may win step 1 (then the step is taken and no atom joins, so that a code may have fewer atoms than
its target), and so may an atom of negative product (the step counts it, the clamp removes it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dmcore.errors import DataError
from dmcore.math.atoms import ROWS_PER_SLAB, Atoms, DecoderRows, atoms_of, checked_activations, checked_targets
from dmcore.math.best_atom import Best, best_atom_scan
from dmcore.math.pursuit_state import Batch, Rule, pursue
from dmcore.math.sparse_codes import SparseCodes


@dataclass(frozen=True)
class GradientStep:
    """One exact step along the gradient on the support, clamped at zero."""

    again: bool
    keeps_zeros: bool = False
    needs_gram: bool = True

    def __call__(self, batch: Batch, best: Best, who: Tensor, slots: Tensor) -> None:  # noqa: ARG002
        used = slice(0, batch.n_used)
        values, gram = batch.values[:, used], batch.gram[:, used, used]
        at_work = (batch.atoms[:, used] >= 0) & ~batch.ended[:, None]
        gradient = (batch.along[:, used] - torch.bmm(gram, values[:, :, None]).squeeze(2)) * at_work
        # In units of its size, so that its square stays a number whatever the scale of x and of the rows.
        size = gradient.abs().sum(1, keepdim=True)
        unit = torch.where(size > 0, gradient / size, 0.0)
        length_sq = (unit * torch.bmm(gram, unit[:, :, None]).squeeze(2)).sum(1)
        step = torch.where(length_sq > 0, unit.square().sum(1) / length_sq, 0.0)
        values.addcmul_(step[:, None], gradient).clamp_min_(0.0)


def gradient_pursuit(
    x: Float[Tensor, "n_tokens d_model"],
    decoder: Tensor | DecoderRows | Atoms,
    targets: Int[Tensor, " n_targets"] | int,
    *,
    bias: Float[Tensor, " d_model"] | None = None,
    again: bool = False,
    refill: bool = False,
    normalise: bool = False,
    block: int = ROWS_PER_SLAB,
) -> SparseCodes:
    """The codes of some tokens by gradient pursuit; see the module.

    Args:
        x: activations, in the units of the decoder; float64 is worked on as such, all else as float32.
        decoder: (d_sae, d_model) rows, an object that gives them in ranges, or `Atoms` made for many calls. Rows are
            taken as they are: a longer one is chosen before a shorter one of the same direction, and moves further.
        targets: atoms that each token may have, usually the encoder's own L0; one number for all, or one a token.
        bias: the decoder's bias, removed first.
        again: what the paper's code does: choose among all atoms, of the support or not, of whatever sign. Else only
            atoms outside the support with a positive inner product are chosen, and a token ends where there are none.
        refill: go on until the token has as many atoms as its target, so that clamped ones are replaced; or no atom of
            positive inner product is left, or 4 steps were taken for each atom.
        normalise: choose and step by atoms of norm 1; values are given for the rows as they are.
        block: latents that a decoder read in ranges is asked for at once.

    Returns:
        codes with values above 0; at most `targets` a token.

    Raises:
        DataError: NaN or infinity, shapes that do not agree, targets below 0 or above the number of latents.
    """
    if again and refill:
        raise DataError("A support that is chosen from again cannot be refilled too: give again or refill, not both.")
    x = checked_activations(x, bias)
    atoms = atoms_of(decoder, x, normalise=normalise, block=block)
    counts = checked_targets(targets, x.shape[0], atoms.d_sae).to(x.device)
    rule = Rule(refill=refill, need_positive=not again)
    return pursue(x, atoms, counts, best_atom_scan(atoms, x), GradientStep(again), rule)
