"""SAEs that were trained on the parts of a base SAE's error, measured on the study's own tokens.

1. One pass for each: x and the base's error from its stored codes, the parts out of fold by the maps of its split; the SAE's
   codes go to disk, and its squared errors, with what the variance of the part takes, to sums over each context.
2. FVU of the part about its own mean: `sum |v - Sae(v)|^2 / sum |v - mean v|^2` over kept tokens, pooled, with a bootstrap
   over contexts. The mean is held at its full-sample value, as everywhere. Memory does not grow with the number of tokens.
3. All SAEs of a base side by side (`parts_tables`): means over seeds, differences between parts, curves of training, and how
   far the latents of two seeds are the same.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dmcore.analysis.activations import Activations, Chunk
from dmcore.analysis.codes import CodesWriter
from dmcore.analysis.encode import Autoencoder, decoded
from dmcore.analysis.norm_tests import LatentTotals, fold_maps
from dmcore.analysis.partition import Partition
from dmcore.errors import DataError
from dmcore.math.bootstrap import bootstrap_units, interval, poisson_weights, ratio
from dmcore.math.latent_matching import match_latents, random_rows, shaped_rows
from dmcore.math.split import FoldedFit, split_tokens
from dmcore.progress import Reporter
from dmcore.results.parts import PARTS_TABLES
from dmcore.specs import Settings

NUMBERS, REPLICATES, USES = "numbers.json", "replicates.npy", "uses.npy"
"""Of a `part` entry, beside its codes: numbers, (n_replicates,) FVU, (d_sae,) kept tokens on which each latent is active."""
SHARES = {"share_above_07": 0.7, "share_above_09": 0.9}
"""Cosines above which matched latents are counted."""


@dataclass(frozen=True)
class PartInputs:
    """What the SAEs on the parts of one base are measured from."""

    acts: Activations
    base: Autoencoder
    codes: Path
    """Folder of the base's codes."""
    split: Path
    """Folder of the base's split, which holds the maps of the folds."""
    shift: Tensor
    """(d_model,) float64, where those maps are centred."""
    partition: Partition
    settings: Settings
    seed: int
    device: torch.device


@dataclass(frozen=True)
class PartChunk:
    """One part of some tokens."""

    chunk: Chunk
    vectors: Tensor
    """(n_tokens, d_model)."""
    kept: Tensor
    """(n_tokens,) whether each is at a position that counts."""


class PartSums:
    """Sums over the kept tokens of each bootstrap unit, in float64, from which the FVU of a part follows.

    The mean is not known before the end: scatter is taken about a first guess, and moved.
    """

    def __init__(self, n_contexts: int, d_model: int) -> None:
        self.units = bootstrap_units(n_contexts)
        n_units = int(self.units.max()) + 1
        self.n_tokens, self.error_sq, self._sq = (np.zeros(n_units) for _ in range(3))
        self._sums = np.zeros((n_units, d_model))
        self._guess: Tensor | None = None

    def add(self, part: PartChunk, error: Tensor) -> None:
        """Add some tokens and what an SAE misses of them, (n_tokens, d_model)."""
        if self._guess is None:
            self._guess = part.vectors[part.kept].double().mean(0)
        about = part.vectors.double() - self._guess
        units = torch.from_numpy(self.units).to(about.device)[part.chunk.contexts(about.device)]
        ids, local = torch.unique(units, return_inverse=True)
        # A product with indicators: it sums in the same order on every run.
        indicator = torch.zeros(len(ids), len(about), dtype=torch.float64, device=about.device)
        indicator[local, torch.arange(len(about), device=about.device)] = part.kept.double()
        where = ids.cpu().numpy()
        self.n_tokens[where] += indicator.sum(1).cpu().numpy()
        self.error_sq[where] += (indicator @ error.double().square().sum(1)).cpu().numpy()
        self._sq[where] += (indicator @ about.square().sum(1)).cpu().numpy()
        self._sums[where] += (indicator @ about).cpu().numpy()

    def scatter(self) -> np.ndarray:
        """(n_units,) `sum |v - mean v|^2`, the mean over all kept tokens."""
        mean = self._sums.sum(0) / self.n_tokens.sum()
        return (self._sq - 2.0 * self._sums @ mean + self.n_tokens * (mean @ mean)).clip(min=0.0)


