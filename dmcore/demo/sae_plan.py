"""Which SAEs the demo has, and in which order they are trained."""

from __future__ import annotations

from dataclasses import dataclass

from dmcore.demo.scale import Scale

ARCHITECTURES = ("topk", "batchtopk", "gated", "jumprelu", "standard")
"""The architectures that can be trained here; `batchtopk` is stored as the JumpReLU that it becomes."""


@dataclass(frozen=True, order=True)
class SaeSpec:
    """One SAE to train."""

    hook: str
    """TransformerLens name of the activation that it reconstructs."""
    architecture: str
    """One of `ARCHITECTURES`."""
    width: int
    """Number of latents."""
    l0: int
    """Active latents a token: exact for TopK, a target for the others."""

    @property
    def name(self) -> str:
        """Its folder's name, e.g. `topk_1024_16`."""
        return f"{self.architecture}_{self.width}_{self.l0}"

    @property
    def path(self) -> str:
        """Its folder, relative to the artifacts."""
        return f"saes/{self.hook}/{self.name}"


def middle_layer(scale: Scale) -> int:
    """The layer with the full grid."""
    return scale.model.n_layers // 2


def sae_groups(scale: Scale) -> tuple[tuple[SaeSpec, ...], ...]:
    """Groups of SAEs that train side by side on one stream, the most important group first.

    1. The middle layer's residual stream: the TopK grid.
    2. The other architectures there; the residual streams of the other layers; MLP output and attention z of the middle.
    """
    saes, middle = scale.saes, middle_layer(scale)
    hook = f"blocks.{middle}.hook_resid_post"
    grid = [SaeSpec(hook, "topk", width, l0) for width in saes.grid_widths for l0 in saes.grid_l0s]
    others = [SaeSpec(hook, name, saes.architecture_width, saes.site_l0) for name in ARCHITECTURES if name != "topk"]
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(scale.model.n_layers) if layer != middle]
    hooks += [f"blocks.{middle}.hook_mlp_out", f"blocks.{middle}.attn.hook_z"]
    sites = [SaeSpec(site, "topk", width, saes.site_l0) for site in hooks for width in saes.site_widths]
    return tuple(grid), tuple(others + sites)
