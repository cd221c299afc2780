"""The error that other codes of the same dictionary leave: each coding method run once over some contexts, then split.

1. Chunk by chunk the method makes codes, which are written to a folder for the time being; the moments of the new error are
   added up. How long the method itself takes is measured.
2. A second pass by sparse decode: the split of the new error, out of fold, as of any SAE (`dmcore.math.split`).

On a sample of contexts (`context_sample`) the maps are fitted on the sample too, and the encoder's own codes are judged there
in the same way, so that what is relative to them is paired.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from dmcore.analysis.activations import Activations
from dmcore.analysis.codes import Codes, CodesWriter
from dmcore.analysis.coding_methods import CodingMethod, CodingProblem, DictionaryAtoms
from dmcore.analysis.context_sample import ContextSample
from dmcore.analysis.encode import ErrorChunk, decoded, error_moments, site_moments
from dmcore.analysis.partition import Partition
from dmcore.analysis.reduction_passes import MethodSums, TokenSources
from dmcore.analysis.split_pass import LatentUse
from dmcore.math.moments import InputMoments
from dmcore.math.sparse_codes import SparseCodes
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
    n_tokens: np.ndarray
    """(n_units,) that count."""
    act_scatter: np.ndarray
    """(n_units,) sum |x - mean x|^2 over those."""
    kept: dict[int, SparseCodes]
    """The codes of the contexts that were to be kept."""


@dataclass(frozen=True)
class CodingRuns:
    """What every coding method is run on; made by `coding_runs`."""

    sources: TokenSources
    sample: ContextSample
    acts: Activations
    """Of the sample."""
    partition: Partition
    """Of the sample."""
    inputs: InputMoments
    """Gram matrices of the sample."""
    atoms: DictionaryAtoms
    settings: Settings
    keep: frozenset[int]
    """Contexts of which the codes are kept."""
    target_l0: int | None
    """Atoms that a token may have; None for as many as the encoder has active."""


@torch.inference_mode()
def coding_runs(
    sources: TokenSources,
    inputs: InputMoments,
    settings: Settings,
    sample: ContextSample,
    keep: Sequence[int],
    target_l0: int | None,
    reporter: Reporter,
) -> CodingRuns:
    """Prepare a sample.

    Args:
        inputs: Gram matrices of the site, over all contexts.
        keep: contexts of which the codes are kept.
        target_l0: atoms that a token may have; None for as many as the encoder has active.

    Raises:
        DataError: the SAE's reconstruction is no sum of decoder rows.
    """
    own = sources.own
    acts, partition = sample.acts(own.acts), sample.partition(sources.partition)
    atoms = DictionaryAtoms(own.sae, acts.read(next(iter(acts.chunks())), sources.device))
    if not sample.is_whole:
        inputs = site_moments(acts, partition, sources.device, reporter, "the sample")
    return CodingRuns(sources, sample, acts, partition, inputs, atoms, settings, frozenset(keep), target_l0)


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
def encoder_seconds(given: CodingRuns) -> float:
    """What the SAE itself takes to encode 1,000 tokens of the sample."""
    device, skip, clock = given.sources.device, given.settings.skip_positions, Clock(given.sources.device)
    for chunk in given.acts.chunks():
        x = given.acts.read(chunk, device)[chunk.positions(device) >= skip]
        clock.time(lambda x=x: given.sources.own.sae.encode(x), len(x))
    return clock.seconds_per_1000


@torch.inference_mode()
def coded(
    given: CodingRuns, method: CodingMethod, folder: Path, clock: Clock, kept: dict[int, SparseCodes]
) -> Iterator[ErrorChunk]:
    """Code every chunk in order, and write the codes into `folder`; tokens at skipped positions are not coded."""
    own, device, skip = given.sources.own, given.sources.device, given.settings.skip_positions
    writer, stored = CodesWriter(folder, own.sae.d_sae), Codes(own.codes)
    try:
        for chunk in given.acts.chunks():
            x = given.acts.read(chunk, device)
            tokens = (chunk.positions(device) >= skip).nonzero().squeeze(1)
            codes = given.sample.codes(stored, chunk, device).chosen(tokens)
            targets = codes.l0 if given.target_l0 is None else torch.full_like(codes.l0, given.target_l0)
            problem = CodingProblem(x[tokens], given.atoms, targets, codes)
            found = clock.time(lambda problem=problem: method.code(problem), len(tokens)).placed(tokens, len(x))
            writer.append(found, chunk)
            for place in range(chunk.n_contexts):
                context = given.sample.contexts[chunk.first_context + place]
                if context in given.keep:
                    kept[context] = found.tokens(place * chunk.length, (place + 1) * chunk.length)
            yield ErrorChunk(chunk, x, x - own.sae.decode(found, x), found)
    finally:
        writer.close()


@torch.inference_mode()
def coded_errors(given: CodingRuns, method: CodingMethod, folder: Path, reporter: Reporter) -> CodedErrors:
    """Run a method.

    Args:
        given: the tokens, and the SAE.
        method: that makes codes.
        folder: empty, for codes that are not needed afterwards.
        reporter: is told of progress.

    Raises:
        DataError: the method gave NaN or infinity, or codes that are none.
    """
    own, partition, settings = given.sources.own, given.partition, given.settings
    device, n_tokens = given.sources.device, given.acts.n_tokens
    clock, kept_codes = Clock(device), {}
    errors = coded(given, method, folder, clock, kept_codes)
    targets = error_moments(errors, given.inputs, partition, reporter, f"by {method.name}", n_tokens)
    cells_of_fold = partition.cells_of_fold(settings.skip_positions)
    fit = fit_folds(given.inputs, targets, cells_of_fold, ridge=settings.ridge, fit_bias=settings.fit_bias, full=False)
    centres = Centres.from_moments(given.inputs, targets, [cell for cells in cells_of_fold for cell in cells])
    units = torch.from_numpy(given.sample.units).to(device)
    sums = SplitSums(given.sample.n_units, own.acts.d_model, centres)
    use = LatentUse(own.sae.d_sae, device)
    with reporter.stage(f"split by {method.name}", n_tokens, "tokens") as stage:
        for part in decoded(given.acts, own.sae, folder, device):
            parts = split_tokens(fit, part.x, part.error, partition.token_folds(part.chunk, device))
            kept = part.chunk.positions(device) >= settings.skip_positions
            sums.add(units[part.chunk.contexts(device)], kept, part.x, part.error, parts)
            use.add(part.codes, kept)
            stage.advance(part.x.shape[0])
    names = ("error_sq", "nonlinear_sq", "norm_residual", "norm_scatter")
    columns = {name: sums.scalar(name)[:, None] for name in names}
    scatter = sums.error_scatter_dims.sum(1)[:, None]
    return CodedErrors(
        MethodSums(error_scatter=scatter, **columns),
        use.l0,
        clock.seconds_per_1000,
        sums.scalar("n_tokens"),
        sums.scalar("act_scatter"),
        kept_codes,
    )
