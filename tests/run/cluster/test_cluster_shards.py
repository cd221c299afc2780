"""Work on shards, without Ray: put together again it is what one pass leaves, and either engine goes on with the other's."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from dmcore.analysis.capture import LOSS
from dmcore.errors import Cancelled, SpecError
from dmcore.math.moments import MomentAccumulator, TargetMoments
from dmcore.progress import Reporter
from dmcore.results import METRICS
from dmcore.run.cluster import shard_work, weights
from dmcore.run.cluster.board import Board, Note, Teller, told_text
from dmcore.run.cluster.held import Hold, remove_unheld
from dmcore.run.cluster.joined import CODE_FILES, added, packed_targets, tree_sum
from dmcore.run.cluster.node_cache import node_cache, sweep_caches
from dmcore.run.cluster.shard_work import Bench, stage_of
from dmcore.run.cluster.shards import SHARD, Cut, Shard, shard_spec
from dmcore.run.cluster.work import Work
from dmcore.run.pipeline import Pipeline
from dmcore.run.plan import make_plan
from dmcore.sources.sae_layouts import LAYOUTS
from dmcore.sources.saes import sae_fingerprint
from dmcore.specs import SaeSpec, load_study
from dmcore.store.fingerprint import content_key, files_fingerprint
from dmcore.store.mirror import MirroredStore
from dmcore.store.store import Entry, Store
from tests.builders import D_MODEL, LENGTH, N_CONTEXTS, build_study

CUT = Cut(least_tokens=6 * LENGTH, contexts_per_run=8, per_moment=0.1)
"""As real studies are cut, in small."""


@given(
    n_contexts=st.integers(1, 2000),
    length=st.integers(1, 3000),
    least=st.integers(1, 10**6),
    unit=st.integers(1, 64),
)
@settings(max_examples=300, deadline=None)
def test_shards_cover_every_context_once_in_whole_batches(n_contexts: int, length: int, least: int, unit: int) -> None:
    shards = Cut(least, unit).for_model(n_contexts, length)
    assert [shards[0].first, shards[-1].last] == [0, n_contexts]
    assert all(a.last == b.first and a.n_contexts > 0 for a, b in itertools.pairwise(shards))
    assert all(shard.first % unit == 0 for shard in shards)
    assert shards[-1].n_contexts > 0
    # None is much smaller than asked, unless there is but one: rounding to whole batches takes at most one.
    assert len(shards) == 1 or all(s.n_contexts + 2 * unit > least // length for s in shards)


def test_shards_of_wide_activations_are_no_smaller_than_their_moments() -> None:
    shards = Cut().for_sae(3000, 1024, 3584, 10)
    assert len(shards) > 10
    assert all(s.n_contexts * 1024 * 4 * 3584 > 0.9 * 8 * 10 * 3584**2 for s in shards)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9])
def test_a_tree_of_sums_is_the_sum(n: int) -> None:
    g = torch.Generator().manual_seed(n)
    parts = []
    for _ in range(n):
        targets = TargetMoments(2, 3, 4)
        accumulator = MomentAccumulator(None, targets, torch.zeros(3, dtype=torch.float64))
        x, y = torch.randn(20, 3, generator=g), torch.randn(20, 4, generator=g)
        accumulator.add(x, y, torch.arange(20) % 2)
        accumulator.finish()
        parts.append(targets)
    total = added([packed_targets(part) for part in parts])
    np.testing.assert_allclose(total["cross"], sum(part.cross.numpy() for part in parts), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(total["target_sq"], tree_sum(parts).target_sq.numpy())


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_study(tmp_path_factory.mktemp("study"), architectures=("topk", "gated"))


def work_in_shards(study_path: Path, store: Store) -> Bench:
    """Everything of the first two SAEs, as the tasks of a cluster do it, in an order that no one process would choose."""
    plan = make_plan(load_study(study_path), store, {}, Reporter())
    bench = Bench(plan, store, torch.device("cpu"), Reporter(), {})
    saes = plan.saes[:2]
    hook = saes[0].sae.hook
    captured = CUT.for_model(N_CONTEXTS, LENGTH)
    for shard in captured[::-1]:
        bench.capture_shard([LOSS, hook], shard)
    for name in (LOSS, hook):
        bench.join_site(name, captured)
    shards = CUT.for_sae(N_CONTEXTS, LENGTH, bench.width(hook), plan.partition.n_cells)
    assert len(captured) > 2
    assert len(shards) > 2
    bench.join_inputs(hook, added([bench.inputs_shard(hook, shard) for shard in shards]))
    for sae in saes:
        parts = {shard: bench.encode_shard(sae, shard, lambda: None) for shard in shards[::-1]}
        bench.finish_sae(sae, shards, added([parts[shard] for shard in shards]), lambda: None, scale=True)
    return bench


@pytest.fixture(scope="module")
def both(study_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Bench]:
    local = Store(tmp_path_factory.mktemp("local"))
    outcome = Pipeline(local).sweep(load_study(study_path), only=lambda index: index < 2, scale=True)
    assert outcome.failures == {}
    return local, work_in_shards(study_path, Store(tmp_path_factory.mktemp("shards")))


def entry(store: Store, stage: str, spec: dict[str, Any]) -> Path:
    found = store.find(stage, content_key(spec))
    assert found is not None, stage
    return found.path


def test_activations_losses_and_codes_are_the_same_bytes(both: tuple[Store, Bench]) -> None:
    local, bench = both
    plan = bench.plan
    sites = [("losses", plan.sites[LOSS]), ("activations", plan.sites[plan.saes[0].sae.hook])]
    for stage, spec in [*sites, *(("codes", p.codes) for p in plan.saes[:2])]:
        here, there = (entry(store, stage, spec) for store in (local, bench.store))
        arrays = sorted(path.name for path in here.glob("*.npy"))
        assert arrays == sorted(path.name for path in there.glob("*.npy"))
        for name in arrays:
            assert (here / name).read_bytes() == (there / name).read_bytes(), (stage, name)


def test_moments_differ_by_the_order_of_addition_alone(both: tuple[Store, Bench]) -> None:
    local, bench = both
    plan = bench.plan
    specs = [("inputs", plan.inputs[plan.saes[0].sae.hook]), *(("targets", p.targets) for p in plan.saes[:2])]
    for stage, spec in specs:
        here, there = (load_file(entry(store, stage, spec) / "moments.safetensors") for store in (local, bench.store))
        for name, tensor in here.items():
            scale = float(tensor.abs().max())
            torch.testing.assert_close(there[name], tensor, rtol=1e-12, atol=1e-13 * scale)


def test_numbers_agree_to_nine_digits(study_path: Path, both: tuple[Store, Bench]) -> None:
    local, bench = both
    ours, theirs = (Pipeline(store).publish(bench.plan) for store in (bench.store, local))
    assert len(ours) == len(theirs) == 2
    for mine, other in zip(ours, theirs, strict=True):
        for metric in METRICS:
            for end in ("", "_low", "_high"):
                assert mine[f"{metric}{end}"] == pytest.approx(other[f"{metric}{end}"], rel=1e-9, abs=1e-12)
        assert mine["summary_key"] == other["summary_key"]


def test_shards_are_gone_when_an_sae_is_finished(both: tuple[Store, Bench]) -> None:
    _, bench = both
    stages = [one.manifest.stage for one in bench.store.entries()]
    assert "shard" not in stages
    assert stages.count("activations") == 1


def test_shards_of_a_process_that_was_killed_when_it_had_joined_them_are_deleted(
    both: tuple[Store, Bench], tmp_path: Path
) -> None:
    _, done = both
    hook = done.plan.saes[0].sae.hook
    captured = CUT.for_model(N_CONTEXTS, LENGTH)

    def leave() -> None:
        for name in (LOSS, hook):
            of = content_key(done.plan.sites[name])
            done.store.get_or_make(stage_of(name), shard_spec(of, captured[1]), lambda folder: (folder / "f").touch())

    def left() -> list[str]:
        return [e.key for e in done.store.entries() if isinstance(e, Entry) and e.manifest.spec.get("stage") == SHARD]

    leave()
    assert len(left()) == 2
    for name in (LOSS, hook):
        done.join_site(name, captured)
    assert left() == []
    leave()
    work = Work.__new__(Work)
    work.plan, work.store, work.cut = done.plan, done.store, CUT
    assert work.captured(list(done.plan.saes[:1]), {}) == [done.plan.saes[0]]
    assert left() == []


def test_the_shards_of_an_sae_are_deleted_without_fetching_them(both: tuple[Store, Bench], tmp_path: Path) -> None:
    _, done = both
    sae, shard = done.plan.saes[0], Shard(0, 8)
    shutil.copytree(done.store.root, tmp_path / "mine")
    mine = MirroredStore(tmp_path / "mine", f"file://{tmp_path}/shared")
    spec = shard_spec(content_key(sae.targets), shard)
    MirroredStore(tmp_path / "another", mine.url).get_or_make(SHARD, spec, lambda folder: (folder / "f").touch())
    fetched: list[Any] = []
    fetch = mine._fs.get_file
    mine._fs.get_file = lambda *names: (fetched.append(names), fetch(*names))
    try:
        bench = Bench(done.plan, mine, done.device, Reporter(), {})
        bench.finish_sae(sae, [shard], None, lambda: None, scale=False)
    finally:
        del mine._fs.get_file
    assert fetched == []
    assert not any((tmp_path / "shared" / SHARD).glob("*"))


def test_the_local_engine_goes_on_with_what_shards_left(study_path: Path, both: tuple[Store, Bench]) -> None:
    _, bench = both
    outcome = Pipeline(bench.store).sweep(load_study(study_path), only=lambda index: index < 2, scale=True)
    assert (outcome.computed, outcome.failures, len(outcome.records)) == (0, {}, 2)


def test_a_shard_that_is_finished_is_not_encoded_again(
    study_path: Path, tmp_path: Path, both: tuple[Store, Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bench = both
    sae = bench.plan.saes[1]
    shard = Shard(0, 8)
    before = bench.encode_shard(sae, shard, lambda: None)
    monkeypatch.setattr(Bench, "dictionary", lambda *_: pytest.fail("its weights were loaded again"))
    after = bench.encode_shard(sae, shard, lambda: None)
    np.testing.assert_array_equal(before["cross"], after["cross"])
    assert before["cross"].shape[1] == D_MODEL + 1


def test_a_shard_that_was_made_beside_codes_is_made_anew_when_these_are_deleted(
    both: tuple[Store, Bench], tmp_path: Path
) -> None:
    _, done = both
    shutil.copytree(done.store.root, tmp_path / "copy")
    store, sae, shard = Store(tmp_path / "copy"), done.plan.saes[0], Shard(0, 8)
    bench = Bench(done.plan, store, done.device, Reporter(), {})
    before = bench.encode_shard(sae, shard, lambda: None)
    store.drop("codes", content_key(sae.codes))
    after = bench.encode_shard(sae, shard, lambda: None)
    np.testing.assert_allclose(before["cross"], after["cross"], rtol=1e-6, atol=1e-6)
    made = store.find(SHARD, content_key(shard_spec(content_key(sae.targets), shard)))
    assert made is not None
    assert {f"{name}.npy" for name in (*CODE_FILES, "contexts")} <= set(made.manifest.files)


# Weights on a node


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(weights.ROOT_VARIABLE, str(tmp_path / "node"))
    return tmp_path / "node"


def sae_folder(study_path: Path) -> tuple[Path, str]:
    folder = load_study(study_path).resolve(load_study(study_path).saes[0].path)
    return folder, files_fingerprint(folder, list(weights.layout_files(folder)))


def test_weights_are_fetched_once_by_all_processes_of_a_node(study_path: Path, node: Path) -> None:
    folder, fingerprint = sae_folder(study_path)
    fetches = []

    def fetch(to: Path) -> None:
        fetches.append(to)
        weights.copy_files(folder, to)

    together = [threading.Thread(target=weights.fetched, args=(fingerprint, fetch, [])) for _ in range(8)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert len(fetches) == 1
    for name in weights.layout_files(folder):
        assert (node / "weights" / fingerprint / name).read_bytes() == (folder / name).read_bytes()


def test_weights_that_changed_on_the_way_are_refused_and_not_kept(study_path: Path, node: Path) -> None:
    folder, fingerprint = sae_folder(study_path)

    def fetch(to: Path) -> None:
        weights.copy_files(folder, to)
        (to / "sae_weights.safetensors").write_bytes(b"other")

    with pytest.raises(SpecError, match="changed since the sweep began: run it again"):
        weights.fetched(fingerprint, fetch, [])
    assert not (node / "weights" / fingerprint).exists()


def test_weights_that_a_node_does_not_see_are_sent(study_path: Path, node: Path, tmp_path: Path) -> None:
    study = load_study(study_path)
    folder, fingerprint = sae_folder(study_path)
    away = study.saes[0].__class__(**{**vars(study.saes[0]), "path": str(tmp_path / "nowhere")})
    found = weights.local_sae(study, away, fingerprint, lambda: weights.read_files(folder), [])
    assert Path(found.path) == node / "weights" / fingerprint
    with pytest.raises(SpecError, match="does not see the folder of the SAE .*: put it where all nodes see it"):
        weights.local_sae(study, away, "0" * 32, lambda: None, [])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reaches_a_node_under_the_key_that_the_sweep_has(
    layout: str, study_path: Path, node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sae"
    for name in LAYOUTS[layout]:  # what is in them is not looked at
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{layout} {name}")
    study, sae = load_study(study_path), SaeSpec("blocks.1.hook_resid_post", str(folder))
    fingerprint = sae_fingerprint(study, sae)
    content = weights.read_files(folder)
    away = SaeSpec(sae.hook, str(tmp_path / "nowhere"))
    sent = Path(weights.local_sae(study, away, fingerprint, lambda: content, []).path)
    assert {str(path.relative_to(sent)) for path in sent.rglob("*") if path.is_file()} == set(LAYOUTS[layout])
    monkeypatch.setenv(weights.ROOT_VARIABLE, str(tmp_path / "other"))
    monkeypatch.setattr(weights, "_same_disk", lambda *_: False)
    copied = Path(weights.local_sae(study, sae, fingerprint, lambda: None, []).path)
    assert (
        copied.is_relative_to(tmp_path / "other")
        and sae_fingerprint(study, SaeSpec(sae.hook, str(copied))) == fingerprint
    )


def test_weights_give_way_on_a_full_disk_but_not_while_they_are_read(
    study_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fingerprint = sae_folder(study_path)
    holds: list[Hold] = []
    copy = weights.fetched(fingerprint, lambda to: weights.copy_files(folder, to), holds)
    (copy.parent / "another").mkdir()
    (copy.parent / "half.partial").mkdir()
    monkeypatch.setattr(weights, "STALE_SECONDS", -1.0)
    monkeypatch.setattr(weights, "LEAST_FREE", 2.0)  # never enough
    weights.make_room(copy.parent)
    assert [path for path in copy.parent.iterdir() if path.is_dir()] == [copy]
    for hold in holds:
        hold.release()
    weights.make_room(copy.parent)
    assert not copy.exists()


def test_a_process_keeps_the_weights_that_it_reads_and_no_others(
    study_path: Path, node: Path, both: tuple[Store, Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bench = both
    elsewhere = Bench(bench.plan, bench.store, bench.device, Reporter(), {})
    folders = {sae.sae.name: elsewhere.plan.study.resolve(sae.sae.path) for sae in bench.plan.saes[:2]}
    seen: list[Path] = []

    def local(study: Any, sae: Any, fingerprint: str, sent: Any, holds: list[Hold]) -> Any:
        seen.append(weights.fetched(fingerprint, lambda to: weights.copy_files(folders[sae.name], to), holds))
        return sae

    monkeypatch.setattr("dmcore.run.cluster.shard_work.local_sae", local)
    loaded: list[weakref.ref[Any]] = []
    for sae in bench.plan.saes[:2]:
        loaded.append(weakref.ref(elsewhere.dictionary(sae, D_MODEL, lambda: None)._sae))
    assert [remove_unheld(path) for path in seen] == [True, False]
    assert loaded[0]() is None
    assert loaded[1]() is not None


def test_nothing_that_was_loaded_before_is_in_memory_beside_what_is_loaded_next(
    study_path: Path, both: tuple[Store, Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, done = both
    monkeypatch.setattr("dmcore.run.device_room.LARGE", 1)
    bench = Bench(done.plan, done.store, done.device, Reporter(), {})
    there: list[weakref.ref[Any]] = []
    seen: list[int] = []

    def watched(load: Any) -> Any:
        def loading(*arguments: Any, **more: Any) -> Any:
            seen.append(sum(one() is not None for one in there))
            found = load(*arguments, **more)
            one = getattr(found, "_sae", found)
            one.itself = [one]  # as those do whose methods are put into them
            there.append(weakref.ref(one))
            return found

        return loading

    for name in ("load_dictionary", "load_model"):
        monkeypatch.setattr(f"dmcore.run.cluster.shard_work.{name}", watched(getattr(shard_work, name)))
    first, second = bench.plan.saes[:2]
    bench.dictionary(first, D_MODEL, lambda: None)
    bench.dictionary(second, D_MODEL, lambda: None)
    bench.model()
    bench.dictionary(first, D_MODEL, lambda: None)
    assert seen == [0, 0, 0, 0]
    bench.scale_site(first.sae.hook)
    assert [one() for one in there] == [None] * 4


HOLDER = """
import sys
from dmcore.run.cluster.node_cache import node_cache
folder, hold = node_cache(sys.argv[1])
(folder / "codes").mkdir(exist_ok=True)
print(folder, flush=True)
sys.stdin.read()
"""


def test_the_cache_of_a_sweep_on_a_node_stays_while_one_of_its_processes_lives(node: Path) -> None:
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, "one"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    folders = {Path(holder.stdout.readline().strip()) for holder in holders if holder.stdout}
    assert folders == {node / "cache-one"}
    try:
        other, hold = node_cache("two")
        assert {path.name for path in node.iterdir() if path.is_dir()} == {"cache-one", "cache-two"}
        holders[0].kill()
        holders[0].wait()
        assert sweep_caches() == []
        holders[1].kill()
        holders[1].wait()
        assert sweep_caches() == [node / "cache-one"]
        assert {path.name for path in node.iterdir()} == {"cache-two", "cache-two.use"}
        hold.release()
        assert sweep_caches() == [other]
        assert list(node.iterdir()) == []
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


# The board, without its actor


class Handle:
    """A board as an actor's handle shows it; its answers are there at once."""

    def __init__(self, board: Board) -> None:
        self.board, self.asked = board, 0

    @property
    def tell(self) -> Handle:
        return self

    def remote(self, *said: Any) -> bool:
        self.asked += 1
        return self.board.tell(*said)


