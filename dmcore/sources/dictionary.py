"""An SAE in memory, whatever its architecture, behind one `Dictionary` that makes and reads sparse codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.errors import SpecError
from dmcore.math.arithmetic import Arithmetic
from dmcore.math.sparse_codes import DenseEncoder, Encoder, SparseCodes, decode, join_codes
from dmcore.memory import halve_when_out_of_memory
from dmcore.sources.block_encoders import block_encoder, is_blocked

MATCHING_PURSUIT = "MatchingPursuitSAE"
"""SAELens's class that is encoded and decoded by its own code, though its decoder is a matrix like the others'."""
GPU_TOKENS = 8192
"""Tokens that are encoded together on a GPU: each block of weights is then read for more of them."""


class Dictionary:
    """An SAE as this project uses it: activations to sparse codes, and back.

    Args:
        sae: a SAELens SAE, or any object with `encode(x)` and `decode(acts)` (dense) and, if it has them, `cfg.d_in` and
            `cfg.d_sae` (or `d_in` and `d_sae`).
        d_in: dimensions of the activation, for an object that does not say.
        precision: of the encoder's product, of `dmcore.specs.PRECISIONS`.
        device: where it is to work; None for where it is. What encodes in blocks may come from another device.
        owned: whether nobody else uses the object, so that weights which the encoder keeps in its own way can be dropped.

    Raises:
        SpecError: it encodes by its own code, which no precision but float32 applies to.
    """

    tokens_at_once = 1
    """Tokens that are best encoded together; 1 where it makes no difference."""

    def __init__(
        self,
        sae: Any,
        d_in: int | None = None,
        *,
        precision: str = "float32",
        device: torch.device | None = None,
        owned: bool = False,
    ) -> None:
        about = getattr(sae, "cfg", sae)
        self.d_in = int(getattr(about, "d_in", 0) or d_in or 0)
        self.dtype: torch.dtype = getattr(sae, "dtype", None) or torch.float32
        self.d_sae = int(getattr(about, "d_sae", 0) or _width_of(sae, self.d_in, self.dtype))
        self.architecture = str(about.architecture()) if callable(getattr(about, "architecture", None)) else "custom"
        self.pulse: Callable[[int, int], None] = lambda _done, _total: None
        self._sae = sae
        self._encoder = _encoder_of(sae, Arithmetic(precision), device, owned)
        if self._encoder is None and precision != "float32":
            raise SpecError(
                f"This {self.architecture} SAE encodes by its own code, not in {precision}: leave --precision out."
            )
        if self._encoder is not None and sae.b_dec.device.type == "cuda":
            self.tokens_at_once = GPU_TOKENS
        self._sparse_decode = hasattr(sae, "W_dec") and self._encoder is not None

    @torch.inference_mode()
    def encode(self, x: Float[Tensor, "n_tokens d_in"]) -> SparseCodes:
        """The sparse codes of some tokens; in halves where the device has too little memory for all at once."""
        x = x.to(self.dtype)
        parts = halve_when_out_of_memory(lambda a, b: self._encode(x[a:b]), 0, x.shape[0], "encode", "tokens")
        return join_codes(parts)

    def _encode(self, x: Tensor) -> SparseCodes:
        if self._encoder is None:
            return DenseEncoder(self._sae.encode, self.d_sae).encode(x)
        return self._encoder.encode(self._sae.process_sae_in(x))

    @torch.inference_mode()
    def decode(self, codes: SparseCodes, x: Float[Tensor, "n_tokens d_in"]) -> Tensor:
        """(n_tokens, d_in) reconstruction; `x` is needed by SAEs that normalise each token."""
        if not self._sparse_decode:
            return self._sae.decode(_to_dense(codes, self.d_sae, self.dtype))
        sae = self._sae
        if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
            norms = sae.W_dec.norm(dim=-1)
            codes = SparseCodes(codes.offsets, codes.latents, codes.values / norms[codes.latents.long()])
        recon = decode(codes, sae.W_dec, sae.b_dec)
        return denormalised(sae, recon, x.to(self.dtype))

    @torch.inference_mode()
    def decoder_rows(self, first: int, last: int) -> Tensor | None:
        """(last - first, d_in) what a unit of each latent adds to the reconstruction.

        None where there is no such row: the object decodes in a way of its own, or each token has a scale of its own.
        """
        if not self._affine_decoder:
            return None
        rows = self._sae.W_dec.data[first:last]
        rescales = getattr(self._sae.cfg, "rescale_acts_by_decoder_norm", False)
        return rows / rows.norm(dim=-1, keepdim=True) if rescales else rows

    @property
    def decoder_bias(self) -> Tensor | None:
        """(d_in,) the reconstruction where no latent is active; None where there are no `decoder_rows`."""
        if not self._affine_decoder:
            return None
        tied = type(self._sae).__name__ == MATCHING_PURSUIT and not self._sae.cfg.apply_b_dec_to_input
        return torch.zeros_like(self._sae.b_dec.data) if tied else self._sae.b_dec.data

    @property
    def _affine_decoder(self) -> bool:
        known = self._sparse_decode or type(self._sae).__name__ == MATCHING_PURSUIT
        return known and not scales_each_token(self._sae)


def check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Raise a SpecError if a weight is NaN: to a threshold it would only look like a dead latent."""
    for name, tensor in tensors.items():
        if bool(tensor.isnan().any()):
            raise SpecError(f"{name} of the SAE holds NaN: copy or download it again.")


