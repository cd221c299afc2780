"""What came with the program: the list is that of the checkout, and nothing of it is deleted from a page by mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from dmcore.errors import StoreError
from dmcore.places import HOME, SHIPPED_CACHE
from dmcore.run.cli import main
from dmcore.run.jobs.disk import delete_holdings, holdings
from dmcore.store.shipped import is_shipped, shipped_names
from dmcore.store.store import Entry, Store


def test_the_list_names_the_entries_of_the_checkout() -> None:
    there = {f"{path.parent.parent.name}/{path.parent.name}" for path in SHIPPED_CACHE.glob("*/*/manifest.json")}
    assert shipped_names() and shipped_names() <= there
    if (HOME / ".git").exists():
        tracked = subprocess.run(
            ["git", "ls-files", "cache"], cwd=HOME, capture_output=True, text=True, check=True
        ).stdout
        assert shipped_names() == {
            name.split("/", 1)[1].rsplit("/", 1)[0] for name in tracked.split() if "manifest" in name
        }


@pytest.fixture
def shipped_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A copy of two shipped entries, as if it were the checkout's cache and the second were the user's own."""
    first, second = sorted(name for name in shipped_names() if name.startswith("detection/"))[:2]
    for name in (first, second):
        shutil.copytree(SHIPPED_CACHE / name, tmp_path / name)
    monkeypatch.setattr("dmcore.store.shipped.SHIPPED_CACHE", tmp_path)
    monkeypatch.setattr("dmcore.store.shipped.shipped_names", lambda: frozenset({first}))
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    return Store(tmp_path)


def test_only_what_is_listed_is_kept_from_the_page(shipped_store: Store) -> None:
    held = {h.entry.key: h for h in holdings(shipped_store)}
    assert sorted(h.shipped for h in held.values()) == [False, True]
    with pytest.raises(StoreError, match="came with the app"):
        delete_holdings(shipped_store, list(held.values()), [])
    assert len(list(shipped_store.entries())) == 2
    delete_holdings(shipped_store, [h for h in held.values() if not h.shipped], [])
    (left,) = shipped_store.entries()
    assert isinstance(left, Entry) and is_shipped(shipped_store, left)
    assert not is_shipped(Store(shipped_store.root / "another"), left)


def test_the_command_says_what_brings_it_back(shipped_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "rm", "detection", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["removed"], told["shipped"]) == (2, 1)
