"""How much memory an SAE takes while a sweep works on it, part by part: said before the work begins, and held to by tests.

weights    both matrices as they are kept where they work, or slices of them
moments    of the site and of the SAE's error in float64, for each cell of the partition; and rows that wait to be added
maps       one a fold and variant in float32, and what solving for one takes
tokens     activations, errors, parts and targets of the tokens that are worked on together
blocks     pre-activations of a block of latents, the weights of a block, and what passes the screen
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CPU_COPIES = 1.75
"""Memory of an SAE in use on a CPU, as a multiple of its matrices: the screen keeps W_enc a second time, and in bfloat16."""
SPARE_COLUMNS = 64
"""Most columns that a screen has beside the weights, `dmcore.math.halved_encoders`."""
CHUNK_TOKENS, GPU_TOKENS, SLICED_TOKENS_BYTES = 4096, 8192, 2**28
"""Tokens that are worked on together: on a CPU, on a GPU; and their bytes where the SAE is read in slices."""
ROWS_BYTES = 2**28
"""Of rows that wait for a product, `dmcore.math.moments`."""
SLICE_BYTES = 2**27
"""Of a slice of one matrix, `dmcore.sources.sliced_dictionary`."""
TOKEN_ARRAYS = 12
"""Arrays of tokens x d_in in float32 that are there at once."""
SOLVED = 6
"""Arrays of d_in x d_in in float64 that are there while a map is solved, or a product is added."""
CPU_BLOCK, GPU_BLOCK, GPU_UPPER = 1024 * 512, 8192 * 8192, 2**29
"""Elements of a block of pre-activations; of TopK's bounds."""
SLAB = 65_536
"""Latents whose pre-activations TopK holds at once on a CPU."""
PASSED, PASSED_BYTES = 512, 48
"""Latents of a token that pass the screen, unless the SAE is not sparse, and bytes that one takes until it is decided."""
GIB = 2**30


@dataclass(frozen=True)
class SaeMemory:
    """Bytes on the device."""

    weights: int
    moments: int
    maps: int
    tokens: int
    blocks: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(astuple(self))

    def words(self) -> str:
        """`37.5 GiB: 30.1 for weights, ...`, what is above 0.1 GiB."""
        parts = {"weights": self.weights, "moments": self.moments, "maps": self.maps, "tokens": self.tokens}
        parts["blocks of latents"] = self.blocks
        named = [f"{size / GIB:.1f} for {name}" for name, size in parts.items() if size >= GIB / 10]
        return f"{self.total / GIB:.1f} GiB" + (f" ({', '.join(named)})" if named else "")


def resident_bytes(d_in: int, d_sae: int, device: torch.device, precision: str = "float32") -> int:
    """Bytes of an SAE's matrices in use on a device, where they are there as a whole."""
    if device.type == "cpu":
        return int((CPU_COPIES if precision == "float32" else 1.0) * 2 * 4 * d_in * d_sae)
    encoder = 2 * d_sae * d_in if precision == "bfloat16" else d_sae * (4 * d_in + 2 * SPARE_COLUMNS)
    return encoder + 4 * d_in * d_sae


def sae_memory(
    d_in: int,
    d_sae: int,
    device: torch.device,
    *,
    precision: str = "float32",
    topk: bool = False,
    sliced: bool = False,
    n_cells: int = 15,
    n_maps: int = 30,
    length: int = 1024,
) -> SaeMemory:
    """What a sweep takes for one SAE.

    Args:
        d_in, d_sae: its shape.
        device: where it works.
        precision: of the encoder's product.
        topk: whether it is a TopK SAE.
        sliced: whether it is read in slices of latents.
        n_cells: folds times ranges of positions.
        n_maps: folds times variants of the split.
        length: tokens of a context.
    """
    squares = (d_in + 1) * (d_in + 2)
    together = CHUNK_TOKENS if device.type == "cpu" else GPU_TOKENS
    n_tokens = max(together, length)
    weights = resident_bytes(d_in, d_sae, device, precision)
    if sliced:
        weights, n_tokens = 5 * SLICE_BYTES, max(n_tokens, SLICED_TOKENS_BYTES // (4 * d_in))
    return SaeMemory(
        weights=weights,
        moments=2 * 8 * n_cells * squares + 2 * ROWS_BYTES,
        maps=(4 * n_maps + 8 * SOLVED) * squares,
        tokens=4 * TOKEN_ARRAYS * n_tokens * d_in,
        blocks=_block_bytes(d_in, d_sae, device, n_tokens, topk=topk, sliced=sliced),
    )


def _block_bytes(d_in: int, d_sae: int, device: torch.device, n_tokens: int, *, topk: bool, sliced: bool) -> int:
    passed = n_tokens * min(PASSED, d_sae) * PASSED_BYTES
    if device.type == "cpu":
        return passed + (4 * min(2**24, n_tokens * min(d_sae, SLAB)) if topk else 6 * CPU_BLOCK)
    products = min(GPU_BLOCK, n_tokens * d_sae)
    bounds = min(GPU_UPPER, n_tokens * d_sae) if topk and not sliced else products
    rows = 24 * min(8192, d_sae) * d_in  # put together as integers and float32, once in float64
    return passed + 3 * bounds + 4 * products + rows
