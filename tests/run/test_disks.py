"""A disk that is full, or can only be read: one sentence, nothing half-written counts, and the same command goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmcore.errors import Cancelled, StoreError
from dmcore.run.jobs.files import lane_lock, worker_alive
from dmcore.run.jobs.queue import Queue
from dmcore.run.jobs.worker import release_orphans
from dmcore.store import disk
from dmcore.store.store import Store
from tests.builders import build_study
from tests.run.jobs.test_queue import ROOT, write_study
from tests.run.jobs_seen import finished, litter


def run(cache: Path, *words: str, most_bytes: int = 0) -> subprocess.CompletedProcess[str]:
    """A command, on a cache; `most_bytes`: the largest file that it may write."""

    environment = {**os.environ, "DMCORE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dmcore", *words]
    if most_bytes:  # by a shell: between fork and exec nothing may be called in a process that has threads
        command = ["bash", "-c", f'ulimit -f {most_bytes // 1024} && exec "$@"', "bash", *command]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a disk: run the tests as root to see a disk that is really full")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_sweep_on_a_disk_that_fills_up_says_so_and_goes_on_when_there_is_space(
    tmp_path: Path, small_disk: Path
) -> None:
    study = build_study(tmp_path / "study", architectures=("topk",))
    full = run(small_disk, "sweep", str(study), "--device", "cpu")
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    assert "is full (" in full.stderr
    assert "python -m dmcore cache" in full.stderr
    before = finished(small_disk)
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    again = run(small_disk, "sweep", str(study), "--device", "cpu")
    assert again.returncode == 0, again.stderr
    assert before.items() <= finished(small_disk).items()  # nothing finished was made again
    assert litter(small_disk) == []
    assert "0 damaged" in run(small_disk, "cache", "verify").stdout


def test_a_limit_of_file_size_is_a_sentence(tmp_path: Path) -> None:
    study = build_study(tmp_path / "study", architectures=("topk",))
    done = run(tmp_path / "cache", "sweep", str(study), "--device", "cpu", most_bytes=8 * 1024)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "`ulimit -f`" in done.stderr


def test_the_queue_on_a_full_disk_is_a_sentence(tmp_path: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * 150_000)
    queue = Queue(small_disk)
    with pytest.raises(StoreError, match=r"is full \(.* are free\): free space .* and run again"):
        for i in range(100):
            queue.submit("sweep", write_study(tmp_path, f"study-{i}"), "cpu")
    (small_disk / "ballast").unlink()
    there = len(queue.jobs())
    queue.submit("sweep", write_study(tmp_path, "after"), "cpu")
    assert len(queue.jobs()) == there + 1


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A cache with a job that was running, which nobody may write."""
    root = tmp_path / "cache"
    queue = Queue(root)
    queue.submit("sweep", write_study(tmp_path), "cpu")
    queue.take("cpu")
    Store(root).get_or_make("codes", {"a": 1}, lambda folder: (folder / "x").write_bytes(b"1"))
    as_root = os.geteuid() == 0
    if as_root:
        mounted = subprocess.run(["mount", "--bind", root, root], capture_output=True).returncode == 0
        if not mounted or subprocess.run(["mount", "-o", "remount,bind,ro", root], capture_output=True).returncode:
            pytest.skip("nothing is read-only to root where it may not mount")
    else:
        for path in (root, *root.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield root
    finally:
        if as_root:
            subprocess.run(["umount", "-l", root], check=True)
        else:
            for path in (root, *root.rglob("*")):
                path.chmod(0o755)


def test_a_cache_that_can_only_be_read_is_read(read_only: Path, tmp_path: Path) -> None:
    queue = Queue(read_only)
    (job,) = queue.jobs()
    assert job.state == "running"
    assert not worker_alive(read_only, "cpu")
    release_orphans(queue, "cpu")
    assert queue.job(job.id).state == "running"
    for write in (lambda: queue.cancel(job.id), lambda: queue.submit("sweep", write_study(tmp_path, "b"), "cpu")):
        with pytest.raises(StoreError, match="cannot be written: set DMCORE_CACHE"):
            write()
    with pytest.raises(StoreError, match="cannot be written"), lane_lock(read_only, "cpu", "worker", 0):
        pass
    assert Store(read_only).find("codes", next((read_only / "codes").iterdir()).name) is not None
    with pytest.raises(StoreError, match="cannot be written"):
        Store(read_only).get_or_make("codes", {"a": 2}, lambda folder: None)
    for words in (("jobs", "ls"), ("health",), ("cache", "ls")):
        done = run(read_only, *words)
        assert "Traceback" not in done.stderr
        assert done.stdout


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "is full ("),
        (OSError(122, "Disk quota exceeded"), "quota"),
        (OSError(27, "File too large"), "ulimit -f"),
        (
            RuntimeError('Error while serializing: IoError(Os { code: 28, message: "No space left on device" })'),
            "is full (",
        ),
        (OSError(30, "Read-only file system"), "cannot be written"),
        (OSError(116, "Stale file handle"), "does not answer (Stale file handle)"),
    ],
)
def test_what_a_disk_refuses_is_one_sentence_whoever_wrapped_it(error: Exception, words: str, tmp_path: Path) -> None:
    said = disk.disk_words(error, tmp_path, needed=3 * 2**30)
    assert words in said
    assert said.endswith(".")
    if disk.is_full(error):
        assert "3.0 GiB are needed" in said

    def refused(folder: Path) -> None:
        raise ValueError("wrapped") from error

    if disk.is_full(error):
        with pytest.raises(StoreError, match="free space"):
            Store(tmp_path).get_or_make("codes", {"a": 1}, refused)
    assert disk.disk_words(ValueError("a bug"), tmp_path) is None


def test_who_waits_for_another_process_can_be_stopped(tmp_path: Path) -> None:
    draft = Store(tmp_path).begin("codes", {"a": 1})
    asked: list[int] = []
    waiting = Store(tmp_path)
    waiting.waiting = lambda: asked.append(1) or len(asked) > 2
    stopped = threading.Event()

    def wait() -> None:
        with pytest.raises(Cancelled):
            waiting.begin("codes", {"a": 1})
        stopped.set()

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(30)
    assert stopped.is_set()
    draft.release()
