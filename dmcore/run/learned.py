"""Which latents of the SAEs on the parts are in the base or a wider SAE of the study already: one entry for all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from dmcore.analysis.feature_neighbours import N_COMPONENTS, not_learned
from dmcore.analysis.part_saes import USES
from dmcore.math.neighbours import DecoderRows, principal_components
from dmcore.progress import Reporter
from dmcore.results import LEARNED, RECORD, dictionaries_of, learned_spec, read_record
from dmcore.results.learned import LEARNED_LATENTS, write_learned
from dmcore.results.parts import PART
from dmcore.run.parts import PartPlan, base_plan, find_measured, part_plans
from dmcore.run.plan import Plan, SaePlan
from dmcore.run.sae_stages import AnyDictionary, Site
from dmcore.store.fingerprint import content_key
from dmcore.store.published import SUMMARY
from dmcore.store.store import Entry, Store

Load = Callable[[SaePlan | PartPlan], AnyDictionary]


def compared_with(plan: Plan, store: Store) -> list[SaePlan]:
    """The base and the wider SAEs that its error's latents are looked for in, those with results."""
    finished = {
        p.summary_key: (p, entry) for p in plan.saes if (entry := store.find(SUMMARY, p.summary_key)) is not None
    }
    records = pl.DataFrame([read_record(entry.path) for _, entry in finished.values()], schema=RECORD)
    return [finished[key][0] for key in dictionaries_of(records, base_plan(plan).summary_key)]


def learned_of(plan: Plan, store: Store) -> dict[str, object] | None:
    """The spec of the entry; None while the SAEs on the parts have not been measured."""
    parts = find_measured(plan, store)
    if parts is None:
        return None
    return learned_spec(parts.key, [p.summary_key for p in compared_with(plan, store)])


def make_learned(plan: Plan, store: Store, site: Site, load: Load, reporter: Reporter) -> Entry:
    """Compare the latents of all SAEs on the parts, which must have been measured, with what dictionaries have.

    Args:
        plan: of the study.
        store: with the measured SAEs.
        site: the base's.
        load: opens an SAE.
        reporter: told of progress, and asked whether to stop.

    Raises:
        DataError: a decoder row holds NaN or infinity.
    """
    spec = learned_of(plan, store)
    assert spec is not None, "the SAEs on the parts have been measured"

    def make(folder: Path) -> None:
        against = compared_with(plan, store)
        dictionaries = {p.sae.name: load(p) for p in against}
        rows = {name: one for name, sae in dictionaries.items() if (one := rows_of(sae)) is not None}
        components = principal_components(site.inputs, [c for cells in site.cells_of_fold for c in cells], N_COMPONENTS)
        tables = [pl.DataFrame(schema=LEARNED_LATENTS)]
        for one in part_plans(plan, store):
            entry = store.find(PART, content_key(one.spec))
            assert entry is not None, "measured"
            alive = np.flatnonzero(np.load(entry.path / USES, allow_pickle=False) > 0)
            own = rows_of(load(one))
            assert own is not None, "every architecture that can be trained has decoder rows"
            found = not_learned(own, rows, components, plan.study.seed, reporter)
            found = found.filter(pl.col("latent").is_in(pl.Series(alive, dtype=pl.Int32).implode()))
            named = found.with_columns(part=pl.lit(one.sae.part), seed=pl.lit(one.sae.seed, pl.Int32))
            tables.append(named.select(*LEARNED_LATENTS))
        about = {
            "base": base_plan(plan).sae.name,
            "against": list(rows),
            "widths": {name: sae.d_sae for name, sae in dictionaries.items()},
            "n_components": len(components),
            "d_model": site.acts.d_model,
        }
        write_learned(folder, about, pl.concat(tables))

    return store.get_or_make(LEARNED, spec, make)


def rows_of(sae: AnyDictionary) -> DecoderRows | None:
    """The decoder rows of a dictionary, if it has any."""
    return None if sae.decoder_rows(0, 1) is None else DecoderRows(sae.d_sae, sae.decoder_rows)
