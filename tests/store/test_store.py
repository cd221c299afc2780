"""The store: entries are made once, complete or not there, and damage is found, told and mended."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmcore.errors import StoreError
from dmcore.store import leftovers
from dmcore.store import store as store_module
from dmcore.store.fingerprint import content_key, files_fingerprint
from dmcore.store.manifest import MANIFEST, damage
from dmcore.store.store import Draft, Entry, Store

SPEC = {"stage": "demo", "n": 1}


def make(folder: Path) -> None:
    (folder / "numbers.txt").write_text("1 2 3")
    (folder / "more").mkdir()
    (folder / "more" / "text.txt").write_text("text")


def test_an_entry_is_made_once_and_found_again(tmp_path: Path) -> None:
    calls = []
    for _ in range(2):
        entry = Store(tmp_path).get_or_make("stage", SPEC, lambda folder: (make(folder), calls.append(1)))
    assert len(calls) == 1
    assert entry.manifest.spec == SPEC
    assert set(entry.manifest.files) == {"numbers.txt", "more/text.txt"}
    assert not list((tmp_path / "partial").iterdir())


def test_keys_depend_on_the_whole_spec_and_not_on_its_order() -> None:
    assert content_key({"a": 1, "b": [1, 2]}) == content_key({"b": [1, 2], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 1.5})
    assert content_key({"a": 1}) != content_key({"a": "1"})


def test_fingerprints_follow_contents_and_not_names_of_folders(tmp_path: Path) -> None:
    for name, text in (("one", "x"), ("two", "x"), ("three", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w").write_text(text)
    one, two, three = (files_fingerprint(tmp_path / name, ["w"]) for name in ("one", "two", "three"))
    assert one == two != three


@pytest.mark.parametrize(
    "hurt",
    [
        lambda f: (f / "numbers.txt").write_text("1 2 4"),  # same size
        lambda f: (f / "numbers.txt").write_text("1 2"),
        lambda f: (f / "more" / "text.txt").unlink(),
        lambda f: (f / MANIFEST).write_text("{"),
        lambda f: (f / MANIFEST).unlink(),
        lambda f: (f / MANIFEST).write_text((f / MANIFEST).read_text().replace('"n": 1', '"n": 2')),
    ],
    ids=["edited", "truncated", "missing", "manifest cut", "manifest gone", "manifest edited"],
)
def test_a_damaged_entry_is_moved_aside_told_and_made_again(
    hurt: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = Store(tmp_path).get_or_make("stage", SPEC, make)
    hurt(entry.path)
    with caplog.at_level(logging.WARNING):
        again = Store(tmp_path).get_or_make("stage", SPEC, make)
    assert "damaged" in caplog.text
    assert (again.path / "numbers.txt").read_text() == "1 2 3"
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_damage_done_while_the_process_runs_is_seen_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = store.get_or_make("stage", SPEC, make)
    assert store.find("stage", entry.key) is not None
    (entry.path / "numbers.txt").write_text("1 2 4")
    assert store.find("stage", entry.key) is None


def test_a_maker_that_fails_leaves_no_entry_and_the_next_starts_clean(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("h")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        store.get_or_make("stage", SPEC, fail)
    assert store.find("stage", content_key(SPEC)) is None
    assert "half" not in store.get_or_make("stage", SPEC, make).manifest.files


def test_a_full_disk_and_a_read_only_folder_are_sentences(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match="free space .* and run again"):
        Store(tmp_path).get_or_make("stage", SPEC, full)

    def denied(folder: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(StoreError, match="DMCORE_CACHE"):
        Store(tmp_path).get_or_make("stage", SPEC, denied)


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".", "A", "x" * 80, "a\n"])
def test_names_never_leave_the_cache_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cache ls"):
        Store(tmp_path).find("summary", name)
    with pytest.raises(StoreError, match="cache ls"):
        Store(tmp_path).find(name, "abc")


def test_a_second_process_waits_and_takes_the_first_ones_entry(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from dmcore.store.store import Store\n"
        "def make(folder):\n"
        "    (folder / 'who').write_text(sys.argv[2]); time.sleep(1.0)\n"
        "e = Store(Path(sys.argv[1])).get_or_make('stage', {'n': 1}, make); print((e.path / 'who').read_text())"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), who], stdout=subprocess.PIPE, text=True)
        for who in ("first", "second")
    ]
    said = [process.communicate(timeout=60)[0].strip() for process in both]
    assert said[0] == said[1] in {"first", "second"}


def test_a_lock_dies_with_its_owner_and_the_draft_is_handed_on(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from dmcore.store.store import Store\n"
        "d = Store(Path(sys.argv[1])).begin('stage', {'n': 1}); (d.path / 'begun').write_text('yes')\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline().strip() == "ready"
    with pytest.raises(StoreError, match="Another process"):
        Store(tmp_path).begin("stage", {"n": 1}, wait=0.1)
    assert Store(tmp_path).sweep_partial() == []
    owner.kill()
    owner.wait()
    draft = Store(tmp_path).begin("stage", {"n": 1}, wait=5)
    assert isinstance(draft, Draft)
    assert (draft.path / "begun").read_text() == "yes"
    assert isinstance(draft.commit(), Entry)


def test_leftovers_of_killed_processes_are_swept(tmp_path: Path) -> None:
    draft = Store(tmp_path).begin("stage", SPEC)
    draft.release()
    assert [folder.name for folder in Store(tmp_path).sweep_partial()] == [f"stage-{content_key(SPEC)}"]


def test_a_pointer_is_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for text in ("old", "new"):
        time.sleep(0.01)
        entry = store.replace("index", SPEC, lambda folder, text=text: (folder / "t").write_text(text))
    assert (store.find("index", entry.key).path / "t").read_text() == "new"
    assert json.loads((entry.path / MANIFEST).read_text())["key"] == content_key(SPEC)


def test_what_is_no_stage_is_no_entry_and_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = store.get_or_make("codes", {"a": 1}, make)
    for name in ("jobs/logs", "studies/saes", "catalogue/old", "partial/codes-1"):
        (store.root / name).mkdir(parents=True)
        (store.root / name / "file").write_text("kept")
    assert [found.path for found in store.entries()] == [entry.path]


def test_an_entry_that_is_replaced_while_it_is_looked_at_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = Store(tmp_path), Store(tmp_path)
    old = writer.replace("index", SPEC, lambda folder: (folder / "t").write_text("old"))

    def meanwhile(*arguments: object, **more: object) -> str | None:
        monkeypatch.setattr(store_module, "damage", damage)
        writer.replace("index", SPEC, lambda folder: (folder / "t").write_text("longer"))
        return damage(*arguments, **more)

    monkeypatch.setattr(store_module, "damage", meanwhile)
    found = reader.find("index", old.key)
    assert found is not None and (found.path / "t").read_text() == "longer"
    assert not (tmp_path / "damaged").exists()


def test_an_entry_may_be_removed_by_two(tmp_path: Path) -> None:
    entry = Store(tmp_path).get_or_make("stage", SPEC, make)
    Store(tmp_path).remove(entry)
    Store(tmp_path).remove(entry)
    # What a killed process with the same number left does not stand in the way.
    again = Store(tmp_path).get_or_make("stage", SPEC, make)
    (tmp_path / "partial" / f"removed-stage-{entry.key}-{os.getpid()}" / "more").mkdir(parents=True)
    Store(tmp_path).remove(again)
    assert Store(tmp_path).find("stage", entry.key) is None


def test_a_leftover_that_cannot_be_deleted_is_told_in_one_line_and_the_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"stage-{content_key({'n': n})}" for n in range(3)]
    for n in range(3):
        Store(tmp_path).begin("stage", {"n": n}).release()
    stuck, moved = tmp_path / "partial" / names[1], Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path == stuck:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return moved(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert sorted(path.name for path in Store(tmp_path).sweep_partial()) == sorted({*names} - {names[1]})
    assert [record.getMessage() for record in caplog.records] == [
        f"The leftover {stuck} cannot be deleted (Operation not permitted): it stays."
    ]
    assert list((tmp_path / "partial").iterdir()) == [stuck]


def test_what_vanishes_while_leftovers_are_swept_or_measured_fails_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = Store(tmp_path).begin("stage", SPEC)
    (draft.path / "half").write_text("123")
    draft.release()
    gone = tmp_path / "partial" / "stage-gone"
    monkeypatch.setattr(leftovers, "_listed", lambda _: [gone, draft.path])
    monkeypatch.setattr(os, "walk", lambda _: [(str(draft.path), [], ["half", "gone"])])
    assert leftovers.size_of(tmp_path) == 3
    monkeypatch.undo()
    monkeypatch.setattr(leftovers, "_listed", lambda _: [gone, draft.path])
    assert leftovers.sweep(tmp_path) == [draft.path]


def test_what_another_host_makes_is_left_alone_until_it_has_been_quiet_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        there.setattr(leftovers.platform, "node", lambda: "another host")
        draft = Store(tmp_path).begin("stage", SPEC)
        (draft.path / "half").write_text("h")
    draft._lock.release()  # which, over there, it still holds
    mark = tmp_path / "partial" / "seen-by-all-1-2"
    mark.write_bytes(b"")
    assert Store(tmp_path).sweep_partial() == []
    assert (draft.path / "half").exists()
    monkeypatch.setattr(leftovers, "QUIET_SECONDS", -1.0)
    assert Store(tmp_path).sweep_partial() == [mark, draft.path]
    assert not list((tmp_path / "partial").iterdir())
    assert not list((tmp_path / "locks").glob("*.host"))


def test_what_looks_damaged_is_not_moved_aside_while_another_process_holds_its_lock(tmp_path: Path) -> None:
    entry = Store(tmp_path).get_or_make("stage", SPEC, make)
    (entry.path / "numbers.txt").write_text("1 2 4")
    with Store(tmp_path)._lock("stage", entry.key):  # it is about to be made anew there
        assert Store(tmp_path).find("stage", entry.key) is None
        assert entry.path.exists()
    assert Store(tmp_path).find("stage", entry.key) is None
    assert not entry.path.exists()


def test_a_sound_entry_that_came_before_the_lock_was_had_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = Store(tmp_path), Store(tmp_path)
    old = writer.get_or_make("stage", SPEC, make)
    (old.path / "numbers.txt").write_text("1 2 4")
    lock = reader._lock

    def late(stage: str, key: str) -> object:  # between the look and the lock another process makes it anew
        monkeypatch.setattr(reader, "_lock", lock)
        writer.get_or_make(stage, SPEC, make)
        return lock(stage, key)

    monkeypatch.setattr(reader, "_lock", late)
    found = reader.find("stage", old.key)
    assert found is not None
    assert (found.path / "numbers.txt").read_text() == "1 2 3"


def test_an_entry_that_is_deleted_while_all_are_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    entries = [store.get_or_make("stage", {"n": n}, make) for n in range(2)]
    read = store_module.read_manifest

    def late(folder: Path) -> object:
        if folder == entries[0].path:
            Store(tmp_path).remove(entries[0])
        return read(folder)

    monkeypatch.setattr(store_module, "read_manifest", late)
    assert [getattr(found, "path", found) for found in store.entries()] == [entries[1].path]
