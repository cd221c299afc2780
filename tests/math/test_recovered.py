"""Recovered shares: both normalisations from tokens, their intervals, and increases that are none."""

from __future__ import annotations

import numpy as np
import pytest

from dmcore.errors import DataError
from dmcore.math.bootstrap import poisson_weights
from dmcore.math.recovered import draws, estimate, loss_recovered, share_recovered, tells_from_zero

RNG = np.random.default_rng(0)
CLEAN = RNG.gamma(2.0, 1.0, (60, 20))
SAE, ZERO = CLEAN + 0.2 + 0.05 * RNG.standard_normal(CLEAN.shape), CLEAN + 5.0 + RNG.standard_normal(CLEAN.shape)
PART = 0.25 * CLEAN + 0.75 * SAE


def test_both_shares_are_their_formulas() -> None:
    of_zero = loss_recovered(CLEAN, SAE, ZERO)
    assert of_zero == pytest.approx((ZERO.mean() - SAE.mean()) / (ZERO.mean() - CLEAN.mean()), rel=1e-12)
    of_sae = loss_recovered(CLEAN, PART, SAE)
    assert of_sae == pytest.approx(1 - (PART.mean() - CLEAN.mean()) / (SAE.mean() - CLEAN.mean()), rel=1e-12)
    assert of_sae == pytest.approx(0.25) and of_sae.low == pytest.approx(0.25), "the same in every context"
    assert of_zero.low < of_zero < of_zero.high
    assert loss_recovered(CLEAN, CLEAN, SAE) == 1 and loss_recovered(CLEAN, SAE, SAE) == 0


def test_the_interval_is_that_of_the_studys_replicates() -> None:
    found = loss_recovered(CLEAN, SAE, ZERO, seed=7)
    weights = poisson_weights(60, 7)
    drawn = (weights @ (ZERO - SAE).sum(1)) / (weights @ (ZERO - CLEAN).sum(1))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), rel=1e-12)
    assert draws(60, 7).shape == (1001, 60) and (draws(60, 7)[0] == 1).all()


def test_only_the_tokens_that_count_are_looked_at() -> None:
    kept = np.ones(CLEAN.shape, dtype=bool)
    kept[:, -1] = False
    clean, sae, zero = (v.copy() for v in (CLEAN, SAE, ZERO))
    for losses in (clean, sae, zero):
        losses[:, -1] = np.nan
    assert loss_recovered(clean, sae, zero, kept=kept) == loss_recovered(CLEAN[:, :-1], SAE[:, :-1], ZERO[:, :-1])
    with pytest.raises(DataError, match="leave the tokens that predict nothing out"):
        loss_recovered(clean, sae, zero)
    with pytest.raises(DataError, match="three arrays"):
        loss_recovered(CLEAN, SAE[1:], ZERO)


def test_a_share_of_an_increase_that_is_none_is_nan() -> None:
    noise = CLEAN + 0.1 * RNG.standard_normal(CLEAN.shape)
    noise += CLEAN.mean() - noise.mean()
    assert np.isnan(loss_recovered(CLEAN, PART, noise))
    assert np.isnan(loss_recovered(CLEAN, PART, CLEAN))
    assert np.isnan(loss_recovered(SAE, PART, CLEAN)), "an ablation that helps"
    one = CLEAN[:1], PART[:1], SAE[:1]
    assert loss_recovered(*one) == pytest.approx(0.25), "one context: every replicate is the same, where it has weight"
    weights = draws(1, 0)
    assert np.isnan(share_recovered(*(np.zeros(1) for _ in range(3)), weights)).all()
    assert not tells_from_zero(np.zeros(1001)) and tells_from_zero(weights @ np.ones(1)) in {True, False}
    assert estimate(np.ones(1001)).low == 1
