"""Non-negative least squares on a support that is given: the best values that an encoder could have put there.

1. The support's rows give a Gram matrix a token, in float64, scaled so that every atom has norm 1.
2. *Block principal pivoting* (Kim and Park 2011), all tokens at once: solve for the atoms that are thought to be above 0;
   those that come out below leave, those whose gradient says so join; all of them while that brings their number down,
   else the last one. It ends in the exact solution, in a few rounds.
3. Where a Gram matrix is singular (atoms that are copies, or more of them than dimensions) or the rounds run out, the
   active set of Lawson and Hanson (1974): atoms join one by one, and never one that lies in the span of the others.

Equivalent to `scipy.optimize.nnls`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dmcore.errors import DataError
from dmcore.math.atoms import ROWS_PER_SLAB, Atoms, DecoderRows, atoms_of, checked_activations, codes_of
from dmcore.math.pursuit_state import batches_of
from dmcore.math.sparse_codes import SparseCodes
from dmcore.math.token_shares import work_shares

GRADIENT_TOLERANCE = 1e-12
"""A gradient below this share of the largest inner product with an atom of norm 1 counts as none."""
LEAST_PIVOT = 1e-6
"""Distance of an atom of norm 1 from the span of those before it, below which the Gram matrix counts as singular."""
PATIENCE = 3
"""Exchanges of all infeasible atoms that may fail to bring their number down before they are taken one by one."""
ROUNDS_PER_ATOM = 5


def nnls_on_support(
    x: Float[Tensor, "n_tokens d_model"],
    decoder: Tensor | DecoderRows | Atoms,
    codes: SparseCodes,
    *,
    bias: Float[Tensor, " d_model"] | None = None,
    block: int = ROWS_PER_SLAB,
) -> SparseCodes:
    """The non-negative values on each token's own support that leave the least `|x - bias - sum_i w_i d_i|^2`.

    Args:
        x: activations; float64 is worked on as such, all else as float32 (Gram matrices are float64 all the same).
        decoder: (d_sae, d_model) rows, an object that gives them in ranges, or `Atoms` made for many calls.
        codes: their latents are the supports; their values do not matter.
        bias: the decoder's bias, removed first.
        block: latents that a decoder read in ranges is asked for at once.

    Returns:
        codes with values above 0, without the latents that are best at 0.

    Raises:
        DataError: NaN or infinity, shapes that do not agree, or latents beyond the decoder.
    """
    x = checked_activations(x, bias)
    atoms = atoms_of(decoder, x, normalise=False, block=block)
    counts, n_tokens = codes.l0.to(x.device).long(), x.shape[0]
    if counts.shape[0] != n_tokens:
        raise DataError(f"There are codes of {counts.shape[0]} tokens for {n_tokens}: give those of the same tokens.")
    latents = codes.latents.to(x.device).long()
    if latents.numel() and not 0 <= int(latents.min()) <= int(latents.max()) < atoms.d_sae:
        raise DataError(f"The codes have latents beyond the {atoms.d_sae} of the decoder: give those of the same SAE.")
    starts = codes.offsets.to(x.device)[:-1]

    def work(some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slots = torch.arange(int(counts[some[0]]), device=x.device)
        allowed = slots < counts[some][:, None]
        support = torch.where(allowed, latents[(starts[some][:, None] + slots).clamp_max(latents.numel() - 1)], -1)
        rows = atoms.rows(support).double()
        gram = rows @ rows.transpose(1, 2)
        along = torch.bmm(rows, x[some].double()[:, :, None]).squeeze(2)
        values = nnls_gram(gram, along, allowed).to(x.dtype)
        return some[:, None].expand_as(support)[allowed], support[allowed], values[allowed]

    found = [
        (counts[:0], counts[:0], x.new_zeros(0)),
        *work_shares(work, *batches_of(counts, atoms, torch.float64)),
    ]
    tokens, latents, values = (torch.cat(part) for part in zip(*found, strict=True))
    return codes_of(tokens, latents, values, n_tokens, atoms.d_sae)


def nnls_gram(
    gram: Float[Tensor, "n k k"], along: Float[Tensor, "n k"], allowed: Bool[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """The `w >= 0` that minimise `w' gram w / 2 - along' w`, 0 where not allowed; batched, float64.

    Args:
        gram: inner products of atoms.
        along: inner products of atoms with what is to be coded.
        allowed: atoms that may have a value.
    """
    norms = gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    allowed = allowed & (norms > 0)
    scale = torch.where(allowed, 1 / norms, 0.0)
    gram, along = gram * scale[:, :, None] * scale[:, None, :], along * scale
    values, solved = _pivot(gram, along, allowed)
    left = (~solved).nonzero().squeeze(1)
    if left.numel():
        values[left] = _active_set(gram[left], along[left], allowed[left])
    return values * scale


def _solve(gram: Tensor, along: Tensor, passive: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares on the passive atoms, 0 elsewhere; and whether their Gram matrix is far from singular."""
    matrix = gram * (passive[:, :, None] & passive[:, None, :])
    matrix.diagonal(dim1=1, dim2=2).add_((~passive).to(gram.dtype))
    factor, failed = torch.linalg.cholesky_ex(matrix)
    sound = (failed == 0) & (factor.diagonal(dim1=1, dim2=2).amin(1) > LEAST_PIVOT)
    values = torch.cholesky_solve((along * passive)[:, :, None], factor).squeeze(2)
    return values * passive, sound


