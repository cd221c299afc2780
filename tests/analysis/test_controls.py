"""Every control passes where it must, and fails where its failure has been planted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import dmcore.analysis.control_nulls as nulls
import dmcore.analysis.control_splits as splits
import dmcore.math.held_out_bias as bias
from dmcore.analysis.control_dictionaries import (
    OwnSae,
    RandomModel,
    dictionary_controls,
    model_controls,
    random_errors,
)
from dmcore.analysis.control_nulls import random_directions, shuffled_controls
from dmcore.analysis.control_rows import LEAST_CONTEXTS, Found, control, over_draws, verdict_of
from dmcore.analysis.control_splits import (
    fold_seed_control,
    leak_control,
    token_controls,
    training_seed_control,
)
from dmcore.analysis.control_tokens import ControlTokens, measure
from dmcore.errors import SpecError
from dmcore.estimate import Estimate
from dmcore.math.bootstrap import bootstrap_units
from dmcore.math.decompose import decompose
from dmcore.math.folds import assign_folds
from dmcore.progress import Reporter
from dmcore.results.controls import AGREES, DIFFERS, FAILED, PASSED, UNDECIDED, WITHIN, ControlSettings
from dmcore.training.quick import QuickSae

D, FOLDS = 12, 5
D_SPARSE, WIDTH, K = 24, 64, 4


def tokens_of(x: torch.Tensor, error: torch.Tensor, n_contexts: int, **more: object) -> ControlTokens:
    """Tokens in contexts of equal length."""
    length = len(x) // n_contexts
    contexts = torch.arange(len(x)) // length
    n_folds = min(FOLDS, n_contexts)
    folds = assign_folds(np.full(n_contexts, length), n_folds, 0)
    units = bootstrap_units(n_contexts)
    made = ControlTokens(x, error, contexts, folds, units, int(units.max()) + 1, n_folds, 0.0, True, 0)
    return replace(made, **more)


def planted(n_contexts: int = 40, length: int = 60, seed: int = 0, noise: float = 1.0, d: int = D) -> ControlTokens:
    """Independent tokens whose error is a linear map of x, a function of x that is not, and noise whose size depends on x."""
    g = torch.Generator().manual_seed(seed)
    n = n_contexts * length
    mixing, weight = torch.randn(d, d, generator=g), 0.2 * torch.randn(d, d, generator=g)  # the same for every number
    x = torch.randn(n, d, generator=g) @ mixing
    size = 1.5 + x[:, :1].tanh()
    error = x @ weight + noise * size * torch.randn(n, d, generator=g)
    return tokens_of(x, error, n_contexts)


def stage():
    return Reporter().stage("controls", 0, "steps")


def verdicts(found: Found) -> dict[str, str]:
    return {row["name"]: row["verdict"] for row in found.tables["controls"]}


def row_of(found: Found, name: str) -> dict:
    return next(row for row in found.tables["controls"] if row["name"] == name)


def shuffled(tokens: ControlTokens, draws: int = 20) -> Found:
    found = Found()
    with stage() as at:
        shuffled_controls(tokens, measure(tokens, tokens.error), draws, found, at)
    return found


def test_own_numbers_are_those_of_decompose() -> None:
    tokens = planted()
    own = measure(tokens, tokens.error)
    split = decompose(tokens.x, tokens.x - tokens.error, groups=tokens.contexts, seed=0)
    for name in ("fvu", "fvu_nonlinear", "r2_error", "r2_error_norm_sq"):
        here, there = own[name], getattr(split, name)
        assert here.value == pytest.approx(there.value, abs=2e-5)
        assert here.low == pytest.approx(there.low, abs=2e-3) and here.high == pytest.approx(there.high, abs=2e-3)
        # Those of decompose hold the luck of the fit too, as those of a study do not.
        assert here.high - here.low <= (there.high - there.low) * 1.02


@pytest.mark.parametrize(
    ("rule", "ends", "between", "verdict"),
    [
        (AGREES, (0.9, 1.1), (1.0, 1.0), PASSED),
        (AGREES, (1.05, 1.25), (1.0, 1.0), UNDECIDED),  # an interval twice as wide would reach it
        (AGREES, (1.5, 1.7), (1.0, 1.0), FAILED),
        (AGREES, (-9.0, 9.0), (1.0, 1.0), UNDECIDED),  # wider than the resolution
        (WITHIN, (0.2, 0.3), (0.0, 1.0), PASSED),
        (WITHIN, (0.9, 1.1), (0.0, 1.0), UNDECIDED),
        (WITHIN, (1.1, 1.2), (0.0, 1.0), FAILED),
        (WITHIN, (1.1, 1.2), (1.0, None), PASSED),
        (WITHIN, (1.1, 1.2), (None, 1.0), FAILED),
        (DIFFERS, (0.2, 0.3), (0.0, 1.0), FAILED),
        (DIFFERS, (1.1, 1.2), (0.0, 1.0), PASSED),
        (DIFFERS, (0.9, 1.2), (0.0, 1.0), UNDECIDED),
        (WITHIN, (math.nan, math.nan), (0.0, 1.0), UNDECIDED),
        (WITHIN, (0.2, 0.3), (math.nan, 1.0), UNDECIDED),
    ],
)
def test_verdicts_follow_their_rules(rule: str, ends: tuple, between: tuple, verdict: str) -> None:
    assert verdict_of(rule, Estimate(sum(ends) / 2, *ends), between, resolution=1.0)[0] == verdict


def test_few_contexts_are_no_ground_for_a_verdict() -> None:
    about = {"group": "split", "what": "", "quantity": "", "why": "", "rule": WITHIN}
    few = control("a", "A", Estimate(0.2, 0.1, 0.3), (0.0, 1.0), n=(900, LEAST_CONTEXTS - 1), **about)
    assert few["verdict"] == UNDECIDED and "too few" in few["note"]
    enough = control("a", "A", Estimate(0.2, 0.1, 0.3), (0.0, 1.0), n=(900, LEAST_CONTEXTS), **about)
    assert enough["verdict"] == PASSED
    drawn = control("a", "A", Estimate(0.2, 0.1, 0.3), (0.0, 1.0), n=(900, 4), over_texts=False, **about)
    assert drawn["verdict"] == PASSED, "chance does not ask for texts"


def test_an_interval_over_draws_is_that_of_student() -> None:
    from scipy import stats

    values = np.random.default_rng(0).normal(3, 2, 9)
    low, high = stats.t.interval(0.95, 8, values.mean(), stats.sem(values))
    found = over_draws(values.tolist())
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))


def test_shuffled_errors_have_the_known_bias_and_none_with_a_chosen_ridge() -> None:
    found = shuffled(planted())
    assert verdicts(found) == dict.fromkeys(
        ("shuffled_vector", "shuffled_vector_ridge", "shuffled_norm", "shuffled_norm_ridge", "shuffled_within"), PASSED
    )
    row = row_of(found, "shuffled_vector")
    n = 40 * 60 * 0.8
    assert row["expected"] == pytest.approx(-D / (n - D - 1), rel=0.2)
    assert row["value_low"] <= row["expected"] <= row["value_high"]
    assert len([draw for draw in found.tables["draws"] if draw["name"] == "shuffled_vector"]) == 20
    spectra = pl.DataFrame(found.tables["spectra"])
    assert len(spectra) == D
    assert spectra["own"][0] > 10 * spectra["shuffled"][0]


def test_a_map_that_is_tested_on_what_it_was_fitted_on_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [[fold] for fold in range(FOLDS)]
    tokens = planted()
    known = bias.exchangeable_bias(tokens.inputs, every)
    monkeypatch.setattr(bias, "others", lambda cells, fold: [cell for cells in cells for cell in cells])
    monkeypatch.setattr(nulls, "exchangeable_bias", lambda *_: known)
    found = verdicts(shuffled(tokens))
    assert (found["shuffled_vector"], found["shuffled_norm"]) == (FAILED, FAILED)


def test_errors_that_belong_to_the_text_and_not_to_the_token_are_found_out() -> None:
    g = torch.Generator().manual_seed(1)
    of_text = torch.randn(200, D, generator=g).repeat_interleave(12, 0)
    x = of_text + 0.05 * torch.randn(2400, D, generator=g)
    tokens = tokens_of(x, of_text @ torch.randn(D, D, generator=g) + torch.randn(2400, D, generator=g), 200)
    assert verdicts(shuffled(tokens))["shuffled_within"] == FAILED


def directions(tokens: ControlTokens) -> Found:
    found = Found()
    with stage() as at:
        random_directions(tokens, measure(tokens, tokens.error), 12, found, at)
    return found


def test_random_directions_keep_the_norm_and_lose_the_vector() -> None:
    found = directions(planted())
    assert verdicts(found) == {"random_vector": PASSED, "random_norm": PASSED}
    assert row_of(found, "random_vector")["expected"] < 0


def test_directions_that_are_not_random_and_norms_that_change_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(8)

    def along_x(tokens: ControlTokens, norms: torch.Tensor, draw: int) -> torch.Tensor:
        along = tokens.x / tokens.x.norm(dim=1, keepdim=True)
        return along * (1 + draw + torch.rand(len(norms), 1, generator=g))

    monkeypatch.setattr(nulls, "_turned", along_x)
    assert verdicts(directions(planted(noise=3.0))) == {"random_vector": FAILED, "random_norm": FAILED}


def topk_error(x: torch.Tensor, seed: int = 3) -> torch.Tensor:
    """The error of a dictionary that was trained on these activations."""
    return x - QuickSae(x, WIDTH, K, 60_000, seed)(x)


def sparse(n_contexts: int = 40, length: int = 60, seed: int = 0) -> torch.Tensor:
    """Activations made of few features out of many."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(WIDTH, D_SPARSE, generator=g)
    n = n_contexts * length
    active = (torch.rand(n, WIDTH, generator=g) < 0.04) * (0.5 + torch.rand(n, WIDTH, generator=g))
    return active @ rows + 0.05 * torch.randn(n, D_SPARSE, generator=g)


