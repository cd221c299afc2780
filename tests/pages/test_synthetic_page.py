"""The page *Synthetic*: findings, views, sliders, links, empty states."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dmcore.explain.wilson import wilson
from dmcore.results.agreement import agreement_by, could_be_meant
from dmcore.results.synthetic import (
    DEFAULTS,
    GROUND_TRUTH,
    INGREDIENTS,
    SYNTHETIC,
    GroundTruth,
    Planted,
    PlantedSettings,
    ground_truth_spec,
    planted_spec,
)
from dmcore.store.published import open_published
from dmcore.store.store import Store
from dmcore.ui import reads
from dmcore.ui.link import write_params
from dmcore.words.synthetic import (
    CELL_NAMES,
    INGREDIENT_NAMES,
    inside_sentence,
    known_finding,
    level_text,
    planted_finding,
    regimes,
    setting_sentence,
    unsure_sentence,
)
from tests.charts import synthetic_tables as fake
from tests.pages.fake_results import write_fake_study
from tests.pages.test_pages import ROOT, open_page, params_of, words

PAGE = str(ROOT / "pages" / "synthetic.py")
HAS = "saes/layer_2_residual/width_1024_topk_l0_16"
ABOUT: dict[str, Any] = {
    "sae": HAS, "hook": "blocks.2.hook_resid_post", "d_model": 192, "d_sae": 1024, "n_tokens": 70_000, "n_contexts": 300,
    "sample_tokens": 15_000, "sample_contexts": 64, "n_folds": 5, "skip_positions": 8, "seed": 0, "error_share": 0.1,
}  # fmt: skip
KNOWN_ABOUT: dict[str, Any] = {
    "d_model": 32, "n_features": 256, "context_length": 32, "truth_tokens": 400_000, "n_folds": 5, "seed": 0,
    "training_tokens": 1_200_000, "trained_truth_tokens": 200_000,
}  # fmt: skip


def key_of(root: Path, name: str) -> str:
    return record_of(root, name)["summary_key"]


def record_of(root: Path, name: str) -> dict[str, Any]:
    return open_published("demo", Store(root)).records.filter(sae=name).row(0, named=True)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic")
    write_fake_study(root)
    planted = {"cells": fake.cells(), "correlations": fake.correlations()}
    known = {"settings": fake.settings(), "components": fake.components(), "trained": fake.trained()}
    store = Store(root)
    spec = planted_spec(key_of(root, HAS), PlantedSettings())
    store.replace(SYNTHETIC, spec, lambda folder: Planted.write(folder, ABOUT, planted))
    store.replace(GROUND_TRUTH, ground_truth_spec(), lambda folder: GroundTruth.write(folder, KNOWN_ABOUT, known))
    return root


@pytest.fixture
def cache(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DMCORE_CACHE", str(filled))
    monkeypatch.setattr("dmcore.store.synthetic.SHIPPED", filled)
    reads.forget()
    yield filled
    reads.forget()


def opened(cache: Path, name: str = HAS, **params: str) -> AppTest:
    at = open_page(PAGE, **write_params("demo", record_of(cache, name)), **params)
    assert not at.exception
    assert not at.error
    return at


def n_charts(at: AppTest) -> int:
    return len(at.get("arrow_vega_lite_chart") or at.get("vega_lite_chart"))


def finding_of(at: AppTest) -> str:
    return next(m.value for m in at.markdown if m.value.startswith("### ")).replace("\xa0", " ")


def test_the_view_of_an_sae_says_what_was_found_and_draws_it(cache: Path) -> None:
    at = opened(cache)
    assert n_charts(at) == 3
    assert "is only 20 % linear even by the best map" in finding_of(at)
    text = words(at).replace("\xa0", " ")
    assert (
        "Of 148 planted errors, all on one sample of tokens, the 95 % interval holds the truth of the linear error in"
        in text
    )
    assert "That cost is 2.0 % of the nonlinear error, on 15,000 tokens" in text
    assert "no rows for this chart" not in text


def test_choices_are_in_the_link_and_come_from_it(cache: Path) -> None:
    at = opened(cache, noise="residual", ablated="0.5", price="off")
    assert "errors of other tokens of 0 to 2 times" in words(at)
    assert "50 % of the latents taken out" in words(at)
    wanted = {"synthetic": "planted", "noise": "residual", "ablated": "0.5", "price": "off"}
    assert wanted.items() <= params_of(at).items()
    assert "asked for is not in this study" in words(opened(cache, noise="<b>"))


def test_known_features_have_a_slider_an_ingredient_that_snaps_to_the_grid(cache: Path) -> None:
    at = opened(cache, synthetic="known")
    assert n_charts(at) == 4
    labels = [slider.label for slider in at.select_slider]
    assert set(INGREDIENT_NAMES.values()) <= set(labels)
    slider = next(one for one in at.select_slider if one.label == "Tokens a dimension")
    assert list(slider.options) == ["16", "64", "256", "1,024"]
    assert slider.value == "256"
    assert "in its interval" in words(at)
    moved = slider.set_value("16").run()
    assert not moved.exception
    assert params_of(moved)["tokens"] == "16"
    assert "outside its interval" in words(moved)
    assert "Of 648 settings with 1,024 tokens a dimension, on 27 distinct samples of tokens," in finding_of(moved), (
        "the finding is of the whole grid"
    )


def test_every_level_of_every_ingredient_can_be_shown(cache: Path) -> None:
    for name, values in INGREDIENTS.items():
        at = opened(cache, synthetic="known", **{name: f"{values[-1]:g}"})
        assert n_charts(at) == 4
        assert "has not been made" not in words(at)


def test_what_is_missing_names_the_command(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "saes/layer_3_residual/width_256_topk_l0_16"
    at = opened(cache, other)
    assert n_charts(at) == 0
    assert f"python -m dmcore synthetic demo {other}" in words(at)
    assert [b.label for b in at.button if b.key == "look.start"] == ["Make it now"]
    write_fake_study(tmp_path)
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    monkeypatch.setattr("dmcore.store.synthetic.SHIPPED", tmp_path)
    reads.forget()
    at = opened(tmp_path, synthetic="known")
    assert n_charts(at) == 0
    assert "python -m dmcore synthetic --ground-truth" in words(at)


def folder_of(kind: type, about: dict[str, Any], tables: dict[str, pl.DataFrame]) -> Any:
    return kind(about, Path("nowhere"), tables)


def test_the_regimes_where_estimates_are_off_are_named() -> None:
    said = regimes(fake.settings(), INGREDIENT_NAMES)
    on = "(27 distinct samples of tokens)"
    assert f"at tokens a dimension = 16 the nonlinear error has its truth in the interval in 0 % {on}" in said
    assert (
        "at every level of circles the nonlinear error has its truth in the interval in 50 to 50 % "
        "(36 distinct samples of tokens a level)" in said
    )
    assert not any("1,024" in text for text in said)
    far = fake.settings().with_columns(
        nonlinear=pl.col("nonlinear") * pl.when(pl.col("dense") == 1).then(1.5).otherwise(1.0)
    )
    assert (
        "at dense part = 100 % the nonlinear error is estimated 53 % too large (median; 36 distinct samples of tokens)"
        in regimes(far, INGREDIENT_NAMES)
    )
    sound = fake.settings().filter(pl.col("tokens") > 100)
    assert regimes(sound, INGREDIENT_NAMES) == []
    said = regimes(fake.cells(), CELL_NAMES)
    assert said and all("(median; 1 distinct sample of tokens)" in text for text in said), (
        "of one sample no share is said"
    )
    assert "one sample of tokens" in unsure_sentence(fake.cells(), CELL_NAMES)


def test_a_share_of_few_samples_is_not_called_off_though_it_is_of_many_settings() -> None:
    few = pl.col("tokens") == 1024
    missed = (
        (pl.col("dense") == 0) & (pl.col("circles") == 0) & (pl.col("density") < 20)
    )  # two of nine samples at dense = 0
    wide = fake.settings().filter(few).with_columns(nonlinear_low=pl.when(missed).then(0.11).otherwise("nonlinear_low"))
    (row,) = agreement_by(wide, "dense").filter(level=0.0).to_dicts()
    assert (row["samples"], row["n"]) == (9, 216)
    assert row["nonlinear_inside"] == pytest.approx(7 / 9)
    assert wilson(7, 9).high < 0.95
    assert any("dense part = 0 %" in text and "9 distinct" in text for text in regimes(wide, INGREDIENT_NAMES))
    one = wide.filter((pl.col("density") > 2) | (pl.col("dense") > 0) | (pl.col("circles") > 0))  # one of eight
    assert regimes(one, INGREDIENT_NAMES) == []
    assert "on only 8 to 9 distinct samples of tokens" in unsure_sentence(one, INGREDIENT_NAMES)


@pytest.mark.parametrize(("inside", "samples"), [(k, n) for n in (5, 9, 27, 108) for k in range(n + 1)])
def test_what_could_be_meant_is_by_the_wilson_interval(inside: int, samples: int) -> None:
    assert could_be_meant(inside / samples, samples) == (wilson(inside, samples).high >= 0.95)
    assert could_be_meant(0.0, 4), "fewer never tell"


def test_findings_say_nothing_of_tables_that_are_empty() -> None:
    known = folder_of(GroundTruth, KNOWN_ABOUT, {"settings": fake.settings().clear()})
    assert known_finding(known) == ("", "")
    planted = folder_of(Planted, ABOUT, {"cells": fake.cells().clear()})
    assert planted_finding(planted, "gaussian") == ("", "")
    assert inside_sentence(fake.NO_INTERVAL, "cells") == ""


def test_a_setting_says_how_much_of_its_nonlinear_error_is_introduced() -> None:
    setting = fake.chosen(**DEFAULTS)
    text = setting_sentence(setting, fake.components_of(setting["setting"]))
    assert "10.00 % in truth, in its interval" in text
    assert "Introduced error is 10 % of what is nonlinear" in text
    assert level_text("absent", 0.25) == "25 %"
    assert level_text("on_acts", 0.5) == "0.5 ×"
