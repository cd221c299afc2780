"""What the view *Claims* says in sentences, made from the verdicts."""

from __future__ import annotations

import polars as pl

from dmcore.charts.numbers import number
from dmcore.results.claims import FAILS, HOLDS, NOT_TESTED, UNDECIDED
from dmcore.specs import parse_hook, stack_of
from dmcore.words.names import architecture_name, listed


def claims_finding(claims: pl.DataFrame) -> str:
    """How many statements have each verdict, and the first number that decided one."""
    counts = {verdict: int((claims["verdict"] == verdict).sum()) for verdict in (HOLDS, FAILS, UNDECIDED, NOT_TESTED)}
    if counts[NOT_TESTED] == len(claims):
        return "None of the paper's statements can be tested on this study yet."
    words = {HOLDS: "hold", FAILS: "fail", UNDECIDED: "undecided", NOT_TESTED: "not tested"}
    told = listed(f"{n} {words[verdict] if n != 1 or verdict not in (HOLDS, FAILS) else f'{words[verdict]}s'}"
                  for verdict, n in counts.items() if n)  # fmt: skip
    decided = [row for row in claims.to_dicts() if row["verdict"] in (HOLDS, FAILS)]
    tail = ""
    if decided:
        row = decided[0]
        says = number(row["value"], row["low"], row["high"])
        tail = f" “{row['statement'].removesuffix('.')}” {row['verdict']}: the number is {says}."
    return f"Of {len(claims)} statements of the paper on this study: {told}.{tail}"


def group_names(groups: pl.DataFrame) -> list[str]:
    """What each group is called, in their order, with how many SAEs it has: `TopK (1)`."""
    names = []
    for (by, group), rows in groups.group_by("by", "group", maintain_order=True):
        n = rows.filter(pl.col("unit").is_in(["SAE", "SAEs"]))["n"].max()
        names.append(_group_name(str(by), str(group)) + ("" if n is None else f" ({n})"))
    return names


def _group_name(by: str, group: str) -> str:
    if by == "architecture":
        return architecture_name(group)
    if by != "site":
        return group
    layer, site = parse_hook(group)
    stack = stack_of(group)
    what = site.replace("hook_", "").replace("attn.", "attn ").replace("_", " ")
    return f"{'' if stack == 'blocks' else f'{stack} '}layer {layer} {what}"