def dictionaries(tokens: ControlTokens, l0: float = 4.0) -> Found:
    found = Found()
    with stage() as at:
        dictionary_controls(tokens, measure(tokens, tokens.error), OwnSae(WIDTH, l0, None), found, at)
    return found


def test_a_trained_dictionary_is_told_from_random_dead_and_identity() -> None:
    x = sparse()
    found = dictionaries(tokens_of(x, topk_error(x), 40))
    assert verdicts(found) == dict.fromkeys(("random_fvu", "random_linear", "dead_linear", "identity"), PASSED)
    rows = {row["name"]: row for row in found.tables["dictionaries"]}
    assert rows["dead"]["r2_error"] == pytest.approx(1, abs=1e-5)
    assert rows["dead"]["fvu"] == pytest.approx(1, abs=1e-5)
    assert rows["identity"]["fvu"] == 0 and math.isnan(rows["identity"]["r2_error"])
    assert rows["own"]["fvu"] < rows["random"]["fvu"] < 1


def test_an_sae_that_is_random_itself_is_found_out() -> None:
    x = sparse()
    random = random_errors(x, x.mean(0), WIDTH, K, seed=1)
    found = verdicts(dictionaries(tokens_of(x, random, 40)))
    assert PASSED not in (found["random_fvu"], found["random_linear"])
    assert verdicts(dictionaries(tokens_of(x, 1.5 * random, 40)))["random_fvu"] == FAILED


