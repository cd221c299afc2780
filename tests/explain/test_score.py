"""Scoring of latents: what is counted, what is kept, what fails, and how it is stopped."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from dmcore.errors import Cancelled, SpecError
from dmcore.explain import score
from dmcore.explain.examples import FeatureExamples, Window
from dmcore.explain.interface import AnswerError, EndpointError, NoAnswerError
from dmcore.explain.score import MOST_UNANSWERED, score_features, shown
from dmcore.explain.score_table import SCORES
from dmcore.progress import Progress, Reporter
from tests.explain import planted


class Explains:
    """Says the latent's number; may be told to fail."""

    def __init__(self, does: Callable[[FeatureExamples], str] = lambda examples: f"latent {examples.latent}") -> None:
        self.does, self.asked = does, []

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": "explains"}

    def explain(self, examples: FeatureExamples) -> str:
        self.asked.append(examples.latent)
        return self.does(examples)


class Detects:
    """Tells rightly, from the text; may be told otherwise."""

    def __init__(
        self, does: Callable[[Sequence[Window]], list[bool]] = lambda ws: [" def" in w.text for w in ws], name: str = ""
    ) -> None:
        self.does, self.name, self.seen = does, name, []

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def detect(self, explanation: str, windows: Sequence[Window]) -> list[bool]:
        self.seen.append((explanation, list(windows)))
        return self.does(windows)


def latents(n: int) -> list[FeatureExamples]:
    return [dataclasses.replace(planted.plain(), latent=number) for number in range(n)]


def fail_on(latent: int, error: Exception) -> Callable[[FeatureExamples], str]:
    def explain(examples: FeatureExamples) -> str:
        if examples.latent == latent:
            raise error
        return "fine"

    return explain


def test_a_scorer_that_is_right_gets_all_and_one_that_says_yes_half() -> None:
    right = score_features(latents(2), Explains(), Detects())
    assert right.schema == SCORES
    assert right["latent"].to_list() == [0, 1]
    assert right["explanation"].to_list() == ["latent 0", "latent 1"]
    assert right["accuracy"].to_list() == [1.0, 1.0]
    yes = score_features(latents(1), Explains(), Detects(lambda windows: [True] * len(windows))).to_dicts()[0]
    assert (yes["balanced_accuracy"], yes["silent_accuracy"]) == (0.5, 0.0)
    assert yes["decile_accuracy"] == [1.0] * 10


def test_each_answer_is_counted_for_its_own_window() -> None:
    """Right but for the windows of decile 3 and the first silent one."""
    examples = planted.plain()
    wrong = {examples.test[3][0], examples.test_silent[0]}
    scorer = Detects(lambda windows: [window.is_active != (window in wrong) for window in windows])
    (row,) = score_features([examples], Explains(), scorer).to_dicts()
    assert row["decile_accuracy"] == [1.0] * 3 + [0.0] + [1.0] * 6
    assert row["silent_accuracy"] == 0.9


def test_windows_are_shown_in_an_order_that_tells_nothing() -> None:
    scorer = Detects()
    score_features(latents(1), Explains(), scorer, seed=4)
    ((explanation, windows),) = scorer.seen
    assert explanation == "latent 0"
    truth = [window.is_active for window in windows]
    assert truth != sorted(truth) and truth != sorted(truth, reverse=True)
    assert sorted(w.context for w in windows) == [*range(10, 20), *range(30, 40)]
    assert windows == shown(latents(1)[0], 4)[0] != shown(latents(1)[0], 5)[0]


def test_more_workers_give_the_same_table() -> None:
    few, many = (score_features(latents(12), Explains(), Detects(), n_workers=n) for n in (1, 4))
    assert few.equals(many)


def test_a_second_run_does_nothing_again_and_other_inputs_do(tmp_path: Path) -> None:
    first = score_features(latents(3), Explains(), Detects(), folder=tmp_path)
    explainer = Explains()
    assert score_features(latents(4), explainer, Detects(), folder=tmp_path)[:3].equals(first)
    assert explainer.asked == [3]
    score_features(latents(1), explainer, Detects(name="other"), folder=tmp_path)
    score_features(latents(1), explainer, Detects(), folder=tmp_path, seed=1)
    assert explainer.asked == [3, 0, 0]


def test_a_latent_that_fails_says_why_and_others_go_on(tmp_path: Path) -> None:
    explainer = Explains(fail_on(1, AnswerError("It said nothing.")))
    table = score_features(latents(3), explainer, Detects(), folder=tmp_path)
    assert table["failure"].to_list() == [None, "It said nothing.", None]
    assert table["accuracy"].to_list() == [1.0, None, 1.0]
    again = Explains()
    assert score_features(latents(3), again, Detects(), folder=tmp_path).equals(table)
    assert again.asked == [], "it failed for good"


