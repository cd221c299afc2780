"""The real app in a real browser: drawn, quiet, linkable, in both themes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.pages.conftest import serve

pytestmark = pytest.mark.browser

PAGES = {
    "/": ("What does a sparse autoencoder miss?", 2),
    "/regression": ("How linear is the error?", 4),
    "/regression?part=settings": ("How linear is the error?", 4),
    "/regression?part=baselines": ("How linear is the error?", 5),
    "/catalogue": ("Which SAEs are there?", 1),
}
"""Heading of each page, and how many charts it has; Runs, which has none, is in `test_runs_browser.py`."""

NAVIGATION = ("Overview", "Regression", "Scaling", "Nonlinear error", "Error reduction", "Downstream", "Synthetic",
              "Controls", "Catalogue", "Runs", "Health")  # fmt: skip

CHART = "[data-testid=stVegaLiteChart] svg, [data-testid=stVegaLiteChart] canvas"
TIMEOUT = 30_000


class Watched:
    """A browser page that remembers what went wrong on it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        page.on("request", lambda request: self._note(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https", "ws", "wss"}:
            self.hosts.add(parts.hostname or "")

    def open(self, url: str, n_charts: int) -> None:
        self.page.goto(url)
        self.page.wait_for_function(
            "([selector, n]) => document.querySelectorAll(selector).length >= n"
            " && !document.querySelector('[data-testid=stApp][data-test-script-state=running]')",
            arg=[CHART, n_charts],
            timeout=TIMEOUT,
        )

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def metrics(self) -> list[str]:
        cards = "document.querySelectorAll('[data-testid=stMetricValue]').length >= 4"
        self.page.wait_for_function(cards, timeout=TIMEOUT)
        return self.page.locator("[data-testid=stMetricValue]").all_inner_texts()


@pytest.fixture(params=["light", "dark"])
def theme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def watched(browser: Any, theme: str) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, color_scheme=theme)
    yield Watched(context.new_page())
    context.close()


@pytest.fixture
def light(browser: Any) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, color_scheme="light")
    yield Watched(context.new_page())
    context.close()


def slide(watched: Watched, label: str, key: str) -> None:
    """Press a key on a slider of the sidebar and wait until the page has been drawn again."""
    before = watched.page.url
    watched.page.get_by_role("slider", name=label).press(key)
    watched.page.wait_for_function("(url) => location.href !== url", arg=before, timeout=TIMEOUT)
    watched.page.wait_for_timeout(300)


@pytest.mark.parametrize("path", PAGES)
def test_each_page_is_drawn_without_errors_and_without_leaving_the_machine(
    app_url: str, watched: Watched, path: str
) -> None:
    heading, n_charts = PAGES[path]
    watched.open(app_url + path, n_charts)
    assert watched.text("h1") == heading
    assert watched.page.locator("[data-testid=stException], [data-testid=stAlert]").count() == 0
    assert watched.page.locator(CHART).count() >= n_charts
    assert watched.errors == []
    assert watched.hosts == {"127.0.0.1"}


def test_the_very_first_visit_may_be_to_any_page(fake_cache: Path, light: Watched) -> None:
    with serve(fake_cache) as url:
        light.open(f"{url}/regression", PAGES["/regression"][1])
        links = light.page.locator("[data-testid=stSidebarNavLink]").all_inner_texts()
        assert [link.split("\n")[-1] for link in links] == [*NAVIGATION]
        assert light.page.locator("[data-testid=stMainBlockContainer]").bounding_box()["width"] > 1000


def test_the_controls_show_the_choice_on_every_page_that_one_goes_to(app_url: str, light: Watched) -> None:
    light.open(app_url, 2)

    def shown() -> list[str | None]:
        return [slider.get_attribute("aria-valuetext") for slider in light.page.get_by_role("slider").all()]

    first = shown()
    assert any(value not in {"0", None} for value in first), "the study's home is not at the first stop of each control"
    for link, heading in (
        ("Regression", "How linear is the error?"),
        ("Overview", "What does a sparse autoencoder miss?"),
    ):
        light.page.get_by_role("link", name=link).click()
        light.page.get_by_role("heading", name=heading, exact=True).wait_for(timeout=TIMEOUT)
        light.page.wait_for_timeout(1500)
        assert shown() == first, f"on {link}"
        chosen = light.page.locator("[data-testid=stSidebar] [data-testid=stButtonGroup] button[aria-checked=true]")
        assert chosen.inner_text() == "Residual"


def test_total_error_is_dark_on_light_and_light_on_dark(app_url: str, watched: Watched, theme: str) -> None:
    watched.open(app_url, 2)
    drawn = watched.page.content().lower()
    expected, other = ("#222222", "#e6e6e6") if theme == "light" else ("#e6e6e6", "#222222")
    marks = "[data-testid=stVegaLiteChart] .mark-line path, [data-testid=stVegaLiteChart] .mark-rule line"
    strokes = {
        s.lower() for s in watched.page.locator(marks).evaluate_all("n => n.map(e => e.getAttribute('stroke') || '')")
    }
    assert expected in strokes, drawn[:0] + str(strokes)
    assert other not in strokes
    ground = watched.page.locator("[data-testid=stApp]").evaluate("e => getComputedStyle(e).backgroundColor")
    red = int(ground.split("(")[1].split(",")[0])
    assert (red > 128) == (theme == "light")


