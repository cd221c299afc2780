"""The error that other codes of the same dictionary leave: each coding method run once over the tokens, then split.

1. Chunk by chunk the method makes codes, which are written to a folder for the time being; the moments of the new error are
   added up. How long the method itself takes is measured.
2. A second pass by sparse decode: the split of the new error, out of fold, as of any SAE (`dmcore.math.split`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from dmcore.analysis.codes import Codes, CodesWriter
from dmcore.analysis.coding_methods import CodingMethod, CodingProblem, DictionaryAtoms
from dmcore.analysis.encode import ErrorChunk, decoded, error_moments
from dmcore.analysis.reduction_passes import MethodSums, TokenSources
from dmcore.analysis.split_pass import LatentUse
from dmcore.math.bootstrap import bootstrap_units
from dmcore.math.moments import InputMoments
from dmcore.math.split import Centres, SplitSums, fit_folds, split_tokens
from dmcore.progress import Reporter
from dmcore.specs import Settings

Result = TypeVar("Result")


@dataclass(frozen=True)
class CodedErrors:
    """What a coding method leaves."""

    sums: MethodSums
    """(n_units, 1) each."""
    l0: float
    """Mean active latents per kept token."""
    seconds_per_1000: float
    """To code 1,000 tokens, reading and decoding left out: the median over chunks."""


class Clock:
    """Times some work on a device, piece by piece."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._per_token: list[float] = []

    def time(self, work: Callable[[], Result], n_tokens: int) -> Result:
        """What `work` gives."""
        self._wait()
        started = time.perf_counter()
        result = work()
        self._wait()
        self._per_token.append((time.perf_counter() - started) / max(1, n_tokens))
        return result

    @property
    def seconds_per_1000(self) -> float:
        """Of 1,000 tokens: the median over pieces, which a machine that was busy for a while does not move."""
        return 1000.0 * statistics.median(self._per_token)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@torch.inference_mode()
def coded(
    sources: TokenSources, method: CodingMethod, atoms: DictionaryAtoms, folder: Path, clock: Clock
) -> Iterator[ErrorChunk]:
    """Code every chunk in order, with as many atoms as the encoder has active, and write the codes into `folder`."""
    own = sources.own
    writer, stored = CodesWriter(folder, own.sae.d_sae), Codes(own.codes)
    try:
        for chunk in own.acts.chunks():
            x = own.acts.read(chunk, sources.device)
            codes = stored.read(chunk, sources.device)
            problem = CodingProblem(x, atoms, codes.l0, codes)
            found = clock.time(lambda problem=problem: method.code(problem), x.shape[0])
            writer.append(found, chunk)
            yield ErrorChunk(chunk, x, x - own.sae.decode(found, x), found)
    finally:
        writer.close()


@torch.inference_mode()
def coded_errors(
    sources: TokenSources,
    method: CodingMethod,
    atoms: DictionaryAtoms,
    inputs: InputMoments,
    settings: Settings,
    folder: Path,
    reporter: Reporter,
) -> CodedErrors:
    """Run a method.

    Args:
        atoms: of the SAE's decoder.
        inputs: Gram matrices of the site.
        folder: empty, for codes that are not needed afterwards.

    Raises:
        DataError: the method gave NaN or infinity, or codes that are none.
    """
    own, partition = sources.own, sources.partition
    n_tokens, clock = own.acts.n_tokens, Clock(sources.device)
    errors = coded(sources, method, atoms, folder, clock)
    targets = error_moments(errors, inputs, partition, reporter, f"by {method.name}", n_tokens)
    cells_of_fold = partition.cells_of_fold(settings.skip_positions)
    fit = fit_folds(inputs, targets, cells_of_fold, ridge=settings.ridge, fit_bias=settings.fit_bias, full=False)
    centres = Centres.from_moments(inputs, targets, [cell for cells in cells_of_fold for cell in cells])
    units = torch.from_numpy(bootstrap_units(len(partition.folds))).to(sources.device)
    sums = SplitSums(int(units.max()) + 1, own.acts.d_model, centres)
    use = LatentUse(own.sae.d_sae, sources.device)
    with reporter.stage(f"split by {method.name}", n_tokens, "tokens") as stage:
        for part in decoded(own.acts, own.sae, folder, sources.device):
            parts = split_tokens(fit, part.x, part.error, partition.token_folds(part.chunk, sources.device))
            kept = part.chunk.positions(sources.device) >= settings.skip_positions
            sums.add(units[part.chunk.contexts(sources.device)], kept, part.x, part.error, parts)
            use.add(part.codes, kept)
            stage.advance(part.x.shape[0])
    names = ("error_sq", "nonlinear_sq", "norm_residual", "norm_scatter")
    columns = {name: sums.scalar(name)[:, None] for name in names}
    scatter = sums.error_scatter_dims.sum(1)[:, None]
    return CodedErrors(MethodSums(error_scatter=scatter, **columns), use.l0, clock.seconds_per_1000)
