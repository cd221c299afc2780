"""The charts of the page Downstream."""

from __future__ import annotations

import polars as pl

from dmcore.charts.doses import doses_chart, doses_table
from dmcore.charts.downstream import NAMES, cost_chart, cost_table
from dmcore.charts.shares import AGAINST, SHARES, shares_chart, shares_table, widths_words
from dmcore.charts.token_kinds import LEAST, kinds_chart, kinds_table
from dmcore.figures.figure import Figure
from dmcore.results import DOWNSTREAM, Downstream
from dmcore.results.downstream import PARTS
from dmcore.words.chosen import Chosen
from dmcore.words.downstream import (
    own_record,
    sample_of,
)

LEAST_TOLD = -1.0
"""A variant that costs more than twice what a share is taken of has none."""
LOST = "Loss: cross-entropy of the next token, in nats; its rise over the clean model's is paired, token by token."


def recovered_rows(found: Downstream) -> pl.DataFrame:
    """What each variant recovers, in percent, with half the width of its intervals."""
    rows = found["variants"].filter(pl.col("variant").is_in(list(NAMES)))
    rows = rows.with_columns(name=pl.col("variant").replace_strict(NAMES))
    columns: list[pl.Expr] = [pl.col("name")]
    for column in ("recovered_zero", "recovered_mean", "recovered_sae"):
        half = 100 * (pl.col(f"{column}_high") - pl.col(f"{column}_low")) / 2
        told = pl.col(column) >= LEAST_TOLD  # ablations cost many times what Sae(x) does: no share of it
        columns += [
            pl.when(told).then(pl.col(column) * 100).alias(column),
            pl.when(told).then(half).alias(f"{column}_half"),
        ]
    return rows.select(*columns)


def shares_of(chosen: Chosen) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """`SHARES` of every SAE of the study with results, and the keys of their entries."""
    records = {row["summary_key"]: row for row in chosen.published.records.to_dicts()}
    rows, keys = [], []
    for key in chosen.looked(DOWNSTREAM):
        found = chosen.downstream(key)
        if found is None:
            continue
        keys.append(found.folder.name)
        more = own_record(found)
        about = {name: records[key][name] for name in ("sae", "layer", "d_sae", "l0")}
        rows += [found.part(part) | more[part] | about for part in PARTS]
    table = pl.DataFrame([{c: row.get(c) for c in SHARES} for row in rows], schema=SHARES, strict=False)
    return table, tuple(keys)


def cost_figure(chosen: Chosen, found: Downstream) -> Figure:
    """What each variant costs."""
    return Figure(
        name="downstream_cost",
        key=(chosen.record["summary_key"], found.folder.name),
        question="What does it cost to hold something else there?",
        caption="The activation at the site is replaced at the scored positions, and the model goes on from there. "
        f"{LOST} KL: of the predictions from the clean model's. Grey: controls; a random vector is as long as the "
        "error at its token; "
        "another token's error is scaled to that length. Bars of the mean of x and of 0 go on beyond their panel. "
        f"{sample_of(found)}",
        chart=lambda: cost_chart(found["variants"], found["sums"]),
        data=lambda: cost_table(found["variants"], found["sums"]),
    )


def doses_figure(chosen: Chosen, found: Downstream) -> Figure:
    """Loss over the dose of each part."""
    doses = found["doses"]
    n = doses["n_tokens"][0]
    return Figure(
        name="downstream_doses",
        key=(chosen.record["summary_key"], found.folder.name),
        question="Does a part cost in proportion to how much of it is missing?",
        caption="Loss of Sae(x) + λ · part above the clean model's: 0 is Sae(x), 1 has the whole part. A straight "
        "line down to 1 "
        "would be in proportion; a curve that flattens early says that the first piece matters most. Beyond 1 there "
        "is more of "
        f"the part than x has. Bands: 95 % intervals over {found.about['dose_contexts']:,} contexts ({n:,} predictions), so "
        "that 0 and 1 need not be what all contexts give.",
        chart=lambda: doses_chart(doses),
        data=lambda: doses_table(doses),
    )


def shares_figure(chosen: Chosen, against: str, gained: str) -> Figure:
    """The parts' shares of the cost against their shares of the error, for every SAE with results."""
    shares, keys = shares_of(chosen)
    n = shares["sae"].n_unique()
    of = f"{n} SAE{'s' if n != 1 else ''} with results: {widths_words(shares)}"
    what = "loss" if gained == "recovered" else "KL"
    return Figure(
        name=f"downstream_shares_{against}_{gained}",
        key=(chosen.record["summary_key"], against, gained, *keys),
        question="Does a part cost what its size says?",
        caption=f"Across: {AGAINST[against]}. Up: share of the {what} that Sae(x) costs which adding the part back "
        "recovers. On the "
        "dashed line a part costs in proportion to its size; above it, more. Shares of the two parts need not add up "
        "to 1: the "
        "parts are not orthogonal, and the model is not linear. Larger dots: wider dictionaries; ringed: the selected SAE. "
        f"Bars: 95 % intervals over contexts. {of}.",
        chart=lambda: shares_chart(shares, against, gained, chosen.record["sae"]),
        data=lambda: shares_table(shares, against, gained),
    )


def kinds_figure(chosen: Chosen, found: Downstream) -> Figure:
    """How often the model is right, by the kind of the token that comes."""
    kinds = found["kinds"]
    return Figure(
        name="downstream_kinds",
        key=(chosen.record["summary_key"], found.folder.name),
        question="At which tokens do predictions suffer?",
        caption="Cloze accuracy on held-out text: how often the most probable token is the one that comes, by the "
        "kind of that token "
        "(number of tokens in brackets). Right: how many percentage points fewer than the clean model, paired. "
        f"Kinds of fewer than {LEAST} tokens are left out. {sample_of(found)}",
        chart=lambda: kinds_chart(kinds),
        data=lambda: kinds_table(kinds),
    )
