"""The worker: jobs end as they should whatever is killed, nothing finished is computed again, nothing stays behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmcore.run.cli import main
from dmcore.run.jobs.child import Watch, _guarded
from dmcore.run.jobs.files import lane_lock, tail, worker_alive
from dmcore.run.jobs.job import Job
from dmcore.run.jobs.queue import Queue
from dmcore.run.jobs.worker import attend, cancel, ensure_worker
from dmcore.specs import load_study
from dmcore.store.published import open_published
from dmcore.store.store import Store
from tests.builders import build_study
from tests.run.jobs.test_queue import write_study
from tests.run.jobs_seen import alive, children_of, finished, litter, results, run_worker_once, start_worker, wait_for


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def undisturbed(study_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Job]:
    """A cache in which the study was swept by a worker that nobody disturbed, and the job."""
    root = tmp_path_factory.mktemp("undisturbed")
    job = Queue(root).submit("sweep", study_path, "cpu")
    run_worker_once(root)
    return root, Queue(root).job(job.id)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker of an own cache that waits for jobs."""
    process = start_worker(tmp_path)
    wait_for(lambda: worker_alive(tmp_path, "cpu"))
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_worker_runs_a_job_to_its_end_and_says_how_it_was(undisturbed: tuple[Path, Job]) -> None:
    root, job = undisturbed
    assert (job.state, job.error, job.attempt) == ("done", "", 1)
    assert (job.saes_done, job.saes_total) == (15, 15)
    assert job.memory > 50 * 2**20
    assert job.started < job.updated <= job.ended
    assert "done" in tail(Queue(root).log_path(job.id))[-1]
    assert litter(root) == []
    assert not worker_alive(root, "cpu")


