"""What each method that reduces an SAE's error gives back of the model's own loss.

1. Of some contexts: the activations, the SAE's codes, those of earlier components' SAEs.
2. What each method makes of them, fitted on other contexts, is put in the place of the activation at the kept positions
   (`dmcore.sources.splice`); and 0, to have a scale.
3. The loss of the scored tokens, and how many were predicted rightly of each kind of token, summed over bootstrap units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dmcore.analysis.activations import Chunk
from dmcore.analysis.codes import Codes
from dmcore.analysis.reduction_methods import Fitted, FittedMethod
from dmcore.analysis.reduction_passes import Coded, TokenSources
from dmcore.analysis.token_kinds import KINDS, kind_numbers, unnamed_vocabulary
from dmcore.math.bootstrap import bootstrap_units
from dmcore.math.corrections import Rows
from dmcore.math.joint_moments import ACTS
from dmcore.math.sparse_codes import SparseCodes, join_codes
from dmcore.memory import halve_when_out_of_memory
from dmcore.progress import Stage
from dmcore.sources.contexts import Contexts
from dmcore.sources.models import LanguageModel
from dmcore.sources.splice import Splicer

CONTEXTS_PER_RUN = 8
"""Contexts that go through the model at once, where their predictions are not too large."""
CLEAN, ZERO = "clean", "zero"
"""Runs besides those of the methods."""
AFFINE = ("encoder", "shrinkage", "earlier")
"""Kinds of methods that are affine, all of which are run; of the skips, two."""


@dataclass(frozen=True)
class LossInputs:
    """What the losses are made of besides the tokens of the other passes."""

    contexts: Contexts
    model: Callable[[], LanguageModel]
    """Loads the model."""
    hook: str
    chosen: Sequence[int]
    """Contexts that are run."""
    vocabulary: Callable[[Iterable[int]], pl.DataFrame] = unnamed_vocabulary
    """Names tokens: `token_kinds.vocabulary` with a tokenizer, or `unnamed_vocabulary`."""


@dataclass(frozen=True)
class LossSums:
    """Sums over bootstrap units, by name of method, `CLEAN` or `ZERO`."""

    n_contexts: int
    kinds: np.ndarray
    """(n_units, len(KINDS)) scored tokens of each kind."""
    ce: dict[str, np.ndarray]
    """(n_units,)"""
    right: dict[str, np.ndarray]
    """(n_units, len(KINDS)) tokens that were predicted rightly."""

    @property
    def n_tokens(self) -> np.ndarray:
        """(n_units,)"""
        return self.kinds.sum(1)


def run_methods(fitted: Fitted) -> list[FittedMethod]:
    """The affine methods whose loss is computed: all, but of the skips the one of full rank and the nearest to half of that."""
    ranks = [method.rank for method in fitted.methods if method.rank is not None]
    half = min(ranks, key=lambda rank: abs(2 * rank - max(ranks)), default=None)
    return [m for m in fitted.methods if m.kind in AFFINE or m.rank in (half, max(ranks))]


@dataclass(frozen=True)
class _Work:
    sources: TokenSources
    given: LossInputs
    shifts: Mapping[str, Tensor]
    methods: Sequence[FittedMethod]
    coded: Mapping[str, Mapping[int, SparseCodes]]
    splicer: Splicer
    codes: dict[str, Codes]
    kind_of: np.ndarray


@torch.no_grad()
def method_losses(
    sources: TokenSources,
    given: LossInputs,
    fitted: Fitted,
    shifts: Mapping[str, Tensor],
    coded: Mapping[str, Mapping[int, SparseCodes]],
    stage: Stage,
) -> LossSums:
    """Run the model with what each method makes of some contexts.

    Args:
        sources: the SAE, and those of earlier components.
        given: the texts, the model, the contexts.
        fitted: affine methods.
        shifts: of their inputs.
        coded: codes of the contexts by each coding method.
        stage: is told of every context.

    Raises:
        SpecError: the model predicts no next token, cannot be spliced at this site, or no position is scored.
        DataError: a loss is not finite.
    """
    splicer = Splicer(given.model(), given.hook, sources.skip_positions)
    splicer.scored(sources.own.acts.length)
    codes = {role: Codes(one.codes) for role, one in (("", sources.own), *sources.earlier.items())}
    kind_of = kind_numbers(given.vocabulary(np.unique(given.contexts.tokens).tolist()))
    work = _Work(sources, given, shifts, run_methods(fitted), coded, splicer, codes, kind_of)
    units = bootstrap_units(sources.own.acts.n_contexts)
    shape, names = (int(units.max()) + 1, len(KINDS)), (CLEAN, ZERO, *(m.name for m in work.methods), *coded)
    sums = LossSums(
        len(given.chosen),
        np.zeros(shape),
        {name: np.zeros(shape[0]) for name in names},
        {name: np.zeros(shape) for name in names},
    )
    step = min(CONTEXTS_PER_RUN, splicer.contexts_at_once(sources.own.acts.length))
    for first in range(0, len(given.chosen), step):
        last = min(first + step, len(given.chosen))
        parts = halve_when_out_of_memory(partial(_run, work, stage), first, last, "run the model on", "contexts")
        for context, found in zip(given.chosen[first:last], [one for part in parts for one in part], strict=True):
            sums.kinds[units[context]] += np.bincount(found.kinds, minlength=len(KINDS))
            for name, (loss, right) in found.scores.items():
                sums.ce[name][units[context]] += loss.sum()
                sums.right[name][units[context]] += np.bincount(found.kinds, weights=right, minlength=len(KINDS))
    return sums


@dataclass(frozen=True)
class _Graded:
    """One context, (n_scored,) each."""

    kinds: np.ndarray
    """Of the tokens that are predicted, as places in `KINDS`."""
    scores: dict[str, tuple[np.ndarray, np.ndarray]]
    """Losses, and whether they were predicted rightly, by run."""


def _run(work: _Work, stage: Stage, first: int, last: int) -> list[_Graded]:
    """Each of some contexts."""
    numbers = list(work.given.chosen[first:last])
    tokens = torch.from_numpy(np.asarray(work.given.contexts.tokens[numbers]).astype(np.int64))
    clean = work.splicer.clean(tokens)
    found = {CLEAN: (clean.prediction.loss, clean.right(clean.prediction))}
    for name, vectors in _vectors(work, numbers):
        shaped = vectors.reshape(len(numbers), work.sources.own.acts.length, -1)
        found[name] = clean.graded(shaped.to(clean.acts.device))
        stage.advance(0)
    stage.advance(len(numbers))
    arrays = {name: (loss.double().cpu().numpy(), right.cpu().numpy()) for name, (loss, right) in found.items()}
    kinds = work.kind_of[clean.targets.cpu().numpy()]
    scores = [{name: (loss[i], right[i]) for name, (loss, right) in arrays.items()} for i in range(len(numbers))]
    return [_Graded(kinds[i], scores[i]) for i in range(len(numbers))]


def _vectors(work: _Work, numbers: list[int]) -> Iterator[tuple[str, Tensor]]:
    """(n_tokens, d_model) what each run puts in the place of the activations of some contexts."""
    sources, length = work.sources, work.sources.own.acts.length
    x, recon = _recon(sources.own, work.codes[""], numbers, sources.device)
    yield ZERO, torch.zeros_like(x)
    inputs = {role: _recon(one, work.codes[role], numbers, sources.device)[1] for role, one in sources.earlier.items()}
    about = {name: rows.to(x.dtype) - work.shifts[name].to(x) for name, rows in ({ACTS: x} | inputs).items()}
    error = (x - recon).to(x.dtype)
    folds = np.repeat(sources.partition.folds[numbers], length)
    where = {int(fold): torch.from_numpy(np.flatnonzero(folds == fold)).to(x.device) for fold in np.unique(folds)}
    for method in work.methods:
        left = torch.empty_like(x)
        for fold, rows in where.items():
            some = {name: all_rows[rows] for name, all_rows in about.items()}
            left[rows] = method.corrections[fold].after(Rows(some, error[rows], error.new_ones(rows.numel(), 1)))
        yield method.name, x - left
    for name, codes in work.coded.items():
        yield name, sources.own.sae.decode(join_codes([codes[number] for number in numbers]), x)


def _recon(one: Coded, codes: Codes, numbers: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Activations of some contexts, and their reconstruction by the stored codes."""
    chunks = [Chunk(number, 1, one.acts.length) for number in numbers]
    x = torch.cat([one.acts.read(chunk, device) for chunk in chunks])
    return x, one.sae.decode(join_codes([codes.read(chunk, device) for chunk in chunks]), x)
