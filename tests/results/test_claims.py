"""The paper's statements on planted results: each verdict, what the numbers are, groups, small studies; and on the demo."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from dmcore.estimate import Estimate
from dmcore.results.claim_groups import by_architecture, by_l0, by_site, group_claims
from dmcore.results.claim_sets import middle_layers, width_sets
from dmcore.results.claim_tests import TESTS, ClaimInputs, measured, study_claims
from dmcore.results.claims import (
    CLAIMS,
    FAILS,
    HOLDS,
    NOT_TESTED,
    STATEMENTS,
    UNDECIDED,
    VERDICTS,
    claims_frame,
    verdict,
)
from dmcore.run.cli import main
from dmcore.store.published import open_published
from dmcore.store.store import Store
from tests.pages.fake_results import write_fake_study
from tests.results.planted_claims import SITE, ends, planted, record, records_of, replicates_of, scaling_of, spread

HALF = 0.008
"""Less than half of the narrowest range."""


def middle(claim: str) -> float:
    """A number in the range of a statement."""
    low, high = STATEMENTS[claim].low, STATEMENTS[claim].high
    if math.isfinite(low) and math.isfinite(high):
        return (low + high) / 2
    return low + 0.05 if math.isfinite(low) else high - 0.05


def bound(claim: str) -> tuple[float, int]:
    """An end of the range, and the side on which it is: -1 for below."""
    statement = STATEMENTS[claim]
    return (statement.low, -1) if math.isfinite(statement.low) else (statement.high, 1)


def row_of(claim: str, given: ClaimInputs) -> dict[str, Any]:
    return claims_frame([measured(claim, given, given.records)]).row(0, named=True)


def test_every_statement_has_a_test_and_is_said_in_one_sentence() -> None:
    assert list(TESTS) == list(STATEMENTS)
    for statement in STATEMENTS.values():
        assert statement.says.endswith(".")
        assert statement.range_from.startswith(("ours: ", "paper: ", "paper, as quoted"))
        assert not ({"2", "X"} >= set(statement.source.split(", ")) and statement.range_from.startswith("paper:")), (
            "what is only quoted is not given as the paper's"
        )
        assert statement.paper and not statement.paper.endswith(".")
        assert set(statement.source.split(", ")) <= {"P", "C", "2", "X"}


@pytest.mark.parametrize("claim", STATEMENTS)
@pytest.mark.parametrize(("said", "shift"), [(HOLDS, None), (FAILS, 0.1), (UNDECIDED, 0.0)])
def test_a_planted_number_has_its_verdict(claim: str, said: str, shift: float | None) -> None:
    end, side = bound(claim)
    value = middle(claim) if shift is None else end + side * shift
    row = row_of(claim, planted(claim, value, HALF))
    assert row["verdict"] == said
    np.testing.assert_allclose([row["value"], row["low"], row["high"]], [value, value - HALF, value + HALF], atol=2e-4)
    assert row["reason"] is None
    assert row["n_inside"] <= row["n"]


@pytest.mark.parametrize("claim", [c for c in STATEMENTS if math.isfinite(STATEMENTS[c].high)])
def test_a_number_above_the_range_fails_too(claim: str) -> None:
    row = row_of(claim, planted(claim, STATEMENTS[claim].high + 0.1, HALF))
    assert row["verdict"] == FAILS
    assert row["n_inside"] == 0


@pytest.mark.parametrize("claim", STATEMENTS)
def test_what_is_missing_is_not_tested_and_says_what_would_make_it(claim: str) -> None:
    row = row_of(claim, ClaimInputs(records_of([record("a")]), "STUDY.toml"))
    assert row["verdict"] == NOT_TESTED
    assert row["value"] is None
    assert row["reason"].endswith(".")
    assert "STUDY.toml" in row["command"]


@pytest.mark.parametrize("claim", STATEMENTS)
def test_a_study_of_few_contexts_has_no_verdicts_and_says_so(claim: str) -> None:
    given = planted(claim, middle(claim), HALF)
    few = replace(given, records=given.records.with_columns(n_contexts=pl.lit(6, pl.Int64)))
    row = row_of(claim, few)
    assert row["verdict"] == NOT_TESTED
    assert "6 contexts" in row["reason"]
    assert row["value"] is None


@pytest.mark.parametrize("claim", [c for c in STATEMENTS if STATEMENTS[c].several])
@pytest.mark.parametrize("value", [0.0, 9.0])
def test_what_is_about_several_is_not_decided_by_one(claim: str, value: float) -> None:
    given = planted(claim, middle(claim) + value, HALF)
    assert row_of(claim, given)["verdict"] != UNDECIDED
    keys = {"same_tokens": ["a", "b"]}.get(claim) or [
        k for k in given.records["summary_key"] if k in ("a", "a8.0", "b8.0", "c8.0")
    ]
    one = given.records.filter(pl.col("summary_key").is_in(keys))
    row = claims_frame([measured(claim, given, one)]).row(0, named=True)
    assert (row["verdict"], row["n"]) == (UNDECIDED, 1)
    assert row["reason"].startswith("Only one ")
    assert f"“{FAILS if value and math.isfinite(STATEMENTS[claim].high) else HOLDS}”" in row["reason"]
    assert row["value"] == pytest.approx(middle(claim) + value, abs=1e-3), "the number is shown all the same"


def test_middle_layers_are_the_middle_third_of_those_that_the_study_has() -> None:
    def at(*layers: int, stack: str = "blocks") -> list[dict[str, Any]]:
        return [record(f"{stack}{v}", site=f"{stack}.{v}.hook_resid_post", layer=v) for v in layers]

    assert middle_layers(records_of(at(0, 1, 2, 3, 4))) == {"blocks": [2]}
    assert middle_layers(records_of(at(*range(42))))["blocks"] == list(range(14, 28))
    assert middle_layers(records_of(at(9, 20, 31))) == {"blocks": [20]}
    assert middle_layers(records_of(at(3, 20))) == {}, "of two layers neither is a middle one"
    draws = {key: replicates_of(r2_error_norm_sq=spread(0.8, HALF)) for key in ("blocks0", "blocks3")}
    row = row_of("norm_07", ClaimInputs(records_of(at(0, 3)), "STUDY.toml", draws))
    assert row["verdict"] == NOT_TESTED
    assert "Which layers are middle ones cannot be told" in row["reason"]
    given = planted("norm_07", 0.8, HALF)
    early = claims_frame([measured("norm_07", given, given.records.filter(layer=0))]).row(0, named=True)
    assert early["reason"] == "None of these SAEs is at a middle layer of the study (2)."


def test_the_mean_of_ratios_is_of_each_sae() -> None:
    rows = records_of([record("a", fvu=0.1, fvu_nonlinear=0.09), record("b", fvu=1.0, fvu_nonlinear=0.1)])
    draws = {key: replicates_of(fvu=np.full(401, row["fvu"]), fvu_nonlinear=np.full(401, row["fvu_nonlinear"]))
             for key, row in zip("ab", rows.to_dicts(), strict=True)}  # fmt: skip
    assert row_of("half_norm", ClaimInputs(rows, "demo", draws))["value"] == pytest.approx((0.1 + 0.9) / 2)


def test_a_verdict_needs_an_interval() -> None:
    assert verdict(Estimate(0.5), 0.0, 1.0) == NOT_TESTED
    assert verdict(Estimate(0.5, 0.0, 1.0), 0.0, 1.0) == HOLDS
    assert verdict(Estimate(0.5, -0.1, 1.1), 0.0, 1.0) == UNDECIDED


def test_the_mean_over_saes_is_paired_so_opposite_luck_cancels() -> None:
    rows = records_of([record("a", r2_error_mean_dims=0.4), record("b", r2_error_mean_dims=0.6)])
    same, opposite = spread(0.0, 0.1), -spread(0.0, 0.1)
    draws = {"a": replicates_of(r2_error_mean_dims=0.4 + same), "b": replicates_of(r2_error_mean_dims=0.6 + opposite)}
    row = row_of("half_vector", ClaimInputs(rows, "demo", draws))
    assert row["value"] == pytest.approx(0.5)
    assert row["high"] - row["low"] == pytest.approx(0.0, abs=1e-9)
    assert (row["n"], row["n_inside"]) == (2, 2)


def test_sets_of_widths_are_of_one_site_architecture_and_l0() -> None:
    rows = [record(f"{label}{width}{l0}", label=label, d_sae=width, l0=l0)
            for label in ("topk", "gated") for width in (256, 1024) for l0 in (8.0, 16.0)]  # fmt: skip
    sets = width_sets(records_of([*rows, record("alone", site="blocks.3.hook_resid_post")]))
    assert len(sets) == 4
    for members in sets:
        assert [row["d_sae"] for row in members] == [256, 1024]
        assert len({(row["label"], row["l0"]) for row in members}) == 1


def many() -> pl.DataFrame:
    rows = [record(f"t{width}{l0}", d_sae=width, l0=l0) for width in (256, 1024) for l0 in (4.0, 16.0)]
    rows += [record("gated", label="gated", d_sae=1024, l0=14.0), record("other", site="blocks.3.hook_resid_post")]
    return records_of(rows)


def test_groups_differ_in_what_is_named() -> None:
    assert {name: rows["summary_key"].to_list() for name, rows in by_architecture(many()).items()} == {
        "topk": ["t102416.0"], "gated": ["gated"]}  # fmt: skip
    assert {name: sorted(rows["summary_key"]) for name, rows in by_l0(many()).items()} == {
        "L0 4": ["t10244.0", "t2564.0"], "L0 16": ["t102416.0", "t25616.0"]}  # fmt: skip
    assert {name: sorted(rows["summary_key"]) for name, rows in by_site(many()).items()} == {
        SITE: ["t102416.0", "t25616.0"], "blocks.3.hook_resid_post": ["other"]}  # fmt: skip


def test_domains_are_groups_of_the_share_that_is_kept_for_them() -> None:
    slices = [
        {"sae": 0, "by": "domain", "group": name, "order": i, **ends("nonlinear_share", share, 0.01)}
        for i, (name, share) in enumerate((("code", 0.5), ("law", 0.9)))
    ]
    given = ClaimInputs(records_of([record("a")]), "demo", scaling={SITE: scaling_of(["a"], slices=slices)})
    rows = group_claims(given).filter(pl.col("by") == "domain").to_dicts()
    assert [(row["group"], row["verdict"], round(row["low"], 6)) for row in rows] == [
        ("code", HOLDS, 0.49),
        ("law", FAILS, 0.09),
    ]


@pytest.fixture(scope="module")
def demo() -> Any:
    return open_published("demo", Store()).claims()


def test_every_claim_of_the_demo_has_a_verdict_with_an_interval(demo: Any) -> None:
    assert demo.study["claim"].to_list() == list(STATEMENTS)
    assert dict(demo.study.schema) == CLAIMS
    for row in demo.study.to_dicts():
        assert row["verdict"] in VERDICTS[:3]
        assert row["low"] <= row["value"] <= row["high"]
    assert set(demo.groups["by"]) >= {"architecture", "L0", "site"}


def test_the_demo_s_mean_is_that_of_its_records(demo: Any) -> None:
    records = open_published("demo", Store()).records
    row = demo.study.row(0, named=True)
    assert row["value"] == pytest.approx(records["r2_error_mean_dims"].mean(), abs=1e-12)
    alone = demo.groups.filter((pl.col("group") == "gated") & (pl.col("claim") == "half_vector")).row(0, named=True)
    gated = records.filter(pl.col("label") == "gated").row(0, named=True)
    found = [alone[name] for name in ("value", "low", "high")]
    np.testing.assert_allclose(found, [gated[f"r2_error_mean_dims{end}"] for end in ("", "_low", "_high")], atol=1e-6)


def test_the_command_prints_them_as_text_and_as_json(capsys: pytest.CaptureFixture[str], demo: Any) -> None:
    assert main(["claims", "demo", "--groups"]) == 0
    text = capsys.readouterr().out
    for statement in STATEMENTS.values():
        assert statement.says in text
    assert "architecture 'gated'" in text
    assert main(["claims", "demo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["study"] == "demo"
    assert found["claims"] == demo.study.to_dicts()
    assert main(["claims", "nowhere.toml"]) != 0


def test_a_study_with_nothing_but_a_sweep_says_what_is_missing(tmp_path: Any) -> None:
    write_fake_study(tmp_path)
    claims = open_published("demo", Store(tmp_path)).claims()
    missing = dict(claims.study.filter(pl.col("verdict") == NOT_TESTED).select("claim", "command").rows())
    assert missing["same_tokens"] == "scaling demo"
    assert missing["parts_order"] == "train-saes demo --parts"
    assert missing["loss_linear"] == "downstream demo"
    assert missing["earlier"] == "reduce demo"
    assert "half_vector" not in missing


def test_rows_without_a_finite_number_are_left_out_not_failed() -> None:
    rows = records_of([record("a", r2_error_norm_sq=None), record("b", r2_error_norm_sq=0.95)])
    draws = {key: replicates_of(r2_error_norm_sq=spread(0.95, HALF)) for key in "ab"}
    row = row_of("norm_09", ClaimInputs(rows, "demo", draws))
    assert (row["verdict"], row["n"]) == (HOLDS, 1)
    assert study_claims(ClaimInputs(rows, "demo", draws))["claim"].to_list() == list(STATEMENTS)