def test_a_latent_without_an_answer_is_tried_again_another_time(tmp_path: Path) -> None:
    explainer = Explains(fail_on(1, NoAnswerError("Busy.")))
    assert score_features(latents(3), explainer, Detects(), folder=tmp_path)["failure"].to_list() == [
        None,
        "Busy.",
        None,
    ]
    again = Explains()
    assert score_features(latents(3), again, Detects(), folder=tmp_path)["failure"].to_list() == [None] * 3
    assert again.asked == [1]


def test_the_explanation_is_kept_where_only_the_scorer_failed() -> None:
    (row,) = score_features(latents(1), Explains(), Detects(lambda windows: [True])).to_dicts()
    assert row["explanation"] == "latent 0"
    assert "1 of 20 windows" in row["failure"]


def test_many_latents_in_a_row_without_an_answer_stop_the_run(tmp_path: Path) -> None:
    def explain(examples: FeatureExamples) -> str:
        if examples.latent >= 2:
            raise NoAnswerError("Busy.")
        return "fine"

    explainer = Explains(explain)
    with pytest.raises(EndpointError, match=f"{MOST_UNANSWERED} latents in a row got no answer. Busy."):
        score_features(latents(50), explainer, Detects(), folder=tmp_path)
    assert len(explainer.asked) < 15
    again = Explains()
    score_features(latents(3), again, Detects(), folder=tmp_path)
    assert again.asked == [2]


@pytest.mark.parametrize("error", [EndpointError("No key."), RuntimeError("a bug")])
def test_what_stops_a_run_loses_nothing(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        score_features(latents(9), Explains(fail_on(4, error)), Detects(), folder=tmp_path)
    again = Explains()
    score_features(latents(9), again, Detects(), folder=tmp_path)
    assert set(again.asked) <= {4, 5, 6, 7, 8}
    assert 4 in again.asked


def test_a_cancel_keeps_what_is_done(tmp_path: Path) -> None:
    asked_to_stop, blocked = threading.Event(), threading.Event()

    def explain(examples: FeatureExamples) -> str:
        if examples.latent == 3:
            asked_to_stop.set()
            blocked.wait(30)  # a call that takes long does not hold up the cancel
        return "fine"

    try:
        with pytest.raises(Cancelled):
            score_features(
                latents(9),
                Explains(explain),
                Detects(),
                folder=tmp_path,
                reporter=Reporter(should_cancel=asked_to_stop.is_set),
            )
    finally:
        blocked.set()
    again = Explains()
    table = score_features(latents(9), again, Detects(), folder=tmp_path)
    assert sorted(again.asked) == [3, 4, 5, 6, 7, 8]
    assert table["accuracy"].to_list() == [1.0] * 9


def test_what_was_done_at_the_moment_of_a_cancel_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All four are done when the first is looked at, and then the run is cancelled."""
    monkeypatch.setattr(score, "wait", lambda pending, **_: futures.wait(pending))
    with pytest.raises(Cancelled):
        score_features(
            latents(4),
            Explains(),
            Detects(),
            folder=tmp_path,
            n_workers=2,
            reporter=Reporter(should_cancel=lambda: True),
        )
    again = Explains()
    score_features(latents(4), again, Detects(), folder=tmp_path)
    assert again.asked == []


def test_progress_counts_latents_and_those_of_an_earlier_run(tmp_path: Path) -> None:
    seen: list[Progress] = []
    score_features(latents(2), Explains(), Detects(), folder=tmp_path)
    score_features(latents(5), Explains(), Detects(), folder=tmp_path, reporter=Reporter(seen.append))
    assert (seen[0].done, seen[0].total, seen[0].unit) == (2, 5, "latents")
    assert seen[-1].done == 5


def test_latents_with_too_few_windows_fail_with_the_reason() -> None:
    good = planted.plain()
    explainer = Explains()
    table = score_features(
        [
            dataclasses.replace(good, test=((),) * 10),
            dataclasses.replace(good, train=()),
            dataclasses.replace(good, test_silent=()),
        ],
        explainer,
        Detects(),
    )
    assert ["fewer than two contexts" in reason for reason in table["failure"]] == [True, True, False]
    assert "silent" in table["failure"][2]
    assert explainer.asked == []


def test_no_workers_are_refused() -> None:
    with pytest.raises(SpecError, match="n_workers"):
        score_features(latents(1), Explains(), Detects(), n_workers=0)


def test_scoring_does_not_import_torch() -> None:
    modules = "dmcore.explain.score, dmcore.explain.cost, dmcore.explain.endpoint, dmcore.explain.score_table"
    script = f"import sys, {modules}; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
