"""The passes over the tokens that the methods of error reduction share.

1. `joint_moments`: moments of x and of what SAEs make of earlier components, with the error (`dmcore.math.joint_moments`).
2. `sum_errors`: with the fitted methods, each token's squared error and nonlinear error after every method, summed over the
   bootstrap units; its squared error at every rank of the skip; what regressions leave of each part. The squared norms are
   kept on disk, and their moments with x in memory.
3. `sum_norms`: from those, what the regression of the squared norm on x leaves.

Every pass reads stored activations and codes; decoding is sparse. Memory does not grow with the number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmcore.analysis.activations import Activations
from dmcore.analysis.codes import NpyAppender
from dmcore.analysis.encode import decoded
from dmcore.analysis.partition import Partition
from dmcore.analysis.reduction_methods import Fitted
from dmcore.analysis.unit_sums import UnitSums
from dmcore.errors import DataError
from dmcore.math.corrections import Rows
from dmcore.math.joint_moments import ACTS, TARGETS, JointMoments
from dmcore.math.linear_map import fit_map
from dmcore.math.moments import MomentAccumulator, TargetMoments
from dmcore.math.split import row_norm_sq
from dmcore.memory import available_memory
from dmcore.progress import Stage
from dmcore.sources.dictionary import Dictionary
from dmcore.sources.sliced_dictionary import SlicedDictionary

AnyDictionary = Dictionary | SlicedDictionary
NORMS = "norms.npy"
SOLVING = 4
"""Matrices of the size of a fold's Gram matrix that are held while maps are fitted."""
SHIFT_TOKENS = 4096
"""Tokens whose mean is the shift of an input, about."""


@dataclass(frozen=True)
class Coded:
    """An SAE with its codes of the study's texts."""

    acts: Activations
    """That it reads."""
    sae: AnyDictionary
    codes: Path


@dataclass(frozen=True)
class TokenSources:
    """What the passes read."""

    own: Coded
    """The SAE whose error is reduced."""
    earlier: dict[str, Coded]
    """SAEs of earlier components, by role."""
    partition: Partition
    skip_positions: int
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """In which tokens are worked on."""
        return torch.float64 if self.own.acts.dtype == torch.float64 else torch.float32

    def tokens(self) -> Iterator[Tokens]:
        """The kept tokens, chunk by chunk, in order."""
        streams = [decoded(one.acts, one.sae, one.codes, self.device) for one in (self.own, *self.earlier.values())]
        for own, *others in zip(*streams, strict=True):
            kept = (own.chunk.positions(self.device) >= self.skip_positions).nonzero().squeeze(1)
            recons = {role: (one.x - one.error)[kept] for role, one in zip(self.earlier, others, strict=True)}
            x, error = own.x[kept], own.error[kept].to(own.x.dtype)
            inputs = {ACTS: x, **{role: recon.to(x.dtype) for role, recon in recons.items()}}
            contexts = own.chunk.contexts(self.device)[kept]
            folds = self.partition.token_folds(own.chunk, self.device)[kept]
            yield Tokens(inputs, error, contexts, folds, own.x.shape[0])


@dataclass(frozen=True)
class Tokens:
    """Kept tokens of some contexts."""

    inputs: dict[str, Tensor]
    error: Tensor
    contexts: Tensor
    folds: Tensor
    n_read: int
    """Tokens of the chunk, skipped ones too."""


def joint_moments(sources: TokenSources, stage: Stage) -> JointMoments:
    """The first pass.

    Raises:
        DataError: the moments would not fit in memory.
    """
    _check_memory(sources)
    moments = None
    for tokens in sources.tokens():
        if moments is None:
            shifts = {name: rows[:SHIFT_TOKENS].double().mean(0) for name, rows in tokens.inputs.items()}
            moments = JointMoments(shifts, sources.partition.n_folds, tokens.error.shape[1])
        moments.add(tokens.inputs, tokens.error, tokens.folds)
        stage.advance(tokens.n_read)
    assert moments is not None, "a study has contexts"
    moments.finish()
    return moments


def _check_memory(sources: TokenSources) -> None:
    width = sum(one.acts.d_model for one in (sources.own, *sources.earlier.values())) + 1
    needed, free = 8 * width**2 * (sources.partition.n_folds + SOLVING), available_memory(sources.device)
    if needed > free:
        fewer = ", or name fewer components with --earlier" if len(sources.earlier) > 1 else ""
        raise DataError(
            f"The moments of x and {len(sources.earlier)} earlier components take {needed / 2**30:.1f} GiB, of which "
            f"{free / 2**30:.1f} GiB are free: give it more memory{fewer}."
        )


