"""What would stop a study is said by its plan, in the words of the sweep that it would stop."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from dmcore.errors import DarkMatterError, SpecError
from dmcore.places import DEMO, SHIPPED_STUDIES
from dmcore.run.cli import main
from dmcore.run.estimates.feasible import check_feasible
from dmcore.run.pipeline import Pipeline
from dmcore.specs import ModelSpec, SaeSpec, Study, TextsSpec, load_study
from dmcore.store.store import Store
from tests.builders import build_study
from tests.model_builders import save_model


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load_study(build_study(tmp_path, architectures=("topk",)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: replace(s, saes=(replace(s.saes[0], hook="blocks.7.hook_resid_post"),)),
            "The model has layers 0 to",
        ),
        (
            lambda s: replace(s, settings=replace(s.settings, skip_positions=999)),
            "skip_positions is 999, but contexts have",
        ),
        (
            lambda s: replace(s, texts=TextsSpec(files="none.txt", n_contexts=2, context_length=8)),
            "none.txt: check files",
        ),
    ],
)
def test_the_plan_says_what_the_sweep_would(change: object, said: str, study: Study, tmp_path: Path) -> None:
    wrong = change(study)  # type: ignore[operator]
    with pytest.raises(SpecError, match=said):
        check_feasible(wrong)
    try:
        failures = Pipeline(Store(tmp_path / "cache")).sweep(wrong, scale=False).failures
        words = " ".join(map(str, failures))
    except DarkMatterError as error:
        words = str(error)
    assert said in words


def test_contexts_that_are_longer_than_the_model_can_read(study: Study, tmp_path: Path) -> None:
    save_model("gpt2", tmp_path / "gpt2")
    (tmp_path / "x.txt").write_text("word " * 90_000)
    asked = TextsSpec(files="x.txt", n_contexts=2, context_length=9_999)
    with pytest.raises(
        SpecError, match="Contexts of 9,999 tokens are asked for, but the model has .* positions: lower"
    ):
        check_feasible(replace(study, model=ModelSpec(path="gpt2"), texts=asked))


def test_texts_that_are_too_short_are_told_by_their_size(study: Study, tmp_path: Path) -> None:
    asked = TextsSpec(files="x.txt", n_contexts=10, context_length=8)
    for text, said in (
        ("", "holds 0 bytes"),
        ("too short " * 3, "holds 30 bytes, too few for 10 contexts of 8 tokens"),
    ):
        (tmp_path / "x.txt").write_text(text)
        with pytest.raises(SpecError, match=said):
            check_feasible(replace(study, texts=asked))
    (tmp_path / "x.txt").write_text("a b c d e f g h " * 10)
    check_feasible(replace(study, texts=asked))
    with pytest.raises(SpecError, match="too few for 99,999,999,999 contexts"):
        check_feasible(replace(study, texts=replace(asked, n_contexts=99_999_999_999)))
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}'))
    check_feasible(replace(study, texts=replace(asked, files="x.jsonl.gz")))  # its size says nothing


def test_a_model_of_the_hub_is_compared_by_its_shape_alone(study: Study, tmp_path: Path) -> None:
    gpt2 = replace(study, model=ModelSpec(id="openai-community/gpt2"))
    deep = replace(gpt2, saes=(SaeSpec("blocks.12.hook_resid_post", path="sae"),))
    with pytest.raises(SpecError, match="The model has layers 0 to 11, so there is no blocks.12.hook_resid_post"):
        check_feasible(deep)
    check_feasible(replace(gpt2, saes=(SaeSpec("blocks.11.hook_resid_post", path="sae"),)))
    check_feasible(replace(deep, model=ModelSpec(id="some-lab/a-model-that-nobody-knows")))


@pytest.mark.parametrize("path", [DEMO, *sorted(SHIPPED_STUDIES.glob("*.toml"))], ids=lambda path: path.stem)
def test_every_study_that_comes_with_the_app_could_run(path: Path) -> None:
    check_feasible(load_study(path))


def test_the_command_says_it_too(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study.toml"
    path.write_text(path.read_text().replace("skip_positions = 4", "skip_positions = 999"))
    assert load_study(path).settings.skip_positions == 999
    assert main(["plan", str(path)]) == 1
    assert "error: skip_positions is 999" in capsys.readouterr().err
