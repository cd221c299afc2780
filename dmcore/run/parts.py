"""SAEs on the parts of an SAE's error: trained once a sweep has fitted the linear map, measured at the end of a sweep.

1. `train_all`: the SAEs of [train], then those of [parts].
2. `measure_parts`: a `part` entry for each, keyed by the base's split and the SAE's own files; then one `parts` entry.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch

from dmcore.analysis.part_saes import MeasuredPart, PartInputs, measure_part, parts_tables
from dmcore.analysis.summarise import load_full_map
from dmcore.errors import SpecError, StoreError
from dmcore.progress import Reporter
from dmcore.results.parts import PART, PARTS_STAGE, Parts, part_spec, parts_spec
from dmcore.run.plan import Plan, SaePlan, make_plan
from dmcore.run.sae_stages import AnyDictionary, SaeStages
from dmcore.sources.saes import load_dictionary, sae_fingerprint
from dmcore.specs import PartSae, PartsSpec, SaeSpec, Study, spec_dict
from dmcore.store.fingerprint import content_key
from dmcore.store.published import SUMMARY
from dmcore.store.store import Entry, Store
from dmcore.training.parts import PartsBase, train_parts
from dmcore.training.records import LOG, TrainedSae
from dmcore.training.train import train_study

NOTE = (
    "Measured on the study's tokens, parts by the maps of the folds in which they are held out. Trained on other texts, parts "
    "by the one map of all of the study's tokens, which is out of sample there."
)
ASKED = ("tokens", "batch_tokens", "learning_rate", "engine")
"""Settings of a training that [parts] names, besides what is in an SAE's path."""


@dataclass(frozen=True)
class PartPlan:
    """An SAE on a part, and the spec of its entry."""

    sae: PartSae
    spec: dict[str, Any]
    log: dict[str, Any]
    """What training noted."""


def parts_of(study: Study) -> PartsSpec:
    """The [parts] table of a study.

    Raises:
        SpecError: there is none.
    """
    if study.parts is None:
        raise SpecError("The study has no [parts] table: add one with base, width and l0.")
    return study.parts


def base_plan(plan: Plan) -> SaePlan:
    """The SAE whose error is taken apart."""
    base = plan.study.base
    return next(p for p in plan.saes if p.sae == base)


def train_all(
    study: Study, device: torch.device | str, reporter: Reporter, store: Store, *, parts_only: bool = False
) -> tuple[list[TrainedSae], str]:
    """Train what a study asks for: its [train] table, then its [parts].

    Returns:
        all SAEs of both, and a sentence if those on the parts have to wait for a sweep.

    Raises:
        As `dmcore.training.train_study`; StoreError besides, if there is nothing to train before the study is swept.
    """
    if parts_only:
        parts_of(study)
    trained: list[TrainedSae] = []
    with_grid = not parts_only and (study.train is not None or study.parts is None)
    if with_grid:
        trained += train_study(study, device, reporter, store)
    if study.parts is None:
        return trained, ""
    plan = make_plan(study, store, None, reporter)
    base = base_plan(plan)
    summary = store.find(SUMMARY, base.summary_key)
    if summary is None:
        left = (
            f"The SAE {base.sae.name} has no result yet, so there is no linear map to take its error apart: sweep the study, "
            "then run train-saes with --parts."
        )
        if with_grid:
            return trained, left
        raise StoreError(left)
    linear = load_full_map(summary.path, device)
    sae = load_dictionary(study, base.sae, linear.weight.shape[0], device)
    fingerprint = sae_fingerprint(study, base.sae, store.root / "fingerprints")
    found = PartsBase(sae, linear, fingerprint, base.maps_key)
    return trained + train_parts(study, found, device, reporter, store), ""


def untrained(plan: Plan) -> str:
    """A sentence if the SAEs on the parts are not there, or not those that the study asks for; empty if they are."""
    study, parts = plan.study, parts_of(plan.study)
    remedy = "run `python -m dmcore train-saes --parts` on the study, then sweep it again."
    missing, other = [], []
    for sae in parts.saes():
        log = _log(study, sae)
        settings = log.get("settings", {})
        asked = {"linear map": base_plan(plan).maps_key, **{name: getattr(parts, name) for name in ASKED}}
        if not log:
            missing.append(sae.path)
        elif any(settings.get(name) != value for name, value in asked.items()):
            other.append(sae.path)
    n = len(parts.saes())
    if missing:
        return f"{len(missing)} of the {n} SAEs on parts of {parts.base} have not been trained: {remedy}"
    if other:
        return f"{len(other)} of the {n} SAEs on parts of {parts.base} were trained with other settings: {remedy}"
    return ""


