"""Controls in which nothing is to be found: shuffled errors, and errors of the same norm in random directions.

1. Rows of `[e, |e|^2]` are shuffled over all tokens; held-out R2 follows from moments, without a second pass. Its expectation
   is known exactly for these activations (`dmcore.math.held_out_bias`); so the interval is over shuffles, not over texts.
2. The same with the ridge of each fold chosen on the others.
3. Rows are shuffled within their context: what is left is what the tokens of a text have in common.
4. `|e| u` with u isotropic: nothing of the vector can be predicted, and of its squared norm exactly as much as before.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmcore.analysis.control_rows import Found, control, over_draws
from dmcore.analysis.control_tokens import ControlTokens, Measured, measure, paired
from dmcore.analysis.regression import ridge_bases
from dmcore.math.held_out_bias import (
    exchangeable_bias,
    gaussian_bias,
    held_out_r2,
    independent_bias,
    ridge_by_folds,
)
from dmcore.math.linear_map import centred, fit_map
from dmcore.math.moments import TargetMoments
from dmcore.math.split import row_norm_sq
from dmcore.progress import Stage
from dmcore.results.controls import AGREES, WITHIN

RESOLUTION = 0.01
"""Half-width of an interval of R2 above which a null says nothing."""
SAME = 1e-4
"""Two R2 that differ by less are the same up to rounding in float32."""
VECTOR, NORM = "R² of the error vector", "R² of |e|²"


def shuffled_controls(tokens: ControlTokens, own: Measured, draws: int, found: Found, stage: Stage) -> None:
    """Shuffled errors, over all tokens and within contexts."""
    d, cells = tokens.d_model, tokens.cells_of_fold
    columns = {"vector": slice(0, d), "norm": slice(d, d + 1)}
    values: dict[str, list[float]] = {f"{name}{kind}": [] for name in columns for kind in ("", "_ridge")}
    bases = ridge_bases(tokens.inputs, cells)
    for draw in range(draws):
        order = torch.from_numpy(np.random.default_rng([tokens.seed, 1, draw]).permutation(tokens.n_tokens))
        targets = tokens.error_moments(tokens.error[order.to(tokens.x.device)], tokens.folds, tokens.n_folds)
        for name, where in columns.items():
            values[name].append(held_out_r2(tokens.inputs, targets, cells, where))
            values[f"{name}_ridge"].append(ridge_by_folds(bases, tokens.inputs, targets, cells, where))
        if draw == 0:
            _spectra(tokens, targets, found)
        stage.advance(1)
    bias = exchangeable_bias(tokens.inputs, cells)
    about = gaussian_bias(tokens.n_train, d, tokens.n_tokens)
    for name, quantity in (("vector", VECTOR), ("norm", NORM)):
        _shuffled_rows(tokens, name, quantity, values, (bias, about), found)
    found.tables["controls"].append(_within_contexts(tokens, own))
    stage.advance(1)


def _shuffled_rows(
    tokens: ControlTokens,
    name: str,
    quantity: str,
    values: dict[str, list[float]],
    bias: tuple[float, float],
    found: Found,
) -> None:
    """A row by least squares and one by ridge for one target; `bias`: exactly, and for Gaussian activations."""
    n, exact = (tokens.n_tokens, tokens.n_contexts), bias[0]
    of = "Errors" if name == "vector" else "Squared norms"
    what = f"{of} shuffled over all tokens, {len(values[name])} times; held-out least squares on x."
    found.tables["controls"].append(
        control(
            f"shuffled_{name}", f"{of} shuffled, least squares", over_draws(values[name]), (exact, exact), expected=exact,
            group="shuffled", rule=AGREES, n=n, quantity=quantity, over_texts=False, resolution=RESOLUTION, what=what,
            why=f"Held-out least squares on {tokens.d_model:,} dimensions is fitted to noise: {bias[1]:.5f} for Gaussian "
            f"activations (about −d/(n − d − 1)) with n = {tokens.n_train:,.0f} training tokens, {exact:.5f} exactly for these.",
            means="More is found in shuffled errors than chance allows: tokens or folds are mixed up.",
        )
    )  # fmt: skip
    # The mean of the training tokens is not that of all: what is left when the map has shrunk to it.
    near, mean = abs(exact) / 10, gaussian_bias(tokens.n_train, 0, tokens.n_tokens)
    found.tables["controls"].append(
        control(
            f"shuffled_{name}_ridge", f"{of} shuffled, ridge chosen", over_draws(values[f"{name}_ridge"]), (mean - near, near),
            expected=0.0, group="shuffled", rule=AGREES, n=n, quantity=quantity, over_texts=False, resolution=RESOLUTION,
            what=f"{what.removesuffix('least squares on x.')}ridge, each fold's chosen on the other folds.",
            why=f"With its penalty chosen by cross-validation the map shrinks to the mean: 0, up to a tenth of the bias of "
            f"least squares and what the mean itself loses, {mean:.5f}.",
            means="A chosen ridge finds something in shuffled errors.",
        )
    )  # fmt: skip
    for kind in ("", "_ridge"):
        for draw, value in enumerate(values[f"{name}{kind}"]):
            found.add("draws", name=f"shuffled_{name}{kind}", draw=draw, value=value)


def _within_contexts(tokens: ControlTokens, own: Measured) -> dict[str, object]:
    """Errors shuffled within each context."""
    order = np.random.default_rng([tokens.seed, 2]).random(tokens.n_tokens)
    contexts = tokens.contexts.cpu().numpy()
    # Stable order by context, random within: row i of the sorted tokens takes the error of another row of its context.
    by_context, mixed = np.argsort(contexts, kind="stable"), np.lexsort((order, contexts))
    source = np.empty(tokens.n_tokens, dtype=np.int64)
    source[by_context] = mixed
    of_text = measure(tokens, tokens.error[torch.from_numpy(source).to(tokens.x.device)])
    limit = own["r2_error"].value / 2
    return control(
        "shuffled_within", "Errors shuffled within each text", of_text["r2_error"], (None, limit), group="texts",
        rule=WITHIN, n=(tokens.n_tokens, tokens.n_contexts), quantity=VECTOR,
        what="Errors shuffled among the tokens of each context, so that only what they have in common is left.",
        why=f"Below half of the SAE's own R², {own['r2_error'].value:.3f}: the linear part is of tokens, not of texts.",
        means="Most of the linear part is the same for all tokens of a text.",
    )  # fmt: skip


def random_directions(tokens: ControlTokens, own: Measured, draws: int, found: Found, stage: Stage) -> None:
    """Errors of the same norm in random directions."""
    norm_sq = row_norm_sq(tokens.error)
    values, first = [], None
    for draw in range(draws):
        turned = _turned(tokens, norm_sq.sqrt(), draw)
        if first is None:
            first = measure(tokens, turned)
        targets = tokens.error_moments(turned, tokens.folds, tokens.n_folds)
        values.append(held_out_r2(tokens.inputs, targets, tokens.cells_of_fold, slice(0, tokens.d_model)))
        found.add("draws", name="random_vector", draw=draw, value=values[-1])
        stage.advance(1)
    assert first is not None, "there is a draw"
    bias = independent_bias(tokens.inputs, tokens.cells_of_fold, tokens.x, norm_sq, tokens.folds)
    n = (tokens.n_tokens, tokens.n_contexts)
    found.tables["controls"] += [
        control(
            "random_vector", "Random directions, the vector", over_draws(values), (bias, bias), expected=bias,
            group="directions", rule=AGREES, n=n, quantity=VECTOR, over_texts=False, resolution=RESOLUTION,
            what=f"Each error replaced by a random vector of its norm, {draws} times; held-out least squares on x.",
            why=f"No direction can be told from x: 0 but for the bias of held-out least squares, {bias:.5f} for these norms.",
            means="Random directions are predicted otherwise than by chance.",
        ),
        control(
            "random_norm", "Random directions, the norm", paired(first, own, "r2_error_norm_sq"), (-SAME, SAME), expected=0.0,
            group="directions", rule=WITHIN, n=n, quantity=f"{NORM}, less the SAE's own",
            what="The same random vectors; their squared norm is predicted from x.",
            why="The norms are the SAE's own, so this R² does not change.",
            means="The R² of the squared norm depends on more than the norm.",
        ),
    ]  # fmt: skip


def _turned(tokens: ControlTokens, norms: Tensor, draw: int) -> Tensor:
    """Vectors of these norms in directions that are isotropic, drawn on the CPU: the same on every device."""
    generator = torch.Generator().manual_seed(int(np.random.default_rng([tokens.seed, 3, draw]).integers(2**62)))
    directions = torch.randn(tokens.error.shape, generator=generator).to(tokens.x.device)
    lengths = torch.linalg.vector_norm(directions, dim=1, keepdim=True).clamp_min(1e-30)
    return (directions / lengths * norms[:, None].float()).to(tokens.error.dtype)


def _spectra(tokens: ControlTokens, shuffled: TargetMoments, found: Found) -> None:
    """Variance of the predicted error by direction, of the SAE's error and of a shuffled one, over the error's variance."""
    d, every = tokens.d_model, list(range(tokens.n_folds))
    gram = tokens.inputs.pooled(every)
    own = tokens.error_moments(tokens.error, tokens.folds, tokens.n_folds)
    shares = []
    for targets in (own, shuffled):
        cross, target_sq = targets.pooled(every)
        fitted = fit_map(gram, cross[:, :d], tokens.inputs.shift)
        scatter, _ = centred(gram, cross[:, :d])
        variance = float((target_sq[:d] - cross[-1, :d].square() / gram[-1, -1]).sum())
        predicted = torch.linalg.eigvalsh(fitted.weight.T @ scatter @ fitted.weight).flip(0).clamp_min(0.0)
        shares.append((predicted / max(variance, 1e-300)).tolist())
    for rank, (mine, null) in enumerate(zip(*shares, strict=True), 1):
        found.add("spectra", rank=rank, own=mine, shuffled=null)
