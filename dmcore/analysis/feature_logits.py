"""The direct effect of a latent on the prediction: its decoder row times the unembedding (the logit lens of a direction).

A unit of the latent adds its decoder row to the residual stream; read at once, without the layers that follow, that changes
the logits by `row @ unembedding`, over the final norm's scale, which depends on the token and is left out here. The mean
over the vocabulary is taken off: softmax does not see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmcore.errors import DataError
from dmcore.progress import Stage

N_TOKENS = 10
"""Promoted and suppressed tokens of each latent."""
LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class LogitEffects:
    """The tokens on which each latent has most effect, n_latents rows of at most `N_TOKENS`."""

    promoted: np.ndarray
    """(n_latents, n) int32 ids, the most promoted first."""
    promoted_logit: np.ndarray
    """(n_latents, n) float32 change of the logit by a unit of activation, about the mean over the vocabulary."""
    suppressed: np.ndarray
    suppressed_logit: np.ndarray


@torch.inference_mode()
def logit_effects(
    rows: Callable[[int, int], Tensor | None], d_sae: int, unembedding: Tensor, stage: Stage, n: int = N_TOKENS
) -> LogitEffects:
    """Promoted and suppressed tokens of every latent.

    Args:
        rows: `rows(first, last)`, decoder rows of some latents.
        d_sae: latents.
        unembedding: (d_model, n_vocabulary), on the device where the products are to be made.
        stage: told of latents done.
        n: tokens of each kind.

    Raises:
        DataError: the dimensions differ, or a product is NaN or infinite.
    """
    d_model, n_vocabulary = unembedding.shape
    n = min(n, n_vocabulary)
    ids = np.zeros((2, d_sae, n), dtype=np.int32)
    logits = np.zeros((2, d_sae, n), dtype=np.float32)
    step = max(1, LOGITS_AT_ONCE // n_vocabulary)
    for first in range(0, d_sae, step):
        last = min(first + step, d_sae)
        some = rows(first, last)
        if some is None or some.shape[1] != d_model:
            size = None if some is None else some.shape[1]
            raise DataError(
                f"Decoder rows have {size} dimensions, the unembedding {d_model}: give that of the same model."
            )
        product = some.to(unembedding) @ unembedding
        product = product.float()
        if not bool(torch.isfinite(product).all()):
            raise DataError("Decoder rows times the unembedding give NaN or infinity: check the weights of both.")
        product -= product.mean(1, keepdim=True)
        for side, largest in enumerate((True, False)):
            values, where = product.topk(n, dim=1, largest=largest)
            ids[side, first:last], logits[side, first:last] = where.cpu().numpy(), values.cpu().numpy()
        stage.advance(last - first)
    return LogitEffects(ids[0], logits[0], ids[1], logits[1])