def part_chunks(given: PartInputs, part: str) -> Iterator[PartChunk]:
    """One part of all tokens, in order; `part` is one of `dmcore.specs.PARTS`."""
    linear = fold_maps(given.split, given.shift, given.partition.n_folds)
    for found in decoded(given.acts, given.base, given.codes, given.device):
        kept = found.chunk.positions(found.x.device) >= given.settings.skip_positions
        yield PartChunk(found.chunk, _vectors(part, found.x, found.error, given, linear, found.chunk), kept)


def _vectors(part: str, x: Tensor, error: Tensor, given: PartInputs, linear: FoldedFit, chunk: Chunk) -> Tensor:
    if part in {"x", "error"}:
        return x if part == "x" else error
    parts = split_tokens(linear, x, error, given.partition.token_folds(chunk, x.device))
    return parts.linear if part == "linear" else parts.nonlinear


@torch.inference_mode()
def measure_part(given: PartInputs, part: str, sae: Autoencoder, folder: Path, reporter: Reporter, name: str) -> None:
    """Write the codes and numbers of one SAE on a part into `folder`.

    Raises:
        DataError: the SAE gave NaN or infinity.
    """
    sums, totals = PartSums(given.acts.n_contexts, given.acts.d_model), LatentTotals(sae.d_sae)
    writer = CodesWriter(folder, sae.d_sae)
    with reporter.stage(f"measure {name}", given.acts.n_tokens, "tokens") as stage:
        for found in part_chunks(given, part):
            codes = sae.encode(found.vectors)
            writer.append(codes, found.chunk)
            sums.add(found, found.vectors - sae.decode(codes, found.vectors))
            totals.add(codes, found.kept)
            stage.advance(len(found.vectors))
    writer.close()
    if not np.isfinite(sums.error_sq).all():
        raise DataError(
            f"The SAE {name} gave NaN or infinity on the study's tokens: train it again, or check its weights."
        )
    scatter, n_tokens = sums.scatter(), float(sums.n_tokens.sum())
    weights = np.concatenate([np.ones((1, len(scatter))), poisson_weights(len(scatter), given.seed)])
    fvu = ratio(sums.error_sq, scatter, weights)
    estimate = interval(float(fvu[0]), fvu[1:])
    numbers = {
        **{f"fvu{end}": _number(v) for end, v in zip(("", "_low", "_high"), _ends(estimate), strict=True)},
        "l0": float(totals.counts.sum()) / n_tokens,
        "dead_share": float((totals.counts == 0).mean()),
        "d_sae": sae.d_sae,
        "n_tokens": int(n_tokens),
        "scatter": float(scatter.sum()),
    }
    np.save(folder / REPLICATES, fvu[1:])
    np.save(folder / USES, totals.counts)
    (folder / NUMBERS).write_text(json.dumps(numbers), encoding="utf-8")


def _ends(estimate: Any) -> tuple[float, float, float]:
    return float(estimate.value), float(estimate.low), float(estimate.high)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


@dataclass(frozen=True)
class MeasuredPart:
    """An SAE on a part that has been measured."""

    part: str
    seed: int
    sae: str
    """Its folder, relative to the study."""
    entry: Path
    """What `measure_part` wrote."""
    log: Mapping[str, Any]
    """What training noted (`train.json`)."""
    decoder: Callable[[], Tensor]
    """Reads its (d_sae, d_model) decoder rows."""

    @property
    def numbers(self) -> dict[str, Any]:
        """FVU with its interval, l0, dead_share, d_sae, n_tokens, scatter."""
        return json.loads((self.entry / NUMBERS).read_text(encoding="utf-8"))

    @property
    def replicates(self) -> np.ndarray:
        """(n_replicates,) FVU."""
        return np.load(self.entry / REPLICATES, allow_pickle=False)

    def alive_rows(self) -> Tensor:
        """(n_alive, d_model) decoder rows of the latents that some kept token activates."""
        alive = np.load(self.entry / USES, allow_pickle=False) > 0
        return self.decoder()[torch.from_numpy(np.flatnonzero(alive))]


