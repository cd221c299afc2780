"""SAEs that exist as Python objects: anything with `encode` and `decode`, under a name that a study can give."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dmcore.errors import SpecError
from dmcore.store.fingerprint import content_key


@dataclass(frozen=True)
class CustomSae:
    """An SAE of one's own."""

    sae: Any
    """`encode(x)`: (n_tokens, d_in) activations to (n_tokens, d_sae) latents; `decode(latents)`: back."""
    version: str = ""
    """What tells it from others of its name. Empty: a hash of its tensors."""
    d_in: int = 0
    """Dimensions of the activation; 0 if the object says it (`sae.cfg.d_in` or `sae.d_in`)."""

    def fingerprint(self) -> str:
        """A key that changes with the SAE.

        Raises:
            SpecError: it has no version and no tensors.
        """
        if self.version:
            return content_key({"custom": type(self.sae).__qualname__, "version": self.version})
        tensors = _tensors_of(self.sae)
        if not tensors:
            raise SpecError("A custom SAE without tensors of its own needs a version: CustomSae(sae, version='...').")
        digest = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            array = tensor.detach().float().cpu().contiguous().numpy()
            digest.update(f"{name} {array.shape}".encode())
            digest.update(array.tobytes())
        return content_key({"custom": type(self.sae).__qualname__, "tensors": digest.hexdigest()})


def custom_sae(custom: Mapping[str, CustomSae], name: str) -> CustomSae:
    """The object of a name.

    Raises:
        SpecError: none was given, or it has no `encode` and `decode`.
    """
    if name not in custom:
        raise SpecError(
            f"The study names a custom SAE {name!r}, which only Python can give: "
            f"call dmcore.sweep(study, saes={{{name!r}: dmcore.CustomSae(sae)}})."
        )
    found = custom[name]
    lacking = [method for method in ("encode", "decode") if not callable(getattr(found.sae, method, None))]
    if lacking:
        raise SpecError(f"The custom SAE {name!r} has no method {lacking[0]}: give an object with encode and decode.")
    return found


def _tensors_of(sae: Any) -> dict[str, torch.Tensor]:
    if isinstance(sae, torch.nn.Module):
        return dict(sae.state_dict())
    held = vars(sae) if hasattr(sae, "__dict__") else {}
    arrays = {name: torch.from_numpy(value) for name, value in held.items() if isinstance(value, np.ndarray)}
    return arrays | {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}
