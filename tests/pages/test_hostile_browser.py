"""What others have written is shown as what it is: on every page in a real browser, in the report, and in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from dmcore.report.archive import archive
from dmcore.report.build import build
from dmcore.report.html import POLICY, report_html
from dmcore.report.subject import open_subject
from dmcore.run.cli import main
from dmcore.run.jobs.queue import Queue
from dmcore.store.store import Store
from tests.pages.conftest import serve
from tests.pages.hostile import HAS, RAW, write_hostile_cache
from tests.report.parsed import Parsed

TIMEOUT = 120_000
VIEWS = {
    "overview": ("/", {}),
    "settings": ("/regression", {"part": "settings"}),
    "baselines": ("/regression", {"part": "baselines"}),
    "scaling": ("/scaling", {}),
    "tokens": ("/scaling", {"view": "tokens"}),
    "features": ("/nonlinear", {"look": "features", "latent": "6"}),
    "structure": ("/nonlinear", {"look": "structure"}),
    "detection": ("/nonlinear", {"look": "detection"}),
    "learned": ("/nonlinear", {"look": "learned"}),
    "league": ("/reduction", {"reduce": "methods"}),
    "earlier": ("/reduction", {"reduce": "earlier"}),
    "worst": ("/downstream", {"cost": "tokens"}),
    "controls": ("/controls", {}),
    "claims": ("/controls", {"trust": "claims"}),
    "transfer": ("/controls", {"trust": "transfer"}),
    "jobs": ("/runs", {}),
    "disk": ("/runs", {"show": "Disk"}),
    "health": ("/health", {}),
}
FOUND = """() => {
  const inside = [...document.querySelectorAll('[data-testid=stAppViewContainer], [data-testid=stSidebar], #vg-tooltip-element')];
  const find = selector => inside.flatMap(root => [...root.querySelectorAll(selector)]).map(e => e.outerHTML.slice(0, 200));
  const said = 'strong, em, b, i, u, s, del, mark, h1, h2, h3, h4, li, blockquote, .katex, .stMarkdownColoredText, a';
  return {
    made: find("script, iframe, object, embed, img[src=x], img[src*='.example'], svg[onload], [onerror], [onload],"
      + " a[href*='javascript:'], a[href*='.example'], form[action], link, base, meta"),
    marked: inside.flatMap(root => [...root.querySelectorAll(said)])
      .filter(e => /^\\s*QQQ/.test(e.textContent)).map(e => e.outerHTML.slice(0, 200)),
    text: inside.map(e => e.outerHTML).join('')
      + [...document.querySelectorAll('input, textarea')].map(e => e.value).join(' ') + document.title,
    hacked: window.hacked === undefined ? null : window.hacked,
  };
}"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("hostile")
    return root, write_hostile_cache(root)


class Visit:
    """A browser in which nothing leaves this machine, and which remembers what tried."""

    def __init__(self, browser: Any) -> None:
        self.left: list[str] = []
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        context = browser.new_context(viewport={"width": 1400, "height": 2400})
        context.route("**/*", self._let)
        self.page = context.new_page()
        self.page.set_default_timeout(TIMEOUT)
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _let(self, route: Any) -> None:
        if urlsplit(route.request.url).hostname in {"127.0.0.1", None}:
            route.continue_()
        else:
            self.left.append(route.request.url)
            route.abort()

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.wait_for_function(
            "document.querySelector('h1') && document.querySelector('[data-testid=stApp]')"
            " && !document.querySelector('[data-testid=stApp][data-test-script-state=running]')"
            " && !document.querySelector('[data-testid=stSkeleton]')"
        )
        self.page.wait_for_timeout(250)

    def point(self) -> None:
        """Point at some marks of each chart, so that their tooltips are drawn."""
        for chart in self.page.locator("[data-testid=stVegaLiteChart]").all()[:4]:
            for mark in chart.locator("svg g[class*=mark-] path, svg g[class*=mark-] line").all()[:3]:
                if mark.is_visible():
                    mark.hover(force=True)
                    self.page.wait_for_timeout(30)


@pytest.fixture(scope="module")
def visit(browser: Any) -> Iterator[Visit]:
    made = Visit(browser)
    yield made
    made.page.context.close()


@pytest.fixture(scope="module")
def url(hostile: tuple[Path, dict[str, str]]) -> Iterator[str]:
    with serve(hostile[0]) as address:
        yield address


@pytest.mark.browser
@pytest.mark.parametrize("view", VIEWS)
def test_what_others_wrote_is_inert_on_every_page(
    view: str, url: str, hostile: tuple[Path, dict[str, str]], visit: Visit
) -> None:
    path, own = VIEWS[view]
    more = {"job": Queue(hostile[0]).jobs()[0].id} if view == "jobs" else {}
    visit.open(f"{url}{path}?{urlencode({**hostile[1], **own, **more})}")
    visit.point()
    found = visit.page.evaluate(FOUND)
    assert found["made"] == []
    assert found["marked"] == []
    assert found["hacked"] is None
    assert [f"U+{ord(c):04X}" for c in RAW if c in found["text"]] == []
    assert visit.page.locator("[data-testid=stException]").count() == 0
    assert (visit.left, visit.dialogs, visit.errors) == ([], [], [])
    assert "⟨U+202E⟩evil" in found["text"] or view == "disk", "else nothing hostile was shown"


@pytest.mark.browser
def test_the_report_of_such_a_study_is_inert(
    hostile: tuple[Path, dict[str, str]], browser: Any, tmp_path: Path
) -> None:
    store = Store(hostile[0])
    sae = open_subject("demo", store=store).published.records["sae"][HAS]
    report = build(open_subject("demo", sae, store=store))
    html = report_html(report)
    parsed = Parsed(html)
    assert f'http-equiv="Content-Security-Policy" content="{POLICY}"' in html
    assert not parsed.tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form"}
    assert not parsed.events
    assert all(address.startswith("#") for address in parsed.addresses)
    assert not set(html) & set(RAW)
    assert "<script>window.hacked=1</script>" in parsed.text
    file, asked = tmp_path / "report.html", []
    file.write_text(html, encoding="utf-8")
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert page.evaluate("window.hacked === undefined")
    assert asked == [file.as_uri()]
    page.close()
    assert len(archive(report)) > 0


def test_a_terminal_is_told_nothing_to_obey(
    hostile: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = hostile[0]
    monkeypatch.setenv("DMCORE_CACHE", str(root))
    study, job = str(root / "studies" / "hostile.toml"), Queue(root).jobs()[0]
    said = ""
    for command in (["jobs", "ls"], ["jobs", "show", job.id], ["show", study], ["cache", "ls"]):
        try:
            main(command)
        except SystemExit as end:
            pytest.fail(f"{command}: {end}")
        got = capsys.readouterr()
        text = got.out + got.err
        assert [f"U+{ord(c):04X}" for c in RAW if c in text] == [], command
        said += text
    assert "⟨U+202E⟩" in said or "\\u202e" in said, "else nothing hostile was said"
