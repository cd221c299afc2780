"""Signs of life: a process that hangs is told from one that works, is ended, and its job goes on or says why not."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dmcore.errors import DarkMatterError, StoreError
from dmcore.places import HOME
from dmcore.run.cli import main
from dmcore.run.jobs import heartbeat, process, takeover
from dmcore.run.jobs import worker as worker_module
from dmcore.run.jobs.files import worker_alive
from dmcore.run.jobs.heartbeat import Heart, beat_path, first_beat, read_beat, read_beats
from dmcore.run.jobs.job import Job
from dmcore.run.jobs.liveness import HangPolicy, Signs, work_of
from dmcore.run.jobs.process import Lane, run_in_child
from dmcore.run.jobs.queue import Queue
from dmcore.run.jobs.worker import attend
from tests.run.jobs.test_queue import write_study
from tests.run.jobs_seen import alive, children_of, start_worker, wait_for

FOREVER = "import faulthandler, signal, time; faulthandler.register(signal.SIGUSR1, all_threads=True)\n{}\n"
SLEEPING, BUSY = FOREVER.format("time.sleep(1e6)"), FOREVER.format("while True: pass")


def lane_of_queue(queue: Queue, policy: HangPolicy) -> Lane:
    queue.folder.mkdir(parents=True, exist_ok=True)
    return Lane(queue, "cpu", Heart(queue.root, first_beat("cpu")), policy, lambda _: None)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    queue = Queue(tmp_path / "cache")
    queue.submit("sweep", write_study(tmp_path), "cpu")
    return queue


def run_script(queue: Queue, script: str, policy: HangPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the waiting job as a worker does, its process doing what the script says."""
    monkeypatch.setattr(process, "command_of", lambda job: [sys.executable, "-c", script])
    run_in_child(lane_of_queue(queue, policy), queue.take("cpu"))


