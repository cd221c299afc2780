"""`dmcore.decompose`: the split of an error that is in memory.

1. Check the tensors; make folds of contexts.
2. One pass over the tokens: moments of x and of [e, |e|^2] per fold.
3. Solve one map per fold, and one on all tokens.
4. A second pass: out-of-fold parts of every token, and their sums over contexts.
5. Estimates with intervals, in which both the texts and the fit on them vary (`dmcore.math.fit_noise`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmcore.errors import DataError
from dmcore.estimate import Estimate
from dmcore.math.bootstrap import bootstrap_units
from dmcore.math.fit_noise import error_influence, fit_pulls
from dmcore.math.folds import assign_folds
from dmcore.math.linear_map import AffineMap, check_ridge
from dmcore.math.moments import InputMoments, MomentAccumulator, TargetMoments, error_targets, product_dtype
from dmcore.math.split import (
    Centres,
    FoldedFit,
    SplitSums,
    check_determined,
    check_varying,
    estimates,
    fit_folds,
    split_tokens,
)

CHUNK = 8192
"""Tokens worked on at once."""
DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
LARGEST = 1e70
"""Of an activation: the squares of squared norms are added up in float64."""


@dataclass(frozen=True)
class LinearMap:
    """`linear_error(x) = x @ weight + bias`, fitted on every token; arrays of the kind and dtype of the parts."""

    weight: Any
    """(d_model, d_model)."""
    bias: Any
    """(d_model,); zeros where no bias was fitted."""


@dataclass(frozen=True)
class Split:
    """An SAE's error taken apart. All numbers are held out by context; see `dmcore.math.split` for their formulas."""

    fvu: Estimate
    """Share of the activations' variance that the reconstruction misses, pooled, about the mean."""
    fvu_nonlinear: Estimate
    """The same for reconstruction plus linear error."""
    r2_error: Estimate
    """Held-out R2 of the error vector, pooled over tokens and dimensions."""
    r2_error_mean_dims: Estimate
    """Held-out R2 of the error vector, unweighted mean over dimensions: the paper's aggregate."""
    r2_error_norm_sq: Estimate
    """Held-out R2 of the squared norm of the error, predicted from x. It is of fourth moments of the error: where its tails are
    heavier than those of t(8), and where it is below 0 as without a bias, the interval is short (`benchmarks/coverage.py`)."""
    linear_map: LinearMap
    """Fitted on all tokens."""
    linear_error: Any
    """(n_tokens, d_model) out-of-fold prediction of the error."""
    nonlinear_error: Any
    """(n_tokens, d_model) the rest: `linear_error + nonlinear_error` is `acts - recon`."""
    r2_dims: np.ndarray
    """(d_model,) held-out R2 per dimension; nan where the error does not vary."""
    folds: np.ndarray
    """(n_tokens,) the fold in which each token was held out."""
    n_tokens: int
    n_contexts: int


