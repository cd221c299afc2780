"""What is put in the place of an activation: Sae(x), with either part of its error added back, and controls.

Random vectors depend on the seed and the context alone, and shuffled errors on the seed and the chunk that is read together,
so that neither changes with how many contexts are run at a time, or where a run was cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dmcore.analysis.activations import Chunk
from dmcore.results.downstream import DOSES, EXACT, PARTS

SHUFFLES = 1 << 63
"""Set in the keys of shuffles, so that they are those of no random vector."""


def dose_name(part: str, dose: float) -> str:
    """Of Sae(x) + dose * part."""
    return f"{part}_{dose:g}"


DOSE_NAMES = tuple(dose_name(part, dose) for part in PARTS for dose in DOSES)
EVERYWHERE = ("sae", "sae_linear", "sae_nonlinear", "sae_random", "sae_shuffled", "x_random", "zero", "mean")
"""Run on all contexts, besides the clean model."""
ON_SOME = (EXACT, *DOSE_NAMES)
"""Run on the contexts of the doses."""


class ChunkVectors:
    """The tokens of a chunk, and what each variant puts in their place.

    Args:
        chunk: whole contexts.
        x: (n_tokens, d_model) activations.
        error, linear: (n_tokens, d_model) `x - Sae(x)`, and its linear part out of fold.
        mean: (d_model,) of x over the kept tokens.
        skip_positions, seed: of the study.
    """

    def __init__(
        self, chunk: Chunk, x: Tensor, error: Tensor, linear: Tensor, mean: Tensor, *, skip_positions: int, seed: int
    ) -> None:
        shape = (chunk.n_contexts, chunk.length, x.shape[1])
        self.chunk, self._seed = chunk, seed
        self.x, self.error, self.linear = (v.reshape(shape) for v in (x, error, linear))
        self.nonlinear = self.error - self.linear
        self.recon = self.x - self.error
        self._mean = mean.to(x)
        kept = np.arange(chunk.length) >= skip_positions
        source = _another(np.flatnonzero(np.tile(kept, chunk.n_contexts)), len(x), seed, chunk.first_context)
        self._shuffled = torch.from_numpy(source).to(x.device)

    def of(self, variant: str, contexts: Sequence[int]) -> Tensor:
        """(n_contexts, length, d_model) what a variant puts in the place of the activations of some contexts of the chunk."""
        rows = torch.tensor(contexts, device=self.x.device)
        recon, error = self.recon[rows], self.error[rows]
        parts: dict[str, Callable[[], Tensor]] = {
            "sae": lambda: recon,
            "sae_linear": lambda: recon + self.linear[rows],
            "sae_nonlinear": lambda: recon + self.nonlinear[rows],
            "sae_random": lambda: recon + self.random(contexts),
            "sae_shuffled": lambda: recon + self.shuffled(contexts),
            "x_random": lambda: self.x[rows] + self.random(contexts),
            "zero": lambda: torch.zeros_like(recon),
            "mean": lambda: self._mean.expand_as(recon),
            EXACT: lambda: recon + error,
        }
        if variant in parts:
            return parts[variant]()
        part, dose = variant.split("_")
        return recon + float(dose) * getattr(self, part)[rows]

    def random(self, contexts: Sequence[int]) -> Tensor:
        """Isotropic vectors with the norms of the errors of some contexts."""
        drawn = [
            torch.from_numpy(_generator(self._seed, self.chunk.first_context + c).standard_normal(self.x.shape[1:]))
            for c in contexts
        ]
        return _with_norm(torch.stack(drawn).to(self.error), self.error[torch.tensor(contexts, device=self.x.device)])

    def shuffled(self, contexts: Sequence[int]) -> Tensor:
        """Errors of other tokens with the norms of the errors of some contexts."""
        rows = torch.tensor(contexts, device=self.x.device)
        source = self._shuffled.reshape(self.error.shape[:2])[rows]
        return _with_norm(self.error.flatten(0, 1)[source], self.error[rows])


def _with_norm(vectors: Tensor, like: Tensor) -> Tensor:
    """The vectors, with the norms of others; 0 where they have no direction."""
    own = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    wanted = torch.linalg.vector_norm(like, dim=-1, keepdim=True)
    return torch.where(own > 0, vectors * (wanted / own.clamp_min(1e-30)), 0.0)


def _another(kept: np.ndarray, n_tokens: int, seed: int, first_context: int) -> np.ndarray:
    """(n_tokens,) for each kept token another one, drawn at random, each once; skipped ones stand for themselves."""
    source = np.arange(n_tokens)
    order = _generator(seed, SHUFFLES + first_context).permutation(kept)
    source[order] = np.roll(order, 1)
    return source


def _generator(seed: int, what: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), what]))
