"""Known features: over a grid of ingredients, what the error is made of, its best split, and the split that is estimated.

1. For each density a world (`dmcore.math.known_features`), and the moments of its pieces over `truth_tokens` tokens: the truth
   of every point of the grid follows from them (`dmcore.math.mixtures.best_split`), by a sample that is at least 10 times the
   largest that an estimate is made of. What is introduced is independent of x: only its mean, which a bias predicts, is
   linear.
2. For each density, amount of dense and circular parts, and number of tokens a sample of its own: the estimates of all points
   that have them, held out by context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from dmcore.errors import DataError
from dmcore.math.folds import assign_folds
from dmcore.math.known_features import BLOCKS, INPUTS, OTHERS, World
from dmcore.math.mixtures import PieceMoments, Tokens, best_split, held_out_split
from dmcore.progress import Stage
from dmcore.results.synthetic import COMPONENTS, DEFAULTS, INGREDIENTS

Mixture = dict[str, float]


@dataclass(frozen=True)
class Size:
    """How much is made."""

    d_model: int = 32
    n_features: int = 256
    context_length: int = 32
    """Tokens in each context."""
    truth_tokens: int = 400_000
    """Of which the truth of a density is computed."""
    n_folds: int = 5
    seed: int = 0

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from the usual, for the spec of an entry."""
        usual = asdict(Size())
        return {name: value for name, value in asdict(self).items() if value != usual[name]}


@dataclass(frozen=True)
class Scales:
    """Mean squares about the mean, of all tokens, by which the amounts of the ingredients are measured."""

    sparse: float
    dense: float
    circles: float
    spurious: float
    """About 0: all of it is error."""

    @classmethod
    def of(cls, moments: PieceMoments) -> Scales:
        """From the moments of the truth."""
        n_tokens, d = float(moments.cross[..., -1, -1].sum()), moments.d_model
        sums = moments.cross[:, -1, :-1].sum(0).view(-1, d)
        names = moments.names

        def spread(weights: Mixture) -> float:
            mean = sum(sums[names.index(n)] * w for n, w in weights.items()) / n_tokens
            return moments.dot(weights, weights) / n_tokens - float(torch.as_tensor(mean).square().sum())

        spurious = moments.dot({"spurious": 1.0}, {"spurious": 1.0}) / n_tokens
        return cls(spread(blocks(range(BLOCKS))), spread({"dense": 1.0}), spread({"circles": 1.0}), spurious)


def blocks(which: Any, weight: float = 1.0, kind: str = "block") -> Mixture:
    """Some blocks of features, all at one weight."""
    return {f"{kind}_{k}": weight for k in which}


def mixtures_of(levels: Mapping[str, float], scales: Scales) -> tuple[Mixture, Mixture, dict[str, Mixture]]:
    """The activation, the error of the known SAE, and the components of that error, as weights of pieces."""
    n_absent = round(levels["absent"] * BLOCKS)
    learned, absent = range(BLOCKS - n_absent), range(BLOCKS - n_absent, BLOCKS)
    dense = (levels["dense"] * scales.sparse / scales.dense) ** 0.5
    circles = (levels["circles"] * scales.sparse / scales.circles) ** 0.5
    spurious = (levels["introduced"] * scales.sparse / scales.spurious) ** 0.5
    lost = levels["shrinkage"]
    components = {
        "absent": blocks(absent),
        "dense": {"dense": dense},
        "shrunk": blocks(learned, lost) | blocks(learned, -lost, "missed"),
        "missed": blocks(learned, 1.0, "missed"),
        "manifold": {"arcs": circles},
        "introduced": {"spurious": -spurious},
    }
    error: Mixture = {}
    for component in components.values():
        for name, weight in component.items():
            error[name] = error.get(name, 0.0) + weight
    return blocks(range(BLOCKS)) | {"dense": dense, "circles": circles}, error, components


