"""Is a latent's direction one that a dictionary has already? The nearest directions, against chance.

1. `nearest_in`: the nearest row of each of some dictionaries, for every latent.
2. `not_learned`: for the latents of an SAE trained on a part of the error: the cosine with the nearest direction of each
   dictionary and of the leading principal components of x, beside what random directions reach (mean, 95 % quantile).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import torch
from torch import Tensor

from dmcore.math.neighbours import DecoderRows, Nearest, nearest, random_nearest
from dmcore.progress import Reporter
from dmcore.results.learned import COMPONENTS, NOT_LEARNED

N_COMPONENTS = 32
"""Leading principal components that are looked at, unless the caller gives others."""


def nearest_in(rows: DecoderRows, others: Mapping[str, DecoderRows], reporter: Reporter) -> dict[str, Nearest]:
    """The nearest row of each of `others` to each of `rows`."""
    found = {}
    for name, other in others.items():
        with reporter.stage(f"nearest latents in {name}", rows.n_rows * other.n_rows, "pairs") as stage:
            found[name] = nearest(rows, other, advance=stage.advance)
    return found


def not_learned(
    rows: DecoderRows,
    others: Mapping[str, DecoderRows],
    components: Tensor | None,
    seed: int,
    reporter: Reporter,
) -> pl.DataFrame:
    """The table `NOT_LEARNED`, by dictionary in the order given, then by latent.

    Args:
        rows: of the SAE trained on a part of the error.
        others: the base SAE and wider ones, by the name under which they are shown.
        components: (n, d_model) principal components of x; None leaves them out.
        seed: of the random directions.
        reporter: told of progress, and asked whether to stop.
    """
    tables = []
    for name, found in nearest_in(rows, others, reporter).items():
        tables.append(_rows(name, found, random_nearest(others[name], seed)))
    if components is not None:
        axes = DecoderRows.of(components)
        found = nearest(rows, axes, unsigned=True)
        tables.append(_rows(COMPONENTS, found, random_nearest(axes, seed, unsigned=True)))
    return pl.concat([pl.DataFrame(schema=NOT_LEARNED), *tables])


def _rows(name: str, found: Nearest, chance: Tensor) -> pl.DataFrame:
    columns = {
        "latent": torch.arange(len(found.index)).numpy(),
        "against": [name] * len(found.index),
        **neighbour_columns(found, "nearest", "cosine"),
        "baseline_mean": [float(chance.mean())] * len(found.index),
        "baseline_95": [float(torch.quantile(chance, 0.95))] * len(found.index),
    }
    return pl.DataFrame(columns, schema=NOT_LEARNED)


def neighbour_columns(found: Nearest, index: str, cosine: str) -> dict[str, pl.Series]:
    """Its two columns under these names; null for a latent whose row is zero."""
    there = pl.Series(found.index.numpy() >= 0)
    table = pl.DataFrame({index: found.index.numpy(), cosine: found.cosine.numpy()})
    table = table.with_columns(pl.when(there).then(pl.col(c)).alias(c) for c in (index, cosine))
    return {index: table[index].cast(pl.Int32), cosine: table[cosine].cast(pl.Float32)}
