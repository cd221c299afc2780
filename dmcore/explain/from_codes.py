"""The examples of random latents of an SAE, from its stored codes.

1. Count in how many kept tokens each latent is active; those that never are, are left out.
2. Choose latents at random, all with the same chance, by the seed.
3. Draw the windows of each (`dmcore.explain.draw`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import polars as pl

from dmcore.analysis.feature_codes import LatentMajor
from dmcore.analysis.token_kinds import unnamed_vocabulary
from dmcore.errors import DataError
from dmcore.explain.draw import DrawSettings, draw_examples
from dmcore.explain.examples import FeatureExamples
from dmcore.progress import Reporter
from dmcore.results.detection import N_LATENTS
from dmcore.sources.contexts import Contexts


def examples_of_codes(
    codes: Path,
    d_sae: int,
    contexts: Contexts,
    folder: Path,
    *,
    vocabulary: Callable[[Iterable[int]], pl.DataFrame] | None = None,
    n_latents: int = N_LATENTS,
    settings: DrawSettings | None = None,
    reporter: Reporter | None = None,
) -> list[FeatureExamples]:
    """The examples of random latents, by number; of all that are ever active where there are no more than asked for.

    Args:
        codes: folder of the SAE's codes over all tokens of the contexts.
        d_sae: latents.
        contexts: the texts.
        folder: for a temporary file of 10 bytes an active latent of a token.
        vocabulary: text of some token ids (`dmcore.analysis.token_kinds`); None names them by number.
        n_latents: how many.
        settings: of the windows.
        reporter: told of progress, and asked whether to stop.

    Raises:
        DataError: the codes cannot be read or do not fit the texts, or nothing is asked for.
    """
    settings, reporter = settings or DrawSettings(), reporter or Reporter()
    if n_latents < 1:
        raise DataError("Ask for the examples of at least one latent.")
    table = (vocabulary or unnamed_vocabulary)(np.unique(contexts.tokens).tolist())
    texts = dict(zip(table["token"].to_list(), table["text"].to_list(), strict=True))
    with LatentMajor(codes, d_sae, contexts.n_contexts, contexts.length, folder, reporter) as by_latent:
        counts = np.concatenate(
            [np.diff(slab.kept(contexts.length, settings.skip_positions).offsets) for slab in by_latent.slabs()]
        )
        chosen = choose_latents(counts, n_latents, settings.seed)
        found: list[FeatureExamples] = []
        with reporter.stage("windows of latents", len(chosen), "latents") as stage:
            for slab in by_latent.slabs():
                own = chosen[(chosen >= slab.first) & (chosen < slab.first + slab.n_latents)]
                for latent in own.tolist():
                    entries = slice(*slab.offsets[latent - slab.first : latent - slab.first + 2].tolist())
                    places, values = slab.tokens[entries], slab.values[entries]
                    found.append(draw_examples(latent, places, values, contexts.tokens, texts, settings))
                    stage.advance()
    return found


def choose_latents(counts: np.ndarray, n_latents: int, seed: int) -> np.ndarray:
    """Numbers of random latents, ascending.

    Args:
        counts: (d_sae,) kept tokens on which each is active; those with none are not chosen.
        n_latents: most of them.
        seed: of the choice.
    """
    alive = np.flatnonzero(counts)
    return np.sort(np.random.default_rng([seed, 6]).permutation(alive)[:n_latents])
