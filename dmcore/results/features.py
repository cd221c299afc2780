"""The features of one SAE, to be browsed: the schemas of its `features` entry, and the typed result that reads it lazily.

`latents.parquet` has a row a latent, `vocabulary.parquet` the text of every token id that occurs; the rest are flat arrays,
mapped from disk, so that reading one latent touches a few kilobytes:

first.npy               (d_sae + 1, 3) where each latent's examples, window tokens and hits begin
histogram.npy           (d_sae, 20) counts of its positive activations in 20 equal bins from 0 to its largest
example_token.npy       number of the token among all tokens: context * length + position
example_group.npy       decile of its activation among the latent's, 0 to 8; 9 (`TOP`) for the largest activations
example_activation.npy  float32
example_hits.npy        tokens of the window on which the latent is active
window_tokens.npy       ids, one window after the other; how long each is follows from the position
hit_place.npy           where in its window a hit is
hit_value.npy           float16 activation over the latent's largest
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dmcore.errors import StoreError
from dmcore.results.scaling import PARTS
from dmcore.results.scaling import TABLES as SCALING_TABLES

FEATURES = "features"
"""Stage of the entries."""
VERSION = 1
"""Raised when what is computed changes."""

TOP = 9
"""Group of the largest activations; the lower deciles are 0 to 8, the lowest first."""
N_BEFORE, N_AFTER = 24, 8
"""Most tokens of the same context in a window before and after the one that is shown."""
N_BINS = 20
"""Of a histogram. Equal steps of the activation, not of its logarithm: a bin is then the same range in every picture of a
latent, and the many activations just above the threshold are seen to be many."""

LATENTS: dict[str, Any] = {
    "latent": pl.Int32,
    "frequency": pl.Float64,  # share of kept tokens on which it is active (above 0)
    "n_active": pl.Int64,  # those tokens
    "mean_active": pl.Float64,  # mean activation where active; null, like all of activations, for a latent that never is
    "max_active": pl.Float64,
    # sum of its activations on the tenth of the kept tokens where the part is largest, over their sum on all; 0.1 by chance.
    # Null where there is no table of tokens, or the part is the same everywhere
    **{f"{part}_share": pl.Float64 for part in PARTS},
    # Pearson correlation of its activation (0 where it is not active) with the norm of the part, over all kept tokens
    **{f"{part}_r": pl.Float64 for part in PARTS},
    "token": pl.Int32,  # id that is most common among the tokens on which it is active; of equals the lowest
    "token_share": pl.Float64,  # of those tokens
    # latent whose decoder row has the largest cosine with this one's; null where no such dictionary was given
    "base": pl.Int32,
    "base_cosine": pl.Float32,
    "widest": pl.Int32,
    "widest_cosine": pl.Float32,
    # ids of the tokens whose logits its decoder row raises and lowers most, and by how much a unit of the activation does,
    # about the mean over the vocabulary, before the final norm's division; null where there is no unembedding
    "promoted": pl.List(pl.Int32),
    "promoted_logit": pl.List(pl.Float32),
    "suppressed": pl.List(pl.Int32),
    "suppressed_logit": pl.List(pl.Float32),
    "label": pl.String,  # what someone has written about it; empty as made
}
VOCABULARY: dict[str, Any] = SCALING_TABLES["vocabulary"]
PUBLIC_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}/[A-Za-z0-9_.-]{1,120}")
"""Model and SAE as Neuronpedia calls them."""

LATENTS_FILE, VOCABULARY_FILE, ABOUT_FILE = "latents.parquet", "vocabulary.parquet", "about.json"
ARRAYS = (
    "first",
    "histogram",
    "example_token",
    "example_group",
    "example_activation",
    "example_hits",
    "window_tokens",
    "hit_place",
    "hit_value",
)
"""Names of the arrays, without `.npy`."""


def features_spec(summary: str, widest: str | None = None, part: str | None = None) -> dict[str, Any]:
    """The spec of an entry, from what pages know, so that they can find it.

    Args:
        summary: key of the SAE's summary; of the base's, for an SAE on a part of its error.
        widest: key of the summary of the site's widest SAE, if that is another one.
        part: key of the `part` entry, for an SAE on a part.
    """
    return {"stage": FEATURES, "version": VERSION, "summary": summary, "widest": widest, "part": part}


def widest_of(records: pl.DataFrame, summary: str) -> str | None:
    """Key of the summary of the widest SAE at the site of another; None if that one is as wide.

    Of several, the one with the nearest L0, then the first.

    Args:
        records: rows of `RECORD` of a study.
        summary: key of the SAE's own.
    """
    own = records.filter(pl.col("summary_key") == summary).row(0, named=True)
    wider = records.filter((pl.col("site") == own["site"]) & (pl.col("d_sae") > own["d_sae"]))
    far = (pl.col("l0").clip(0.01).log() - math.log(max(own["l0"], 0.01))).abs()
    wider = wider.sort(-pl.col("d_sae"), far, maintain_order=True)
    return wider["summary_key"][0] if len(wider) else None


@dataclass(frozen=True)
class Example:
    """A token on which a latent is active, and the tokens around it."""

    decile: int | None
    """Of its activation among the latent's, 0 (lowest) to 8; None for one of the largest."""
    context: int
    """Its number."""
    position: int
    """In its context."""
    activation: float
    """On this token, exactly."""
    at: int
    """Where in the window this token is."""
    tokens: np.ndarray
    """(n,) ids of the window."""
    activations: np.ndarray
    """(n,) float32 activation on each of them, to three digits; 0 where it is not active."""


@dataclass(frozen=True)
class Histogram:
    """Of the positive activations of a latent at kept tokens."""

    edges: np.ndarray
    """(N_BINS + 1,) from 0 to the largest activation."""
    counts: np.ndarray
    """(N_BINS,) tokens; the right edge belongs to the last bin."""


