"""One SAE over the stored activations: sparse codes, and the moments of its error; the error itself is never kept.

1. Read a chunk of activations; encode it (or read its codes, if they are in the store).
2. Decode the codes; the error is `x - Sae(x)`.
3. Add `[e, |e|^2]` against `[x, 1]` to the moments of the chunk's cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmcore.analysis.activations import Activations, Chunk
from dmcore.analysis.ahead import Leaving, read_groups
from dmcore.analysis.codes import Codes, CodesWriter
from dmcore.analysis.partition import Partition
from dmcore.errors import DataError
from dmcore.math.moments import InputMoments, MomentAccumulator, TargetMoments, error_targets, product_dtype
from dmcore.math.sparse_codes import SparseCodes, join_codes
from dmcore.progress import Reporter

CPU = torch.device("cpu")
LATE = frozenset({"cuda"})
"""Devices whose codes are written one chunk later, so that the host does not wait for them."""
MOMENTS = "moments.safetensors"
SHIFT_CONTEXTS = 16
"""Contexts whose mean is the shift about which the moments are taken."""


class Autoencoder(Protocol):
    """What is needed of an SAE here; `dmcore.sources.saes.Dictionary` is one."""

    d_sae: int
    tokens_at_once: int
    """Tokens that are best encoded together."""

    def encode(self, x: Tensor) -> SparseCodes:
        """Sparse codes of (n_tokens, d_model) activations."""
        ...

    def decode(self, codes: SparseCodes, x: Tensor) -> Tensor:
        """(n_tokens, d_model) reconstruction."""
        ...


@dataclass(frozen=True)
class ErrorChunk:
    """Some tokens with what an SAE makes of them."""

    chunk: Chunk
    x: Tensor
    """(n_tokens, d_model) activations."""
    error: Tensor
    """(n_tokens, d_model) `x - Sae(x)`."""
    codes: SparseCodes


def site_moments(
    acts: Activations, partition: Partition, device: torch.device, reporter: Reporter, name: str
) -> InputMoments:
    """The Gram matrices of a site, about the mean of its first contexts."""
    head = acts.read(Chunk(0, min(SHIFT_CONTEXTS, acts.n_contexts), acts.length), device)
    inputs = InputMoments(partition.n_cells, head.to(product_dtype(device)).mean(0))
    accumulator = MomentAccumulator(inputs, None, inputs.shift)
    with reporter.stage(f"moments of {name}", acts.n_tokens, "tokens") as stage:
        for (chunk,), x in read_groups(acts, [[chunk] for chunk in acts.chunks()], device):
            accumulator.add(x, None, partition.cells(chunk, CPU))
            stage.advance(chunk.n_contexts * chunk.length)
        accumulator.finish()
    return inputs


def save_inputs(inputs: InputMoments, folder: Path) -> None:
    """Write the Gram matrices and their shift."""
    save_file({"gram": inputs.gram.cpu(), "shift": inputs.shift.cpu()}, folder / MOMENTS)


def load_inputs(folder: Path, device: torch.device) -> InputMoments:
    """Read what `save_inputs` wrote."""
    tensors = load_file(folder / MOMENTS, device=str(device))
    inputs = InputMoments(tensors["gram"].shape[0], tensors["shift"])
    inputs.gram = tensors["gram"]
    return inputs


def save_targets(targets: TargetMoments, folder: Path) -> None:
    """Write the cross moments."""
    save_file({"cross": targets.cross.cpu(), "target_sq": targets.target_sq.cpu()}, folder / MOMENTS)


def load_targets(folder: Path, device: torch.device) -> TargetMoments:
    """Read what `save_targets` wrote."""
    tensors = load_file(folder / MOMENTS, device=str(device))
    n_cells, d_in_1, d_target = tensors["cross"].shape
    targets = TargetMoments(n_cells, d_in_1 - 1, d_target, device)
    targets.cross, targets.target_sq = tensors["cross"], tensors["target_sq"]
    return targets


@torch.inference_mode()
def encoded(acts: Activations, sae: Autoencoder, folder: Path, device: torch.device) -> Iterator[ErrorChunk]:
    """Encode every chunk in order and write its codes into `folder`.

    On a GPU the codes of a chunk are written when the caller has asked for the next one, and the GPU works on it.
    """
    writer = CodesWriter(folder, sae.d_sae)
    leaving: list[Leaving] = []
    for chunks, x in read_groups(acts, list(groups_of(acts.chunks(), sae.tokens_at_once)), device):
        codes = sae.encode(x)
        for part in error_chunks(chunks, x, codes, sae):
            leaving.append(Leaving.start(part.codes, part.chunk))
            yield part
            if len(leaving) > 1 or device.type not in LATE:
                _write(writer, leaving.pop(0))
    for one in leaving:
        _write(writer, one)
    writer.close()


def _write(writer: CodesWriter, one: Leaving) -> None:
    writer.append(one.wait().codes, one.chunk)


@torch.inference_mode()
def decoded(acts: Activations, sae: Autoencoder, folder: Path, device: torch.device) -> Iterator[ErrorChunk]:
    """Every chunk in order, its codes read from `folder`."""
    stored = Codes(folder)
    for chunks, x in read_groups(acts, list(groups_of(acts.chunks(), sae.tokens_at_once)), device):
        yield from error_chunks(chunks, x, join_codes([stored.read(chunk, device) for chunk in chunks]), sae)


def groups_of(chunks: Iterable[Chunk], tokens: int) -> Iterator[list[Chunk]]:
    """Consecutive chunks, together until they have `tokens` tokens."""
    group: list[Chunk] = []
    for chunk in chunks:
        group.append(chunk)
        if sum(one.n_contexts * one.length for one in group) >= tokens:
            yield group
            group = []
    if group:
        yield group


def error_chunks(chunks: Sequence[Chunk], x: Tensor, codes: SparseCodes, sae: Autoencoder) -> Iterator[ErrorChunk]:
    """The error of a group of chunks, chunk by chunk."""
    error = x - sae.decode(codes, x)
    done = 0
    for chunk in chunks:
        size = chunk.n_contexts * chunk.length
        rows = slice(done, done + size)
        own = codes if len(chunks) == 1 else codes.tokens(done, done + size)
        yield ErrorChunk(chunk, x[rows], error[rows], own)
        done += size


def error_moments(
    errors: Iterator[ErrorChunk],
    inputs: InputMoments,
    partition: Partition,
    reporter: Reporter,
    name: str,
    n_tokens: int,
) -> TargetMoments:
    """The moments of `[e, |e|^2]` against `[x, 1]`.

    Raises:
        DataError: the SAE gave NaN or infinity.
    """
    device = inputs.shift.device
    d_model = inputs.shift.shape[0]
    targets = TargetMoments(partition.n_cells, d_model, d_model + 1, device)
    accumulator = MomentAccumulator(None, targets, inputs.shift)
    with reporter.stage(f"encode {name}", n_tokens, "tokens") as stage:
        for part in errors:
            accumulator.add(part.x, error_targets(part.error), partition.cells(part.chunk, CPU))
            stage.advance(part.x.shape[0])
        accumulator.finish()
    if not bool(torch.isfinite(targets.target_sq).all()):
        raise DataError(f"The SAE {name} gave NaN or infinity on these activations: check its weights and dtype.")
    return targets
