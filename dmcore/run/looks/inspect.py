"""A closer look at single SAEs of a study, made when it is asked for: a sweep does not do it for all of them.

Each look needs the SAE's summary, is an entry of its own, and makes codes and split again where a clone holds summaries alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dmcore.errors import DarkMatterError, SpecError, StoreError
from dmcore.results import (
    Detection,
    Features,
    Learned,
    Parts,
    Structure,
    read_features,
    read_learned,
)
from dmcore.results.detection import N_LATENTS
from dmcore.results.parts import PART
from dmcore.run.looks.detection import Asked, Codes, Detector
from dmcore.run.looks.features import Whose, find_features, make_features, widest_plan
from dmcore.run.looks.map_looks import MapLooks
from dmcore.run.looks.structure import find_structure, make_structure
from dmcore.run.parts import PartPlan, base_plan, find_measured, part_plans, parts_of, untrained
from dmcore.store.fingerprint import content_key


class Inspector(MapLooks):
    """Looks at SAEs of one study.

    Args:
        pipeline, study: as of `ErrorLooks`.
    """

    def parts(self) -> Parts:
        """Measure the SAEs on the parts of an SAE's error, where that has not been done.

        Raises:
            SpecError: the study has no [parts] table, or an input is missing or wrong.
            StoreError: the base SAE has no result, or the SAEs have not been trained.
        """
        parts_of(self.study)
        self.finished(base_plan(self.plan))
        if why := untrained(self.plan):
            raise StoreError(why)
        return Parts.read(self.pipeline.measure_parts(self.plan).path)

    def learned(self) -> Learned:
        """Which latents of the SAEs on the parts are in the base or a wider SAE already, computed where that is missing.

        Raises:
            As `parts`.
        """
        self.parts()
        return read_learned(self.pipeline.learned(self.plan).path)

    def features(self, name: str, part: str = "", seed: int = 0) -> Features:
        """The features of an SAE, made where they are not there.

        Args:
            name: the SAE's, or the end of it; with `part`, the base of [parts] whatever this says.
            part, seed: of an SAE on a part of the base's error instead.

        Raises:
            SpecError: the study has no such SAE.
            StoreError: it has no result yet.
        """
        return self._features(self.whose(name, part, seed))

    def _features(self, whose: Whose) -> Features:
        widest = widest_plan(self.plan, self.store, whose.sae)
        if (found := find_features(self.store, whose, widest)) is not None:
            return read_features(found.path)
        stages = self.pipeline.stages(self.plan, whose.sae)
        load = self.pipeline.loader(self.plan, stages.site)
        codes = self.part_codes(whose.part) if whose.part is not None else None
        return read_features(make_features(stages, whose, widest, load, codes).path)

    def structure(self, name: str) -> Structure:
        """The structure of an SAE's error, made where it is not there.

        Raises:
            SpecError: the study has no such SAE.
            StoreError: it has no result yet.
        """
        sae = self.sae(name)
        if (found := find_structure(self.store, sae)) is not None:
            return Structure.read(found.path)
        stages = self.pipeline.stages(self.plan, sae)
        return Structure.read(make_structure(stages, sae, self.pipeline.loader(self.plan, stages.site)(sae)).path)

    def detection(
        self, name: str, part: str = "", seed: int = 0, *, asked: Asked | None = None, n_latents: int = N_LATENTS
    ) -> Detection:
        """Detection scores of random latents of an SAE, made where they are not there.

        Args:
            name, part, seed: as of `features`.
            asked: the language model; None scores by patterns of the text.
            n_latents: how many are drawn.

        Raises:
            As `features`, and as `Detector.make`.
        """
        return self.detector(self.whose(name, part, seed), asked=asked, n_latents=n_latents).make()

    def detector(self, whose: Whose, *, asked: Asked | None = None, n_latents: int = N_LATENTS) -> Detector:
        """Who makes the detection scores of an SAE, or says what that takes."""

        def codes() -> Codes:
            if whose.part is not None:
                return Codes(self.part_codes(whose.part), parts_of(self.study).width)
            stages = self.pipeline.stages(self.plan, whose.sae)
            dictionary = self.pipeline.loader(self.plan, stages.site)(whose.sae)
            return Codes(stages.codes_and_split(whose.sae, dictionary)[0].path, dictionary.d_sae)

        reporter = self.pipeline.reporter
        return Detector(self.store, self.plan, whose, codes, asked=asked, n_latents=n_latents, reporter=reporter)

    def on_parts(self) -> list[Whose]:
        """The latents of every SAE on a part, in the order of parts and seeds.

        Raises:
            As `parts`, but that they need not have been measured.
        """
        parts_of(self.study)
        base = self.finished(base_plan(self.plan))
        if why := untrained(self.plan):
            raise StoreError(why)
        return [Whose(base, one) for one in part_plans(self.plan, self.store)]

    def everything(self, name: str) -> str:
        """Features, structure of the error and detection scores by patterns of an SAE; features of the SAEs on its parts too.

        Returns:
            a sentence about what could not be had; empty where all is there.

        Raises:
            SpecError: the study has no such SAE.
            StoreError: it has no result yet.
        """
        whose = [Whose(self.sae(name))]
        if self.study.parts is not None and whose[0].sae == base_plan(self.plan) and not untrained(self.plan):
            first = self.study.parts.seeds[0]
            whose += [Whose(whose[0].sae, part) for part in self._measured_parts() if part.sae.seed == first]
        looks: list[Callable[[], object]] = [partial(self._features, one) for one in whose]
        looks += [partial(self.structure, name), partial(self.detection, name)]
        failures = []
        for look in looks:
            try:
                look()
            except DarkMatterError as error:
                failures.append(str(error))
        return failures[0] if failures else ""

    def _measured_parts(self) -> list[PartPlan]:
        return part_plans(self.plan, self.store) if find_measured(self.plan, self.store) is not None else []

    def whose(self, name: str, part: str, seed: int) -> Whose:
        """Whose latents are meant: of an SAE by its name, or of the SAE on a part.

        Raises:
            SpecError: the study has no such SAE.
            StoreError: it has no result yet.
        """
        if not part:
            return Whose(self.sae(name))
        return Whose(self.finished(base_plan(self.plan)), self._part_plan(part, seed))

    def part_codes(self, part: PartPlan) -> Path:
        """Folder of the codes of an SAE on a part, made again where what was measured is there without them.

        Raises:
            StoreError: it has not been measured.
        """
        key = content_key(part.spec)
        entry = self.store.find(PART, key)
        if entry is None and find_measured(self.plan, self.store) is not None:
            self.pipeline.measure_parts(self.plan, codes=True)
            entry = self.store.find(PART, key)
        if entry is None:
            raise StoreError("The SAEs on the parts have not been measured yet: sweep the study first.")
        return entry.path

    def _part_plan(self, part: str, seed: int) -> PartPlan:
        if why := untrained(self.plan):
            raise StoreError(why)
        for one in part_plans(self.plan, self.store):
            if (one.sae.part, one.sae.seed) == (part, seed):
                return one
        parts = parts_of(self.study)
        raise SpecError(
            f"The study has no SAE on {part!r} with seed {seed}: parts are {', '.join(parts.on)}, seeds "
            f"{', '.join(map(str, parts.seeds))}."
        )
