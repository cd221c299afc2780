"""How long a person waits for the pages, in a real browser.

1. `streamlit run app.py` from nothing to a drawn Overview.
2. A change of page, to each.
3. A slider of the sidebar on each page: key pressed to charts drawn with the new SAE's numbers.
4. A change of view on each page that has views, to each.

Run: `python benchmarks/pages.py [--repeats 7]`. Needs a Chromium (the system's, or Playwright's own). Prints medians, and
ends with status 1 if one is over its limit. It serves the study of `$DMCORE_CACHE`, or of `cache/`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
LIMITS = {"start": 5.0, "page": 1.0, "slider": 0.5, "view": 0.5}
"""Seconds, by the first word of a measurement's name."""

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--no-first-run"]  # fmt: skip

# Drawn: the heading is the page's, as many charts as it has hold marks, and the script has ended.
DRAWN = """([heading, n]) => {
  const title = document.querySelector('h1');
  const charts = [...document.querySelectorAll('[data-testid=stVegaLiteChart]')]
    .filter(c => c.querySelector('svg .role-mark, canvas') && !c.closest('[data-stale=true]'));
  const running = document.querySelector('[data-testid=stApp][data-test-script-state=running]');
  return title && title.innerText === heading && charts.length >= n && !running;
}"""
OVERVIEW = ["What does a sparse autoencoder miss?", 2]
REGRESSION = ["How linear is the error?", 4]
SCALING = ["What do wider dictionaries still miss?", 2]
NONLINEAR = ["What lives in the nonlinear error?", 3]
REDUCTION = ["What makes the error smaller at the same sparsity?", 1]
DOWNSTREAM = ["What does the error cost the model?", 1]
SCALING_VIEWS = {
    "Width × L0": ("What do width and sparsity do together?", 1),
    "Depth": ("Is it the same at every layer?", 3),
    "Sparsity": ("Which architecture leaves less error at equal L0?", 1),
    "Tokens": ("What does a context look like?", 4),
    "Norms": ("Whose size does a linear map know?", 2),
    "Width": ("What would a still wider dictionary leave?", 2),
}
NONLINEAR_VIEWS = {
    "Features": ("What does it fire on?", 2),
    "Not yet learned?": ("Does a wider SAE have these features already?", 1),
    "Structure of the error": ("In how many directions does the error lie?", 5),
    "Detection scores": ("How well can latents of each part be told?", 3),
    "SAEs on the parts": ("How much of each part can an SAE rewrite?", 3),
}
REDUCTION_VIEWS = {
    "All SAEs": ("Which method is best at every L0?", 1),
    "Ranks": ("How large must a skip be to absorb the linear error?", 1),
    "Earlier components": ("What do SAEs of earlier components know of the error?", 1),
    "Next token": ("Which method keeps the model's task?", 1),
    "Methods": ("Which method leaves the smallest error at the same sparsity?", 1),
}
DOWNSTREAM_VIEWS = {
    "Doses": ("Does a part cost in proportion to how much of it is missing?", 1),
    "Shares": ("Does a part cost what its size says?", 1),
    "Kinds of token": ("At which tokens do predictions suffer?", 1),
    "Tokens": ("Which tokens lose most?", 1),
    "Cost": ("What does it cost to hold something else there?", 1),
}
VIEWS = {
    "Scaling": (SCALING, SCALING_VIEWS),
    "Nonlinear error": (NONLINEAR, NONLINEAR_VIEWS),
    "Error reduction": (REDUCTION, REDUCTION_VIEWS),
    "Downstream": (DOWNSTREAM, DOWNSTREAM_VIEWS),
}
"""Of each page that has views: itself, and a heading of each view with its charts."""
_L0 = "L0 (active latents per token)"
STEPS = [
    ("Width (latents)", "ArrowRight"),
    ("Layer", "ArrowLeft"),
    ("Width (latents)", "ArrowLeft"),
    ("Layer", "ArrowRight"),
]
L0_STEPS = [(_L0, "ArrowLeft"), (_L0, "ArrowRight"), ("Layer", "ArrowLeft"), ("Layer", "ArrowRight")]
"""On Scaling the width chooses a point of one picture; layer and L0 choose the picture."""
CATALOGUE = ["Which SAEs are there?", 1]
RUNS = ["What is running?", 0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_app(port: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app.py",
        "--server.port",
        str(port),
        "--server.headless",
        "true",
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_port(port: int) -> None:
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)


def time_start(chromium: Any) -> float:
    """Seconds from `streamlit run` to a drawn Overview, server and page both cold."""
    port = free_port()
    page = chromium.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    started = time.perf_counter()
    server = start_app(port)
    try:
        wait_for_port(port)
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_function(DRAWN, arg=OVERVIEW, polling=20, timeout=60_000)
        return time.perf_counter() - started
    finally:
        page.context.close()
        server.terminate()
        server.wait(10)


def time_switch(page: Any, link: str, target: list[Any]) -> float:
    started = time.perf_counter()
    page.get_by_role("link", name=link).click()
    page.wait_for_function(DRAWN, arg=target, polling=20, timeout=60_000)
    return time.perf_counter() - started


def time_slide(page: Any, label: str, key: str, target: list[Any]) -> float:
    """Seconds from a key on a slider to a page drawn for another SAE."""
    address, finding = page.url, page.locator("h3").first.inner_text()
    started = time.perf_counter()
    page.get_by_role("slider", name=label).press(key)
    page.wait_for_function(
        f"([url, text, drawn]) => location.href !== url && document.querySelector('h3').innerText !== text && ({DRAWN})(drawn)",
        arg=[address, finding, target],
        polling=20,
        timeout=60_000,
    )
    return time.perf_counter() - started


def time_view(page: Any, title: str, name: str, heading: str, n_charts: int) -> float:
    """Seconds from a click on a view of the page with this title to its heading and charts."""
    button = (
        page.locator("[data-testid=stButtonGroup] button").filter(has_text=re.compile(rf"{re.escape(name)}$")).first
    )
    started = time.perf_counter()
    button.click()
    page.wait_for_function(
        f"([heading, drawn]) => [...document.querySelectorAll('h3, h4')].some(h => h.innerText === heading) && ({DRAWN})(drawn)",
        arg=[heading, [title, n_charts]],
        polling=20,
        timeout=60_000,
    )
    return time.perf_counter() - started


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of every measurement, by name."""
    times: dict[str, list[float]] = {}
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=system, args=ARGS)
        times["start: streamlit run to a drawn Overview"] = [time_start(chromium) for _ in range(max(3, repeats // 2))]
        port = free_port()
        server = start_app(port)
        try:
            wait_for_port(port)
            page = chromium.new_context(viewport={"width": 1400, "height": 1000}).new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_function(DRAWN, arg=OVERVIEW, polling=20, timeout=60_000)
            for name, target, steps in (
                ("width and layer on Overview", OVERVIEW, STEPS),
                ("width and layer on Regression", REGRESSION, STEPS),
                ("L0 and layer on Scaling", [SCALING[0], 1], L0_STEPS),  # a site with 3 widths has no laws to draw
            ):
                slider = times.setdefault(f"slider: {name}", [])
                time_switch(page, name.split()[-1], target)
                for _ in range(repeats):
                    for label, key in steps:
                        slider.append(time_slide(page, label, key, target))
                        page.wait_for_timeout(300)
            for name, (target, views) in VIEWS.items():
                time_switch(page, name, target)
                for view, (heading, n_charts) in [*views.items()] * repeats:
                    seconds = time_view(page, target[0], view, heading, n_charts)
                    times.setdefault(f"view: {view} on {name}", []).append(seconds)
                    page.wait_for_timeout(300)
            for _ in range(repeats):
                for link, target in (
                    ("Overview", OVERVIEW),
                    ("Regression", REGRESSION),
                    ("Scaling", SCALING),
                    ("Nonlinear error", NONLINEAR),
                    ("Error reduction", REDUCTION),
                    ("Downstream", DOWNSTREAM),
                    ("Catalogue", CATALOGUE),
                    ("Runs", RUNS),
                ):
                    times.setdefault(f"page: to {link}", []).append(time_switch(page, link, target))
                    page.wait_for_timeout(300)
        finally:
            server.terminate()
            server.wait(10)
        chromium.close()
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="rounds of each measurement (default 7)")
    times = measure(parser.parse_args().repeats)
    slow = False
    for name, seconds in times.items():
        median, limit = statistics.median(seconds), LIMITS[name.split(":")[0]]
        slow |= median > limit
        print(
            f"{name:45} median {median:5.2f} s  (limit {limit} s; {min(seconds):.2f} to {max(seconds):.2f}, n {len(seconds)})"
        )
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