def _gradient(gram: Tensor, along: Tensor, values: Tensor) -> Tensor:
    """Inner products of the atoms with the residual; 0 where rounding might have made them."""
    gradient = along - torch.bmm(gram, values[:, :, None]).squeeze(2)
    least = GRADIENT_TOLERANCE * along.abs().amax(1, keepdim=True)
    return torch.where(gradient.abs() > least, gradient, 0.0)


def _pivot(gram: Tensor, along: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Block principal pivoting from all atoms; the values, and which tokens are solved."""
    n, k = along.shape
    passive, values = allowed.clone(), torch.zeros_like(along)
    solved = torch.zeros(n, dtype=torch.bool, device=along.device)
    fewest = torch.full((n,), k + 1, device=along.device)
    patience = torch.full((n,), PATIENCE, device=along.device)
    work = torch.arange(n, device=along.device)
    slots = torch.arange(k, device=along.device)
    for _ in range(ROUNDS_PER_ATOM * k):
        if not work.numel():
            break
        found, sound = _solve(gram[work], along[work], passive[work])
        gradient = _gradient(gram[work], along[work], found)
        wrong = torch.where(passive[work], found < 0, (gradient > 0) & allowed[work])
        number = wrong.sum(1)
        done = sound & (number == 0)
        values[work[done]] = found[done]
        solved[work[done]] = True
        fewer = number < fewest[work]
        patient = fewer | (patience[work] > 0)
        fewest[work] = torch.minimum(fewest[work], number)
        patience[work] = torch.where(fewer, PATIENCE, patience[work] - 1)
        last = torch.where(wrong, slots, -1).amax(1, keepdim=True)
        passive[work] ^= torch.where(patient[:, None], wrong, slots == last)
        work = work[sound & ~done]
    return values, solved


def _active_set(gram: Tensor, along: Tensor, allowed: Tensor) -> Tensor:
    """Lawson and Hanson, from no atoms."""
    n, k = along.shape
    passive, values = torch.zeros_like(allowed), torch.zeros_like(along)
    barred = ~allowed
    everyone = torch.arange(n, device=along.device)
    for _ in range(ROUNDS_PER_ATOM * k):
        gradient = _gradient(gram, along, values).masked_fill(passive | barred, 0.0)
        best, joins = gradient.max(1)
        work = everyone[best > 0]
        if not work.numel():
            break
        passive[work, joins[work]] = True
        _, sound = _solve(gram[work], along[work], passive[work])
        dependent = work[~sound]
        passive[dependent, joins[dependent]] = False
        barred[dependent, joins[dependent]] = True
        _walk(gram, along, passive, values, work[sound])
        moved = work[sound]
        barred[moved] = ~allowed[moved]
    return values


def _walk(gram: Tensor, along: Tensor, passive: Tensor, values: Tensor, work: Tensor) -> None:
    """Go from the values to the least squares on the passive atoms; where one reaches 0 on the way, it leaves."""
    while work.numel():
        goal, _ = _solve(gram[work], along[work], passive[work])
        blocked = passive[work] & (goal <= 0)
        arrived = ~blocked.any(1)
        values[work[arrived]] = goal[arrived]
        work, goal, blocked = work[~arrived], goal[~arrived], blocked[~arrived]
        now = values[work]
        shares = torch.where(blocked, now / (now - goal).clamp_min(torch.finfo(now.dtype).tiny), torch.inf)
        share = shares.amin(1, keepdim=True)
        now = now + share * (goal - now)
        leaves = blocked & (shares <= share)
        passive[work] &= ~leaves & ((now > 0) | ~passive[work])
        values[work] = torch.where(passive[work], now, 0.0)
