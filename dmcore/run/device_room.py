"""Whether an SAE has room on the GPU, said before the work begins."""

from __future__ import annotations

import torch

from dmcore.errors import DataError
from dmcore.math.device_memory import GIB, SaeMemory, resident_bytes, sae_memory
from dmcore.memory import available_memory
from dmcore.run.plan import Plan, SaePlan
from dmcore.sources.dictionary import Dictionary
from dmcore.sources.saes import MEMORY_VARIABLE, memory_for_saes, read_config
from dmcore.sources.sliced_dictionary import SLICEABLE, SlicedDictionary

LARGE = 2**26
"""Bytes of an SAE's matrices from which on it is worth a third of a second to look for what refers to itself in circles."""


def is_large(dictionary: Dictionary | SlicedDictionary | None) -> bool:
    """Whether an SAE that is let go of is worth a search for what of it would stay in memory."""
    return dictionary is not None and 8 * dictionary.d_in * dictionary.d_sae >= LARGE


def room_needed(plan: Plan, sae: SaePlan, d_model: int, device: torch.device) -> SaeMemory | None:
    """What the sweep of an SAE takes on a device, the way it would be read there; None where its width is not known yet."""
    config = read_config(plan.study, sae.sae)
    if config is None or not config.d_sae:
        return None
    settings, partition = plan.study.settings, plan.partition
    resident = resident_bytes(d_model, config.d_sae, device, settings.precision)
    sliced = config.architecture in SLICEABLE and resident > memory_for_saes(device)
    n_variants = 2 * (1 + len(settings.compare_skips)) if settings.compare_skips else 1
    return sae_memory(
        d_model,
        config.d_sae,
        device,
        precision=settings.precision,
        topk=config.architecture == "topk",
        sliced=sliced,
        n_cells=partition.n_cells,
        n_maps=n_variants * settings.n_folds,
        length=plan.contexts.length,
    )


def check_room(plan: Plan, sae: SaePlan, d_model: int, device: torch.device) -> None:
    """Raise a `DataError` if an SAE will not fit on a GPU; a CPU can swap, and is not asked."""
    if device.type == "cpu":
        return
    needed, free = room_needed(plan, sae, d_model, device), available_memory(device)
    if needed is not None and needed.total > free:
        raise DataError(
            f"The SAE {sae.sae.name} takes about {needed.words()} on {device}, where {free / GIB:.1f} GiB are free: end what "
            f"else uses it, set {MEMORY_VARIABLE} lower so that the SAE is read in slices, or take --device cpu."
        )
