"""A sweep on a Ray cluster: the pipeline of `run.pipeline`, whose heavy steps are given to the nodes.

1. Try the SAEs on a few contexts; run the model over shards of contexts; join each site's shards.
2. Moments of x over shards, added up in a tree.
3. For each SAE: encode shards, add up their moments in a tree, then one task joins its codes and makes the split, the summary
   and the tests of norms, and deletes the shards.
4. Compare the SAEs of each site; measure the SAEs on the parts.

Keys, files and formats are those of the local engine: either goes on with what the other has begun. Numbers differ from the
local engine's by the order in which float64 moments are added, and by nothing that the number of nodes changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from dmcore.progress import Reporter
from dmcore.run.cluster.shards import Cut
from dmcore.run.cluster.work import Work
from dmcore.run.pipeline import Outcome, Pipeline
from dmcore.run.plan import Plan, SaePlan
from dmcore.run.scale import is_scaled
from dmcore.sources.custom_saes import CustomSae
from dmcore.specs import Study
from dmcore.store.store import Store

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 5.0


class RayPipeline(Pipeline):
    """Computes studies into a store, on a Ray cluster.

    Args:
        store: where results go; a `MirroredStore` where nodes share a storage and no folder.
        address: of `connected`.
        device: `auto`, `cpu` or `cuda`: what the tasks ask of the nodes.
        reporter, custom: as of the `Pipeline`.
        made: told of the key of every summary that a node has made.
        cut: how the contexts are cut into shards.
    """

    def __init__(
        self,
        store: Store,
        address: str = "",
        device: str = "auto",
        reporter: Reporter | None = None,
        custom: Mapping[str, CustomSae] | None = None,
        made: Callable[[str], None] = lambda _: None,
        cut: Cut | None = None,
    ) -> None:
        super().__init__(store, "cpu", reporter, custom)
        self.address, self.asked_device, self.cut, self._made = address, device, cut or Cut(), made
        self._work_of: Work | None = None
        self._scales = False
        self._compared: dict[str, str] = {}

    def sweep(self, study: Study, only: Callable[[int], bool] | None = None, *, scale: bool = True) -> Outcome:
        """Compute what is missing; see `Pipeline.sweep`."""
        with self._session():
            self._scales = scale and only is None
            return super().sweep(study, only, scale=scale)

    def scale(self, study: Study) -> dict[str, str]:
        """Compare the SAEs that have results; see `Pipeline.scale`."""
        with self._session():
            return super().scale(study)

    @contextmanager
    def _session(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._work_of is not None:
                self._work_of.close()
                self._work_of = None
            self._scales, self._compared = False, {}

    def _on_cluster(self, plan: Plan) -> Work:
        """The cluster, reached when it is first needed."""
        if self._work_of is None:
            self._work_of = Work(
                plan,
                self.store,
                self.reporter,
                address=self.address,
                device=self.asked_device,
                custom=self.custom,
                cut=self.cut,
            )
        return self._work_of

    def _work(self, plan: Plan, wanted: list[SaePlan], unscaled: Collection[str]) -> dict[str, str]:
        failures: dict[str, str] = {}
        if not wanted:
            return failures
        work = self._on_cluster(plan)
        able = work.captured(wanted, failures)
        able = work.with_inputs(able, failures)
        last = time.monotonic()
        for sae in work.finished(able, unscaled, failures):
            self._made(sae.summary_key)
            if time.monotonic() - last > PUBLISH_SECONDS:
                self.publish(plan)
                last = time.monotonic()
        self.publish(plan)
        if self._scales:
            self._compare(plan, [hook for hook in plan.study.hooks if hook in unscaled])
        return failures

    def _compare(self, plan: Plan, hooks: list[str]) -> None:
        """Compare the SAEs of some sites, all at once."""
        work = self._on_cluster(plan)
        pieces = [work.piece(hook, f"compare {hook}", "scale_site", hook) for hook in hooks]
        failures: dict[str, str] = {}
        done = work.simple(pieces, "compare the SAEs", failures, "sites")
        for hook in done:
            is_scaled(plan, hook, self.store)  # which fetches it, where the nodes share no folder
        self._compared |= dict.fromkeys(done, "") | failures

    def _scale(self, plan: Plan, hook: str) -> str:
        if hook not in self._compared and not is_scaled(plan, hook, self.store):
            self._compare(plan, [hook])
        return self._compared.get(hook, "")

    def _parts(self, plan: Plan) -> str:
        if plan.study.parts is None:
            return ""
        work, failures = self._on_cluster(plan), dict[str, str]()
        said = work.simple(
            [work.piece("", "the SAEs on the parts", "parts")], "measure the SAEs on the parts", failures
        )
        return failures.get("", "") or "".join(said.values())
