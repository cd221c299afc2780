"""Which SAEs the demo has, and in which order they are trained."""

from __future__ import annotations

from dmcore.demo.scale import Scale
from dmcore.training.target import SaeTarget

ARCHITECTURES = ("topk", "batchtopk", "gated", "jumprelu", "standard")
"""The architectures that the demo compares; `batchtopk` is stored as the JumpReLU that it becomes."""


def middle_layer(scale: Scale) -> int:
    """The layer with the full grid."""
    return scale.model.n_layers // 2


def sae_groups(scale: Scale) -> tuple[tuple[SaeTarget, ...], ...]:
    """Groups of SAEs that train side by side on one stream, the most important group first.

    1. The middle layer's residual stream: the TopK grid.
    2. The other architectures there; the residual streams of the other layers; MLP output and attention z of the middle.
    """
    saes, middle = scale.saes, middle_layer(scale)
    hook = f"blocks.{middle}.hook_resid_post"
    grid = [SaeTarget(hook, "topk", width, l0) for width in saes.grid_widths for l0 in saes.grid_l0s]
    others = [SaeTarget(hook, name, saes.architecture_width, saes.site_l0) for name in ARCHITECTURES if name != "topk"]
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(scale.model.n_layers) if layer != middle]
    hooks += [f"blocks.{middle}.hook_mlp_out", f"blocks.{middle}.attn.hook_z"]
    sites = [SaeTarget(site, "topk", width, saes.site_l0) for site in hooks for width in saes.site_widths]
    return tuple(grid), tuple(others + sites)
