"""A Ray cluster: reached by its address, or started on this machine.

What is started here listens on the loopback address alone, sends no usage statistics, and ends with this process.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dmcore.errors import DarkMatterError
from dmcore.places import HOME
from dmcore.run.cluster.nodes import Cluster, fit_nodes, reason_of

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
OBJECT_STORE = 2**30
"""Bytes for what tasks send each other, in a cluster that is started here; less where memory is small."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_task_oom_retries": "2",
}
"""What Ray reads when this process connects. With the last it does not run without end what memory is too little for: who gives
the tasks out counts, so it holds on every cluster."""
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_gcs_rpc_server_reconnect_timeout_s": "300"}
"""With the first Ray takes 127.0.0.1 for its address on any system, and so do the processes that it starts; with the second
it does not end this process where a busy machine takes more than a minute to start them."""


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
        yield fit_nodes(device, root, url, folders, model)
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
            f"A Ray cluster could not be started here ({reason_of(error)}): use --engine local."
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
        raise DarkMatterError(f"{no_cluster} ({reason_of(error)}).") from error
    except Exception as error:
        raise DarkMatterError(f"{no_cluster} ({reason_of(error)}).") from error


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
        raise DarkMatterError(f"{no_cluster} ({reason_of(error)}).") from error
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


def _versions_in(text: str) -> str:
    found = re.findall(r"(Ray|Python): *([0-9][0-9a-z.]*)", text)
    return ", ".join(f"{name} {number}" for name, number in found) or "see `ray status`"
