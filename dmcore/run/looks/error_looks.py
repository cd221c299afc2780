"""What is asked of single SAEs of a study that has been opened: what reduces an SAE's error, and what that error costs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

from dmcore.errors import StoreError
from dmcore.results import Controls, ControlSettings, Downstream, DownstreamSettings, Reduction, ReductionSettings
from dmcore.results.reduction import CODING, ON_SUPPORT
from dmcore.results.synthetic import Planted, PlantedSettings
from dmcore.run.looks.controls import find_made, make_controls
from dmcore.run.looks.downstream import find_downstream, make_downstream
from dmcore.run.looks.reduction import asked_for, find_reduction, make_reduction, wider_of
from dmcore.run.looks.synthetic import find_synthetic, make_synthetic
from dmcore.run.pipeline import Pipeline
from dmcore.run.plan import Plan, SaePlan, make_plan
from dmcore.run.sae_stages import AnyDictionary, SaeStages
from dmcore.sources.models import LanguageModel, load_model
from dmcore.specs import Study
from dmcore.store.own_metrics import read_downstream
from dmcore.store.published import SUMMARY


class ErrorLooks:
    """Looks at the errors of a study's SAEs.

    Args:
        pipeline: with the store, the device and who is told of progress.
        study: that names the SAEs.
    """

    def __init__(self, pipeline: Pipeline, study: Study) -> None:
        self.pipeline, self.study = pipeline, study
        self.store = pipeline.store

    @cached_property
    def plan(self) -> Plan:
        """The study with its inputs found and checked.

        Raises:
            SpecError: an input is missing or wrong.
        """
        return make_plan(self.study, self.store, self.pipeline.custom)

    def sae(self, name: str) -> SaePlan:
        """An SAE by its name, or the end of it, which must have a result.

        Raises:
            SpecError: the study has no such SAE.
            StoreError: it has no result yet.
        """
        sae = self.study.sae_called(name)
        return self.finished(next(p for p in self.plan.saes if p.sae == sae))

    def finished(self, sae: SaePlan) -> SaePlan:
        """The SAE itself.

        Raises:
            StoreError: it has no result yet.
        """
        if self.store.find(SUMMARY, sae.summary_key) is None:
            raise StoreError(f"The SAE {sae.sae.name} has no result yet: sweep the study first.")
        return sae

    def reduction(
        self,
        name: str,
        *,
        earlier: Sequence[str] | None = None,
        methods: Sequence[str] | None = None,
        settings: ReductionSettings | None = None,
    ) -> Reduction:
        """What reduces an SAE's error, and by how much, made where it is not there.

        Args:
            name: the SAE's, or the end of it.
            earlier: SAEs of earlier components; None for those of the layer before, the layer's MLP and its attention.
            methods: names of coding methods (`dmcore.analysis.coding_methods`); None for the usual ones.
            settings: on how many contexts what is slow is run; None for the usual.

        Raises:
            SpecError: the study has no such SAE, one is of no earlier site, or there is no such method.
            StoreError: an SAE has no result yet.
        """
        before = None if earlier is None else [self.sae(one) for one in earlier]
        asked = asked_for(self.plan, self.store, self.sae(name), before, methods, settings)
        if (found := find_reduction(self.store, asked)) is not None:
            return Reduction.read(found.path)
        stages = partial(self.pipeline.stages, self.plan)

        def load(sae: SaePlan, of_site: SaeStages) -> AnyDictionary:
            return self.pipeline.loader(self.plan, of_site.site)(sae)

        return Reduction.read(make_reduction(asked, self.plan, stages, load, lambda: self._model).path)

    def pursuit(
        self,
        name: str,
        *,
        methods: Sequence[str] | None = None,
        coding_contexts: int | None = None,
        target_l0: int | None = None,
    ) -> Reduction:
        """Other codes of an SAE's dictionary alone: what `reduction` found, or, where it has not been made, just those.

        Args:
            name: the SAE's, or the end of it.
            methods: names of coding methods; None for the usual ones, with a target those that heed it.
            coding_contexts: contexts to code; None for the usual number, 0 for all.
            target_l0: atoms that each token may have; None for as many as the encoder has active there.

        Raises:
            SpecError: the study has no such SAE, there is no such method, or the target is above the number of latents.
            StoreError: the SAE has no result yet.
        """
        if methods is None and target_l0 is not None:
            methods = [name for name in CODING if name != ON_SUPPORT]
        usual = ReductionSettings()
        contexts = usual.coding_contexts if coding_contexts is None else coding_contexts
        whole = ReductionSettings(contexts, usual.loss_contexts, target_l0)
        asked = asked_for(self.plan, self.store, self.sae(name), None, methods, whole)
        if (found := find_reduction(self.store, asked)) is not None:
            return Reduction.read(found.path)
        alone = ReductionSettings(contexts, 0, target_l0)
        return self.reduction(name, earlier=[], methods=methods, settings=alone)

    def wider(self, name: str) -> list[dict[str, Any]]:
        """Rows of `Reduction`'s table of methods for the wider SAEs of the study at the same L0; nothing is computed."""
        return wider_of(self.plan, self.store, self.sae(name))

    def downstream(self, name: str, asked: DownstreamSettings | None = None) -> Downstream:
        """What each part of an SAE's error costs the model's own loss, made where it is not there.

        Args:
            name: the SAE's, or the end of it.
            asked: how much is run; None for all contexts.

        Raises:
            SpecError: the study has no such SAE, or its model predicts no next token or cannot be spliced at this site.
            StoreError: it has no result yet.
            DataError: the SAE or the model gave NaN or infinity.
        """
        sae, asked = self.sae(name), asked or DownstreamSettings()
        if (found := find_downstream(self.store, sae, asked)) is None:
            stages = self.pipeline.stages(self.plan, sae)
            dictionary = self.pipeline.loader(self.plan, stages.site)(sae)
            found = make_downstream(stages, sae, dictionary, lambda: self._model, asked)
        return read_downstream(found, self.store.find(SUMMARY, sae.summary_key))

    def controls(self, name: str, asked: ControlSettings | None = None) -> Controls:
        """The controls of an SAE's numbers, run where that has not been done.

        Args:
            name: the SAE's, or the end of it.
            asked: how much is run; None for the usual.

        Raises:
            SpecError: the study has no such SAE.
            StoreError: it has no result yet.
            DataError: too few tokens for a linear map of x.
        """
        sae, asked = self.sae(name), asked or ControlSettings()
        if (found := find_made(self.store, sae, asked)) is None:
            stages = self.pipeline.stages(self.plan, sae)
            found = make_controls(stages, sae, self.pipeline.loader(self.plan, stages.site)(sae), asked)
        return Controls.read(found.path)

    def synthetic(self, name: str, asked: PlantedSettings | None = None) -> Planted:
        """Errors planted in what an SAE makes, and what the estimates find of them, made where it is not there.

        Args:
            name: the SAE's, or the end of it.
            asked: on how many contexts; None for the usual.

        Raises:
            SpecError: the study has no such SAE.
            StoreError: it has no result yet.
            DataError: too few tokens for the linear map.
        """
        sae, asked = self.sae(name), asked or PlantedSettings()
        if (found := find_synthetic(self.store, sae, asked)) is None:
            stages = self.pipeline.stages(self.plan, sae)
            found = make_synthetic(stages, sae, self.pipeline.loader(self.plan, stages.site)(sae), asked)
        return Planted.read(found.path)

    @cached_property
    def _model(self) -> LanguageModel:
        return load_model(self.study, self.pipeline.device)
