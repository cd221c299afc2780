"""A language model behind a real server explains and scores; the plan says what that takes."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from dmcore.errors import Cancelled
from dmcore.explain.cost import CHARACTERS_PER_TOKEN, Prices, plan_calls
from dmcore.explain.endpoint import EndpointSettings, OpenAIEndpoint
from dmcore.explain.examples import FeatureExamples
from dmcore.explain.interface import EndpointError
from dmcore.explain.language_model import LanguageModelExplainer, LanguageModelScorer
from dmcore.explain.score import score_features
from dmcore.progress import Reporter
from tests.explain import planted
from tests.explain.server import Answer, Server, serve


def answer_well(prompt: str, _: int = 0) -> Answer:
    """Explains by ` def`; detects by looking for the word that the explanation quotes."""
    lines = prompt.split("\n")
    data = json.loads(lines[lines.index("Data:") + 1])
    if "explanation" not in data:
        return Answer(json.dumps({"explanation": "On the token ' def'."}))
    (word,) = re.findall("'(.*)'", data["explanation"])
    return Answer(json.dumps([int(word in text) for text in data["windows"]]))


def asking(server: Server, root: Path | None, **settings) -> tuple[LanguageModelExplainer, LanguageModelScorer]:
    given = {"base_url": server.url, "model": "m", "retries": 0, "backoff": 0.0} | settings
    endpoint = OpenAIEndpoint(EndpointSettings(**given), root, sleep=lambda _: None)
    return LanguageModelExplainer(endpoint), LanguageModelScorer(endpoint, batch=8)


def features(n: int) -> list[FeatureExamples]:
    texts = ['"]} answer [1]', "<|im_end|>", "\ud800", " w", "«"]
    return [planted.plain(latent, lambda number, latent=latent: f"{texts[number % 5]}{latent}") for latent in range(n)]


def test_latents_are_explained_and_scored_and_a_second_run_makes_no_request(tmp_path: Path) -> None:
    with serve(answer_well) as server:
        table = score_features(features(3), *asking(server, tmp_path), n_workers=3)
        assert table["accuracy"].to_list() == [1.0] * 3
        assert table["explanation"].to_list() == ["On the token ' def'."] * 3
        assert len(server.requests) == 3 * (1 + 3)
        assert score_features(features(3), *asking(server, tmp_path)).equals(table)
        assert len(server.requests) == 3 * (1 + 3)


def test_the_explainer_is_shown_training_windows_alone_and_the_scorer_test_windows_alone() -> None:
    example = planted.plain(0, lambda number: f"c{number}")
    with serve(answer_well) as server:
        score_features([example], *asking(server, None))
    explain, *detect = server.prompts
    assert set(re.findall(r"c\d+", explain)) == {f"c{number}" for number in range(4)}
    shown = sorted(re.findall(r"\"c(\d+)", "".join(detect)), key=int)
    assert shown == [str(number) for number in (*range(10, 20), *range(30, 40))]


def first_nonsense(times: int) -> Callable[[str, int], Answer]:
    """Nonsense to each prompt that explains, `times` times."""
    seen: list[str] = []

    def answer(prompt: str, _: int) -> Answer:
        if '"strengths"' in prompt:
            seen.append(prompt)
            if len(seen) <= times:
                return Answer("I'd rather not.")
        return answer_well(prompt.split("\n\nIMPORTANT")[0])

    return answer


def test_nonsense_is_asked_for_once_more_and_more_strictly() -> None:
    with serve(first_nonsense(1)) as server:
        table = score_features(features(1), *asking(server, None))
    assert table["accuracy"].to_list() == [1.0]
    first, second = server.prompts[:2]
    assert second.startswith(first) and "IMPORTANT" in second


def test_nonsense_twice_is_a_failure_of_that_latent_and_is_not_asked_for_again(tmp_path: Path) -> None:
    with serve(first_nonsense(2)) as server:
        for _ in range(2):
            table = score_features(features(2), *asking(server, tmp_path))
            assert table["failure"].is_null().to_list() == [False, True]
            assert "asked format, twice" in table["failure"][0]
            assert len(server.requests) == 2 + 1 + 3


@pytest.mark.parametrize("text", [None, "", "  "])
def test_an_empty_answer_names_the_likely_cause(text: str | None) -> None:
    with serve(lambda *_: Answer(text)) as server:
        table = score_features(features(1), *asking(server, None))
    assert "raise max_tokens" in table["failure"][0]
    assert len(server.requests) == 2


def test_a_list_of_another_length_is_nonsense() -> None:
    def answer(prompt: str, _: int) -> Answer:
        return answer_well(prompt) if '"strengths"' in prompt else Answer("[1, 0]")

    with serve(answer) as server:
        (row,) = score_features(features(1), *asking(server, None)).to_dicts()
    assert "asked format" in row["failure"]
    assert row["explanation"] == "On the token ' def'."
    assert len(server.requests) == 1 + 2


def test_a_key_that_is_refused_stops_the_run_at_once(tmp_path: Path) -> None:
    with serve(lambda *_: Answer(status=401)) as server:
        with pytest.raises(EndpointError, match="key"):
            score_features(features(100), *asking(server, tmp_path), folder=tmp_path)
        assert len(server.requests) < 10


def test_a_cancel_keeps_answers_and_scores_and_a_later_run_asks_for_the_rest_alone(tmp_path: Path) -> None:
    with serve(answer_well) as server:

        def enough() -> bool:
            return len(server.requests) >= 10  # in the middle of the third latent

        given = EndpointSettings(server.url, "m", retries=0)
        endpoint = OpenAIEndpoint(given, tmp_path, should_cancel=enough)
        pair = LanguageModelExplainer(endpoint), LanguageModelScorer(endpoint, batch=8)
        with pytest.raises(Cancelled):
            score_features(features(4), *pair, folder=tmp_path, reporter=Reporter(should_cancel=enough))
        for thread in threading.enumerate():
            if thread.name.startswith("score"):  # the answer that was on its way is kept too
                thread.join()
        assert len(server.requests) == 10
        table = score_features(features(4), *asking(server, tmp_path), folder=tmp_path)
        assert len(server.requests) == 4 * (1 + 3), "no answer was asked for twice"
    assert table["accuracy"].to_list() == [1.0] * 4


def test_the_plan_counts_the_calls_that_are_made_then(tmp_path: Path) -> None:
    with serve(answer_well) as server:
        pair = asking(server, tmp_path)
        prices = Prices(2.0, 10.0)
        plan = plan_calls(features(3), *pair, prices=prices)
        assert server.requests == []
        assert (plan.calls, plan.kept) == (12, 0)
        score_features(features(2), *pair)
        assert len(server.requests) == 8
        asked = sum(len(prompt) for prompt in server.prompts) / CHARACTERS_PER_TOKEN
        assert plan.prompt_tokens == pytest.approx(asked * 12 / 8, rel=0.1)
        later = plan_calls(features(3), *pair, prices=prices)
        assert (later.calls, later.kept) == (4, 8)
        assert later.most_answer_tokens == 4 * 500
        assert later.answer_tokens == 60 + 3 * 20
        assert later.money == pytest.approx((2 * later.prompt_tokens + 10 * later.answer_tokens) / 1e6)
        assert later.most_money == pytest.approx((2 * later.prompt_tokens + 10 * 2000) / 1e6)
        score_features(features(3), *pair)
        assert plan_calls(features(3), *pair).calls == 0


def test_the_plan_counts_neither_failed_latents_nor_money_without_prices(tmp_path: Path) -> None:
    with serve(first_nonsense(2)) as server:
        pair = asking(server, tmp_path, max_tokens=None)
        score_features(features(1), *pair)
        plan = plan_calls(features(1), *pair)
    assert (plan.calls, plan.kept) == (0, 2)
    assert (plan.money, plan.most_money, plan.most_answer_tokens) == (None, None, None)


def test_texts_and_answers_are_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(answer_well) as server:
        table = score_features(features(1), *asking(server, tmp_path))
    assert table.filter(pl.col("failure").is_null()).height == 1
    assert " def" not in caplog.text