def scales_each_token(sae: Any) -> bool:
    """Whether an SAELens SAE brings every token to a scale of its own, and its reconstruction back."""
    return sae.cfg.normalize_activations in {"constant_norm_rescale", "layer_norm"}


def denormalised(sae: Any, recon: Tensor, x: Tensor) -> Tensor:
    """A reconstruction in the units of `x`, for an SAELens SAE that normalises each token."""
    if sae.cfg.normalize_activations == "none":
        return recon
    sae.run_time_activation_norm_fn_in(x)  # keeps each token's scale for the way back
    return sae.run_time_activation_norm_fn_out(recon)


def _encoder_of(sae: Any, arithmetic: Arithmetic, device: torch.device | None, owned: bool) -> Encoder | None:
    """The blocked encoder of an SAE, the SAE itself moved to the device; None where encoding is not per latent."""
    if not is_blocked(sae):
        if owned and device is not None:
            sae.to(device=device)
        return None
    W_enc = sae.W_enc.data
    device = W_enc.device if device is None else device
    if not owned:
        return block_encoder(sae, W_enc.to(device), arithmetic, device)
    sae.W_enc.data = W_enc.new_empty(0, 0)
    sae.to(device=device)
    encoder = block_encoder(sae, W_enc, arithmetic, device)
    kept = getattr(encoder, "W_enc", None)
    if kept is not None and kept.dtype == W_enc.dtype:
        sae.W_enc.data = kept  # no second copy
    return encoder


def _width_of(sae: Any, d_in: int, dtype: torch.dtype) -> int:
    if not d_in:
        raise SpecError("The SAE does not say its d_in: give it as `sae.cfg.d_in`, or as `sae.d_in`.")
    try:
        with torch.inference_mode():
            return int(sae.encode(torch.zeros(1, d_in, dtype=dtype)).shape[-1])
    except (AttributeError, TypeError, RuntimeError, IndexError) as error:
        raise SpecError(
            f"The SAE's encode does not map ({1}, {d_in}) activations to (1, d_sae) latents ({error}): mend it."
        ) from error


def _to_dense(codes: SparseCodes, d_sae: int, dtype: torch.dtype) -> Tensor:
    n_tokens = codes.offsets.numel() - 1
    tokens = torch.repeat_interleave(torch.arange(n_tokens, device=codes.values.device), codes.l0)
    dense = torch.zeros(n_tokens, d_sae, dtype=dtype, device=codes.values.device)
    dense[tokens, codes.latents.long()] = codes.values.to(dtype)
    return dense
