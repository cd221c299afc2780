"""What a sweep gives to its cluster: pieces of work for each step, in the order in which one needs another."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from dmcore.analysis.capture import LOSS
from dmcore.errors import StoreError
from dmcore.progress import Reporter
from dmcore.run.cluster.board import Board
from dmcore.run.cluster.connect import connected
from dmcore.run.cluster.crew import Crew, Piece
from dmcore.run.cluster.joined import FAN_IN
from dmcore.run.cluster.node_cache import sweep_caches
from dmcore.run.cluster.nodes import Cluster
from dmcore.run.cluster.shard_work import drop_shards, stage_of
from dmcore.run.cluster.shards import Cut, Shard, shard_spec
from dmcore.run.cluster.tasks import Assignment, Place, perform, without_documents
from dmcore.run.cluster.weights import read_files
from dmcore.run.plan import Plan, SaePlan
from dmcore.sources.custom_saes import CustomSae
from dmcore.store.fingerprint import content_key
from dmcore.store.mirror import MirroredStore
from dmcore.store.published import SUMMARY
from dmcore.store.store import Store

log = logging.getLogger(__name__)

RETRIES = 4
"""Times that Ray runs a task again whose node or process was lost."""


class Work:
    """A sweep's work on its cluster, from when it is reached until `close`.

    Args:
        plan, store, reporter, custom: as of the `Pipeline`.
        address, device: as of `connected`.
        cut: how the contexts are cut into shards.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        reporter: Reporter,
        *,
        address: str,
        device: str,
        custom: Mapping[str, CustomSae],
        cut: Cut,
    ) -> None:
        self.plan, self.store, self.reporter = plan, store, reporter
        self.cut, self.widths = cut, dict[str, int]()
        study, url = plan.study, self.store.url if isinstance(self.store, MirroredStore) else ""
        folders = [study.resolve(p.sae.path) for p in plan.saes if p.sae.path]
        self._opened = ExitStack()
        there = connected(
            address,
            device=device,
            root=self.store.root,
            url=url,
            folders=folders,
            model=study.resolve(study.model.path) if study.model.path else None,
        )
        try:
            with self.reporter.stage("reach the Ray cluster", 1, "clusters") as stage:
                self.cluster: Cluster = self._opened.enter_context(there)
                stage.advance()  # where a cancel is heard: the cluster is left then too
            self._hire(custom, url)
        except BaseException:
            self.close()
            raise

    def _hire(self, custom: Mapping[str, CustomSae], url: str) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # It may be ended where memory runs out: a board that is begun again knows what is told from then on.
        self.board = ray.remote(num_cpus=0, max_restarts=-1)(Board).options(scheduling_strategy=here).remote()
        place = Place(str(self.store.root), url)
        assignment = Assignment(secrets.token_hex(6), without_documents(self.plan), place, self.board, custom)
        self._assignment = ray.put(assignment)
        # Processes stay from task to task with what they have loaded: Ray ends them only where `ray.remote` itself names GPUs.
        self._task = ray.remote(max_retries=RETRIES)(perform).options(**self.cluster.resources)
        self._adding = ray.remote(max_retries=RETRIES)(perform).options(num_cpus=0)
        self.crew = Crew(self.cluster, self.board, self.reporter)
        n = len(self.cluster.names)
        self.where = f"on {n} node{'s' if n > 1 else ''}"

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._opened.close()
        if isinstance(self.store, MirroredStore):
            try:
                sweep_caches()  # of this machine, which may be a node
            except (OSError, StoreError) as error:
                log.warning("What the sweep kept on this machine beside its storage stays: %s", error)

    def piece(self, subject: str, name: str, step: str, *arguments: Any, weight: int = 1) -> Piece:
        """A piece of one task."""
        return Piece(name, lambda: [self._give(f"{name}|", step, arguments)], weight, subject)

    def _give(
        self, task: str, step: str, arguments: tuple[Any, ...], files: Any = None, parts: tuple[Any, ...] = ()
    ) -> Any:
        return self._task.remote(self._assignment, task, step, arguments, files, *parts)

    def _tree(self, refs: list[Any]) -> list[Any]:
        """At most `FAN_IN` references with the same sum."""
        while len(refs) > FAN_IN:
            groups = [refs[i : i + FAN_IN] for i in range(0, len(refs), FAN_IN)]
            refs = [self._adding.remote(self._assignment, "add", "add", (), None, *group) for group in groups]
        return refs

    def simple(self, pieces: list[Piece], stage: str, failures: dict[Any, str], unit: str = "tasks") -> dict[Any, Any]:
        """Do some pieces; by subject: what they gave, or in `failures` why they could not be done."""
        given = {}
        for piece, answer in self.crew.run(pieces, f"{stage} {self.where}", unit):
            if answer.good:
                given[piece.subject] = answer.value
            else:
                failures[piece.subject] = answer.failure
                log.error("%s: %s", piece.subject, answer.failure)
        return given

    def captured(self, wanted: list[SaePlan], failures: dict[str, str]) -> list[SaePlan]:
        """The SAEs whose sites are captured: those that are missing are."""
        new = [p for p in wanted if not self._has("activations", self.plan.sites[p.sae.hook])]
        if new:
            tried = self.simple([self.piece("", "try the SAEs", "try_saes", new)], "try the SAEs", (bad := {}))
            if bad:
                return self._failed(wanted, bad[""], failures)
            failures |= tried[""]
            for name, reason in tried[""].items():
                log.error("%s: %s", name, reason)
        able = [p for p in wanted if p.sae.name not in failures]
        if not able:
            return []
        names = [
            n
            for n in (LOSS, *dict.fromkeys(p.sae.hook for p in able))
            if not self._has(stage_of(n), self.plan.sites[n])
        ]
        contexts = self.plan.contexts
        shards = self.cut.for_model(contexts.n_contexts, contexts.length)
        if names:
            pieces = [
                self.piece("", f"contexts {s.first} to {s.last - 1}", "capture_shard", names, s, weight=s.n_contexts)
                for s in shards
            ]
            self.simple(pieces, "run the model", (bad := {}), "contexts")
            if bad:
                return self._failed(able, next(iter(bad.values())), failures)
            joins = [self.piece(name, f"join {name}", "join_site", name, shards) for name in names]
            self.simple(joins, "join the activations", (bad := {}))
            if LOSS in bad:
                return self._failed(able, bad[LOSS], failures)
            for hook, reason in bad.items():
                self._failed([p for p in able if p.sae.hook == hook], reason, failures)
        self._drop_joined({LOSS, *(p.sae.hook for p in able)} - {*names}, shards)
        return [p for p in able if p.sae.name not in failures]

    def _drop_joined(self, names: Collection[str], shards: list[Shard]) -> None:
        """Delete shards of activations that are joined: those of a sweep that was killed before it had deleted them."""
        for name in names:
            of = content_key(self.plan.sites[name])
            left = [s for s in shards if self.store.folder(stage_of(name), content_key(shard_spec(of, s))).is_dir()]
            drop_shards(self.store, stage_of(name), of, left)

    def with_inputs(self, able: list[SaePlan], failures: dict[str, str]) -> list[SaePlan]:
        """The SAEs whose sites have their moments of x: those that are missing are made."""
        hooks = list(dict.fromkeys(p.sae.hook for p in able))
        widths = [self.piece(hook, f"width of {hook}", "width", hook) for hook in hooks]
        bad: dict[str, str] = {}
        self.widths = self.simple(widths, "look at the activations", bad)
        pieces = [
            Piece(f"moments of {hook}", self._inputs_chain(hook), 1, hook)
            for hook in self.widths
            if not self._has("inputs", self.plan.inputs[hook])
        ]
        if pieces:
            self.simple(pieces, "moments of x", bad, "sites")
        for hook, reason in bad.items():
            self._failed([p for p in able if p.sae.hook == hook], reason, failures)
        return [p for p in able if p.sae.name not in failures]

    def _inputs_chain(self, hook: str) -> Callable[[], list[Any]]:
        def launch() -> list[Any]:
            shards = self._shards(hook)
            refs = [self._give(f"moments of {hook}|{s.first}", "inputs_shard", (hook, s)) for s in shards]
            last = self._give(f"moments of {hook}|sum", "join_inputs", (hook,), None, tuple(self._tree(refs)))
            return [*refs, last]

        return launch

    def finished(self, able: list[SaePlan], unscaled: Collection[str], failures: dict[str, str]) -> Iterator[SaePlan]:
        """Work on the SAEs; each is given back when it is finished, those that cannot be are named in `failures`."""
        n_tokens = self.plan.contexts.n_contexts * self.plan.contexts.length
        pieces = [Piece(p.sae.name, self._sae_chain(p, p.sae.hook in unscaled), 2 * n_tokens, p) for p in able]
        if not pieces:
            return
        for piece, answer in self.crew.run(pieces, f"encode and split {self.where}", "tokens"):
            sae: SaePlan = piece.subject
            # Found by the driver's own store too, which fetches it where the nodes share no folder.
            if answer.good and self.store.find(SUMMARY, sae.summary_key) is not None:
                yield sae
                continue
            failures[sae.sae.name] = answer.failure or "Its summary was deleted in the meantime: sweep the study again."
            log.error("%s: %s", sae.sae.name, failures[sae.sae.name])

    def _sae_chain(self, p: SaePlan, scale: bool) -> Callable[[], list[Any]]:
        """Tasks of one SAE: its shards where it has to be encoded, the tree of sums, and what finishes it."""

        def launch() -> list[Any]:
            task, files, refs = f"{p.sae.name}|{p.summary_key}", self._files(p), list[Any]()
            shards = self._shards(p.sae.hook)
            if len(shards) > 1 and self._encodes(p, scale):
                refs = [self._give(f"{task}|{s.first}", "encode_shard", (p, s), files) for s in shards]
            last = self._give(f"{task}|finish", "finish_sae", (p, shards, scale), files, tuple(self._tree(refs)))
            return [*refs, last]

        return launch

    def _encodes(self, p: SaePlan, scale: bool) -> bool:
        """Whether a pass over all tokens has to be made to have an SAE's codes or moments."""
        codes, targets, split = (self._has(stage, spec) for stage, spec in _stages(p))
        if not self.store.has(SUMMARY, p.summary_key):
            return not (codes and targets) and not (codes and split)
        return scale and not self._has("norms", p.norms) and not (codes and split)

    def _files(self, p: SaePlan) -> Any:
        """The SAE's files in Ray's object store, where not every node sees its folder: put there once, freed with the piece."""
        import ray

        if self.cluster.sees_weights or not p.sae.path:
            return None
        return [ray.put(read_files(self.plan.study.resolve(p.sae.path)))]

    def _shards(self, hook: str) -> list[Shard]:
        contexts = self.plan.contexts
        n_cells = self.plan.partition.n_cells
        return self.cut.for_sae(contexts.n_contexts, contexts.length, self.widths[hook], n_cells)

    def _has(self, stage: str, spec: dict[str, Any]) -> bool:
        return self.store.has(stage, content_key(spec))

    @staticmethod
    def _failed(saes: list[SaePlan], reason: str, failures: dict[str, str]) -> list[SaePlan]:
        failures |= {p.sae.name: reason for p in saes}
        return []


def _stages(p: SaePlan) -> list[tuple[str, dict[str, Any]]]:
    return [("codes", p.codes), ("targets", p.targets), ("split", p.split)]
