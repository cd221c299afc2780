"""Dictionaries that know nothing of the model, and a model that has learned nothing, measured as the SAE is.

1. A random SAE: unit rows in random directions, its encoder their transpose about the mean of x, as many active latents as the
   SAE has on average; its reconstruction is scaled by the one number that makes its error smallest.
2. A dead SAE, which always gives its bias; and one that gives x itself.
3. Two small SAEs, trained alike and on as many tokens: one on the model's activations, one on those of a copy of the model with
   random weights, on the same texts. Half of the contexts train, the others measure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dmcore.analysis.control_rows import Found, control
from dmcore.analysis.control_tokens import ROWS, ControlTokens, Measured, half_width, measure, paired
from dmcore.errors import DarkMatterError
from dmcore.estimate import Estimate
from dmcore.math.bootstrap import interval
from dmcore.math.folds import assign_folds
from dmcore.math.sparse_codes import TopKEncoder, decode
from dmcore.progress import Stage
from dmcore.results.controls import AGREES, DIFFERS, METRICS, WITHIN

MOST_LATENTS = 8192
"""Of the random SAE: with more it would take as long as the whole study."""
EXACT = 1e-4
"""How far a number that is exact but for float32 may be from what it should be."""
Reconstruct = Callable[[Tensor], Tensor]
"""(n_tokens, d_model) activations to their reconstruction."""
TrainSae = Callable[[Tensor, int, int, int], Reconstruct]
"""A small SAE trained on (n_tokens, d_model) activations: of so many latents, so many active, on so many tokens in all."""


@dataclass(frozen=True)
class OwnSae:
    """What is known of the SAE."""

    d_sae: int
    l0: float
    bias: Tensor | None
    """(d_model,) what it gives where no latent is active; None where it has no such thing."""


@dataclass(frozen=True)
class RandomModel:
    """How the control of the randomly initialised model is made."""

    acts: Callable[[], Tensor]
    """(n_tokens, d_model) its activations at the tokens that the controls work on, in their order."""
    train: TrainSae
    training_tokens: int


def dictionary_controls(tokens: ControlTokens, own: Measured, sae: OwnSae, found: Found, stage: Stage) -> None:
    """The random, dead and identity SAE."""
    n, mean = (tokens.n_tokens, tokens.n_contexts), tokens.inputs.mean(range(tokens.n_folds)).to(tokens.x.dtype)
    add_dictionary(found, "own", "The SAE", sae.l0, sae.d_sae, own, n)
    width, k = min(sae.d_sae, MOST_LATENTS), max(1, min(round(sae.l0), sae.d_sae, MOST_LATENTS))
    random = measure(tokens, random_errors(tokens.x, mean, width, k, tokens.seed))
    add_dictionary(found, "random", "Random SAE", float(k), width, random, n)
    stage.advance(1)
    constant = mean if sae.bias is None else sae.bias.to(tokens.x)
    dead = measure(tokens, tokens.x - constant, least_squares=True)
    add_dictionary(found, "dead", "Dead SAE", 0.0, sae.d_sae, dead, n)
    stage.advance(1)
    identity = measure(tokens, torch.zeros_like(tokens.x))
    add_dictionary(found, "identity", "Identity", float(tokens.d_model), tokens.d_model, identity, n)
    stage.advance(1)
    rows = found.tables["controls"]
    what = f"{width:,} random unit directions, {k} active a token, encoder the transpose, best scaled."
    # Of nonlinear FVU nothing can be expected: what a few random directions leave is nearly all linear in x.
    rows.append(
        control(
            "random_fvu", "Random SAE, FVU", ratio_of(random, own, "fvu"), (1.0, None),
            group="dictionaries", rule=WITHIN, n=n, what=what, quantity="FVU over the SAE's own",
            why="Directions that were not learned leave more of x: more than 1.",
            means="Random directions do as well: the SAE has learned nothing that this number sees.",
        )
    )  # fmt: skip
    width_own = half_width(own["r2_error"])
    rows += [
        control(
            "random_linear", "Random SAE, linear share", paired(random, own, "r2_error"), (-width_own, width_own),
            group="dictionaries", rule=DIFFERS, n=n, what=what, quantity="R² of the error vector, less the SAE's own",
            why="The linear share is the SAE's own, not that of any dictionary: other than 0 by more than its interval.",
            means="A random SAE has the same linear share, so that says nothing of what was learned.",
        ),
        control(
            "dead_linear", "Dead SAE, linear share", dead["r2_error"], (1.0 - EXACT, 1.0), expected=1.0,
            group="known", rule=AGREES, n=n, quantity="R² of the error vector",
            what="An SAE that always gives its bias: no latent is active, its error is x less a constant.",
            why="That error is linear in x, exactly: 1.",
            means="A linear error is not found to be linear: the map or its folds are wrong.",
        ),
        _identity_row(identity, n),
    ]  # fmt: skip


def _identity_row(identity: Measured, n: tuple[int, int]) -> dict[str, object]:
    """FVU 0, and no R2."""
    given = any(np.isfinite(identity[metric].value) for metric in ("r2_error", "r2_error_mean_dims"))
    value = identity["fvu"] if not given else Estimate(float("nan"))
    return control(
        "identity", "Identity, FVU", value, (0.0, 0.0), expected=0.0, group="known", rule=AGREES, n=n,
        quantity="FVU", what="An SAE that gives x itself: its error is 0 on every token.",
        why="Nothing is left: 0. An error of 0 does not vary, so no R² is given for it, neither 0 nor 1.",
        means="An R² is given for an error that does not vary." if given else "An error of 0 has an FVU.",
    )  # fmt: skip


def random_errors(x: Tensor, mean: Tensor, width: int, k: int, seed: int) -> Tensor:
    """(n_tokens, d_model) errors of a random TopK SAE about `mean`, scaled by the number that makes them smallest."""
    generator = torch.Generator().manual_seed(int(np.random.default_rng([seed, 4]).integers(2**62)))
    rows = torch.randn(width, x.shape[1], generator=generator)
    rows = (rows / rows.norm(dim=1, keepdim=True)).to(x)
    encoder = TopKEncoder(rows.T.contiguous(), torch.zeros(width).to(x), k, None)
    recon = torch.cat([decode(encoder.encode(some - mean), rows, torch.zeros_like(mean)) for some in x.split(ROWS)])
    products = [((some - mean).double() * made.double()).sum() for some, made in zip(x.split(ROWS), recon.split(ROWS),
                                                                                     strict=True)]  # fmt: skip
    squares = [made.double().square().sum() for made in recon.split(ROWS)]
    scale = float(sum(products) / sum(squares).clamp_min(1e-300))  # type: ignore[union-attr]
    return x - mean - scale * recon


def add_dictionary(
    found: Found, name: str, title: str, l0: float, d_sae: int, measured: Measured, n: tuple[int, int]
) -> None:
    """A row of the table of dictionaries."""
    row = measured.row(METRICS)
    found.add("dictionaries", name=name, title=title, l0=l0, d_sae=d_sae, **row, n_tokens=n[0], n_contexts=n[1])


def ratio_of(first: Measured, second: Measured, metric: str) -> Estimate:
    """One number over another, with its paired interval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = first.result.replicates[metric] / second.result.replicates[metric]
        value = float(np.float64(first[metric].value) / np.float64(second[metric].value))
    return interval(value, replicates)