def window_of(position: Any, length: int) -> tuple[Any, Any]:
    """First position of the window around a position (or around each of several), and the one past its last."""
    return np.maximum(position - N_BEFORE, 0), np.minimum(position + N_AFTER + 1, length)


@dataclass(frozen=True)
class Features:
    """The features of one SAE; tables and arrays are read when they are first asked for."""

    about: Mapping[str, Any]
    """d_sae, n_alive, n_tokens (kept), n_contexts, length, skip_positions, n_high (kept tokens in the top tenth of a part),
    n_top, n_per_decile, seed, left_out (activations that were not above 0), public (`PUBLIC_NAME`, or empty)."""
    folder: Path
    """The entry."""

    @property
    def latents(self) -> pl.LazyFrame:
        """The table of latents, in the order of their numbers, with the columns of `LATENTS`; nothing is read yet."""
        with _sentence():
            return pl.scan_parquet(self.folder / LATENTS_FILE)

    def latent(self, latent: int) -> dict[str, Any]:
        """One row of it."""
        self._check(latent)
        with _sentence():
            return self.latents.slice(latent, 1).collect().row(0, named=True)

    def public_page(self, latent: int) -> str | None:
        """Address of a latent's page on Neuronpedia; None for an SAE that is not there."""
        name = str(self.about.get("public") or "")
        return f"https://www.neuronpedia.org/{name}/{latent}" if PUBLIC_NAME.fullmatch(name) else None

    def search(self, text: str) -> pl.LazyFrame:
        """The latents that have a text (whatever its case) in their label, their most common token or a promoted token."""
        wanted = text.lower()
        words = self.vocabulary.filter(pl.col("text").str.to_lowercase().str.contains(wanted, literal=True))
        ids = pl.lit(words["token"].implode())
        return self.latents.filter(
            pl.col("label").str.to_lowercase().str.contains(wanted, literal=True)
            | pl.col("token").is_in(ids)
            | pl.col("promoted").list.eval(pl.element().is_in(words["token"].implode())).list.any().fill_null(False)
        )

    def histogram(self, latent: int) -> Histogram:
        """Of one latent; all counts are 0 where it is never active."""
        self._check(latent)
        example, end = self._arrays["first"][latent : latent + 2, 0].tolist()
        largest = float(self._arrays["example_activation"][example]) if end > example else 0.0
        return Histogram(np.linspace(0.0, largest, N_BINS + 1), np.array(self._arrays["histogram"][latent]))

    def examples(self, latent: int) -> list[Example]:
        """Its examples: the largest activations, the largest first, then those of each lower decile, the highest first."""
        self._check(latent)
        arrays, length = self._arrays, int(self.about["length"])
        (example, token, hit), (example_end, _, _) = arrays["first"][latent].tolist(), arrays["first"][latent + 1]
        own = slice(example, int(example_end))
        numbers, groups, activations, hits = (
            arrays[f"example_{name}"][own].tolist() for name in ("token", "group", "activation", "hits")
        )
        # The first example is the largest activation of all, in whose units hits are stored.
        largest = np.float32(activations[0]) if numbers else np.float32(0)
        found = []
        for number, group, activation, n_hits in zip(numbers, groups, activations, hits, strict=True):
            context, position = divmod(number, length)
            start, stop = (int(end) for end in window_of(position, length))
            window = np.zeros(stop - start, dtype=np.float32)
            places = arrays["hit_place"][hit : hit + n_hits]
            window[places] = arrays["hit_value"][hit : hit + n_hits].astype(np.float32) * largest
            ids = np.array(arrays["window_tokens"][token : token + stop - start])
            decile = None if group == TOP else group
            found.append(Example(decile, context, position, activation, position - start, ids, window))
            token, hit = token + stop - start, hit + n_hits
        return found

    @cached_property
    def vocabulary(self) -> pl.DataFrame:
        """Text and kind of every token id that occurs in examples or in the table of latents."""
        with _sentence():
            return pl.read_parquet(self.folder / VOCABULARY_FILE)

    @cached_property
    def texts(self) -> dict[int, str]:
        """Text of each of them; raw: escape it before it is shown."""
        return dict(zip(self.vocabulary["token"].to_list(), self.vocabulary["text"].to_list(), strict=True))

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with _sentence():
            return {name: np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}

    def _check(self, latent: int) -> None:
        if not 0 <= latent < int(self.about["d_sae"]):
            raise StoreError(
                f"There is no latent {latent}: this SAE has latents 0 to {int(self.about['d_sae']) - 1:,}."
            )


@contextmanager
def _sentence() -> Iterator[None]:
    """A file that has gone or is no table, as a sentence."""
    try:
        yield
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise StoreError("The features of this SAE cannot be read: make them anew.") from error


def write_features(folder: Path, about: Mapping[str, Any], latents: pl.DataFrame, vocabulary: pl.DataFrame) -> None:
    """Write `about.json` and the two tables; the arrays are written by who makes them."""
    (folder / ABOUT_FILE).write_text(json.dumps(dict(about), indent=1), encoding="utf-8")
    for name, table, schema in (
        (LATENTS_FILE, latents, LATENTS),
        (VOCABULARY_FILE, vocabulary, VOCABULARY),
    ):
        ordered = table.select(pl.col(column).cast(dtype) for column, dtype in schema.items())
        ordered.write_parquet(folder / name, compression="zstd", row_group_size=8192)


def read_features(folder: Path) -> Features:
    """Open what `dmcore.analysis.feature_index.feature_index` wrote.

    Raises:
        StoreError: it cannot be read.
    """
    with _sentence():
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    return Features(about, folder)
