"""The `features` entry of one SAE: what a page needs to list its latents and to show any of them.

1. Its codes, latent by latent (`feature_codes`).
2. One pass over the latents: statistics (`feature_statistics`) and examples (`feature_examples`).
3. From the decoder: nearest latents (`feature_neighbours`), promoted and suppressed tokens (`feature_logits`).
4. The texts of all token ids that occur.

All is made in a folder inside the one given, and moved out at the end: what is stopped leaves nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from torch import Tensor

from dmcore.analysis.feature_codes import LatentMajor
from dmcore.analysis.feature_examples import ExampleWriter, choose
from dmcore.analysis.feature_logits import LogitEffects, logit_effects
from dmcore.analysis.feature_neighbours import nearest_in, neighbour_columns
from dmcore.analysis.feature_statistics import LatentStatistics, n_high_of, read_parts
from dmcore.analysis.token_kinds import unnamed_vocabulary
from dmcore.analysis.token_norms import TOKENS_PER_CHUNK
from dmcore.errors import DataError
from dmcore.math.neighbours import DecoderRows
from dmcore.progress import Reporter
from dmcore.results.features import LATENTS, read_features, write_features
from dmcore.sources.contexts import Contexts

__all__ = ["BASE", "WIDEST", "DecoderRows", "FeatureSources", "feature_index", "read_features"]

BASE, WIDEST = "base", "widest"
"""Names of the dictionaries in `FeatureSources.others` that have columns in the table of latents."""


@dataclass(frozen=True)
class FeatureSources:
    """What the features of one SAE are made from."""

    codes: Path
    """Folder of its codes over all tokens of the contexts."""
    d_sae: int
    contexts: Contexts
    skip_positions: int
    tokens: Path | None = None
    """`tokens.parquet` of the base SAE's split, for the norms of the parts; None leaves those columns null."""
    rows: Callable[[int, int], Tensor | None] | None = None
    """`rows(first, last)`: its decoder rows (`Dictionary.decoder_rows`); None, here or returned, leaves what needs them null."""
    others: Mapping[str, DecoderRows] = field(default_factory=dict)
    """Dictionaries of the same site, of which `BASE` and `WIDEST` get columns. Leave out the SAE itself."""
    unembedding: Tensor | None = None
    """(d_model, n_vocabulary); None for a site that does not write to the residual stream, or a model that has none."""
    vocabulary: Callable[[Iterable[int]], pl.DataFrame] | None = None
    """Text and kind of some token ids (see `token_kinds`)."""
    seed: int = 0
    """Of the examples that are drawn."""
    public: str = ""
    """The SAE's name on a public site of features (`PUBLIC_NAME`), or empty."""
    n_top: int = 20
    """Most examples of the largest activations of a latent."""
    n_per_decile: int = 3
    """Examples of each lower decile."""

    def __post_init__(self) -> None:
        if not 0 <= self.skip_positions < self.contexts.length:
            raise DataError(
                f"skip_positions is {self.skip_positions}, but contexts have {self.contexts.length} tokens: lower it."
            )
        if self.n_top < 1 or self.n_per_decile < 0:
            raise DataError("A latent needs at least one example, its largest activation: raise n_top.")
        if self.d_sae < 1:
            raise DataError("The SAE has no latents: give one that has.")
        unknown = sorted(set(self.others) - {BASE, WIDEST})
        if unknown:
            raise DataError(f"The table of latents has no columns for {unknown[0]}: give {BASE} or {WIDEST}.")

    @property
    def decoder(self) -> DecoderRows | None:
        """Its decoder rows, if it has such."""
        if self.rows is None or self.rows(0, 1) is None:
            return None
        return DecoderRows(self.d_sae, self.rows)


