"""An SAE wider than memory: the same as `Dictionary`, with its weights read from disk in slices of latents."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.errors import SpecError
from dmcore.math.arithmetic import Arithmetic
from dmcore.math.sliced import decode_sliced, encode_sliced
from dmcore.math.sparse_codes import Encoder, SparseCodes, TopKEncoder, join_codes
from dmcore.memory import halve_when_out_of_memory
from dmcore.sources.block_encoders import gated_encoder, thresholded
from dmcore.sources.dictionary import check_numbers, denormalised, scales_each_token
from dmcore.sources.sae_weights import SaeWeights

SLICE_BYTES = 2**27
"""Bytes, in float32, of the part of one matrix that is worked on at once."""
GROUP_BYTES = 2**28
"""Bytes, in float32, of the activations of a group of tokens."""
LATENTS_MULTIPLE = 1024
SLICEABLE = ("standard", "jumprelu", "gated", "topk")
"""Architectures whose latents are encoded each by itself, or compete only at the end."""


class SlicedDictionary:
    """An SAE on disk; memory does not depend on its width.

    Args:
        weights: its tensors.
        device: where slices are worked on.
        precision: of the encoder's product, of `dmcore.specs.PRECISIONS`.
    """

    def __init__(self, weights: SaeWeights, device: torch.device | str = "cpu", *, precision: str = "float32") -> None:
        self._weights, self._device, self._arithmetic = weights, torch.device(device), Arithmetic(precision)
        self._sae = shell_of(weights, self._device)
        self.architecture = str(self._sae.cfg.architecture())
        if self.architecture not in SLICEABLE:
            raise SpecError(
                f"A {self.architecture} SAE cannot be read in slices: it needs {weights.nbytes / 2**30:.1f} GiB of memory."
            )
        self.d_in, self.d_sae = weights.W_enc.d_in, weights.W_enc.d_sae
        self.dtype = torch.float32
        self.pulse: Callable[[int, int], None] = lambda _done, _total: None
        multiple = SLICE_BYTES // (4 * self.d_in) // LATENTS_MULTIPLE * LATENTS_MULTIPLE
        self.latents_per_slice = max(LATENTS_MULTIPLE, multiple)
        self.tokens_at_once = max(1, GROUP_BYTES // (4 * self.d_in))
        self._vectors = {name: v.float().to(self._device) for name, v in weights.vectors.items()}
        check_numbers(self._vectors)
        self._norms: Tensor | None = None

    @torch.inference_mode()
    def encode(self, x: Float[Tensor, "n_tokens d_in"]) -> SparseCodes:
        """The sparse codes of a group of tokens; in halves where the device has too little memory for all at once."""

        def encode(first: int, last: int) -> SparseCodes:
            return encode_sliced(self, self._sae.process_sae_in(x[first:last].to(self.dtype)), self.pulse)

        return join_codes(halve_when_out_of_memory(encode, 0, x.shape[0], "encode", "tokens"))

    @torch.inference_mode()
    def decode(self, codes: SparseCodes, x: Float[Tensor, "n_tokens d_in"]) -> Tensor:
        """(n_tokens, d_in) reconstruction of a group of tokens."""
        if self._rescales:
            codes = SparseCodes(codes.offsets, codes.latents, codes.values / self._decoder_norms[codes.latents.long()])
        recon = decode_sliced(codes, self, self._vectors["b_dec"], self.pulse)
        return denormalised(self._sae, recon, x.to(self.dtype))

    def encoder(self, first: int, last: int) -> Encoder:
        """The encoder of a slice of latents."""
        rows = self._weights.W_enc.by_row(first, last)
        W_enc = rows.to(self._device).float().T
        check_numbers({"W_enc": W_enc})
        own = {name: vector[first:last] for name, vector in self._vectors.items() if name != "b_dec"}
        if self.architecture == "gated":
            return gated_encoder(W_enc, own["b_gate"], own["r_mag"], own["b_mag"], self._arithmetic, self._device)
        if self.architecture == "topk":
            scale = self._decoder_norms[first:last] if self._rescales else None
            return TopKEncoder(W_enc, own["b_enc"], int(self._sae.cfg.k), scale, self._arithmetic)
        threshold = own["threshold"] if self.architecture == "jumprelu" else torch.zeros_like(own["b_enc"])
        return thresholded(W_enc, own["b_enc"], threshold, self._arithmetic, self._device)

    def decoder(self, first: int, last: int) -> Tensor:
        """(last - first, d_in) decoder rows of a slice of latents."""
        return self._weights.W_dec.by_row(first, last).to(self._device).float().contiguous()

    @torch.inference_mode()
    def decoder_rows(self, first: int, last: int) -> Tensor | None:
        """(last - first, d_in) what a unit of each latent adds to the reconstruction; None where tokens have scales."""
        if scales_each_token(self._sae):
            return None
        rows = self.decoder(first, last)
        return rows / rows.norm(dim=-1, keepdim=True) if self._rescales else rows

    @property
    def decoder_bias(self) -> Tensor | None:
        """(d_in,) the reconstruction where no latent is active; None where there are no `decoder_rows`."""
        return None if scales_each_token(self._sae) else self._vectors["b_dec"]

    @property
    def _rescales(self) -> bool:
        return bool(getattr(self._sae.cfg, "rescale_acts_by_decoder_norm", False))

    @property
    def _decoder_norms(self) -> Tensor:
        if self._norms is None:
            step = self.latents_per_slice
            firsts = range(0, self.d_sae, step)
            self._norms = torch.cat([self.decoder(a, min(a + step, self.d_sae)).norm(dim=-1) for a in firsts])
        return self._norms


def shell_of(weights: SaeWeights, device: torch.device) -> object:
    """SAELens's own object for an SAE, with one latent: it normalises activations as the whole one does."""
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
    from sae_lens.registry import get_sae_class

    config = handle_config_defaulting(copy.deepcopy(weights.config))
    config = {**config, "d_sae": 1, "dtype": "float32", "device": str(device)}
    sae_class, config_class = get_sae_class(config["architecture"])
    if config["architecture"] == "topk":
        k, config["k"] = config["k"], 1
    sae = sae_class(config_class.from_dict(config))
    if config["architecture"] == "topk":
        sae.cfg.k = k
    sae.b_dec.data = weights.vectors["b_dec"].float().to(device)
    if getattr(sae, "hook_z_reshaping_mode", False):
        sae.turn_off_forward_pass_hook_z_reshaping()  # heads are flattened when they are captured
    return sae.eval()
