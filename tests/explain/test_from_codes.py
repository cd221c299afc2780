"""Examples from stored codes: the latents are those drawn, and their windows those of the dense activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmcore.analysis import feature_codes
from dmcore.errors import Cancelled, DataError
from dmcore.explain.draw import DrawSettings, draw_examples
from dmcore.explain.from_codes import choose_latents, examples_of_codes
from dmcore.explain.offline import score_offline
from dmcore.progress import Reporter
from dmcore.sources.contexts import Contexts
from tests.analysis.test_feature_index import write_codes
from tests.explain import planted

SETTINGS = DrawSettings(n_top=5, n_per_decile=2, n_silent=20, n_before=5, n_after=2, skip_positions=3, seed=2)


def sources(folder: Path) -> tuple[np.ndarray, Contexts, Path]:
    """Latents of which 0 is active on ` def`, 3 never, 5 at a skipped position alone."""
    ids = planted.thinned(planted.tokens(80, 60), planted.DEF)
    generator = np.random.default_rng(0)
    acts = np.where(generator.random((*ids.shape, 12)) < 0.02, generator.gamma(2.0, size=(*ids.shape, 12)), 0.0)
    acts[..., 0] = np.where(ids == planted.DEF, generator.gamma(2.0, size=ids.shape), 0.0)
    acts[..., 3] = acts[..., 5] = 0.0
    acts[4, 1, 5] = 1.0
    dense = acts.astype(np.float32)
    return dense, Contexts(ids.astype(np.uint16), ""), write_codes(folder / "codes", dense)


@pytest.mark.parametrize("at_once", [200, 10**6])
def test_examples_are_those_of_the_dense_activations(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_codes, "ENTRIES_AT_ONCE", at_once)
    dense, contexts, codes = sources(tmp_path)
    found = examples_of_codes(codes, 12, contexts, tmp_path, settings=SETTINGS)
    assert [one.latent for one in found] == [0, 1, 2, 4, 6, 7, 8, 9, 10, 11]
    texts = [f"#{number}" for number in range(len(planted.TEXTS))]
    for one in found:
        values = dense[..., one.latent].reshape(-1)
        places = np.flatnonzero(values)
        assert one == draw_examples(one.latent, places, values[places], contexts.tokens, texts, SETTINGS)
    assert score_offline(found[:1])["explanation"].to_list() == [f"the token is '#{planted.DEF}'"]
    assert list(tmp_path.iterdir()) == [codes], "nothing is left behind"


def test_random_latents_are_drawn_with_equal_chances_from_those_that_are_active() -> None:
    counts = np.array([5, 0, 1, 1000, 1, 0, 2])
    drawn = [choose_latents(counts, 2, seed) for seed in range(2000)]
    assert all(len(set(one)) == 2 and np.all(np.diff(one) > 0) for one in map(list, drawn))
    times = np.bincount(np.concatenate(drawn), minlength=7)
    assert times[[1, 5]].tolist() == [0, 0]
    assert times[[0, 2, 3, 4, 6]] == pytest.approx(800, abs=110)  # five standard deviations
    assert choose_latents(counts, 2, 1).tolist() == choose_latents(counts, 2, 1).tolist()
    assert choose_latents(counts, 99, 1).tolist() == [0, 2, 3, 4, 6]


def test_it_can_be_cancelled_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    _, contexts, codes = sources(tmp_path)
    with pytest.raises(Cancelled):
        examples_of_codes(codes, 12, contexts, tmp_path, reporter=Reporter(should_cancel=lambda: True))
    with pytest.raises(DataError, match="other texts"):
        examples_of_codes(codes, 12, Contexts(contexts.tokens[:5], ""), tmp_path)
    with pytest.raises(DataError, match="at least one"):
        examples_of_codes(codes, 12, contexts, tmp_path, n_latents=0)
    assert list(tmp_path.iterdir()) == [codes]