def parts_tables(
    saes: Sequence[MeasuredPart], act_scatter: float, seed: int, reporter: Reporter
) -> dict[str, pl.DataFrame]:
    """The tables of `dmcore.results.parts`.

    Args:
        saes: all of one base, in the order of parts and seeds.
        act_scatter: `sum |x - mean x|^2` over the kept tokens.
        seed: of the random rows that latents are held against.
        reporter: told how many pairs of seeds have been compared.
    """
    numbers = [one.numbers for one in saes]
    by_part: dict[str, list[MeasuredPart]] = {}
    for one in saes:
        by_part.setdefault(one.part, []).append(one)
    curves = [
        {"part": one.part, "seed": one.seed, **{name: look[name] for name in ("tokens", "fvu", "l0", "dead_share")}}
        for one in saes
        for look in one.log["curve"]
    ]
    rows = {
        "saes": [_sae_row(one, found, act_scatter) for one, found in zip(saes, numbers, strict=True)],
        "curves": curves,
        "stability": _stability(by_part, seed, reporter),
        **_compared(by_part),
    }
    tables = {name: pl.DataFrame(content, schema=PARTS_TABLES[name]) for name, content in rows.items()}
    replicates = [
        pl.DataFrame({"replicate": np.arange(len(one.replicates)), "fvu": one.replicates}).with_columns(
            part=pl.lit(one.part), seed=pl.lit(one.seed)
        )
        for one in saes
    ]
    return tables | {"replicates": pl.concat(replicates).with_columns(pl.col("fvu").fill_nan(None))}


def _sae_row(one: MeasuredPart, found: dict[str, Any], act_scatter: float) -> dict[str, Any]:
    return {
        "part": one.part,
        "seed": one.seed,
        "sae": one.sae,
        **{name: found[name] for name in ("fvu", "fvu_low", "fvu_high", "l0", "dead_share", "d_sae")},
        "variance_share": found["scatter"] / act_scatter,
        "train_tokens": one.log["tokens"],
        "train_fvu": one.log["fvu"],
    }


def _compared(by_part: Mapping[str, Sequence[MeasuredPart]]) -> dict[str, list[dict[str, Any]]]:
    """Means over seeds, and their differences between parts, on the same replicates."""
    values = {part: np.array([_value(one) for one in saes]) for part, saes in by_part.items()}
    draws = {part: np.mean([one.replicates for one in saes], axis=0) for part, saes in by_part.items()}
    means = [
        {
            "part": part,
            "n_seeds": len(found),
            **_estimate("fvu", float(found.mean()), draws[part]),
            "seed_sd": _number(float(found.std(ddof=1))) if len(found) > 1 else None,
        }
        for part, found in values.items()
    ]
    differences = [
        {
            "part": one,
            "other": two,
            **_estimate("difference", float(values[one].mean() - values[two].mean()), draws[one] - draws[two]),
        }
        for one, two in itertools.permutations(by_part, 2)
    ]
    return {"means": means, "differences": differences}


def _value(one: MeasuredPart) -> float:
    fvu = one.numbers["fvu"]
    return float("nan") if fvu is None else float(fvu)


def _estimate(name: str, value: float, draws: np.ndarray) -> dict[str, float | None]:
    found = _ends(interval(value, draws))
    return {f"{name}{end}": _number(number) for end, number in zip(("", "_low", "_high"), found, strict=True)}


def _stability(by_part: Mapping[str, Sequence[MeasuredPart]], seed: int, reporter: Reporter) -> list[dict[str, Any]]:
    pairs = [(one, two) for saes in by_part.values() for one, two in itertools.combinations(saes, 2)]
    rows = []
    with reporter.stage("match latents across seeds", len(pairs), "pairs") as stage:
        for one, two in pairs:
            first, second = one.alive_rows(), two.alive_rows()
            found = match_latents(first, second)
            drawn = [random_rows(len(rows), rows.shape[1], 2 * seed + i) for i, rows in enumerate((first, second))]
            shaped = [shaped_rows(rows, 2 * seed + i) for i, rows in enumerate((first, second))]
            matchings = {"": found, "random_": match_latents(*drawn), "shaped_": match_latents(*shaped)}
            row: dict[str, Any] = {
                "part": one.part,
                "first": one.seed,
                "second": two.seed,
                "n_first": found.n_first,
                "n_second": found.n_second,
                "n_pairs": len(found.cosine),
                "method": found.method,
            }
            for kind, matching in matchings.items():
                row[f"{kind}mean_cosine"] = _number(matching.mean_cosine)
                row |= {f"{kind}{name}": _number(matching.share_above(at)) for name, at in SHARES.items()}
            rows.append(row)
            stage.advance()
    return rows
