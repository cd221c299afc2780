"""`controls`: whether an SAE's numbers are what they should be where the answer is known."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from dmcore.progress import Reporter, terminal_sink
from dmcore.results import Controls, ControlSettings
from dmcore.results.controls import GROUPS, METHOD, METHOD_GROUPS, SAE
from dmcore.run.commands.reduce import aligned
from dmcore.run.commands.shared import chosen_saes, device_named, over_saes, resolve_study, say, say_failures
from dmcore.store.store import Store
from dmcore.words.controls import counts_words


def register(commands: Any) -> None:
    """Add the command."""
    usual = ControlSettings()
    controls = commands.add_parser(
        "controls", help="whether an SAE's numbers are what they should be where that is known"
    )
    controls.add_argument("study", help="a study file, or: demo")
    controls.add_argument(
        "sae", nargs="*", help="SAEs of the study, or the ends of their names (all that have results)"
    )
    controls.add_argument(
        "--contexts", type=int, default=usual.contexts, help="contexts, at equal steps; 0: as many as fit in memory (0)"
    )
    controls.add_argument("--draws", type=int, default=usual.draws, help=f"shuffles ({usual.draws})")
    controls.add_argument(
        "--training-tokens",
        type=int,
        default=usual.training_tokens,
        help="that a small SAE is trained on, on the model and on a copy with random weights; 0: neither "
        f"({usual.training_tokens:,})",
    )
    controls.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    controls.add_argument(
        "--json", action="store_true", help="print JSON: a record for each SAE, its tables as lists of rows"
    )
    controls.set_defaults(run=_controls)


def _controls(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    asked = ControlSettings(
        contexts=arguments.contexts, draws=arguments.draws, training_tokens=arguments.training_tokens
    )
    inspector = Inspector(Pipeline(Store(), device_named(arguments.device), Reporter(terminal_sink())), study)
    names = chosen_saes(inspector, arguments.sae)
    records: list[dict[str, Any]] = []

    def one(name: str) -> None:
        found = inspector.controls(name, asked)
        records.append({"sae": name, **found.record()})
        if not arguments.json:
            say("\n".join([f"{name}: {summary_words(found)}", *control_lines(found)]))

    failures = over_saes(names, one)
    if arguments.json:
        say(json.dumps(records, indent=1))
    return say_failures(failures)


def summary_words(found: Controls) -> str:
    """`8 of 8 controls of the method passed, 9 of 10 of this SAE and its study, 1 failed; 67,200 tokens in 300 contexts`."""
    _, failed, undecided = found.counts
    told = [counts_words(found)]
    told += [f"{n} {word}" for n, word in ((failed, "failed"), (undecided, "undecided")) if n]
    return f"{', '.join(told)}; {found.about['n_tokens']:,} tokens in {found.about['n_contexts']:,} contexts"


def control_lines(found: Controls) -> list[str]:
    """A line a control: what it is a check of, its group, verdict, what it is, what it should be; then notes and remarks."""
    rows = [["checks", "", "verdict", "control", "what it is", "what it should be"]]
    table = found["controls"].to_dicts()
    for row in table:
        kind = METHOD if row["group"] in METHOD_GROUPS else SAE
        rows.append([kind, f"{row['group']}:", row["verdict"], row["name"], _value(row), _expected(row)])
    lines = [f"  {line}" for line in aligned(rows)]
    lines += [f"  {row['verdict']}: {row['title']}: {row['note']}" for row in table if row["note"]]
    assert all(row["group"] in GROUPS for row in table), "groups are known"
    return [*lines, *(f"  note: {text}" for text in found["remarks"]["text"])]


def _value(row: dict[str, Any]) -> str:
    ends = [row[f"value{end}"] for end in ("", "_low", "_high")]
    if ends[0] is None:
        return "-"
    if ends[1] is None or ends[2] is None:
        return f"{ends[0]:.3g}"
    return f"{_fixed(ends[0], *ends[1:])} ({_fixed(ends[1], *ends[1:])} to {_fixed(ends[2], *ends[1:])})"


def _expected(row: dict[str, Any]) -> str:
    low, high, exact = row["expected_low"], row["expected_high"], row["expected"]
    said = "not " if row["rule"] == "differs" else ""
    if low is None or high is None:
        return (
            f"{said}above {high:.3g}"
            if low is None and said
            else f"below {high:.3g}"
            if low is None
            else f"above {low:.3g}"
        )
    if exact is not None and high - low <= 1e-12:
        return f"{said}{exact:.3g}"
    return f"{said}{low:.2g} to {high:.2g}"


def _fixed(value: float, low: float, high: float) -> str:
    decimals = 6 if high <= low else min(max(1 - math.floor(math.log10((high - low) / 2)), 0), 6)
    text = f"{value:,.{decimals}f}"
    return text.removeprefix("-") if not float(text.replace(",", "")) else text