def truth_moments(world: World, size: Size, seed: int) -> PieceMoments:
    """The moments of the pieces over `truth_tokens` tokens."""
    moments = PieceMoments(INPUTS, OTHERS, world.d_model)
    per_batch = max(1, 16_384 // size.context_length)
    left, batch = -(-size.truth_tokens // size.context_length), 0
    while left > 0:
        n = min(per_batch, left)
        moments.add(world.pieces(n, size.context_length, seed + 1_000_003 * (batch + 1)))
        left, batch = left - n, batch + 1
    return moments


def sampled(world: World, size: Size, n_tokens: int, seed: int) -> Tokens:
    """Fresh tokens for an estimate, in folds of contexts.

    Raises:
        DataError: too few for `n_folds` contexts.
    """
    n_contexts = -(-n_tokens // size.context_length)
    if n_contexts < size.n_folds:
        raise DataError(f"{n_tokens} tokens are {n_contexts} contexts, fewer than {size.n_folds} folds: ask for more.")
    pieces = world.pieces(n_contexts, size.context_length, seed)
    contexts = torch.arange(n_contexts).repeat_interleave(size.context_length)
    folds = torch.from_numpy(assign_folds(np.full(n_contexts, size.context_length), size.n_folds, seed))[contexts]
    moments = PieceMoments(INPUTS, OTHERS, world.d_model, size.n_folds)
    moments.add(pieces, folds)
    return Tokens(pieces, moments, folds, contexts, size.seed)


def ground_truth(size: Size, stage: Stage) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the tables `settings` and `components`."""
    settings, components = [], []
    numbers = {levels: k for k, levels in enumerate(product(*INGREDIENTS.values()))}
    for density in INGREDIENTS["density"]:
        world = World.build(size.d_model, size.n_features, density, seed=size.seed)
        moments = truth_moments(world, size, size.seed)
        stage.advance(size.truth_tokens)
        scales = Scales.of(moments)
        truths: dict[tuple[float, ...], dict[str, float]] = {}
        for levels, tokens in _points(world, size, density, stage):
            number = numbers[tuple(levels.values())]
            x, error, parts = mixtures_of(levels, scales)
            known = tuple(v for name, v in levels.items() if name != "tokens")
            if known not in truths:
                best = best_split(moments, x, error, parts)
                truths[known] = {"truth_fvu": best.fvu, "truth_linear": best.linear, "truth_nonlinear": best.nonlinear}
                names = ("size", "linear", "nonlinear", "r2")
                components += [
                    {"setting": number, "component": c, **dict(zip(names, best.components[c], strict=True))}
                    for c in COMPONENTS
                ]
            found, _ = held_out_split(tokens, x, error)
            settings.append({"setting": number, **levels, **truths[known], **found})
    return sorted(settings, key=lambda row: row["setting"]), components


def _points(world: World, size: Size, density: float, stage: Stage) -> Iterator[tuple[dict[str, float], Tokens]]:
    """Every point of the grid of one density, with the tokens that it is estimated on."""
    drawn = ("dense", "circles", "tokens")
    mixed = [name for name in INGREDIENTS if name not in (*drawn, "density")]
    # The number of tokens that a page opens with comes first: components are told of its settings.
    ordered = sorted(INGREDIENTS["tokens"], key=lambda v: v != DEFAULTS["tokens"])
    for k, (tokens, dense, circles) in enumerate(product(ordered, INGREDIENTS["dense"], INGREDIENTS["circles"])):
        n_tokens = round(tokens * size.d_model)
        some = sampled(world, size, n_tokens, seed=size.seed + 7_919 * (k + 1) + round(1000 * density))
        stage.advance(n_tokens)
        for values in product(*(INGREDIENTS[name] for name in mixed)):
            levels = dict(zip(mixed, values, strict=True)) | {"dense": dense, "circles": circles, "tokens": tokens}
            yield {name: density if name == "density" else levels[name] for name in INGREDIENTS}, some


def n_made(size: Size) -> int:
    """Tokens that are made, for progress."""
    grid = len(INGREDIENTS["dense"]) * len(INGREDIENTS["circles"])
    estimates = sum(round(tokens * size.d_model) for tokens in INGREDIENTS["tokens"]) * grid
    return (size.truth_tokens + estimates) * len(INGREDIENTS["density"])