def model_controls(tokens: ControlTokens, sae: OwnSae, given: RandomModel | None, found: Found, stage: Stage) -> None:
    """A small SAE on the model against one on its randomly initialised copy."""
    if given is None:
        found.remark("model", "No small SAE was trained on a randomly initialised copy of the model, as was asked for.")
        return
    if tokens.n_contexts < 4:
        found.remark("model", "Four contexts at least are needed to train on some and to measure on others.")
        return
    try:
        acts = given.acts()
    except DarkMatterError as error:
        found.remark("model", f"There is no randomly initialised copy of the model to compare with: {error}")
        return
    stage.advance(1)
    training = torch.from_numpy(np.random.default_rng([tokens.seed, 5]).permutation(tokens.n_contexts) % 2 == 0)
    seen = training.to(tokens.x.device)[tokens.contexts]
    width = min(sae.d_sae, 4 * tokens.d_model)
    k = max(1, min(round(sae.l0), width // 2))
    results, test = {}, None
    for name, title, x in (
        ("small", "Small SAE, the model", tokens.x),
        ("random_model", "Small SAE, the random model", acts.to(tokens.x)),
    ):
        reconstruct = given.train(x[seen], width, k, given.training_tokens)
        test = _held_out(tokens, x, ~seen, training.numpy())
        if not test.determined:
            found.remark(
                "model", "Half of the contexts have too few tokens for a map of x: no random model was compared."
            )
            return
        error = torch.cat([some - reconstruct(some) for some in test.x.split(ROWS)])
        results[name] = measure(test, error)
        add_dictionary(found, name, title, float(k), width, results[name], (test.n_tokens, test.n_contexts))
        stage.advance(1)
    assert test is not None, "both were measured"
    n = (test.n_tokens, test.n_contexts)
    what = (f"TopK SAEs of {width:,} latents, {k} active, each trained on {given.training_tokens:,} tokens of the other "
            "contexts: on the model, and on a copy of it with random weights.")  # fmt: skip
    for metric, called in (("r2_error", "linear share"), ("fvu_nonlinear", "nonlinear FVU")):
        near = half_width(results["small"][metric])
        quantity = "R² of the error vector" if metric == "r2_error" else "Nonlinear FVU"
        found.tables["controls"].append(
            control(
                f"model_{metric}", f"Random model, {called}", paired(results["random_model"], results["small"], metric),
                (-near, near), group="model", rule=DIFFERS, n=n, what=what,
                quantity=f"{quantity}, less that on the model",
                why="The number is of what the model has learned, not of any activations: other than 0 by more than its "
                "interval.",
                means="A model that has learned nothing gives the same number.",
            )
        )  # fmt: skip


def _held_out(tokens: ControlTokens, x: Tensor, rows: Tensor, training: np.ndarray) -> ControlTokens:
    """The contexts that no small SAE was trained on, numbered anew, in folds of their own."""
    numbers = np.flatnonzero(~training)
    contexts = torch.from_numpy(np.cumsum(~training) - 1).to(x.device)[tokens.contexts[rows]]
    sizes = np.bincount(contexts.cpu().numpy(), minlength=len(numbers))
    n_folds = min(tokens.n_folds, len(numbers))
    folds = assign_folds(sizes, n_folds, tokens.seed)
    return replace(tokens, x=x[rows], error=tokens.error[:0], contexts=contexts, folds_of_contexts=folds,
                   units_of_contexts=tokens.units_of_contexts[numbers], n_folds=n_folds)  # fmt: skip
