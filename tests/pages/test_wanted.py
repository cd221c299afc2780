"""The link that waits while somebody signs in: whose it is, how long, and what of it is believed."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.web.server.starlette.starlette_app_utils import generate_xsrf_token_string

from dmcore.ui import wanted

PAGES: Any = [SimpleNamespace(url_path=path) for path in ("", "runs", "scaling")]
ADA, BEN = b"a" * 16, b"b" * 16


class Query(dict[str, list[str]]):
    def get_all(self, key: str) -> list[str]:
        return self[key]


class Seen:
    """Streamlit, as one step of a session has it; `opened`: where the step went on to."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, dict[str, list[str]]]] = []
        self.context, self.query_params, self.session_state = SimpleNamespace(), Query(), {}
        self.at(ADA, "/")

    def at(self, token: bytes | None, path: str, /, **query: list[str]) -> None:
        """A new session of a browser, whose cookie is written anew each time."""
        cookies = {"_streamlit_xsrf": generate_xsrf_token_string(token, 1)} if token else {}
        self.context = SimpleNamespace(url=f"https://dm.lab.example{path}", cookies=cookies)
        self.query_params, self.session_state = Query(query), {}

    def switch_page(self, page: Any, query_params: dict[str, list[str]]) -> None:
        self.opened.append((page.url_path, query_params))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    made = Seen()
    monkeypatch.setattr(wanted, "st", made)
    monkeypatch.setattr(wanted, "_WANTED", {})
    yield made


def test_a_link_comes_back_once_to_the_browser_that_asked(seen: Seen) -> None:
    seen.at(ADA, "/base/runs/", show=["New study"], x=["1", "2"])
    wanted.keep_link()
    seen.at(BEN, "/")
    wanted.go_on(PAGES, PAGES[0])
    assert seen.opened == []
    seen.at(ADA, "/")
    wanted.go_on(PAGES, PAGES[0])
    assert seen.opened == [("runs", {"show": ["New study"], "x": ["1", "2"]})]
    seen.at(ADA, "/")
    wanted.go_on(PAGES, PAGES[0])
    assert len(seen.opened) == 1


def test_only_the_first_step_at_the_root_goes_on(seen: Seen) -> None:
    seen.at(ADA, "/runs")
    wanted.keep_link()
    seen.at(ADA, "/scaling")
    wanted.go_on(PAGES, PAGES[2])
    seen.at(ADA, "/", study=["x"])
    wanted.go_on(PAGES, PAGES[0])
    seen.session_state, seen.query_params = {"wanted.looked": True}, Query()
    wanted.go_on(PAGES, PAGES[0])
    assert seen.opened == []


def test_a_link_is_forgotten_after_minutes_and_when_the_root_is_asked_for(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(wanted.time, "monotonic", lambda: now[0])
    for change in (lambda: now.__setitem__(0, wanted.SECONDS + 1.0), lambda: (seen.at(ADA, "/"), wanted.keep_link())):
        seen.at(ADA, "/runs")
        wanted.keep_link()
        assert len(wanted._WANTED) == 1
        change()
        seen.at(ADA, "/")
        wanted.go_on(PAGES, PAGES[0])
        assert seen.opened == [] and wanted._WANTED == {}


def test_a_page_that_is_not_there_and_endless_parameters_are_not_kept(seen: Seen) -> None:
    seen.at(ADA, "/evil.example")
    wanted.keep_link()
    seen.at(ADA, "/")
    wanted.go_on(PAGES, PAGES[0])
    seen.at(ADA, "/runs", q=["x" * 5_000])
    wanted.keep_link()
    seen.at(ADA, "/")
    wanted.go_on(PAGES, PAGES[0])
    assert seen.opened == []
    # Parameters of the first page itself come back too.
    seen.at(ADA, "/", study=["demo"])
    wanted.keep_link()
    seen.at(ADA, "/")
    wanted.go_on(PAGES, PAGES[0])
    assert seen.opened == [("", {"study": ["demo"]})]


def test_without_the_cookie_nothing_is_kept_and_many_browsers_do_not_fill_the_memory(seen: Seen) -> None:
    seen.at(None, "/runs")
    wanted.keep_link()
    assert wanted._WANTED == {}
    for i in range(wanted.MOST + 10):
        seen.at(i.to_bytes(16, "big"), "/runs")
        wanted.keep_link()
    assert len(wanted._WANTED) == wanted.MOST
