"""The nodes of a Ray cluster: which are there, whether they are fit for the work, and which have gone since."""

from __future__ import annotations

import logging
import os
import platform
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dmcore.errors import DarkMatterError, StoreError
from dmcore.run.cluster.code import source_key

log = logging.getLogger(__name__)

LOOK_SECONDS = 120.0
"""How long a node may take to start a process that looks at it."""
SETTLE_SECONDS = 30.0
"""How long the head may take to notice that a node has gone."""


@dataclass
class Cluster:
    """Nodes that are there and fit for the work."""

    names: dict[str, str]
    """By Ray's id: `node 1 (host)`."""
    n_slots: int
    """Tasks that run at once."""
    resources: dict[str, float]
    """What a task asks of a node."""
    sees_weights: bool = True
    """Whether every node sees the folders of the SAEs."""
    _lost: set[str] = field(default_factory=set)

    def newly_lost(self) -> list[str]:
        """Names of the nodes that have gone since this was last asked."""
        alive = {node["NodeID"] for node in _alive()}
        gone = set(self.names) - alive - self._lost
        self._lost |= gone
        for number, node in enumerate(sorted(alive - set(self.names)), len(self.names) + 1):
            self.names[node] = f"node {number}"  # one that has come later
        return sorted(self.names[node] for node in gone)

    def can_work(self) -> bool:
        """Whether a node that is left could run a task."""
        return any(all(n["Resources"].get(r, 0) >= k for r, k in _rayed(self.resources).items()) for n in _alive())


def fit_nodes(device: str, root: Path, url: str, folders: list[Path], model: Path | None) -> Cluster:
    """The cluster's nodes, each of them looked at.

    A node that was lost a moment ago is listed until the head has noticed. It does not answer; once it is no longer listed, the
    others are looked at without it.

    Args:
        device, root, url, folders, model: as `connected` takes them.

    Raises:
        DarkMatterError: a node has other versions, does not see what it must, or does not answer and is listed still.
    """
    import ray

    while True:
        cluster = _cluster(device)
        try:
            _check_nodes(cluster, root, url, folders, model)
            return cluster
        except ray.exceptions.RayError as error:
            if not _one_has_gone(set(cluster.names), SETTLE_SECONDS):
                raise DarkMatterError(
                    f"A node of the cluster does not answer ({reason_of(error)}): look at `ray status`."
                ) from error
            log.warning("a node was lost before the work began; the others go on without it.")


def _one_has_gone(names: set[str], patience: float) -> bool:
    """Whether one of these nodes is no longer there, or comes to be so in some seconds."""
    until = time.monotonic() + patience
    while not names - {node["NodeID"] for node in _alive()}:
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def _cluster(device: str) -> Cluster:
    nodes = sorted(_alive(), key=lambda node: ("node:__internal_head__" not in node["Resources"], node["NodeID"]))
    names = {node["NodeID"]: f"node {i}" for i, node in enumerate(nodes, 1)}
    gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
    if device.startswith("cuda") and not gpus:
        raise DarkMatterError("The cluster has no GPU: start its nodes with one, or leave --device out.")
    on_gpu = gpus > 0 and device != "cpu"
    resources: dict[str, float] = {"num_cpus": 1, **({"num_gpus": 1} if on_gpu else {})}
    slots = int(gpus if on_gpu else sum(node["Resources"].get("CPU", 0) for node in nodes))
    return Cluster(names, max(1, slots), resources)


def _rayed(resources: dict[str, float]) -> dict[str, float]:
    return {{"num_cpus": "CPU", "num_gpus": "GPU"}[name]: amount for name, amount in resources.items()}


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _check_nodes(cluster: Cluster, root: Path, url: str, folders: list[Path], model: Path | None) -> None:
    """Compare every node with this process, and see what it sees."""
    own = versions()
    mark = root / "partial" / f"seen-by-all-{os.getpid()}-{time.time_ns()}"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_bytes(b"")
    except OSError as error:
        raise StoreError(f"{root} cannot be written: set DMCORE_CACHE to a folder that can.") from error
    hosts = {node["NodeID"]: node["NodeManagerHostname"] for node in _alive()}
    asked = [str(mark), str(model or root), *map(str, folders)]
    try:
        for node, found in _look(list(cluster.names), asked).items():
            name = f"{cluster.names[node]} ({hosts.get(node, 'host unknown')})"
            other = [
                f"{what} {theirs}, here {own[what]}"
                for what, theirs in found["versions"].items()
                if theirs != own[what]
            ]
            if other:
                raise DarkMatterError(
                    f"On {name} other versions are installed ({'; '.join(other)}): install the same there as here, or leave "
                    "that node out."
                )
            if not url and not found["sees"][0]:
                raise StoreError(
                    f"The cache {root} is not there on {name}: set DMCORE_CACHE to a folder that all nodes share, or give "
                    "--storage with a URL that all reach."
                )
            if not found["sees"][1]:
                raise DarkMatterError(
                    f"The model's folder {model} is not there on {name}: put it where all nodes see it."
                )
            cluster.sees_weights &= all(found["sees"][2:])
    finally:
        mark.unlink(missing_ok=True)


def _look(nodes: list[str], paths: list[str]) -> dict[str, dict[str, Any]]:
    """What each node has installed and which of some paths it sees."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A function of its own, sent as it is: a node without dmcore could not import one of this module's.
    def look(paths: list[str]) -> dict[str, Any]:
        import importlib.metadata
        import pathlib
        import platform

        found = {"python": platform.python_version()}
        for name in ("torch", "ray"):
            try:
                found[name] = importlib.metadata.version(name).partition("+")[0]
            except importlib.metadata.PackageNotFoundError:
                found[name] = "missing"
        try:
            from dmcore.run.cluster.code import source_key

            found["dmcore"] = source_key()
        except Exception:
            found["dmcore"] = "missing"
        return {"versions": found, "sees": [pathlib.Path(path).exists() for path in paths]}

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(paths)
        for node in nodes
    }
    return dict(zip(asked, ray.get(list(asked.values()), timeout=LOOK_SECONDS), strict=True))


def versions() -> dict[str, str]:
    """What must be the same on every node; a build for another device counts as the same torch."""
    return {
        "python": platform.python_version(),
        "torch": version("torch").partition("+")[0],
        "ray": version("ray"),
        "dmcore": source_key(),
    }


def reason_of(error: BaseException) -> str:
    """The first line of what went wrong, short."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(".: ")