def test_a_process_that_sleeps_for_ever_is_ended_begun_again_once_and_then_failed(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = HangPolicy(1.0, retries=1)
    run_script(queue, SLEEPING, policy, monkeypatch)
    job = queue.jobs()[0]
    assert (job.state, job.attempt, job.hangs, job.error) == ("interrupted", 2, 1, "")
    assert job.note == "Attempt 1 showed no sign of life for 1 s and was ended; the job goes on from what is finished."
    run_script(queue, SLEEPING, policy, monkeypatch)
    job = queue.jobs()[0]
    assert job.state == "failed"
    assert job.error.startswith(
        "Attempt 2 showed no sign of life for 1 s and was ended, as 1 before it: its log says where"
    )
    assert "DMCORE_HANG_SECONDS" in job.error
    assert 'File "<string>", line 2' in queue.log_path(job.id).read_text()  # where it hung
    assert (queue.retry(job.id).hangs, queue.job(job.id).note) == (0, "")


def test_without_retries_a_process_that_hangs_fails_its_job(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    run_script(queue, SLEEPING, HangPolicy(0.5, retries=0), monkeypatch)
    assert queue.jobs()[0].state == "failed"


def test_a_process_that_works_without_a_word_is_left_alone(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Timer(3.0, lambda: queue.cancel(queue.jobs()[0].id))
    waiting.start()
    run_script(queue, BUSY, HangPolicy(1.0), monkeypatch)
    job = queue.jobs()[0]
    assert (job.state, job.note) == ("cancelled", "")
    assert job.ended - job.started > 2.9


def fake_signs(used: list[tuple[float, int] | None], seconds: float = 10.0) -> tuple[Signs, list[float]]:
    """Signs of a process that has used what the list says, one look after the other, on a clock of one's own."""
    clock, uses = [0.0], iter(used)
    return Signs(1, HangPolicy(seconds), work=lambda _: next(uses), now=lambda: clock[0]), clock


@pytest.mark.parametrize(
    ("second", "silent"),
    [((5.02, 0), 0.0), ((5.0, 2**17), 0.0), ((5.001, 100), 1.0), ((5.0, 0), 1.0), (None, 1.0)],
    ids=["works", "writes", "its watchdog alone", "sleeps", "cannot be seen"],
)
def test_what_a_process_uses_is_a_sign_of_life(second: tuple[float, int] | None, silent: float) -> None:
    signs, clock = fake_signs([(5.0, 0), second])
    signs.look("a")
    clock[0] = 1.0
    assert signs.look("a") == silent


def test_what_a_process_says_is_a_sign_of_life_and_silence_adds_up_to_a_hang() -> None:
    signs, clock = fake_signs([(5.0, 0)] * 40)
    for second in range(1, 6):
        clock[0] = second
        signs.look("same")
    assert (signs.silent, signs.hung) == (5.0, False)
    signs.look("other")
    assert signs.silent == 0.0
    for second in range(6, 16):
        clock[0] = second
        signs.look("other")
    assert (signs.silent, signs.hung) == (10.0, True)


def test_the_absence_of_the_watcher_is_not_taken_for_the_others() -> None:
    signs, clock = fake_signs([(5.0, 0)] * 3)
    clock[0] = 3600.0  # the host was asleep
    assert signs.look(None) == 2.0
    assert not signs.hung


def test_a_limit_of_zero_never_ends_anything() -> None:
    signs, clock = fake_signs([(5.0, 0)] * 3, seconds=0.0)
    clock[0] = 1e9
    signs.look(None)
    assert not signs.hung


def test_the_work_of_a_process_counts_those_that_it_has_started() -> None:
    busy = "while sum(range(10**6)): pass"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_for(lambda: children_of(parent.pid))
        before = work_of(parent.pid)[0]
        wait_for(lambda: work_of(parent.pid)[0] > before + 0.2)
    finally:
        for child in children_of(parent.pid):
            os.kill(child, signal.SIGKILL)
        parent.wait()
    assert work_of(parent.pid) is None


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_setting_that_is_no_number_is_one_sentence(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMCORE_HANG_SECONDS", text)
    with pytest.raises(DarkMatterError, match="DMCORE_HANG_SECONDS is no number of 0 or above"):
        HangPolicy.of_environment()
    monkeypatch.setenv("DMCORE_HANG_SECONDS", "20")
    monkeypatch.setenv("DMCORE_HANG_RETRIES", "3")
    assert HangPolicy.of_environment() == HangPolicy(20.0, 3)


def test_a_worker_says_that_it_lives_and_that_it_has_ended(tmp_path: Path) -> None:
    worker = start_worker(tmp_path, "--hang-seconds", "77", "--hang-retries", "2")
    try:
        beat = wait_for(lambda: read_beats(tmp_path).get("cpu"))
        assert (beat.state, beat.pid, beat.here, beat.lives) == ("idle", worker.pid, True, True)
        assert (beat.hang_seconds, beat.hang_retries) == (77.0, 2)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 143
        assert read_beats(tmp_path)["cpu"].state == "ended"
        assert not worker_alive(tmp_path, "cpu")
    finally:
        worker.kill()
        worker.stdout.close()


def sleeping_worker(root: Path, **environment: str) -> subprocess.Popen[str]:
    """A worker whose jobs sleep for ever."""
    script = (
        "import sys, dmcore.run.jobs.process as p, dmcore.run.jobs.heartbeat as h\n"
        f"h.BEAT_SECONDS = 0.2\np.command_of = lambda job: [sys.executable, '-c', {SLEEPING!r}, 'dmcore', 'worker']\n"
        "from dmcore.run.cli import main\nsys.exit(main(['worker', '--device', 'cpu']))\n"
    )
    variables = {**os.environ, "DMCORE_CACHE": str(root), **environment}
    command = [sys.executable, "-c", script, "-m", "dmcore", "worker"]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True, cwd=HOME)


def end(worker: subprocess.Popen[str]) -> None:
    for child in children_of(worker.pid):
        os.kill(child, signal.SIGKILL)
    worker.kill()
    worker.wait()
    worker.stdout.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_ended_leaves_its_job_interrupted_for_the_next(queue: Queue, how: signal.Signals) -> None:
    first = sleeping_worker(queue.root)
    try:
        job = wait_for(lambda: next((job for job in queue.jobs() if job.state == "running"), None))
        children = wait_for(lambda: children_of(first.pid))
        first.send_signal(how)
        first.wait(20)
        if how == signal.SIGTERM:
            wait_for(lambda: not any(alive(child) for child in children), 10)
            stopped = queue.job(job.id)
            assert (stopped.state, stopped.sudden_deaths) == ("interrupted", 0)
            assert "its worker was stopped" in stopped.note
        for child in children:
            if alive(child):
                os.kill(child, signal.SIGKILL)  # a real one ends with its parent; this one only sleeps
        second = sleeping_worker(queue.root)
        try:
            again = wait_for(lambda: (now := queue.job(job.id)).attempt == 2 and now.state == "running" and now)
            assert again.owner.endswith(f":{second.pid}")
            assert again.note.startswith("Attempt 1 was interrupted: its worker")
        finally:
            end(second)
    finally:
        end(first)


def test_a_worker_that_is_stopped_is_ended_by_who_looks_and_its_job_goes_on(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMCORE_STUCK_SECONDS", "1.5")
    started: list[str] = []
    monkeypatch.setattr("dmcore.run.jobs.worker.ensure_worker", lambda root, device: started.append(device))
    worker = sleeping_worker(queue.root)
    try:
        job = wait_for(lambda: next((job for job in queue.jobs() if job.state == "running"), None))
        wait_for(lambda: read_beats(queue.root)["cpu"].job == job.id)
        attend(queue)
        assert queue.job(job.id).state == "running"
        children = wait_for(lambda: children_of(worker.pid))
        worker.send_signal(signal.SIGSTOP)
        wait_for(lambda: (attend(queue), queue.job(job.id).state == "interrupted")[1], 30)
        assert worker.wait(10) == -signal.SIGKILL
        assert started == ["cpu"]
    finally:
        for child in children:
            if alive(child):
                os.kill(child, signal.SIGKILL)
        end(worker)


def test_a_second_worker_takes_the_place_of_one_that_is_stopped(queue: Queue) -> None:
    first = sleeping_worker(queue.root)
    second = None
    try:
        job = wait_for(lambda: next((job for job in queue.jobs() if job.state == "running"), None))
        children = wait_for(lambda: children_of(first.pid))
        first.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        second = sleeping_worker(queue.root, DMCORE_STUCK_SECONDS="1")
        again = wait_for(lambda: (now := queue.job(job.id)).attempt == 2 and now.state == "running" and now)
        assert again.owner.endswith(f":{second.pid}")
        assert first.wait(10) == -signal.SIGKILL
    finally:
        for child in children:
            if alive(child):
                os.kill(child, signal.SIGKILL)
        for worker in filter(None, (first, second)):
            end(worker)


def test_nothing_but_a_worker_of_this_host_is_ended_for_an_old_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMCORE_STUCK_SECONDS", "0.1")
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1e6)"])
    try:
        old = replace(first_beat("cpu"), pid=bystander.pid, born=heartbeat.born(bystander.pid), at=time.time() - 100)
        for beat in (old, replace(old, host="another-host"), replace(old, born="1"), replace(old, state="ended")):
            heartbeat.write_note(beat_path(tmp_path, "cpu"), beat.__dict__)
            for _ in range(3):
                assert takeover.end_stuck(tmp_path, "cpu") is None
                time.sleep(0.06)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"lane": "cpu"}', "\x00", json.dumps({**first_beat("gpu").__dict__}), "[" * 10_000]
)
def test_a_beat_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    path = beat_path(tmp_path, "cpu")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert read_beat(path) is None
    assert read_beats(tmp_path) == {}


def test_a_beat_of_an_older_version_is_read_and_says_nothing_of_hangs(tmp_path: Path) -> None:
    said = first_beat("cpu").__dict__.copy()
    del said["hang_seconds"], said["hang_retries"]
    heartbeat.write_note(beat_path(tmp_path, "cpu"), said)
    assert read_beats(tmp_path)["cpu"].hang_seconds is None


def test_a_disk_that_is_full_does_not_stop_the_heart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    heart = Heart(tmp_path, first_beat("cpu"))
    monkeypatch.setattr(heartbeat, "write_note", full)
    assert all(heart.beat(force=True) for _ in range(3))
    assert caplog.text.count("No space left on device") == 1


def test_systemd_is_told_that_the_worker_is_ready_and_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(address))
        listening.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
        assert main(["worker", "--device", "cpu", "--once"]) == 0
        said = listening.recv(1000) + b"\n" + listening.recv(1000)
    assert b"WATCHDOG=1" in said
    assert b"READY=1" in said
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not heartbeat.notify("READY=1")