def _log(study: Study, sae: PartSae) -> dict[str, Any]:
    try:
        return json.loads((study.resolve(sae.path) / LOG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def as_sae(study: Study, sae: PartSae) -> SaeSpec:
    """An SAE on a part as a study would name it, to load it."""
    return SaeSpec(study.base.hook, sae.path, label=parts_of(study).architecture, check=False)


def part_plans(plan: Plan, store: Store) -> list[PartPlan]:
    """The SAEs on the parts, which must have been trained, in the order of parts and seeds."""
    split, memory = base_plan(plan).maps_key, store.root / "fingerprints"
    found = []
    for sae in parts_of(plan.study).saes():
        fingerprint = sae_fingerprint(plan.study, as_sae(plan.study, sae), memory)
        found.append(PartPlan(sae, part_spec(split, sae.part, fingerprint), _log(plan.study, sae)))
    return found


def _whole_spec(plan: Plan, each: list[PartPlan]) -> dict[str, Any]:
    # The log is no part of an SAE's fingerprint, but its curve is shown.
    keys = [content_key([one.spec, one.log.get("key"), one.log.get("curve")]) for one in each]
    return parts_spec(base_plan(plan).summary_key, spec_dict(parts_of(plan.study)), keys)


def find_measured(plan: Plan, store: Store) -> Entry | None:
    """The entry of all SAEs on the parts, if it is there; they must have been trained."""
    return store.find(PARTS_STAGE, content_key(_whole_spec(plan, part_plans(plan, store))))


def measure_parts(stages: SaeStages, dictionary: AnyDictionary) -> Entry:
    """Measure every SAE on the parts of the error of a base, `dictionary`, and put them side by side.

    Raises:
        DataError: an SAE gave NaN or infinity.
        SpecError: an SAE cannot be loaded.
    """
    plan, site, store, device = stages.plan, stages.site, stages.store, stages.device
    study, base = plan.study, base_plan(plan)
    codes, split = stages.codes_and_split(base, dictionary)
    given = PartInputs(
        acts=site.acts,
        base=dictionary,
        codes=codes.path,
        split=split.path,
        shift=site.inputs.shift,
        partition=plan.partition,
        settings=study.settings,
        seed=study.seed,
        device=device,
    )
    each = part_plans(plan, store)
    measured = []
    for one in each:
        load = partial(load_dictionary, study, as_sae(study, one.sae), site.acts.d_model, device)

        def make(folder: Path, one: PartPlan = one, load: Any = load) -> None:
            measure_part(given, one.sae.part, load(), folder, stages.reporter, one.sae.path)

        entry = store.get_or_make(PART, one.spec, make)
        measured.append(
            MeasuredPart(one.sae.part, one.sae.seed, one.sae.path, entry.path, one.log, partial(_rows, load))
        )

    def make_whole(folder: Path) -> None:
        sums = pl.read_parquet(split.path / "contexts.parquet", columns=["act_scatter"]).sum()
        tables = parts_tables(measured, float(sums["act_scatter"][0]), study.seed, stages.reporter)
        Parts.write(folder, _about(plan, measured, site.acts.d_model), tables)

    return store.get_or_make(PARTS_STAGE, _whole_spec(plan, each), make_whole)


def _rows(load: Any) -> torch.Tensor:
    dictionary: AnyDictionary = load()
    rows = dictionary.decoder_rows(0, dictionary.d_sae)
    assert rows is not None, "every architecture that can be trained has decoder rows"
    return rows


def _about(plan: Plan, measured: list[MeasuredPart], d_model: int) -> dict[str, Any]:
    study, parts, base = plan.study, parts_of(plan.study), base_plan(plan)
    return {
        "base": base.sae.name,
        "site": base.sae.hook,
        "summary": base.summary_key,
        "parts": list(parts.on),
        "seeds": list(parts.seeds),
        **{name: getattr(parts, name) for name in ("width", "l0", "architecture", "engine", "tokens", "batch_tokens")},
        "n_tokens": measured[0].numbers["n_tokens"],
        "n_contexts": plan.contexts.n_contexts,
        "skip_positions": study.settings.skip_positions,
        "n_folds": study.settings.n_folds,
        "seed": study.seed,
        "d_model": d_model,
        "entries": [
            one.entry.name for one in measured
        ],  # keys of the `part` entries, in the order of the table of SAEs
        "note": NOTE,
    }
