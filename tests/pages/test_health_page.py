"""The Health page without a browser: what it says of a host that is well, and of one that is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dmcore.run.jobs.heartbeat import beat_path, first_beat, write_note
from dmcore.run.jobs.queue import Queue
from dmcore.ui import health_panel
from tests.pages.test_runs_page import ROOT, checked, words
from tests.run.jobs.test_queue import set_columns, write_study


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    health_panel._look.clear()
    health_panel._stages.clear()


def open_health() -> AppTest:
    health_panel._look.clear()
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    at.switch_page("pages/health.py")
    return checked(at.run())


def test_a_host_where_nothing_has_run_is_well(cache: Path) -> None:
    at = open_health()
    assert at.title[0].value == "Is this host well?"
    said = words(at)
    assert "None has run here yet" in said
    assert "torch 2.13.0" in said
    assert not cache.exists()  # a look writes nothing


def test_a_worker_that_is_silent_its_job_and_a_hostile_name_are_shown_as_text(cache: Path, tmp_path: Path) -> None:
    queue = Queue(cache)
    queue.submit("sweep", write_study(tmp_path), "cpu")
    job = queue.take("cpu")
    set_columns(queue, study="'<img src=x onerror=alert(1)> [a](https://b) | **c**'")
    beat = replace(first_beat("cpu"), state="working", job=job.id, silent=95.0)
    write_note(beat_path(cache, "cpu"), beat.__dict__)
    at = open_health()
    assert "alive, said" in words(at)
    assert "for 1 min 35 s" in words(at)  # no sign of life
    shown = next(m.value for m in at.markdown if "Sweep of" in m.value)
    assert "\\<img src=x" in shown
    assert "\\*\\*c" in shown
    assert "\\|" in shown
    write_note(beat_path(cache, "cpu"), replace(beat, at=time.time() - 100).__dict__)
    at = open_health()
    assert "Something is broken" in words(at)
    assert "silent for 1 min 40 s" in words(at)
    assert "its service's log" in words(at)


def test_the_page_says_whether_jobs_that_hang_are_found(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = words(open_health())
    assert "by the next worker" in said
    assert "on, after 15 min without a sign of life" in said
    assert "the job is begun again, once, before it counts as failed" in said
    monkeypatch.setenv("DMCORE_HANG_SECONDS", "soon")
    at = open_health()
    assert "Something is broken" in words(at)
    (told,) = [error.value.replace("\\", "") for error in at.error]
    assert "DMCORE_HANG_SECONDS is no number of 0 or above" in told
    monkeypatch.setenv("DMCORE_HANG_SECONDS", "5")
    write_note(beat_path(cache, "cpu"), replace(first_beat("cpu"), hang_seconds=60.0, hang_retries=0).__dict__)
    said = words(open_health())
    assert "on, after 1 min without a sign of life" in said
    assert "by the next worker" not in said


def test_the_page_loads_no_torch() -> None:
    import subprocess
    import sys

    script = "import dmcore.ui.health_panel, dmcore.run.host.doctor, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
