"""A made-up study in a cache folder, and the real app on it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pages.fake_results import write_fake_study

ROOT = Path(__file__).parents[2]


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
def serve(
    cache: Path, *, port: int | None = None, more: Sequence[str] = (), folder: Path = ROOT, **variables: str
) -> Iterator[str]:
    """`streamlit run app.py` on a cache folder; its address.

    `more`: other options of the command; `folder`: where app.py is; `variables`: of its environment, and of no other server's.
    """
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
        env={**os.environ, "DMCORE_CACHE": str(cache), **variables},
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