@dataclass(frozen=True)
class MethodSums:
    """Sums over bootstrap units, (n_units, n_methods) each."""

    error_sq: np.ndarray
    nonlinear_sq: np.ndarray
    error_scatter: np.ndarray
    """Of the error about its mean."""
    norm_residual: np.ndarray
    """Squared error of the prediction of |error|^2 from x."""
    norm_scatter: np.ndarray


@dataclass(frozen=True)
class ReductionSums:
    """Everything summed in the second and third pass."""

    n_tokens: np.ndarray
    """(n_units,)"""
    act_scatter: np.ndarray
    """(n_units,)"""
    methods: MethodSums
    ranks: np.ndarray
    """(n_units, d_model + 1) squared error at each rank of the skip."""
    residuals: np.ndarray
    """(n_units, n_regressions, 3): what is left of each of `TARGETS`."""
    scatters: np.ndarray
    """(n_units, 3)"""


class _Means:
    """The means about which variances are taken, of all tokens, from moments."""

    def __init__(self, moments: JointMoments, fitted: Fitted) -> None:
        gram = moments.gram([ACTS], range(moments.n_folds))
        self.act = gram[-1, :-1] / gram[-1, -1]
        self.errors = torch.stack([method.mean for method in fitted.methods])
        nonlinear = fitted.nonlinear_mean
        self.targets = torch.stack([self.errors[0], self.errors[0] - nonlinear, nonlinear])


def sum_errors(
    sources: TokenSources, moments: JointMoments, fitted: Fitted, folder: Path, stage: Stage
) -> tuple[dict[str, UnitSums], TargetMoments]:
    """The second pass: sums over units, and the moments of the squared norms, which are written into `folder`."""
    means, n_contexts, n_methods = _Means(moments, fitted), len(sources.partition.folds), len(fitted.methods)
    d_model = moments.width([ACTS])
    sums = {
        "tokens": UnitSums(n_contexts, 2),
        "error_sq": UnitSums(n_contexts, n_methods),
        "nonlinear_sq": UnitSums(n_contexts, n_methods),
        "error_scatter": UnitSums(n_contexts, n_methods),
        "ranks": UnitSums(n_contexts, d_model + 1),
        "residuals": UnitSums(n_contexts, len(fitted.regressions) * len(TARGETS)),
        "scatters": UnitSums(n_contexts, len(TARGETS)),
    }
    shift = moments.shifts[ACTS]
    norms = TargetMoments(moments.n_folds, d_model, n_methods, shift.device)
    accumulator = MomentAccumulator(None, norms, shift)
    written = NpyAppender(folder / NORMS, np.float64, (n_methods,))
    try:
        for tokens in sources.tokens():
            found = _token_sums(tokens, moments, fitted, means)
            for name, values in found.items():
                sums[name].add(tokens.contexts, values)
            accumulator.add(tokens.inputs[ACTS], found["error_sq"], tokens.folds)
            written.append(found["error_sq"].cpu().numpy())
            stage.advance(tokens.n_read)
    finally:
        written.close()
    accumulator.finish()
    return sums, norms


def _token_sums(tokens: Tokens, moments: JointMoments, fitted: Fitted, means: _Means) -> dict[str, Tensor]:
    """What is summed of some tokens, float64 columns by name."""
    n_tokens, dtype = tokens.error.shape[0], tokens.error.dtype
    widths = {
        "error_sq": len(fitted.methods),
        "nonlinear_sq": len(fitted.methods),
        "ranks": fitted.ranks[0].full_rank + 1,
    }
    widths |= {"error_scatter": len(fitted.methods), "scatters": 3, "residuals": 3 * len(fitted.regressions)}
    found = {
        name: torch.empty(n_tokens, width, dtype=torch.float64, device=tokens.error.device)
        for name, width in widths.items()
    }
    inputs = {name: rows - moments.shifts[name].to(dtype) for name, rows in tokens.inputs.items()}
    for fold in torch.unique(tokens.folds).tolist():
        of_fold = (tokens.folds == fold).nonzero().squeeze(1)
        rows = Rows(
            {name: all_rows[of_fold] for name, all_rows in inputs.items()},
            tokens.error[of_fold],
            tokens.error.new_ones(of_fold.numel(), 1),
        )
        for name, values in _fold_sums(rows, fitted, fold, means).items():
            found[name][of_fold] = values
        x = tokens.inputs[ACTS][of_fold]
        found["ranks"][of_fold] = fitted.ranks[fold].squared_errors(x, rows.error).double()
    centred = inputs[ACTS] - means.act.to(dtype)
    found["tokens"] = torch.stack([torch.ones_like(found["error_sq"][:, 0]), row_norm_sq(centred)], dim=1)
    return found


