"""A sweep on two Ray nodes: equal to the local engine's, also when a node is lost, the storage goes, or somebody cancels."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmcore.errors import Cancelled, DarkMatterError, StoreError
from dmcore.progress import Progress, Reporter
from dmcore.results import METRICS
from dmcore.run import engines
from dmcore.run.cluster.engine import RayPipeline
from dmcore.run.cluster.nodes import versions
from dmcore.run.cluster.shards import Cut
from dmcore.run.engines import Engine, devices_for_jobs, engine_of_job, open_pipeline
from dmcore.run.jobs.job import lane_of
from dmcore.run.pipeline import Outcome, Pipeline
from dmcore.specs import Study, load_study
from dmcore.store.mirror import MirroredStore
from dmcore.store.published import SUMMARY
from dmcore.store.store import Store
from tests.builders import LENGTH, build_study
from tests.run.ray_cluster import TwoNodes, two_nodes

needs_ray = [
    pytest.mark.ray,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -r requirements-ray.txt"
    ),
]
ray_test = lambda test: needs_ray[0](needs_ray[1](test))  # noqa: E731
CUT = Cut(least_tokens=6 * LENGTH, contexts_per_run=8, per_moment=0.1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load_study(build_study(tmp_path_factory.mktemp("study"), architectures=("topk", "gated")))


@pytest.fixture(scope="module")
def local(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return Pipeline(Store(tmp_path_factory.mktemp("local"))).sweep(study)


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    with two_nodes() as cluster:
        yield cluster


def on_ray(nodes: TwoNodes, store: Store, reporter: Reporter | None = None, **more: Any) -> RayPipeline:
    return RayPipeline(store, nodes.address, reporter=reporter, cut=CUT, **more)


def check_equal(found: Outcome, local: Outcome) -> None:
    assert (found.failures, found.unscaled) == ({}, {})
    assert [r["sae"] for r in found.records] == [r["sae"] for r in local.records]
    for mine, other in zip(found.records, local.records, strict=True):
        assert mine["summary_key"] == other["summary_key"]
        for metric in METRICS:
            for end in ("", "_low", "_high"):
                assert mine[f"{metric}{end}"] == pytest.approx(other[f"{metric}{end}"], rel=1e-9, abs=1e-12)


@ray_test
def test_an_address_that_is_no_ray_cluster_is_one_sentence(study: Study, tmp_path: Path) -> None:
    # The first in this file: a process that is connected to a cluster, as for the others, asks no other address.
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(DarkMatterError, match="is not a Ray cluster: give HOST:PORT of its head.*something else"):
            RayPipeline(Store(tmp_path), f"127.0.0.1:{port}").sweep(study)
        thread.join()
    for address in (f"127.0.0.1:{port}", "ray://127.0.0.1:1", "nobody", "127.0.0.1:99999999", "--help"):
        with pytest.raises(DarkMatterError, match="is not a Ray cluster: give HOST:PORT of its head"):
            RayPipeline(Store(tmp_path), address).sweep(study)


@ray_test
def test_a_node_that_is_lost_in_the_middle_costs_its_shards_and_changes_no_number(
    nodes: TwoNodes, study: Study, local: Outcome, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    made: list[str] = []

    def sink(progress: Progress) -> None:
        seen.append(progress.stage)
        # The second node is at work on an SAE, and one is finished already.
        if made and nodes.second is not None and progress.stage.startswith("encode and split"):
            nodes.lose_second()

    store = Store(tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        outcome = on_ray(nodes, store, Reporter(sink), made=made.append).sweep(study)
    lost = nodes.second is None
    if lost:
        nodes.add_second()
    assert lost
    check_equal(outcome, local)
    assert sorted(made) == sorted(r["summary_key"] for r in outcome.records)
    assert any(stage.startswith("run the model on 2 nodes") for stage in seen)
    assert any("node 1" in stage and ": " in stage for stage in seen)
    assert not [one for one in store.entries() if getattr(one, "manifest", None) and one.manifest.stage == "shard"]
    again = Pipeline(store).sweep(study)
    assert (again.computed, again.unscaled) == (0, {})


@ray_test
def test_a_cancel_stops_all_nodes_and_what_was_finished_is_kept_for_either_engine(
    nodes: TwoNodes, study: Study, local: Outcome, tmp_path: Path
) -> None:
    made: list[str] = []
    store = Store(tmp_path / "cache")
    with pytest.raises(Cancelled):
        on_ray(nodes, store, Reporter(should_cancel=lambda: len(made) > 0), made=made.append).sweep(study)
    assert store.find(SUMMARY, made[0]) is not None
    outcome = Pipeline(store).sweep(study)
    assert outcome.computed < len(study.saes)
    check_equal(outcome, local)


@ray_test
def test_nodes_that_share_a_storage_and_no_folder_give_the_same(
    nodes: TwoNodes, study: Study, local: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MirroredStore(tmp_path / "mine", f"file://{tmp_path}/shared")
    outcome = on_ray(nodes, store).sweep(study, only=lambda index: index < 2)
    assert outcome.failures == {}
    assert [r["fvu"] for r in outcome.records] == pytest.approx([r["fvu"] for r in local.records[:2]], rel=1e-9)
    assert not (tmp_path / "mine" / "activations").exists(), "the driver fetches results, not activations"
    assert (tmp_path / "shared" / "activations").is_dir()
    assert not any((tmp_path / "shared" / "shard").glob("*"))


@ray_test
def test_a_storage_that_goes_away_in_the_middle_is_one_sentence(nodes: TwoNodes, study: Study, tmp_path: Path) -> None:
    root = tmp_path / "cache"

    def sink(progress: Progress) -> None:
        if progress.stage.startswith("moments of x") and root.is_dir():
            shutil.move(root, tmp_path / "away")

    with pytest.raises(StoreError) as raised:
        on_ray(nodes, Store(root), Reporter(sink)).sweep(study)
    assert "run again" in str(raised.value)
    assert "\n" not in str(raised.value)
    shutil.rmtree(root, ignore_errors=True)
    shutil.move(tmp_path / "away", root)
    kept = [one.manifest.stage for one in Store(root).entries() if not isinstance(one, Path)]
    assert kept.count("activations") == len(study.hooks)


@ray_test
@pytest.mark.parametrize("what", ["torch", "dmcore", "python", "ray"])
def test_nodes_with_other_versions_are_named(
    what: str, nodes: TwoNodes, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = versions()
    monkeypatch.setattr("dmcore.run.cluster.nodes.versions", lambda: {**own, what: "0.0"})
    with pytest.raises(DarkMatterError, match=f"On node 1 .* other versions .*{what} .*, here 0.0.*: install the same"):
        on_ray(nodes, Store(tmp_path)).sweep(study)


@ray_test
def test_a_node_that_was_lost_a_moment_ago_is_left_out(
    nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dmcore.run.cluster import nodes as looked_at

    both, noticed = looked_at._alive(), threading.Event()
    assert len(both) == 2
    nodes.lose_second()
    try:
        there = looked_at._alive
        monkeypatch.setattr(
            looked_at, "_alive", lambda: there() if noticed.is_set() else both
        )  # as the head may for seconds
        monkeypatch.setattr(looked_at, "SETTLE_SECONDS", 0.0)
        with pytest.raises(DarkMatterError, match="A node of the cluster does not answer"):
            looked_at.fit_nodes("cpu", tmp_path, "", [], None)
        monkeypatch.setattr(looked_at, "SETTLE_SECONDS", 60.0)
        threading.Timer(2.0, noticed.set).start()
        found = looked_at.fit_nodes("cpu", tmp_path, "", [], None)
        assert (list(found.names.values()), found.n_slots) == (["node 1"], 1)
        assert "lost before the work began" in caplog.text
    finally:
        monkeypatch.undo()
        nodes.add_second()


def test_without_ray_there_is_one_sentence_and_no_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DarkMatterError, match="pip install -r requirements-ray.txt"):
        open_pipeline(Engine("ray"), "auto", Reporter(), root=tmp_path)
    assert devices_for_jobs() == {"auto": "This machine"}


def test_a_job_names_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engines.ADDRESS_VARIABLE, "head:6379")
    monkeypatch.setattr(engines, "ray_is_installed", lambda: True)
    assert list(devices_for_jobs()) == ["auto", "ray", "ray:head:6379"]
    assert engine_of_job("ray:head:6379") == (Engine("ray", "head:6379"), "auto")
    assert engine_of_job("ray") == (Engine("ray"), "auto")
    assert engine_of_job("cuda:1") == (Engine(), "cuda:1")
    assert lane_of("ray") == lane_of("auto"), "it works on this machine's own device"
    assert lane_of("ray:head:6379") == "ray"
    for wrong in ("ray:", "ray:head", "ray:head:1;id", "ray:../x:1", "ray://head:1"):
        with pytest.raises(DarkMatterError, match="not a device"):
            lane_of(wrong)


def test_an_address_without_ray_is_refused() -> None:
    with pytest.raises(DarkMatterError, match="say --engine ray with them"):
        Engine("local", "head:6379")
