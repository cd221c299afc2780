"""The page Scaling in a real browser: clicks on charts and tables choose, and the text of tokens never runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.pages.conftest import serve
from tests.pages.fake_results import write_fake_study
from tests.pages.fake_scaling import HOSTILE, write_fake_scaling
from tests.pages.test_browser import TIMEOUT, Watched

pytestmark = pytest.mark.browser

SYMBOLS = "[data-testid=stVegaLiteChart] svg g.mark-symbol path"


@pytest.fixture(scope="module")
def scaled_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("scaled")
    write_fake_study(root)
    write_fake_scaling(root)
    with serve(root) as url:
        yield url


@pytest.fixture(params=["light", "dark"])
def watched(browser: Any, request: pytest.FixtureRequest) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1400, "height": 1600}, color_scheme=request.param)
    yield Watched(context.new_page())
    context.close()


@pytest.fixture
def light(browser: Any) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1400, "height": 1600}, color_scheme="light")
    yield Watched(context.new_page())
    context.close()


def query(watched: Watched) -> dict[str, str]:
    return {key: value[0] for key, value in parse_qs(urlsplit(watched.page.url).query).items()}


@pytest.mark.parametrize(
    ("view", "n_charts"), [("width", 2), ("plane", 1), ("depth", 3), ("sparsity", 1), ("tokens", 4), ("norms", 2)]
)
def test_each_view_is_drawn_in_both_themes_without_errors(
    scaled_url: str, watched: Watched, view: str, n_charts: int
) -> None:
    watched.open(f"{scaled_url}/scaling?view={view}", n_charts)
    assert watched.text("h1") == "What do wider dictionaries still miss?"
    assert watched.page.locator("[data-testid=stException]").count() == 0
    assert watched.errors == []
    assert watched.hosts == {"127.0.0.1"}


def test_a_click_on_the_surface_chooses_the_sae_and_back_undoes_it(scaled_url: str, light: Watched) -> None:
    light.open(f"{scaled_url}/scaling?view=plane&layer=2&width=1024&l0=16&arch=topk", 1)
    before = light.page.url
    circle = light.page.locator(SYMBOLS).first
    circle.click(force=True)
    light.page.wait_for_function("(url) => location.href !== url", arg=before, timeout=TIMEOUT)
    chosen = query(light)
    assert (chosen["width"], chosen["l0"], chosen["view"]) == ("256", "3.98", "plane")
    light.page.locator("[data-testid=stSidebar]").get_by_text("width_256_topk_l0_4").wait_for(timeout=TIMEOUT)
    light.page.go_back()
    light.page.wait_for_url(before, timeout=TIMEOUT)
    light.page.locator("[data-testid=stSidebar]").get_by_text("width_1024_topk_l0_16").wait_for(timeout=TIMEOUT)


def test_a_click_anywhere_on_a_row_of_the_worst_tokens_shows_its_context(scaled_url: str, light: Watched) -> None:
    light.open(f"{scaled_url}/scaling?view=tokens", 4)
    assert query(light)["token"] == "3.20"
    table = light.page.locator("[data-testid=stDataFrame]")
    table.scroll_into_view_if_needed()
    for x, row, token in ((200, 1, "7.30"), (20, 2, "3.11"), (200, 1, "7.30"), (400, 0, "3.20")):
        table.click(position={"x": x, "y": 36 + 17 + 35 * row})
        light.page.wait_for_url(f"**token={token}*", timeout=TIMEOUT)
        light.page.wait_for_timeout(400)
    # the context of the last row is not kept: a click on it stays where it is
    table.click(position={"x": 200, "y": 36 + 17 + 35 * 3})
    light.page.wait_for_timeout(800)
    assert query(light)["token"] == "3.20"
    assert light.errors == []


def test_a_click_on_a_token_of_the_text_looks_at_it_and_the_link_is_that_view(scaled_url: str, light: Watched) -> None:
    light.open(f"{scaled_url}/scaling?view=tokens", 4)
    strip = light.page.locator("[data-testid=stVegaLiteChart]").nth(2)
    strip.scroll_into_view_if_needed()
    strip.locator("svg g.mark-rect path").nth(14).click(force=True)
    light.page.wait_for_url("**token=3.14*", timeout=TIMEOUT)
    other = Watched(light.page.context.browser.new_context().new_page())
    other.open(light.page.url, 4)
    assert query(other) == query(light)
    other.page.context.close()


def test_hostile_text_of_tokens_does_not_run(browser: Any, tmp_path: Path) -> None:
    write_fake_study(tmp_path, n_saes=3)
    write_fake_scaling(tmp_path, texts=HOSTILE)
    context = browser.new_context(viewport={"width": 1400, "height": 1600})
    hostile = Watched(context.new_page())
    with serve(tmp_path) as url:
        hostile.open(f"{url}/scaling?view=tokens", 4)
        strip = hostile.page.locator("[data-testid=stVegaLiteChart]").nth(2)
        strip.scroll_into_view_if_needed()
        strip.locator("svg g.mark-rect path").nth(1).hover(force=True)
        hostile.page.wait_for_timeout(800)
        assert hostile.page.evaluate("window.hacked") is None
        inside = hostile.page.locator(
            "[data-testid=stMain] script, [data-testid=stMain] img[src=x], a[href*=javascript]"
        )
        assert inside.count() == 0
        assert "\u202e" not in hostile.page.locator("body").inner_text()
    assert hostile.errors == []
    assert hostile.hosts == {"127.0.0.1"}
    context.close()


@pytest.mark.parametrize(("label", "start"), [("Data (CSV)", b"d_sae"), ("Picture (SVG)", b"<svg")])
def test_a_downloaded_picture_has_its_question_and_caption(
    scaled_url: str, light: Watched, label: str, start: bytes
) -> None:
    light.open(f"{scaled_url}/scaling", 2)
    for name, question in (
        ("error_budget_extrapolated", "What would a still wider dictionary leave?"),
        ("law_fvu_log", "Which law does the error follow?"),
    ):
        light.page.locator(f".st-key-menu-{name} button").first.click()
        with light.page.expect_download(timeout=TIMEOUT) as download:
            light.page.get_by_role("button", name=label).click()
        found = download.value.path().read_bytes()
        light.page.keyboard.press("Escape")
        if label == "Data (CSV)":
            assert b"d_sae" in found[:200]
        else:
            assert found.startswith(start)
            assert question.encode() in found and b"n = 74,400 tokens" in found
