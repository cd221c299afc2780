"""Why an SAE has no result, in one sentence: what stops one SAE stops no other."""

from __future__ import annotations

import logging

import torch

from dmcore.errors import Cancelled, DarkMatterError
from dmcore.memory import is_out_of_memory
from dmcore.run.plan import SaePlan
from dmcore.sources.saes import MEMORY_VARIABLE

log = logging.getLogger(__name__)


def why_failed(sae: SaePlan, error: Exception, device: torch.device) -> str:
    """What to say of an SAE whose work an error has ended; it is logged, with its place in the code where nobody thought of it.

    Raises:
        Cancelled: the error is one: the user has asked to stop.
        OSError: the error is one: it is of the disk or the network, not of this SAE (but what an object of Python does not find).
        torch.AcceleratorError: the error is one: nothing works on this GPU in this process any more.
    """
    own = bool(sae.sae.custom) and isinstance(error, FileNotFoundError | PermissionError)
    if isinstance(error, Cancelled) or (isinstance(error, OSError) and not own):
        raise error
    if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
        raise error
    if isinstance(error, DarkMatterError):
        said = str(error)
    elif is_out_of_memory(error):
        said = too_little(sae, device)
    else:
        first = (str(error).strip().splitlines() or ["no message"])[0][:200].rstrip(". ")
        whose = "The object" if sae.sae.custom else "The work on the SAE"
        said = f"{whose} {sae.sae.name} failed ({type(error).__name__}: {first}): see the log for the place; the others go on."
        log.error("%s", said, exc_info=error)
        return said
    log.error("%s: %s", sae.sae.name, said)
    return said


def too_little(sae: SaePlan, device: torch.device) -> str:
    """What to say when memory ran out though work was halved down to single tokens, or where nothing could be halved."""
    return (
        f"The memory of {device} ran out on {sae.sae.name}, in smaller blocks too: end what else uses it, set "
        f"{MEMORY_VARIABLE} to a few GiB so that the SAE is read in slices, or take --device cpu. Finished work is kept."
    )
