"""The view *Detection scores*: what it says, what it draws, what it does with links and explanations that are hostile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dmcore.results import Parts
from dmcore.results.detection import PATTERNS
from dmcore.store.published import open_published
from dmcore.store.store import Store
from dmcore.ui import reads
from dmcore.ui.detection_panel import detection_finding, harder_sentence, latent_rows, legible, of_parts
from dmcore.ui.link import write_params
from tests.pages.fake_detection import (
    HOSTILE,
    PARTS,
    SEEDS,
    N,
    detection_of,
    key_of,
    parts_detections,
    scores,
    write_fake_detection,
)
from tests.pages.fake_results import write_fake_study
from tests.pages.test_pages import ROOT, open_page, params_of, words

PAGE = str(ROOT / "pages" / "nonlinear.py")
MODEL = "evil/*model* <b>$x$"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The made-up study, without scores."""
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    write_fake_study(tmp_path, n_saes=2)
    reads.forget()
    yield tmp_path
    reads.forget()


def record_of(cache: Path) -> dict[str, Any]:
    return open_published("demo", Store(cache)).records.row(0, named=True)


def opened(cache: Path, **params: str) -> AppTest:
    reads.forget()
    at = open_page(PAGE, **write_params("demo", record_of(cache)), look="detection", **params)
    assert not at.exception
    assert not at.error
    return at


def shown_parts() -> Parts:
    entries = [key_of(part, seed) for part in PARTS for seed in SEEDS]
    return cast("Parts", SimpleNamespace(about={"entries": entries}))


def test_without_scores_the_command_is_named(cache: Path) -> None:
    (info,) = opened(cache).info
    assert f"`python -m dmcore detect demo {record_of(cache)['sae']}`" in info.value


def test_an_sae_is_shown_with_its_scores_and_latents(cache: Path) -> None:
    write_fake_detection(cache, record_of(cache)["summary_key"])
    at = opened(cache)
    text = words(at)
    assert "latents are told with a balanced accuracy of" in text
    assert "for this SAE" in text
    assert "guessing has 50" in text
    assert "1 without a score" in text
    (table,) = at.dataframe
    assert len(table.value) == N - 1
    assert "no upper bound" in text


def test_several_scorers_are_chosen_from_and_links_keep_the_choice(cache: Path) -> None:
    for scorer in (PATTERNS, MODEL):
        write_fake_detection(cache, record_of(cache)["summary_key"], scorer, scores(0.8, 1, scorer=scorer))
    at = opened(cache)
    assert params_of(at)["scorer"] == PATTERNS
    at = opened(cache, scorer=MODEL)
    assert params_of(at)["scorer"] == MODEL
    assert MODEL not in words(at), "escaped"
    assert "explained each latent in a sentence" in words(at)
    at = opened(cache, scorer="nobody", told="nonlinear.9")
    assert params_of(at)["scorer"] == PATTERNS
    assert "nobody" not in words(at)


def test_an_explanation_is_text_in_a_table_and_never_markdown(cache: Path) -> None:
    write_fake_detection(cache, record_of(cache)["summary_key"])
    at = opened(cache)
    assert "script" not in words(at)
    shown = at.dataframe[0].value.iloc[0]["explanation"]
    assert "\u202e" not in shown
    assert "\n" not in shown
    assert not any(getattr(part.proto, "allow_html", False) for part in at.markdown)


def test_a_card_shows_explanations_as_code(tmp_path: Path) -> None:
    one = detection_of(tmp_path / "one")

    def page(folder: str, latent: int) -> None:
        from pathlib import Path

        from dmcore.results import Detection
        from dmcore.ui.detection_panel import draw_explanations

        draw_explanations([Detection.read(Path(folder))], latent)

    at = AppTest.from_function(page, kwargs={"folder": str(one.folder), "latent": 3}).run()
    (code,) = at.code
    assert code.value == legible(HOSTILE)
    assert "script" not in words(at)
    assert "is told from simple patterns" in words(at)
    failed = AppTest.from_function(page, kwargs={"folder": str(one.folder), "latent": N - 1}).run()
    assert "fewer than two contexts" in words(failed)
    assert not failed.code
    assert not words(AppTest.from_function(page, kwargs={"folder": str(one.folder), "latent": 999}).run())


def test_where_all_latents_failed_it_says_why(cache: Path) -> None:
    table = scores(0.8, 0).filter(pl.col("failure").is_not_null())
    write_fake_detection(cache, record_of(cache)["summary_key"], table=table)
    (info,) = opened(cache).info
    assert "No latent could be scored" in info.value
    assert "fewer than two contexts" in info.value


def test_parts_are_compared_in_words_that_say_what_the_interval_covers(tmp_path: Path) -> None:
    found = parts_detections(tmp_path)
    parts = shown_parts()
    stray = detection_of(tmp_path / "stray", "linear", 7)
    assert [one.about["part"] for one in of_parts([stray, *reversed(found)], parts)] == parts.about["entries"]
    text = detection_finding(found, parts, PATTERNS)
    assert all(words in text for words in ("for SAEs on x", "on the linear error", "on the nonlinear error"))
    assert detection_finding(found, parts, "nobody") == ""
    harder = harder_sentence(found)
    assert "**harder to tell**" in harder
    assert "not the choice of texts" in harder
    one_seed = [one for one in found if one.about["train_seed"] == 0]
    assert "without an interval" in harder_sentence(one_seed)
    assert harder_sentence(found[:3]) == ""
    same = [detection_of(tmp_path / f"s{k}{p}", p, k, table=scores(0.7, k + 3 * (p == "linear"))) for p in ("linear", "nonlinear")
            for k in range(2)]  # fmt: skip
    assert "as easy to tell" in harder_sentence(same)


def test_latents_are_listed_the_best_first(tmp_path: Path) -> None:
    rows = latent_rows(detection_of(tmp_path / "a"))
    assert rows["balanced_accuracy"].is_sorted(descending=True)
    assert "auc" in rows.columns
    assert "auc" not in latent_rows(detection_of(tmp_path / "b", scorer="a model")).columns
    assert legible("x" * 400).endswith("…")
