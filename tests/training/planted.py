"""Activations that are known sums of directions, a base SAE that has some of them, and SAEs trained on the parts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmcore.math.latent_matching import match_latents, random_rows, stable_latents
from dmcore.math.linear_map import AffineMap
from dmcore.math.sparse_codes import SparseCodes, ThresholdEncoder, decode
from dmcore.progress import Reporter
from dmcore.training.lean import lean_trainer
from dmcore.training.loop import LoopOptions, Run, train_runs
from dmcore.training.parts import PartsBase, PartsReader
from dmcore.training.sae_trainer import ActivationStats
from dmcore.training.schedule import Budget
from dmcore.training.stream import EpochOrder, Stream
from dmcore.training.target import PartTarget

HOOK = "blocks.0.hook_resid_post"
D_MODEL, N_KNOWN, N_HIDDEN, WIDTH, L0 = 48, 32, 10, 16, 2
N_CONTEXTS, LENGTH, TOKENS, BATCH = 400, 64, 60_000, 256


@dataclass(frozen=True)
class HeldReader:
    """Activations in memory."""

    acts: Tensor
    """(n_contexts, length, d_model)."""

    def read(self, rows: np.ndarray, hooks: Sequence[str]) -> dict[str, Tensor]:
        return {hook: self.acts[torch.from_numpy(rows)].flatten(0, 1) for hook in hooks}


class KnownSae:
    """Has some directions: its decoder; exact where these alone are active, each above a threshold."""

    tokens_at_once = 1

    def __init__(self, rows: Tensor, threshold: float) -> None:
        self.rows, self.d_sae = rows, len(rows)
        zeros = torch.zeros(len(rows))
        self._encoder = ThresholdEncoder(rows.T.contiguous(), zeros, zeros + threshold)

    def encode(self, x: Tensor) -> SparseCodes:
        return self._encoder.encode(x)

    def decode(self, codes: SparseCodes, x: Tensor) -> Tensor:
        return decode(codes, self.rows, torch.zeros(x.shape[1]))


def planted(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Activations (n_contexts, length, d_model), the directions that the base has, and those that it lacks.

    Those of the base are at right angles; the others lean on them and on each other. Each direction is active by chance, with
    a value of 1 to 2, beside a little noise.
    """
    axes = torch.linalg.qr(random_rows(D_MODEL, D_MODEL, seed)).Q.T
    known, rest = axes[:N_KNOWN], axes[N_KNOWN:]
    hidden = 0.95 * random_rows(N_HIDDEN, len(rest), seed + 1) @ rest
    hidden += 0.3122499 * random_rows(N_HIDDEN, N_KNOWN, seed + 2) @ known  # so that rows have unit norm
    directions, generator = torch.cat([known, hidden]), torch.Generator().manual_seed(seed)
    shape = (N_CONTEXTS, LENGTH, len(directions))
    values = (1 + torch.rand(shape, generator=generator)) * (torch.rand(shape, generator=generator) < 0.06)
    noise = 0.02 * torch.randn(*shape[:2], D_MODEL, generator=generator)
    return values @ directions + noise, known, hidden


def noise_like(vectors: Tensor, seed: int) -> Tensor:
    """(n_contexts, length, d_model) Gaussian noise with the mean and covariance of some vectors."""
    factor = torch.linalg.cholesky(torch.cov(vectors.flatten(0, -2).T) + 1e-6 * torch.eye(D_MODEL))
    drawn = torch.randn(N_CONTEXTS, LENGTH, D_MODEL, generator=torch.Generator().manual_seed(seed))
    return drawn @ factor.T + vectors.flatten(0, -2).mean(0)


def error_map(acts: Tensor, sae: KnownSae) -> AffineMap:
    """The linear map from x to the error, by plain least squares."""
    x = acts.flatten(0, 1)
    with_one = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    solved = torch.linalg.lstsq(with_one, (x - sae.decode(sae.encode(x), x)).double()).solution
    return AffineMap(solved[:-1], solved[-1], torch.zeros(x.shape[1], dtype=torch.float64))


def trained_on(acts: Tensor, sae: KnownSae, part: str, seeds: Sequence[int], folder: Path) -> list[Tensor]:
    """(WIDTH, D_MODEL) decoder rows of an SAE on a part for each seed, trained as `train_parts` trains them."""
    reader = PartsReader(HeldReader(acts), HOOK, PartsBase(sae, error_map(acts, sae), "", ""), "cpu")
    found = []
    for seed in seeds:
        stream = Stream(reader, EpochOrder(np.arange(16, N_CONTEXTS), 128, seed), seed)
        stats = ActivationStats.of(stream.sample([part])[part])
        target = PartTarget(HOOK, "topk", WIDTH, L0, "parts", part, seed)
        run = Run(target, lean_trainer(target, stats, seed, "cpu"), Budget(TOKENS))
        held_out = reader.read(np.arange(16), [part])
        options = LoopOptions(BATCH, "cpu", folder / f"{part}{seed}", TOKENS // 5, look_every=100)
        train_runs([run], stream, held_out, options, Reporter(), lambda _: None)
        found.append(run.trainer.export()["W_dec"])
    return found


def claimed(rows: Sequence[Tensor], null: Sequence[Sequence[Tensor]]) -> np.ndarray:
    """Latents of the first SAE that are taken for directions of the data: numbers, ascending.

    Those with a partner, in the SAE of every other seed, above the largest cosine of any pair of seeds on any `null`: noise
    of the same mean and covariance, as much of it, and SAEs of the same training. A fixed cosine of 0.9 would not do: on
    such noise some pairs are above it.
    """
    chance = max(match_latents(a, b).cosine.max() for saes in null for a, b in itertools.combinations(saes, 2))
    return stable_latents([match_latents(rows[0], other) for other in rows[1:]], float(chance))
