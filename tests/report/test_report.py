"""The report of the demo: whole, self-contained, the same bytes each time, with the app's own numbers."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dmcore.report.archive import archive
from dmcore.report.blocks import Missing, Numbers, Part, Said, Shown
from dmcore.report.build import Report, build
from dmcore.report.compare import differences
from dmcore.report.escape import unmarked
from dmcore.report.html import POLICY, part_id, report_html, section_html
from dmcore.report.sections.origin import NAMES
from dmcore.report.subject import open_subject
from dmcore.store.store import Store
from dmcore.ui import reads
from dmcore.ui.link import write_params
from tests.report.parsed import Parsed

ROOT = Path(__file__).parents[2]
BASE = "saes/blocks.2.hook_resid_post/topk_1024_16"


@pytest.fixture(scope="module")
def report() -> Report:
    study = (ROOT / "dmcore" / "demo" / "artifacts" / "study.toml").read_text(encoding="utf-8")
    return build(open_subject("demo", study_text=study, store=Store(ROOT / "cache")))


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return report_html(report)


@pytest.fixture(scope="module")
def parsed(html: str) -> Parsed:
    return Parsed(html)


def only(report: Report, *names: str) -> Report:
    """A report of some of its sections."""
    return Report(report.subject, tuple(s for s in report.sections if s.name in names))


def test_it_is_small_and_loads_nothing(html: str, parsed: Parsed) -> None:
    assert len(html.encode()) < 5 * 2**20
    assert all(address.startswith("#") for address in parsed.addresses)
    assert not parsed.tags & {"script", "link", "img", "image", "iframe", "object", "embed", "base", "form"}
    assert not parsed.events
    assert POLICY in html
    assert "default-src 'none'" in POLICY


def test_pictures_share_no_id_and_every_reference_is_to_one(parsed: Parsed) -> None:
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {address.removeprefix("#") for address in parsed.addresses} <= set(parsed.ids)


def test_every_chart_is_a_picture_with_its_question_and_caption(report: Report, html: str, parsed: Parsed) -> None:
    figures = [block.figure for section in report.sections for block in section.of(Shown)]
    assert len(figures) > 130
    assert html.count('<svg role="img"') == sum(len(figure.data()) > 0 for figure in figures)
    for figure in figures:
        assert unmarked(figure.question).strip() in parsed.text.replace("\xa0", " ")
    for words in ("Click on", "Point at", "tooltip", "on this page", "table below"):
        assert words not in parsed.text, f"a report cannot do that: {words}"


@pytest.mark.parametrize(
    "page", ["overview", "regression", "scaling", "nonlinear", "reduction", "downstream", "controls", "synthetic"]
)
def test_it_says_what_the_page_says_to_the_digit(
    page: str, report: Report, parsed: Parsed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(ROOT / "cache"))
    reads.forget()
    at = AppTest.from_file(str(ROOT / "pages" / f"{page}.py"), default_timeout=120)
    for key, value in write_params("demo", report.subject.record).items():
        at.query_params[key] = value
    at.run()
    reads.forget()
    assert not at.exception
    first = next(str(m.value) for m in at.markdown if str(m.value).startswith("### "))
    said = unmarked(first.removeprefix("### ")).replace("\xa0", " ")
    assert re.search(r"\d \(|\d %|\d of \d", said), "a finding without a number tells nothing"
    assert said in parsed.text.replace("\xa0", " ")


def test_the_tables_have_the_numbers_of_every_sae(report: Report, parsed: Parsed) -> None:
    overview = report.sections[0]
    (table,) = (block.table for block in overview.of(Numbers) if block.name == "records")
    assert len(table) == len(report.subject.published.records) == 42
    for cell in table["Nonlinear FVU"]:
        assert re.fullmatch(r"0\.\d+ \(0\.\d+ to 0\.\d+\)", cell)
        assert cell in parsed.text


def test_the_study_file_and_its_commands_are_in_it(report: Report, parsed: Parsed) -> None:
    assert " ".join(report.subject.study_text.split()) in parsed.text
    own = [f"{one} demo {BASE}" for one in ("structure", "features", "shrinkage", "transfer", "controls", "synthetic")]
    study = [f"{one} demo" for one in ("sweep", "scaling", "reduce", "downstream", "claims")]
    for command in (*study, *own, "synthetic --ground-truth", f"report demo --sae {BASE}"):
        assert f"python -m dmcore {command}" in parsed.text
    assert "torch 2." in parsed.text


def test_the_same_results_are_the_same_bytes(report: Report) -> None:
    again = build(open_subject("demo", study_text=report.subject.study_text, store=Store(ROOT / "cache")))
    for name in ("overview", "downstream", "origin"):
        first, second = (next(s for s in one.sections if s.name == name) for one in (report, again))
        assert section_html(first, name) == section_html(second, name)
    assert archive(only(report, "overview", "origin")) == archive(only(again, "overview", "origin"))


def test_the_zip_has_tables_pictures_and_what_each_is(report: Report) -> None:
    with zipfile.ZipFile(io.BytesIO(archive(only(report, "overview", "origin")))) as made:
        names = set(made.namelist())
        assert {
            "README.txt",
            "study.toml",
            "commands.txt",
            "charts/error_budget.svg",
            "tables/records.parquet",
        } <= names
        assert made.read("study.toml").decode() == report.subject.study_text
        readme = made.read("README.txt").decode()
        assert all(name in readme for name in names if name.endswith(".svg") or name.startswith("tables/"))
        table = pl.read_parquet(io.BytesIO(made.read("tables/records.parquet")))
    assert table.equals(report.subject.published.records)


def test_another_sae_can_be_chosen_by_the_end_of_its_name() -> None:
    subject = open_subject("demo", "batchtopk_1024_16", store=Store(ROOT / "cache"))
    assert subject.record["sae"].endswith("/batchtopk_1024_16")


def test_differences_are_paired_and_zero_of_an_sae_with_itself(report: Report) -> None:
    other = open_subject("demo", "batchtopk_1024_16", store=Store(ROOT / "cache"))
    same = differences(report.subject, report.subject)["Right less left"].to_list()
    assert set(same[:5]) == {"0.0000 (0.0000 to 0.0000)"}
    rows = differences(report.subject, other).to_dicts()
    found = float(rows[0]["Right less left"].split(" ")[0])
    assert found == pytest.approx(other.record["fvu"] - report.subject.record["fvu"], abs=1e-4)
    low, high = map(float, re.findall(r"-?\d\.\d+", rows[0]["Right less left"])[1:])
    # Paired on the same contexts: narrower than the two intervals put together.
    alone = [one.record["fvu_high"] - one.record["fvu_low"] for one in (report.subject, other)]
    assert high - low < sum(a**2 for a in alone) ** 0.5


def test_it_names_every_result_that_it_reads(report: Report) -> None:
    (table,) = (block.table for block in report.sections[-1].of(Numbers) if block.name == "versions")
    made = dict(table["Result"].value_counts().iter_rows())
    assert made["numbers of an SAE"] == 42
    assert set(made) == set(NAMES.values())
    assert table["Key"].n_unique() == len(table)
    assert all(re.fullmatch(r"[\d,]+\.\d", cell) for cell in table["Seconds"])
    for found in (
        report.subject.published.controls(report.subject.key),
        report.subject.published.shrinkage(report.subject.key),
    ):
        assert found is not None and found.folder.name in set(table["Key"])


def test_every_view_is_a_part_in_the_contents(report: Report, html: str, parsed: Parsed) -> None:
    titles = {section.name: [part.title for part in section.of(Part)] for section in report.sections}
    assert titles["scaling"] == ["Width", "Width × L0", "Depth", "Sparsity", "Tokens", "Norms"]
    assert titles["synthetic"] == ["Planted in this SAE", "Known features"]
    assert len(titles["controls"]) == 3 and titles["claims"] == ["On all of the study", "On groups of its SAEs"]
    assert {"Methods", "Ranks", "Earlier components", "Next token", "All SAEs"} == set(titles["reduction"])
    for name, parts in titles.items():
        assert f"#{name}" in parsed.addresses
        assert all(f"#{part_id(name, title)}" in parsed.addresses for title in parts)
    assert html.count('<details class="more">') > 10


def test_what_is_said_is_text(report: Report) -> None:
    for section in report.sections:
        for block in section.of(Said | Missing):  # type: ignore[arg-type]
            assert block.text.strip()