def models(tokens: ControlTokens, other: torch.Tensor | Exception) -> Found:
    def acts() -> torch.Tensor:
        if isinstance(other, Exception):
            raise other
        return other

    found = Found()
    with stage() as at:
        model_controls(tokens, OwnSae(WIDTH, 4.0, None), RandomModel(acts, QuickSae, 20_000), found, at)
    return found


def test_a_random_model_is_told_from_one_that_has_features() -> None:
    x = sparse()
    tokens = tokens_of(x, topk_error(x), 40)
    found = models(tokens, torch.randn(x.shape, generator=torch.Generator().manual_seed(9)))
    assert verdicts(found) == {"model_r2_error": PASSED, "model_fvu_nonlinear": PASSED}
    assert [row["name"] for row in found.tables["dictionaries"]] == ["small", "random_model"]
    assert {row["n_contexts"] for row in found.tables["dictionaries"]} == {20}, "half of the contexts train"


def test_a_random_model_with_the_same_activations_is_found_out() -> None:
    x = sparse()
    found = models(tokens_of(x, topk_error(x), 40), x)
    assert verdicts(found) == {"model_r2_error": FAILED, "model_fvu_nonlinear": FAILED}


def test_a_random_model_that_cannot_be_made_is_said_so() -> None:
    x = sparse(4, 20)
    found = models(tokens_of(x, x, 4), SpecError("It takes 900 GB of memory."))
    assert not found.tables["controls"]
    assert "900 GB" in found.tables["remarks"][0]["text"]
    assert (
        "Four contexts"
        in models(replace(tokens_of(x, x, 4), folds_of_contexts=np.arange(3)), x).tables["remarks"][0]["text"]
    )


def leak(tokens: ControlTokens) -> dict:
    found = Found()
    with stage() as at:
        leak_control(tokens, measure(tokens, tokens.error), found, at)
    return row_of(found, "leak")


def test_independent_tokens_do_not_leak_and_repeated_ones_do() -> None:
    assert leak(planted())["verdict"] == PASSED
    # Few distinct tokens a text, each repeated: their errors are noise, which a map that has seen them can learn.
    g = torch.Generator().manual_seed(2)
    x, error = (torch.randn(200, 48, generator=g).repeat_interleave(10, 0) for _ in range(2))
    found = leak(tokens_of(x, error, 100))
    assert found["verdict"] == FAILED
    assert found["value_low"] > 0.05


