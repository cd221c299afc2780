"""What the parts of an SAE's error cost the model's own loss: from its codes and split, in an entry found by its summary."""

from __future__ import annotations

from collections.abc import Callable

from dmcore.analysis.downstream import DownstreamInputs, downstream
from dmcore.results import DOWNSTREAM, downstream_spec, read_record
from dmcore.results.downstream import DownstreamSettings
from dmcore.run.pipeline import finished_records
from dmcore.run.plan import Plan, SaePlan
from dmcore.run.sae_stages import AnyDictionary, SaeStages
from dmcore.run.scale import open_sites, vocabulary_of
from dmcore.sources.models import LanguageModel
from dmcore.store.fingerprint import content_key
from dmcore.store.published import SUMMARY
from dmcore.store.store import Entry, Store


def find_downstream(store: Store, sae: SaePlan, asked: DownstreamSettings) -> Entry | None:
    """The entry, if it is there."""
    return store.find(DOWNSTREAM, content_key(downstream_spec(sae.summary_key, asked)))


def make_downstream(
    stages: SaeStages,
    sae: SaePlan,
    dictionary: AnyDictionary,
    model: Callable[[], LanguageModel],
    asked: DownstreamSettings,
) -> Entry:
    """Run the model with the parts of an SAE's error spliced in; goes on where an earlier call was cut off.

    Args:
        stages: of the SAE's site.
        sae: whose error.
        dictionary: its weights.
        model: loads the model.
        asked: how much is run.

    Raises:
        SpecError: the model predicts no next token, cannot be spliced at this site, or no position is scored.
        DataError: the SAE or the model gave NaN or infinity.
    """
    plan, site, store = stages.plan, stages.site, stages.store
    found = store.begin(DOWNSTREAM, downstream_spec(sae.summary_key, asked))
    if isinstance(found, Entry):
        return found
    try:
        with store.writing():
            codes, split = stages.codes_and_split(sae, dictionary)
            given = DownstreamInputs(
                acts=site.acts,
                sae=dictionary,
                codes=codes.path,
                split=split.path,
                inputs=site.inputs,
                partition=plan.partition,
                settings=plan.study.settings,
                seed=plan.study.seed,
                device=stages.device,
                hook=site.hook,
                contexts=plan.contexts,
                vocabulary=vocabulary_of(plan.study),
                model=model,
                asked=asked,
                listed=_browsed(plan, store, site.hook),
            )
            summary = store.find(SUMMARY, sae.summary_key)
            record = read_record(summary.path) if summary is not None else {}
            about = {name: record.get(name) for name in ("sae", "l0")}
            downstream(given, found.path, stages.reporter, sae.sae.name, about)
            return found.commit()
    finally:
        found.release()


def _browsed(plan: Plan, store: Store, hook: str) -> list[int]:
    """The contexts whose tokens a page can show, where the SAEs of the site have been compared."""
    sites = open_sites(store, finished_records(plan, store), [hook])
    return [int(context) for context in sites[hook].about["browsed"]] if hook in sites else []
