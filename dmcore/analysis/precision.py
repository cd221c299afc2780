"""What tf32 and bfloat16 cost: the same SAE on the same contexts in every precision, compared token by token and paired.

1. A sample of contexts goes through the SAE in float32, the reference, and in each other precision.
2. Each gets its own maps, fitted on the sample and held out by context, and its numbers (`dmcore.math.split`).
3. The differences to float32 have intervals from the same bootstrap replicates of contexts, so that they are paired. With them,
   the share of tokens whose active latents are the same, and of active latents that are in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dmcore.analysis.activations import Activations
from dmcore.analysis.ahead import read_groups
from dmcore.analysis.encode import Autoencoder, ErrorChunk, error_moments, site_moments
from dmcore.analysis.partition import Partition
from dmcore.estimate import Estimate
from dmcore.math.bootstrap import interval, poisson_weights, ratio
from dmcore.math.intervals import interval_ends
from dmcore.math.moments import InputMoments
from dmcore.math.sparse_codes import SparseCodes
from dmcore.math.split import Centres, SplitSums, estimates, fit_folds, split_tokens
from dmcore.progress import Reporter
from dmcore.results import METRICS
from dmcore.specs import Settings

REFERENCE = "float32"
COLUMNS = ("precision", "number", "value", "difference", "difference_low", "difference_high")


@dataclass(frozen=True)
class PrecisionInputs:
    """What is compared."""

    acts: Activations
    """Of the sample."""
    partition: Partition
    """Of the sample."""
    units: np.ndarray
    """(n_contexts,) bootstrap unit of each."""
    settings: Settings
    seed: int
    device: torch.device


@dataclass(frozen=True)
class _Measured:
    """One precision on the sample."""

    values: dict[str, float]
    replicates: dict[str, np.ndarray]
    d_sae: int
    support: list[Tensor]
    """By chunk, `token * d_sae + latent` of every active latent of a kept token."""


@torch.inference_mode()
def compare_precisions(
    given: PrecisionInputs, load: Mapping[str, Callable[[], Autoencoder]], reporter: Reporter, name: str
) -> pl.DataFrame:
    """Every number in every precision, with its difference to float32.

    Args:
        given: the sample.
        load: by precision, what gives the SAE; one is there at a time. float32 must be among them, and comes first.
        reporter: told of each pass.
        name: of the SAE.

    Returns:
        a row a precision and number, with `COLUMNS`: `fvu`, ... `l0` with the paired difference to float32 and its 95 %
        interval over contexts; `same_supports` (share of tokens with the same active latents) and `in_both` (active latents
        of both over those of either) have theirs as the value's own interval less 1. One row of float32 for each, whose
        difference is 0.
    """
    inputs = site_moments(given.acts, given.partition, given.device, reporter, "the sample")
    measured, rows = dict[str, _Measured](), list[dict[str, object]]()
    for precision in [REFERENCE, *(p for p in load if p != REFERENCE)]:
        found = _measure(given, load[precision](), inputs, reporter, f"{name} in {precision}")
        measured[precision] = found
        reference = measured[REFERENCE]
        for number, value in found.values.items():
            change = np.array(value - reference.values[number])
            draws = found.replicates[number] - reference.replicates[number]
            low, high = interval_ends(change, draws) if precision != REFERENCE else (0.0, 0.0)
            rows.append(_row(precision, number, value, float(change), float(low), float(high)))
        for number, share in _agreement(given, found, reference).items():
            rows.append(_row(precision, number, share.value, share.value - 1, share.low - 1, share.high - 1))
    return pl.DataFrame(rows, schema={c: pl.String if c in COLUMNS[:2] else pl.Float64 for c in COLUMNS})


def _row(*values: object) -> dict[str, object]:
    return dict(zip(COLUMNS, values, strict=True))


def _measure(
    given: PrecisionInputs, sae: Autoencoder, inputs: InputMoments, reporter: Reporter, name: str
) -> _Measured:
    settings, partition = given.settings, given.partition
    cells_of_fold = partition.cells_of_fold(settings.skip_positions)
    codes: list[SparseCodes] = []

    def errors(*, first: bool) -> Iterator[ErrorChunk]:
        for number, ((chunk,), x) in enumerate(
            read_groups(given.acts, [[c] for c in given.acts.chunks()], given.device)
        ):
            if first:
                codes.append(sae.encode(x))
            yield ErrorChunk(chunk, x, x - sae.decode(codes[number], x), codes[number])

    targets = error_moments(errors(first=True), inputs, partition, reporter, name, given.acts.n_tokens)
    fit = fit_folds(
        inputs, targets, cells_of_fold, ridge=settings.ridge, fit_bias=settings.fit_bias, full=False
    ).single()
    centres = Centres.from_moments(inputs, targets, [c for cells in cells_of_fold for c in cells])
    n_units = int(given.units.max()) + 1
    sums, active = SplitSums(n_units, given.acts.d_model, centres), np.zeros(n_units)
    units, support = torch.from_numpy(given.units), list[Tensor]()
    for part in errors(first=False):
        kept = part.chunk.positions(given.device) >= settings.skip_positions
        parts = split_tokens(fit, part.x, part.error, partition.token_folds(part.chunk, given.device))
        own = units.to(given.device)[part.chunk.contexts(given.device)]
        sums.add(own, kept, part.x, part.error, parts)
        np.add.at(active, own.cpu().numpy(), (part.codes.l0 * kept).cpu().numpy())
        support.append(_support(part.codes, kept, sae.d_sae))
    found = estimates(sums, given.seed)
    weights = poisson_weights(n_units, given.seed)
    n_tokens = sums.scalar("n_tokens")
    values = {metric: found.values[metric].value for metric in METRICS} | {"l0": float(active.sum() / n_tokens.sum())}
    return _Measured(values, {**found.replicates, "l0": ratio(active, n_tokens, weights)}, sae.d_sae, support)


def _support(codes: SparseCodes, kept: Tensor, d_sae: int) -> Tensor:
    """`token * d_sae + latent` of the active latents of kept tokens, on the CPU."""
    tokens = torch.repeat_interleave(torch.arange(kept.numel(), device=kept.device), codes.l0)
    pairs = tokens * d_sae + codes.latents.long()
    return pairs[kept[tokens]].cpu()


def _agreement(given: PrecisionInputs, found: _Measured, reference: _Measured) -> dict[str, Estimate]:
    """How far the active latents are those of float32."""
    n_units, cpu = int(given.units.max()) + 1, torch.device("cpu")
    same, n_tokens, both, either = (np.zeros(n_units) for _ in range(4))
    for chunk, ours, theirs in zip(given.acts.chunks(), found.support, reference.support, strict=True):
        kept = (chunk.positions(cpu) >= given.settings.skip_positions).numpy()
        units = given.units[chunk.contexts(cpu).numpy()]
        shared = ours[torch.isin(ours, theirs, assume_unique=True)]
        n_ours, n_theirs, n_shared = (_per_token(pairs, found.d_sae, len(kept)) for pairs in (ours, theirs, shared))
        np.add.at(same, units, kept & (n_ours == n_shared) & (n_theirs == n_shared))
        np.add.at(n_tokens, units, kept)
        np.add.at(both, units, n_shared)
        np.add.at(either, units, n_ours + n_theirs - n_shared)
    weights = poisson_weights(n_units, given.seed)
    shares = {"same_supports": (same, n_tokens), "in_both": (both, either)}
    return {
        number: interval(float(part.sum() / whole.sum()) if whole.sum() else math.nan, ratio(part, whole, weights))
        for number, (part, whole) in shares.items()
    }


def _per_token(pairs: Tensor, d_sae: int, n_tokens: int) -> np.ndarray:
    return torch.bincount(torch.div(pairs, d_sae, rounding_mode="floor"), minlength=n_tokens).numpy()
