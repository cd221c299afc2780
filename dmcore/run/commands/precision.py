"""`precision`: what tf32 or bfloat16 would change of an SAE's numbers, measured on some contexts of a study."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dmcore.errors import SpecError
from dmcore.progress import Reporter, terminal_sink
from dmcore.run.commands.reduce import aligned
from dmcore.run.commands.shared import device_named, over_saes, resolve_study, say, say_failures
from dmcore.specs import PRECISIONS
from dmcore.store.store import Store

OTHERS = tuple(name for name in PRECISIONS if name != "float32")
WORDS = {
    "fvu": "FVU",
    "fvu_nonlinear": "nonlinear FVU",
    "r2_error": "R2 of the error",
    "r2_error_mean_dims": "R2, mean over dimensions",
    "r2_error_norm_sq": "R2 of its squared norm",
    "l0": "L0",
    "same_supports": "tokens with the same active latents",
    "in_both": "active latents in both, of those in either",
}


def register(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "precision",
        help="what tf32 and bfloat16 would change of an SAE's numbers",
        description="The same SAE on the same contexts with its encoder's product in float32, the reference, and in others; "
        "differences are paired, with 95 % intervals over contexts. A sweep takes one with --precision. On GPUs, and on CPUs "
        "with matrix units, float32 itself is screened in bfloat16 with the answer of float32, so it is the one to take "
        "unless speed counts more.",
    )
    command.add_argument("study", help="a study file, or: demo")
    command.add_argument("sae", nargs="*", help="SAEs of the study, or the ends of their names (the first)")
    command.add_argument(
        "--precisions", default=",".join(OTHERS), help=f"with commas between them ({','.join(OTHERS)})"
    )
    command.add_argument("--contexts", type=int, default=64, help="contexts to compare, at equal steps; 0: all (64)")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    command.add_argument("--json", action="store_true", help="print JSON: a record a precision and number")
    command.set_defaults(run=_precision)


def chosen_precisions(text: str) -> list[str]:
    """The precisions that are asked for.

    Raises:
        SpecError: there is no such precision.
    """
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in OTHERS]
    if unknown or not chosen:
        raise SpecError(f"There is nothing to compare called {(unknown or [text])[0]!r}: give {' or '.join(OTHERS)}.")
    return list(dict.fromkeys(chosen))


def _precision(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.precision import measure_precision
    from dmcore.run.pipeline import Pipeline
    from dmcore.run.plan import make_plan

    study, chosen = resolve_study(arguments.study), chosen_precisions(arguments.precisions)
    if arguments.contexts < 0:
        raise SpecError(f"--contexts is {arguments.contexts}: give 0 for all, or a number above it.")
    names = [study.sae_called(name).name for name in arguments.sae] or [study.saes[0].name]
    reporter = Reporter(terminal_sink())
    pipeline = Pipeline(Store(), device_named(arguments.device), reporter)
    plan = make_plan(study, pipeline.store, pipeline.custom, reporter)
    records: list[dict[str, Any]] = []

    def one(name: str) -> None:
        sae = next(p for p in plan.saes if p.sae.name == name)
        found = measure_precision(pipeline, plan, sae, chosen, arguments.contexts)
        about = {"sae": name, "n_contexts": found.n_contexts, "n_tokens": found.n_tokens, "device": found.device}
        records.extend({**about, **row} for row in found.table.to_dicts())
        if not arguments.json:
            sample = f"{found.n_contexts} of {found.of_contexts} contexts, {found.n_tokens:,} tokens, on {found.device}"
            say("\n".join([f"{name}: {sample}", *lines_of(found.table.to_dicts())]))

    failures = over_saes(names, one)
    if arguments.json:
        say(json.dumps(records, indent=1))
    return say_failures(failures)


def lines_of(rows: list[dict[str, Any]]) -> list[str]:
    """A line a precision and number."""
    cells = [["precision", "number", "value", "less float32's", "95 % interval"]]
    for row in rows:
        if row["precision"] == "float32":
            continue
        ends = f"{row['difference_low']:+.2g} to {row['difference_high']:+.2g}"
        cells.append([row["precision"], WORDS[row["number"]], f"{row['value']:.5g}", f"{row['difference']:+.2g}", ends])
    return [f"  {line}" for line in aligned(cells)]
