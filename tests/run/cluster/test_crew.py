"""Pieces of work that fail: each alone, with one sentence; and processes that are given another GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ray = pytest.importorskip("ray")

from dmcore.errors import Cancelled, StoreError  # noqa: E402
from dmcore.progress import Reporter  # noqa: E402
from dmcore.run.cluster import connect, tasks, weights  # noqa: E402
from dmcore.run.cluster.board import Teller  # noqa: E402
from dmcore.run.cluster.crew import TRIES, Crew, Piece  # noqa: E402
from dmcore.run.cluster.node_cache import sweep_caches  # noqa: E402
from dmcore.run.cluster.tasks import Answer  # noqa: E402
from dmcore.run.cluster.work import Work  # noqa: E402
from dmcore.store.store import Store  # noqa: E402

OOM = "RAY_task_oom_retries"


class FakeRay:
    """Tasks that have ended already: a reference is what it came to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ray, "wait", lambda refs, **_: (refs[:1], refs[1:]))
        monkeypatch.setattr(ray, "get", self.get)
        monkeypatch.setattr(ray, "cancel", lambda *_, **__: None)

    def get(self, ref: Any) -> Any:
        found = ref()
        if isinstance(found, Exception):
            raise found
        return found


def crew_of(monkeypatch: pytest.MonkeyPatch) -> Crew:
    FakeRay(monkeypatch)
    cluster = SimpleNamespace(n_slots=1, names={}, newly_lost=list, can_work=lambda: True)
    board = SimpleNamespace(notes=SimpleNamespace(remote=lambda: dict), stop=SimpleNamespace(remote=lambda: None))
    return Crew(cluster, board, Reporter())


def pieces(**ends: Any) -> list[Piece]:
    return [Piece(name, lambda end=end: [lambda: end], subject=name) for name, end in ends.items()]


def task_error(cause: Exception) -> Exception:
    return ray.exceptions.RayTaskError("perform", "Traceback", cause).as_instanceof_cause()


def test_a_piece_that_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    hungry = ray.exceptions.OutOfMemoryError("killed")
    unreadable = Piece("unreadable", lambda: (_ for _ in ()).throw(FileNotFoundError(2, "No such file")))
    wanted = pieces(
        good=Answer(1), broken=task_error(ValueError("no such thing\nmore")), hungry=hungry, after=task_error(hungry)
    )
    gone = Piece("gone", lambda: [weights.read_files(Path("/nowhere/sae"))])
    wanted += [unreadable, gone]
    said = {piece.name: answer for piece, answer in crew_of(monkeypatch).run(wanted, "work", "tasks")}
    assert said["good"] == Answer(1)
    assert said["broken"].failure.startswith("ValueError on a node, in broken: no such thing (see the log")
    assert "Memory ran out on a node again and again in hungry" in said["hungry"].failure
    assert "Memory ran out on a node again and again in after" in said["after"].failure
    assert "unreadable needs cannot be read (No such file): see that its files are there" in said["unreadable"].failure
    assert said["gone"].failure.startswith("There is no SAE at /nowhere/sae (no such folder)")
    assert all("\n" not in answer.failure for answer in said.values())


def test_a_piece_that_is_lost_again_and_again_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = pieces(lost=ray.exceptions.WorkerCrashedError(), good=Answer(1))
    said = {piece.name: answer for piece, answer in crew_of(monkeypatch).run(wanted, "work", "tasks")}
    assert said["good"].good
    assert f"The cluster has lost lost {TRIES} times" in said["lost"].failure
    assert wanted[0].tries == TRIES


def test_a_storage_that_is_gone_still_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Piece("bad", lambda: (_ for _ in ()).throw(StoreError("the disk is gone")))
    with pytest.raises(StoreError, match="the disk is gone"):
        list(crew_of(monkeypatch).run([refused], "work", "tasks"))
    with pytest.raises(StoreError, match="the disk is gone"):
        list(crew_of(monkeypatch).run(pieces(bad=Answer(broken="the disk is gone")), "work", "tasks"))


def test_a_board_that_was_ended_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = ray.exceptions.ActorDiedError()
    one = crew_of(monkeypatch)
    one.board.notes = SimpleNamespace(remote=lambda: lambda: dead)
    said = one.run(pieces(a=Answer(1), b=Answer(2)), "work", "tasks")
    assert sorted(answer.value for _, answer in said) == [1, 2]
    answers = Teller(SimpleNamespace(tell=SimpleNamespace(remote=lambda *_: lambda: dead)), "t", "n", tasks._heard)
    assert [answers.should_cancel() for _ in range(3)] == [False] * 3


