"""What the Scaling page says in sentences, made from the numbers."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from dmcore.charts.numbers import compact, number, percent
from dmcore.results import Scaling
from dmcore.words.names import architecture_name, l0_text, plain

FAR = 1.5
"""L0s that differ by more than this factor are not called one L0."""


def row_of(table: pl.DataFrame, **where: Any) -> dict[str, Any] | None:
    """The one row that has these values, or None."""
    found = table.filter(*(pl.col(name) == value for name, value in where.items()))
    return found.row(0, named=True) if len(found) else None


def triple(row: dict[str, Any], name: str) -> tuple[Any, Any, Any]:
    """A value and its ends."""
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


def width_finding(scaling: Scaling, chosen: int, record: dict[str, Any], label: str) -> str:
    """What width does to the error and to its nonlinear part; `label`: the architecture of the set."""
    rows = {m: row_of(scaling["constancy"], set=chosen, metric=m) for m in ("fvu", "fvu_nonlinear")}
    members = scaling.members(chosen)
    total, nonlinear = rows["fvu"], rows["fvu_nonlinear"]
    if total is None or nonlinear is None or total["ratio"] is None or nonlinear["ratio"] is None:
        return "This site has one width: add a wider SAE on Catalogue to see what width leaves."
    if too_far(members, record["l0"]):
        return f"No other width here has an SAE near L0 {l0_text(record['l0'])}, so what width does at it is not known."
    who = f"{plain(architecture_name(label))} SAEs at {l0_span(members)}"
    widths = f"from {compact(members['d_sae'][0])} to {compact(members['d_sae'][-1])} latents"
    left, rest = percent(*triple(total, "ratio")), percent(*triple(nonlinear, "ratio"))
    grows = nonlinear["ratio_low"] is not None and nonlinear["ratio_low"] > 1
    then = f"; its nonlinear part grows to {rest}." if grows else f" and {rest} of its nonlinear part."
    return f"{who}: going {widths} leaves {left} of the error{then}"


def l0_span(members: pl.DataFrame) -> str:
    """`L0 16`, `L0 4.2 to 4.9`: of the SAEs of a set."""
    low, high = (l0_text(float(l0)) for l0 in (members["l0"].min(), members["l0"].max()))  # type: ignore[arg-type]
    return f"L0 {low}" if low == high else f"L0 {low} to {high}"


def floor_finding(scaling: Scaling, chosen: int, l0: float) -> str:
    """Where the law of the error ends, if there is one."""
    law = row_of(scaling["laws"], set=chosen, metric="fvu", law="power", space="log")
    if law is None or law["c"] is None or too_far(scaling.members(chosen), l0):
        return ""
    low, high = law["c_scatter_low"], law["c_scatter_high"]
    points = f"these {law['n_widths']} points"
    if law["c"] == 0 or "c" in (law["at_bound"] or "").split(","):
        top = f": any up to {percent(high)} of the variance fits {points}" if high else ""
        return f"The fitted power law shows no floor{top}."
    return (
        f"A power law through {points} ends at a floor of {percent(law['c'], low, high)} of the variance, if it holds."
    )


def tokens_finding(scaling: Scaling, chosen: int, l0: float) -> str:
    """Whether the widest SAE of the set fails where the narrowest does."""
    members = scaling.members(chosen)
    if len(members) < 2 or too_far(members, l0):
        return ""
    pair = row_of(scaling["pairs"], source=members["sae"][0], target=members["sae"][-1])
    if pair is None or pair["r2"] is None:
        return ""
    return (
        f"Token by token, the narrowest SAE's error norm predicts {percent(*triple(pair, 'r2'))} of the variance of the "
        "widest's."
    )


def floor_note(points: pl.DataFrame, laws: pl.DataFrame) -> str:
    """Why no linear error is drawn, where the floor of the law is below the nonlinear error."""
    law = row_of(laws, metric="fvu", law="power", space="log")
    if law is None or law["c"] is None:
        return ""
    least = points["fvu_nonlinear"].min()
    if least is None or law["c"] >= least:  # type: ignore[operator]
        return ""
    return (
        "The floor c is below the nonlinear error at every measured width, so by these definitions all linear "
        "error here counts "
        "as absent features: the law says that wider dictionaries would remove it. Overview shows how much of it is linear."
    )


def constancy_sentence(scaling: Scaling, chosen: int) -> str:
    """Whether the nonlinear FVU may be called constant in width."""
    row = row_of(scaling["constancy"], set=chosen, metric="fvu_nonlinear")
    if row is None or row["p"] is None or not math.isfinite(row["p"]):
        return ""
    # the slope is of the natural logarithm: as a share that each doubling adds or takes away
    change, *ends = (math.expm1(slope) for slope in triple(row, "slope"))
    across = ends[0] < 0 < ends[1]
    by = f"{abs(100 * change):.2g} %" if across else percent(abs(change), *sorted(map(abs, ends)))
    verb = "falls" if change < 0 else "rises"
    n = scaling.about["n_contexts"]
    wald = f"W = {row['wald']:,.0f}, {freedom(row['dof'])}, p {p_text(row['p'])}"
    test = f"Wald test of equal means over {n:,} contexts: {wald}"
    if row["p"] < 0.05:
        return (
            f"Nonlinear FVU is **not constant** in width: it {verb} by {by} with each doubling on average, more "
            "than the choice "
            f"of texts explains ({test}). How much another seed of training would move it is not in this test."
        )
    return (
        f"Nonlinear FVU may be **constant** in width: it {verb} by {by} with each doubling on average, within "
        "what the choice of texts "
        f"does ({test})."
    )


def freedom(n: int) -> str:
    """`1 degree of freedom`, `2 degrees of freedom`."""
    return f"{n} degree{'s' if n != 1 else ''} of freedom"


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
    if len(members) < 2:
        return ""
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
