"""The view *Structure of the error*: what it says, what it draws, what it does with links and texts that are hostile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dmcore.charts.token_text import visible
from dmcore.results import Features, Structure
from dmcore.results.structure import STRUCTURE_TABLES
from dmcore.store.published import open_published
from dmcore.store.store import Store
from dmcore.ui import reads
from dmcore.ui.clusters_panel import cluster_examples, cluster_sentence, clusters_sentence, token_rows
from dmcore.ui.link import write_params
from dmcore.ui.structure_panel import alignment_rows, latent_names, parts_rows
from dmcore.words.structure import halves_sentence, structure_finding
from tests.charts import inspector_tables as fake
from tests.pages.fake_results import write_fake_study
from tests.pages.fake_scaling import HOSTILE
from tests.pages.fake_structure import (
    ABOUT,
    CONTENTS,
    DIRECTIONS,
    REMARK,
    build_structure,
    structure_tables,
    write_fake_structure,
)
from tests.pages.test_pages import ROOT, open_page, params_of, words

PAGE = str(ROOT / "pages" / "nonlinear.py")
N_CHARTS = 8
"""Spectrum, halves, silhouettes, clusters, examples, latents, kinds of token, positions."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The made-up study, whose first SAE has a structure."""
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    write_fake_study(tmp_path, n_saes=2)
    reads.forget()
    yield tmp_path
    reads.forget()


def record_of(cache: Path, number: int) -> dict[str, Any]:
    return open_published("demo", Store(cache)).records.row(number, named=True)


def opened(cache: Path, number: int = 0, **params: str) -> AppTest:
    return open_page(PAGE, **write_params("demo", record_of(cache, number)), look="structure", **params)


def n_charts(at: AppTest) -> int:
    return len(at.get("arrow_vega_lite_chart") or at.get("vega_lite_chart"))


def test_the_view_opens_with_its_finding_and_draws_every_chart(cache: Path) -> None:
    write_fake_structure(cache, record_of(cache, 0)["summary_key"])
    at = opened(cache)
    assert not at.exception and not at.error
    finding = next(m.value for m in at.markdown if m.value.startswith("###")).replace("\xa0", " ")
    assert "560 (556 to 564) of 768 directions" in finding
    assert n_charts(at) == N_CHARTS
    assert "no rows for this chart" not in words(at)
    assert REMARK in words(at)
    assert f"n = {ABOUT['n_tokens']:,} tokens in {ABOUT['n_contexts']:,} contexts" in words(at)


def test_an_sae_without_a_structure_names_the_command_that_makes_it(cache: Path) -> None:
    write_fake_structure(cache, record_of(cache, 0)["summary_key"])
    at = opened(cache, 1)
    assert not at.exception
    assert n_charts(at) == 0
    assert f"`python -m dmcore structure demo {record_of(cache, 1)['sae']}`" in at.info[0].value
    other = open_page(PAGE, **write_params("demo", record_of(cache, 1)), look="features")
    assert f"`python -m dmcore features demo {record_of(cache, 1)['sae']}`" in other.info[0].value


def test_the_link_chooses_a_cluster_and_nonsense_in_it_is_not_echoed(cache: Path) -> None:
    write_fake_structure(cache, record_of(cache, 0)["summary_key"])
    at = opened(cache, clusters="error", cluster="3")
    assert params_of(at)["cluster"] == "3"
    assert "#### Cluster 3" in [m.value for m in at.markdown]
    for bad in ("<img src=x>", "99", "-1"):
        at = opened(cache, clusters=bad, cluster=bad)
        assert not at.exception
        assert params_of(at)["cluster"] == "0"
        assert bad not in words(at)


def test_texts_of_tokens_are_never_markdown(cache: Path) -> None:
    write_fake_structure(cache, record_of(cache, 0)["summary_key"])
    at = opened(cache)
    assert not any(text in words(at) for text in HOSTILE)
    assert visible(HOSTILE[0]) in at.dataframe[2].value["Token"].to_list()


def test_without_clusters_only_the_sentence_is_shown(cache: Path) -> None:
    tables = structure_tables()
    silhouettes = tables["silhouettes"].with_columns(chosen=pl.lit(False))
    without = {name: tables[name].clear() for name in CONTENTS}
    write_fake_structure(cache, record_of(cache, 0)["summary_key"], silhouettes=silhouettes, **without)
    at = opened(cache)
    assert not at.exception and not at.error
    assert n_charts(at) == N_CHARTS - 2
    assert "What is in them?" not in words(at)


def test_where_the_error_is_nil_remarks_stand_in_its_place(cache: Path, tmp_path: Path) -> None:
    said = {
        "parts": "The nonlinear part is 0 up to rounding over tokens, so it has no directions.",
        "latents": "The nonlinear part is 0 up to rounding.",
        "clusters": "Fewer than 50 tokens have a direction.",
    }
    tables = structure_tables()
    empty = {name: tables[name].clear() for name in ("silhouettes", *CONTENTS, "latents", "groups")}
    gone = pl.when(pl.col("part") != "nonlinear")
    parts = tables["parts"].with_columns(gone.then(pl.col(c)) for c in tables["parts"].columns if c != "part")
    remarks = fake.filled(
        STRUCTURE_TABLES["remarks"],
        [{"topic": t, "part": None if t == "latents" else "nonlinear", "text": s} for t, s in said.items()],
    )
    stability = tables["stability"].filter(pl.col("part") != "nonlinear")
    made = empty | {"parts": parts, "remarks": remarks, "stability": stability}
    write_fake_structure(cache, record_of(cache, 0)["summary_key"], **made)
    at = opened(cache)
    assert not at.exception and not at.error
    for sentence in said.values():
        assert sentence in words(at)
    found = build_structure(tmp_path / "nil", **made)
    assert structure_finding(found) == said["parts"]
    assert halves_sentence(found) == ""
    assert parts_rows(found)["90 % in"][-1] == "not computed"


