"""Windows: sides share no context, peaks and deciles are those of the definition, silent windows are silent."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dmcore.errors import DataError
from dmcore.explain.draw import DrawSettings, draw_examples
from dmcore.explain.examples import FeatureExamples, Window
from tests.explain import planted


def drawn(**settings) -> tuple[FeatureExamples, np.ndarray, np.ndarray]:
    """A latent that is active on a tenth of the tokens, more often where it was before, and its (n_contexts, length)."""
    generator = np.random.default_rng(3)
    ids = planted.tokens(200, 80)
    dense = np.where(
        generator.random(ids.shape) < 0.03, np.ceil(generator.gamma(3.0, size=ids.shape)), 0.0
    )  # with ties
    places = np.flatnonzero(dense)
    chosen = DrawSettings(**({"n_before": 6, "n_after": 3} | settings))
    return draw_examples(7, places, dense.reshape(-1)[places], ids, planted.TEXTS, chosen), dense, ids


def all_windows(examples: FeatureExamples) -> list[Window]:
    return [*examples.train, *examples.train_silent, *examples.test_active, *examples.test_silent]


def test_windows_show_the_texts_and_activations_of_their_context() -> None:
    examples, dense, ids = drawn()
    for window in all_windows(examples):
        low, high = max(window.position - 6, 0), min(window.position + 4, 80)
        assert window.tokens == tuple(planted.TEXTS[i] for i in ids[window.context, low:high])
        assert window.activations == tuple(dense[window.context, low:high])
        assert low + window.peak == window.position
    assert any(window.position < 6 for window in all_windows(examples)), "windows at the start of a context are shorter"


def test_numbers_of_windows_are_those_asked_for_and_sides_share_no_context() -> None:
    examples, _, _ = drawn(n_top=9, n_per_decile=3, n_silent=20)
    assert len(examples.train) == 9 + 30
    assert [len(decile) for decile in examples.test] == [3] * 10
    assert len(examples.train_silent) == len(examples.test_silent) == 20
    trained = {window.context for window in (*examples.train, *examples.train_silent)}
    assert trained.isdisjoint({window.context for window in (*examples.test_active, *examples.test_silent)})


def test_windows_of_a_side_do_not_overlap() -> None:
    examples, _, _ = drawn()
    for side in (examples.train, (*examples.test_active,), examples.train_silent, examples.test_silent):
        seen = [(w.context, p) for w in side for p in range(w.position - w.peak, w.position - w.peak + len(w.tokens))]
        assert len(seen) == len(set(seen))


def naive_peaks(dense: np.ndarray, before: int, after: int, skip: int) -> list[tuple[float, int, int]]:
    found = []
    for context, row in enumerate(dense):
        for position in range(skip, len(row)):
            window = row[max(position - before, 0) : position + after + 1]
            if row[position] > 0 and int(window.argmax()) == min(position, before):
                found.append((row[position], context, position))
    return found


def test_deciles_are_those_of_all_peaks_and_the_largest_are_shown_first() -> None:
    examples, dense, _ = drawn(skip_positions=5, n_top=5, n_per_decile=2)
    peaks = naive_peaks(dense, 6, 3, 5)
    ranked = sorted(peaks, key=lambda peak: (-peak[0], peak[1], peak[2]))
    decile_of = {(c, p): 9 - 10 * rank // len(ranked) for rank, (_, c, p) in enumerate(ranked)}
    for decile, windows in enumerate(examples.test):
        assert [decile_of[w.context, w.position] for w in windows] == [decile] * 2
    values = [window.activations[window.peak] for window in examples.train]
    assert values == sorted(values, reverse=True)
    trained = {window.context for window in examples.train}
    largest = next(peak for peak in ranked if peak[1] in trained)
    assert (examples.train[0].context, examples.train[0].position) == largest[1:]


def test_at_most_two_of_the_largest_are_of_one_context() -> None:
    ids = planted.tokens(10, 200)
    dense = np.zeros(ids.shape)
    dense[:, ::20] = 1 + np.arange(100).reshape(10, 10)[::-1]
    places = np.flatnonzero(dense)
    chosen = DrawSettings(n_top=10, n_per_decile=0, n_before=2, n_after=2)
    train = draw_examples(0, places, dense.reshape(-1)[places], ids, planted.TEXTS, chosen).train
    assert sorted(np.unique([window.context for window in train], return_counts=True)[1]) == [2] * 5


def test_skipped_positions_are_no_peaks_but_are_looked_at() -> None:
    examples, _, _ = drawn(skip_positions=30)
    assert min(window.position for window in all_windows(examples)) >= 30
    ids, dense = planted.tokens(6, 64), np.zeros((6, 64))
    dense[:, 30], dense[:3, 28], dense[3:, 28] = 2, 1, 3  # in the last three the skipped token is the stronger
    chosen = DrawSettings(skip_positions=30, n_before=4, n_after=2)
    places = np.flatnonzero(dense)
    found = draw_examples(0, places, dense.reshape(-1)[places], ids, planted.TEXTS, chosen)
    active = [*found.train, *found.test_active]
    assert {window.context for window in active} == {0, 1, 2}
    assert all(window.activations == (0, 0, 1, 0, 2, 0, 0) for window in active)
    assert all(window.position > 32 for window in (*found.train_silent, *found.test_silent))


def test_the_seed_and_the_latent_alone_decide() -> None:
    first, second, other = drawn()[0], drawn()[0], drawn(seed=1)[0]
    assert first == second
    assert first.key == second.key != other.key
    assert {w.context for w in first.train} != {w.context for w in other.train}


def test_a_latent_that_is_hardly_ever_active_has_few_windows() -> None:
    ids = planted.tokens(20, 64)
    for n_contexts, n_test in ((0, 0), (1, 0), (2, 1), (3, 1)):
        active = np.zeros(ids.shape, dtype=bool)
        active[:n_contexts, 30] = True
        examples = planted.examples(active, ids)
        assert len(examples.test_active) == n_test
        assert len(examples.train) == n_contexts - n_test
        assert examples.test_silent


def test_a_latent_that_is_always_active_has_no_silent_windows() -> None:
    ids = planted.tokens(20, 64)
    examples = planted.examples(np.ones(ids.shape, dtype=bool), ids)
    assert examples.test_silent == examples.train_silent == ()
    assert examples.test_active


@pytest.mark.parametrize(
    "places, values",
    [([3, 3], [1, 1]), ([4, 3], [1, 1]), ([-1], [1]), ([640], [1]), ([1], [0]), ([1], [np.nan]), ([1], [1, 2])],
)
def test_activations_that_make_no_sense_are_refused(places: list, values: list) -> None:
    ids = planted.tokens(10, 64)
    with pytest.raises(DataError, match="atent 0"):
        draw_examples(0, np.array(places), np.array(values, dtype=float), ids, planted.TEXTS)


def test_examples_refuse_shared_contexts_and_wrong_sides() -> None:
    good = planted.plain()
    with pytest.raises(DataError, match="split by context"):
        dataclasses.replace(good, test_silent=(dataclasses.replace(good.test_silent[0], context=0),))
    with pytest.raises(DataError, match="silent"):
        dataclasses.replace(good, test_silent=(good.test[0][0],))
    with pytest.raises(DataError, match="active"):
        dataclasses.replace(good, train=good.train_silent)
    with pytest.raises(DataError, match="10 deciles"):
        dataclasses.replace(good, test=())
    for wrong in ({"peak": 0}, {"peak": 3}, {"activations": (0.0, 1.0)}, {"activations": (0.0, 1.0, -1.0)}):
        with pytest.raises(DataError):
            dataclasses.replace(good.train[0], **wrong)
