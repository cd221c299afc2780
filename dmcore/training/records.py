"""What training leaves beside an SAE's weights: `train.json`, with the settings that made it and its curve.

{"key": "...",                  of the settings: an SAE whose key is the one asked for is not trained again
 "settings": {...},             what determines the SAE: texts, model, target, tokens, seed, engine
 "fvu", "l0", "dead_share":     of the stored SAE on the held-out contexts; the dead share on the last training tokens
 "tokens", "seconds", ...
 "curve": [{"tokens", "fvu", "l0", "dead_share"}, ...]}
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dmcore.errors import SpecError
from dmcore.specs import SaeSpec
from dmcore.store.fingerprint import content_key

LOG = "train.json"
FILES = (LOG, "cfg.json", "sae_weights.safetensors")
_NUMBERS_AT_ONCE = 2**26


@dataclass(frozen=True)
class TrainedSae:
    """An SAE that training has made, now or before."""

    sae: SaeSpec
    """As the study names it."""
    folder: Path
    """SAELens folder, with `train.json` beside the weights."""
    fvu: float
    """Fraction of variance unexplained on held-out contexts, pooled, about the mean; of the SAE as stored."""
    l0: float
    """Mean active latents a token, there."""
    dead_share: float
    """Share of latents that fired on none of the last training tokens (`dead_window` in `train.json`)."""
    tokens: int
    """Training tokens."""
    seconds: float
    """Time spent in its steps."""
    trained: bool
    """Whether it was trained by this call; false where it was there already."""

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "sae": self.sae.name,
            "site": self.sae.hook,
            "architecture": self.sae.label,
            "fvu": self.fvu,
            "l0": self.l0,
            "dead_share": self.dead_share,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "trained": self.trained,
            "folder": str(self.folder),
        }


def read_trained(sae: SaeSpec, folder: Path, *, trained: bool) -> TrainedSae:
    """A finished SAE from its folder."""
    log = json.loads((folder / LOG).read_text(encoding="utf-8"))
    numbers = (log[name] for name in ("fvu", "l0", "dead_share", "tokens", "seconds"))
    return TrainedSae(sae, folder, *numbers, trained=trained)


def what_is_there(folder: Path, settings: dict[str, Any]) -> tuple[bool, str]:
    """Whether a folder holds the SAE that these settings make; if not, which settings made what it holds.

    Raises:
        SpecError: it holds something that training did not make, which must not be overwritten.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return False, ""
    try:
        log = json.loads((folder / LOG).read_text(encoding="utf-8"))
        key, before = str(log["key"]), dict(log["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(
            f"{folder} holds files that train-saes did not make: move them, or give [train] another folder."
        ) from error
    if key == content_key(settings) and all((folder / name).is_file() for name in FILES):
        return True, ""
    names = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
    hashes = ("model", "texts", "base", "linear map")  # that they differ is all that a reader can know of them
    changed = [
        f"another {name}" if name in hashes else f"{name} was {before.get(name)}, is {settings.get(name)}"
        for name in names
    ]
    return False, "; ".join(changed) or "a file is missing"


def set_aside(folder: Path) -> Path | None:
    """Move an SAE that other settings made out of the way of one that takes its place; where to, or None if there is none."""
    try:
        key = str(json.loads((folder / LOG).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    aside = folder.with_name(f"{folder.name}.{key[:8]}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.replace(aside)
    return aside


@torch.inference_mode()
def measure(folder: Path, acts: Float[Tensor, "n_tokens d_in"], device: str) -> tuple[float, float]:
    """FVU (pooled, about the mean) and mean L0 of a stored SAE, in float32, sums in float64."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder, device=device)
    sae.turn_off_forward_pass_hook_z_reshaping()  # heads are flattened when they are read
    parts = acts.split(max(1, _NUMBERS_AT_ONCE // sae.cfg.d_sae))
    double = torch.float32 if torch.device(device).type == "mps" else torch.float64
    mean = (sum(part.to(device, double).sum(0) for part in parts) / len(acts)).float()
    error, total, active = 0.0, 0.0, 0.0
    for part in parts:
        x = part.to(device).float()
        codes = sae.encode(x)
        error += float((x - sae.decode(codes)).to(double).square().sum())
        total += float((x - mean).to(double).square().sum())
        active += float((codes != 0).sum())
    return error / total, active / len(acts)
