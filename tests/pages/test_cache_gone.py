"""Every page where the cache has vanished, is no folder, or its disk does not answer: a sentence, never an exception."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dmcore.errors import StoreError
from dmcore.places import HOME
from dmcore.run.jobs.files import leftovers
from dmcore.run.jobs.queue import Queue
from dmcore.store.disk import in_words, nearest
from dmcore.store.store import Store
from dmcore.ui import health_panel, reads
from tests.pages.fake_results import write_fake_study

PAGES = ["overview", "regression", "scaling", "nonlinear", "reduction", "downstream", "synthetic", "controls", "catalogue",
         "runs", "runs?Disk", "runs?New study", "health"]  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with results, in a folder that may go too."""
    root = tmp_path / "disk" / "cache"
    write_fake_study(root, n_saes=2)
    monkeypatch.setenv("DMCORE_CACHE", str(root))
    forget()
    yield root
    forget()


def forget() -> None:
    reads.forget()
    health_panel._look.clear()
    health_panel._stages.clear()


def opened(page: str) -> AppTest:
    name, _, show = page.partition("?")
    at = AppTest.from_file(str(HOME / "app.py"), default_timeout=60)
    at.switch_page(f"pages/{name}.py")
    if show:
        at.query_params["show"] = show
    return at.run()


def told(at: AppTest) -> str:
    assert [e.value for e in at.exception] == []
    return "\n".join(str(one.value) for one in [*at.info, *at.warning, *at.error]).replace("\\", "")


def vanish(root: Path) -> None:
    shutil.rmtree(root.parent)


def become_a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("x")


@pytest.mark.parametrize("hurt", [vanish, become_a_file])
@pytest.mark.parametrize("page", PAGES)
def test_no_page_breaks_where_the_cache_has_gone(cache: Path, page: str, hurt: Callable[[Path], None]) -> None:
    at = opened(page)
    told(at)
    hurt(cache)
    told(at.run())  # with what is in memory
    forget()
    told(at.run())
    told(opened(page))


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("page", PAGES)
def test_every_page_says_that_the_disk_does_not_answer(
    cache: Path, page: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    for where, name in ((Store, "find"), (Store, "entries"), (Queue, "jobs")):
        monkeypatch.setattr(where, name, refuse)
    said = told(opened(page))
    if page not in {"catalogue", "runs?New study"}:  # which read no result
        assert f"{'cannot be used' if number == errno.EACCES else 'does not answer'} ({os.strerror(number)})" in said
        assert str(cache) in said


def test_what_a_job_deletes_while_it_is_counted_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "partial" / "activations-x"
    folder.mkdir(parents=True)
    for name in "ab":
        (folder / name).write_bytes(b"1" * 10)
    really = os.walk

    def walk(top: Any, **more: Any) -> Iterator[Any]:
        for found in really(top, **more):
            (folder / "a").unlink(missing_ok=True)
            yield found

    monkeypatch.setattr(os, "walk", walk)
    assert leftovers(tmp_path) == 10


def test_a_folder_where_one_may_not_look_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir()
    really = os.stat

    def stat(path: Any, **more: Any) -> Any:
        if str(path).startswith(f"{shut}/"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(path, **more)

    monkeypatch.setattr(os, "stat", stat)
    assert nearest(shut / "jobs" / "x") == shut
    with pytest.raises(StoreError, match="cannot be used .Permission denied.: see that it is there"), in_words(shut):
        (shut / "x").stat()
