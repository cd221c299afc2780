"""What the views of the page *Nonlinear error* say where results are odd: undecided, dead, without decoder rows, failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dmcore.results import Learned
from dmcore.results.learned import COMPONENTS, LEARNED_LATENTS
from dmcore.results.parts import PARTS_TABLES, Parts
from dmcore.run.jobs.queue import Queue
from dmcore.ui.feature_browser import parts_of_latent
from dmcore.ui.learned_panel import shares_shown
from dmcore.ui.parts_panel import harder_sentence
from dmcore.words.features import features_finding
from dmcore.words.learned import learned_finding, names_of
from dmcore.words.parts import parts_finding
from tests.analysis.test_feature_index import build_sources, make
from tests.pages.test_pages import words
from tests.run.jobs.test_queue import write_study


def told(difference: float, low: float, high: float) -> str:
    ends = {"difference": difference, "difference_low": low, "difference_high": high}
    table = pl.DataFrame([{"part": "nonlinear", "other": "linear", **ends}], schema=PARTS_TABLES["differences"])
    return harder_sentence(Parts({}, Path(), {"differences": table}))


def test_the_nonlinear_error_is_harder_only_where_the_interval_says_so() -> None:
    assert "is harder" in told(0.05, 0.04, 0.06)
    assert "0.050 (0.040 to 0.060) lower" in told(-0.05, -0.06, -0.04)
    assert "is easier" in told(-0.05, -0.06, -0.04)
    for value in (0.05, -0.05):
        said = told(value, value - 0.1, value + 0.1)
        assert "may be as hard" in said and "harder" not in said
        assert "not the seed of training" in said


def learned(against: list[str], widths: dict[str, int], *, n_latents: int = 4) -> Learned:
    rows = [
        {"part": "nonlinear", "seed": 0, "latent": k, "against": name, "nearest": 0, "cosine": 0.5, "baseline_mean": 0.3}
        | {"baseline_95": 0.4}
        for name in [*against, COMPONENTS] for k in range(n_latents)
    ]  # fmt: skip
    about = {"base": "b", "against": against, "widths": widths, "n_components": 32, "d_model": 64}
    return Learned(about, pl.DataFrame(rows, schema=LEARNED_LATENTS), "key")


def drawn(found: Learned) -> AppTest:
    def page(found) -> None:
        from dmcore.ui.learned_panel import draw_learned

        draw_learned(found, ("key",))

    at = AppTest.from_function(page, args=(found,), default_timeout=30).run()
    assert not at.exception
    return at


def test_dictionaries_without_decoder_rows_are_not_taken_for_others() -> None:
    none = learned([], {"b": 100, "w": 200})
    assert names_of(none) == {COMPONENTS: "32 components of x"}
    assert "there is none to look in" in learned_finding(none)
    assert len(drawn(none).dataframe) == 1
    no_base = learned(["w"], {"b": 100, "w": 200})
    assert names_of(no_base)["w"] == "200 latents", "it is not the base"
    assert "In the 200-latent SAE there is" in learned_finding(no_base)
    no_wider = learned(["b"], {"b": 100, "w": 200})
    assert names_of(no_wider)["b"] == "base, 100 latents"
    assert "the wider ones have no decoder rows" in learned_finding(no_wider)
    assert "the study has no wider one" in learned_finding(learned(["b"], {"b": 100}))


def test_a_study_with_saes_on_the_total_error_alone_has_its_findings() -> None:
    found = learned(["b"], {"b": 100})
    found = Learned(found.about, found.latents.with_columns(part=pl.lit("error")), "key")
    assert "on the total error" in learned_finding(found)
    means = pl.DataFrame(
        [{"part": "error", "n_seeds": 1, "fvu": 0.5, "fvu_low": 0.49, "fvu_high": 0.51}], schema=PARTS_TABLES["means"]
    )
    parts = Parts({"width": 8, "l0": 2, "seeds": [0]}, Path(), {"means": means})
    assert "an FVU of 0.500 (0.490 to 0.510) of the total error." in parts_finding(parts)


def test_saes_on_the_parts_of_which_no_latent_fires_are_said_to_be_dead() -> None:
    dead = learned(["b"], {"b": 100}, n_latents=0)
    assert "None of the SAEs on the parts has a latent that fires" in learned_finding(dead)
    assert not drawn(dead).dataframe
    assert shares_shown(learned(["b"], {"b": 100}))["compared with"].to_list() == [
        "base, 100 latents",
        "32 components of x",
    ]


def test_a_card_has_the_correlation_with_the_norm_of_each_part(tmp_path: Path) -> None:
    features = make(build_sources(tmp_path), tmp_path / "out")
    row = features.latent(30)
    table = parts_of_latent(row)
    assert table["part"].to_list() == ["total error", "linear error", "nonlinear error"]
    assert table["r"].to_list() == [row[f"{part}_r"] for part in ("error", "linear", "nonlinear")]
    assert table["share"][2] == pytest.approx(100 * row["nonlinear_share"])
    without = features.latent(3)
    assert len(parts_of_latent(without)) == 0, "it never fires"


def test_a_dead_sae_is_not_said_to_lack_a_token(tmp_path: Path) -> None:
    acts = np.zeros((4, 12, 7), dtype=np.float32)
    features = make(build_sources(tmp_path, acts), tmp_path / "out")
    assert features_finding(features) == "0 of 7 latents fire on the study's tokens."

    def page(folder: str) -> None:
        from pathlib import Path

        from dmcore.results import read_features
        from dmcore.ui.feature_browser import draw_features

        draw_features(read_features(Path(folder)), ("key",))

    at = AppTest.from_function(page, args=(str(features.folder),), default_timeout=30).run()
    assert not at.exception
    assert "No latent of this SAE fires" in words(at) and "with that text" not in words(at)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_a_job_left_out_is_said_beside_the_button(cache: Path, tmp_path: Path) -> None:
    queue, study = Queue(cache), write_study(tmp_path)
    job = queue.submit("inspect", study, "cpu", "s")
    taken = queue.take(job.lane)
    assert taken is not None
    queue.finish(taken, "done", "The disk is odd: look at it.")

    def page(name: str) -> None:
        from dmcore.ui.look_job import draw_look_button

        draw_look_button(name, "s", lambda found: False)

    at = AppTest.from_function(page, args=(job.study,), default_timeout=30).run()
    assert not at.exception
    assert "The disk is odd" in "\n".join(one.value for one in at.warning)
    assert [one.key for one in at.button] == ["look.start"]


def test_a_view_without_a_finding_has_no_empty_heading() -> None:
    def page() -> None:
        from dmcore.ui.sections import finding

        finding("", "")
        finding("One.", "")

    at = AppTest.from_function(page, default_timeout=30).run()
    assert [one.value for one in at.markdown] == ["### One."]
