"""`synthetic`: do the estimates find what was put in? In one SAE's reconstructions, or in activations of known features."""

from __future__ import annotations

import argparse
import json
from typing import Any

import polars as pl

from dmcore.errors import DarkMatterError
from dmcore.progress import Reporter, terminal_sink
from dmcore.results.synthetic import INGREDIENTS, NOISES, GroundTruth, Planted, PlantedSettings
from dmcore.run.commands.reduce import aligned, estimate, number
from dmcore.run.commands.shared import chosen_saes, device_named, over_saes, resolve_study, say, say_failures
from dmcore.store.store import Store


def register(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser("synthetic", help="whether the estimates find errors that were planted")
    command.add_argument("study", nargs="?", help="a study file, or: demo")
    command.add_argument("sae", nargs="*", help="SAEs of the study, or the ends of their names (all that have results)")
    command.add_argument(
        "--ground-truth",
        action="store_true",
        help="known features in place of a study's SAEs: a few minutes of one core",
    )
    usual = PlantedSettings()
    command.add_argument(
        "--contexts",
        type=int,
        default=usual.contexts,
        help=f"contexts of the estimates, at equal steps; 0: all ({usual.contexts})",
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    command.add_argument("--json", action="store_true", help="print JSON: a record for each SAE, or each setting")
    command.set_defaults(run=_synthetic)


def _synthetic(arguments: argparse.Namespace) -> int:
    if arguments.ground_truth:
        if arguments.study:
            raise DarkMatterError("Known features need no study: leave it out, or leave out --ground-truth.")
        return _ground_truth(arguments)
    if not arguments.study:
        raise DarkMatterError(
            "There is no study: name a study file, or demo, or say --ground-truth for known features."
        )
    return _planted(arguments)


def _ground_truth(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.ground_truth import make_ground_truth

    found = make_ground_truth(Store(), Reporter(terminal_sink()))
    if arguments.json:
        say(json.dumps(found.record(), indent=1))
    else:
        say("\n".join(ground_truth_lines(found)))
    return 0


def _planted(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    asked = PlantedSettings(arguments.contexts)
    inspector = Inspector(Pipeline(Store(), device_named(arguments.device), Reporter(terminal_sink())), study)
    names, records = chosen_saes(inspector, arguments.sae), []

    def one(name: str) -> None:
        found = inspector.synthetic(name, asked)
        records.append({"sae": name, "site": study.sae_called(name).hook, **found.record()})
        if not arguments.json:
            say("\n".join(planted_lines(name, found)))

    failures = over_saes(names, one)
    if arguments.json:
        say(json.dumps(records, indent=1))
    return say_failures(failures)


def planted_lines(name: str, found: Planted) -> list[str]:
    """What was planted in an SAE and what was found, in a few lines: cells with one kind of noise, and the correlations."""
    about, cells = found.about, found["cells"]
    head = (
        f"{name}: estimates on {about['sample_tokens']:,} tokens in {about['sample_contexts']:,} contexts, held out by context; "
        "shares of the variance of the activation"
    )
    lines = [head]
    for noise, words in NOISES.items():
        rows = [["latents out", "noise on x", "on Sae(x)", "linear, truth", "found", "nonlinear, truth", "found"]]
        some = cells.filter((pl.col("noise") == noise) & ((pl.col("on_acts") == 0) | (pl.col("on_recon") == 0)))
        for row in some.to_dicts():
            put = [f"{row['ablated']:.0%}", f"{row['on_acts']:g}", f"{row['on_recon']:g}"]
            pairs = [(number(row[f"truth_{part}"]), estimate(row, part)) for part in ("linear", "nonlinear")]
            rows.append([*put, *(cell for pair in pairs for cell in pair)])
        lines += [f"  {words}, times the squared error of the SAE:", *(f"    {line}" for line in aligned(rows))]
    rows = [["correlation of", "latents out", "with linear", "with nonlinear"]]
    table = found["correlations"]
    for (noise, share, planted), some in table.group_by(["noise", "ablated", "planted"], maintain_order=True):
        by_part = {row["found"]: estimate(row, "r") for row in some.to_dicts()}
        on = "on x" if planted == "acts" else "on Sae(x)"
        rows.append([f"{NOISES[str(noise)]} {on}", f"{share:.0%}", by_part["linear"], by_part["nonlinear"]])
    return [*lines, *(f"  {line}" for line in aligned(rows))]


def ground_truth_lines(found: GroundTruth) -> list[str]:
    """For each level of each ingredient, in how many settings the truth is in the interval."""
    from dmcore.results.agreement import agreement_by

    about, settings = found.about, found["settings"]
    lines = [
        f"{len(settings):,} settings in {about['d_model']} dimensions; truth by {about['truth_tokens']:,} tokens a density; "
        "distinct samples of tokens, share of settings with the truth in the 95 % interval, median of estimate / truth:"
    ]
    rows = [["ingredient", "level", "samples", "linear", "", "nonlinear", ""]]
    for name in INGREDIENTS:
        for row in agreement_by(settings, name).to_dicts():
            shares = [cell for part in ("linear", "nonlinear")
                      for cell in (f"{row[f'{part}_inside']:.1%}", f"{row[f'{part}_ratio']:.3f}")]  # fmt: skip
            rows.append([name, f"{row['level']:g}", f"{row['samples']:,}", *shares])
    return [*lines, *(f"  {line}" for line in aligned(rows))]
