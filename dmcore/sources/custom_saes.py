"""SAEs that exist as Python objects: anything with `encode` and `decode`, under a name that a study can give."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType
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
    """What tells it from others of its name. Empty: a hash of its tensors, its settings (numbers, texts), and the code of
    `encode` and `decode`; of what these call, nothing."""
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
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(raw.tobytes())
        about = {"settings": _settings(self.sae), "code": [_code(self.sae, name) for name in ("encode", "decode")]}
        if isinstance(self.sae, torch.nn.Module):
            about["modules"] = repr(self.sae)
        return content_key({"custom": type(self.sae).__qualname__, "tensors": digest.hexdigest(), **about})


def custom_sae(custom: Mapping[str, CustomSae], name: str) -> CustomSae:
    """The object of a name.

    Raises:
        SpecError: none was given, or not as a `CustomSae`, or it has no `encode` and `decode`.
    """
    if name not in custom:
        raise SpecError(
            f"The study names a custom SAE {name!r}, which only Python can give: "
            f"call dmcore.sweep(study, saes={{{name!r}: dmcore.CustomSae(sae)}})."
        )
    found = custom[name]
    if not isinstance(found, CustomSae):
        raise SpecError(f"The custom SAE {name!r} is given as it is: give dmcore.CustomSae(sae) around it.")
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


def _settings(sae: Any) -> dict[str, Any]:
    """Plain attributes of an object and of its `cfg`, such as the k of a TopK; not where or in which mode it is."""
    held = vars(sae) if hasattr(sae, "__dict__") else {}
    cfg = getattr(sae, "cfg", None)
    cfg = cfg if isinstance(cfg, dict) else getattr(cfg, "__dict__", {})
    named = [*held.items(), *((f"cfg.{name}", value) for name, value in cfg.items())]
    plain = {name: value for name, value in named if isinstance(value, bool | int | float | str)}
    return {name: value for name, value in plain.items() if name not in {"training", "device", "cfg.device"}}


def _code(sae: Any, method: str) -> Any:
    """The bytecode of a method: in a notebook it is changed while name and tensors stay."""
    found = inspect.unwrap(getattr(sae, method, None) or (lambda: None))
    return _plain_code(getattr(getattr(found, "__func__", found), "__code__", None))


def _plain_code(code: Any) -> Any:
    if isinstance(code, CodeType):
        return [code.co_code.hex(), list(code.co_names), [_plain_code(constant) for constant in code.co_consts]]
    return sorted(map(repr, code)) if isinstance(code, frozenset) else repr(code)
