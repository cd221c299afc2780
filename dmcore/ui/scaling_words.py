"""What the Scaling page says in sentences, made from the numbers."""

from __future__ import annotations

from typing import Any

import polars as pl

from dmcore.charts.numbers import compact, number, percent, times
from dmcore.results import Scaling
from dmcore.ui.words import l0_text

FAR = 1.5
"""L0s that differ by more than this factor are not called one L0."""


def row_of(table: pl.DataFrame, **where: Any) -> dict[str, Any] | None:
    """The one row that has these values, or None."""
    found = table.filter(*(pl.col(name) == value for name, value in where.items()))
    return found.row(0, named=True) if len(found) else None


def triple(row: dict[str, Any], name: str) -> tuple[Any, Any, Any]:
    """A value and its ends."""
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


def width_finding(scaling: Scaling, chosen: int) -> str:
    """What width does to the error and to its nonlinear part."""
    rows = {m: row_of(scaling["constancy"], set=chosen, metric=m) for m in ("fvu", "fvu_nonlinear")}
    widths = scaling.members(chosen)["d_sae"]
    total, nonlinear = rows["fvu"], rows["fvu_nonlinear"]
    if total is None or nonlinear is None or total["ratio"] is None or nonlinear["ratio"] is None:
        return "This site has one width, so what a wider dictionary would leave is not known yet."
    factor = times(widths[-1] / widths[0])
    return (
        f"A dictionary {factor} wider leaves {percent(*triple(total, 'ratio'))} of the error and "
        f"{percent(*triple(nonlinear, 'ratio'))} of its nonlinear part."
    )


def floor_finding(scaling: Scaling, chosen: int) -> str:
    """Where the law of the error ends, if there is one."""
    law = row_of(scaling["laws"], set=chosen, metric="fvu", law="power", space="log")
    if law is None or law["c"] is None:
        return ""
    low, high = law["c_scatter_low"], law["c_scatter_high"]
    share = percent(law["c"], low, high)
    if law["c"] == 0 or "c" in law["at_bound"].split(","):
        top = f": anything up to {percent(high)} of the variance fits" if high else ""
        return f"At these widths the fitted power law shows no floor{top}."
    return f"The fitted power law ends at a floor of {share} of the variance."


def tokens_finding(scaling: Scaling, chosen: int) -> str:
    """Whether the widest SAE of the set fails where the narrowest does."""
    members = scaling.members(chosen)
    if len(members) < 2:
        return ""
    pair = row_of(scaling["pairs"], source=members["sae"][0], target=members["sae"][-1])
    if pair is None or pair["r2"] is None:
        return ""
    return (
        f"The size of the error at a token of the narrowest predicts {percent(*triple(pair, 'r2'))} of the variance of "
        "that of the widest."
    )


def constancy_sentence(scaling: Scaling, chosen: int) -> str:
    """Whether the nonlinear FVU may be called constant in width."""
    row = row_of(scaling["constancy"], set=chosen, metric="fvu_nonlinear")
    if row is None or row["p"] is None:
        return ""
    low, high = sorted(abs(v) for v in (row["slope_low"], row["slope_high"]))
    across = row["slope_low"] < 0 < row["slope_high"]
    change = f"{abs(100 * row['slope']):.2g} %" if across else percent(abs(row["slope"]), low, high)
    verb = "falls" if row["slope"] < 0 else "rises"
    test = f"Wald test over contexts: χ² = {row['wald']:,.0f}, {row['dof']} degrees of freedom, p {p_text(row['p'])}"
    if row["p"] < 0.05:
        return (
            f"Nonlinear FVU is **not constant** in width: on a log scale it {verb} by {change} with each doubling, more than the "
            f"choice of texts explains ({test})."
        )
    return (
        f"Nonlinear FVU may be **constant** in width: it {verb} by {change} with each doubling, within what the choice of texts "
        f"does ({test})."
    )


def parameter(row: dict[str, Any], name: str) -> str:
    """A parameter of a law with its interval; a floor that the fit has pushed to 0 says so."""
    value, low, high = triple(row, name)
    if value is None:
        return ""
    return "0 (at its bound)" if value == 0 and not high else number(value, low, high)


def p_text(p: float) -> str:
    """`= 0.031`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def l0_note(members: pl.DataFrame, l0: float) -> str:
    """How far the SAEs of a set are from the L0 that was chosen; empty where they are near."""
    far = members.filter((pl.col("l0").clip(0.01) / max(l0, 0.01)).log().abs() > 0.1).sort("d_sae")
    if not len(far):
        return f"All widths have an SAE within 10 % of L0 {l0_text(l0)}."
    there = ", ".join(f"{compact(row['d_sae'])} latents: L0 {l0_text(row['l0'])}" for row in far.to_dicts())
    return f"Nearest L0 to {l0_text(l0)} where it differs: {there}."


def too_far(members: pl.DataFrame, l0: float) -> bool:
    """Whether no other width has an SAE near the chosen L0, so that nothing about width can be said."""
    if len(members) < 2:
        return False
    ratios = (members["l0"].clip(0.01) / max(l0, 0.01)).log().abs().sort()
    return bool(ratios[1] > pl.Series([FAR]).log()[0])


def remarks_of(scaling: Scaling, chosen: int, topics: tuple[str, ...]) -> list[str]:
    """The sentences that stand for what could not be computed for a set."""
    rows = scaling["remarks"].filter(
        ((pl.col("set") == chosen) | pl.col("set").is_null()) & pl.col("topic").is_in(list(topics))
    )
    return rows["text"].unique(maintain_order=True).to_list()
