"""Detection scores of a study's SAEs: offline, and by a language model behind a real server that works, fails and lies."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dmcore.errors import SpecError, StoreError
from dmcore.explain.score_table import summarise
from dmcore.progress import Reporter
from dmcore.results.detection import DETECTION, DETECTION_TABLES, PATTERNS, scorers_of
from dmcore.run.cli import main
from dmcore.run.commands.detect import prices_of
from dmcore.run.commands.detect_words import one_line
from dmcore.run.looks.inspect import Inspector
from dmcore.run.parts import train_all
from dmcore.run.pipeline import Pipeline
from dmcore.specs import Study
from dmcore.store.published import open_published
from dmcore.store.store import Store
from tests.explain.server import Answer, Server, serve
from tests.training.part_studies import BASE, build_parts_study

N, N_SHORT = 6, 1
"""Latents that are asked for, and those of them that are active too seldom to be scored."""
N_WELL = 7
"""Requests that a server answers before it fails: fewer than all latents take."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with results, and SAEs on two parts of the error of one of its SAEs."""
    study = build_parts_study(
        tmp_path_factory.mktemp("detection"), engine="lean", on=["linear", "nonlinear"], tokens=1000
    )
    store = Store(study.folder / "cache")
    assert not Pipeline(store, "cpu").sweep(study).failures
    train_all(study, "cpu", Reporter(), store, parts_only=True)
    assert not Pipeline(store, "cpu").sweep(study).parts
    return study


