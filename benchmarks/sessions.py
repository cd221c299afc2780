"""Many sessions of one app at once, each moving the sliders of the sidebar, as fast as people do.

1. `streamlit run app.py` on a copy of the committed cache.
2. `--sessions` visitors arrive, `--arrive` a second, each on a page of its own choice (`visitor.py`: Streamlit's protocol, no
   browser), and move a slider by a step, think, and so on; one move in ten is to another page.
3. At the same time a real Chromium does the same, and says when the chart of the new SAE is drawn.
4. Memory and processor of the server are read every second.

Run: `python benchmarks/sessions.py [--sessions 50] [--seconds 120] [--think 2 4]`. Ends with status 1 where a page said an error,
the median of a slider's answers is over 1 s, or memory is over 2 GiB or grows by over 10 % in the second half.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pages import ARGS, DRAWN, OVERVIEW, free_port, time_slide, wait_for_port  # noqa: E402
from benchmarks.visitor import SLIDERS, SLIDING, Answer, Visitor, wander  # noqa: E402

LIMITS = {"median": 1.0, "gib": 2.0, "growth": 1.10}


@dataclass
class Meter:
    """Memory and processor of a process, once a second, until stopped."""

    process: psutil.Process
    rss: list[tuple[float, int]] = field(default_factory=list)
    """`time.monotonic()` and bytes, of the process and its children."""
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stopped.wait(1.0):
            family = [self.process, *self.process.children(recursive=True)]
            self.rss.append((time.monotonic(), sum(p.memory_info().rss for p in family if p.is_running())))

    def cpu_seconds(self) -> float:
        """Of the process so far."""
        times = self.process.cpu_times()
        return times.user + times.system


async def visit(url: str, options: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    """All visitors; their answers, and when all of them had arrived and when the last one left."""
    rng = random.Random(options.seed)
    visitors = [Visitor(url, random.Random(rng.random())) for _ in range(options.sessions)]
    until = time.monotonic() + options.sessions / options.arrive + options.seconds

    async def one(number: int, visitor: Visitor) -> None:
        await asyncio.sleep(number / options.arrive)
        await visitor.arrive(SLIDING[number % len(SLIDING)])
        await wander(visitor, math.inf, options.think, options.turn_every, until)

    tasks = [asyncio.create_task(one(i, visitor)) for i, visitor in enumerate(visitors)]
    await asyncio.sleep(options.sessions / options.arrive)
    arrived, cpu = time.monotonic(), meter.cpu_seconds()
    await asyncio.gather(*tasks)
    used, seconds = meter.cpu_seconds() - cpu, time.monotonic() - arrived
    for visitor in visitors:
        await visitor.leave()
    return {
        "answers": [a for visitor in visitors for a in visitor.answers],
        "arrived": arrived,
        "cpu": used,
        "seconds": seconds,
    }


def look_in_browser(url: str, stop: threading.Event, out: list[float], failed: list[str]) -> None:
    """Seconds from a key on a slider to the new SAE's chart, in a real Chromium, until told to stop."""
    from playwright.sync_api import sync_playwright

    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=system, args=ARGS)
        page = chromium.new_context(viewport={"width": 1400, "height": 1000}).new_page()
        try:
            page.goto(url)
            page.wait_for_function(DRAWN, arg=OVERVIEW, polling=50, timeout=60_000)
            keys = ["ArrowRight", "ArrowLeft"]
            while not stop.is_set():
                out.append(time_slide(page, "Width (latents)", keys[len(out) % 2], OVERVIEW))
                page.wait_for_timeout(3000)
        except Exception as error:
            failed.append(str(error).splitlines()[0])
        chromium.close()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start the app on a copy of the cache, let everybody in, and count."""
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        shutil.copytree(options.cache, cache)
        port = free_port()
        log = (Path(scratch) / "server.log").open("w+", encoding="utf-8")
        server = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)],
            cwd=ROOT, env={**os.environ, "DMCORE_CACHE": str(cache)}, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        meter = Meter(psutil.Process(server.pid))
        stop, drawn, failed = threading.Event(), [], []
        browser = threading.Thread(target=look_in_browser, args=(f"http://127.0.0.1:{port}", stop, drawn, failed))
        try:
            wait_for_port(port)
            threading.Thread(target=meter.run, daemon=True).start()
            if options.browser:
                browser.start()
            found = asyncio.run(visit(f"http://127.0.0.1:{port}", options, meter))
        finally:
            stop.set()
            if browser.is_alive():
                browser.join(120)
            meter.stopped.set()
            server.terminate()
            server.wait(20)
        log.seek(0)
        said = log.read()
    if "Traceback" in said:
        print(said[:20000], file=sys.stderr)
    return {**found, "rss": meter.rss, "drawn": drawn, "failed": failed, "tracebacks": said.count("Traceback (most")}


def summarise(found: dict[str, Any]) -> dict[str, Any]:
    """The numbers that the figures are about. Memory is flat if its second half is no more than its first, once all had come."""
    answers: list[Answer] = found["answers"]
    slides = [a for a in answers if a.kind in SLIDERS and a.sent >= found["arrived"]]
    seconds = sorted(a.seconds for a in slides)
    settled = [(t, rss) for t, rss in found["rss"] if t >= found["arrived"]]
    half = len(settled) // 2
    first, second = (statistics.median(r for _, r in part) for part in (settled[half // 2 : half], settled[half:]))
    errors = Counter(error for a in answers for error in a.errors)
    return {
        "answers": len(answers),
        "slides": len(slides),
        "exceptions": sum(errors.values()) + found["tracebacks"],
        "errors": dict(errors.most_common(5)),
        "failed in the browser": found["failed"],
        "slide median s": round(statistics.median(seconds), 3),
        "slide p95 s": round(seconds[int(0.95 * (len(seconds) - 1))], 3),
        "slide max s": round(seconds[-1], 3),
        "page median s": round(statistics.median(a.seconds for a in answers if a.kind == "page"), 3),
        "answers a second": round(len(slides) / (max(a.sent for a in slides) - found["arrived"]), 1),
        "KiB an answer": round(statistics.mean(a.n_bytes for a in slides) / 1024),
        "in Chromium, median s": round(statistics.median(found["drawn"]), 2) if found["drawn"] else None,
        "in Chromium, slides": len(found["drawn"]),
        "server cores": round(found["cpu"] / found["seconds"], 2),
        "server CPU ms an answer": round(1e3 * found["cpu"] / sum(a.sent >= found["arrived"] for a in answers)),
        "memory max GiB": round(max(r for _, r in found["rss"]) / 2**30, 3),
        "memory first half GiB": round(first / 2**30, 3),
        "memory second half GiB": round(second / 2**30, 3),
        "memory by 10 s, MiB": [round(r / 2**20) for _, r in found["rss"][::10]],
        "slide median s by page": {
            page: round(statistics.median(a.seconds for a in slides if a.page == page), 3)
            for page in sorted({a.page for a in slides})
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0, help="after all have arrived (default 120)")
    parser.add_argument("--think", type=float, nargs=2, default=(2.0, 4.0), help="seconds between moves (default 2 4)")
    parser.add_argument("--arrive", type=float, default=2.0, help="sessions a second that arrive (default 2)")
    parser.add_argument("--turn-every", type=int, default=10, help="moves between pages (default 10; 0: stay)")
    parser.add_argument("--cache", type=Path, default=ROOT / "cache", help="is copied first (default: the demo's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--no-browser", dest="browser", action="store_false", help="without a real Chromium beside them"
    )
    numbers = summarise(measure(parser.parse_args()))
    print(json.dumps(numbers, indent=1))
    late = numbers["slide median s"] > LIMITS["median"]
    grown = numbers["memory second half GiB"] > LIMITS["growth"] * numbers["memory first half GiB"]
    large = numbers["memory max GiB"] > LIMITS["gib"]
    return int(bool(late or grown or large or numbers["exceptions"] or numbers["failed in the browser"]))


if __name__ == "__main__":
    sys.exit(main())