def test_every_text_of_a_chart_can_be_read_on_its_ground(app_url: str, watched: Watched, theme: str) -> None:
    for path, (_, n_charts) in PAGES.items():
        watched.open(app_url + path, n_charts)
        fills = watched.page.locator("[data-testid=stVegaLiteChart] .role-mark text").evaluate_all(
            "nodes => nodes.filter(n => n.textContent).map(n => n.getAttribute('fill'))"
        )
        assert fills or path == "/catalogue"  # whose chart is labelled by its axes alone
        hidden = {"#000", "#000000", "black", "#222222"} if theme == "dark" else {"#e6e6e6"}
        assert not hidden & set(fills)


def test_sliding_changes_the_numbers_and_the_address_and_a_shared_link_brings_them_back(
    app_url: str, light: Watched
) -> None:
    light.open(app_url, 2)
    first = light.metrics()
    slide(light, "Width (latents)", "ArrowRight")
    slide(light, "L0 (active latents per token)", "ArrowLeft")
    light.page.wait_for_function(
        "(old) => document.querySelector('[data-testid=stMetricValue]').innerText !== old", arg=first[0]
    )
    moved, shared = light.metrics(), light.page.url
    assert moved != first
    query = parse_qs(urlsplit(shared).query)
    assert (query["width"], query["l0"]) == (["2048"], ["7.98"])
    light.page.get_by_role("button", name="Link to this view").click()
    offered = light.page.locator("[data-testid=stPopoverBody] code")
    offered.wait_for(timeout=TIMEOUT)
    assert offered.inner_text().replace("\n", "") == shared
    other = Watched(light.page.context.browser.new_context().new_page())
    other.open(shared, 2)
    assert other.metrics() == moved
    assert urlsplit(other.page.url).query == urlsplit(shared).query
    other.page.context.close()


def test_the_selection_survives_a_change_of_page_and_back(app_url: str, light: Watched) -> None:
    light.open(f"{app_url}/?layer=3&width=4096", 2)
    light.page.get_by_role("link", name="Regression").click()
    light.page.get_by_role("heading", name="How linear is the error?").wait_for(timeout=TIMEOUT)
    light.page.wait_for_url("**/regression?*layer=3*width=4096*", timeout=TIMEOUT)
    light.page.get_by_text("no", exact=True).first.click()
    light.page.wait_for_url("**bias=no*", timeout=TIMEOUT)
    light.page.get_by_role("link", name="Overview").click()
    light.page.get_by_role("heading", name="What does a sparse autoencoder miss?").wait_for(timeout=TIMEOUT)
    light.page.wait_for_url("**/?*layer=3*width=4096*", timeout=TIMEOUT)
    assert "bias" not in light.page.url
    light.page.get_by_role("link", name="Regression").click()
    light.page.wait_for_url("**bias=no*", timeout=TIMEOUT)


def test_the_back_button_brings_the_view_before_back(app_url: str, light: Watched) -> None:
    light.open(app_url, 2)
    first, url = light.metrics(), light.page.url
    slide(light, "Width (latents)", "ArrowRight")
    light.page.wait_for_function(
        "(old) => document.querySelector('[data-testid=stMetricValue]').innerText !== old", arg=first[0]
    )
    light.page.go_back()
    light.page.wait_for_url(url, timeout=TIMEOUT)
    light.page.wait_for_function(
        "(old) => document.querySelector('[data-testid=stMetricValue]').innerText === old", arg=first[0]
    )


def test_hostile_links_are_drawn_and_never_echoed(app_url: str, light: Watched) -> None:
    light.open(
        f"{app_url}/?study=%3Cscript%3Ealert(1)%3C/script%3E&layer=99999999999999&l0=nan&arch=%22%3E%3Cimg src=x>", 2
    )
    body = light.page.locator("body").inner_text()
    assert "script>" not in body and "<img" not in body
    assert "showing the nearest" in body
    assert light.errors == []


@pytest.mark.parametrize(
    ("label", "start"), [("Data (CSV)", b"d_sae"), ("Picture (SVG)", b"<svg"), ("Picture (PNG)", b"\x89PNG")]
)
def test_data_and_picture_of_the_main_chart_can_be_downloaded(
    app_url: str, light: Watched, label: str, start: bytes
) -> None:
    light.open(app_url, 2)
    light.page.locator(".st-key-menu-error_budget button").first.click()
    with light.page.expect_download(timeout=TIMEOUT) as download:
        light.page.get_by_role("button", name=label).click()
    assert download.value.path().read_bytes().startswith(start)


def test_a_click_on_a_row_of_the_table_shows_that_sae(app_url: str, light: Watched) -> None:
    light.open(app_url, 2)
    table = light.page.locator("[data-testid=stDataFrame]")
    table.scroll_into_view_if_needed()
    table.click(position={"x": 20, "y": 36 + 17})
    light.page.wait_for_url("**layer=0&width=256*", timeout=TIMEOUT)
    light.page.wait_for_function(
        "document.querySelector('[data-testid=stMetricValue]').innerText === '0.134'", timeout=TIMEOUT
    )


def test_in_a_narrow_window_every_chart_is_wide_enough_and_every_number_whole(app_url: str, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 900, "height": 1000})
    narrow = Watched(context.new_page())
    for path in ("/", "/regression"):
        narrow.open(app_url + path, PAGES[path][1])
        assert all("…" not in value for value in narrow.metrics())
        values = narrow.page.locator("[data-testid=stMetricValue] > div")
        assert all(values.evaluate_all("nodes => nodes.map(n => n.scrollWidth <= n.clientWidth + 1)"))
        charts = narrow.page.locator("[data-testid=stVegaLiteChart]")
        assert min(charts.evaluate_all("nodes => nodes.map(n => n.clientWidth)")) >= 380
    context.close()
