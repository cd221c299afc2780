"""Before a sweep: whether an SAE belongs to these activations, on a few contexts.

An SAE that reconstructs worse than the mean activation does (FVU above 1) is at the wrong hook, of another model, or broken:
its error would be taken apart to many digits and mean nothing.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.errors import DataError
from dmcore.math.sparse_codes import SparseCodes

CONTEXTS_CHECKED = 4
"""Contexts on which an SAE is tried."""


class Autoencoder(Protocol):
    """What is needed of an SAE here."""

    def encode(self, x: Tensor) -> SparseCodes:
        """Sparse codes of (n_tokens, d_model) activations."""
        ...

    def decode(self, codes: SparseCodes, x: Tensor) -> Tensor:
        """(n_tokens, d_model) reconstruction."""
        ...


@torch.inference_mode()
def reconstruction_fvu(acts: Float[Tensor, "n_tokens d_model"], sae: Autoencoder) -> float:
    """`sum |x - Sae(x)|^2 / sum |x - mean x|^2` over these tokens; nan where they do not vary."""
    x = acts.float()
    recon = sae.decode(sae.encode(x), x)
    scatter = (x - x.mean(0)).double().square().sum()
    return float((x - recon).double().square().sum() / scatter) if float(scatter) > 0 else float("nan")


def check_belongs(
    name: str, hook: str, acts: Float[Tensor, "n_contexts length d_model"], skip: int, sae: Autoencoder
) -> None:
    """Raise a `DataError` if an SAE is worse than the mean on these contexts, or gives numbers that are not finite.

    Args:
        name, hook: the SAE and its site, for the message.
        acts: activations of a few contexts.
        skip: first positions of each context left out.
        sae: the SAE.
    """
    kept = acts[:, min(skip, acts.shape[1] - 1) :].flatten(0, 1)
    fvu = reconstruction_fvu(kept, sae)
    if fvu <= 1.0:
        return
    if fvu != fvu:
        raise DataError(
            f"The SAE {name} gave NaN or infinity on the first contexts at {hook}, or these do not vary: check its weights "
            "and the dtype of the model."
        )
    raise DataError(
        f"The SAE {name} is worse than the mean at {hook} (FVU {fvu:.3g} on {kept.shape[0]:,} tokens of the first "
        f"{acts.shape[0]} contexts), so it was trained on another site, model or scale: mend the study, or say "
        "check = false for it."
    )
