"""`doctor` and `health`: each check says what is, what to do, and never needs torch, a network or more than seconds."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from dmcore.run.cli import main
from dmcore.run.host import doctor, doctor_disk, doctor_host, doctor_network, facts, health
from dmcore.run.host.checks import Check, lines_of, worst
from dmcore.run.host.facts import Gpu, Memory
from dmcore.run.jobs.heartbeat import beat_path, first_beat, write_note
from dmcore.run.jobs.queue import Queue
from tests.run.jobs.test_queue import ROOT, set_columns, write_study

GIB = 2**30
GPU = Gpu("NVIDIA H100", "580.1", 80 * GIB, 4 * GIB, 0.5, 40.0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def states(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def test_a_sound_host_passes_and_nothing_is_left_behind(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    checks = [Check(**check) for check in said["checks"]]
    assert {check.name for check in checks if check.state == "fail"} == set()
    assert set(states(checks)) == {"python", "packages", "torch", "GPU memory", "memory", "disk", "cache", "shared disk",
                                   "clock", "worker", "hub", "port", "address"}  # fmt: skip
    assert all(check.said.endswith(".") and "\n" not in check.said + check.remedy for check in checks)
    assert all(check.remedy.endswith(".") for check in checks if check.state != "ok")
    assert list((cache / "jobs").iterdir()) == []


def test_doctor_needs_neither_torch_nor_the_network(tmp_path: Path) -> None:
    """In a process of its own, in which nothing heavy can be imported and no name can be looked up."""
    script = (
        "import sys, socket\n"
        "for name in ('torch', 'transformers', 'streamlit', 'sae_lens', 'transformer_lens'): sys.modules[name] = None\n"
        "def refuse(*a, **k): raise OSError(101, 'Network is unreachable')\n"
        "socket.getaddrinfo = refuse\n"
        "from dmcore.run.cli import main\nsys.exit(main(['doctor', '--json']) + 10 * main(['health', '--json']))\n"
    )
    environment = {**os.environ, "DMCORE_CACHE": str(tmp_path), "HF_TOKEN": "hf_averysecretone"}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    hub = next(one for one in json.JSONDecoder().raw_decode(done.stdout)[0]["checks"] if one["name"] == "hub")
    assert (hub["state"], "HF_TOKEN is set" in hub["said"]) == ("warn", True)
    assert "Network is unreachable" in hub["said"]
    assert "averysecret" not in done.stdout + done.stderr


def test_bad_usage_has_a_status_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["health", "--jsn"], ["doctor", "--json", "a.toml", "b.toml"], ["health", "x"]):
        assert main(words) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert main(["jobs", "--jsn"]) == 1


def test_what_a_study_takes_is_held_against_the_host(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dmcore.specs import load_study

    demo = load_study(ROOT / "dmcore" / "demo" / "artifacts" / "study.toml")
    assert states(doctor.examine(demo, cache))["study"] == "ok"
    monkeypatch.setattr(doctor_disk, "free_bytes", lambda folder: 1000)
    monkeypatch.setattr(facts, "memory", lambda: Memory(10**6, 10**6))
    found = {check.name: check for check in doctor.examine(demo, cache)}
    assert (found["disk"].state, found["memory"].state) == ("fail", "fail")
    assert "the study writes" in found["disk"].said
    assert "cache rm" in found["disk"].remedy


@pytest.mark.parametrize(("version", "state"), [((3, 10, 1), "fail"), ((3, 11, 0), "ok"), ((3, 14, 0), "fail")])
def test_python_is_one_of_those_that_were_tested(version: tuple[int, ...], state: str) -> None:
    assert doctor_host.python_check(version).state == state


def test_packages_are_compared_with_what_was_tested() -> None:
    pins, brought = {"torch": "2.13.0", "polars": "2.1.0"}, {"anyio": "4.0"}

    def check(**found: str | None) -> Check:
        return doctor_host.packages_check(pins, brought, found)

    assert check(torch="2.13.0", polars="2.1.0", anyio="4.0").state == "ok"
    assert check(torch="2.13.0", polars="2.1.0").state == "ok"  # a constraint is no wish
    missing = check(torch="2.13.0")
    assert (missing.state, "polars" in missing.said) == ("fail", True)
    assert "polars 2.0 (not 2.1.0)" in check(torch="2.13.0", polars="2.0").said
    assert check(torch="2.13.0", polars="2.1.0", anyio="3").state == "warn"
    assert doctor_host.packages_check({}, {}, {}).state == "warn"


def test_the_pins_that_are_read_are_those_of_the_files() -> None:
    pins = facts.pins("requirements.txt")
    assert pins["torch"] == "2.13.0"
    assert "huggingface-hub" in pins
    assert len(facts.pins("constraints.txt")) > 50
    assert facts.pins("no such file") == {}


@pytest.mark.parametrize(
    ("version", "cuda", "driver", "gpus", "state", "words"),
    [
        (None, None, None, [], "fail", "not installed"),
        ("2.13.0", None, None, [], "ok", "built for the CPU"),
        ("2.13.0", "13.0", (13, 1), [GPU], "ok", "which runs it"),
        ("2.13.0", "13.2", (13, 0), [GPU], "ok", "which runs it"),
        ("2.13.0", "13.0", (12, 8), [GPU], "fail", "which runs CUDA 12.8 at most"),
        ("2.13.0", "13.0", None, [GPU], "warn", "does not say"),
        ("2.13.0", None, (13, 0), [GPU], "warn", "is a CPU build"),
    ],
)
def test_torch_and_the_driver_match(
    version: str | None, cuda: str | None, driver: tuple[int, int] | None, gpus: list[Gpu], state: str, words: str
) -> None:
    check = doctor_host.torch_check(version, cuda, driver, gpus, device_file=bool(gpus))
    assert check.state == state
    assert words in check.said
    assert bool(check.remedy) == (state != "ok")


def test_a_gpu_whose_driver_is_silent_is_told() -> None:
    assert doctor_host.torch_check("2.13.0", "13.0", None, [], device_file=True).state == "warn"
    assert doctor_host.gpu_memory_check([GPU]).state == "ok"
    assert doctor_host.gpu_memory_check([GPU], 77 * GIB).state == "warn"
    assert doctor_host.gpu_memory_check([GPU], 90 * GIB).state == "fail"
    assert doctor_host.gpu_memory_check([replace(GPU, used=79 * GIB)]).state == "warn"
    assert doctor_host.memory_check(Memory(16 * GIB, 2 * GIB)).state == "warn"
    assert doctor_host.memory_check(Memory(16 * GIB, 8 * GIB), 12 * GIB).state == "warn"


def write_driver(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A program called nvidia-smi."""
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_driver_is_read_and_one_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "NVIDIA H100, 580.95, 81559, 1024, 37, 41\nNVIDIA L4, 580.95, 23034, 0, [N/A], [N/A]\nbroken, row"
    write_driver(
        tmp_path, monkeypatch, f"case $1 in --query*) printf '{rows}\\n';; *) echo '| CUDA Version: 13.0 |';; esac"
    )
    first, second = facts.gpus()
    assert (first.name, first.memory, first.busy, first.celsius) == ("NVIDIA H100", 81559 * 2**20, 0.37, 41.0)
    assert (second.busy, second.celsius) == (None, None)
    assert facts.driver_cuda() == (13, 0)
    write_driver(tmp_path, monkeypatch, "exec sleep 60")
    began = time.monotonic()
    assert facts.gpus(0.3) == []
    assert time.monotonic() - began < 30
    write_driver(tmp_path, monkeypatch, "exit 9")
    assert (facts.gpus(), facts.driver_cuda()) == ([], None)


