"""Do wider SAEs fail on the same tokens? The error norms of all SAEs of one site, token by token, against each other.

1. One SAE after another: its worst tokens, its norms by group of tokens, and its norms kept for the next step.
2. Two passes over contexts: every pair of SAEs (`dmcore.math.token_pairs`; paper, section on scaling per token).
3. Some contexts, with all norms at all of their positions, to be looked at; and the text of their tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from dmcore.analysis.partition import Partition
from dmcore.analysis.token_norms import TOKENS_PER_CHUNK, TokenNorms, read_part
from dmcore.analysis.token_slices import Slices, groupings
from dmcore.analysis.worst_tokens import browsed_contexts, worst_tokens
from dmcore.errors import DataError
from dmcore.math.bootstrap import bootstrap_units
from dmcore.math.token_pairs import PairEstimates, PairMoments, PairSums, pair_estimates
from dmcore.progress import Reporter, Stage
from dmcore.results.scaling import NORMS, PARTS, TABLES, TOKENS, Scaling
from dmcore.sources.contexts import Contexts

MOST_FLOAT16 = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class TokenSources:
    """What is known of the tokens of one site."""

    tables: Sequence[Path]
    """`tokens.parquet` of each SAE's split entry: a row a token, contexts in order."""
    names: Sequence[str]
    """Of the SAEs, for messages."""
    contexts: Contexts
    partition: Partition
    skip_positions: int
    seed: int
    """Of the bootstrap."""
    act_scale: float
    """Root mean square of |x - mean x| over kept tokens."""
    vocabulary: Callable[[Iterable[int]], pl.DataFrame]
    """Text and kind of some token ids (see `token_kinds`)."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.act_scale) and self.act_scale > 0):
            raise DataError(f"The activations have the scale {self.act_scale}: give tokens on which they vary.")
        if len(self.tables) != len(self.names) or not self.tables:
            raise DataError(
                f"There are {len(self.tables)} tables of tokens and {len(self.names)} names: give one each."
            )
        if not 0 <= self.skip_positions < self.contexts.length:
            raise DataError(
                f"skip_positions is {self.skip_positions}, but contexts have {self.contexts.length} tokens: lower it."
            )

    @property
    def n_kept(self) -> int:
        """Tokens kept of each context."""
        return self.contexts.length - self.skip_positions

    def chunks(self) -> Iterator[slice]:
        """Some consecutive contexts at a time."""
        step = max(1, TOKENS_PER_CHUNK // self.contexts.length)
        for first in range(0, self.contexts.n_contexts, step):
            yield slice(first, min(first + step, self.contexts.n_contexts))


def token_tables(sources: TokenSources, folder: Path, reporter: Reporter) -> tuple[dict[str, pl.DataFrame], list[int]]:
    """The tables `pairs`, `worst`, `slices` and `vocabulary`, and the numbers of the contexts that can be looked at.

    Args:
        sources: of one site.
        folder: where `norms.npy` and `tokens.npy` are written, and temporary files live meanwhile.
        reporter: told of progress, and asked whether to stop.

    Raises:
        DataError: a table of tokens does not fit the texts, or holds what is no squared norm; names the SAE.
    """
    contexts, n_saes = sources.contexts, len(sources.tables)
    words = sources.vocabulary(_ids(contexts.tokens, sources))
    slices = Slices(
        groupings(contexts, sources.skip_positions, words), contexts.n_contexts, sources.n_kept, sources.seed
    )
    worst_rows, slice_rows = [], []
    with closing(TokenNorms(n_saes, contexts.n_contexts, sources.n_kept, folder)) as norms:
        with reporter.stage("errors by token", n_saes * (len(PARTS) + 3), "steps") as stage:
            for sae in range(n_saes):
                squares = {part: of[:, sources.skip_positions :] for part, of in _parts(sources, sae, stage)}
                worst_rows.append(
                    worst_tokens(sae, squares, contexts.tokens, sources.skip_positions, sources.act_scale)
                )
                stage.advance()
                slice_rows.append(slices.rows(sae, squares))
                stage.advance()
                norms.put(squares["error"], squares["nonlinear"])
                stage.advance()
        found = _pairs(norms, sources, reporter)
    worst = pl.concat(worst_rows)
    browsed = browsed_contexts(worst, contexts.n_contexts)
    _write_browsed(sources, browsed, folder, reporter)
    shown = _ids(contexts.tokens[browsed], sources) | set(
        pl.concat([worst["token"], *(worst[c].explode().drop_nulls() for c in ("before", "after"))]).to_list()
    )
    tables = {
        "pairs": pairs_table(found),
        "worst": worst,
        "slices": pl.concat(slice_rows),
        "vocabulary": words.filter(pl.col("token").is_in(sorted(shown))),
    }
    return {name: Scaling.in_schema(name, table) for name, table in tables.items()}, browsed


def _ids(tokens: np.ndarray, sources: TokenSources) -> set[int]:
    """Every id that occurs; a few contexts at a time, since tokens may be mapped from disk."""
    step = max(1, TOKENS_PER_CHUNK // sources.contexts.length)
    return {int(i) for first in range(0, len(tokens), step) for i in np.unique(tokens[first : first + step])}


def _parts(sources: TokenSources, sae: int, stage: Stage) -> Iterator[tuple[str, np.ndarray]]:
    """Each part of an SAE's error with its squared norms, (n_contexts, length)."""
    for part in PARTS:
        contexts = sources.contexts
        yield part, read_part(sources.tables[sae], sources.names[sae], part, contexts.n_contexts, contexts.length)
        stage.advance()