def decompose(
    acts: Any,
    recon: Any,
    *,
    groups: Any = None,
    n_folds: int = 5,
    ridge: float = 0.0,
    fit_bias: bool = True,
    seed: int = 0,
) -> Split:
    """Split `acts - recon` into the part that is linear in `acts` and the rest.

    Args:
        acts: (n_tokens, d_model) activations; float torch tensor or array, any device.
        recon: (n_tokens, d_model) what the SAE made of them.
        groups: (n_tokens,) context id of each token. Folds never cut a context and intervals draw whole contexts. None
            treats tokens as independent: right for independent rows; too sure for tokens of running text. Intervals of fewer
            than about 60 contexts that differ much are too short.
        n_folds: folds of contexts.
        ridge: penalty on the squared weights, as `sklearn.linear_model.Ridge(alpha=ridge)` on each training set.
        fit_bias: whether the map has a bias, which is never penalised.
        seed: folds and bootstrap.

    Returns:
        The parts (same kind as `acts`; at least float32) and the numbers, each with a 95 % interval over contexts.

    Raises:
        DataError: shapes that differ, NaN or infinity, fewer training tokens than dimensions at ridge 0, a single
            context, activations that do not vary.

    Source: Engels et al. 2024, Decomposing The Dark Matter of Sparse Autoencoders, with folds of contexts.
    """
    acts_t, recon_t = _as_tensor(acts, "acts"), _as_tensor(recon, "recon")
    n_folds, seed = _check_settings(n_folds, ridge, fit_bias, seed)
    contexts, n_contexts = _check(acts_t, recon_t, groups)
    sizes = torch.bincount(contexts, minlength=n_contexts)
    context_folds = assign_folds(sizes.cpu().numpy(), n_folds, seed)
    folds = torch.from_numpy(context_folds).to(acts_t.device)[contexts]
    per_fold = torch.bincount(folds, minlength=n_folds).tolist()
    check_determined(per_fold, acts_t.shape[1] + int(fit_bias), ridge)

    inputs, targets = _moments(acts_t, recon_t, folds, n_folds)
    cells = list(range(n_folds))
    check_varying(inputs, cells)
    fit = fit_folds(inputs, targets, [[f] for f in cells], ridge=ridge, fit_bias=fit_bias)
    assert fit.full_map is not None, "asked for when it was fitted"
    sums = SplitSums(
        int(bootstrap_units(n_contexts).max()) + 1, acts_t.shape[1], Centres.from_moments(inputs, targets, cells)
    )
    units = torch.from_numpy(bootstrap_units(n_contexts)).to(acts_t.device)[contexts]
    pulls = fit_pulls(inputs, targets, [[f] for f in cells], fit, ridge=ridge, fit_bias=fit_bias)
    linear, nonlinear = _parts(acts_t, recon_t, folds, units, fit, pulls, sums)
    numbers = estimates(sums, seed, exact=_kept(acts_t.dtype) == torch.float64).values
    convert = _converter(acts)
    return Split(
        **numbers,
        linear_map=_public_map(fit.full_map.columns(0, acts_t.shape[1]), linear.dtype, convert),
        linear_error=convert(linear),
        nonlinear_error=convert(nonlinear),
        r2_dims=sums.r2_dims(),
        folds=folds.cpu().numpy(),
        n_tokens=acts_t.shape[0],
        n_contexts=n_contexts,
    )


