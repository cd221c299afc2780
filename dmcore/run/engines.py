"""The engines that run a sweep: this process, or a Ray cluster. No torch, and no Ray, before one is opened."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcore.errors import DarkMatterError
from dmcore.progress import Reporter
from dmcore.store.store import Store

if TYPE_CHECKING:
    from dmcore.run.pipeline import Pipeline

ENGINES = ("local", "ray")
ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Environment variable that names the cluster where no address is given; Ray's own."""
STORAGE_VARIABLE = "DMCORE_STORAGE"
"""Environment variable that names the storage which nodes share, where none is given."""


@dataclass(frozen=True)
class Engine:
    """Where a sweep runs."""

    name: str = "local"
    """Of `ENGINES`."""
    address: str = ""
    """Of the Ray cluster; empty to start one on this machine."""
    storage: str = ""
    """URL of a storage that the nodes share; empty where they share the cache folder."""

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise DarkMatterError(f"There is no engine {self.name!r}: choose {' or '.join(ENGINES)}.")
        if self.name == "local" and (self.address or self.storage):
            raise DarkMatterError("An address and a storage are for clusters: say --engine ray with them.")


def ray_is_installed() -> bool:
    """Whether Ray could be imported; it is not."""
    return importlib.util.find_spec("ray") is not None


def add_engine(parser: argparse.ArgumentParser) -> None:
    """The options `--engine`, `--address`, `--storage`."""
    parser.add_argument(
        "--engine", choices=ENGINES, default="local", help="local: this process; ray: a Ray cluster (local)"
    )
    parser.add_argument(
        "--address",
        default="",
        help="of the Ray cluster: HOST:PORT of its head, or auto for the one on this machine "
        f"(${ADDRESS_VARIABLE}; without, one is started here)",
    )
    parser.add_argument(
        "--storage",
        default="",
        help="URL of a storage that the nodes share, e.g. s3://bucket/folder, where they share no cache folder "
        f"(${STORAGE_VARIABLE})",
    )


def asked_engine(arguments: argparse.Namespace) -> Engine:
    """The engine that a command's options ask for; what they leave open, the environment says."""
    if arguments.engine == "local":
        return Engine("local", arguments.address, arguments.storage)
    address = arguments.address or os.environ.get(ADDRESS_VARIABLE, "")
    return Engine("ray", address, arguments.storage or os.environ.get(STORAGE_VARIABLE, ""))


def engine_of_job(device: str) -> tuple[Engine, str]:
    """The engine of a job, and the device that it asks of it: `ray:HOST:PORT` is a cluster, and all else is local."""
    name, _, address = device.partition(":")
    if name != "ray":
        return Engine(), device
    return Engine("ray", address, os.environ.get(STORAGE_VARIABLE, "")), "auto"


def devices_for_jobs() -> dict[str, str]:
    """What the app offers a sweep to run on, in words, by what a job is asked for. Only the host's own environment names a
    cluster: an address that a visitor types would have the server open connections for him."""
    offered = {"auto": "This machine"}
    if ray_is_installed():
        offered["ray"] = "This machine, as a Ray cluster"
        address = os.environ.get(ADDRESS_VARIABLE, "")
        if address:
            offered[f"ray:{address}"] = f"The Ray cluster at {address}"
    return offered


def open_pipeline(
    engine: Engine,
    device: str,
    reporter: Reporter,
    *,
    root: Path | None = None,
    store: Store | None = None,
    custom: Mapping[str, Any] | None = None,
    made: Callable[[str], None] = lambda _: None,
) -> Pipeline:
    """The pipeline of an engine.

    Args:
        engine: which.
        device: `auto`, `cpu`, `cuda`, ...; of this machine, or of the nodes.
        reporter: told of the progress.
        root: the cache folder; the default one if None.
        store: in its place, a store that is open already.
        custom: SAEs that are Python objects.
        made: told of every summary that a node has made; the local engine's store knows of its own.

    Raises:
        DarkMatterError: Ray is not installed, or there is no such device.
    """
    if engine.name == "local":
        from dmcore.run.commands.shared import device_named
        from dmcore.run.pipeline import Pipeline

        return Pipeline(store or Store(root), device_named(device), reporter, custom)
    from dmcore.run.cluster.connect import check_installed

    check_installed()
    from dmcore.run.cluster.engine import RayPipeline
    from dmcore.store.mirror import MirroredStore
    from dmcore.store.store import default_root

    if engine.storage:
        mirrored = MirroredStore(store.root if store is not None else root or default_root(), engine.storage)
        if store is not None:
            mirrored.waiting, mirrored.seen = store.waiting, store.seen
        store = mirrored
    return RayPipeline(store or Store(root), engine.address, device, reporter, custom, made)
