"""What each method that reduces an SAE's error gives back of the model's own loss.

1. Of some contexts: the activations, the SAE's codes, those of earlier components' SAEs.
2. What each method makes of them, fitted on other contexts, is put in the place of the activation at the kept positions
   (`dmcore.sources.splice`); and 0, to have a scale.
3. The loss of the scored tokens, summed over bootstrap units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dmcore.analysis.activations import Chunk
from dmcore.analysis.codes import Codes
from dmcore.analysis.reduction_methods import Fitted, FittedMethod
from dmcore.analysis.reduction_passes import Coded, TokenSources
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
KINDS = ("encoder", "shrinkage", "earlier")
"""Of methods that are affine, all of which are run; of the skips, two."""


@dataclass(frozen=True)
class LossInputs:
    """What the losses are made of besides the tokens of the other passes."""

    contexts: Contexts
    model: Callable[[], LanguageModel]
    """Loads the model."""
    hook: str
    chosen: Sequence[int]
    """Contexts that are run."""


@dataclass(frozen=True)
class LossSums:
    """Sums over bootstrap units, (n_units,) each."""

    n_tokens: np.ndarray
    n_contexts: int
    ce: dict[str, np.ndarray]
    """By name of method, `CLEAN` or `ZERO`."""


def run_methods(fitted: Fitted) -> list[FittedMethod]:
    """The affine methods whose loss is computed: all, but of the skips the one of full rank and that of half of it."""
    ranks = [method.rank for method in fitted.methods if method.rank is not None]
    half = max((rank for rank in ranks if 2 * rank <= max(ranks)), default=None)
    return [m for m in fitted.methods if m.kind in KINDS or m.rank in (half, max(ranks))]


@dataclass(frozen=True)
class _Work:
    sources: TokenSources
    given: LossInputs
    shifts: Mapping[str, Tensor]
    methods: Sequence[FittedMethod]
    coded: Mapping[str, Mapping[int, SparseCodes]]
    splicer: Splicer
    codes: dict[str, Codes]


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
    length = sources.own.acts.length
    splicer = Splicer(given.model(), given.hook, sources.skip_positions)
    scored = splicer.scored(length)
    codes = {role: Codes(one.codes) for role, one in (("", sources.own), *sources.earlier.items())}
    work = _Work(sources, given, shifts, run_methods(fitted), coded, splicer, codes)
    units = bootstrap_units(sources.own.acts.n_contexts)
    n_units = int(units.max()) + 1
    ce = {name: np.zeros(n_units) for name in (CLEAN, ZERO, *(m.name for m in work.methods), *coded)}
    step = min(CONTEXTS_PER_RUN, splicer.contexts_at_once(length))
    for first in range(0, len(given.chosen), step):
        last = min(first + step, len(given.chosen))
        parts = halve_when_out_of_memory(partial(_run, work, stage), first, last, "run the model on", "contexts")
        for name, total in ce.items():
            losses = np.concatenate([part[name] for part in parts])
            np.add.at(total, units[list(given.chosen[first:last])], losses)
    n_tokens = np.zeros(n_units)
    np.add.at(n_tokens, units[list(given.chosen)], scored.stop - scored.start)
    return LossSums(n_tokens, len(given.chosen), ce)


def _run(work: _Work, stage: Stage, first: int, last: int) -> dict[str, np.ndarray]:
    """The summed loss of each of some contexts, by run."""
    numbers = list(work.given.chosen[first:last])
    tokens = torch.from_numpy(np.asarray(work.given.contexts.tokens[numbers]).astype(np.int64))
    clean = work.splicer.clean(tokens)
    found = {CLEAN: clean.prediction.loss}
    for name, vectors in _vectors(work, numbers):
        shaped = vectors.reshape(len(numbers), work.sources.own.acts.length, -1)
        found[name] = clean.losses(shaped.to(clean.acts.device))
        stage.advance(0)
    stage.advance(len(numbers))
    return {name: loss.double().sum(1).cpu().numpy() for name, loss in found.items()}


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