def _as_tensor(values: Any, name: str) -> Tensor:
    if isinstance(values, Tensor):
        tensor = values.detach()
    else:
        try:
            tensor = torch.from_numpy(np.array(values, order="C", copy=None, ndmin=1))
        except (TypeError, ValueError) as error:  # texts, objects, rows of several lengths
            raise DataError(
                f"{name} is no array of numbers ({_first_line(error)}): give a tensor or an array."
            ) from error
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise DataError(
            f"{name} is a {tensor.layout} tensor on {tensor.device}: give a dense one that holds its numbers."
        )
    if tensor.is_floating_point() and tensor.dtype not in DTYPES:
        raise DataError(f"{name} holds {tensor.dtype}: convert it with .float().")
    if not tensor.is_floating_point():
        raise DataError(f"{name} holds {tensor.dtype}, not floating point numbers: convert it with .float().")
    if tensor.ndim != 2:
        raise DataError(
            f"{name} has shape {tuple(tensor.shape)}, but (n_tokens, d_model) is needed: flatten batch and position."
        )
    return tensor


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _check_settings(n_folds: Any, ridge: Any, fit_bias: Any, seed: Any) -> tuple[int, int]:
    """Raise on what is no number of its kind; return folds and seed as Python's own."""
    for name, value in (("n_folds", n_folds), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise DataError(f"{name} is {value!r}: give a whole number, 0 or above.")
    check_ridge("ridge", ridge)
    if not isinstance(fit_bias, bool | np.bool_):
        raise DataError(f"fit_bias is {fit_bias!r}: give True or False.")
    return int(n_folds), int(seed)


def _check(acts: Tensor, recon: Tensor, groups: Any) -> tuple[Tensor, int]:
    """Raise on what cannot be decomposed; return each token's context as 0, 1, ... and the number of contexts."""
    if not len(acts):
        raise DataError("There are no tokens: give those of at least 2 contexts.")
    if acts.shape != recon.shape:
        raise DataError(
            f"acts has shape {tuple(acts.shape)} and recon {tuple(recon.shape)}: give the reconstruction of these tokens."
        )
    if acts.device != recon.device:
        raise DataError(f"acts is on {acts.device} and recon on {recon.device}: move them to one device.")
    for name, tensor in (("acts", acts), ("recon", recon)):
        bad = sum(int((~torch.isfinite(chunk)).any(1).sum()) for chunk in tensor.split(CHUNK))
        if bad:
            raise DataError(
                f"{name} has NaN or infinity on {bad:,} of {len(tensor):,} tokens: drop them, or mend the run."
            )
    largest = min(torch.finfo(_kept(acts.dtype)).max / 2, LARGEST)
    for name, tensor in (("acts", acts), ("recon", recon)):
        if any(bool((chunk.abs() > largest).any()) for chunk in tensor.split(CHUNK)):
            raise DataError(
                f"{name} has values above {largest:.0e}, of which the parts or the sums of squares cannot be held: mend the run, "
                "or divide acts and recon by one number."
            )
    if groups is None:
        return torch.arange(acts.shape[0], device=acts.device), acts.shape[0]
    try:
        ids = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
    except (TypeError, ValueError) as error:
        raise DataError(f"groups is no array ({_first_line(error)}): give one context id per token.") from error
    if ids.shape != (acts.shape[0],):
        raise DataError(f"groups has shape {ids.shape}, but one context id per token is needed: ({acts.shape[0]},).")
    try:
        unique, inverse = np.unique(ids, return_inverse=True)
    except TypeError as error:  # ids of kinds that have no order among them
        raise DataError(
            "groups mixes ids that cannot be compared: give whole numbers, or texts, for all tokens."
        ) from error
    return torch.from_numpy(inverse.reshape(-1)).to(acts.device), len(unique)


def _moments(acts: Tensor, recon: Tensor, folds: Tensor, n_folds: int) -> tuple[InputMoments, TargetMoments]:
    d_model = acts.shape[1]
    dtype = product_dtype(acts.device)
    shift = sum(chunk.to(dtype).sum(0) for chunk in acts.split(CHUNK)) / acts.shape[0]
    inputs = InputMoments(n_folds, shift)
    targets = TargetMoments(n_folds, d_model, d_model + 1, acts.device)
    accumulator = MomentAccumulator(inputs, targets, shift)
    for x, r, f in zip(acts.split(CHUNK), recon.split(CHUNK), folds.split(CHUNK), strict=True):
        accumulator.add(x.to(dtype), error_targets(x.to(dtype) - r.to(dtype)), f)
    accumulator.finish()
    return inputs, targets


def _parts(
    acts: Tensor,
    recon: Tensor,
    folds: Tensor,
    units: Tensor,
    fit: FoldedFit,
    pulls: tuple[AffineMap, ...],
    sums: SplitSums,
) -> tuple[Tensor, Tensor]:
    """The out-of-fold parts of every token; fills `sums`."""
    dtype = product_dtype(acts.device)
    kept = _kept(acts.dtype)
    linear = torch.empty(acts.shape, dtype=kept, device=acts.device)
    nonlinear = torch.empty_like(linear)
    for start in range(0, acts.shape[0], CHUNK):
        rows = slice(start, start + CHUNK)
        x = acts[rows].to(dtype)
        error = x - recon[rows].to(dtype)
        parts = split_tokens(fit, x, error, folds[rows])
        influence = error_influence(pulls, x, error, parts, folds[rows])
        sums.add(units[rows], torch.ones_like(units[rows], dtype=torch.bool), x, error, parts, influence)
        nonlinear[rows] = parts.nonlinear
        # Taken from the rounded nonlinear part, so that the two add up to `acts - recon` as it is in this dtype.
        linear[rows] = (acts[rows].to(kept) - recon[rows].to(kept)) - nonlinear[rows]
    return linear, nonlinear


def _kept(dtype: torch.dtype) -> torch.dtype:
    """Of the parts: that of the activations, at least float32."""
    return dtype if dtype in {torch.float32, torch.float64} else torch.float32


def _converter(like: Any) -> Any:
    return (lambda tensor: tensor) if isinstance(like, Tensor) else (lambda tensor: tensor.cpu().numpy())


def _public_map(fitted: AffineMap, dtype: torch.dtype, convert: Any) -> LinearMap:
    return LinearMap(convert(fitted.weight.to(dtype)), convert(fitted.bias.to(dtype)))
