"""The comparison of a site's SAEs: one `scaling` entry from what is known of each, named by the summaries that it compares.

1. From the records and their replicates: laws over width, the test of constancy, surfaces over width and L0.
2. From the tables of tokens: what one SAE's error tells of another's, worst tokens, slices, contexts to look at.
3. The tests of norms of each SAE, side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dmcore.analysis.norm_tests import read_norm_tests
from dmcore.analysis.scaling_laws import law_tables
from dmcore.analysis.split_pass import TOKENS
from dmcore.analysis.surfaces import surface_tables
from dmcore.analysis.token_kinds import unnamed_vocabulary, vocabulary
from dmcore.analysis.token_scaling import TokenSources, token_tables
from dmcore.errors import SpecError, StoreError
from dmcore.progress import Reporter
from dmcore.results import RECORD, SCALING, Scaling, read_record, scaling_spec
from dmcore.run.plan import Plan, SaePlan
from dmcore.sources.models import load_tokenizer
from dmcore.specs import Study
from dmcore.store.fingerprint import content_key
from dmcore.store.published import SUMMARY
from dmcore.store.store import Entry, Store


def is_scaled(plan: Plan, hook: str, store: Store) -> bool:
    """Whether the SAEs that the plan has at a site have been compared."""
    keys = [p.summary_key for p in plan.saes if p.sae.hook == hook]
    records = pl.DataFrame({"site": [hook] * len(keys), "summary_key": keys})
    return store.find(SCALING, content_key(scaling_spec(hook, records))) is not None


def scale_site(plan: Plan, hook: str, store: Store, reporter: Reporter) -> Entry | None:
    """Compare those SAEs of a site that have results; None if there is none.

    Raises:
        StoreError: something that is needed of one of them is missing.
        DataError: a table of tokens holds NaN or infinity.
    """
    here = [p for p in plan.saes if p.sae.hook == hook]
    found = [(p, entry) for p in here if (entry := store.find(SUMMARY, p.summary_key)) is not None]
    if not found:
        return None
    records = pl.DataFrame([read_record(entry.path) for _, entry in found], schema=RECORD)

    def make(folder: Path) -> None:
        replicates = {p.summary_key: pl.read_parquet(entry.path / "replicates.parquet") for p, entry in found}
        with reporter.stage(f"laws of width at {hook}", 1, "sites") as stage:
            tables = law_tables(records, replicates, plan.study.seed)
            surfaces = surface_tables(records)
            stage.advance()
        tables |= {name: table for name, table in surfaces.items() if name != "remarks"}
        tables["remarks"] = pl.concat([tables["remarks"], surfaces["remarks"]])
        tables |= norm_tables([p for p, _ in found], store)
        splits = [_needed(store, "split", p.split, p).path for p, _ in found]
        about = about_site(hook, records, splits[0], plan)
        sources = TokenSources(
            tables=[split / TOKENS for split in splits],
            names=records["sae"].to_list(),
            contexts=plan.contexts,
            partition=plan.partition,
            skip_positions=plan.study.settings.skip_positions,
            seed=plan.study.seed,
            act_scale=about["act_scale"],
            vocabulary=vocabulary_of(plan.study),
        )
        of_tokens, browsed = token_tables(sources, folder, reporter)
        Scaling.write(folder, about | {"browsed": browsed}, tables | of_tokens)

    return store.get_or_make(SCALING, scaling_spec(hook, records), make)


def about_site(hook: str, records: pl.DataFrame, split: Path, plan: Plan) -> dict[str, Any]:
    """What is said of a site as a whole; `split`: the folder of one of its SAEs' splits."""
    sums = pl.read_parquet(split / "contexts.parquet", columns=["n_tokens", "act_scatter"]).sum()
    return {
        "site": hook,
        "saes": records["sae"].to_list(),
        "summaries": records["summary_key"].to_list(),
        "n_tokens": int(sums["n_tokens"][0]),
        "n_contexts": plan.contexts.n_contexts,
        "length": plan.contexts.length,
        "skip_positions": plan.study.settings.skip_positions,
        "n_folds": plan.study.settings.n_folds,
        "seed": plan.study.seed,
        "act_scale": float(np.sqrt(sums["act_scatter"][0] / sums["n_tokens"][0])),
    }


def norm_tables(saes: list[SaePlan], store: Store) -> dict[str, pl.DataFrame]:
    """The tests of norms of all SAEs, each row with its SAE's number."""
    each = [read_norm_tests(_needed(store, "norms", p.norms, p).path) for p in saes]
    return {
        name: pl.concat(found[name].with_columns(sae=pl.lit(number)) for number, found in enumerate(each))
        for name in each[0]
    }


def vocabulary_of(study: Study) -> Callable[[Iterable[int]], pl.DataFrame]:
    """What names the tokens of a study: its model's tokenizer, or numbers where that cannot be loaded."""
    try:
        tokenizer = load_tokenizer(study)
    except SpecError:
        return unnamed_vocabulary
    return lambda ids: vocabulary(tokenizer, ids)


def _needed(store: Store, stage: str, spec: dict[str, Any], p: SaePlan) -> Entry:
    entry = store.find(stage, content_key(spec))
    if entry is None:
        raise StoreError(f"The {stage} of {p.sae.name} is missing: sweep the study again to make it.")
    return entry


def open_sites(store: Store, records: list[dict[str, Any]], hooks: Iterable[str]) -> dict[str, Scaling]:
    """The comparisons of some sites, those that are there."""
    table = pl.DataFrame(records, schema=RECORD)
    entries = {hook: store.find(SCALING, content_key(scaling_spec(hook, table))) for hook in hooks}
    return {hook: Scaling.read(entry.path) for hook, entry in entries.items() if entry is not None}
