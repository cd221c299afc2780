"""Snapping: every wish ends at an SAE that exists, the nearest one."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmcore.results import over_layers, over_widths
from dmcore.ui.grid import Wish, choose_nearest, l0_steps
from dmcore.ui.link import full_link, read_study, read_wish, write_params
from dmcore.ui.selection import _unique
from tests.pages.fake_results import fake_published

RECORDS = fake_published().records
HOSTILE = [
    "",
    "<script>alert(1)</script>",
    "nan",
    "inf",
    "-1",
    "1e999",
    "9" * 30,
    "9" * 5000,
    "0x10",
    "²",
    "../..",
    "\x00",
    "None",
]


def test_without_a_wish_the_largest_grid_is_shown_at_its_middle_width_and_usual_l0() -> None:
    record = choose_nearest(RECORDS, Wish()).record
    assert (record["stream"], record["layer"], record["d_sae"], round(record["l0"])) == ("residual", 2, 1024, 16)


def test_a_wish_that_exists_is_met_exactly() -> None:
    for row in RECORDS.to_dicts():
        choice = choose_nearest(RECORDS, Wish(row["stream"], row["layer"], row["d_sae"], row["l0"], row["label"]))
        assert choice.record["sae"] == row["sae"]
        assert choice.snapped == ()


def test_architectures_at_one_l0_share_a_stop_and_different_l0s_of_one_architecture_do_not() -> None:
    choice = choose_nearest(RECORDS, Wish("residual", 2, 1024, 16.0))
    assert len(choice.steps) == 4
    assert choice.archs == ("batchtopk", "gated", "jumprelu", "standard", "topk")
    close = [{"l0": l0, "label": "jumprelu"} for l0 in (10.0, 11.0, 12.0)]
    assert len(l0_steps(close)) == 3


def test_what_does_not_exist_snaps_to_the_nearest_on_a_log_scale() -> None:
    choice = choose_nearest(RECORDS, Wish("residual", 0, 512, 4.0, "gated"))
    assert choice.record["d_sae"] == 256  # 512 is as far from 1,024: the smaller wins
    assert choice.record["label"] == "topk"
    assert choice.snapped == ("width", "l0", "arch")
    assert choose_nearest(RECORDS, Wish("residual", 2, 3000)).record["d_sae"] == 4096
    assert choose_nearest(RECORDS, Wish("residual", 99)).record["layer"] == 4
    assert choose_nearest(RECORDS, Wish("sideways")).record["stream"] == "residual"


def test_sliding_to_another_layer_keeps_what_exists_there() -> None:
    choice = choose_nearest(RECORDS, Wish("residual", 3, 4096, 15.98, "topk"))
    assert (choice.record["layer"], choice.record["d_sae"]) == (3, 4096)


@settings(max_examples=200, deadline=None)
@given(
    stream=st.none() | st.text(max_size=12) | st.sampled_from(["residual", "mlp", "attention"]),
    layer=st.none() | st.integers(0, 10**9),
    width=st.none() | st.integers(0, 10**9),
    l0=st.none() | st.floats(min_value=1e-300, max_value=1e300),
    arch=st.none() | st.text(max_size=12) | st.sampled_from(["topk", "gated"]),
)
def test_every_wish_ends_at_an_sae_of_the_study(
    stream: str | None, layer: int | None, width: int | None, l0: float | None, arch: str | None
) -> None:
    choice = choose_nearest(RECORDS, Wish(stream, layer, width, l0, arch))
    assert choice.record["sae"] in set(RECORDS["sae"])
    assert choice.record in choice.steps[choice.step].records


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["stream", "layer", "width", "l0", "arch", "study"]), st.text() | st.sampled_from(HOSTILE)
    )
)
def test_no_parameter_of_a_link_can_break_the_reading(params: dict[str, str]) -> None:
    wish, _ = read_wish(params)
    assert choose_nearest(RECORDS, wish).record["sae"] in set(RECORDS["sae"])
    assert read_study(params, {"demo": "Demo"})[0] == "demo"


@pytest.mark.parametrize("value", HOSTILE)
def test_numbers_that_cannot_be_read_are_reported_by_field(value: str) -> None:
    wish, unreadable = read_wish({"layer": value, "l0": value})
    assert wish.layer is None
    assert set(unreadable) >= {"layer"}


def test_a_link_reproduces_its_view() -> None:
    for row in RECORDS.to_dicts():
        wish, unreadable = read_wish(write_params("demo", row))
        assert unreadable == ()
        assert choose_nearest(RECORDS, wish).record["sae"] == row["sae"]


def test_a_link_is_quoted_and_starts_at_the_page() -> None:
    assert full_link("http://localhost:8501", {"study": "a&b"}) == "http://localhost:8501/?study=a%26b"
    assert full_link("http://localhost:8501/regression?x=1", {"skip": "0"}) == "http://localhost:8501/regression?skip=0"


def test_over_widths_compares_like_with_like() -> None:
    gated = RECORDS.filter(pl.col("label") == "gated").row(0, named=True)
    rows = over_widths(RECORDS, gated)
    assert set(rows["label"]) == {"topk"}
    assert rows["d_sae"].to_list() == [256, 512, 1024, 2048, 4096]
    assert all(round(l0) == 16 for l0 in rows["l0"])
    sparse = RECORDS.filter((pl.col("layer") == 2) & (pl.col("l0") < 5)).row(0, named=True)
    assert all(l0 < 5 for l0 in over_widths(RECORDS, sparse)["l0"])


def test_over_layers_takes_the_nearest_width_then_the_nearest_l0() -> None:
    narrow = RECORDS.filter((pl.col("layer") == 2) & (pl.col("d_sae") == 512) & (pl.col("l0") < 5)).row(0, named=True)
    rows = over_layers(RECORDS, narrow)
    assert rows["layer"].to_list() == [0, 1, 2, 3, 4]
    assert rows.filter(pl.col("layer") == 2)["sae"][0] == narrow["sae"]
    assert over_layers(RECORDS, RECORDS.filter(pl.col("stream") == "mlp").row(0, named=True)).height == 1


def test_an_sae_of_which_no_latent_fires_has_a_link() -> None:
    wish, unreadable = read_wish({"l0": "0"})
    assert (wish.l0, unreadable) == (0.0, ())
    assert read_wish({"l0": "-0.5"}) == (Wish(), ("l0",))


@pytest.mark.parametrize(
    "titles",
    [
        {"a": "T", "b": "U"},
        {"a": "T", "b": "T"},
        {"a": "T", "b": "T", "c": "T (a)"},
        {"a": "T" * 900, "b": "T" * 901, "c": "\u202eT", "d": "⟨U+202E⟩T"},
    ],
)
def test_studies_whose_titles_look_alike_are_told_apart(titles: dict[str, str]) -> None:
    texts = _unique(titles)
    assert len(set(texts)) == len(titles)
    assert not any("\u202e" in text for text in texts)