def test_a_disk_that_does_not_lock_or_rename_fails(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)  # says yes to all, as some shared disks do
    check = next(check for check in doctor_disk.disk_checks(cache) if check.name == "cache")
    assert (check.state, "does not work: locks." in check.said) == ("fail", True)
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(22, "Invalid argument")))
    check = next(check for check in doctor_disk.disk_checks(cache) if check.name == "cache")
    assert "fsync, locks" in check.said
    assert list((cache / "jobs").iterdir()) == []


def test_a_shared_disk_and_its_clock_are_told(tmp_path: Path) -> None:
    assert doctor_disk.sharing_check(tmp_path, "nfs4", tmp_path).state == "warn"
    assert doctor_disk.sharing_check(tmp_path, "fuse.gcsfuse", tmp_path).state == "warn"
    assert doctor_disk.sharing_check(tmp_path, "ext4", tmp_path).state == "ok"
    ahead = doctor_disk.clock_check(tmp_path, lambda: time.time() + 100)
    assert (ahead.state, "100 s apart" in ahead.said or "99 s apart" in ahead.said) == ("warn", True)
    assert doctor_disk.clock_check(tmp_path).state == "ok"


def test_a_full_disk_is_a_finding(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    checks = doctor_disk.disk_checks(cache)
    assert "is full" in checks[-1].said
    assert checks[-1].state == "fail"


@pytest.fixture
def app_port() -> Iterator[int]:
    """A port on which something answers as the app does."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok" if self.path == "/_stcore/health" else b"")

        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_the_port_is_free_the_apps_or_anothers(app_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "The app answers" in doctor_network.port_check({"port": app_port}).said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert doctor_network.port_check({"port": taken.getsockname()[1]}).state == "warn"
        free = taken.getsockname()[1]
    assert "is free" in doctor_network.port_check({"port": free}).said
    assert doctor_network.port_check({"port": "x"}).state == "warn"
    monkeypatch.setenv("STREAMLIT_SERVER_ADDRESS", "0.0.0.0")
    assert doctor_network.address_check(doctor_network.server_settings()).state == "warn"
    for address in ("127.0.0.1", "localhost", "::1"):
        assert doctor_network.address_check({"address": address}).state == "ok"
    assert doctor_network.address_check({}).state == "warn"


def test_the_hub_answers_or_says_in_time_why_not(app_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{app_port}")
    assert doctor_network.hub_check().state == "ok"  # also where it answers that there is no such page
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc/passwd")
    assert "no http address" in doctor_network.hub_check().said
    monkeypatch.delenv("HF_ENDPOINT")
    monkeypatch.setattr(doctor_network, "_ask", lambda address, seconds: time.sleep(30) or "")
    assert "no answer in 0.1 s" in doctor_network._ask_in_time("https://host", 0.1)


def test_a_check_that_breaks_is_a_finding_and_does_not_end_the_others() -> None:
    def broken() -> Check:
        raise RuntimeError("a bug")

    (check,) = doctor._guarded("it", broken)
    assert (check.state, "RuntimeError: a bug" in check.said) == ("warn", True)
    assert worst([check, Check("a", "ok", "x")]) == "warn"
    assert worst([check, Check("a", "fail", "x")]) == "fail"
    assert lines_of([Check("a", "fail", "said", "do")]) == ["fail  a  said", "         -> do"]


# Health


def check_of(name: str, root: Path) -> Check:
    return next(check for check in health.look(root).checks() if check.name == name)


def test_health_of_an_empty_cache_is_well_and_writes_nothing(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["state"] == "ok"
    assert {"workers", "queue", "devices", "gpus", "memory", "disk", "versions", "checks"} <= set(said)
    assert said["queue"] == {"jobs": {}, "oldest_waiting_seconds": None, "failed_last_day": 0, "error": ""}
    assert not cache.exists()


def test_a_job_that_waits_without_a_worker_fails_after_a_while(cache: Path, tmp_path: Path) -> None:
    queue = Queue(cache)
    queue.submit("sweep", write_study(tmp_path), "cpu")
    assert check_of("worker", cache).state == "warn"  # the app may just be starting one
    set_columns(queue, created="created - 500")
    found = health.look(cache)
    assert states(found.checks()) | {"disk": "", "memory": ""} == {
        "worker": "fail", "hangs": "ok", "queue": "fail", "failures": "ok", "device": "ok", "memory": "", "disk": "",
        "cache": "ok",
    }  # fmt: skip
    assert 499 < found.to_dict()["queue"]["oldest_waiting_seconds"] < 600
    assert main(["health"]) == 1


def test_a_worker_that_says_nothing_fails_while_its_job_runs(cache: Path, tmp_path: Path) -> None:
    queue = Queue(cache)
    queue.submit("sweep", write_study(tmp_path), "cpu")
    job = queue.take("cpu")
    alive = replace(first_beat("cpu"), state="working", job=job.id)
    write_note(beat_path(cache, "cpu"), alive.__dict__)
    assert check_of("worker", cache).state == "ok"
    write_note(beat_path(cache, "cpu"), replace(alive, silent=500.0).__dict__)
    assert "no sign of life for 8 min 20 s; it is ended after 15 min 0 s" in check_of("worker", cache).said
    write_note(beat_path(cache, "cpu"), replace(alive, at=time.time() - 100).__dict__)
    assert (check_of("worker", cache).state, "has said nothing" in check_of("worker", cache).said) == ("fail", True)
    write_note(beat_path(cache, "cpu"), replace(alive, at=time.time() - 100, pid=2**22 + 1).__dict__)
    assert "is gone" in check_of("worker", cache).said
    assert doctor.worker_check(cache).state == "warn"
    queue.finish(job, "failed", "why")
    write_note(beat_path(cache, "cpu"), replace(alive, state="ended").__dict__)
    assert check_of("worker", cache).state == "ok"
    failures = check_of("failures", cache)
    assert (failures.state, failures.said) == ("warn", "1 job failed in the last day. The last: why")


def test_health_says_by_which_rule_hanging_jobs_are_ended(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_of("hangs", cache).said.startswith("Finding jobs that hang is on, after 15 min without a sign of life")
    monkeypatch.setenv("DMCORE_HANG_SECONDS", "0")
    assert "is off: a job that hangs holds its device" in check_of("hangs", cache).said
    # What a living worker was given counts, not what this process would give one.
    beat = replace(first_beat("cpu"), state="working", job="x", silent=70.0, hang_seconds=7200.0, hang_retries=0)
    write_note(beat_path(cache, "cpu"), beat.__dict__)
    said = check_of("hangs", cache).said
    assert "on, after 2 h without a sign of life" in said
    assert "and the job has failed" in said
    assert check_of("worker", cache).state == "ok"
    write_note(beat_path(cache, "cpu"), replace(beat, hang_seconds=100.0).__dict__)
    assert "it is ended after 1 min 40 s" in check_of("worker", cache).said
    other = replace(beat, lane="cuda-0", hang_seconds=0.0)
    write_note(beat_path(cache, "cuda-0"), other.__dict__)
    assert "cpu: on, after 1 min 40 s" in check_of("hangs", cache).said
    assert "cuda-0: off" in check_of("hangs", cache).said


@pytest.mark.parametrize("name", ["DMCORE_HANG_SECONDS", "DMCORE_HANG_RETRIES"])
def test_a_setting_with_which_no_worker_can_begin_is_one_sentence_everywhere(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    from dmcore.errors import DarkMatterError
    from dmcore.run.jobs import worker

    monkeypatch.setenv(name, "soon")
    check = check_of("hangs", cache)
    assert (check.state, f"{name} is no number of 0 or above." in check.said) == ("fail", True)
    assert check.remedy.startswith("Set it anew, or unset it for")
    assert main(["health"]) == 1
    assert main(["worker", "--once"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name} is no number of 0 or above" in line
    queue = Queue(cache)
    queue.submit("sweep", write_study(tmp_path), "cpu")
    with pytest.raises(DarkMatterError, match=name):  # and a page says it above the job, which would wait for ever
        worker.attend(queue)
    assert not list(queue.folder.glob("worker-*.log"))
    write_note(beat_path(cache, "cpu"), replace(first_beat("cpu"), hang_seconds=60.0, hang_retries=1).__dict__)
    assert check_of("hangs", cache).state == "warn", "the worker that is there works on"


def test_a_full_disk_and_a_queue_that_cannot_be_read_fail(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue(cache)
    queue.submit("sweep", write_study(tmp_path), "cpu")
    monkeypatch.setattr(health, "free_bytes", lambda folder: 2**20)
    assert check_of("disk", cache).state == "fail"
    monkeypatch.setattr(health, "free_bytes", lambda folder: None)
    assert "does not answer" in check_of("disk", cache).said
    with closing(sqlite3.connect(queue.file)) as db:
        db.execute("PRAGMA user_version = 99")
    assert "another version of dmcore" in check_of("queue", cache).said


def test_the_cache_is_counted_by_stage(cache: Path) -> None:
    from dmcore.store.store import Store

    store = Store(cache)
    store.get_or_make("codes", {"a": 1}, lambda folder: (folder / "x").write_bytes(b"1" * 3000))
    store.get_or_make("split", {"a": 1}, lambda folder: (folder / "x").write_bytes(b"1" * 10))
    draft = store.begin("codes", {"a": 2})
    (draft.path / "half").write_bytes(b"1" * 7)
    assert health.bytes_by_stage(cache) == {"codes": 3000, "split": 10, "unfinished": 7}
    draft.release()
    shutil.rmtree(cache)
    assert health.bytes_by_stage(cache) == {}
