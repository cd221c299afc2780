"""What tf32 and bfloat16 would cost an SAE of a study: measured on some of its contexts, when asked for, and not kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import polars as pl

from dmcore.analysis.context_sample import sample_of
from dmcore.analysis.precision import REFERENCE, PrecisionInputs, compare_precisions
from dmcore.run.pipeline import Pipeline
from dmcore.run.plan import Plan, SaePlan
from dmcore.sources.saes import load_dictionary

CONTEXTS = 64
"""Contexts that are compared; more where the maps would be badly determined."""


@dataclass(frozen=True)
class PrecisionReport:
    """An SAE in several precisions."""

    sae: str
    n_contexts: int
    """Compared."""
    n_tokens: int
    """Of those that count."""
    of_contexts: int
    """Of the study."""
    device: str
    table: pl.DataFrame
    """With the columns of `dmcore.analysis.precision.COLUMNS`."""


def measure_precision(
    pipeline: Pipeline, plan: Plan, sae: SaePlan, precisions: Sequence[str], n_contexts: int = CONTEXTS
) -> PrecisionReport:
    """Compare precisions on an SAE; activations are captured where they are missing.

    Args:
        pipeline: where and with what.
        plan: of the study.
        sae: one of it.
        precisions: beside float32.
        n_contexts: to compare, at equal steps; 0 for all.

    Raises:
        SpecError: the SAE encodes by its own code, which has one precision.
        DataError: too few tokens for a linear map.
    """
    study = plan.study
    site = pipeline.stages(plan, sae).site
    settings = study.settings
    length = site.acts.length - settings.skip_positions
    sample = sample_of(plan.partition, length, n_contexts, site.acts.d_model + int(settings.fit_bias))
    partition = replace(sample.partition(plan.partition), edges=tuple(sorted({0, settings.skip_positions})))
    given = PrecisionInputs(sample.acts(site.acts), partition, sample.units, settings, study.seed, pipeline.device)
    load = {
        name: partial(
            load_dictionary,
            replace(study, settings=replace(settings, precision=name)),
            sae.sae,
            site.acts.d_model,
            pipeline.device,
            pipeline.custom,
        )
        for name in (REFERENCE, *precisions)
    }
    table = compare_precisions(given, load, pipeline.reporter, sae.sae.name)
    n = len(sample.contexts)
    return PrecisionReport(sae.sae.name, n, n * length, sample.n_contexts, str(pipeline.device), table)
