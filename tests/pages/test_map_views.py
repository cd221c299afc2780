"""The views Shrinkage and Transfer of the page Controls: findings, choices, links, empty states, hostile text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from dmcore.results.shrinkage import SHRINKAGE, Shrinkage, shrinkage_spec, shrinkage_table
from dmcore.results.transfer import ALL_TEXTS, BY, KEPT, TRANSFER, Transfer, transfer_members, transfer_spec
from dmcore.store.published import open_published
from dmcore.store.store import Store
from dmcore.ui import reads
from dmcore.ui.link import write_params
from dmcore.words.shrinkage import (
    direction_sentence,
    group_sentence,
    ladder_sentence,
    outlier_sentence,
    rank_sentence,
)
from dmcore.words.transfer import all_texts_sentence, member_labels, transfer_sentence
from tests.charts import map_tables as fake
from tests.pages.fake_results import write_fake_study
from tests.pages.fake_scaling import HOSTILE
from tests.pages.test_pages import ROOT, open_page, params_of, words

PAGE = str(ROOT / "pages" / "controls.py")
HAS = "saes/layer_2_residual/width_1024_topk_l0_16"
LACKS = "saes/layer_2_residual/width_1024_topk_l0_8"
ABOUT: dict[str, Any] = {
    "sae": HAS, "d_model": fake.D_MODEL, "d_sae": 1024, "n_tokens": 70_000, "n_contexts": 300, "n_folds": 5,
    "skip_positions": 8, "seed": 0, "ridge": 0.0, "fit_bias": True, "outlier_multiple": 10.0,
}  # fmt: skip
TEXTS = [HOSTILE[0], "code", ALL_TEXTS]


def record_of(cache: Path, name: str = HAS) -> dict[str, Any]:
    return open_published("demo", Store(cache)).records.filter(sae=name).row(0, named=True)


def write_transfer(root: Path, by: str, **tables: pl.DataFrame) -> None:
    own = record_of(root)["summary_key"]
    members = transfer_members(open_published("demo", Store(root)).records, own, by)
    names = TEXTS if by == "domain" else members
    made = fake.transfer_tables(names) | tables
    about = {**ABOUT, "by": by}
    Store(root).replace(TRANSFER, transfer_spec(by, members), lambda folder: Transfer.write(folder, about, made))


def write_shrinkage(root: Path, **tables: pl.DataFrame) -> None:
    spec = shrinkage_spec(record_of(root)["summary_key"])
    Store(root).replace(SHRINKAGE, spec, lambda folder: Shrinkage.write(folder, ABOUT, fake.shrinkage_tables(**tables)))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("maps")
    write_fake_study(root)
    write_shrinkage(root)
    for by in BY:
        write_transfer(root, by)
    return root


@pytest.fixture
def cache(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DMCORE_CACHE", str(filled))
    reads.forget()
    yield filled
    reads.forget()


def opened(cache: Path, name: str = HAS, **params: str) -> AppTest:
    at = open_page(PAGE, **write_params("demo", record_of(cache, name)), **params)
    assert not at.exception
    return at


def n_charts(at: AppTest) -> int:
    return len(at.get("arrow_vega_lite_chart") or at.get("vega_lite_chart"))


def finding_of(at: AppTest) -> str:
    return next(m.value for m in at.markdown if m.value.startswith("### ")).replace("\xa0", " ")


@pytest.mark.parametrize(
    ("part", "charts", "said"),
    [
        (
            "ladder",
            2,
            "Rescaling x alone explains 3 % (1 to 5) of this SAE's error, the full map 35 % (33 to 37): shrinkage is",
        ),
        ("directions", 4, "10 % (8 to 12) of the map, in squares, is the same shrinkage of every direction"),
        ("groups", 1, "40 % (38 to 42) of the linear part is read from components 65 to 192 of x"),
    ],
)
def test_every_part_of_shrinkage_draws_finds_and_is_in_the_link(cache: Path, part: str, charts: int, said: str) -> None:
    at = opened(cache, trust="shrinkage", shrunk=part)
    assert not at.error
    assert n_charts(at) == charts and "no rows for this chart" not in words(at)
    assert said in finding_of(at)
    assert params_of(at)["shrunk"] == part and params_of(at)["trust"] == "shrinkage"
    assert "<b>remark</b>" not in words(at), "a remark is no HTML"
    assert "70,000 tokens" in words(at)


def test_the_outlying_dimensions_are_named_with_the_rule_and_what_goes_without_them(cache: Path) -> None:
    at = opened(cache, trust="shrinkage", shrunk="groups")
    assert "more than 10 times the median over dimensions: here 0, 10, 20, 30, 40, 50 and 3 more" in words(at)
    (table,) = [frame.value for frame in at.dataframe]
    assert list(table["R²"]) == ["0.30 (0.28 to 0.32)"] * 5
    assert list(table["less than with all"]) == ["", *["0.05 (0.03 to 0.07)"] * 4]


def test_the_ladder_is_there_in_numbers(cache: Path) -> None:
    (table,) = [frame.value for frame in opened(cache, trust="shrinkage").dataframe]
    assert table["R²"].iloc[-1] == "0.35 (0.33 to 0.37)" and table["numbers fitted"].iloc[-1] == fake.D_MODEL**2
    assert table["left"].iloc[0] == "0.32 (0.30 to 0.34)" and table["left"].iloc[-1] == ""


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("by", BY)
def test_every_matrix_draws_and_is_in_the_link(cache: Path, by: str, kept: str) -> None:
    at = opened(cache, trust="transfer", between=by, kept=kept, cells="r2")
    assert not at.error and n_charts(at) == 1 and "no rows for this chart" not in words(at)
    params = params_of(at)
    assert (params["between"], params["kept"], params["cells"]) == (by, kept, "r2")
    assert "the median pair keeps" in finding_of(at)
    assert HOSTILE[0] not in words(at)


def test_the_finding_between_texts_leaves_all_texts_out_and_says_them_apart(cache: Path) -> None:
    found = finding_of(opened(cache, trust="transfer"))
    assert "Between texts, the median pair keeps 65 % of what a map fitted there explains" in found
    assert "The one map of all texts explains" in found


def test_an_sae_without_results_is_offered_the_commands(cache: Path) -> None:
    at = opened(cache, LACKS, trust="shrinkage")
    assert f"python -m dmcore shrinkage demo {LACKS}" in words(at) and not n_charts(at)
    at = opened(cache, LACKS, trust="transfer", between="domain")
    assert f"python -m dmcore transfer demo {LACKS} --by domain" in words(at)
    assert any(button.label == "Make it now" for button in at.button)


def test_a_view_that_a_link_names_wrongly_is_another_one(cache: Path) -> None:
    at = opened(cache, trust="transfer", between="colour", kept="map")
    assert params_of(at)["between"] == "domain" and not at.error
    assert "The kind of transfer asked for is not in this study" in words(at)


def of(**tables: pl.DataFrame) -> Any:
    """A made-up result that is nowhere on disk."""
    made = fake.shrinkage_tables(**tables)
    found = Shrinkage(ABOUT, Path("nowhere"))
    found._tables.update(made)
    return found


def test_sentences_fit_what_is_and_what_is_not_there() -> None:
    nothing = {
        name: shrinkage_table(name, []) for name in ("ladder", "ranks", "shape", "ablations", "outliers", "without")
    }
    empty = of(**nothing)
    told = [ladder_sentence(empty), rank_sentence(empty), direction_sentence(empty), group_sentence(empty)]
    assert told == ["", "", "", ""]
    assert outlier_sentence(empty).endswith("there is none here.")
    lost = [pl.lit(None, dtype=pl.Float64).alias(c) for c in ("share", "share_low", "share_high")]
    assert ladder_sentence(of(ladder=fake.ladder().with_columns(lost))).endswith("there is no linear part to speak of.")
    assert "still linear in x" in ladder_sentence(of())
    gone = fake.ladder().with_columns(left_low=pl.lit(-0.1))
    assert "still linear" not in ladder_sentence(of(ladder=gone))
    assert rank_sentence(of()) == (
        "A map of rank 48 of 192 explains half of what every rank does; to explain as much as the one number α does, it takes "
        "rank 2."
    )


def between(by: str, off: float, names: list[str], **columns: list[Any]) -> Transfer:
    found = Transfer({**ABOUT, "by": by}, Path("nowhere"))
    found._tables.update(fake.transfer_tables(names, off, **columns))
    return found


def test_maps_that_do_not_hold_are_said_not_to() -> None:
    told = transfer_sentence(between("layer", -0.2, ["a", "b", "c"]))
    assert told.startswith("Between layers, maps do not hold: the median pair explains nothing")
    assert "In 6 of 6 pairs a map is worse than none, beyond doubt." in told
    assert "The slope up to one number keeps 90 %." in told
    assert all_texts_sentence(between("layer", 0.1, ["a", ALL_TEXTS])) == ""


def test_members_are_told_apart() -> None:
    assert member_labels(between("layer", 0.1, ["a", "b"])) == ["layer 0", "layer 1"]
    assert member_labels(between("width", 0.1, ["a", "b"], d_sae=[1024, 1024])) == [
        "1,024 latents",
        "1,024 latents (2)",
    ]
    found = between("sae", 0.1, ["a", "b"], l0=[4.0, 16.2], label=["topk", "jumprelu"])
    assert member_labels(found) == ["TopK 1,024, L0 4", "JumpReLU 1,024, L0 16"]
    assert member_labels(between("domain", 0.1, ["x" * 80, "y"]))[0] == "x" * 39 + "…"
