"""The page *Nonlinear error*: SAEs on the parts, features, what a wider SAE has; links, empty states, hostile text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dmcore.results import read_learned
from dmcore.run.jobs.queue import Queue
from dmcore.store.published import open_published
from dmcore.store.store import Store
from dmcore.ui import actions, look_job, reads
from dmcore.ui.learned_panel import shares_shown
from dmcore.ui.link import write_params
from dmcore.words.learned import learned_finding, names_of
from tests.pages.conftest import serve
from tests.pages.fake_parts import base_key, write_fake_parts
from tests.pages.fake_results import write_fake_study
from tests.pages.fake_scaling import HOSTILE
from tests.pages.test_browser import Watched
from tests.pages.test_pages import ROOT, open_page, params_of, words

PAGE = str(ROOT / "pages" / "nonlinear.py")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    write_fake_study(root)
    write_fake_parts(root)
    return root


@pytest.fixture
def cache(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DMCORE_CACHE", str(filled))
    reads.forget()
    yield filled
    reads.forget()


def record_of(cache: Path, key: str) -> dict[str, Any]:
    return open_published("demo", Store(cache)).records.filter(summary_key=key).row(0, named=True)


def opened(cache: Path, **params: str) -> AppTest:
    return open_page(PAGE, **write_params("demo", record_of(cache, base_key(cache))), **params)


def n_charts(at: AppTest) -> int:
    return len(at.get("vega_lite_chart"))


def test_the_page_opens_with_the_saes_on_the_parts(cache: Path) -> None:
    at = opened(cache)
    assert not at.exception
    assert n_charts(at) == 3
    said = words(at)
    assert "An SAE of 1,024 latents and L0 16 leaves an FVU of" in said
    assert "(mean of 3 seeds)" in said
    assert "TopK SAEs of 1,024 latents, L0 16, 6,000,000 training tokens each, seeds 0, 1, 2" in said
    assert "A note on how they were measured." in said


def test_an_sae_without_saes_on_its_parts_leads_to_the_one_that_has(cache: Path) -> None:
    key = open_published("demo", Store(cache)).records["summary_key"][3]
    for look in ("parts", "learned"):
        at = open_page(PAGE, **write_params("demo", record_of(cache, key)), look=look)
        assert not at.exception
        assert n_charts(at) == 0
        assert "No SAEs have been trained on the parts" in words(at)
    (lead,) = [button for button in at.button if button.key == f"base.{base_key(cache)}"]
    lead.click().run()
    assert not at.exception
    assert n_charts(at) == 1
    assert "Does a wider SAE have these features already?" in words(at)


def test_what_a_wider_sae_has_is_said_and_tabled(cache: Path) -> None:
    at = opened(cache, look="learned")
    assert n_charts(at) == 1
    said = words(at).replace("\xa0", " ")
    assert "3.0 % of the latents of SAEs on the nonlinear error, 20 % on the linear error and 50 % on x" in said
    (entry,) = (cache / "learned").iterdir()
    learned = read_learned(entry)
    table = shares_shown(learned)
    assert table["compared with"].unique(maintain_order=True).to_list() == list(names_of(learned).values())
    assert table.filter(table["SAEs on"] == "nonlinear error")["same"].unique().to_list() == ["3.0 %"]
    base = learned.about["base"]
    only_base = learned.about | {"against": [base], "widths": {base: learned.about["widths"][base]}}
    assert "the study has no wider one" in learned_finding(type(learned)(only_base, learned.latents, learned.key))


def test_a_latent_is_opened_by_its_link_with_its_public_page(cache: Path) -> None:
    at = opened(cache, look="features", latent="31")
    assert not at.exception
    assert n_charts(at) == 2
    said = words(at)
    assert "Latent 31" in "\n".join(one.value for one in at.subheader)
    assert "latents fire on the study's tokens" in said
    (link,) = at.get("link_button")
    assert link.proto.url == "https://www.neuronpedia.org/gpt2-small/8-res-jb/31"
    assert params_of(at)["latent"] == "31"


@pytest.mark.parametrize("wrong", ["-1", "40", "x", "<script>alert(1)</script>", "1e9"])
def test_nonsense_in_a_link_is_neither_followed_nor_echoed(cache: Path, wrong: str) -> None:
    at = opened(cache, look="features", latent=wrong, whose=wrong, sort=wrong)
    assert not at.exception
    assert n_charts(at) == 2
    assert wrong not in params_of(at).values()
    if len(wrong) > 4:
        assert wrong not in words(at)


def test_a_latent_that_never_fires_says_so(cache: Path) -> None:
    at = opened(cache, look="features", latent="3")
    assert not at.exception
    assert "never fires" in words(at)


def test_the_latents_of_an_sae_on_a_part_are_chosen_by_link_or_named_as_missing(cache: Path) -> None:
    at = opened(cache, look="features", whose="nonlinear.2")
    assert n_charts(at) == 2
    at = opened(cache, look="features", whose="x.1")
    assert n_charts(at) == 0
    assert "python -m dmcore features demo --part x --seed 1" in words(at)
    assert not [button for button in at.button if button.key == "look.start"], "no job makes these"


def test_a_search_that_finds_nothing_and_one_that_finds_some(cache: Path) -> None:
    at = opened(cache, look="features")
    at.text_input(key="features.find").set_value("no such token").run()
    assert "No latent fires mostly on" in words(at)
    at.text_input(key="features.find").set_value("word1").run()
    assert n_charts(at) == 2
    assert len(at.dataframe[0].value) < 38


def test_token_text_is_never_markdown(cache: Path) -> None:
    shown = []
    for latent in range(6, 20):
        at = opened(cache, look="features", latent=str(latent))
        for text in (one.value for one in [*at.markdown, *at.caption, *at.subheader]):
            outside = "".join(text.split("`")[::2])  # what is not code
            shown += [text] if outside != text else []
            assert not [hostile for hostile in (*HOSTILE, "<script", "<img", "](http", "$$") if hostile in outside]
    assert any("hacked" in text for text in shown), "else nothing hostile was tried"


def test_a_click_makes_a_job_of_what_is_missing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(actions.worker, "ensure_worker", lambda root, device: started.append((root, device)))
    key = open_published("demo", Store(cache)).records["summary_key"][3]
    # The made-up study's SAEs are not in the demo's file: the button says so and nothing is started.
    at = open_page(PAGE, **write_params("demo", record_of(cache, key)), look="structure")
    (button,) = [one for one in at.button if one.key == "look.start"]
    button.click().run()
    assert not at.exception
    assert "The study has no SAE called" in words(at).replace("\\", "")
    assert (started, Queue(cache).jobs()) == ([], [])
    real = "saes/blocks.2.hook_resid_post/topk_1024_16"
    look_job._start("inspect", look_job.file_of("demo", Queue(cache), []), real)  # type: ignore[arg-type]
    (job,) = Queue(cache).jobs()
    assert (job.kind, job.target, job.study, started) == ("inspect", real, "demo", [(cache, "auto")])
    Queue(cache).cancel(job.id)
    assert look_job.file_of("no-such-study", Queue(cache), Queue(cache).jobs()) is None


@pytest.fixture(scope="module")
def url(filled: Path) -> Iterator[str]:
    with serve(filled) as address:
        yield address


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_views_are_drawn_in_a_browser_without_errors_and_token_text_never_runs(
    url: str, filled: Path, browser: Any, theme: Any
) -> None:
    context = browser.new_context(viewport={"width": 1400, "height": 1600}, color_scheme=theme)
    watched = Watched(context.new_page())
    query = "&".join(f"{k}={v}" for k, v in write_params("demo", record_of(filled, base_key(filled))).items())
    for look, charts in (("parts", 3), ("learned", 1), ("features", 2)):
        watched.open(f"{url}/nonlinear?{query}&look={look}", charts)
        assert watched.text("h1") == "What lives in the nonlinear error?"
        assert watched.page.locator("[data-testid=stException]").count() == 0
    assert watched.page.evaluate("window.hacked") is None
    assert watched.errors == []
    assert watched.hosts == {"127.0.0.1"}
    context.close()