def test_a_task_tells_how_far_it_is_and_stops_when_the_board_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("dmcore.run.cluster.board.time.monotonic", lambda: clock[0])
    board = Board()
    handle = Handle(board)
    teller = Teller(handle, "topk|finish", "abc", lambda answer: answer)
    reporter = teller.reporter()
    with reporter.stage("split topk", 1000, "tokens") as stage:
        asked = handle.asked
        for _ in range(100):  # in no time: the board is not asked each time
            stage.advance(1)
        assert handle.asked == asked
        clock[0] += 1
        stage.advance(100)
        clock[0] += 1
        stage.advance(0)
        assert told_text(board.notes(), {"abc": "node 1"}) == "node 1 split topk"
        assert board.notes()["topk|finish"].done == 200
        board.stop()
        with pytest.raises(Cancelled):
            for _ in range(3):
                clock[0] += 1
                stage.advance(1)
    clock[0] += 3600
    assert board.notes() == {}


def test_what_many_nodes_do_is_said_in_one_line() -> None:
    notes = {f"task {i}": Note(f"id {i}", f"encode topk_{i}", 1, 2, "tokens", 0.0) for i in range(5)}
    names = {f"id {i}": f"node {i + 1}" for i in range(5)}
    assert told_text(notes, names) == "node 1 encode topk_0, node 2 encode topk_1, node 3 encode topk_2, and 2 more"
