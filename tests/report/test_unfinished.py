"""Reports of studies that are unfinished, hostile, or not there; the command; two studies; a real browser without network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmcore.report.build import build
from dmcore.report.compare import comparison_html
from dmcore.report.escape import escape, inline
from dmcore.report.html import report_html
from dmcore.report.subject import open_subject
from dmcore.run.cli import main
from dmcore.store.store import Store
from tests.pages.fake_results import write_fake_study
from tests.report.parsed import Parsed

HOSTILE = (
    "<script>window.hacked=1</script> \u202eevil\u202c a\x00b\x1b[31m \"'><img src=x onerror=window.hacked=1> **b** `c`"
)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A study with summaries alone, whose words are hostile."""
    root: Path = tmp_path_factory.mktemp("unfinished")
    write_fake_study(root, n_saes=6, title=HOSTILE, model=HOSTILE, label=HOSTILE)
    return report_html(build(open_subject("demo", store=Store(root))))


def test_what_is_missing_is_marked_in_its_place_with_its_command(unfinished: str) -> None:
    text = Parsed(unfinished).text
    for command in ("scaling demo", "structure demo", "detect demo", "reduce demo", "downstream demo", "controls demo",
                    "features demo", "shrinkage demo", "transfer demo", "synthetic demo"):  # fmt: skip
        assert f"python -m dmcore {command}" in text.split("The commands that make it again")[0], command
    assert unfinished.count("<strong>Missing.</strong>") >= 6
    assert "No SAEs have been trained on the parts" in text


def test_hostile_words_are_shown_and_are_no_markup(unfinished: str) -> None:
    parsed = Parsed(unfinished)
    assert not parsed.tags & {"script", "img"}
    assert not parsed.events
    assert "<script>window.hacked=1</script>" in parsed.text
    assert "⟨U+202E⟩evil⟨U+202C⟩" in parsed.text
    assert not set(unfinished) & {"\u202e", "\u202c", "\x00", "\x1b"}


def test_light_markdown_is_html_and_nothing_else_is() -> None:
    assert inline(r"**a** *b* `<c>` \*d\* <e>") == "<strong>a</strong> <em>b</em> <code>&lt;c&gt;</code> *d* &lt;e&gt;"
    assert inline("`a*b*`") == "<code>a*b*</code>"
    assert inline(":material/info: a") == "a"
    assert escape("\ud800\u2028\u200b") == "⟨U+D800⟩⟨U+2028⟩⟨U+200B⟩"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.toml"], "Cannot read the study"),
        (["demo"], "Nothing has been computed for the study demo yet"),
        (["demo", "-o", "nowhere/report.html"], "There is no folder nowhere"),
        (["demo", "-o", "."], "is a folder: name a file in it"),
        (["demo", "--tables", "."], "is a folder: name a file in it"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*report.html*"))


def test_an_sae_that_is_not_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fake_study(tmp_path, n_saes=2)
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    monkeypatch.setattr("dmcore.run.commands.report.index_of", lambda *_: None)  # made-up results of no study file
    assert main(["report", "demo", "--sae", "none", "-o", str(tmp_path / "r.html")]) == 1
    assert "No SAE with results is called none" in capsys.readouterr().err


def test_the_command_writes_the_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fake_study(tmp_path / "cache", n_saes=1)
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "r.html"
    assert main(["report", "demo", "-o", str(out)]) == 1
    assert "demo is not as it was when demo was swept last" in capsys.readouterr().err and not out.exists()
    monkeypatch.setattr("dmcore.run.commands.report.index_of", lambda *_: None)  # made-up results of no study file
    assert main(["report", "demo", "-o", str(out), "--tables", str(out)]) == 1
    assert "give --tables another name" in capsys.readouterr().err and not out.exists()
    assert main(["report", "demo", "-o", str(out), "--tables", str(tmp_path / "r.zip")]) == 0
    assert "r.html: " in capsys.readouterr().out
    Parsed(out.read_text(encoding="utf-8"))
    assert sorted(path.name for path in tmp_path.glob("*r.*")) == ["r.html", "r.zip"]


def test_two_studies_stand_beside_each_other(tmp_path: Path) -> None:
    write_fake_study(tmp_path, "one", n_saes=2, title="The first")
    write_fake_study(tmp_path, "two", n_saes=1, title="The second")
    left, right = (build(open_subject(name, store=Store(tmp_path))) for name in ("one", "two"))
    parsed = Parsed(comparison_html(left, right))
    assert "How do their numbers differ?" in parsed.text
    assert all(title in parsed.text for title in ("The first", "The second"))
    assert len(parsed.ids) == len(set(parsed.ids))


@pytest.mark.browser
def test_it_opens_without_network_and_without_a_complaint(browser: Any, unfinished: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(unfinished, encoding="utf-8")
    for width in (1200, 390):
        context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
        page, complaints, asked = context.new_page(), [], []
        page.on("console", lambda message, seen=complaints: seen.append(message.text))
        page.on("pageerror", lambda error, seen=complaints: seen.append(str(error)))
        page.on("request", lambda request, seen=asked: seen.append(request.url))
        page.goto(file.as_uri())
        assert (complaints, asked) == ([], [file.as_uri()])
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("figure svg").first.bounding_box()["width"] > 300
        context.close()
