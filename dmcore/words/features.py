"""What the view *Features* says of all latents in a sentence and a table, made from the numbers."""

from __future__ import annotations

import polars as pl

from dmcore.charts.token_text import visible
from dmcore.results import Features


def features_finding(features: Features) -> str:
    """How many latents fire where the nonlinear error is large."""
    rows = features.latents.filter(pl.col("n_active") > 0).select("nonlinear_share").collect()["nonlinear_share"]
    fire = f"{features.about['n_alive']:,} of {features.about['d_sae']:,} latents fire on the study's tokens"
    known = rows.drop_nulls()
    if not len(known):
        return f"{fire}."
    high = len(known.filter(known > 0.2)) / len(known)
    return (
        f"{fire}; {100 * high:.0f} % of them have more than 20 % of their activation on the tenth of the tokens with the largest "
        "nonlinear error, where a latent that fires regardless of it has 10 %."
    )


def shown_rows(features: Features, table: pl.DataFrame) -> pl.DataFrame:
    """The table as the page shows it; a table shows text as text."""
    texts = features.texts

    def words(ids: list[int] | None, n: int) -> str:
        return "  ".join(visible(texts.get(i, f"#{i}")) for i in (ids or [])[:n])

    return table.select(
        "latent",
        pl.col("frequency") * 100,
        "mean_active",
        "max_active",
        pl.col("nonlinear_share") * 100,
        "nonlinear_r",
        pl.Series("token", [words([i] if i is not None else None, 1) for i in table["token"]], dtype=pl.String),
        pl.Series("promotes", [words(i, 4) for i in table["promoted"].to_list()], dtype=pl.String),
        *(name for name in ("base_cosine", "widest_cosine") if table[name].null_count() < len(table)),
    )