def test_a_site_that_cannot_be_joined_costs_its_own_saes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    saes = [SimpleNamespace(sae=SimpleNamespace(name=name, hook=name[0])) for name in ("a1", "a2", "b1")]

    def simple(given: list[Piece], stage: str, failures: dict[str, str], unit: str = "") -> dict[str, Any]:
        if stage == "join the activations":
            failures["a"] = "the disk of a node is full"
        return {"": {}}

    work = Work.__new__(Work)
    work.plan = SimpleNamespace(
        sites={name: {"n": name} for name in ("a", "b", "loss")}, contexts=SimpleNamespace(n_contexts=4, length=2)
    )
    work.cut = SimpleNamespace(for_model=lambda *_: [])
    monkeypatch.setattr(work, "_has", lambda *_: False)
    monkeypatch.setattr(work, "simple", simple)
    failures: dict[str, str] = {}
    assert [p.sae.name for p in work.captured(saes, failures)] == ["b1"]
    assert failures == dict.fromkeys(("a1", "a2"), "the disk of a node is full")


def test_ray_is_told_not_to_run_without_end_what_memory_is_too_little_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str | None] = []
    for name in connect._QUIET:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "init", lambda **_: found.append(os.environ.get(OOM)))
    monkeypatch.setattr(connect, "fit_nodes", lambda *_: "fit")
    more: dict[str, Any] = {"device": "cpu", "root": None, "url": "", "folders": [], "model": None}
    with connect.connected("", **more) as cluster:
        assert cluster == "fit"
    monkeypatch.setenv(OOM, "7")
    with connect.connected("", **more):
        pass
    assert found == ["2", "7"]


def test_a_process_that_is_given_another_gpu_than_it_uses_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(tasks, "_begun", {})
    assert not tasks.is_elsewhere([1]), "CUDA has not begun"
    tasks._note_gpus([1])
    assert not tasks.is_elsewhere([0]), "a step that uses no GPU binds the process to none"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    tasks._note_gpus([1])
    tasks._note_gpus([0])
    assert [tasks.is_elsewhere(gpus) for gpus in ([1], [0], [])] == [False, True, False]
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [0])
    with pytest.raises(SystemExit):
        tasks.perform(SimpleNamespace(board=None), "task", "width", (), None)


def test_a_process_that_comes_to_another_sweep_lets_go_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(weights.ROOT_VARIABLE, str(tmp_path / "node"))
    monkeypatch.setattr(tasks, "_open", {})
    place = tasks.Place(str(tmp_path), f"file://{tmp_path}/shared")
    teller = SimpleNamespace(reporter=Reporter, should_cancel=lambda: False)
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    for session in ("one", "two"):
        assignment = SimpleNamespace(session=session, place=place, plan=None, custom={})
        with pytest.raises(AttributeError):
            tasks._step(assignment, teller, "no such step", (), None, ())
    assert [path.name for path in sorted((tmp_path / "node").iterdir())] == ["cache-two", "cache-two.use"]
    tasks._leave_session()
    assert sweep_caches() == [tmp_path / "node" / "cache-two"]


def test_a_cancel_that_is_heard_when_the_cluster_is_reached_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    @contextmanager
    def reached(*_: Any, **__: Any) -> Iterator[str]:
        seen.append("reached")
        yield "a cluster"
        seen.append("left")

    monkeypatch.setattr("dmcore.run.cluster.work.connected", reached)
    study = SimpleNamespace(model=SimpleNamespace(path=""))
    plan: Any = SimpleNamespace(study=study, saes=[])
    more: dict[str, Any] = {"address": "", "device": "cpu", "custom": {}, "cut": None}
    with pytest.raises(Cancelled):
        Work(plan, Store(Path("unused")), Reporter(should_cancel=lambda: bool(seen)), **more)
    assert seen == ["reached", "left"]


def test_a_file_outside_the_cache_that_cannot_be_read_costs_its_own_sae_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(weights.ROOT_VARIABLE, str(tmp_path / "node"))
    assignment: Any = SimpleNamespace(place=tasks.Place(str(tmp_path / "cache")))

    def answer(error: OSError) -> Answer:
        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr(tasks, "_step", fail)
        return tasks._guarded(assignment, None, "width", (), None, ())

    away = answer(FileNotFoundError(2, "No such file or directory", str(tmp_path / "saes" / "cfg.json")))
    assert away.failure.startswith(f"{tmp_path}/saes/cfg.json cannot be read on ")
    assert away.failure.endswith("(No such file or directory): put it where all nodes see it, then run again.")
    for error in (
        FileNotFoundError(2, "No such file or directory", str(tmp_path / "cache" / "codes")),
        PermissionError(13, "Permission denied", str(tmp_path / "node" / "weights")),
        FileNotFoundError(None, "the cache is not there"),
        OSError(28, "No space left on device"),
    ):
        assert "The cache cannot be used on" in answer(error).broken


def test_a_storage_that_cannot_be_reached_leaves_no_cache_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.ROOT_VARIABLE, str(tmp_path / "node"))
    with pytest.raises(StoreError, match="cannot be used"):
        tasks.Place(str(tmp_path), "nosuch://bucket").open_here("one")
    assert sweep_caches() == [tmp_path / "node" / "cache-one"]
