"""What tests and benchmarks of the worker look at: processes, results, times of making, rubbish."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from dmcore.store.store import Entry, Store

ROOT = Path(__file__).parents[2]


def start_worker(root: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "DMCORE_CACHE": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dmcore", "worker", "--device", "cpu", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def run_worker_once(root: Path) -> str:
    worker = start_worker(root, "--once")
    said, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0
    return said


def wait_for(truth: Callable[[], Any], seconds: float = 60) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = truth()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def results(root: Path) -> dict[str, Any]:
    """Every table and record of every summary, and the index, without times."""
    found: dict[str, Any] = {}
    for path in sorted((root / "summary").rglob("*.parquet")):
        found[str(path.relative_to(root))] = path.read_bytes()
    for path in sorted((root / "summary").rglob("*.json")):
        if path.name != "manifest.json":
            record = json.loads(path.read_text())
            found[str(path.relative_to(root))] = {k: v for k, v in record.items() if k != "computed"}
    for path in sorted((root / "index").rglob("records.parquet")):
        found["index"] = pl.read_parquet(path).drop("computed").to_dicts()
    return found


def finished(root: Path) -> dict[str, tuple[str, int]]:
    """When each result was made, but for the index, which is written anew."""
    return {
        f"{e.manifest.stage}/{e.key}": (e.manifest.created, (e.path / "manifest.json").stat().st_mtime_ns)
        for e in Store(root).entries()
        if isinstance(e, Entry) and e.manifest.stage != "index"
    }


def litter(root: Path) -> list[Path]:
    return [*(root / "partial").glob("*"), *root.rglob("*.tmp")]


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def workers_of(root: Path) -> list[int]:
    """Workers whose cache this is; found by their environment, so that no other's is touched."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"DMCORE_CACHE={root}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if ours and b"\0worker\0" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def end_workers(root: Path) -> None:
    """End the workers that a test's app has started."""
    for pid in workers_of(root):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not workers_of(root))
