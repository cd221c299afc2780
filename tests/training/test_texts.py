"""The texts that SAEs are trained on: never those that the study measures on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmcore.errors import SpecError
from dmcore.progress import Reporter
from dmcore.specs import Study, TextsSpec
from dmcore.store.store import Store
from dmcore.training.texts import training_spec, training_texts
from tests.training.studies import build_train_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return build_train_study(tmp_path / "study")


def find(study: Study, tokens: int = 6000):
    return training_texts(study, tokens, Store(study.folder / "cache"), Reporter())


def with_train_texts(study: Study, texts: TextsSpec | None, own: TextsSpec | None = None) -> Study:
    assert study.train is not None
    return replace(study, train=replace(study.train, texts=texts), texts=own or study.texts)


def write_words(study: Study, n_documents: int, words: int = 23) -> None:
    rng = np.random.default_rng(3)
    lines = [" ".join(f"w{i}" for i in rng.integers(7, 60, words)) for _ in range(n_documents)]
    (study.folder / "corpus.jsonl").write_text("\n".join(f'{{"text": "{line}"}}' for line in lines))


FILES = TextsSpec(files="corpus.jsonl", n_contexts=10, context_length=24, shuffle_buffer=0)


def test_the_last_contexts_are_held_out(study: Study) -> None:
    found = find(study)
    assert found.train.tolist() == list(range(112))
    assert found.held_out.tolist() == list(range(112, 120))
    assert found.used_length == 20
    assert found.epochs(112 * 20 * 3) == 3


def test_a_folder_of_tokens_leaves_nothing_to_train_on(study: Study) -> None:
    with pytest.raises(SpecError, match=r"\[train.texts\]"):
        find(with_train_texts(study, None))


def test_contexts_that_are_measured_on_are_left_out(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    tokens = np.load(study.folder / "train" / "tokens.npy")
    tokens[[3, 50]] = np.load(study.folder / "contexts" / "tokens.npy")[[0, 9]]
    np.save(study.folder / "train" / "tokens.npy", tokens)
    found = find(study)
    assert not {3, 50} & {*found.train.tolist(), *found.held_out.tolist()}
    assert "2 training contexts are left out" in caplog.text


def test_training_on_the_measured_contexts_is_refused(study: Study) -> None:
    with pytest.raises(SpecError, match="30 of the 30 training contexts are those that the study measures on"):
        find(with_train_texts(study, TextsSpec(path="contexts")))


def test_a_studys_own_files_are_gone_on_with_after_what_it_measures_on(study: Study) -> None:
    write_words(study, 400)
    own = with_train_texts(study, None, FILES)
    spec = training_spec(own, 2000)
    assert (spec.skip_contexts, spec.n_contexts) == (10, 100 + 64)
    found = find(own, 2000)
    assert found.contexts.n_contexts == 164
    assert len(found.train) + len(found.held_out) == 164


def test_fewer_texts_than_asked_for_are_gone_through_more_often(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    write_words(study, 60)
    found = find(with_train_texts(study, None, FILES), 10_000)
    assert found.contexts.n_contexts == 50
    assert "The training texts give 50 contexts" in caplog.text
    assert found.epochs(10_000) > 10


def test_too_few_contexts_are_refused(study: Study) -> None:
    write_words(study, 12)
    with pytest.raises(SpecError, match="2 contexts to train on, which is too few"):
        find(with_train_texts(study, None, FILES))


def test_skipping_all_positions_is_refused(study: Study) -> None:
    short = replace(study, settings=replace(study.settings, skip_positions=30))
    with pytest.raises(SpecError, match="skip_positions is 30"):
        find(short)
