"""All controls of one SAE: its tokens are read once, as many contexts as fit in memory, and each control works on those.

1. Read activations and errors of the contexts, at equal steps where there are too many (`ContextSample`).
2. The SAE's own numbers on them, which are the study's where these are all contexts.
3. The controls: nulls, dictionaries, the random model, folds and tokens, seeds; each row judged by its rule.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch

from dmcore.analysis.activations import Activations
from dmcore.analysis.codes import Codes
from dmcore.analysis.context_sample import ContextSample, sample_of
from dmcore.analysis.control_dictionaries import (
    OwnSae,
    RandomModel,
    dictionary_controls,
    model_controls,
)
from dmcore.analysis.control_nulls import random_directions, shuffled_controls
from dmcore.analysis.control_rows import Found
from dmcore.analysis.control_splits import (
    fold_seed_control,
    leak_control,
    token_controls,
    training_seed_control,
)
from dmcore.analysis.control_tokens import ControlTokens, measure
from dmcore.analysis.partition import Partition
from dmcore.analysis.reduction_passes import AnyDictionary
from dmcore.errors import DataError
from dmcore.progress import Reporter
from dmcore.results.controls import VERDICTS, Controls, ControlSettings
from dmcore.specs import Settings

MOST_FLOATS = 2**28
"""Of the activations in memory; errors are as many again, and a control makes one more."""


@dataclass(frozen=True)
class ControlInputs:
    """What the controls work from."""

    name: str
    hook: str
    acts: Activations
    sae: AnyDictionary
    codes: Path
    partition: Partition
    settings: Settings
    seed: int
    device: torch.device
    l0: float
    """Of the SAE's record."""
    asked: ControlSettings
    training_seeds: pl.DataFrame | None = None
    """Rows of `PARTS_TABLES["saes"]` of SAEs on x; None where there are none."""

    def sample(self) -> ContextSample:
        """The contexts that controls work on."""
        kept = self.acts.length - self.settings.skip_positions
        fit = max(2, MOST_FLOATS // max(kept * self.acts.d_model, 1))
        n = min(self.asked.contexts or self.acts.n_contexts, fit)
        return sample_of(self.partition, kept, n, self.acts.d_model + 1)


@torch.no_grad()  # not inference_mode: small SAEs are trained on these
def read_tokens(given: ControlInputs, sample: ContextSample) -> ControlTokens:
    """Activations and errors of the kept tokens of a sample."""
    acts, codes = sample.acts(given.acts), Codes(given.codes)
    kept_x, kept_error, kept_contexts = [], [], []
    for chunk in acts.chunks():
        x = acts.read(chunk, given.device)
        error = x - given.sae.decode(sample.codes(codes, chunk, given.device), x).to(x.dtype)
        kept = (chunk.positions(given.device) >= given.settings.skip_positions).nonzero().squeeze(1)
        kept_x.append(x[kept])
        kept_error.append(error[kept])
        kept_contexts.append(chunk.contexts(given.device)[kept])
    partition = sample.partition(given.partition)
    return ControlTokens(
        x=torch.cat(kept_x),
        error=torch.cat(kept_error),
        contexts=torch.cat(kept_contexts),
        folds_of_contexts=partition.folds,
        units_of_contexts=sample.units,
        n_units=sample.n_units,
        n_folds=partition.n_folds,
        ridge=given.settings.ridge,
        fit_bias=given.settings.fit_bias,
        seed=given.seed,
    )


def controls(
    given: ControlInputs, sample: ContextSample, model: RandomModel | None, folder: Path, reporter: Reporter
) -> None:
    """Write the controls of one SAE into `folder`; `Controls` opens it.

    Args:
        given: the SAE and its texts.
        sample: the contexts that are worked on.
        model: how the control of the random model is made; None for none.

    Raises:
        DataError: too few tokens for a linear map of x.
    """
    tokens = read_tokens(given, sample)
    if not tokens.determined:
        raise DataError(
            f"{tokens.n_tokens:,} tokens are too few for controls on {tokens.d_model:,} dimensions, which compare with plain "
            "least squares whatever the study's ridge is: give more contexts."
        )
    found = Found()
    asked = given.asked
    total = 2 * asked.draws + asked.fold_seeds + 13
    with reporter.stage(f"controls of {given.name}", total, "steps") as stage, torch.no_grad():
        own = measure(tokens, tokens.error)
        sae = OwnSae(given.sae.d_sae, given.l0, given.sae.decoder_bias)
        shuffled_controls(tokens, own, asked.draws, found, stage)
        random_directions(tokens, own, asked.draws, found, stage)
        dictionary_controls(tokens, own, sae, found, stage)
        model_controls(tokens, sae, model, found, stage)
        leak_control(tokens, own, found, stage)
        token_controls(tokens, own, found, stage)
        fold_seed_control(tokens, own, asked.fold_seeds, found, stage)
        training_seed_control(given.training_seeds, (tokens.n_tokens, tokens.n_contexts), found)
    if not sample.is_whole:
        found.remark("sample", f"Controls are on {tokens.n_contexts:,} of the study's {sample.n_contexts:,} contexts.")
    tables = found.finished()
    verdicts = Counter(tables["controls"]["verdict"].to_list())
    about = {
        "sae": given.name, "hook": given.hook, "d_model": tokens.d_model, "d_sae": given.sae.d_sae, "l0": given.l0,
        "n_tokens": tokens.n_tokens, "n_contexts": tokens.n_contexts, "all_contexts": sample.n_contexts,
        "n_train": round(tokens.n_train), "n_folds": tokens.n_folds, "skip_positions": given.settings.skip_positions,
        "seed": given.seed, "ridge": tokens.ridge, "fit_bias": tokens.fit_bias, "draws": asked.draws,
        "verdicts": {verdict: verdicts[verdict] for verdict in VERDICTS},
    }  # fmt: skip
    Controls.write(folder, about, tables)
