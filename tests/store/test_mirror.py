"""A shared storage beside the cache: entries go there whole, come back sound, and nothing leaves its folder."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from filelock import Timeout

from dmcore.errors import Cancelled, StoreError
from dmcore.progress import Reporter
from dmcore.run.cli import main
from dmcore.run.engines import Engine, open_pipeline
from dmcore.store.fingerprint import content_key
from dmcore.store.manifest import MANIFEST
from dmcore.store.mirror import MirroredStore, file_names, shown_url
from dmcore.store.store import Entry, Store

SPEC: dict[str, Any] = {"stage": "codes", "of": "a test"}
KEY = content_key(SPEC)


def fill(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "numbers.npy").write_bytes(b"numbers")
    (folder / "deep" / "table.parquet").write_bytes(b"table")


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/shared"
    fsspec.filesystem("memory").store.clear()
    return "memory://shared/cache"


def test_what_one_node_makes_another_finds(url: str, tmp_path: Path) -> None:
    one, other = (MirroredStore(tmp_path / name, url) for name in ("one", "other"))
    assert not other.has("codes", KEY)
    assert other.find("codes", KEY) is None
    made = one.get_or_make("codes", SPEC, fill)
    assert other.has("codes", KEY)
    assert not (tmp_path / "other" / "codes").exists(), "asking whether it is there fetches nothing"
    found = other.find("codes", KEY)
    assert found is not None
    assert found.manifest == made.manifest
    assert (found.path / "deep" / "table.parquet").read_bytes() == b"table"
    again = other.get_or_make("codes", SPEC, lambda _: pytest.fail("it was there"))
    assert again.path == found.path


def test_an_entry_without_its_manifest_is_not_there(url: str, tmp_path: Path) -> None:
    one, other = (MirroredStore(tmp_path / name, url) for name in ("one", "other"))
    one.get_or_make("codes", SPEC, fill)
    fs, base = fsspec.core.url_to_fs(url)
    fs.rm(f"{base}/codes/{KEY}/{MANIFEST}")
    assert other.find("codes", KEY) is None
    assert not other.has("codes", KEY)


def test_what_is_damaged_there_is_made_again_and_pushed(url: str, tmp_path: Path) -> None:
    one, other = (MirroredStore(tmp_path / name, url) for name in ("one", "other"))
    one.get_or_make("codes", SPEC, fill)
    fs, base = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{base}/codes/{KEY}/numbers.npy", b"numbars")
    assert other.find("codes", KEY) is None
    other.get_or_make("codes", SPEC, fill)
    third = MirroredStore(tmp_path / "third", url).find("codes", KEY)
    assert third is not None
    assert (third.path / "numbers.npy").read_bytes() == b"numbers"


@pytest.mark.parametrize("ask", ["has", "find"])
def test_what_was_here_alone_is_pushed_when_it_is_asked_for(ask: str, url: str, tmp_path: Path) -> None:
    Store(tmp_path / "one").get_or_make("codes", SPEC, fill)  # by the local engine, or by a push that was cut off
    one, other = (MirroredStore(tmp_path / name, url) for name in ("one", "other"))
    assert not other.has("codes", KEY)
    assert getattr(one, ask)("codes", KEY)
    assert other.has("codes", KEY)
    found = other.find("codes", KEY)
    assert found is not None
    assert (found.path / "numbers.npy").read_bytes() == b"numbers"


def test_what_is_here_alone_and_damaged_is_neither_there_nor_pushed(url: str, tmp_path: Path) -> None:
    entry = Store(tmp_path / "one").get_or_make("codes", SPEC, fill)
    (entry.path / "numbers.npy").write_bytes(b"numbars")
    one = MirroredStore(tmp_path / "one", url)
    assert not one.has("codes", KEY)
    assert not MirroredStore(tmp_path / "other", url).has("codes", KEY)


def test_what_is_damaged_there_is_not_fetched_for_ever(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (MirroredStore(tmp_path / name, url) for name in ("one", "other"))
    one.get_or_make("codes", SPEC, fill)
    fs, base = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{base}/codes/{KEY}/numbers.npy", b"numbars")
    fetched, fetch = [], other._fs.get_file
    monkeypatch.setattr(other._fs, "get_file", lambda *names: (fetched.append(names), fetch(*names))[1])
    assert [other.find("codes", KEY) for _ in range(5)] == [None] * 5
    assert len(fetched) == 2 * 2, "two files, twice: the second time in case that the way was at fault"
    assert "is damaged in" in caplog.text
    assert not MirroredStore(tmp_path / "third", url).has("codes", KEY), "nobody counts on it any more"
    assert not list((tmp_path / "other").rglob("numbers.npy")), "no copy of what is damaged is left here"


def test_what_lacks_a_file_there_counts_as_damaged_and_not_as_there_for_ever(url: str, tmp_path: Path) -> None:
    one, other = (MirroredStore(tmp_path / name, url) for name in ("one", "other"))
    one.get_or_make("codes", SPEC, fill)
    fs, base = fsspec.core.url_to_fs(url)
    fs.rm(f"{base}/codes/{KEY}/numbers.npy")
    assert other.has("codes", KEY)
    assert other.find("codes", KEY) is None
    assert not other.has("codes", KEY), "so that it is made again"


def test_what_was_damaged_on_its_way_alone_is_fetched_again(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (MirroredStore(tmp_path / name, url) for name in ("one", "other"))
    one.get_or_make("codes", SPEC, fill)
    fetch = other._fs.get_file

    def cut(there: str, here: str) -> None:
        monkeypatch.setattr(other._fs, "get_file", fetch)
        Path(here).write_bytes(b"num")

    monkeypatch.setattr(other._fs, "get_file", cut)
    found = other.find("codes", KEY)
    assert found is not None
    assert (found.path / "numbers.npy").read_bytes() == b"numbers"
    assert one.has("codes", KEY)


def test_what_is_being_fetched_is_locked_and_not_swept(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (MirroredStore(tmp_path / name, url) for name in ("one", "other"))
    one.get_or_make("codes", SPEC, fill)
    fetch, held = other._fs.get_file, []

    def watched(there: str, here: str) -> None:
        held.append(Store(tmp_path / "other").sweep_partial())
        with pytest.raises(StoreError, match="Another process is making"):
            Store(tmp_path / "other").begin("codes", SPEC, wait=0)
        fetch(there, here)

    monkeypatch.setattr(other._fs, "get_file", watched)
    assert other.find("codes", KEY) is not None
    assert held == [[], []]


def test_who_waits_for_another_to_fetch_can_be_cancelled(url: str, tmp_path: Path) -> None:
    one, other = (MirroredStore(tmp_path / name, url) for name in ("one", "other"))
    one.get_or_make("codes", SPEC, fill)
    other.waiting = lambda: True
    (tmp_path / "other" / "locks").mkdir(parents=True)
    with (tmp_path / "other" / "locks" / f"codes-{KEY}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Cancelled, match="Waiting for codes"):
            other.find("codes", KEY)
    assert other.find("codes", KEY) is not None


def test_an_entry_is_there_before_the_next_maker_has_its_lock(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = MirroredStore(tmp_path / "one", url)
    push, seen = one._push, []

    def watched(entry: Entry) -> None:
        with pytest.raises(Timeout):
            one._lock("codes", KEY).acquire(timeout=0)
        push(entry)
        seen.append(entry.key)

    monkeypatch.setattr(one, "_push", watched)
    one.get_or_make("codes", SPEC, fill)
    assert seen == [KEY]
    one._lock("codes", KEY).acquire(timeout=0)


def test_dropping_by_name_fetches_nothing(url: str, tmp_path: Path) -> None:
    one, other = (MirroredStore(tmp_path / name, url) for name in ("one", "other"))
    one.get_or_make("codes", SPEC, fill)
    other.drop("codes", KEY)
    assert not other.has("codes", KEY)
    assert not (tmp_path / "other" / "codes").exists()
    one.drop("codes", KEY)
    assert one.find("codes", KEY) is None


def test_copies_of_what_others_have_deleted_go_when_they_are_trimmed(url: str, tmp_path: Path) -> None:
    one, other = (MirroredStore(tmp_path / name, url) for name in ("one", "other"))
    kept = {**SPEC, "of": "another"}
    for spec in (SPEC, kept):
        one.get_or_make("shard", spec, fill)
    one.get_or_make("codes", SPEC, fill)
    for stage in ("shard", "codes"):
        other.drop(stage, KEY)
    one.trim(["shard"])
    assert sorted(path.name for path in (tmp_path / "one" / "shard").iterdir()) == [content_key(kept)]
    assert (tmp_path / "one" / "codes" / KEY).is_dir(), "of a stage that was not named"


def test_a_storage_that_fails_is_not_one_that_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}/shared"
    one = MirroredStore(tmp_path / "one", url)
    entry = one.get_or_make("shard", SPEC, fill)

    def stale(*_: object, **__: object) -> None:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(type(one._fs), "info", stale)
        for ask in (lambda: one.trim(["shard"]), lambda: one.has("shard", KEY), lambda: one.remove(entry)):
            with pytest.raises(StoreError, match="cannot be used .*Stale file handle.*: mend it, then run again"):
                ask()
    assert (entry.path / "numbers.npy").read_bytes() == b"numbers", "nothing was deleted"
    assert MirroredStore(tmp_path / "other", url).find("shard", KEY) is not None


def test_what_another_process_holds_is_not_trimmed(url: str, tmp_path: Path) -> None:
    one, other = (MirroredStore(tmp_path / name, url) for name in ("one", "other"))
    entry = one.get_or_make("shard", SPEC, fill)
    other.drop("shard", KEY)
    with Store(tmp_path / "one")._lock("shard", KEY):
        one.trim(["shard"])
        assert entry.path.is_dir()
    one.trim(["shard"])
    assert not entry.path.exists()


def test_removing_removes_it_everywhere_but_where_it_was_fetched(url: str, tmp_path: Path) -> None:
    one = MirroredStore(tmp_path / "one", url)
    one.remove(one.get_or_make("codes", SPEC, fill))
    assert MirroredStore(tmp_path / "other", url).find("codes", KEY) is None
    fs, base = fsspec.core.url_to_fs(url)
    assert not fs.exists(f"{base}/codes/{KEY}")


@pytest.mark.parametrize("name", ["../../escaped", "/etc/escaped", "a/../../escaped", "..\\escaped", "", "nul\0"])
def test_a_manifest_that_names_a_file_outside_its_entry_is_refused(name: str, url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="names a file outside its entry: delete that entry there"):
        file_names(json.dumps({"files": {name: {}}}).encode())
    fs, base = fsspec.core.url_to_fs(url)
    fs.makedirs(f"{base}/codes/{KEY}", exist_ok=True)
    fs.pipe_file(f"{base}/codes/{KEY}/{MANIFEST}", json.dumps({"files": {name: {}}}).encode())
    with pytest.raises(StoreError, match="outside its entry"):
        MirroredStore(tmp_path / "one", url).find("codes", KEY)
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_storage_that_goes_away_is_one_sentence(tmp_path: Path) -> None:
    store = MirroredStore(tmp_path / "one", f"file://{tmp_path}/shared")
    (tmp_path / "shared").rmdir()
    (tmp_path / "shared").write_text("a file where the folder was")
    with pytest.raises(StoreError, match="cannot be used .*: mend it, then run again; finished work is kept"):
        store.get_or_make("codes", SPEC, fill)


def test_a_storage_that_fsspec_does_not_know_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="The storage nosuch://bucket cannot be used"):
        MirroredStore(tmp_path / "one", "nosuch://key:secret@bucket?token=secret")


def test_no_secret_of_a_url_is_shown() -> None:
    assert shown_url("s3://key:secret@bucket/a?token=secret") == "s3://bucket/a"
    assert shown_url("file:///mnt/a@b/c") == "file:///mnt/a@b/c"


def test_deleting_on_the_command_line_says_what_the_storage_keeps_or_deletes_there_too(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "one"))
    monkeypatch.setenv("DMCORE_STORAGE", url)
    one = MirroredStore(tmp_path / "one", url)
    one.get_or_make("codes", SPEC, fill)
    assert main(["cache", "rm", KEY]) == 0
    assert "keeps its copies: give --storage to delete them there too" in capsys.readouterr().out
    assert one.find("codes", KEY) is not None, "it is fetched again"
    assert main(["cache", "rm", KEY, "--storage", url]) == 0
    assert "keeps its copies" not in capsys.readouterr().out
    assert MirroredStore(tmp_path / "other", url).find("codes", KEY) is None


@pytest.mark.parametrize("what", ["codes", KEY, KEY[:6]])
def test_what_only_the_storage_has_can_be_deleted_there(
    what: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, root = MirroredStore(tmp_path / "one", url), tmp_path / "empty"
    one.get_or_make("codes", SPEC, fill)
    one.get_or_make("shard", {**SPEC, "of": "another"}, fill)
    monkeypatch.setenv("DMCORE_CACHE", str(root))
    assert main(["cache", "rm", what]) == 1, "not without being told where"
    capsys.readouterr()
    assert main(["cache", "rm", what, "--storage", url, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["removed"], said["only_in_storage"], said["bytes"]) == (1, 1, 0)
    assert one.names_there() == {("shard", content_key({**SPEC, "of": "another"}))}
    assert main(["cache", "rm", what, "--storage", url]) == 1
    assert MirroredStore(root, f"{url}/none").names_there() == set()


def test_a_job_counts_what_it_finds_and_can_be_cancelled_with_a_shared_storage_too(url: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    asking, seen = Store(tmp_path / "one"), list[tuple[str, str]]()
    asking.waiting, asking.seen = lambda: True, lambda *name: seen.append(name)
    MirroredStore(tmp_path / "other", url).get_or_make("codes", SPEC, fill)
    store = open_pipeline(Engine("ray", storage=url), "auto", Reporter(), store=asking).store
    assert store.waiting()
    assert store.find("codes", KEY) is not None
    assert store.find("codes", "0" * 32) is None
    assert seen == [("codes", KEY)]
