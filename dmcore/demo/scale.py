"""How large a build is: every number that the builder uses, in one place, for the full demo and for a tiny one in tests."""

from __future__ import annotations

from dataclasses import dataclass, field

CONTEXT_LENGTH = 256
"""Tokens in a context, the BOS at position 0 included."""
SKIP_POSITIONS = 16
"""First positions of a context that no SAE is trained or measured on; the study file says the same."""
SEED = 0
"""Seed of every random choice of the build."""


@dataclass(frozen=True)
class CorpusScale:
    """Which text is read."""

    stdlib_bytes: int
    """Most bytes of standard-library source used for training."""
    package_bytes: int
    """Most bytes used of one installed package."""
    total_package_bytes: int
    """Most bytes used of all installed packages together."""
    stdlib_epochs: int
    """How many times the standard library stands in the training stream (packages stand in it once)."""
    held_out_share: float
    """Share of standard-library files that is never trained on."""


@dataclass(frozen=True)
class ModelScale:
    """The language model and its training."""

    d_model: int
    """Width of the residual stream."""
    n_layers: int
    """Decoder layers."""
    n_heads: int
    """Attention heads."""
    d_mlp: int
    """Width of the gated MLP."""
    vocabulary: int
    """Tokens of the byte-level BPE, special tokens included."""
    tokens: int
    """Training tokens."""
    batch_contexts: int
    """Contexts in a batch."""
    learning_rate: float
    """Peak learning rate of AdamW."""
    checkpoint_steps: int
    """Steps between two checkpoints."""
    compile: bool
    """Whether to try torch.compile."""


@dataclass(frozen=True)
class SaeScale:
    """The SAEs and their training."""

    grid_widths: tuple[int, ...]
    """Widths (latents) of the TopK grid at the middle layer."""
    grid_l0s: tuple[int, ...]
    """Active latents a token of that grid."""
    site_widths: tuple[int, ...]
    """Widths at every other site."""
    site_l0: int
    """Active latents a token at every other site, and the target of the other architectures."""
    architecture_width: int
    """Width at which architectures are compared."""
    batch_tokens: int
    """Tokens in a training step."""
    min_tokens: int
    """Tokens before the learning rate may start to fall."""
    max_tokens: int
    """Tokens after which it falls in any case; the report says so."""
    block_contexts: int
    """Contexts in a block: the unit of shuffling, and of looks at the validation FVU."""
    plateau_window: int
    """Looks over which the FVU must improve for training to go on at a constant rate."""
    plateau_improvement: float
    """Relative improvement over that window below which the FVU counts as no longer falling."""
    decay_share: float
    """Length of the final decay to zero, as a share of the tokens trained before it."""


@dataclass(frozen=True)
class PartsScale:
    """The SAEs on the parts of an error."""

    width: int
    """Latents of each."""
    l0: int
    """Active latents a token."""
    seeds: tuple[int, ...]
    """One SAE of each part for each."""
    tokens: int
    """Training tokens of each."""
    contexts: int
    """Training contexts, drawn at random; gone through again where they hold fewer tokens."""


@dataclass(frozen=True)
class Scale:
    """A whole build."""

    name: str
    """`full` or `tiny`."""
    corpus: CorpusScale
    """Text."""
    model: ModelScale
    """Language model."""
    saes: SaeScale
    """SAEs."""
    parts: PartsScale
    """SAEs on the parts of an error."""
    n_contexts: int
    """Held-out contexts shipped with the study."""
    n_validation: int
    """Other held-out contexts, on which losses and FVUs of the report are measured."""
    contexts_per_file: int
    """Most contexts taken from one held-out file."""
    tokenizer_bytes: int = field(default=24_000_000)
    """Bytes of training text from which the tokenizer is learned."""


FULL = Scale(
    name="full",
    corpus=CorpusScale(
        stdlib_bytes=60_000_000,
        package_bytes=3_500_000,
        total_package_bytes=120_000_000,
        stdlib_epochs=2,
        held_out_share=0.15,
    ),
    model=ModelScale(
        d_model=128,
        n_layers=5,
        n_heads=4,
        d_mlp=384,
        vocabulary=4096,
        tokens=31_000_000,
        batch_contexts=16,
        learning_rate=3e-3,
        checkpoint_steps=200,
        compile=True,
    ),
    saes=SaeScale(
        grid_widths=(256, 512, 1024, 2048, 4096),
        grid_l0s=(4, 8, 16, 32),
        site_widths=(256, 1024, 4096),
        site_l0=16,
        architecture_width=1024,
        batch_tokens=2048,
        min_tokens=2_000_000,
        max_tokens=7_000_000,
        block_contexts=1024,
        plateau_window=4,
        plateau_improvement=0.01,
        decay_share=0.5,
    ),
    parts=PartsScale(width=1024, l0=16, seeds=(0, 1, 2), tokens=6_000_000, contexts=24_000),
    n_contexts=272,
    n_validation=256,
    contexts_per_file=16,
)

TINY = Scale(
    name="tiny",
    corpus=CorpusScale(
        stdlib_bytes=600_000,
        package_bytes=60_000,
        total_package_bytes=120_000,
        stdlib_epochs=1,
        held_out_share=0.03,
    ),
    model=ModelScale(
        d_model=32,
        n_layers=5,
        n_heads=2,
        d_mlp=64,
        vocabulary=512,
        tokens=160_000,
        batch_contexts=8,
        learning_rate=1e-2,
        checkpoint_steps=20,
        compile=False,
    ),
    saes=SaeScale(
        grid_widths=(32, 64),
        grid_l0s=(4, 8),
        site_widths=(32,),
        site_l0=4,
        architecture_width=64,
        batch_tokens=512,
        min_tokens=8_000,
        max_tokens=24_000,
        block_contexts=16,
        plateau_window=2,
        plateau_improvement=0.02,
        decay_share=0.25,
    ),
    parts=PartsScale(width=32, l0=4, seeds=(0, 1), tokens=6_000, contexts=24),
    n_contexts=12,
    n_validation=12,
    contexts_per_file=4,
    tokenizer_bytes=300_000,
)

SCALES = {scale.name: scale for scale in (FULL, TINY)}
"""The builds that `--scale` offers."""
