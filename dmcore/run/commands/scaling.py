"""`scaling`: what wider, sparser and deeper dictionaries still miss, compared at each site of a study."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import polars as pl
from polars import selectors as cs

from dmcore.errors import StoreError
from dmcore.progress import Reporter, terminal_sink
from dmcore.results import METRICS, Scaling
from dmcore.run.commands.shared import device_named, resolve_study, say
from dmcore.store.store import Store

JSON_TABLES = (
    "targets", "members", "laws", "constancy", "joint", "pairs", "worst", "slices", "norm_tests", "latent_checks", "remarks",
)  # fmt: skip
"""What `--json` prints of each site; curves, surfaces and tokens are for drawing, and stay in the entry."""
METRIC_NAMES = {"fvu": "FVU", "fvu_nonlinear": "nonlinear FVU"}


def register(commands: Any) -> None:
    """Add the command."""
    scaling = commands.add_parser("scaling", help="compare the SAEs of each site over width, L0, depth and tokens")
    scaling.add_argument("study", help="a study file, or: demo")
    scaling.add_argument("--site", default="", help="one hook, e.g. blocks.2.hook_resid_post (all)")
    scaling.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    scaling.add_argument(
        "--json", action="store_true", help="print JSON: one object a site, with its tables as lists of rows"
    )
    scaling.set_defaults(run=_scaling)


def _scaling(arguments: argparse.Namespace) -> int:
    from dmcore.run.pipeline import Pipeline, finished_records
    from dmcore.run.plan import make_plan
    from dmcore.run.scale import open_sites

    study, store = resolve_study(arguments.study), Store()
    if arguments.site and arguments.site not in study.hooks:
        raise StoreError(f"The study has no SAE at that site: give one of {', '.join(study.hooks)}.")
    pipeline = Pipeline(store, device_named(arguments.device), Reporter(terminal_sink()))
    failures = pipeline.scale(study)
    records = finished_records(make_plan(study, store), store)
    found = open_sites(store, records, [arguments.site] if arguments.site else list(study.hooks))
    if arguments.json:
        say(json.dumps({site: site_json(scaling, records) for site, scaling in found.items()}, indent=1))
    else:
        for scaling in found.values():
            say("\n".join(site_lines(scaling)))
    if len(records) < len(study.saes):
        missing = len(study.saes) - len(records)
        sys.stderr.write(
            f"{missing} of {len(study.saes)} SAEs have no result yet and are left out: sweep the study first.\n"
        )
    for name, reason in failures.items():
        sys.stderr.write(f"error: {name}: {reason}\n")
    return 1 if failures else 0


def site_json(scaling: Scaling, records: list[dict[str, Any]]) -> dict[str, Any]:
    """A site's numbers; NaN as null."""
    by_key = {record["summary_key"]: record for record in records}
    saes = [
        {"number": number, **{name: by_key[key][name] for name in ("sae", "label", "d_sae", "l0", *METRICS)}}
        for number, key in enumerate(scaling.about["summaries"])
    ]
    tables = {name: scaling[name].with_columns(cs.float().fill_nan(None)).to_dicts() for name in JSON_TABLES}
    return {"about": {**scaling.about}, "saes": saes, **tables}


def site_lines(scaling: Scaling) -> list[str]:
    """A site in a few lines: for each set of widths its law, what width does to the nonlinear part, and to which tokens."""
    lines = [f"{scaling.about['site']}: {len(scaling.about['saes'])} SAEs, {scaling.about['n_tokens']:,} tokens"]
    for number, members in scaling["members"].group_by("set", maintain_order=True):
        members = members.sort("d_sae")
        widths, l0s = members["d_sae"].to_list(), members["l0"].to_list()
        span = f"{widths[0]:,}" if len(widths) == 1 else f"{widths[0]:,} to {widths[-1]:,}"
        lines.append(
            f"  L0 {min(l0s):.3g} to {max(l0s):.3g}, {len(widths)} width{'s' if len(widths) > 1 else ''} ({span} latents)"
        )
        lines += [f"    {line}" for line in _set_lines(scaling, int(number[0]), members)]
    of_all = scaling["remarks"].filter(pl.col("set").is_null() & pl.col("label").is_null())
    lines += [f"  note: {text}" for text in of_all["text"].unique(maintain_order=True)]
    return lines


def _set_lines(scaling: Scaling, number: int, members: pl.DataFrame) -> list[str]:
    here = pl.col("set") == number
    lines = []
    for row in scaling["laws"].filter(here & (pl.col("law") == "power") & (pl.col("space") == "log")).to_dicts():
        c, a, m = (_estimate(row, name) for name in ("c", "a", "m"))
        lines.append(f"{METRIC_NAMES[row['metric']]} = c + a W^-m: c {c}, a {a}, m {m}{_scatter(row)}")
    for row in scaling["constancy"].filter(here & pl.col("p").is_not_null()).to_dicts():
        name = METRIC_NAMES[row["metric"]]
        lines.append(
            f"{name}, widest over narrowest: {_estimate(row, 'ratio')}; constant in width: p {_p_text(row['p'])}"
        )
    first, last = int(members["sae"][0]), int(members["sae"][-1])
    pair = scaling["pairs"].filter(
        (pl.col("source") == first) & (pl.col("target") == last) & pl.col("r2").is_not_null()
    )
    for row in pair.to_dicts() if first != last else ():
        r2, closed = _estimate(row, "r2"), _estimate(row, "closed")
        lines.append(
            f"|error| of the widest from that of the narrowest: R2 {r2}; of the rest its |nonlinear error| closes {closed}"
        )
    return lines + [f"note: {text}" for text in scaling["remarks"].filter(here)["text"]]


def _estimate(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    value = "-" if row[name] is None else f"{row[name]:.3g}"
    return value if low is None or high is None else f"{value} ({low:.3g} to {high:.3g})"


def _p_text(p: float) -> str:
    return f"= {p:.2g}" if p > 0 else "< 1e-300"


def _scatter(row: dict[str, Any]) -> str:
    """How far the SAEs' own scatter about a law leaves its floor and its exponent open."""
    spans = [(name, row[f"{name}_scatter_low"], row[f"{name}_scatter_high"]) for name in ("c", "m")]
    told = [f"{name} {low:.3g} to {high:.3g}" for name, low, high in spans if low is not None and high is not None]
    return f"; by the SAEs' scatter {', '.join(told)}" if told else ""
