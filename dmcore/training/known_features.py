"""Small SAEs trained on activations of known features: how much of their error is linear, by all tokens and by an estimate.

1. For each density, without circles and with as much of them as of sparse features: a world, and a TopK SAE trained on fresh
   tokens of it at the density's L0.
2. The truth: the best affine map of x, on `truth_tokens` fresh tokens. What the error is made of is not known apart here.
3. The estimates, held out by context, on samples of every size of the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmcore.analysis.ground_truth import Mixture, Scales, Size, blocks, truth_moments
from dmcore.math.folds import assign_folds
from dmcore.math.known_features import BLOCKS, World
from dmcore.math.mixtures import PieceMoments, Tokens, best_split, held_out_split
from dmcore.progress import Stage
from dmcore.results.synthetic import DEFAULTS, INGREDIENTS
from dmcore.training.lean import lean_trainer
from dmcore.training.sae_trainer import ActivationStats
from dmcore.training.target import SaeTarget

CIRCLES = (0.0, 1.0)
"""Amounts of circles of which SAEs are trained."""
WIDTH = 256
BATCH = 1024
FOUND = 0.9
"""Cosine of a decoder row with a true feature from which that is found."""
X, ERROR = {"x": 1.0}, {"error": 1.0}


@dataclass(frozen=True)
class Training:
    """How long."""

    tokens: int = 1_200_000
    """Training tokens, each of a quarter as many fresh ones four times."""
    truth_tokens: int = 200_000


class Source:
    """Fresh activations of one mixture of a world."""

    def __init__(self, world: World, weights: Mixture, size: Size, seed: int) -> None:
        self.world, self.weights, self.size, self._seed = world, weights, size, seed

    def contexts(self, n: int) -> Tensor:
        """(n * context_length, d_model) of the next contexts."""
        self._seed += 1_000_003
        pieces = self.world.pieces(n, self.size.context_length, self._seed)
        return sum((pieces[name] * weight for name, weight in self.weights.items() if weight), torch.zeros(()))


def trained_rows(size: Size, training: Training, stage: Stage) -> list[dict[str, Any]]:
    """Rows of the table `trained`."""
    rows = []
    for density, circles in product(INGREDIENTS["density"], CIRCLES):
        world = World.build(size.d_model, size.n_features, density, seed=size.seed)
        scales = Scales.of(truth_moments(world, Size(**{**vars(size), "truth_tokens": 20_000}), size.seed))
        dense = DEFAULTS["dense"]
        weights = blocks(range(BLOCKS)) | {
            "dense": (dense * scales.sparse / scales.dense) ** 0.5,
            "circles": (circles * scales.sparse / scales.circles) ** 0.5,
        }
        source = Source(world, weights, size, seed=size.seed + round(100 * density + 10 * circles))
        l0 = max(1, min(round(density), size.d_model // 4))
        reconstruct, rows_of_decoder = train(source, l0, training, stage)
        likeness = (world.directions @ rows_of_decoder.T).max(1).values
        known = {"density": density, "dense": dense, "circles": circles, "d_sae": WIDTH,
                 "found": float((likeness >= FOUND).float().mean())}  # fmt: skip
        known |= _truth(source, reconstruct, training, stage)
        for tokens in INGREDIENTS["tokens"]:
            sample, active = _sampled(source, reconstruct, round(tokens * size.d_model), size)
            rows.append({**known, "l0": active, "tokens": tokens, **held_out_split(sample, X, ERROR)[0]})
    return rows


def train(
    source: Source, l0: int, training: Training, stage: Stage
) -> tuple[Callable[[Tensor], tuple[Tensor, float]], Tensor]:
    """Train a TopK SAE; what makes a reconstruction and its L0, and the decoder's unit rows."""
    first = source.contexts(BATCH)
    stats = ActivationStats.of(first)
    trainer = lean_trainer(SaeTarget("known", "topk", WIDTH, l0), stats, source.size.seed, "cpu")
    n_steps, done = max(1, training.tokens // BATCH), 0
    g = torch.Generator().manual_seed(source.size.seed)
    while done < n_steps:
        block = source.contexts(max(1, 16 * BATCH // source.size.context_length))
        orders = [torch.randperm(len(block), generator=g) for _ in range(4)]
        for batch in (part for order in orders for part in block[order].split(BATCH)):
            share = min(done / n_steps, 1.0)
            trainer.step(batch, min(1.0, 20 * (share + 1 / n_steps), 3 * (1 - share)))
            done += 1
        stage.advance(len(block))

    def reconstruct(x: Tensor) -> tuple[Tensor, float]:
        made, active = trainer.reconstruct(trainer.normalise(x))
        return (made.float() / trainer.scale + trainer.centre).detach(), active

    rows = trainer.parameters["dec"].detach()
    return reconstruct, rows / rows.norm(dim=1, keepdim=True)


def _pieces(
    source: Source, reconstruct: Callable[[Tensor], tuple[Tensor, float]], n: int
) -> tuple[dict[str, Tensor], float]:
    x = source.contexts(n)
    made, active = reconstruct(x)
    return {"x": x, "error": x - made}, active


def _truth(source: Source, reconstruct: Callable[..., Any], training: Training, stage: Stage) -> dict[str, float]:
    moments, done = PieceMoments(["x"], ["error"], source.size.d_model), 0
    while done < training.truth_tokens:
        pieces, _ = _pieces(source, reconstruct, 16_384 // source.size.context_length)
        moments.add(pieces)
        done += len(pieces["x"])
        stage.advance(len(pieces["x"]))
    best = best_split(moments, X, ERROR, {})
    return {"truth_fvu": best.fvu, "truth_linear": best.linear, "truth_nonlinear": best.nonlinear}


def _sampled(source: Source, reconstruct: Callable[..., Any], n_tokens: int, size: Size) -> tuple[Tokens, float]:
    n_contexts = -(-n_tokens // size.context_length)
    pieces, active = _pieces(source, reconstruct, n_contexts)
    contexts = torch.arange(n_contexts).repeat_interleave(size.context_length)
    folds = torch.from_numpy(assign_folds(np.full(n_contexts, size.context_length), size.n_folds, size.seed))[contexts]
    moments = PieceMoments(["x"], ["error"], size.d_model, size.n_folds)
    moments.add(pieces, folds)
    return Tokens(pieces, moments, folds, contexts, size.seed), active