@pytest.mark.parametrize("asked", [SystemExit, KeyboardInterrupt])
def test_a_worker_that_is_asked_to_stop_stops_though_the_queue_cannot_be_written(
    queue: Queue, asked: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    full, said, children = StoreError("The disk is full: free space and run again."), list[str](), list[Any]()
    own = replace(lane_of_queue(queue, HangPolicy()), say=said.append)

    def refuse(*_: object) -> None:
        raise full

    def stop(own: Lane, job: Job, child: Any, path: Path) -> str:
        children.append(child)
        raise asked

    monkeypatch.setattr(process, "command_of", lambda job: [sys.executable, "-c", SLEEPING])
    monkeypatch.setattr(process, "_watch", stop)
    monkeypatch.setattr(queue, "interrupt", refuse)
    with pytest.raises(asked):
        worker_module._work(own, 0.0)
    assert str(full) in said and children[0].poll() is not None


def test_a_queue_that_cannot_be_written_for_a_moment_ends_no_worker_and_loses_no_job(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, said, ran = StoreError("The disk is full: free space and run again."), list[str](), list[int]()
    own = replace(lane_of_queue(queue, HangPolicy()), say=said.append)
    recover = queue.recover

    def cannot(lane: str) -> list[object]:
        monkeypatch.setattr(queue, "recover", recover)
        raise full

    def run(own: Lane, job: Job) -> None:
        ran.append(job.attempt)
        if len(ran) == 1:
            raise full  # its process has ended, and that could not be written
        queue.finish(job, "done")

    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.0)
    monkeypatch.setattr(queue, "recover", cannot)
    monkeypatch.setattr(worker_module, "run_in_child", run)
    worker_module._work(own, 0.0)
    assert ran == [1, 2]
    assert said.count(str(full)) == 2
    assert queue.jobs()[0].state == "done"
