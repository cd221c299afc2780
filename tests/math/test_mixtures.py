"""Splits of mixtures of pieces: those of `dmcore.decompose` and scikit-learn, and planted ones to tight tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

import dmcore
from dmcore.errors import DataError
from dmcore.math.folds import assign_folds
from dmcore.math.mixtures import PieceMoments, Tokens, best_split, held_out_split, price_of

D, LENGTH, N_CONTEXTS, SEED = 6, 8, 60, 3
X, ERROR = {"signal": 1.0, "extra": 0.5}, {"extra": 0.5, "lost": 0.2, "added": -1.5}


def pieces(n_contexts: int = N_CONTEXTS, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(n_contexts * LENGTH, D, generator=g, dtype=torch.float64)
            for name in ("signal", "extra", "added")}  # fmt: skip
    made["signal"] = made["signal"] @ torch.randn(D, D, generator=g, dtype=torch.float64) + 3.0
    made["lost"] = made["signal"].abs() - 1.0  # not linear in the signal, and with a mean
    return made


def tokens_of(made: dict[str, torch.Tensor]) -> Tokens:
    n_contexts = len(made["signal"]) // LENGTH
    contexts = torch.arange(n_contexts).repeat_interleave(LENGTH)
    folds = torch.from_numpy(assign_folds(np.full(n_contexts, LENGTH), 5, SEED))[contexts]
    moments = PieceMoments(["signal", "extra"], ["lost", "added"], D, 5)
    moments.add(made, folds)
    return Tokens(made, moments, folds, contexts, SEED)


def test_a_held_out_split_is_that_of_decompose_with_its_interval() -> None:
    tokens = tokens_of(pieces())
    x, error = tokens.mixture(X), tokens.mixture(ERROR)
    contexts = np.repeat(np.arange(N_CONTEXTS), LENGTH)
    split = dmcore.decompose(x, x - error, groups=contexts, seed=SEED)
    found, replicates = held_out_split(tokens, X, ERROR)
    for name, of_decompose in (("fvu", split.fvu), ("nonlinear", split.fvu_nonlinear)):
        ours = [found[f"{name}{end}"] for end in ("", "_low", "_high")]
        assert ours == pytest.approx([of_decompose.value, of_decompose.low, of_decompose.high], rel=1e-9)
    assert found["linear"] == pytest.approx(split.fvu - split.fvu_nonlinear, rel=1e-9)
    np.testing.assert_allclose(replicates["linear"], replicates["fvu"] - replicates["nonlinear"])


def test_the_best_split_is_scikit_learns_in_sample_and_its_components_add_up() -> None:
    made = pieces()
    tokens = tokens_of(made)
    parts = {"extra": {"extra": 0.5}, "lost": {"lost": 0.2}, "added": {"added": -1.5}}
    best = best_split(tokens.moments, X, ERROR, parts)
    x, error = tokens.mixture(X).numpy(), tokens.mixture(ERROR).numpy()
    left = error - LinearRegression().fit(x, error).predict(x)
    total = ((x - x.mean(0)) ** 2).sum()
    assert best.nonlinear == pytest.approx((left**2).sum() / total, rel=1e-9)
    assert best.fvu == pytest.approx((error**2).sum() / total, rel=1e-12)
    assert best.linear + best.nonlinear == pytest.approx(best.fvu, rel=1e-12)
    assert sum(one[1] for one in best.components.values()) == pytest.approx(best.linear, rel=1e-9)
    assert sum(one[2] for one in best.components.values()) == pytest.approx(best.nonlinear, rel=1e-9)
    for name, weights in parts.items():
        c = tokens.mixture(weights).numpy()
        assert best.components[name][0] == pytest.approx((c**2).sum() / total, rel=1e-9)
        own = LinearRegression().fit(x, c)
        r2 = 1 - ((c - own.predict(x)) ** 2).sum() / ((c - c.mean(0)) ** 2).sum()
        assert best.components[name][3] == pytest.approx(r2, rel=1e-9)


def test_an_error_that_is_linear_in_x_is_all_found_and_noise_is_all_nonlinear() -> None:
    tokens = tokens_of(pieces(400))
    shrunk, _ = held_out_split(tokens, {"signal": 1.0}, {"signal": 0.3})
    assert shrunk["nonlinear"] == pytest.approx(0.0, abs=1e-20)
    assert shrunk["linear"] == pytest.approx(shrunk["fvu"])
    noise, _ = held_out_split(tokens, {"signal": 1.0}, {"added": 1.0})
    # Gaussian noise that does not depend on x: overstated by the price of the fit, which is known exactly.
    assert noise["nonlinear"] / noise["fvu"] == pytest.approx(1 + noise["price"], rel=2e-3)
    assert noise["nonlinear_low"] < noise["fvu"] * (1 + noise["price"]) < noise["nonlinear_high"]


def test_the_price_of_a_fit_is_what_many_fits_pay() -> None:
    paid = []
    for seed in range(60):
        tokens = tokens_of(pieces(6, seed))
        found, _ = held_out_split(tokens, {"signal": 1.0}, {"added": 1.0})
        paid.append(found["nonlinear"] / found["fvu"] - 1)
    assert np.mean(paid) == pytest.approx(price_of(tokens, D), abs=3 * np.std(paid) / 60**0.5)
    assert 0.1 < price_of(tokens, D) < 0.5


def test_a_component_of_nothing_has_no_r2_and_a_mean_alone_is_linear() -> None:
    made = pieces() | {"lost": torch.full((N_CONTEXTS * LENGTH, D), 2.0, dtype=torch.float64)}
    tokens = tokens_of(made)
    best = best_split(tokens.moments, {"signal": 1.0}, {"lost": 1.0}, {"none": {}})
    assert best.nonlinear == pytest.approx(0.0, abs=1e-12)
    assert best.linear == pytest.approx(best.fvu)
    assert np.isnan(best.components["none"][3])


def test_what_cannot_be_split_is_refused_in_a_sentence() -> None:
    tokens = tokens_of(pieces())
    with pytest.raises(DataError, match="added: not among the pieces that activations are made of"):
        tokens.moments.mixed([0], {"added": 1.0}, {})
    with pytest.raises(DataError, match="do not vary"):
        held_out_split(tokens, {}, {"added": 1.0})
