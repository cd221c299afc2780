"""A Ray cluster: reached by its address, or started on this machine; and its nodes looked at before any work.

What is started here listens on the loopback address alone, sends no usage statistics, and ends with this process.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dmcore.errors import DarkMatterError, StoreError
from dmcore.places import HOME
from dmcore.run.cluster.code import source_key

log = logging.getLogger(__name__)

NOT_INSTALLED = "Ray is not installed: run `pip install -r requirements-ray.txt`, or leave --engine ray out."
ADDRESS = re.compile(r"auto|[A-Za-z0-9_.-]+:[0-9]{1,5}|\[[0-9A-Fa-f:]+\]:[0-9]{1,5}")
REACH_SECONDS = 5.0
ASK_SECONDS = 60.0
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HTTP2_SETTINGS = b"\x04"
"""Type of the frame with which a server begins."""
_ASK = """
import sys, ray
ray._raylet.GcsClient(address=sys.argv[1]).internal_kv_get(b"x", None, timeout=10)
"""
LOOK_SECONDS = 120.0
"""How long a node may take to start a process that looks at it."""
OBJECT_STORE = 2**30
"""Bytes for what tasks send each other, in a cluster that is started here; less where memory is small."""
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DEDUP_LOGS": "0"}
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_gcs_rpc_server_reconnect_timeout_s": "300"}
"""With the first Ray takes 127.0.0.1 for its address on any system, and so do the processes that it starts; with the second
it does not end this process where a busy machine takes more than a minute to start them."""


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


def check_installed() -> None:
    """Raise a `DarkMatterError` where there is no Ray."""
    if importlib.util.find_spec("ray") is None:
        raise DarkMatterError(NOT_INSTALLED)


@contextmanager
def connected(
    address: str, *, device: str, root: Path, url: str, folders: list[Path], model: Path | None
) -> Iterator[Cluster]:
    """A cluster, for as long as the block runs.

    Args:
        address: `HOST:PORT` of its head, `auto` for the one that runs on this machine, or empty to start one here. A process
            that is connected already stays so.
        device: `auto` for GPUs where the cluster has some; `cpu`, `cuda`.
        root: the cache folder, which every node must see unless there is a `url`.
        url: shared storage, or empty.
        folders: of the SAEs.
        model: folder of the model, which every node must see; None for one of the hub.

    Raises:
        DarkMatterError: Ray is not installed, the address is no Ray cluster, or a node has other versions or does not see
            what it must.
    """
    check_installed()
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    import ray

    mine = not ray.is_initialized()
    if mine:
        _join(address) if address else _start()
    try:
        cluster = _cluster(device)
        _check_nodes(cluster, root, url, folders, model)
        yield cluster
    finally:
        if mine:
            ray.shutdown()


def _start() -> None:
    """A cluster of this machine alone."""
    import ray
    from ray._private import ray_constants

    try:
        shared = os.statvfs("/dev/shm")
        memory = min(OBJECT_STORE, shared.f_bavail * shared.f_frsize // 4)
    except OSError:
        memory = OBJECT_STORE // 4
    before, enabled = {name: os.environ.get(name) for name in _LOOPBACK}, ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(_LOOPBACK)
    ray_constants.ENABLE_RAY_CLUSTER = False  # it was read from the environment when Ray was imported
    try:
        ray.init(address="local", include_dashboard=False, object_store_memory=max(memory, 2**27), **_options())
    except Exception as error:
        raise DarkMatterError(
            f"A Ray cluster could not be started here ({_reason(error)}): use --engine local."
        ) from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _join(address: str) -> None:
    """Connect to a cluster that is there."""
    import ray

    no_cluster = f"{address} is not a Ray cluster: give HOST:PORT of its head, as `ray start --head` prints it"
    if not ADDRESS.fullmatch(address):
        raise DarkMatterError(f"{no_cluster}.")
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        address = canonicalize_bootstrap_address("auto") or ""
        if not address:
            raise DarkMatterError("No Ray cluster runs on this machine: leave --address out, and one is started.")
    _knock(address, no_cluster)
    try:
        ray.init(address=address, **_options())
    except RuntimeError as error:
        if "ersion" in str(error):
            raise DarkMatterError(
                f"The cluster at {address} has another version of Ray or Python ({_versions_in(str(error))}): install the same "
                "on this machine and on every node."
            ) from error
        raise DarkMatterError(f"{no_cluster} ({_reason(error)}).") from error
    except Exception as error:
        raise DarkMatterError(f"{no_cluster} ({_reason(error)}).") from error


def _knock(address: str, no_cluster: str) -> None:
    """See that a Ray head answers. Ray itself would wait for minutes, or end the process that asks.

    1. What listens there must speak HTTP/2, as every gRPC server does.
    2. A process of its own asks it as a Ray head, for a limited time.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS) as there:
            there.settimeout(REACH_SECONDS)
            there.sendall(_HTTP2_HELLO)
            heard = b""
            while len(heard) < 4 and (more := there.recv(16)):
                heard += more
    except (OSError, OverflowError) as error:
        raise DarkMatterError(f"{no_cluster} ({_reason(error)}).") from error
    if heard[3:4] != _HTTP2_SETTINGS:
        raise DarkMatterError(f"{no_cluster} (something else answers there).")
    try:
        subprocess.run([sys.executable, "-c", _ASK, address], timeout=ASK_SECONDS, check=True, capture_output=True)
    except subprocess.SubprocessError as error:
        raise DarkMatterError(f"{no_cluster} (what answers there is no Ray head).") from error


def _options() -> dict[str, Any]:
    from ray.job_config import JobConfig

    return {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "job_config": JobConfig(_py_driver_sys_path=[str(HOME)]),
    }


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
    import ray

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
    except ray.exceptions.RayError as error:
        raise DarkMatterError(
            f"A node of the cluster does not answer ({_reason(error)}): look at `ray status`."
        ) from error
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


def _versions_in(text: str) -> str:
    found = re.findall(r"(Ray|Python): *([0-9][0-9a-z.]*)", text)
    return ", ".join(f"{name} {number}" for name, number in found) or "see `ray status`"


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(".: ")
