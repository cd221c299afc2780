"""Baselines for the language model's loss: a unigram and a smoothed bigram model fitted on the same training tokens."""

from __future__ import annotations

import numpy as np

from dmcore.demo.scale import CONTEXT_LENGTH


def baseline_losses(training: np.ndarray, held_out: np.ndarray, n_vocabulary: int) -> dict[str, float]:
    """Mean cross-entropies in nats of positions 1 to 255 of `held_out`, both (n_contexts, 256).

    The unigram is add-one smoothed. The bigram is interpolated Kneser-Ney: absolute discounting with the usual estimate
    of the discount, n1 / (n1 + 2 n2), backing off to the number of different predecessors of a token (add-one smoothed).
    """
    counts = np.zeros((n_vocabulary, n_vocabulary), dtype=np.int64)
    for start in range(0, len(training), 4096):
        block = training[start : start + 4096].astype(np.int64)
        pairs = block[:, :-1] * n_vocabulary + block[:, 1:]
        counts += np.bincount(pairs.ravel(), minlength=n_vocabulary**2).reshape(n_vocabulary, n_vocabulary)
    frequency = counts.sum(0) + 1.0
    unigram = frequency / frequency.sum()
    predecessors = (counts > 0).sum(0) + 1.0
    continuation = predecessors / predecessors.sum()
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    discount = once / max(1, once + 2 * twice)
    totals = np.maximum(counts.sum(1), 1)
    weight = np.where(counts.sum(1) > 0, discount * (counts > 0).sum(1) / totals, 1.0)
    before, after = held_out[:, :-1].astype(np.int64).ravel(), held_out[:, 1:].astype(np.int64).ravel()
    bigram = np.maximum(counts[before, after] - discount, 0) / totals[before] + weight[before] * continuation[after]
    assert held_out.shape[1] == CONTEXT_LENGTH
    return {
        "unigram_loss": float(-np.log(unigram[after]).mean()),
        "bigram_loss": float(-np.log(bigram).mean()),
        "bigram_discount": discount,
    }
