"""The structure of one SAE's error: spectra, stable directions, clusters of tokens, and the latents that fire.

1. From the table of tokens: which kept tokens have the largest norm of the error and of its nonlinear part, and the largest
   share of squared error that is nonlinear (`cut_largest`).
2. One pass over the stored codes (`decoded`), with the parts of the error out of fold by the maps of the split: moments in
   groups of contexts, vectors of the chosen tokens, counts of latents. Nothing kept grows with the number of tokens.
3. Spectra, halves, alignment (`error_spectra`); clusters against a Gaussian null (`error_clusters`); lifts (`latent_lift`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from dmcore.analysis.activations import chunks_of
from dmcore.analysis.cluster_contents import Rows, Texts, cluster_rows, ids_of, silhouette_rows
from dmcore.analysis.encode import decoded
from dmcore.analysis.error_clusters import APART, MOST_TOKENS, N_DRAWS, Found, HighVectors, find_clusters
from dmcore.analysis.error_spectra import ContextGroups, GroupedMoments, PartMoments, Remark, spectrum_tables
from dmcore.analysis.latent_lift import COLUMNS, LatentLift, TokenTable, high_shares
from dmcore.analysis.norm_tests import NormTestInputs, fold_maps
from dmcore.analysis.split_pass import TOKENS
from dmcore.analysis.token_kinds import UNKNOWN
from dmcore.math.split import FoldedFit, split_tokens
from dmcore.math.top_values import Cut, cut_largest
from dmcore.progress import Reporter, Stage
from dmcore.results.structure import (
    CLUSTERED_PARTS,
    SPECTRUM_PARTS,
    Structure,
    structure_table,
)
from dmcore.sources.contexts import Contexts

CALLED = {"error": "total error", "nonlinear": "nonlinear error"}
"""What sentences call the parts whose tokens are clustered."""


@dataclass(frozen=True)
class StructureInputs(NormTestInputs):
    """What the structure works from: the inputs of the norm tests, and the texts."""

    contexts: Contexts
    vocabulary: Callable[[Iterable[int]], pl.DataFrame]
    """Names tokens: `token_kinds.vocabulary` with a tokenizer, or `unnamed_vocabulary`."""


@dataclass(frozen=True)
class _Pass:
    """What is filled in the pass over the tokens."""

    moments: GroupedMoments
    high: dict[str, HighVectors]
    lift: LatentLift


@torch.inference_mode()
def structure(given: StructureInputs, folder: Path, reporter: Reporter, name: str) -> None:
    """Write the structure of one SAE's error into `folder`; `Structure` opens it.

    Intervals of spectra and alignment: a jackknife over about 20 groups of contexts; of lifts: clustered by context; both
    with the maps of the split held fixed. What cannot be had (an error that is 0 or does not vary, halves without variance,
    no decoder rows) is null, with a sentence in `remarks`.

    Raises:
        DataError: the table of tokens cannot be read, or does not fit.
    """
    kept_words = given.vocabulary(_ids(given.contexts.tokens))
    linear = fold_maps(given.split, given.inputs.shift, given.partition.n_folds)
    groups = ContextGroups.of(given.partition.folds, given.acts.d_model, given.seed)
    table = TokenTable(given.split / TOKENS, given.acts.n_contexts, given.acts.length, given.settings.skip_positions)
    with reporter.stage(f"structure of {name}", given.acts.n_tokens, "tokens") as stage:
        filled = _filled(given, linear, groups, table, kept_words, stage)
    parts = filled.moments.parts(linear)
    steps = len(SPECTRUM_PARTS) + len(CLUSTERED_PARTS) * (1 + N_DRAWS)
    with reporter.stage(f"directions and clusters of {name}", steps, "steps") as stage:
        tables, remarks = spectrum_tables(parts, given.sae, given.seed, stage.advance)
        kinds = dict(zip(kept_words["token"].to_list(), kept_words["kind"].to_list(), strict=True))
        clusters, more = _clusters(given, filled.high, parts, kinds, stage)
    lifts, about, of_lifts = _lifts(filled.lift, parts, bool((kept_words["kind"] == UNKNOWN).all()))
    tables |= clusters | lifts
    remarks += more + of_lifts
    tables["remarks"] = structure_table(
        "remarks", [{"topic": topic, "part": part, "text": text} for topic, part, text in remarks]
    )
    tables["vocabulary"] = given.vocabulary(ids_of(tables))
    about |= {
        "n_groups": len(groups.folds),
        "clustered": {part: len(high.tokens) for part, high in filled.high.items()},
    }
    Structure.write(folder, _about(given) | about, tables)


def _filled(
    given: StructureInputs,
    linear: FoldedFit,
    groups: ContextGroups,
    table: TokenTable,
    words: pl.DataFrame,
    stage: Stage,
) -> _Pass:
    """The pass over the tokens."""
    high = {part: HighVectors(_largest_norms(table, COLUMNS.index(f"{part}_sq"))) for part in CLUSTERED_PARTS}
    skip = given.settings.skip_positions
    lift = LatentLift(given.sae.d_sae, high_shares(table), given.contexts.tokens, words, skip)
    group_of, moments = torch.from_numpy(groups.of_context).to(given.device), None
    columns_of = table.chunks(given.acts.chunks())
    for part, columns in zip(decoded(given.acts, given.sae, given.codes, given.device), columns_of, strict=True):
        device = part.x.device
        error = part.error.to(part.x.dtype)
        parts = split_tokens(linear, part.x, error, given.partition.token_folds(part.chunk, device))
        kept = part.chunk.positions(device) >= skip
        if moments is None:
            moments = GroupedMoments(groups, given.inputs.shift, error[kept].double().mean(0))
        moments.add(part.x, error, torch.where(kept, group_of[part.chunk.contexts(device)], -1))
        for name, vectors in (("error", error), ("nonlinear", parts.nonlinear)):
            high[name].add(part.chunk, _above_zero(columns[COLUMNS.index(f"{name}_sq")]), vectors)
        lift.add(part.chunk, part.codes, columns)
        stage.advance(part.x.shape[0])
    assert moments is not None, "a study has contexts"
    return _Pass(moments, high, lift)


def _largest_norms(table: TokenTable, row: int) -> Cut:
    """The cut that takes the tokens to be clustered; `row`: of `COLUMNS`."""
    return cut_largest(lambda: (_above_zero(columns[row]) for columns in table.chunks()), lambda n: min(MOST_TOKENS, n))


def _above_zero(squares: np.ndarray) -> np.ndarray:
    """Squared norms, with -1, which is not counted, for those that are 0: they have no direction."""
    return np.where(squares > 0, squares, np.float32(-1.0))


def _clusters(
    given: StructureInputs,
    high: dict[str, HighVectors],
    parts: dict[str, PartMoments],
    kinds: dict[int, str],
    stage: Stage,
) -> tuple[dict[str, pl.DataFrame], list[Remark]]:
    """The tables of clusters of both parts, and what is to be said of them."""
    names = ("silhouettes", "clusters", "cluster_tokens", "cluster_kinds", "examples")
    rows: Rows = {name: [] for name in names}
    remarks: list[Remark] = []
    for part in CLUSTERED_PARTS:
        found = find_clusters(high[part], parts[part], given.seed, stage.advance)
        if not isinstance(found, Found):
            remarks.append(("clusters", part, found))
            continue
        rows["silhouettes"] += silhouette_rows(part, found)
        if (text := _said(part, found, len(high[part].tokens))) is not None:
            remarks.append(("clusters", part, text))
        contents = cluster_rows(part, found, high[part], Texts(given.contexts.tokens, kinds), given.sae)
        rows |= {name: rows[name] + of_part for name, of_part in contents.items()}
    return {name: structure_table(name, rows[name]) for name in names}, remarks


def _said(part: str, found: Found, n: int) -> str | None:
    """What is to be said of the clusters of a part; None where they are apart."""
    if found.chosen is None:
        return f"No clusters beyond chance among the {n:,} tokens with the largest {CALLED[part]}."
    own, null = found.clustering.silhouettes[found.chosen], found.null.mean(0)[found.chosen]
    if own >= APART:
        return None
    return (
        f"The clusters of the {CALLED[part]} are beyond chance (silhouette {own:.3f}, Gaussian {null:.3f}) but run into each "
        f"other: below {APART} there is no substantial structure."
    )


def _lifts(
    lift: LatentLift, parts: dict[str, PartMoments], unnamed: bool
) -> tuple[dict[str, pl.DataFrame], dict[str, Any], list[Remark]]:
    """The tables of lifts, what is said of the whole, and remarks."""
    sums = lift.latents
    about: dict[str, Any] = {"n_shared": sums.n_tokens, "n_high": sums.n_marked, "least_share": lift.least_share}
    tables, counts = lift.tables()
    text = None
    if not sums.n_marked or not parts["error"].is_there:
        text = "The error is 0 up to rounding, so no share of it is nonlinear."
    elif not parts["nonlinear"].is_there:
        text = "The nonlinear part is 0 up to rounding, so its share of the squared error is the same for all tokens."
    if text is not None:
        tables = {name: structure_table(name, []) for name in tables}
        about |= {"n_high": 0, "least_share": None} | dict.fromkeys(counts, 0)
        return tables, about | {"least_active": counts["least_active"]}, [("latents", None, text)]
    remarks: list[Remark] = []
    if not counts["n_tested"]:
        least = counts["least_active"]
        remarks.append(
            ("latents", None, f"No latent is active on {least} kept tokens in two contexts: none was tested.")
        )
    if unnamed:
        remarks.append(("groups", None, "The texts of tokens are not known, so there are no kinds of token."))
    return tables, about | counts, remarks


def _ids(tokens: np.ndarray) -> list[int]:
    """Ids that occur, ascending; read some contexts at a time."""
    seen: set[int] = set()
    for chunk in chunks_of(*tokens.shape):
        some = tokens[chunk.first_context : chunk.first_context + chunk.n_contexts]
        seen |= set(np.unique(some).tolist())
    return sorted(seen)


def _about(given: StructureInputs) -> dict[str, Any]:
    """What is known before anything is computed."""
    acts, skip = given.acts, given.settings.skip_positions
    return {
        "d_model": acts.d_model,
        "d_sae": given.sae.d_sae,
        "n_tokens": acts.n_contexts * (acts.length - skip),
        "n_contexts": acts.n_contexts,
        "n_folds": given.partition.n_folds,
        "skip_positions": skip,
        "seed": given.seed,
    }