def curve(tokens: ControlTokens) -> Found:
    found = Found()
    with stage() as at:
        token_controls(tokens, measure(tokens, tokens.error), found, at)
    return found


def test_the_learning_curve_says_whether_there_are_enough_tokens() -> None:
    enough = curve(planted(80, 200))
    assert verdicts(enough) == {"tokens_r2_error": PASSED, "tokens_fvu_nonlinear": PASSED}
    few = curve(planted(40, 8, noise=6.0, d=48))
    assert verdicts(few) == {"tokens_r2_error": FAILED, "tokens_fvu_nonlinear": FAILED}
    too_few = curve(planted(10, 4))
    assert set(verdicts(too_few).values()) == {UNDECIDED}
    assert "add contexts" in row_of(too_few, "tokens_r2_error")["note"]
    assert "too few for half" in too_few.tables["remarks"][0]["text"]


def test_the_curve_is_nested_ends_at_all_tokens_and_tends_to_the_truth() -> None:
    tokens = planted(64, 24, noise=2.0)
    found = curve(tokens)
    points = [row for row in found.tables["curve"] if row["determined"]]
    own = measure(tokens, tokens.error)
    assert points[-1]["n_train"] == round(tokens.n_train)
    assert points[-1]["r2_error"] == pytest.approx(own["r2_error"].value, abs=1e-6)
    assert [row["fvu_nonlinear"] for row in points] == sorted((row["fvu_nonlinear"] for row in points), reverse=True)
    many = planted(1000, 100, noise=2.0)  # the same map: what it leaves with any number of tokens
    truth = measure(many, many.error)["r2_error"].value
    tends = {row["metric"]: row for row in found.tables["asymptotes"]}["r2_error"]
    assert own["r2_error"].value < tends["value"]
    assert tends["value_low"] < truth < tends["value_high"]


def test_other_folds_change_nothing_unless_they_are_unlike(monkeypatch: pytest.MonkeyPatch) -> None:
    found, bad, tokens, few = Found(), Found(), planted(), planted(40, 8)
    with stage() as at:
        fold_seed_control(tokens, measure(tokens, tokens.error), 3, found, at)
        # Nearly all tokens in one fold, so that its map is fitted on few.
        monkeypatch.setattr(splits, "assign_folds", lambda sizes, *_: np.minimum(np.arange(len(sizes)) // 36, 1))
        fold_seed_control(few, measure(few, few.error), 2, bad, at)
    assert verdicts(found)["fold_seeds"] == PASSED
    assert verdicts(bad)["fold_seeds"] == FAILED
    assert [row["seed"] for row in found.tables["seeds"]] == [0, 1, 2, 3]


def test_training_seeds_are_held_against_the_interval_over_texts() -> None:
    def saes(spread: float) -> pl.DataFrame:
        return pl.DataFrame(
            [{"seed": s, "sae": f"x/{s}", "fvu": 0.2 + spread * (s - 1), "fvu_low": 0.19, "fvu_high": 0.21, "d_sae": 64,
              "l0": 8.0}
             for s in range(3)]
        )  # fmt: skip

    for spread, verdict in ((0.002, PASSED), (0.05, FAILED)):
        found = Found()
        training_seed_control(saes(spread), (900, 30), found)
        assert verdicts(found)["training_seeds"] == verdict
    none = Found()
    training_seed_control(None, (900, 30), none)
    assert not none.tables["controls"] and "[parts]" in none.tables["remarks"][0]["text"]


def test_settings_are_refused_in_a_sentence() -> None:
    for wrong in ({"draws": 2}, {"contexts": -1}, {"training_tokens": True}, {"fold_seeds": 1}):
        with pytest.raises(SpecError, match="give a whole number"):
            ControlSettings(**wrong)


def test_half_of_the_contexts_may_be_too_few_for_a_random_model() -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(120, 45, generator=g)
    tokens = tokens_of(x, 0.3 * torch.randn(120, 45, generator=g), 12)
    assert tokens.determined and not tokens_of(x[:30], x[:30], 6).determined
    found, given = Found(), RandomModel(lambda: x, lambda some, *_: lambda rows: 0.5 * rows, 100)
    with stage() as at:
        model_controls(tokens, OwnSae(60, 4.0, None), given, found, at)
    assert not found.tables["controls"]
    assert any("too few tokens for a map of x" in row["text"] for row in found.tables["remarks"])
