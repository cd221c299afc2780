"""Sparse autoencoders, through SAELens: every architecture behind one `Dictionary` that makes and reads sparse codes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.errors import SpecError
from dmcore.math.screened import threshold_encoder
from dmcore.math.sparse_codes import (
    DenseEncoder,
    Encoder,
    GatedEncoder,
    SparseCodes,
    TopKEncoder,
    decode,
)
from dmcore.specs import SaeSpec, Study
from dmcore.store.fingerprint import content_key, files_fingerprint

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"


@dataclass(frozen=True)
class SaeConfig:
    """What is known of an SAE before its weights are read."""

    architecture: str
    d_in: int
    d_sae: int


def sae_fingerprint(study: Study, sae: SaeSpec, memory: Path | None = None) -> str:
    """Hash of an SAE's configuration and weights, or of its release and id."""
    if sae.release:
        return content_key({"release": sae.release, "id": sae.id})
    return files_fingerprint(study.resolve(sae.path), [CONFIG, WEIGHTS], memory)


def read_config(study: Study, sae: SaeSpec) -> SaeConfig | None:
    """Architecture and shape from `cfg.json`; None for an SAE of a release, which is known once loaded.

    Raises:
        SpecError: the folder or a key is missing, or the SAE was trained at another hook.
    """
    if sae.release:
        return None
    path = study.resolve(sae.path) / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        found = SaeConfig(str(config.get("architecture", "standard")), int(config["d_in"]), int(config["d_sae"]))
    except OSError as error:
        raise SpecError(
            f"There is no SAE at {path.parent} ({error.strerror}): check the path; a SAELens folder holds cfg.json."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{path} is not a SAELens configuration (d_in and d_sae are needed): {error}.") from error
    trained_at = (config.get("metadata") or {}).get("hook_name") or config.get("hook_name")
    if trained_at and trained_at != sae.hook:
        raise SpecError(
            f"The SAE {sae.name} was trained at {trained_at}, but the study reads it at {sae.hook}: mend its hook."
        )
    return found


class Dictionary:
    """An SAE as this project uses it: activations to sparse codes, and back.

    Args:
        sae: a SAELens SAE, or any object with `encode(x)` and `decode(acts)` (dense) and `cfg.d_in`, `cfg.d_sae`.
    """

    def __init__(self, sae: Any) -> None:
        cfg = sae.cfg
        self.d_in, self.d_sae = int(cfg.d_in), int(cfg.d_sae)
        self.architecture = str(cfg.architecture()) if callable(getattr(cfg, "architecture", None)) else "custom"
        self.dtype: torch.dtype = getattr(sae, "dtype", torch.float32)
        self._sae = sae
        self._encoder = _block_encoder(sae)
        self._sparse_decode = hasattr(sae, "W_dec") and self._encoder is not None

    @torch.inference_mode()
    def encode(self, x: Float[Tensor, "n_tokens d_in"]) -> SparseCodes:
        """The sparse codes of some tokens."""
        x = x.to(self.dtype)
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
        if sae.cfg.normalize_activations != "none":
            sae.run_time_activation_norm_fn_in(x.to(self.dtype))  # keeps each token's scale for the way back
            recon = sae.run_time_activation_norm_fn_out(recon)
        return recon


def _block_encoder(sae: Any) -> Encoder | None:
    """The blocked encoder that equals this SAE's own, or None where encoding is not per latent."""
    kind = type(sae).__name__
    if kind == "StandardSAE":
        return threshold_encoder(sae.W_enc.data, sae.b_enc.data, torch.zeros_like(sae.b_enc.data))
    if kind == "JumpReLUSAE":
        return threshold_encoder(sae.W_enc.data, sae.b_enc.data, sae.threshold.data)
    if kind == "GatedSAE":
        return GatedEncoder(sae.W_enc.data, sae.b_gate.data, sae.r_mag.data, sae.b_mag.data)
    if kind == "TopKSAE":
        scale = sae.W_dec.data.norm(dim=-1) if sae.cfg.rescale_acts_by_decoder_norm else None
        return TopKEncoder(sae.W_enc.data, sae.b_enc.data, int(sae.cfg.k), scale)
    return None


def _to_dense(codes: SparseCodes, d_sae: int, dtype: torch.dtype) -> Tensor:
    n_tokens = codes.offsets.numel() - 1
    tokens = torch.repeat_interleave(torch.arange(n_tokens, device=codes.values.device), codes.l0)
    dense = torch.zeros(n_tokens, d_sae, dtype=dtype, device=codes.values.device)
    dense[tokens, codes.latents.long()] = codes.values.to(dtype)
    return dense


def load_dictionary(study: Study, sae: SaeSpec, d_model: int, device: torch.device | str) -> Dictionary:
    """Load an SAE of a study.

    Raises:
        SpecError: it cannot be loaded, its d_in is not the site's, or it is a transcoder (whose output is another site).
    """
    from sae_lens import SAE

    try:
        if sae.release:
            loaded = SAE.from_pretrained(sae.release, sae.id, device=str(device))
        else:
            loaded = SAE.load_from_disk(study.resolve(sae.path), device=str(device))
    except Exception as error:  # SAELens raises many kinds; each means that this SAE cannot be read
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise SpecError(
            f"Cannot load the SAE {sae.name} ({reason}): check its folder or id, or copy it again."
        ) from error
    if "transcoder" in type(loaded).__name__.lower():
        raise SpecError(f"{sae.name} is a transcoder: it predicts another site, so it has no error to split here.")
    if loaded.cfg.d_in != d_model:
        raise SpecError(
            f"The SAE {sae.name} reads {loaded.cfg.d_in} dimensions, but {sae.hook} has {d_model}: "
            "give an SAE of this site and model."
        )
    if getattr(loaded, "hook_z_reshaping_mode", False):
        loaded.turn_off_forward_pass_hook_z_reshaping()  # heads are flattened when they are captured
    return Dictionary(loaded.eval())
