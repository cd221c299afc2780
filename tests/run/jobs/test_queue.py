"""The queue: one job for one question whoever asks, and states that no process can leave half said."""

from __future__ import annotations

import fcntl
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from dmcore.errors import DarkMatterError, SpecError, StoreError
from dmcore.progress import Progress
from dmcore.run.jobs.files import lane_lock, shorten, tail, tidy, worker_alive
from dmcore.run.jobs.job import SUDDEN_DEATHS, lane_of
from dmcore.run.jobs.queue import Queue, active_jobs
from dmcore.store.store import Draft, Store

ROOT = Path(__file__).parents[3]
OF_4 = ("note", "hangs", "owner", "beat")
"""Columns that came with version 4 of the table."""


def write_study(folder: Path, name: str = "tiny", *, extra: str = "") -> Path:
    """A study file whose model need not exist: the queue does not look."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(
        f'schema = 1\nname = "{name}"\ntitle = "The {name} study"\n[model]\npath = "m"\n[texts]\npath = "t"\n'
        f'[[saes]]\nhook = "blocks.0.hook_resid_post"\npath = "s"\n{extra}\n'
    )
    return path


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "cache")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path)


def test_twenty_sessions_asking_for_five_studies_at_once_share_five_jobs(tmp_path: Path, queue: Queue) -> None:
    paths = [write_study(tmp_path, f"study-{i}") for i in range(5)]
    script = """
import sys, threading
from pathlib import Path
from dmcore.run.jobs.queue import Queue
start = threading.Barrier(5)
def session():
    start.wait()
    for path in sys.argv[2:]:
        sys.stdout.write(Queue(Path(sys.argv[1])).submit("sweep", Path(path), "cpu").id + "\\n")
