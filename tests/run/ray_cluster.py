"""Two Ray nodes on this machine, for tests and benchmarks; one of them can be ended as a lost machine ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # 127.0.0.1 and no other address
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
    "RAY_memory_monitor_refresh_ms": "0",
    "OMP_NUM_THREADS": "1",
}
OBJECT_STORE = 200 * 2**20


@dataclass
class TwoNodes:
    """A cluster whose first node is the head."""

    cluster: Any
    second: Any

    @property
    def address(self) -> str:
        """Of the head."""
        return self.cluster.address

    def lose_second(self) -> None:
        """Kill the second node's processes."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None

    def add_second(self) -> None:
        """Start a second node."""
        self.second = self.cluster.add_node(**_node())


def _node() -> dict[str, Any]:
    return {"num_cpus": 1, "num_gpus": 0, "object_store_memory": OBJECT_STORE, "include_dashboard": False}


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Two nodes of one processor each."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    import ray
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    enabled = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray may have been imported before
    cluster = Cluster(initialize_head=True, head_node_args=_node())
    try:
        second = cluster.add_node(**_node())
        # One connection for all that is run: each new one would start new processes on the nodes.
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield TwoNodes(cluster, second)
    finally:
        ray.shutdown()
        cluster.shutdown()
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