@pytest.fixture
def cache(study: Study, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Its cache, without what earlier tests have asked of language models."""
    store = Store(study.folder / "cache")
    monkeypatch.setenv("DMCORE_CACHE", str(store.root))
    for folder in ("answers", DETECTION):
        for path in sorted((store.root / folder).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    return store


def inspector(study: Study, store: Store) -> Inspector:
    return Inspector(Pipeline(store, "cpu"), study)


def summary_key(store: Store) -> str:
    return open_published("tiny", store).records.filter(sae=BASE)["summary_key"][0]


def answer_well(prompt: str, _: int = 0) -> Answer:
    """An explanation, then that the latent is active in every other window."""
    data = json.loads(prompt.split("Data:\n")[1].split("\n")[0])
    if "explanation" not in data:
        return Answer(json.dumps({"explanation": "On <b>bold</b> `code` [x](javascript:alert(1)) \u202e words."}))
    return Answer(json.dumps([number % 2 for number in range(len(data["windows"]))]))


def run(study: Study, *arguments: str) -> int:
    many = [] if "--latents" in arguments else ["--latents", str(N)]
    return main(["detect", str(study.folder / "study.toml"), *arguments, *many, "--device", "cpu"])


def asking(server: Server, *more: str) -> list[str]:
    return [BASE, "--endpoint", server.url, "--model", "m", "--retries", "1", "--concurrency", "2", *more]


# By patterns.


def test_scores_by_patterns_are_made_once_and_a_page_finds_them(study: Study, cache: Store) -> None:
    found = inspector(study, cache).detection(BASE, n_latents=N)
    assert found.about["scorer"] == PATTERNS
    assert found.about["part"] is None
    assert found.about["n_scored"] + found.about["n_failed"] == N
    assert {name: dict(found[name].schema) for name in DETECTION_TABLES} == DETECTION_TABLES
    (there,) = open_published("tiny", cache).detections(summary_key(cache))
    assert there.folder == found.folder
    made = (found.folder / "manifest.json").stat().st_mtime_ns
    assert inspector(study, cache).detection(BASE, n_latents=N).folder == found.folder
    assert (found.folder / "manifest.json").stat().st_mtime_ns == made


def test_the_summary_says_what_the_scores_say(study: Study, cache: Store) -> None:
    found = inspector(study, cache).detection(BASE, n_latents=N)
    expected = summarise(found["scores"], study.seed)
    assert found.mean("balanced_accuracy")["value"] == pytest.approx(expected.balanced_accuracy.value)
    assert found.mean("auc")["value_low"] == pytest.approx(expected.auc.low)
    deciles = found["summary"].filter(pl.col("measure") == "decile_accuracy")
    assert deciles["decile"].to_list() == list(range(10))
    assert deciles["value"].to_list() == pytest.approx([one.value for one in expected.deciles])


def test_saes_on_parts_are_scored_by_their_own_codes(study: Study, cache: Store) -> None:
    looks = inspector(study, cache)
    found = [looks.detector(whose, n_latents=N).make() for whose in looks.on_parts()]
    assert [(one.about["part_name"], one.about["train_seed"]) for one in found] == [
        ("linear", 0), ("linear", 1), ("nonlinear", 0), ("nonlinear", 1)
    ]  # fmt: skip
    parts = looks.parts()
    assert [one.about["part"] for one in found] == parts.about["entries"]
    there = open_published("tiny", cache).detections(summary_key(cache))
    assert {one.about["part"] for one in there} == set(parts.about["entries"])
    assert looks.detection("", "nonlinear", 1, n_latents=N).folder == found[3].folder


def test_the_scores_of_the_most_latents_are_shown(study: Study, cache: Store) -> None:
    for n in (3, 5, 4):
        inspector(study, cache).detection(BASE, n_latents=n)
    (there,) = open_published("tiny", cache).detections(summary_key(cache))
    assert there.about["n_asked"] == 5


def test_the_command_prints_lines_and_json(study: Study, cache: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(study, BASE) == 0
    text = capsys.readouterr().out
    for words in ("balanced accuracy", "AUC", "silent windows", "told best", "told worst"):
        assert words in text
    assert run(study, "--parts") == 0
    text = capsys.readouterr().out
    assert "the SAE on nonlinear, seed 1, by patterns" in text
    assert "nonlinear less linear:" in text
    assert "not the texts" in text
    assert run(study, "--part", "linear", "--seed", "1", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["about"]["part_name"] == "linear"
    assert len(shown["scores"]) == N
    assert run(study, "--parts", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Say which SAE"),
        (["nothing"], "no SAE called nothing"),
        (["--part", "absent"], "no SAE on 'absent'"),
        (["--part", "linear", "--parts"], "give either"),
        ([BASE, "--endpoint", "http://localhost:1/v1"], "needs both --endpoint and --model"),
        ([BASE, "--plan"], "give --endpoint and --model too"),
        ([BASE, "--latents", "0"], "--latents must be at least 1"),
        ([BASE, "--endpoint", "ftp://x", "--model", "m"], "not an http or https address"),
        ([BASE, "--endpoint", "http://localhost:1/v1", "--model", "m", "--prices", "1"], "two numbers"),
        ([BASE, "--endpoint", "http://localhost:1/v1", "--model", "m", "--extra", "[1]"], "JSON object"),
        ([BASE, "--endpoint", "http://x.example/v1", "--model", "m", "--key-variable", "PATH"], "sent unencrypted"),
        ([BASE, "--endpoint", "http://localhost:1/v1", "--model", "m", "--key-variable", "NO_KEY_HERE"], "set NO_KEY_HERE"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_a_sentence(
    study: Study, cache: Store, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(study, *arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error
    assert error.endswith(".")


def test_it_needs_a_result_and_parts_first(study: Study, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="sweep the study first"):
        inspector(study, Store(tmp_path)).detection(BASE)
    assert prices_of("0.5,1.5").answer == 1.5
    with pytest.raises(SpecError, match="two numbers"):
        prices_of("nan,1")


# By a language model.


def test_a_plan_makes_no_call_and_says_what_it_would_take(
    study: Study, cache: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(answer_well) as server:
        assert run(study, *asking(server, "--plan", "--prices", "1000,2000")) == 0
        text = capsys.readouterr().out
        assert re.search(r"about [\d,]+ calls; 0 answers are kept", text)
        assert "at these prices" in text
        assert run(study, *asking(server, "--plan", "--json")) == 0
        (plan,) = json.loads(capsys.readouterr().out)
        assert plan["calls"] > N
        assert server.requests == []


def test_nobody_is_asked_without_a_yes(study: Study, cache: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(answer_well) as server:
        assert run(study, *asking(server)) == 1
        assert "add --yes" in capsys.readouterr().err
        assert server.requests == []


@pytest.mark.parametrize(("said", "asked"), [("n\n", False), ("", False), ("y\n", True)])
def test_at_a_terminal_it_asks(
    study: Study, cache: Store, said: str, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Typed:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return said

    monkeypatch.setattr(sys, "stdin", Typed())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with serve(answer_well) as server:
        assert run(study, *asking(server)) == 0
        assert bool(server.requests) == asked


def test_a_language_model_is_asked_once_and_the_plan_is_what_it_takes(
    study: Study, cache: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(answer_well) as server:
        assert run(study, *asking(server, "--plan", "--json")) == 0
        (plan,) = json.loads(capsys.readouterr().out)
        assert run(study, *asking(server, "--yes", "--json")) == 0
        shown = json.loads(capsys.readouterr().out)
        assert plan["calls"] == len(server.requests)
        assert run(study, *asking(server)) == 0, "nothing is left to ask, so nobody has to say yes"
        assert len(server.requests) == plan["calls"]
    assert shown["about"]["scorer"] == "m"
    assert shown["about"]["n_unanswered"] == 0
    assert shown["scores"][0]["pattern_accuracy"] is None
    inspector(study, cache).detection(BASE, n_latents=N)
    assert scorers_of(open_published("tiny", cache).detections(summary_key(cache))) == [PATTERNS, "m"]


def test_more_latents_ask_only_for_the_new_ones(study: Study, cache: Store) -> None:
    with serve(answer_well) as server:
        assert run(study, *asking(server, "--yes")) == 0
        before = server.prompts
        assert run(study, *asking(server, "--yes", "--latents", "12")) == 0
        assert not set(before) & set(server.prompts[len(before) :])


def until(n: int, then: Answer) -> Callable[[str, int], Answer]:
    """Well for some requests, then in one way."""
    return lambda prompt, number: answer_well(prompt) if number < n else then


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (Answer(status=401), "refuses the key"),
        (Answer(status=404), "has no model m"),
        (Answer(status=500), "No answer from"),
        (Answer(status=429, headers={"Retry-After": "0"}), "No answer from"),
    ],
)
def test_what_a_failing_endpoint_has_answered_is_not_asked_again(
    study: Study, cache: Store, then: Answer, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("dmcore.explain.endpoint.time.sleep", lambda _: None)
    with serve(until(N_WELL, then)) as server:
        run(study, *asking(server, "--yes"))
        answered = server.prompts[:N_WELL]
    printed = capsys.readouterr()
    assert said in printed.out + printed.err
    with serve(answer_well) as server:
        assert run(study, *asking(server, "--yes", "--json")) == 0
        assert not set(answered) & set(server.prompts)
    shown = json.loads(capsys.readouterr().out)
    assert shown["about"]["n_unanswered"] == 0
    assert shown["about"]["n_failed"] == N_SHORT


def test_a_server_that_is_down_costs_nothing(
    study: Study, cache: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmcore.explain.endpoint.time.sleep", lambda _: None)
    with serve(answer_well) as server:
        pass
    assert run(study, *asking(server, "--yes")) == 1
    assert "cannot be reached" in capsys.readouterr().err
    assert not list((cache.root / DETECTION).glob("*"))


def test_nonsense_fails_its_latent_in_words(study: Study, cache: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(lambda *_: Answer("I would rather not.")) as server:
        assert run(study, *asking(server, "--yes")) == 0
        text = capsys.readouterr().out
        assert f"0 latents, {N} without a score" in text
        assert "choose another model" in text
        assert len(server.requests) == 2 * (N - N_SHORT)
        assert run(study, *asking(server, "--yes")) == 0
        assert len(server.requests) == 2 * (N - N_SHORT)


def test_a_busy_server_is_asked_again(study: Study, cache: Store, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(prompt: str, number: int) -> Answer:
        return Answer(status=429, headers={"Retry-After": "0.01"}) if number == 0 else answer_well(prompt)

    with serve(answer) as server:
        assert run(study, *asking(server, "--yes", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["about"]["n_failed"] == N_SHORT


def test_an_interrupt_keeps_what_was_answered(
    study: Study, cache: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dmcore.progress import Stage

    with serve(answer_well) as server:
        original: Any = Stage.advance

        def advance(self: Stage, amount: int = 1) -> None:
            if self.name == "explain and score" and amount and self.done == 2:
                raise KeyboardInterrupt
            original(self, amount)

        with monkeypatch.context() as patched:
            patched.setattr(Stage, "advance", advance)
            before = signal.getsignal(signal.SIGINT)
            assert run(study, *asking(server, "--yes")) == 130
            assert signal.signal(signal.SIGINT, before) == signal.SIG_DFL, "a second one leaves at once"
        said = capsys.readouterr().err
        assert "run the same command to go on" in said
        assert "Ctrl-C again leaves at once" in said
        asked = server.prompts
        assert run(study, *asking(server, "--yes")) == 0
        later = server.prompts[len(asked) :]
    assert len(set(asked) & set(later)) <= 2, "at most those that were under way"


def test_the_key_goes_to_no_file_and_no_output(
    study: Study, cache: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAB_KEY", "sk-verysecret")
    with serve(answer_well) as server:
        assert run(study, *asking(server, "--yes", "--key-variable", "LAB_KEY")) == 0
        assert server.requests[0]["headers"]["Authorization"] == "Bearer sk-verysecret"
    printed = capsys.readouterr()
    assert "verysecret" not in printed.out + printed.err
    for folder in ("answers", DETECTION):
        for path in (cache.root / folder).rglob("*"):
            assert path.is_dir() or b"verysecret" not in path.read_bytes()


def test_an_explanation_cannot_speak_to_the_terminal(
    study: Study, cache: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(answer_well) as server:
        assert run(study, *asking(server, "--yes")) == 0
    text = capsys.readouterr().out
    assert "told best" in text
    assert "\u202e" not in text
    assert one_line("a\x1b[31m\nb\u202e") == "a\\x1b[31m\\nb\\u202e"
    assert len(one_line("x" * 1000)) == 121


def test_more_latents_than_there_are_give_all_that_are_alive(study: Study, cache: Store) -> None:
    found = inspector(study, cache).detection(BASE, n_latents=1000)
    assert found.about["n_asked"] == 1000
    assert found.about["n_scored"] + found.about["n_failed"] <= 48
