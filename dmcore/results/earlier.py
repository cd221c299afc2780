"""Which SAEs of a study read the components that an activation is made of: the layer before, the layer's MLP and attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from dmcore.errors import SpecError
from dmcore.specs import parse_hook, sites_of, stack_of

ORDER = (
    "hook_resid_pre",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "cross_attn.hook_z",
    "hook_cross_attn_out",
    "hook_resid_mid_cross",
    "hook_mlp_out",
    "hook_resid_post",
)
"""The sites of a layer, as a model computes them."""
ROLES = {
    "previous": ("hook_resid_mid_cross", "hook_resid_mid", "hook_resid_pre"),
    "mlp": ("hook_mlp_out",),
    "attention": ("attn.hook_z", "hook_attn_out"),
}
"""Sites of each role, those looked at first first."""


def _place(hook: str) -> tuple[int, int]:
    """Layer and place in it; the residual stream before a layer is that after the layer before."""
    layer, site = parse_hook(hook)
    place = ORDER.index(site)
    return (layer - 1, len(ORDER) - 1) if place == 0 and layer > 0 else (layer, place)


def comes_before(hook: str, other: str) -> bool:
    """Whether a model computes `hook` before `other`, in the same stack."""
    return stack_of(hook) == stack_of(other) and _place(hook) < _place(other)


def role_of(hook: str) -> str:
    """`previous`, `mlp` or `attention`: what an earlier site is to a later one."""
    _, site = parse_hook(hook)
    return "mlp" if "mlp" in site else "attention" if "attn" in site else "previous"


def earlier_hooks(hook: str) -> dict[str, list[str]]:
    """For each role the hooks that may have it, the first choice first.

    `blocks.2.hook_resid_post` -> previous: `blocks.1.hook_resid_post`, `blocks.2.hook_resid_pre`; mlp and attention: those of
    layer 2.
    """
    stack = stack_of(hook)
    layer, place = _place(hook)
    before = [f"{stack}.{layer - 1}.hook_resid_post"] if layer > 0 else []
    last = place == len(ORDER) - 1
    within = ("hook_resid_pre",) if last else ROLES["previous"]
    residual = [f"{stack}.{layer}.{site}" for site in within if site in sites_of(stack)]
    found = {"previous": [*before, *residual] if last else [*residual, *before]}
    found |= {role: [f"{stack}.{layer}.{site}" for site in ROLES[role]] for role in ("mlp", "attention")}
    return {role: [one for one in hooks if comes_before(one, hook)] for role, hooks in found.items()}


def earlier_saes(records: pl.DataFrame, summary: str) -> tuple[dict[str, str], list[str]]:
    """The SAEs of the components that an SAE's activation is made of.

    Of a site's, the nearest width, then the nearest L0, both on a log scale, then the first.

    Args:
        records: rows of `RECORD` of a study.
        summary: key of the SAE's own.

    Returns:
        keys of summaries by role, and sentences about roles that have none.
    """
    own = records.filter(pl.col("summary_key") == summary).row(0, named=True)
    found, missing = {}, []
    for role, hooks in earlier_hooks(own["site"]).items():
        there = next((hook for hook in hooks if (records["site"] == hook).any()), None)
        if there is not None:
            found[role] = _nearest(records.filter(pl.col("site") == there), own)["summary_key"]
        elif hooks:
            missing.append(
                f"The study has no SAE with results at {' or '.join(hooks)}: add one and sweep it to compare."
            )
    if not found and not missing:
        missing.append(f"Nothing that an SAE could read comes before {own['site']}.")
    return found, missing


def _nearest(records: pl.DataFrame, own: Mapping[str, Any]) -> dict[str, Any]:
    width = (pl.col("d_sae").log() - math.log(own["d_sae"])).abs()
    l0 = (pl.col("l0").clip(0.01).log() - math.log(max(own["l0"], 0.01))).abs()
    return records.sort(width, l0, maintain_order=True).row(0, named=True)


def check_before(name: str, hook: str, whose: str, own_hook: str) -> None:
    """Raise a SpecError unless an SAE that was chosen reads a site before another's."""
    if not comes_before(hook, own_hook):
        raise SpecError(
            f"{name} reads {hook}, which does not come before {own_hook}, where {whose} is: choose an SAE of an earlier site."
        )
