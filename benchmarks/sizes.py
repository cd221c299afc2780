"""What `benchmarks/all.py` measures on a GPU, on a CPU in some minutes, and as a quick trial."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The shapes of one run."""

    d_model: int
    l0: int
    passes: tuple[tuple[int, int], ...]
    """(latents, tokens) of each pass."""
    precisions: tuple[str, ...]
    """In which each pass is made."""
    growth: tuple[int, ...]
    """Tokens of the passes that show growth with tokens, at the first width."""
    sweep: tuple[tuple[int, ...], int, int]
    """Widths, sparsities of each and tokens: the SAEs of one site, 60 in all."""
    pursuit: tuple[int, int, int, int]
    """d_model, latents, L0, tokens."""
    repeats: int


GPU = Sizes(
    d_model=3584,
    l0=60,
    passes=((16_384, 246_900), (131_072, 246_900), (1_048_576, 32_768)),
    precisions=("float32", "bfloat16"),
    growth=(30_000, 60_000, 120_000, 240_000),
    sweep=((16_384, 32_768, 65_536, 131_072, 262_144, 524_288), 10, 16_384),
    pursuit=(2304, 16_384, 60, 2048),
    repeats=3,
)
"""The shapes of Gemma 2 9B with Gemma Scope. A minute and a half of an H200 by the count of operations; not measured."""

GPU_FULL = Sizes(
    d_model=3584,
    l0=60,
    passes=GPU.passes,
    precisions=("float32", "tf32", "bfloat16"),
    growth=GPU.growth,
    sweep=(GPU.sweep[0], 10, 246_900),
    pursuit=GPU.pursuit,
    repeats=5,
)
"""The same with all tokens in the sweep."""

CPU = Sizes(
    d_model=768,
    l0=60,
    passes=((16_384, 8192), (131_072, 2048), (1_048_576, 512)),
    precisions=("float32",),
    growth=(2048, 4096, 8192, 16_384),
    sweep=((1024, 2048, 4096, 8192, 16_384, 32_768), 10, 2048),
    pursuit=(768, 16_384, 40, 256),
    repeats=3,
)
"""The widths of the GPU's passes at the d_model of GPT-2 small, with fewer tokens: some ten minutes of one core in all."""

TRIAL = Sizes(
    d_model=32,
    l0=8,
    passes=((512, 256), (1024, 256)),
    precisions=("float32", "bfloat16"),
    growth=(128, 256),
    sweep=((64, 128), 2, 128),
    pursuit=(32, 256, 4, 64),
    repeats=1,
)
"""For a test that the benchmark itself works."""

LENGTH = 64
"""Tokens of a context, for trials; others have 1,024."""
