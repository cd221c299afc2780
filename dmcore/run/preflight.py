"""Before a night's work: the model reads a few contexts, and SAEs that do not belong to its activations are named.

1. Run the model on the first contexts, at every site that is not captured yet.
2. Try SAEs there: all of them where they are small together, else the first of each site. (Each is tried once more on the
   same contexts before it is encoded; that is when the others are found out.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dmcore.analysis.activations import Activations, Chunk
from dmcore.analysis.sanity import CONTEXTS_CHECKED, check_belongs
from dmcore.errors import DarkMatterError
from dmcore.progress import Reporter
from dmcore.run.failures import why_failed
from dmcore.run.plan import Plan, SaePlan
from dmcore.sources.custom_saes import CustomSae
from dmcore.sources.models import LanguageModel
from dmcore.sources.saes import load_dictionary, read_config

SMALL = 2**31
"""Bytes of float32 matrices up to which all SAEs are tried before the capture."""


def preflight(
    plan: Plan, wanted: Sequence[SaePlan], model: LanguageModel, custom: Mapping[str, CustomSae], reporter: Reporter
) -> dict[str, str]:
    """The SAEs that do not belong, by name, with the reason.

    Raises:
        SpecError: the model has no such hook.
    """
    hooks = list(dict.fromkeys(p.sae.hook for p in wanted))
    model.check_hooks(hooks)
    tried = [p for p in _tried(plan, wanted) if p.sae.check]
    if not tried:
        return {}
    tokens = torch.from_numpy(plan.contexts.tokens[:CONTEXTS_CHECKED].astype("int64"))
    failures: dict[str, str] = {}
    with reporter.stage("try the SAEs on a few contexts", len(tried), "SAEs") as stage:
        acts = model.run(tokens, list(dict.fromkeys(p.sae.hook for p in tried)), with_loss=False).acts
        for p in tried:
            reason = _reason(plan, p, acts[p.sae.hook], custom)
            if reason:
                failures[p.sae.name] = reason
            stage.advance()
    return failures


def first_contexts(acts: Activations, device: torch.device) -> Tensor:
    """(n_contexts, length, d_model) the captured activations on which an SAE is tried."""
    n = min(CONTEXTS_CHECKED, acts.n_contexts)
    return acts.read(Chunk(0, n, acts.length), device).reshape(n, acts.length, acts.d_model)


def _reason(plan: Plan, p: SaePlan, acts: Tensor, custom: Mapping[str, CustomSae]) -> str:
    try:
        sae = load_dictionary(plan.study, p.sae, acts.shape[2], acts.device, custom)
        check_belongs(p.sae.name, p.sae.hook, acts, plan.study.settings.skip_positions, sae)
    except DarkMatterError as error:
        return str(error)
    except Exception as error:  # what nobody thought of, such as an object of Python that fails
        return why_failed(p, error, acts.device)
    return ""


def _tried(plan: Plan, wanted: Sequence[SaePlan]) -> list[SaePlan]:
    sizes = []
    for p in wanted:
        config = read_config(plan.study, p.sae)
        sizes.append(8 * config.d_in * config.d_sae if config and config.d_in and config.d_sae else SMALL)
    if sum(sizes) <= SMALL:
        return list(wanted)
    first = {p.sae.hook: p for p in reversed(wanted)}
    return [p for p in wanted if first[p.sae.hook] is p]
