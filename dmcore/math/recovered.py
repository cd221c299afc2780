"""How much of a loss comes back: shares of a loss increase, with a bootstrap over contexts.

With CE the mean cross-entropy of a model in which the activation at a site has been replaced:
    recovered of an ablation = (CE_ablated - CE) / (CE_ablated - CE_clean)      1 for the clean model, 0 for the ablated one
    recovered of an SAE      = 1 - (CE - CE_clean) / (CE_sae - CE_clean)        1 for the clean model, 0 for Sae(x)
Both are `(worst - CE) / (worst - clean)`, the SAE itself being the worst in the second. All four are means over the same
tokens, so sums over bootstrap units are enough, and every share sees the same replicates as every other number of the study.
A share of an increase that cannot be told from 0 means nothing: it is nan.
"""

from __future__ import annotations

import numpy as np

from dmcore.errors import DataError
from dmcore.estimate import Estimate
from dmcore.math.bootstrap import bootstrap_units, interval, poisson_weights

Array = np.ndarray


def draws(n_units: int, seed: int) -> Array:
    """(1 + n_replicates, n_units) weights: ones first, for the value itself, then those of every bootstrap of the study."""
    return np.concatenate([np.ones((1, n_units)), poisson_weights(n_units, seed)])


def estimate(drawn: Array) -> Estimate:
    """The value with its 95 % interval, from (1 + n_replicates,) draws of which the first is the value."""
    return interval(float(drawn[0]), drawn[1:])


def share_recovered(clean: Array, spliced: Array, worst: Array, weights: Array) -> Array:
    """(1 + n_replicates,) draws of `(worst - spliced) / (worst - clean)`; all nan where the increase has 0 in its interval.

    Args:
        clean, spliced, worst: (n_units,) sums of the loss over the same tokens.
        weights: of `draws`.
    """
    drawn = weights @ ((worst != 0) | (clean != 0))  # a replicate that drew no context says nothing
    increase = np.where(drawn > 0, weights @ (worst - clean), np.nan)
    if not tells_from_zero(increase):
        return np.full(len(weights), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights @ (worst - spliced)) / increase


def tells_from_zero(drawn: Array) -> bool:
    """Whether an increase is above 0 with its whole interval, if it has one.

    Below a millionth of a millionth of a sum it would be rounding, and is no increase in any case.
    """
    found = estimate(drawn)
    return found.value > 1e-12 and not found.low <= 0


def loss_recovered(clean: Array, spliced: Array, worst: Array, *, seed: int = 0, kept: Array | None = None) -> Estimate:
    """The share of a loss increase that a splice takes back, from losses of tokens.

    Args:
        clean, spliced, worst: (n_contexts, n_tokens) losses in nats; `worst` is that of zero or mean ablation, or of Sae(x).
        seed: of the bootstrap over contexts.
        kept: (n_contexts, n_tokens) which tokens count; all if None.

    Returns:
        nan where the increase `worst - clean` cannot be told from 0.

    Raises:
        DataError: shapes differ, or a loss that counts is not finite.
    """
    if not clean.shape == spliced.shape == worst.shape or clean.ndim != 2:
        raise DataError(
            "The losses must be of the same contexts and tokens: give three arrays of (n_contexts, n_tokens)."
        )
    kept = np.ones(clean.shape, dtype=bool) if kept is None else kept
    if not all(np.isfinite(losses[kept]).all() for losses in (clean, spliced, worst)):
        raise DataError("A loss is NaN or infinite: leave the tokens that predict nothing out with `kept`.")
    units = bootstrap_units(len(clean))
    n_units = int(units.max()) + 1
    sums = [
        np.bincount(units, np.where(kept, losses, 0.0).sum(1, dtype=np.float64), minlength=n_units)
        for losses in (clean, spliced, worst)
    ]
    return estimate(share_recovered(sums[0], sums[1], sums[2], draws(n_units, seed)))
