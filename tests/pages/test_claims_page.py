"""The view *Claims*: verdicts and charts, what is missing, studies that are too small, hostile text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dmcore.results.claim_groups import group_claims
from dmcore.results.claim_tests import study_claims
from dmcore.results.claims import LEAST_CONTEXTS, STATEMENTS, Claims
from dmcore.store.claim_inputs import claim_inputs
from dmcore.store.published import open_published
from dmcore.store.store import Store
from dmcore.ui import reads
from dmcore.words.claims import claims_finding, group_names
from tests.pages.fake_results import write_fake_study
from tests.pages.fake_scaling import HOSTILE
from tests.pages.test_pages import ROOT, open_page, words

PAGE = str(ROOT / "pages" / "controls.py")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_fake_study(tmp_path)
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    reads.forget()
    yield tmp_path
    reads.forget()


def reading(claims: Claims) -> SimpleNamespace:
    """Stands for `dmcore.ui.reads` in the view."""
    return SimpleNamespace(claims=lambda study_id: claims)


def n_charts(at: AppTest) -> int:
    return len(at.get("arrow_vega_lite_chart") or at.get("vega_lite_chart"))


def test_the_view_says_each_verdict_and_what_would_make_the_missing(cache: Path) -> None:
    at = open_page(PAGE, trust="claims")
    assert not at.exception
    text = words(at)
    assert f"Of {len(STATEMENTS)} statements of the paper" in text
    assert "Which of the paper's statements hold here?" in text
    assert "Do they hold for every architecture, L0 and site?" in text
    assert "`python -m dmcore reduce demo`" in text
    assert "`python -m dmcore train-saes demo --parts`" in text
    assert n_charts(at) == 2
    table = at.dataframe[0].value
    assert list(table["Statement"]) == [statement.says for statement in STATEMENTS.values()]
    found = open_published("demo", Store(cache)).claims().study
    assert list(table["Verdict"]) == found["verdict"].to_list()


def test_a_study_of_few_contexts_says_so_instead_of_giving_verdicts(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = claim_inputs(open_published("demo", Store(cache)))
    few = given.records.with_columns(n_contexts=pl.lit(LEAST_CONTEXTS - 1, pl.Int64))
    small = type(given)(few, given.file, given.replicates)
    monkeypatch.setattr("dmcore.ui.claims_views.reads", reading(Claims(study_claims(small), group_claims(small))))
    at = open_page(PAGE, trust="claims")
    assert not at.exception
    assert f"{LEAST_CONTEXTS - 1} contexts" in words(at)
    assert "None of the paper's statements can be tested" in words(at).replace("\\", "")
    assert n_charts(at) == 0


def test_hostile_names_are_shown_as_what_they_are(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = claim_inputs(open_published("demo", Store(cache)))
    labels = given.records["label"].replace(dict(zip(("topk", "gated", "jumprelu"), HOSTILE[:3], strict=True)))
    bad = type(given)(given.records.with_columns(label=labels), given.file, given.replicates)
    claims = Claims(study_claims(bad), group_claims(bad))
    lost = claims.study.with_columns(
        verdict=pl.lit("not tested"), reason=pl.lit(HOSTILE[1]), command=pl.lit(f"show `{HOSTILE[0]}`")
    )
    assert f"{HOSTILE[0]} (1)" in group_names(claims.groups)
    monkeypatch.setattr("dmcore.ui.claims_views.reads", reading(Claims(lost, claims.groups)))
    at = open_page(PAGE, trust="claims")
    assert not at.exception
    text = words(at)
    assert HOSTILE[1] not in text  # escaped where it is Markdown
    assert "\\<img src\\=x" in text or "\\<img src=x" in text
    for element in (*at.markdown, *at.caption):
        assert not element.proto.allow_html or "hacked" not in element.value
    assert f"`python -m dmcore show '{HOSTILE[0]}'`" in text  # code is inert, and no backtick ends it


def test_the_finding_counts_verdicts(cache: Path) -> None:
    study = open_published("demo", Store(cache)).claims().study
    assert claims_finding(study).startswith(f"Of {len(study)} statements of the paper on this study: ")
    one = study.with_columns(verdict=pl.Series(["holds", *["fails"] * (len(study) - 1)]))
    assert f"1 holds and {len(study) - 1} fail." in claims_finding(one)