def _fold_sums(rows: Rows, fitted: Fitted, fold: int, means: _Means) -> dict[str, Tensor]:
    """The same of tokens of one fold."""
    nonlinear = fitted.own[fold].after(rows)
    columns: dict[str, list[Tensor]] = {name: [] for name in ("error_sq", "nonlinear_sq", "error_scatter")}
    after_inputs: dict[tuple[str, ...], Tensor] = {}
    for method, mean in zip(fitted.methods, means.errors, strict=True):
        left = method.corrections[fold].after(rows)
        if method.inputs:
            after_inputs[method.inputs] = left
        after = nonlinear if method.linear is None else method.linear[fold].after(Rows(rows.inputs, left, rows.count))
        centred = left - mean.to(left.dtype)
        for name, vectors in (("error_sq", left), ("nonlinear_sq", after), ("error_scatter", centred)):
            columns[name].append(row_norm_sq(vectors))
    linear = rows.error - nonlinear
    parts = (rows.error, linear, nonlinear)
    columns["scatters"] = [row_norm_sq(v - m.to(v.dtype)) for v, m in zip(parts, means.targets, strict=True)]
    columns["residuals"] = []
    for regression in fitted.regressions:
        of_error = after_inputs[regression.inputs]
        of_linear = linear - regression.linear[fold].value(rows)
        columns["residuals"] += [row_norm_sq(v) for v in (of_error, of_linear, of_error - of_linear)]
    return {name: torch.stack(values, dim=1) for name, values in columns.items() if values}


def sum_norms(
    sources: TokenSources,
    moments: JointMoments,
    norms: TargetMoments,
    settings: tuple[float, bool],
    folder: Path,
    stage: Stage,
) -> tuple[np.ndarray, np.ndarray]:
    """The third pass: squared residuals and scatter of the squared norms, (n_units, n_methods) each; reads no codes.

    Args:
        settings: ridge and fit_bias.
    """
    ridge, fit_bias = settings
    folds, n_contexts = range(moments.n_folds), len(sources.partition.folds)
    maps = [
        fit_map(
            moments.gram([ACTS], others), norms.pooled(others)[0], moments.shifts[ACTS], ridge=ridge, fit_bias=fit_bias
        )
        for others in (moments.others(fold) for fold in folds)
    ]
    cross, _ = norms.pooled(folds)
    mean = cross[-1] / moments.n_tokens(folds)
    residual, scatter = (UnitSums(n_contexts, cross.shape[1]) for _ in range(2))
    stored, done = np.load(folder / NORMS, mmap_mode="r", allow_pickle=False), 0
    for chunk in sources.own.acts.chunks():
        kept = (chunk.positions(sources.device) >= sources.skip_positions).nonzero().squeeze(1)
        x = sources.own.acts.read(chunk, sources.device)[kept]
        actual = torch.from_numpy(np.array(stored[done : done + kept.numel()])).to(sources.device)
        done += kept.numel()
        token_folds = sources.partition.token_folds(chunk, sources.device)[kept]
        contexts = chunk.contexts(sources.device)[kept]
        predicted = torch.empty_like(actual)
        for fold in torch.unique(token_folds).tolist():
            where = token_folds == fold
            predicted[where] = maps[fold].predict(x[where]).double()
        residual.add(contexts, (actual - predicted).square())
        scatter.add(contexts, (actual - mean).square())
        stage.advance(chunk.n_contexts * chunk.length)
    return residual.sums, scatter.sums


def linear_sums(
    sources: TokenSources,
    moments: JointMoments,
    fitted: Fitted,
    settings: tuple[float, bool],
    folder: Path,
    stage: Stage,
) -> ReductionSums:
    """The second and the third pass; `folder` is for a file that is not needed afterwards."""
    sums, norms = sum_errors(sources, moments, fitted, folder, stage)
    residual, scatter = sum_norms(sources, moments, norms, settings, folder, stage)
    methods = MethodSums(*(sums[n].sums for n in ("error_sq", "nonlinear_sq", "error_scatter")), residual, scatter)
    n_units = len(residual)
    shaped = sums["residuals"].sums.reshape(n_units, -1, len(TARGETS))
    of_tokens = sums["tokens"].sums
    return ReductionSums(of_tokens[:, 0], of_tokens[:, 1], methods, sums["ranks"].sums, shaped, sums["scatters"].sums)


def stacked(parts: Sequence[MethodSums]) -> MethodSums:
    """The sums of several groups of methods as one."""
    names = MethodSums.__dataclass_fields__
    return MethodSums(*(np.concatenate([getattr(part, name) for part in parts], axis=1) for name in names))
