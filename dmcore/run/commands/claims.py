"""`claims`: the paper's statements held against studies: verdicts, with the intervals that decide."""

from __future__ import annotations

import argparse
import json
from typing import Any

import polars as pl

from dmcore.results.claims import VERDICTS, Claims
from dmcore.run.commands.shared import resolve_study, say
from dmcore.store.published import open_published
from dmcore.store.store import Store


def register(commands: Any) -> None:
    """Add the command."""
    claims = commands.add_parser(
        "claims",
        help="the paper's statements held against a study's numbers",
        description="For each statement of the paper: whether it holds in a study, fails, is undecided or was not tested, with "
        "the number, its 95 %% interval and the range that decides; also for its architectures, L0s, sites and domains. Reads "
        "what has been computed, and computes nothing.",
    )
    claims.add_argument("study", nargs="+", help="study files, or: demo; several are printed one below the other")
    claims.add_argument("--groups", action="store_true", help="print the verdicts of each group of SAEs too")
    claims.add_argument(
        "--json", action="store_true", help="print JSON: for each study its claims and those of its groups"
    )
    claims.set_defaults(run=_claims)


def _claims(arguments: argparse.Namespace) -> int:
    names = [resolve_study(given).name for given in arguments.study]
    store = Store()
    found = {name: open_published(name, store).claims() for name in names}
    if arguments.json:
        many = [{"study": name, **claims.record()} for name, claims in found.items()]
        say(json.dumps(many if len(many) > 1 else many[0], indent=1))
        return 0
    for name, claims in found.items():
        say("\n".join([name, *claim_lines(claims), *(group_lines(claims) if arguments.groups else [])]))
    return 0


def claim_lines(claims: Claims) -> list[str]:
    """A few lines a statement: the verdict and what is said; what the paper reports; the number and the range; why not."""
    lines = []
    for row in claims.study.to_dicts():
        lines.append(f"  {row['verdict'].upper():10s}  {row['statement']}")
        lines.append(f"              paper: {row['paper']} [{row['source']}]")
        if row["value"] is not None:
            value, low, high = (f"{row[name]:.3g}" for name in ("value", "low", "high"))
            lines.append(
                f"              {value} ({low} to {high}), {range_text(row)} [{row['range_from']}]; mean of {row['n']} "
                f"{row['unit']}, {row['n_inside']} of them in the range; {row['n_contexts']} contexts"
            )
        if row["reason"]:
            command = f" `python -m dmcore {row['command']}`" if row["command"] else ""
            lines.append(f"              {row['reason']}{command}")
    return lines


def range_text(row: dict[str, Any]) -> str:
    """The range that decides: `holds from 0.35 to 0.65`."""
    low, high = row["range_low"], row["range_high"]
    if low is None:
        return f"holds up to {high:g}"
    return f"holds from {low:g}" if high is None else f"holds from {low:g} to {high:g}"


def group_lines(claims: Claims) -> list[str]:
    """A line a group: how many statements have each verdict, and which hold."""
    lines = []
    for (by, group), rows in claims.groups.group_by("by", "group", maintain_order=True):
        counts = ", ".join(f"{(rows['verdict'] == verdict).sum()} {verdict}" for verdict in VERDICTS)
        holding = ", ".join(rows.filter(pl.col("verdict") == VERDICTS[0])["claim"])
        lines.append(f"  {by} {group!r}: {counts}{'; holds: ' if holding else ''}{holding}")
    return lines
