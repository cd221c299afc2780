"""Several sessions of one app at once: no error, each its own SAE, and nothing that could stop them all."""

from __future__ import annotations

import asyncio
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.visitor import SLIDING, Visitor, wander
from dmcore.run.jobs.queue import Queue
from tests.run.jobs.test_queue import write_study

ROOT = Path(__file__).parents[2]
SESSIONS, SLIDES = 8, 4


async def _visit(url: str) -> list[Visitor]:
    visitors = [Visitor(url, random.Random(number)) for number in range(SESSIONS)]
    # At the same moment, on a server that has loaded nothing yet: each page's first import races with the others'.
    await asyncio.gather(*(visitor.arrive(SLIDING[k % len(SLIDING)]) for k, visitor in enumerate(visitors)))
    await asyncio.gather(*(wander(visitor, SLIDES, (0.0, 0.2), 3) for visitor in visitors))
    for visitor in visitors:
        await visitor.leave()
    return visitors


def test_sessions_that_arrive_and_slide_at_once_are_answered_without_an_error(app_url: str) -> None:
    # In a thread of its own: a browser of another test has an event loop in this one.
    with ThreadPoolExecutor(1) as pool:
        visitors = pool.submit(lambda: asyncio.run(_visit(app_url))).result()
    answers = [answer for visitor in visitors for answer in visitor.answers]
    assert [error for answer in answers for error in answer.errors] == []
    assert len(answers) == SESSIONS * (1 + SLIDES)
    assert all(answer.sae for answer in answers)
    slides = [(before.sae, after.sae) for v in visitors for before, after in zip(v.answers, v.answers[1:], strict=False)
              if after.kind != "page"]  # fmt: skip
    assert sum(before != after for before, after in slides) > len(slides) / 2, "sliders choose other SAEs"


def test_sessions_that_ask_for_one_thing_at_once_make_one_job(tmp_path: Path) -> None:
    study = write_study(tmp_path, "study")
    start, found = threading.Barrier(SESSIONS), []

    def ask() -> None:
        start.wait()
        found.append(Queue(tmp_path / "cache").submit("sweep", study, "cpu").id)

    threads = [threading.Thread(target=ask) for _ in range(SESSIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == SESSIONS
    assert len(set(found)) == 1 == len(Queue(tmp_path / "cache").jobs())


@pytest.mark.parametrize("called", ["map_elements", "map_batches", "map_groups", "map_rows"])
def test_no_expression_of_polars_calls_python(called: str) -> None:
    """It would run in one of polars's threads: see `dmcore.results.columns`."""
    files = [
        path for folder in ("dmcore", "pages") for path in (ROOT / folder).rglob("*.py") if path.name != "columns.py"
    ]
    assert [str(path) for path in files if re.search(rf"\.{called}\(", path.read_text(encoding="utf-8"))] == []


def test_what_is_kept_in_memory_is_bounded() -> None:
    """Each cached read by study or SAE says how many it keeps."""
    for path in (ROOT / "dmcore" / "ui").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for line, signature in re.findall(r"@st\.cache_(?:resource|data)(.*)\ndef \w+(\(.*)", text):
            assert signature.startswith("()") or "max_entries=" in line, f"{path.name}: {signature}"
