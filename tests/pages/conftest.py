"""A made-up study in a cache folder, the real app on it, and a real browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.pages.fake_results import write_fake_study

ROOT = Path(__file__).parents[2]

CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
                 "--disable-sync", "--no-first-run"]  # fmt: skip


@pytest.fixture(scope="session")
def fake_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the made-up study."""
    root = tmp_path_factory.mktemp("cache")
    write_fake_study(root)
    return root


@pytest.fixture
def in_fake_cache(fake_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The made-up study as the only one that pages find."""
    from dmcore.ui import reads

    monkeypatch.setenv("DMCORE_CACHE", str(fake_cache))
    reads.forget()
    yield fake_cache
    reads.forget()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serve(cache: Path, *, port: int | None = None, more: Sequence[str] = (), folder: Path = ROOT) -> Iterator[str]:
    """`streamlit run app.py` on a cache folder; its address. `more`: other options of the command; `folder`: where app.py is."""
    port = port or free_port()
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "streamlit",
            "run",
            "app.py",
            "--server.port",
            str(port),
            "--server.headless",
            "true",
            *more,
        ],
        cwd=folder,
        env={**os.environ, "DMCORE_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=1)
                break
            except OSError:
                assert server.poll() is None, "streamlit ended at once"
                time.sleep(0.1)
        else:
            raise AssertionError("streamlit did not answer in 60 s")
        yield url
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="session")
def app_url(fake_cache: Path) -> Iterator[str]:
    """Address of the app on the made-up study."""
    with serve(fake_cache) as url:
        yield url


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
