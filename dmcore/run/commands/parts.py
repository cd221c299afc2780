"""`parts`: how well SAEs that were trained on the parts of an SAE's error explain them."""

from __future__ import annotations

import argparse
import json
from typing import Any

import polars as pl

from dmcore.progress import Reporter, terminal_sink
from dmcore.results import Parts
from dmcore.run.commands.shared import device_named, resolve_study, say
from dmcore.store.store import Store


def register(commands: Any) -> None:
    """Add the command."""
    parts = commands.add_parser(
        "parts",
        help="SAEs trained on the parts of an SAE's error, measured",
        description="Measure the SAEs of a study's [parts] table on the study's tokens, and compare their latents across "
        "seeds. `sweep` does it too, once they have been trained (`train-saes --parts`).",
    )
    parts.add_argument("study", help="a study file, or: demo")
    parts.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    parts.add_argument("--json", action="store_true", help="print all tables as JSON, each a list of rows")
    parts.set_defaults(run=_parts)


def _parts(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    pipeline = Pipeline(Store(), device_named(arguments.device), Reporter(terminal_sink()))
    found = Inspector(pipeline, study).parts()
    say(json.dumps(found.record(), indent=1) if arguments.json else "\n".join(parts_lines(found)))
    return 0


def parts_lines(found: Parts) -> list[str]:
    """The SAEs of each part in a line or two."""
    about = found.about
    lines = [
        f"{about['base']} at {about['site']}: SAEs of {about['width']:,} latents, L0 {about['l0']}, {about['tokens']:,} "
        f"training tokens each; FVU of each part on {about['n_tokens']:,} tokens"
    ]
    for row in found["means"].to_dicts():
        here = pl.col("part") == row["part"]
        saes, pairs = found["saes"].filter(here), found["stability"].filter(here)
        each = ", ".join(_text(fvu) for fvu in saes["fvu"])
        dead = saes["dead_share"].mean()
        lines.append(
            f"  {row['part']}: {_text(row['fvu'])} ({_text(row['fvu_low'])} to {_text(row['fvu_high'])}), by seed {each}; "
            f"dead {100 * float(dead):.1f} %"  # pyright: ignore
        )
        if len(pairs):
            mean, share, chance = (pairs[name].mean() for name in _STABLE)
            lines.append(
                f"    latents of two seeds: mean cosine {_text(mean)} (random rows of that shape {_text(chance)}), "
                f"{_text(share)} of them above 0.9; matched by {pairs['method'][0]}"
            )
    return [*lines, f"  {about['note']}"]


_STABLE = ("mean_cosine", "share_above_09", "shaped_mean_cosine")


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}"