def test_the_results_of_a_job_are_those_of_the_command_line(
    undisturbed: tuple[Path, Job], study_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    assert main(["sweep", str(study_path), "--device", "cpu"]) == 0
    mine, theirs = results(tmp_path)["index"], results(undisturbed[0])["index"]
    assert [r["sae"] for r in mine] == [r["sae"] for r in theirs]
    assert [r["fvu_nonlinear"] for r in mine] == pytest.approx([r["fvu_nonlinear"] for r in theirs], rel=1e-4)


def test_a_worker_looks_into_an_sae(undisturbed: tuple[Path, Job], study_path: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    shutil.copytree(undisturbed[0], root)
    queue, sae = Queue(root), load_study(study_path).saes[0].name
    job = queue.submit("inspect", study_path, "cpu", sae)
    run_worker_once(root)
    ended = queue.job(job.id)
    assert (ended.state, ended.error, ended.target) == ("done", "", sae)
    published = open_published(load_study(study_path).name, Store(root))
    key = published.records.filter(sae=sae)["summary_key"][0]
    assert published.features(key).about["d_sae"] == published.records.filter(sae=sae)["d_sae"][0]
    assert published.structure(key) is not None
    assert published.detections(key)


def test_a_worker_reduces_the_error_of_an_sae_and_says_what_it_costs(
    undisturbed: tuple[Path, Job], study_path: Path, tmp_path: Path
) -> None:
    root = tmp_path / "cache"
    shutil.copytree(undisturbed[0], root)
    queue, study = Queue(root), load_study(study_path)
    sae = study.saes[0].name
    jobs = [queue.submit(kind, study_path, "cpu", sae) for kind in ("reduce", "downstream")]
    assert jobs[0].id != jobs[1].id
    run_worker_once(root)
    assert [(queue.job(job.id).state, queue.job(job.id).error) for job in jobs] == [("done", ""), ("done", "")]
    published = open_published(study.name, Store(root))
    key = published.records.filter(sae=sae)["summary_key"][0]
    reduction, downstream = published.reduction(key), published.downstream(key)
    assert reduction is not None and len(reduction["methods"]) > 5
    assert downstream is not None and downstream.variant("sae")["delta"] is not None


def test_killed_at_random_points_the_results_are_the_same_and_nothing_finished_is_made_again(
    undisturbed: tuple[Path, Job], study_path: Path, tmp_path: Path
) -> None:
    queue, chance = Queue(tmp_path), random.Random(4)
    job = queue.submit("sweep", study_path, "cpu")
    made: dict[str, tuple[str, int]] = {}
    for victim in ("worker", "child", "worker"):
        worker = start_worker(tmp_path, "--once")
        there = len(made)
        wait_for(lambda there=there: len(finished(tmp_path)) > there + 2)
        time.sleep(chance.uniform(0, 0.15))
        child = children_of(worker.pid)[0]
        if victim == "worker":
            worker.kill()
            worker.wait()
            wait_for(lambda child=child: not alive(child), 5)
            assert queue.job(job.id).state == "running"
        else:
            os.kill(child, signal.SIGKILL)
            worker.wait(30)
            failed = queue.job(job.id)
            assert failed.state == "failed"
            assert "memory ran out" in failed.error
            assert queue.retry(job.id).state == "waiting"
        worker.stdout.close()
        now = finished(tmp_path)
        assert made.items() <= now.items()
        made = now
    run_worker_once(tmp_path)
    ended = queue.job(job.id)
    assert (ended.state, ended.attempt) == ("done", 4)
    assert made.items() <= finished(tmp_path).items()
    assert results(tmp_path) == results(undisturbed[0])
    assert litter(tmp_path) == []


def test_a_running_job_is_cancelled_and_goes_on_later(
    undisturbed: tuple[Path, Job], study_path: Path, tmp_path: Path, worker: subprocess.Popen[str]
) -> None:
    queue = Queue(tmp_path)
    job = queue.submit("sweep", study_path, "cpu")
    assert queue.submit("sweep", study_path, "cpu").id == job.id
    wait_for(lambda: len(finished(tmp_path)) > 4)
    assert cancel(queue, job.id).id == job.id
    ended = wait_for(lambda: (seen := queue.job(job.id)).state == "cancelled" and seen, 10)
    assert ended.ended - ended.started < 60
    wait_for(lambda: not children_of(worker.pid), 10)
    made = finished(tmp_path)
    assert queue.retry(job.id).state == "waiting"
    wait_for(lambda: queue.job(job.id).state == "done")
    assert made.items() <= finished(tmp_path).items()
    assert results(tmp_path) == results(undisturbed[0])
    wait_for(lambda: litter(tmp_path) == [], 5)


def test_a_second_worker_of_a_device_ends_with_a_sentence(tmp_path: Path, worker: subprocess.Popen[str]) -> None:
    second = start_worker(tmp_path)
    said, _ = second.communicate(timeout=20)
    assert second.returncode == 0
    assert "Another worker owns cpu already" in said
    assert worker.poll() is None
    assert not ensure_worker(tmp_path, "cpu")


def test_a_job_of_a_dead_worker_is_seen_to_by_whoever_looks(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    job = queue.submit("sweep", write_study(tmp_path), "cpu")
    queue.take("cpu")
    assert cancel(queue, job.id).state == "cancelled"  # at once: there is nobody who could be asked
    queue.retry(job.id)
    queue.take("cpu")
    attend(queue)  # gives the job back and starts a worker, in whose hands it fails: there is no model
    ended = wait_for(lambda: (seen := queue.job(job.id)).state == "failed" and seen)
    assert ended.attempt == 3
    assert str(tmp_path) in ended.error  # names the folder that is missing
    worker = next(int(p.parent.name) for p in Path("/proc").glob("[0-9]*/environ") if is_worker_of(p, tmp_path))
    os.kill(worker, signal.SIGTERM)


def is_worker_of(environ: Path, root: Path) -> bool:
    try:
        ours = f"DMCORE_CACHE={root}".encode() in environ.read_bytes().split(b"\0")
        return ours and b"worker" in (environ.parent / "cmdline").read_bytes()
    except OSError:
        return False


def in_this_process(queue: Queue, study: Path, kind: str = "sweep") -> Job:
    """Run a job as the child does, without the child."""
    queue.submit(kind, study, "cpu")
    _guarded(queue, queue.take("cpu"))
    return queue.jobs()[0]


def test_a_study_that_was_edited_meanwhile_is_not_run(tmp_path: Path) -> None:
    queue, study = Queue(tmp_path / "cache"), write_study(tmp_path)
    queue.submit("sweep", study, "cpu")
    write_study(tmp_path, extra="[settings]\nn_folds = 3")
    _guarded(queue, queue.take("cpu"))
    job = queue.jobs()[0]
    assert job.state == "failed"
    assert job.error == "The study file has changed since this job was asked for: retry it to run the new one."


def test_a_missing_input_is_its_own_sentence(tmp_path: Path) -> None:
    job = in_this_process(Queue(tmp_path / "cache"), write_study(tmp_path))
    assert job.state == "failed"
    assert "\n" not in job.error
    assert str(tmp_path) in job.error
    assert "Traceback" not in job.error


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (OSError(28, "No space left on device"), "free space"),
        (OSError(5, "Input/output error"), "does not answer (Input/output error)"),
        (MemoryError(), "Memory ran out"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "Memory ran out"),
        (RuntimeError("a bug\nwith two lines"), "RuntimeError: a bug (see the log"),
    ],
)
def test_what_breaks_inside_a_job_is_a_sentence_in_the_queue(
    raised: Exception, sentence: str, study_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmcore.run import pipeline

    def broken(*_: Any) -> None:
        raise raised

    monkeypatch.setattr(pipeline, "load_model", broken)
    job = in_this_process(Queue(tmp_path), study_path)
    assert job.state == "failed"
    assert sentence in job.error
    assert "\n" not in job.error


def test_one_bad_sae_leaves_a_job_done_with_a_warning(study_path: Path, tmp_path: Path) -> None:
    folder = study_path.parent
    config = folder / "saes" / "blocks.1.hook_resid_post" / "topk"
    bad = folder / "saes" / "bad"
    bad.mkdir(exist_ok=True)
    for file in config.iterdir():
        (bad / file.name).write_bytes(file.read_bytes())
    cfg = json.loads((bad / "cfg.json").read_text())
    (bad / "cfg.json").write_text(json.dumps({**cfg, "d_in": 7}))
    mixed = folder / "mixed.toml"
    head = study_path.read_text().split("[[saes]]")[0].replace('"tiny"', '"mixed"')
    sae = '[[saes]]\nhook = "blocks.1.hook_resid_post"\npath = "saes/{}"\ncheck = false\n'
    mixed.write_text(head + sae.format("blocks.1.hook_resid_post/topk") + sae.format("bad"))
    job = in_this_process(Queue(tmp_path), mixed)
    assert job.state == "done"
    assert job.error.startswith("1 of 2 SAEs has no result (saes/bad). ")
    assert (job.saes_done, job.saes_total) == (1, 2)


def test_a_training_job_makes_the_saes_that_a_sweep_then_reads(tmp_path: Path) -> None:
    grid = (
        '[train]\nhooks = ["blocks.1.hook_resid_post"]\nwidths = [32]\nl0s = [4]\ntokens = 1000\nbatch_tokens = 128\n'
    )
    study = build_study(tmp_path / "study", architectures=(), extra=f'{grid}[train.texts]\npath = "other"')
    other = study.parent / "other"
    other.mkdir()
    tokens = np.random.default_rng(5).integers(3, 60, (200, 24)).astype(np.uint16)
    tokens[:, 0] = 1
    np.save(other / "tokens.npy", tokens)
    (other / "contexts.json").write_text(json.dumps({"n_contexts": 200}))
    queue = Queue(tmp_path / "cache")
    early = in_this_process(queue, study)
    assert early.state == "failed"
    assert "train-saes" in early.error
    trained = in_this_process(queue, study, "train-saes")
    assert (trained.state, trained.error) == ("done", "")
    assert (study.parent / "saes" / "blocks.1.hook_resid_post" / "topk_32_4" / "cfg.json").is_file()
    assert in_this_process(queue, study).state == "done"


def test_progress_reaches_the_queue_a_few_times_a_second_and_every_stage_once(tmp_path: Path) -> None:
    from dmcore.progress import Reporter

    queue = Queue(tmp_path / "cache")
    queue.submit("sweep", write_study(tmp_path), "cpu")
    job = queue.take("cpu")
    watch = Watch(queue, job, 3)
    written = []
    queue.report = lambda *a, **more: written.append((a[1].stage, a[1].done, more["stages_done"]))  # type: ignore[method-assign]
    reporter = Reporter(watch.sink, watch.should_cancel)
    for name in ("a", "b"):
        with reporter.stage(name, 1000, "tokens") as stage:
            for _ in range(1000):
                stage.advance()
    assert ("a", 0, 0) in written
    assert ("a", 1000, 1) in written
    assert ("b", 1000, 2) in written
    assert len(written) <= 6


def test_a_job_that_cannot_have_the_device_says_so(
    tmp_path: Path, study_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmcore.run.jobs import child

    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(child, "DEVICE_WAIT", 0.1)
    monkeypatch.setattr(child, "die_with", lambda parent: None)
    queue = Queue(tmp_path)
    job = queue.submit("sweep", study_path, "cpu")
    queue.take("cpu")
    with lane_lock(tmp_path, "cpu", "device", 0):
        assert child.run_job(job.id, os.getppid()) == 1
    assert "Another process holds the device" in queue.job(job.id).error


def test_the_command_line_submits_lists_shows_cancels_retries_and_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    study = str(write_study(tmp_path))

    def said(*arguments: str, status: int = 0) -> str:
        assert main(["jobs", *arguments]) == status
        return "".join(capsys.readouterr())

    assert "No jobs" in said("ls")
    job = json.loads(said("submit", study, "--no-worker", "--device", "cpu", "--json"))
    assert (job["state"], job["study"], job["kind"]) == ("waiting", "tiny", "sweep")
    assert json.loads(said("ls", "--json"))[0]["id"] == job["id"]
    assert "(no log yet)" in said("show", job["id"])
    assert "cancel it first" in said("rm", job["id"], status=1)
    assert "cancelled" in said("cancel", job["id"])
    assert said("watch", job["id"], status=1).rstrip().endswith("tiny")
    monkeypatch.setattr("dmcore.run.jobs.worker.attend", lambda queue: None)
    assert "waiting" in said("retry", job["id"])
    said("cancel", job["id"])
    assert "removed" in said("rm", job["id"])
    for arguments in (("show", "zz"), ("show", job["id"]), ("submit", str(tmp_path / "no.toml"))):
        error = said(*arguments, status=1)
        assert error.startswith("error: ")
        assert error.count("\n") == 1
