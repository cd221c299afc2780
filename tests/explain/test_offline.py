"""The scorer without a language model: planted latents are found and put in words, and random ones are not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dmcore.errors import Cancelled
from dmcore.explain.examples import FeatureExamples, Window
from dmcore.explain.interface import AnswerError
from dmcore.explain.offline import OFFLINE, score_offline
from dmcore.explain.patterns import (
    FORMS,
    Pattern,
    PatternExplainer,
    PatternScorer,
    best_pattern,
    patterns_of,
    read_pattern,
)
from dmcore.explain.score import score_features
from dmcore.explain.score_table import summarise
from dmcore.progress import Reporter
from tests.explain import planted


def random_latents(n: int) -> list[FeatureExamples]:
    ids = planted.tokens()
    return [
        planted.examples(np.random.default_rng(latent).random(ids.shape) < 0.03, ids, latent) for latent in range(n)
    ]


def on_def() -> FeatureExamples:
    ids = planted.thinned(planted.tokens(), planted.DEF)
    return planted.examples(ids == planted.DEF, ids)


def after_bracket() -> FeatureExamples:
    ids = planted.thinned(planted.tokens(), planted.OPEN)
    return planted.examples(planted.after(ids, planted.OPEN), ids, latent=1)


def test_planted_latents_are_scored_near_one_and_said_in_words() -> None:
    table = score_offline([on_def(), after_bracket()])
    assert table.schema == OFFLINE
    assert table["explanation"].to_list() == ["the token is ' def'", "the token comes right after '('"]
    assert min(table["balanced_accuracy"]) > 0.97
    assert min(table["auc"]) > 0.99
    assert table["pattern_balanced_accuracy"].to_list() == [1.0, 1.0]
    assert min(min(row) for row in table["decile_accuracy"]) >= 0.8
    assert min(table["n"]) == 100


def test_random_latents_are_scored_near_one_half() -> None:
    found = summarise(score_offline(random_latents(30)))
    # 3,000 test windows: a standard error of about 0.01
    assert found.balanced_accuracy == pytest.approx(0.5, abs=0.035)
    assert found.auc == pytest.approx(0.5, abs=0.035)
    assert found.n_failed == 0


def test_the_model_learns_what_no_single_pattern_says() -> None:
    """Active on ` def` and after `(`: two patterns, of which each tells half."""
    ids = planted.thinned(planted.thinned(planted.tokens(), planted.DEF), planted.OPEN, seed=2)
    (row,) = score_offline(
        [planted.examples((ids == planted.DEF) | planted.after(ids, planted.OPEN), ids, n_per_decile=8)]
    ).to_dicts()
    assert row["pattern_balanced_accuracy"] < 0.85
    assert row["balanced_accuracy"] > 0.93


def test_few_active_windows_count_as_much_as_many_silent_ones() -> None:
    good = on_def()
    (row,) = score_offline([dataclasses.replace(good, train=good.train[:3])]).to_dicts()
    assert row["balanced_accuracy"] > 0.95


def test_the_start_of_a_context_is_a_pattern() -> None:
    ids = planted.tokens()
    active = np.zeros(ids.shape, dtype=bool)
    active[:, :4] = np.random.default_rng(0).random((400, 4)) < 0.5
    (row,) = score_offline([planted.examples(active, ids, n_after=0)]).to_dicts()
    assert row["explanation"] == "the token is one of the first 4 of its context"
    assert row["balanced_accuracy"] > 0.9


def test_equal_inputs_give_equal_numbers() -> None:
    assert score_offline([on_def(), *random_latents(2)]).equals(score_offline([on_def(), *random_latents(2)]))


def test_test_windows_are_not_learned_from() -> None:
    """Labels of the test windows swapped: what is learned stays, so all is told wrongly."""
    good = on_def()
    swapped = dataclasses.replace(
        good,
        test=tuple(tuple(_with(window, 1.0) for window in good.test_silent[d::10]) for d in range(10)),
        test_silent=tuple(_with(window, 0.0) for window in good.test_active),
    )
    (row,) = score_offline([swapped]).to_dicts()
    assert row["balanced_accuracy"] < 0.03
    assert row["auc"] < 0.01
    assert row["explanation"] == "the token is ' def'"


def _with(window: Window, value: float) -> Window:
    activations = tuple(value if at == window.peak else 0.0 for at in range(len(window.tokens)))
    return dataclasses.replace(window, activations=activations)


def test_latents_without_windows_fail_with_the_reason() -> None:
    good = planted.plain()
    table = score_offline([dataclasses.replace(good, train_silent=()), dataclasses.replace(good, train=()), good])
    assert "training window in which it is silent" in table["failure"][0]
    assert "two contexts" in table["failure"][1]
    assert table["failure"][2] is None
    assert table["pattern_accuracy"].to_list() == [None, None, 1.0]


def test_it_can_be_cancelled() -> None:
    with pytest.raises(Cancelled):
        score_offline([planted.plain()], Reporter(should_cancel=lambda: True))


def test_patterns_explain_and_score_like_a_language_model() -> None:
    table = score_features([on_def(), after_bracket()], PatternExplainer(), PatternScorer())
    assert table["explanation"].to_list() == ["the token is ' def'", "the token comes right after '('"]
    assert table["accuracy"].to_list() == [1.0, 1.0]


def window(*tokens: str, position: int = 50) -> Window:
    return Window(0, position, tokens, (0.0,) * len(tokens), len(tokens) - 1)


def test_patterns_that_hold_of_a_token() -> None:
    found = patterns_of(window("a", " b", " cd", ".", " ef", " 12", position=3))
    assert Pattern("token", (" 12",)) in found
    assert Pattern("before", (" ef",)) in found
    assert Pattern("pair", (" ef", " 12")) in found
    assert Pattern("kind", ("number",)) in found
    assert Pattern("kind_before", ("word start",)) in found
    assert {one.values[0] for one in found if one.form == "near"} == {" b", " cd", ".", " ef"}
    assert {one.values[0] for one in found if one.form == "end"} == {"2", "12", " 12", "f 12", "ef 12"}
    assert {one.values[0] for one in found if one.form == "place"} == {4, 8, 16, 32, 64, 128, 256, 512}
    assert {one.form for one in patterns_of(window("a", position=512))} == {"token", "kind", "kind_before", "end"}


def test_a_pattern_that_holds_once_gives_way_to_one_that_holds_twice() -> None:
    active = [window("a", " x"), window("b", " x"), window("c", " y")]
    # ` y` alone holds of one active window and of no silent one.
    assert best_pattern(active, [window("d", " x")]).words == "the token is of the kind 'word start'"
    assert best_pattern([window("(", " x")] * 3, [window(")", " x")] * 3).words == "the token comes right after '('"


HOSTILE_TEXTS = [
    "'",
    '"',
    "' right",
    "', right after '",
    "'a', right after 'b'",
    "\n",
    "{}",
    "{1}",
    "\\",
    "",
    "\ud800",
    "⟨0xE2⟩",
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_words_are_read_back_as_the_pattern_that_they_say(text: str) -> None:
    for form in FORMS:
        if form in {"token", "before", "near", "end"}:
            assert read_pattern(Pattern(form, (text,)).words) == Pattern(form, (text,))
    for pair in ((text, "b"), ("b", text), (text, text)):
        assert read_pattern(Pattern("pair", pair).words) == Pattern("pair", pair)
    assert read_pattern(Pattern("place", (8,)).words) == Pattern("place", (8,))
    assert read_pattern(Pattern("kind", ("number",)).words) == Pattern("kind", ("number",))


@pytest.mark.parametrize(
    "words",
    [
        "It is active on ' def'.",
        "",
        "the token is def",
        "the token is 5",
        "the token is " + "(" * 500,
        "the token is '" + "x" * 2000 + "'",
        "the token is __import__('os')",
        "the token is one of the first 'a' of its context",
        "the token is of the kind 'wrong'",
        "the token is of the kind []",
    ],
)
def test_words_that_say_no_pattern_are_refused(words: str) -> None:
    with pytest.raises(AnswerError, match="patterns"):
        PatternScorer().detect(words, [window("a")])