def with_overlap(folder: Path, least: float, d_model: int = fake.D_MODEL) -> Structure:
    rows = [{"part": "nonlinear", "k": k, "n_splits": 8, "overlap": least + 0.01, "overlap_least": least,
             "overlap_most": least + 0.02, "chance": k / d_model} for k in (1, 32, 64, 96, 128, 384)]  # fmt: skip
    stability = fake.filled(STRUCTURE_TABLES["stability"], rows)
    return build_structure(
        folder, {"d_model": d_model}, stability=stability, alignment=structure_tables()["alignment"].clear()
    )


@pytest.mark.parametrize(
    ("least", "verb"), [(0.9, "come back in"), (0.5, "come back in part in"), (0.15, "hardly come back in")]
)
def test_whether_directions_come_back_depends_on_the_least_overlap_above_chance(
    tmp_path: Path, least: float, verb: str
) -> None:
    said = halves_sentence(with_overlap(tmp_path / "one", least))
    assert said.startswith(f"The first 96 of them {verb} another half")
    assert (
        f"overlap {least + 0.01:.2f} ({least:.2f} to {least + 0.02:.2f} over 8 ways to halve), 0.125 by chance" in said
    )


def test_one_direction_is_not_said_in_the_plural(tmp_path: Path) -> None:
    said = halves_sentence(with_overlap(tmp_path / "one", 0.9, d_model=8))
    assert said.startswith("The first of them comes back in another half")


def test_the_finding_compares_with_x_and_the_linear_error(tmp_path: Path) -> None:
    said = structure_finding(build_structure(tmp_path / "one"))
    assert said.startswith(
        "It takes 560 (556 to 564) of 768 directions to hold 90 % of the nonlinear error's variance, against "
        f"{DIRECTIONS['x']:.0f} (206 to 214) for x and {DIRECTIONS['linear']:.0f} (226 to 234) for the linear error. The first"
    )
    parts = structure_tables()["parts"].with_columns(directions_90_low=pl.lit(None, pl.Float64))
    alone = structure_finding(build_structure(tmp_path / "two", parts=parts))
    assert "It takes 560.2 of 768 directions" in alone


def test_a_part_is_compared_with_the_directions_of_x_and_of_the_decoder(tmp_path: Path) -> None:
    rows = alignment_rows(build_structure(tmp_path / "one")).to_dicts()
    # the shares of k = 64, the largest measured that is at most an eighth of 768
    assert rows[3] == {
        "Part": "nonlinear error",
        "of x": "26.4 % (25.4 to 27.4)",
        "of the decoder": "26.4 % (25.4 to 27.4)",
    }


def test_clusters_are_said_with_their_silhouette_and_the_most_that_was_tried(tmp_path: Path) -> None:
    found = build_structure(tmp_path / "one")
    assert clusters_sentence(found, "error") == (
        "The 1,830 tokens with the largest total error fall in 6 clusters: silhouette 0.190, Gaussian 0.058."
    )
    assert clusters_sentence(found, "nonlinear") == REMARK
    last = (pl.col("part") == "error") & (pl.col("k") == 12)
    most = build_structure(tmp_path / "two", silhouettes=structure_tables()["silhouettes"].with_columns(chosen=last))
    assert clusters_sentence(most, "error").endswith("12 is the most that was tried, so there may be more.")


def test_a_cluster_shows_its_tokens_its_latent_and_examples_in_context(tmp_path: Path) -> None:
    found = build_structure(tmp_path / "one")
    assert cluster_sentence(found, "error", 2) == (
        "391 tokens in 131 contexts, at position 133 on average. The decoder row nearest to its centre is that of latent 62 "
        "(cosine 0.50)."
    )
    tokens = token_rows(found, "error", 0)
    assert tokens["Token"].to_list() == [visible(found.texts[k]) for k in range(5)]
    assert tokens["share"].to_list() == pytest.approx([30, 25, 20, 15, 10])
    examples = cluster_examples(found, "error", 1)
    assert examples["text"].to_list()[:6] == [found.texts[k] for k in (1, 2, 3, 1, 4, 5)]
    assert examples["position"].to_list()[:6] == [7, 8, 9, 10, 11, 12]
    assert examples.filter("peak")["activation"].to_list() == pytest.approx([0.8, 0.7, 0.6])
    assert examples.filter(~pl.col("peak"))["activation"].null_count() == 15


def test_latents_are_named_by_the_token_they_fire_on_most(tmp_path: Path) -> None:
    found = build_structure(tmp_path / "one")
    first, second = found["latents"]["latent"][:2]
    latents = pl.LazyFrame({"latent": [first, second, 4095], "token": [7, None, 7]})
    features = cast(Features, SimpleNamespace(latents=latents, texts={7: " the"}))
    assert latent_names(found, features) == {first: " the"}
    assert latent_names(found, None) == {}
