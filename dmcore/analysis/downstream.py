"""What each part of an SAE's error costs the model's own loss (paper, section on downstream loss; PAPER.md, Settings).

1. Read a chunk of stored activations and codes; take the error apart by the maps of the fold in which each token is held out.
2. Run its contexts clean, then with each variant in the place of the activation at the kept positions (`sources.splice`): the
   SAE, the SAE with either part of its error added back, controls; on some contexts the whole error, and doses of the parts.
3. Per scored token: loss, KL(clean || variant), the most probable token. Kept: sums over bootstrap units (`DownstreamSums`), and
   the tokens of some contexts. The state is written every few seconds, so that a run that was cut off goes on.
4. Tables with bootstrap intervals (`downstream_tables`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dmcore.analysis.activations import Chunk
from dmcore.analysis.codes import Codes
from dmcore.analysis.context_sample import at_steps
from dmcore.analysis.downstream_sums import ContextRuns, DownstreamSums, Scores
from dmcore.analysis.downstream_tables import downstream_tables, token_table
from dmcore.analysis.encode import error_chunks
from dmcore.analysis.norm_tests import NormTestInputs, fold_maps
from dmcore.analysis.splice_variants import EVERYWHERE, ON_SOME, ChunkVectors
from dmcore.analysis.token_kinds import KINDS, UNKNOWN, kind_numbers
from dmcore.errors import Cancelled
from dmcore.math.bootstrap import bootstrap_units
from dmcore.math.split import FoldedFit, row_norm_sq, split_tokens
from dmcore.memory import halve_when_out_of_memory
from dmcore.progress import Reporter, Stage
from dmcore.results.downstream import Downstream, DownstreamSettings
from dmcore.sources.contexts import Contexts
from dmcore.sources.models import LanguageModel
from dmcore.sources.splice import CleanRun, Prediction, Splicer

CONTEXTS_PER_RUN, CONTEXTS_PER_RUN_CUDA = 8, 32
"""Contexts that go through the model at once, where their predictions are not too large."""
MOST_LISTED = 64
"""Most contexts whose tokens are kept."""
SECONDS_PER_SAVE = 15.0


@dataclass(frozen=True)
class DownstreamInputs(NormTestInputs):
    """What the analysis works from: the inputs of the norm tests, the texts and the model."""

    hook: str
    contexts: Contexts
    vocabulary: Callable[[Iterable[int]], pl.DataFrame]
    """Names tokens: `token_kinds.vocabulary` with a tokenizer, or `unnamed_vocabulary`."""
    model: Callable[[], LanguageModel]
    """Loads the model."""
    asked: DownstreamSettings
    listed: Sequence[int] = ()
    """Contexts whose tokens are to be kept, where they are run; some at equal steps if there is none."""


@dataclass(frozen=True)
class _Work:
    """What the pass needs at every chunk."""

    given: DownstreamInputs
    splicer: Splicer
    linear: FoldedFit
    mean: Tensor
    kind_of: np.ndarray
    """(largest id + 1,) kind of each token id."""
    doses: frozenset[int]
    sums: DownstreamSums


@torch.no_grad()
def downstream(
    given: DownstreamInputs, folder: Path, reporter: Reporter, name: str, known: Mapping[str, Any] | None = None
) -> None:
    """Write what the parts of one SAE's error cost into `folder`; `Downstream` opens it.

    Goes on from what an earlier call, that was cut off, has left in the folder. `known` of the SAE is told in `about` too.

    Raises:
        SpecError: the model predicts no next token, cannot be spliced at this site, or no position is scored.
        DataError: the SAE or the model gave NaN or infinity.
    """
    length, skip = given.acts.length, given.settings.skip_positions
    splicer = Splicer(given.model(), given.hook, skip)
    scored = splicer.scored(length)
    chosen = at_steps(range(given.acts.n_contexts), given.asked.contexts or given.acts.n_contexts)
    doses = at_steps(chosen, given.asked.dose_contexts)
    listed = _listed(given.listed, chosen)
    words = given.vocabulary(np.unique(given.contexts.tokens).tolist())
    sums = DownstreamSums(
        ("clean", *EVERYWHERE),
        ("clean", "sae", "sae_linear", "sae_nonlinear", *ON_SOME),
        bootstrap_units(given.acts.n_contexts),
        len(KINDS),
        listed,
        scored.stop - scored.start,
    )
    linear = fold_maps(given.split, given.inputs.shift, given.partition.n_folds)
    cells = [c for cells in given.partition.cells_of_fold(skip) for c in cells]
    work = _Work(given, splicer, linear, given.inputs.mean(cells), kind_numbers(words), frozenset(doses), sums)
    _pass(work, chosen, folder, reporter, name)
    about, tables = downstream_tables(sums, given.seed, unnamed=bool((words["kind"] == UNKNOWN).all()))
    tables |= _token_tables(given, sums, scored, 0 if splicer.model.predicts_itself else 1)
    about |= {
        **(known or {}),
        "hook": given.hook,
        "d_sae": given.sae.d_sae,
        "n_contexts": len(chosen),
        "dose_contexts": len(doses),
        "context_numbers": listed,
        "skip_positions": skip,
        "n_folds": given.partition.n_folds,
        "seed": given.seed,
    }
    Downstream.write(folder, about, tables)
    DownstreamSums.forget(folder)


def _listed(wanted: Sequence[int], chosen: Sequence[int]) -> list[int]:
    run = [context for context in sorted(wanted) if context in set(chosen)]
    return run[:MOST_LISTED] or at_steps(chosen, MOST_LISTED)


def _pass(work: _Work, chosen: list[int], folder: Path, reporter: Reporter, name: str) -> None:
    """Run everything on the chosen contexts, chunk by chunk."""
    by_chunk = _by_chunk(work.given.acts.chunks(), chosen)
    done = min(work.sums.load(folder), len(by_chunk))
    codes = Codes(work.given.codes)
    seen = sum(len(contexts) for _, contexts in by_chunk[:done])
    saved = time.monotonic()
    step = CONTEXTS_PER_RUN_CUDA if work.splicer.model.device.type == "cuda" else CONTEXTS_PER_RUN
    step = min(step, work.splicer.contexts_at_once(work.given.acts.length))
    with reporter.stage(f"what the error of {name} costs", len(chosen), "contexts", seen) as stage:
        try:
            while done < len(by_chunk):
                chunk, contexts = by_chunk[done]
                runs, step = _of_chunk(work, _vectors(work, codes, chunk), contexts, step, stage)
                for one in runs:
                    work.sums.add(one)
                done += 1
                if time.monotonic() - saved > SECONDS_PER_SAVE:
                    work.sums.save(folder, done)
                    saved = time.monotonic()
        except (Cancelled, KeyboardInterrupt):
            work.sums.save(folder, done)
            raise


def _by_chunk(chunks: Iterable[Chunk], chosen: list[int]) -> list[tuple[Chunk, list[int]]]:
    """Chunks that hold a chosen context, with the numbers of those within the chunk."""
    wanted = np.array(chosen)
    found = []
    for chunk in chunks:
        within = wanted[(wanted >= chunk.first_context) & (wanted < chunk.first_context + chunk.n_contexts)]
        if len(within):
            found.append((chunk, (within - chunk.first_context).tolist()))
    return found


def _vectors(work: _Work, codes: Codes, chunk: Chunk) -> ChunkVectors:
    given = work.given
    x = given.acts.read(chunk, given.device)
    part = next(error_chunks([chunk], x, codes.read(chunk, given.device), given.sae))
    error = part.error.to(x.dtype)
    parts = split_tokens(work.linear, x, error, given.partition.token_folds(chunk, x.device))
    skip = given.settings.skip_positions
    return ChunkVectors(chunk, x, error, parts.linear, work.mean, skip_positions=skip, seed=given.seed)


def _of_chunk(
    work: _Work, vectors: ChunkVectors, contexts: list[int], step: int, stage: Stage
) -> tuple[list[ContextRuns], int]:
    """All runs of the chosen contexts of a chunk, and how many go through the model at once from now on."""
    runs: list[ContextRuns] = []
    first = 0
    while first < len(contexts):
        last = min(first + step, len(contexts))
        run = partial(_run, work, vectors, contexts, stage)
        found = halve_when_out_of_memory(run, first, last, "run the model on", "contexts")
        runs += [one for some in found for one in some]
        first, step = last, min(step, max(len(some) for some in found)) if len(found) > 1 else step
    return runs, step


def _run(
    work: _Work, vectors: ChunkVectors, contexts: list[int], stage: Stage, first: int, last: int
) -> list[ContextRuns]:
    """Every variant on some contexts of a chunk; the doses on those of them that have them."""
    given, here = work.given, contexts[first:last]
    numbers = [vectors.chunk.first_context + c for c in here]
    tokens = torch.from_numpy(np.asarray(given.contexts.tokens[numbers]).astype(np.int64))
    clean = work.splicer.clean(tokens)
    scores = [{"clean": one} for one in _scores(clean.prediction)]
    for variant in EVERYWHERE:
        _add(scores, variant, clean, vectors.of(variant, here), stage)
    dosed = [i for i, number in enumerate(numbers) if number in work.doses]
    if dosed:
        some = clean if len(dosed) == len(here) else work.splicer.clean(tokens[dosed])
        for variant in ON_SOME:
            _add([scores[i] for i in dosed], variant, some, vectors.of(variant, [here[i] for i in dosed]), stage)
    scored = work.splicer.scored(vectors.chunk.length)
    ahead = 0 if work.splicer.model.predicts_itself else 1
    stage.advance(len(here))
    runs = []
    for i, context in enumerate(here):
        targets = tokens[i, scored.start + ahead : scored.stop + ahead].numpy()
        norms = _norms(vectors, context, scored)
        kinds = work.kind_of[targets]
        runs.append(ContextRuns(numbers[i], scores[i], targets, kinds, norms, numbers[i] in work.doses))
    return runs


def _add(scores: list[dict[str, Scores]], variant: str, clean: CleanRun, vectors: Tensor, stage: Stage) -> None:
    """Run a variant on some contexts."""
    for one, found in zip(scores, _scores(clean.spliced(vectors.to(clean.acts.device))), strict=True):
        one[variant] = found
    stage.advance(0)


def _scores(found: Prediction) -> list[Scores]:
    """A row a context."""
    columns = [column.cpu().numpy() for column in (found.loss, found.kl, found.top)]
    return [Scores(*rows) for rows in zip(*columns, strict=True)]


def _norms(vectors: ChunkVectors, context: int, scored: slice) -> np.ndarray:
    error, linear, nonlinear = (
        row_norm_sq(v[context, scored]) for v in (vectors.error, vectors.linear, vectors.nonlinear)
    )
    columns = [error, linear, nonlinear, *(v.sqrt() for v in (error, linear, nonlinear))]
    return torch.stack(columns).sum(1).cpu().numpy()


def _token_tables(given: DownstreamInputs, sums: DownstreamSums, scored: slice, ahead: int) -> dict[str, pl.DataFrame]:
    """Single tokens of the listed contexts, and the texts of their ids."""
    positions = np.arange(scored.start, scored.stop)
    ids = np.asarray(given.contexts.tokens[sums.listed]).astype(np.int32)
    table = token_table(sums, positions, ids[:, positions], ids[:, positions + ahead])
    used = np.unique(np.concatenate([table["token"].to_numpy(), table["target"].to_numpy()]))
    return {"tokens": table, "vocabulary": given.vocabulary(used.tolist())}
