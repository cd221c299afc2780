"""A real browser, one for all tests: Playwright has one event loop a process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import NoReturn

import pytest

CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
                 "--disable-sync", "--no-first-run"]  # fmt: skip


def without_browser(reason: str) -> NoReturn:
    """Skip with the reason; fail where CI=true, so that nobody takes an untested app for a tested one."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def system_chromium() -> str | None:
    """Path of the system's Chromium; None leaves it to Playwright's own."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """A headless Chromium: the system's, or Playwright's own. Without one: skip, or fail where CI=true."""
    try:
        from playwright import sync_api
    except ImportError:
        without_browser("playwright is not installed: run `pip install -r requirements-dev.txt`")
    system = system_chromium()
    with sync_api.sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=system, args=CHROMIUM_ARGS)
        except sync_api.Error as error:
            first = str(error).splitlines()[0]
            without_browser(f"no Chromium: install the system's, or run `playwright install chromium` ({first})")
        yield chromium
        chromium.close()
