"""`features`: the latents of an SAE: how often each fires, on what, what it promotes, and which tokens show it."""

from __future__ import annotations

import argparse
import json
from typing import Any

import polars as pl

from dmcore.errors import SpecError, StoreError
from dmcore.progress import Reporter, terminal_sink
from dmcore.results import Features
from dmcore.run.commands.shared import device_named, resolve_study, say, some_saes
from dmcore.store.store import Store

SORTS = ("frequency", "mean_active", "max_active", "nonlinear_share", "nonlinear_r", "error_share", "error_r", "latent")
COLUMNS = ("latent", "frequency", "mean_active", "max_active", "nonlinear_share", "nonlinear_r")


def register(commands: Any) -> None:
    """Add the command."""
    features = commands.add_parser("features", help="the latents of an SAE, and the tokens that show them")
    features.add_argument("study", help="a study file, or: demo")
    features.add_argument("sae", nargs="?", default="", help="an SAE of the study, or the end of its name")
    features.add_argument(
        "--part", default="", help="of the SAE on this part of the error of [parts]: x, error, linear, nonlinear"
    )
    features.add_argument("--seed", type=int, default=0, help="with --part: which seed (0)")
    features.add_argument("--latent", type=int, default=None, help="one latent, with its examples")
    features.add_argument(
        "--search", default="", help="latents whose label, most common token or promoted tokens have this text"
    )
    features.add_argument("--sort", choices=SORTS, default="frequency", help="the largest first (frequency)")
    features.add_argument("--top", type=int, default=20, help="latents that are printed (20); 0 for all")
    features.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    features.add_argument("--json", action="store_true", help="print JSON")
    features.set_defaults(run=_features)


def _features(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    if not arguments.sae and not arguments.part:
        raise StoreError(f"Say which SAE: {some_saes(study)}; or --part for one on a part of the error.")
    if arguments.top < 0:
        raise SpecError("--top must be 0 or above: 0 prints all.")
    pipeline = Pipeline(Store(), device_named(arguments.device), Reporter(terminal_sink()))
    found = Inspector(pipeline, study).features(arguments.sae, arguments.part, arguments.seed)
    if arguments.latent is not None:
        card = card_of(found, arguments.latent)
        say(json.dumps(card, indent=1) if arguments.json else "\n".join(card_lines(card)))
        return 0
    rows = found.search(arguments.search) if arguments.search else found.latents
    rows = rows.sort(arguments.sort, descending=arguments.sort != "latent", nulls_last=True)
    table = (rows.head(arguments.top) if arguments.top > 0 else rows).collect()
    if arguments.json:
        say(json.dumps([{**row, **words_of(found, row)} for row in table.to_dicts()], indent=1))
    else:
        say("\n".join(table_lines(found, table)))
    return 0


def table_lines(found: Features, table: pl.DataFrame) -> list[str]:
    """Latents as aligned text."""
    texts = found.texts
    rows = [[*COLUMNS, "most common token", "promotes"]]
    for row in table.to_dicts():
        numbers = [
            "-" if row[c] is None else f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c]) for c in COLUMNS
        ]
        promoted = " ".join(repr(texts.get(i, f"#{i}")) for i in (row["promoted"] or [])[:4])
        rows.append([*numbers, "-" if row["token"] is None else repr(texts.get(row["token"], "")), promoted or "-"])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def words_of(found: Features, row: dict[str, Any]) -> dict[str, Any]:
    """The texts of a latent's tokens, beside their numbers."""
    texts = found.texts
    words: dict[str, Any] = {
        "token_text": None if row["token"] is None else texts.get(row["token"], f"#{row['token']}")
    }
    return words | {
        f"{name}_text": [texts.get(i, f"#{i}") for i in row[name] or []] for name in ("promoted", "suppressed")
    }


def card_of(found: Features, latent: int) -> dict[str, Any]:
    """All that is known of a latent, as JSON has it."""
    histogram, texts = found.histogram(latent), found.texts
    examples = [
        {
            "decile": one.decile,
            "context": one.context,
            "position": one.position,
            "activation": one.activation,
            "at": one.at,
            "tokens": [texts.get(int(i), f"#{i}") for i in one.tokens],
            "activations": [round(float(v), 5) for v in one.activations],
        }
        for one in found.examples(latent)
    ]
    bars = {"edges": histogram.edges.tolist(), "counts": histogram.counts.tolist()}
    row = found.latent(latent)
    return {**row, **words_of(found, row), "histogram": bars, "examples": examples}


def card_lines(card: dict[str, Any]) -> list[str]:
    """A latent in a few lines: its numbers, then its largest activations in their contexts."""
    lines = [f"latent {card['latent']}: on {100 * (card['frequency'] or 0):.3g} % of tokens"]
    known = {name: card[name] for name in COLUMNS[2:] if card[name] is not None}
    lines += [
        f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}" for name, value in known.items()
    ]
    for one in card["examples"][:12]:
        text = "".join(f"[[{t}]]" if k == one["at"] else t for k, t in enumerate(one["tokens"]))
        lines.append(f"  {one['activation']:.3g} at {one['context']}:{one['position']}  {text!r}")
    return lines
