"""`downstream`: what each part of an SAE's error costs the model's own loss."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dmcore.progress import Reporter, terminal_sink
from dmcore.results import Downstream
from dmcore.results.downstream import PARTS, VARIANTS, DownstreamSettings
from dmcore.run.commands.processes import add_workers, share_saes
from dmcore.run.commands.shared import chosen_saes, device_named, over_saes, resolve_study, say, say_failures
from dmcore.specs import SaeSpec
from dmcore.store.store import Store

COPIED = ("n_tokens", "n_contexts", "exact_gap", "fvu", "fvu_nonlinear", "r2_error")
"""Of what is said of the whole, in a record; the last three with their intervals."""


def register(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser("downstream", help="what each part of an SAE's error costs the model's own loss")
    command.add_argument("study", help="a study file, or: demo")
    command.add_argument("sae", nargs="*", help="SAEs of the study, or the ends of their names (all that have results)")
    usual = DownstreamSettings()
    command.add_argument(
        "--contexts", type=int, default=usual.contexts, help="contexts to run, at equal steps; 0: all (0)"
    )
    command.add_argument(
        "--dose-contexts",
        type=int,
        default=usual.dose_contexts,
        help=f"contexts on which doses of the parts are run; 0: none ({usual.dose_contexts})",
    )
    add_workers(command)
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    command.add_argument("--json", action="store_true", help="print JSON: one record per SAE")
    command.set_defaults(run=_downstream)


def _downstream(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    asked = DownstreamSettings(arguments.contexts, arguments.dose_contexts)
    inspector = Inspector(Pipeline(Store(), device_named(arguments.device), Reporter(terminal_sink())), study)
    names = chosen_saes(inspector, arguments.sae)
    options = ["--contexts", str(asked.contexts), "--dose-contexts", str(asked.dose_contexts)]
    share_saes(["downstream", *options, "--device", arguments.device, arguments.study], names, arguments.workers)
    records = []

    def one(name: str) -> None:
        found = inspector.downstream(name, asked)
        records.append(record_of(study.sae_called(name), found))
        if not arguments.json:
            say("\n".join(downstream_lines(name, found)))

    failures = over_saes(names, one)
    if arguments.json:
        say(json.dumps(records, indent=1))
    return say_failures(failures)


def record_of(sae: SaeSpec, found: Downstream) -> dict[str, Any]:
    """The record of an SAE: `ce_sae`, `recovered_sae_sae_linear`, `norm_sq_share_linear`, ..., with `_low` and `_high`."""
    about = found.about
    copied = {name: about[name] for name in about if name.removesuffix("_low").removesuffix("_high") in COPIED}
    known = {"sae": sae.name, "site": sae.hook, "layer": sae.layer, "d_sae": about["d_sae"], "l0": about["l0"]}
    return {**known, **copied, **found.record()}


def downstream_lines(name: str, found: Downstream) -> list[str]:
    """What the parts cost, in a few lines: a row a variant, what each part recovers, remarks."""
    about = found.about
    rows = [["the site holds", "loss (nats)", "above clean", "KL", "same top token", "of zero", "of the SAE's"]]
    for variant, words in VARIANTS.items():
        row = found.variant(variant)
        columns = ("delta", "kl", "top1", "recovered_zero", "recovered_sae")
        rows.append([words, _number(row["ce"], 4), *(_estimate(row, column) for column in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for part in PARTS:
        row = found.part(part)
        lines.append(
            f"{part} error: {_estimate(row, 'norm_sq_share')} of the squared error, recovers {_estimate(row, 'recovered')} of "
            f"what Sae(x) costs, {_estimate(row, 'per_norm_sq')} of its share"
        )
    lines.append(f"both added up: {_estimate(found.part('both'), 'recovered')}")
    if about["exact_gap"] is not None:
        lines.append(f"Sae(x) + the whole error moves no token's loss by more than {about['exact_gap']:.1e} nats")
    lines += [f"note: {text}" for text in found["remarks"]["text"]]
    head = f"{name}: {about['n_tokens']:,} predictions in {about['n_contexts']:,} contexts"
    return [head, *(f"  {line}" for line in lines)]


def _estimate(row: dict[str, Any], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None or low is None or high is None:
        return _number(value)
    return f"{_number(value)} ({_number(low)} to {_number(high)})"


def _number(value: float | None, decimals: int = 3) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