def feature_index(sources: FeatureSources, folder: Path, reporter: Reporter) -> None:
    """Make the entry in `folder`; takes 10 bytes there for each active latent of a token meanwhile.

    Raises:
        DataError: codes, table of tokens or weights cannot be read, do not fit together, or hold what is no number.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        statistics, about, seen = _pass_over_latents(sources, work, reporter)
        columns = {name: pl.Series(values) for name, values in statistics.columns().items()}
        decoder = sources.decoder
        if decoder is not None:
            for other, found in nearest_in(decoder, sources.others, reporter).items():
                columns |= neighbour_columns(found, other, f"{other}_cosine")
            if sources.unembedding is not None:
                with reporter.stage("promoted tokens", sources.d_sae, "latents") as stage:
                    effects = logit_effects(decoder.read, sources.d_sae, sources.unembedding, stage)
                columns |= _effect_columns(effects)
                seen |= set(np.unique(effects.promoted).tolist()) | set(np.unique(effects.suppressed).tolist())
        latents = _table(columns, sources.d_sae)
        seen |= set(latents["token"].drop_nulls().to_list())
        write_features(work, about, latents, _vocabulary(sources, seen))
        for path in sorted(work.iterdir()):
            path.replace(folder / path.name)


def _pass_over_latents(
    sources: FeatureSources, work: Path, reporter: Reporter
) -> tuple[LatentStatistics, dict[str, object], set[int]]:
    """Statistics of every latent, what is said of the entry, and the ids in the windows of the examples written."""
    contexts, skip = sources.contexts, sources.skip_positions
    parts = {} if sources.tokens is None else read_parts(sources.tokens, "the base SAE", contexts, skip)
    statistics = LatentStatistics(sources.d_sae, contexts, skip, parts)
    writer = ExampleWriter(work, contexts.tokens, _most_id(contexts))
    try:
        with LatentMajor(
            sources.codes, sources.d_sae, contexts.n_contexts, contexts.length, work, reporter
        ) as by_latent:
            with reporter.stage("examples of latents", sources.d_sae, "latents") as stage:
                for slab in by_latent.slabs():
                    kept = slab.kept(contexts.length, skip)
                    statistics.add(kept)
                    writer.add(
                        slab,
                        kept,
                        choose(kept, contexts.length, sources.seed, sources.n_top, sources.n_per_decile),
                    )
                    stage.advance(slab.n_latents)
            left_out = by_latent.left_out
    finally:
        writer.close()
    with (work / "histogram.npy").open("wb") as file:
        np.lib.format.write_array(file, statistics.histogram, allow_pickle=False)
    about = {
        "d_sae": sources.d_sae,
        "n_alive": int((statistics.n_active > 0).sum()),
        "n_tokens": statistics.n_kept,
        "n_contexts": contexts.n_contexts,
        "length": contexts.length,
        "skip_positions": skip,
        "n_high": n_high_of(statistics.n_kept),
        "n_top": sources.n_top,
        "n_per_decile": sources.n_per_decile,
        "seed": sources.seed,
        "left_out": left_out,
        "public": sources.public,
    }
    return statistics, about, set(np.flatnonzero(writer.ids_seen).tolist())


def _most_id(contexts: Contexts) -> int:
    """The largest token id; a few contexts at a time, since tokens may be mapped from disk."""
    step = max(1, TOKENS_PER_CHUNK // contexts.length)
    return max(int(contexts.tokens[first : first + step].max()) for first in range(0, contexts.n_contexts, step))


def _effect_columns(effects: LogitEffects) -> dict[str, pl.Series]:
    arrays = {name: getattr(effects, name) for name in LATENTS if name.startswith(("promoted", "suppressed"))}
    return {name: pl.Series(values).arr.to_list() for name, values in arrays.items()}


def _table(columns: Mapping[str, pl.Series], d_sae: int) -> pl.DataFrame:
    """The table of latents: NaN is null, and so is what could not be had."""
    given = {"label": pl.Series([""] * d_sae), **columns}
    table = pl.DataFrame(
        {
            name: given[name].cast(kind) if name in given else pl.Series([None] * d_sae, dtype=kind)
            for name, kind in LATENTS.items()
        }
    ).fill_nan(None)
    return table.with_columns(pl.when(pl.col("token_share").is_not_null()).then(pl.col("token")).alias("token"))


def _vocabulary(sources: FeatureSources, ids: Iterable[int]) -> pl.DataFrame:
    return (sources.vocabulary or unnamed_vocabulary)(sorted(ids))