threads = [threading.Thread(target=session) for _ in range(5)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    command = [sys.executable, "-c", script, str(queue.root), *map(str, paths)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [line for process in processes for line in process.communicate()[0].split()]
    assert all(process.returncode == 0 for process in processes)
    assert len(answers) == 4 * 5 * 5
    assert len(set(answers)) == 5
    assert sorted(job.study for job in queue.jobs()) == [f"study-{i}" for i in range(5)]


def test_another_question_is_another_job(tmp_path: Path, queue: Queue, study: Path) -> None:
    first = queue.submit("sweep", study, "cpu")
    assert queue.submit("sweep", study, "cpu").id == first.id
    assert queue.submit("sweep", study, "cuda:1").id != first.id
    assert queue.submit("sweep", write_study(tmp_path / "elsewhere"), "cpu").id != first.id
    changed = write_study(tmp_path, extra="[settings]\nn_folds = 3")
    assert queue.submit("sweep", changed, "cpu").id != first.id


def test_a_job_that_has_ended_does_not_answer_for_a_new_one(queue: Queue, study: Path) -> None:
    first = queue.submit("sweep", study, "cpu")
    taken = queue.take("cpu")
    assert taken is not None
    assert queue.submit("sweep", study, "cpu").id == first.id
    assert queue.finish(taken, "done")
    assert queue.submit("sweep", study, "cpu").id != first.id


def test_jobs_are_taken_oldest_first_and_only_by_their_lane(tmp_path: Path, queue: Queue) -> None:
    jobs = [queue.submit("sweep", write_study(tmp_path, name), "cpu") for name in ("a", "b")]
    queue.submit("sweep", write_study(tmp_path, "c"), "cuda")
    assert [queue.take("cpu").id, queue.take("cpu").id] == [job.id for job in jobs]
    assert queue.take("cpu") is None
    assert queue.waits("cuda-0")
    assert [job.study for job in active_jobs(queue.jobs())] == ["a", "b", "c"]


def test_lanes_are_devices_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [lane_of(d) for d in ("auto", "cpu", "cuda", "cuda:0", "cuda:3")] == [
        "cpu",
        "cpu",
        "cuda-0",
        "cuda-0",
        "cuda-3",
    ]
    for device in ("../x", "cuda:", "cuda:1/..", "CPU", ""):
        with pytest.raises(DarkMatterError, match="not a device"):
            lane_of(device)


@pytest.mark.parametrize(
    "job_id", ["", "../../etc/passwd", "0123456789AB", "0123456789ab0", "<b>0123456789", "0123456789a\n"]
)
def test_ids_from_a_link_are_checked_before_anything_else(queue: Queue, job_id: str) -> None:
    for act in (queue.job, queue.cancel, queue.retry, queue.remove, queue.log_path):
        with pytest.raises(DarkMatterError, match="not the id of a job"):
            act(job_id)
    assert not queue.file.exists()
    with pytest.raises(DarkMatterError, match="no job 0123456789ab"):
        queue.job("0123456789ab")


def test_progress_and_the_end_are_written_only_by_the_attempt_that_runs(queue: Queue, study: Path) -> None:
    queue.submit("sweep", study, "cpu")
    first = queue.take("cpu")
    queue.report(
        first, Progress("encode a", 5, 10, "tokens", 2.5, 2.0), saes_done=1, saes_total=3, memory=7, stages_done=1
    )
    seen = queue.job(first.id)
    assert (seen.stage, seen.done, seen.total, seen.rate, seen.saes_done, seen.memory) == ("encode a", 5, 10, 2.5, 1, 7)
    assert [job.state for job in queue.recover("cpu")] == ["interrupted"]
    second = queue.take("cpu")
    assert (second.id, second.attempt) == (first.id, 2)
    queue.report(first, Progress("stale", 1, 1, "", 0, None))
    assert queue.job(first.id).stage == "start"
    assert queue.cancel_asked(first)
    assert not queue.cancel_asked(second)
    assert not queue.finish(first, "failed", "stale")
    assert queue.finish(second, "done")
    assert not queue.finish(second, "failed", "too late")
    assert queue.job(first.id).state == "done"


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked(queue: Queue, study: Path) -> None:
    job = queue.submit("sweep", study, "cpu")
    assert queue.cancel(job.id).state == "cancelled"
    assert queue.take("cpu") is None
    again = queue.retry(job.id)
    assert (again.id, again.state, again.attempt, again.cancel) == (job.id, "waiting", 2, False)
    taken = queue.take("cpu")
    assert queue.cancel(job.id).state == "running"
    assert queue.cancel_asked(taken)
    assert [j.state for j in queue.recover("cpu")] == ["cancelled"]


def test_retry_reads_the_study_again_and_joins_an_active_job(tmp_path: Path, queue: Queue, study: Path) -> None:
    job = queue.submit("sweep", study, "cpu")
    queue.cancel(job.id)
    write_study(tmp_path, extra="[settings]\nn_folds = 3")
    other = queue.submit("sweep", study, "cpu")
    assert queue.retry(job.id).id == other.id
    queue.cancel(other.id)
    assert queue.retry(job.id).spec_key == other.spec_key != job.spec_key
    study.unlink()
    queue.cancel(job.id)
    with pytest.raises(SpecError, match="Cannot read the study"):
        queue.retry(job.id)


def test_three_sudden_deaths_give_a_job_up_and_progress_pardons_them(queue: Queue, study: Path) -> None:
    job = queue.submit("sweep", study, "cpu")
    for attempt in range(SUDDEN_DEATHS - 1):
        assert queue.take("cpu").attempt == attempt + 1
        assert queue.recover("cpu")[0].state == "interrupted"
    pardoned = queue.take("cpu")
    queue.report(pardoned, None, stages_done=1)
    assert queue.recover("cpu")[0].sudden_deaths == 0
    for _ in range(SUDDEN_DEATHS):
        queue.take("cpu")
        queue.recover("cpu")
    given_up = queue.job(job.id)
    assert given_up.state == "failed"
    assert "died 3 times" in given_up.error
    assert queue.retry(job.id).sudden_deaths == 0


def test_only_a_job_that_has_ended_can_be_removed_and_its_log_goes_too(queue: Queue, study: Path) -> None:
    job = queue.submit("sweep", study, "cpu")
    queue.log_path(job.id).write_text("line\n")
    with pytest.raises(DarkMatterError, match="cancel it first"):
        queue.remove(job.id)
    queue.cancel(job.id)
    queue.remove(job.id)
    assert queue.jobs() == []
    assert not queue.log_path(job.id).exists()


def test_a_queue_that_is_no_database_is_moved_aside_and_begun_anew(
    queue: Queue, study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue.folder.mkdir(parents=True)
    queue.file.write_bytes(b"this is no database" * 1000)
    threads = [threading.Thread(target=queue.submit, args=("sweep", study, "cpu")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(queue.jobs()) == 1
    assert len(queue.damaged()) == 1
    assert "was damaged" in caplog.text
    assert "results are untouched" in caplog.text


def test_a_queue_that_cannot_be_written_is_one_sentence(tmp_path: Path, study: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="DMCORE_CACHE"):
        Queue(tmp_path / "cache").submit("sweep", study, "cpu")


def test_what_cannot_be_done_is_refused_before_it_is_queued(queue: Queue, study: Path, tmp_path: Path) -> None:
    with pytest.raises(DarkMatterError, match="trains no SAEs"):
        queue.submit("train-saes", study, "cpu")
    with pytest.raises(DarkMatterError, match="no such kind"):
        queue.submit("delete", study, "cpu")
    with pytest.raises(SpecError):
        queue.submit("sweep", tmp_path / "missing.toml", "cpu")
    assert queue.jobs() == []


def test_a_lanes_lock_says_whether_a_worker_lives(tmp_path: Path) -> None:
    assert not worker_alive(tmp_path, "cpu")
    with lane_lock(tmp_path, "cpu", "worker", 0) as mine:
        assert mine
        assert worker_alive(tmp_path, "cpu")
        assert not worker_alive(tmp_path, "cuda-0")
        with lane_lock(tmp_path, "cpu", "worker", 0) as theirs:
            assert not theirs
    assert not worker_alive(tmp_path, "cpu")


def test_a_log_is_shown_by_its_last_lines_without_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    assert tail(path) == []
    path.write_bytes(b"first\n" * 100 + b"10 %\r20 %\r30 %\r\n\x1b[31mred\x1b[0m \x07bell\n\n\xff\n")
    assert tail(path, 3) == ["30 %", "red bell", "\ufffd"]
    shorten(path, 100)
    assert path.stat().st_size < 200
    assert tail(path, 1) == ["\ufffd"]
    assert "dropped" in path.read_text(errors="replace")


def test_tidying_keeps_what_is_held_and_what_a_capture_can_go_on_from(tmp_path: Path) -> None:
    store = Store(tmp_path)
    capture, held, dead = (store.begin(stage, {"a": 1}) for stage in ("activations", "codes", "split"))
    for draft in (capture, held, dead):
        assert isinstance(draft, Draft)
        (draft.path / "file").write_text("x")
    capture.release()
    dead.release()
    (tmp_path / "partial" / "removed-index-0123-77").mkdir()
    gone = {path.name for path in tidy(tmp_path)}
    assert gone == {dead.path.name, "removed-index-0123-77"}
    assert capture.path.exists()
    assert held.path.exists()
    held.release()


@pytest.mark.parametrize(
    ("version", "lacked"), [(1, ("target", "asked_by", *OF_4)), (2, ("asked_by", *OF_4)), (3, OF_4)]
)
def test_a_queue_of_a_version_before_goes_on(version: int, lacked: tuple[str, ...], queue: Queue, study: Path) -> None:
    job = queue.submit("sweep", study, "cpu")
    with closing(sqlite3.connect(queue.file, isolation_level=None)) as db:
        for column in lacked:
            db.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        db.execute(f"PRAGMA user_version = {version}")
    assert queue.jobs() == [job]
    assert queue.submit("sweep", study, "cpu").id == job.id
    assert queue.take("cpu").id == job.id


def test_a_look_into_an_sae_is_a_job_of_that_sae(queue: Queue, study: Path) -> None:
    study.write_text(study.read_text().replace('path = "s"', 'path = "saes/s"'))
    first = queue.submit("inspect", study, "cpu", "saes/s")
    assert (first.target, first.kind) == ("saes/s", "inspect")
    assert queue.submit("inspect", study, "cpu", "s").id == first.id
    with pytest.raises(SpecError, match="no SAE called nothing"):
        queue.submit("inspect", study, "cpu", "nothing")
    assert queue.submit("sweep", study, "cpu").id != first.id
    taken = queue.take("cpu")
    queue.finish(taken, "failed", "why")
    assert queue.retry(first.id).target == "saes/s"


def test_who_asked_is_kept_and_the_one_who_retries_takes_it_over(queue: Queue, study: Path) -> None:
    first = queue.submit("sweep", study, "cpu", asked_by="a@lab.example")
    assert queue.submit("sweep", study, "cpu", asked_by="b@lab.example").asked_by == "a@lab.example"
    assert first.to_dict()["asked_by"] == "a@lab.example"
    queue.cancel(first.id)
    assert queue.retry(first.id, asked_by="b@lab.example").asked_by == "b@lab.example"


def test_an_interrupted_job_is_taken_in_its_turn_and_says_what_happened(tmp_path: Path, queue: Queue) -> None:
    first, second = (queue.submit("sweep", write_study(tmp_path, name), "cpu") for name in ("a", "b"))
    queue.take("cpu")
    lost = queue.recover("cpu")[0]
    assert (lost.id, lost.state, lost.attempt, lost.active) == (first.id, "interrupted", 2, True)
    assert lost.note == "Attempt 1 was interrupted: its worker died. The next worker goes on from what is finished."
    assert queue.waits("cpu")
    assert queue.submit("sweep", tmp_path / "a.toml", "cpu").id == first.id  # it answers for a new one
    again = queue.take("cpu")
    assert (again.id, again.state, again.note) == (first.id, "running", lost.note)
    assert queue.take("cpu").id == second.id
    queue.recover("cpu")
    assert queue.cancel(second.id).state == "cancelled"  # at once: nobody runs it
    assert queue.retry(second.id).note == ""


def test_a_job_that_a_worker_of_another_host_runs_is_left_alone_while_that_worker_speaks(
    queue: Queue, study: Path
) -> None:
    queue.submit("sweep", study, "cpu")
    job = queue.take("cpu")
    set_columns(queue, owner="'another-host:7'")
    assert queue.recover("cpu") == []
    queue.beat(job)
    assert queue.job(job.id).beat > job.beat
    set_columns(queue, beat="beat - 61", updated="updated - 61")
    assert [lost.state for lost in queue.recover("cpu")] == ["interrupted"]


def set_columns(queue: Queue, **values: str) -> None:
    """Write SQL expressions into the only job."""
    with closing(sqlite3.connect(queue.file, isolation_level=None)) as db:
        db.execute(f"UPDATE jobs SET {', '.join(f'{name} = {value}' for name, value in values.items())}")


def test_a_hung_job_is_given_back_once_and_only_by_who_runs_it(queue: Queue, study: Path) -> None:
    queue.submit("sweep", study, "cpu")
    first = queue.take("cpu")
    assert queue.interrupt(first, "it hung", first.hangs + 1)
    assert not queue.interrupt(first, "again", 9)
    second = queue.take("cpu")
    assert (second.hangs, second.note, second.attempt) == (1, "it hung", 2)
    queue.recover("cpu")
    assert queue.job(second.id).hangs == 1  # a worker's death does not pardon it
    queue.cancel(second.id)
    assert queue.retry(second.id).hangs == 0


def test_two_workers_of_one_cache_never_take_the_same_job(tmp_path: Path, queue: Queue) -> None:
    for i in range(12):
        queue.submit("sweep", write_study(tmp_path, f"study-{i}"), "cpu")
    script = """
import sys
from pathlib import Path
from dmcore.run.jobs.queue import Queue
queue = Queue(Path(sys.argv[1]))
while job := queue.take("cpu"):
    sys.stdout.write(job.id + "\\n")
"""
    command = [sys.executable, "-c", script, str(queue.root)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    taken = [line for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert sorted(taken) == sorted(job.id for job in queue.jobs())


def test_a_damaged_queue_that_another_process_is_mending_for_long_is_one_sentence(
    queue: Queue, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.submit("sweep", study, "cpu")
    queue.file.write_bytes(b"no database" * 1000)
    monkeypatch.setattr("dmcore.run.jobs.queue_file.BUSY_SECONDS", 0.05)
    with (queue.folder / "mend.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="is damaged and cannot be moved aside"):
            queue.jobs()
    assert queue.jobs() == []
