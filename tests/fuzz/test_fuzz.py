"""A few hundred of the inputs that `benchmarks/fuzz.py` tries by the thousand; and that its oracle can fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from dmcore.errors import SpecError
from tests.fuzz.oracle import Sandbox, judged
from tests.fuzz.targets import all_targets, place
from tests.pages.fake_results import write_fake_study

CASES = {"study values": 40, "study files": 40, "links": 60, "pages": 5, "names": 20, "cache files": 6, "activations": 40,
         "laws": 20, "tokens": 30, "SAEs": 25, "commands": 15}  # fmt: skip
SETTINGS = hypothesis.settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, Path]]:
    folder = tmp_path_factory.mktemp("fuzz")
    write_fake_study(folder / "sound")
    with place(folder) as sandbox:
        yield sandbox, folder / "sound"


@pytest.mark.parametrize("name", CASES)
def test_any_input_gives_a_result_or_one_of_our_sentences(placed: tuple[Sandbox, Path], name: str) -> None:
    sandbox, sound = placed
    target = all_targets(sandbox, sound)[name]

    @hypothesis.settings(SETTINGS, max_examples=CASES[name])
    @hypothesis.given(target.cases)
    def one(case: object) -> None:
        verdict = judged(target.take, case)
        if verdict.failure is not None:
            raise verdict.failure

    with sandbox.watched():
        one()


def test_the_oracle_tells_a_sentence_from_a_traceback_and_from_two_lines() -> None:
    def refuse(text: str) -> None:
        raise SpecError(text)

    def stumble() -> None:
        raise KeyError("x")

    assert judged(lambda: None).outcome == "result"
    assert judged(refuse, "Mend it.").outcome == "SpecError"
    assert [judged(refuse, text).outcome for text in ("", "one\ntwo", "x" * 9999)] == ["FAILED"] * 3
    assert judged(stumble).outcome == "FAILED"


def test_the_sandbox_sees_a_file_that_leaves_the_cache_and_none_that_stays(tmp_path: Path) -> None:
    sandbox = Sandbox.make(tmp_path / "outer")
    with sandbox.watched():
        (sandbox.cache / "inside").write_text("x")
    hurts = (
        lambda: (sandbox.cache.parent / "beside").write_text("x"),
        lambda: (sandbox.outer / "canary.txt").write_text("silent"),
        lambda: (sandbox.outer / "home" / "canary.txt").unlink(),
        lambda: (sandbox.outer / "new").mkdir(),
    )
    for hurt in hurts:
        with pytest.raises(AssertionError, match="outside the cache"), sandbox.watched():
            hurt()


def test_every_share_is_there_and_they_make_a_whole(placed: tuple[Sandbox, Path]) -> None:
    targets = all_targets(*placed)
    assert set(targets) == set(CASES)
    assert sum(target.share for target in targets.values()) == pytest.approx(1)
    assert all(isinstance(target.cases, st.SearchStrategy) for target in targets.values())
