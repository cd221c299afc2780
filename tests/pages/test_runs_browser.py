"""The Runs page in a real browser, with a real worker: a job outlives the browser, and a link brings it back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from dmcore.run.jobs.queue import Queue
from tests.builders import build_study
from tests.pages.conftest import serve
from tests.run.jobs_seen import end_workers, wait_for

pytestmark = pytest.mark.browser
TIMEOUT = 60_000
START = "[class*=st-key-start-sweep][class*=studies-tiny] button"
CLICK = """(button, at) => {
    const look = () => { window.told ||= document.body.innerText.includes("A tiny study is in the queue."); };
    new MutationObserver(look).observe(document.body, {childList: true, subtree: true});
    setTimeout(() => button.click(), at - Date.now());
}"""
"""Click at a moment, and keep in mind that the page has said that the study is in the queue: it says so for seconds only."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The app on a cache that holds one small study and no result; any worker that it starts is ended."""
    root = tmp_path_factory.mktemp("runs") / "cache"
    study = build_study(root / "studies", architectures=("topk", "standard"))
    study.rename(study.with_name("tiny.toml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with serve(root) as url:
            yield url, root
    end_workers(root)


def new_page(browser: Any, theme: str = "light") -> Any:
    page = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme=theme).new_page()
    page.set_default_timeout(TIMEOUT)
    return page


def test_a_job_outlives_the_browser_and_two_browsers_share_it(served: tuple[str, Path], browser: Any) -> None:
    url, root = served
    pages = [new_page(browser) for _ in range(3)]
    for page in pages:
        page.goto(f"{url}/runs")
        # By its key: which Start is the first of the list changes while a page is drawn.
        expect(page.locator(START)).to_have_text(re.compile("Start$"), timeout=TIMEOUT)
        # What is drawn while the script still runs may be drawn again: a click on it is lost.
        page.locator("[data-test-script-state=notRunning]").wait_for()
    asking, watching = pages[:2], pages[2]
    at = time.time() * 1000 + 2_000  # both at one moment, before either is redrawn
    for page in asking:
        page.locator(START).evaluate(CLICK, at)
    for page in asking:
        page.wait_for_function("window.told")  # both have asked
    for page in [*asking, watching]:
        # While a browser redraws, what was drawn before may stand beside it for a moment.
        expect(page.get_by_role("button", name="Cancel")).to_have_count(1, timeout=TIMEOUT)
    assert len(Queue(root).jobs()) == 1
    job = Queue(root).jobs()[0]
    for page in pages:
        page.context.close()
    wait_for(lambda: Queue(root).job(job.id).state == "done", 120)
    page = new_page(browser)
    page.goto(f"{url}/runs?job={job.id}")
    page.get_by_text("6 of 6 SAEs have results").first.wait_for()
    assert "done" in page.locator("[data-testid=stCode]").first.inner_text()
    page.get_by_role("link", name="Show results").first.click()
    page.get_by_role("heading", name="What does a sparse autoencoder miss?").wait_for()
    assert "study=tiny" in page.url
    page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("tab", ["Jobs", "New study", "Disk"])
def test_each_tab_is_drawn_without_errors_and_without_leaving_the_machine(
    served: tuple[str, Path], browser: Any, theme: str, tab: str
) -> None:
    page = new_page(browser, theme)
    hosts, errors = set(), []
    page.on("request", lambda request: hosts.add(request.url.split("/")[2].split(":")[0]))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{served[0]}/runs?show={tab.replace(' ', '+')}")
    page.get_by_role("tab", name=tab, selected=True).wait_for()
    first = {"Jobs": "Start a study", "New study": "1. Model", "Disk": "Unfinished|The cache holds"}[tab]
    page.locator(f"text=/{first}/").first.wait_for()
    assert page.locator("[data-testid=stException]").count() == 0
    assert errors == []
    assert {host for host in hosts if host and not host.startswith("data")} == {"127.0.0.1"}
    page.context.close()
