"""The dark-matter explorer: what sparse autoencoders miss, taken apart.

`dmcore.decompose(acts, recon, groups=contexts)` splits an error that is in memory; `dmcore.sweep(study)` computes a study,
and `python -m dmcore --help` lists what else can be done. Heavy libraries load when a name that needs them is first used, so
that pages, which only read results, never import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmcore.errors import DarkMatterError
    from dmcore.estimate import Estimate
    from dmcore.math.decompose import LinearMap, Split, decompose
    from dmcore.math.power_law import fit_power_law
    from dmcore.math.streaming_ridge import StreamingRidge
    from dmcore.run.notebook import inspect, scaling, sweep
    from dmcore.sources.custom_saes import CustomSae

__version__ = "0.1.0"

_HOMES = {
    "CustomSae": "dmcore.sources.custom_saes",
    "DarkMatterError": "dmcore.errors",
    "Estimate": "dmcore.estimate",
    "LinearMap": "dmcore.math.decompose",
    "Split": "dmcore.math.decompose",
    "StreamingRidge": "dmcore.math.streaming_ridge",
    "decompose": "dmcore.math.decompose",
    "fit_power_law": "dmcore.math.power_law",
    "inspect": "dmcore.run.notebook",
    "scaling": "dmcore.run.notebook",
    "sweep": "dmcore.run.notebook",
}

__all__ = [
    "CustomSae",
    "DarkMatterError",
    "Estimate",
    "LinearMap",
    "Split",
    "StreamingRidge",
    "decompose",
    "fit_power_law",
    "inspect",
    "scaling",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dmcore' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