def _pairs(norms: TokenNorms, sources: TokenSources, reporter: Reporter) -> PairEstimates:
    n_saes, n_contexts = len(sources.tables), sources.contexts.n_contexts
    folds = sources.partition.folds
    moments = PairMoments(n_saes, sources.partition.n_folds)
    with reporter.stage("pairs of SAEs", 2 * n_contexts, "contexts") as stage:
        for chunk in sources.chunks():
            moments.add(norms.columns(chunk), folds[chunk])
            stage.advance(chunk.stop - chunk.start)
        sums = PairSums(moments, bootstrap_units(n_contexts))
        for chunk in sources.chunks():
            numbers = np.arange(chunk.start, chunk.stop)
            sums.add(norms.columns(chunk), norms.ranks(chunk), numbers, folds[chunk])
            stage.advance(len(numbers))
    with reporter.stage("intervals of pairs", n_saes, "SAEs") as stage:
        return pair_estimates(sums, sources.seed, stage.advance)


def pairs_table(found: PairEstimates) -> pl.DataFrame:
    """The table of pairs, ordered by source, then target."""
    n_saes = len(found.f)
    columns = {"source": np.repeat(np.arange(n_saes), n_saes), "target": np.tile(np.arange(n_saes), n_saes)}
    for name in ("r2", "spearman", "r2_both", "closed"):
        for end, values in zip(("", "_low", "_high"), getattr(found, name), strict=True):
            columns[f"{name}{end}"] = values.reshape(-1)
    columns |= {name: getattr(found, name).reshape(-1) for name in ("f", "p", "z")}
    return pl.DataFrame(columns, schema_overrides=TABLES["pairs"]).fill_nan(None)


def _write_browsed(sources: TokenSources, browsed: Sequence[int], folder: Path, reporter: Reporter) -> None:
    """Write the arrays of the contexts that can be looked at."""
    shape = (len(browsed), sources.contexts.length, len(sources.tables), len(PARTS))
    norms = np.empty(shape, dtype=np.float16)
    with reporter.stage("contexts to look at", shape[2] * len(PARTS), "steps") as stage:
        for sae in range(shape[2]):
            for number, (_, squares) in enumerate(_parts(sources, sae, stage)):
                relative = np.sqrt(squares[browsed], dtype=np.float64) / sources.act_scale
                norms[:, :, sae, number] = np.minimum(relative, MOST_FLOAT16)
    for name, array in ((NORMS, norms), (TOKENS, sources.contexts.tokens[browsed].astype(np.int32))):
        with (folder / name).open("wb") as file:
            np.lib.format.write_array(file, array, allow_pickle=False)
