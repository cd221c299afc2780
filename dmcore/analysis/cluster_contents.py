"""What is in each cluster of tokens with a large error: its tokens and their kinds, examples, the nearest decoder row.

1. `silhouette_rows`: every k that was tried, against its null.
2. `cluster_rows`: of the chosen k, the contents of each cluster; nothing where there are none beyond chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from dmcore.analysis.error_clusters import Found, HighVectors, centres_of, nearest_rows
from dmcore.results.structure import N_AFTER, N_BEFORE
from dmcore.sources.dictionary import Dictionary
from dmcore.sources.sliced_dictionary import SlicedDictionary

COMMONEST = 10
"""Tokens listed for each cluster."""
N_EXAMPLES, PER_CONTEXT = 12, 2
"""Examples of each cluster, and most of one context."""
Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Texts:
    """What is known of tokens."""

    tokens: np.ndarray
    """(n_contexts, length) ids, mapped from disk."""
    kinds: dict[int, str]
    """Kind of each id that occurs."""


def silhouette_rows(part: str, found: Found) -> list[dict[str, Any]]:
    """Rows of the table `silhouettes`."""
    means, most = found.null.mean(0), found.null.max(0)
    return [
        {
            "part": part,
            "k": k,
            "silhouette": found.clustering.silhouettes[i],
            "null_mean": means[i],
            "null_most": most[i],
            "null_sd": found.null_sd[i],
            "chosen": i == found.chosen,
        }
        for i, k in enumerate(found.clustering.ks)
    ]


def cluster_rows(part: str, found: Found, high: HighVectors, texts: Texts, sae: Dictionary | SlicedDictionary) -> Rows:
    """Rows of `clusters`, `cluster_tokens`, `cluster_kinds` and `examples`, by table."""
    rows: Rows = {"clusters": [], "cluster_tokens": [], "cluster_kinds": [], "examples": []}
    if found.chosen is None:
        return rows
    labels = found.clustering.labels[found.chosen]
    centres = centres_of(high.units, labels)
    context, position = np.divmod(high.tokens, texts.tokens.shape[1])
    ids = texts.tokens[context, position].astype(np.int64)
    kinds = np.array([texts.kinds[int(i)] for i in ids])
    for cluster, (latent, cosine) in enumerate(nearest_rows(centres, sae)):
        members = np.flatnonzero(labels == cluster)
        name = {"part": part, "cluster": cluster}
        about = {"n_tokens": len(members), "n_contexts": len(np.unique(context[members]))}
        about |= {"mean_position": position[members].mean()}
        rows["clusters"].append(name | about | {"decoder_latent": latent, "decoder_cosine": cosine})
        common = commonest(ids, members)[:COMMONEST]
        rows["cluster_tokens"] += [
            name | {"rank": rank, "token": token} | counts for rank, (token, counts) in enumerate(common)
        ]
        rows["cluster_kinds"] += [name | {"kind": kind} | counts for kind, counts in commonest(kinds, members)]
        cosines = high.units[members] @ centres[cluster]
        order = members[np.argsort(-cosines, kind="stable")]
        for rank, i in enumerate(at_most(order, context, PER_CONTEXT, N_EXAMPLES)):
            window = _window(texts.tokens[context[i]], int(position[i]))
            place = {"rank": rank, "context": int(context[i]), "position": int(position[i]), "token": int(ids[i])}
            rows["examples"].append(name | place | {"cosine": float(high.units[i] @ centres[cluster])} | window)
    return rows


def commonest(values: np.ndarray, members: np.ndarray) -> list[tuple[Any, dict[str, float]]]:
    """Each value of some members, the commonest first (of equals the lowest), with count, share, and lift over all."""
    names, inverse = np.unique(values, return_inverse=True)
    of_all, counts = np.bincount(inverse), np.bincount(inverse[members], minlength=len(names))
    order = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
    share = counts / len(members)
    return [
        (
            names[i].item(),
            {"count": int(counts[i]), "share": share[i], "lift": share[i] * len(values) / of_all[i]},
        )
        for i in order
    ]


def at_most(order: np.ndarray, group: np.ndarray, per_group: int, n: int) -> list[int]:
    """The first `n` of `order` with at most `per_group` of one group."""
    taken: dict[int, int] = {}
    found: list[int] = []
    for i in order.tolist():
        times = taken.get(int(group[i]), 0)
        if times < per_group and len(found) < n:
            taken[int(group[i])] = times + 1
            found.append(i)
    return found


def _window(context: np.ndarray, position: int) -> dict[str, list[int]]:
    before = context[max(0, position - N_BEFORE) : position]
    return {"before": before.tolist(), "after": context[position + 1 : position + 1 + N_AFTER].tolist()}


def ids_of(tables: dict[str, pl.DataFrame]) -> list[int]:
    """Ids of the tokens that occur in the tables, ascending."""
    examples = tables["examples"]
    columns = [tables["cluster_tokens"]["token"], examples["token"]]
    columns += [examples[side].explode().drop_nulls() for side in ("before", "after")]
    return pl.concat([column.cast(pl.Int64).alias("token") for column in columns]).unique().sort().to_list()
