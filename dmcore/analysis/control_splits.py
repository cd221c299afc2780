"""Controls of how tokens are held out: by token or by context, in which folds, and whether there are enough of them.

1. Folds of single tokens, drawn at random: what the map learns of a text it is then tested on. The gain is the leak.
2. Maps fitted on 1/16 to all of the training contexts, tested on the same tokens. Where they tend to: the intercept of a line
   over d / (n - d - 1), in which the squared error of least squares is linear, through the largest three.
3. Other seeds of the folds; and, where they were measured, SAEs of other training seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from dmcore.analysis.control_rows import Found, control
from dmcore.analysis.control_tokens import ControlTokens, Measured, half_width, measure, measured, paired
from dmcore.estimate import Estimate
from dmcore.math.bootstrap import interval
from dmcore.math.folds import assign_folds
from dmcore.math.linear_map import fit_map
from dmcore.math.split import Centres, FoldedFit
from dmcore.progress import Stage
from dmcore.results.controls import METRICS, UNDECIDED, WITHIN

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Of the training contexts."""
WIDE = 2048
"""Dimensions above which the curve has its last three points only: each keeps a matrix of their square."""
TOKENS_PER_WEIGHT = 2
"""Training tokens for a weight below which a point is left out: least squares is then about to be undetermined."""
CURVED = METRICS[1:3]
QUANTITIES = {"r2_error": "R² of the error vector", "fvu_nonlinear": "Nonlinear FVU"}


def leak_control(tokens: ControlTokens, own: Measured, found: Found, stage: Stage) -> None:
    """Folds of tokens against folds of contexts."""
    order = np.random.default_rng([tokens.seed, 6]).permutation(tokens.n_tokens)
    folds = torch.from_numpy(order % tokens.n_folds).to(tokens.x.device)
    leak = paired(measure(tokens, tokens.error, folds=folds), own, "r2_error")
    stage.advance(1)
    near = half_width(own["r2_error"])
    found.tables["controls"].append(
        control(
            "leak", "Folds of tokens, not of texts", leak, (-near, near), expected=0.0, group="split", rule=WITHIN,
            n=(tokens.n_tokens, tokens.n_contexts), quantity="R² of the error vector, less that by folds of contexts",
            what=f"Tokens dealt to {tokens.n_folds} folds at random, so that maps are tested on texts that they were fitted on.",
            why="No more than half of the width of the SAE's own interval: its number would be the same. All numbers of this "
            "study are held out by context in any case.",
            means="A map learns the text that it is tested on: numbers held out by token are too high here.",
        )
    )  # fmt: skip


@dataclass(frozen=True)
class _Point:
    """The numbers by maps of some of the training contexts."""

    share: float
    n_train: float
    measured: Measured | None
    """None where least squares has no single answer."""


def token_controls(tokens: ControlTokens, own: Measured, found: Found, stage: Stage) -> None:
    """The learning curve, and whether there are enough tokens."""
    points = _curve(tokens, stage)
    for point in points:
        numbers = {} if point.measured is None else point.measured.row(CURVED)
        found.add(
            "curve", share=point.share, n_train=round(point.n_train), determined=point.measured is not None, **numbers
        )
    told = [(point.n_train, point.measured) for point in points if point.measured is not None]
    n = (tokens.n_tokens, tokens.n_contexts)
    if len(told) < 2 or points[-2].measured is None:
        found.remark(
            "tokens",
            f"There are {tokens.n_train:,.0f} training tokens for maps of {tokens.d_model:,} dimensions, too few for half of "
            f"them to determine a map (at least {TOKENS_PER_WEIGHT} a weight): whether there are enough cannot be told.",
        )
    for metric in ("r2_error", "fvu_nonlinear"):
        tends = _asymptote(told, metric, tokens.d_model)
        if tends is not None:
            found.add("asymptotes", metric=metric, value=tends.value, value_low=tends.low, value_high=tends.high)
        near = half_width(own[metric])
        change = Estimate(float("nan"))
        if len(told) >= 2 and points[-2].measured is not None and points[-1].measured is not None:
            change = paired(points[-1].measured, points[-2].measured, metric)
        row = control(
            f"tokens_{metric}", f"More tokens, {'linear share' if metric == 'r2_error' else 'nonlinear FVU'}", change,
            (-near, near), expected=0.0, group="tokens", rule=WITHIN, n=n,
            quantity=f"{QUANTITIES[metric]} by all training contexts, less that by half of them",
            what=f"Maps fitted on half and on all training contexts ({tokens.n_train:,.0f} tokens), tested on the same tokens.",
            why="Less than half of the width of the SAE's own interval: more tokens would not change what is said.",
            means="The number still moves with the number of tokens: add contexts to the study.",
        )  # fmt: skip
        if row["verdict"] == UNDECIDED and not np.isfinite(change.value):
            row["note"] = "Too few tokens for half of them to determine a map: add contexts to the study."
        found.tables["controls"].append(row)


def _curve(tokens: ControlTokens, stage: Stage) -> list[_Point]:
    """Maps of nested shares of the training contexts, from one pass of moments."""
    shares = SHARES if tokens.d_model <= WIDE else SHARES[-3:]
    levels = _levels(tokens, shares)
    n_levels, n_folds = len(shares), tokens.n_folds
    level_of = torch.from_numpy(levels).to(tokens.x.device)[tokens.contexts]
    cells = tokens.folds * n_levels + level_of
    n_cells = n_folds * n_levels
    inputs = tokens.input_moments(cells, n_cells)
    targets = tokens.error_moments(tokens.error, cells, n_cells)
    centres = Centres.from_moments(inputs, targets, range(n_cells))
    points = []
    for number, share in enumerate(shares):
        training = [
            [other * n_levels + level for other in range(n_folds) if other != fold for level in range(number + 1)]
            for fold in range(n_folds)
        ]
        counts = [float(inputs.n_tokens[own].sum()) for own in training]
        stage.advance(1)
        if tokens.ridge == 0 and min(counts) < TOKENS_PER_WEIGHT * (tokens.d_model + 1):
            points.append(_Point(share, float(np.mean(counts)), None))
            continue
        maps = tuple(
            fit_map(inputs.pooled(own), targets.pooled(own)[0], inputs.shift, ridge=tokens.ridge,
                    fit_bias=tokens.fit_bias).single()
            for own in training
        )  # fmt: skip
        result = measured(tokens, tokens.error, tokens.folds, FoldedFit(maps, None), centres)
        points.append(_Point(share, float(np.mean(counts)), result))
    return points


def _levels(tokens: ControlTokens, shares: Sequence[float]) -> np.ndarray:
    """(n_contexts,) the first share whose maps see each context; in each fold, contexts in random order."""
    order = np.random.default_rng([tokens.seed, 7]).permutation(tokens.n_contexts)
    levels = np.empty(tokens.n_contexts, dtype=np.int64)
    for fold in range(tokens.n_folds):
        mine = order[tokens.folds_of_contexts[order] == fold]
        ends = [max(1, round(share * len(mine))) for share in shares]
        levels[mine] = np.searchsorted(ends, np.arange(len(mine)), side="right").clip(max=len(shares) - 1)
    return levels


def _asymptote(told: Sequence[tuple[float, Measured]], metric: str, d_model: int) -> Estimate | None:
    """Where the last three points tend to with more and more tokens; None where there are fewer than three."""
    if len(told) < 3:
        return None
    last = told[-3:]
    over = np.array([d_model / (n_train - d_model - 1) for n_train, _ in last])
    weights = np.linalg.pinv(np.stack([np.ones(3), over], axis=1))[0]
    replicates = weights @ np.stack([one.result.replicates[metric] for _, one in last])
    return interval(float(weights @ [one[metric].value for _, one in last]), replicates)


def fold_seed_control(tokens: ControlTokens, own: Measured, n_seeds: int, found: Found, stage: Stage) -> None:
    """The nonlinear FVU with contexts cut into other folds."""
    sizes = np.bincount(tokens.contexts.cpu().numpy(), minlength=tokens.n_contexts)
    found.add("seeds", kind="folds", seed=tokens.seed, title="the study's", **{m: own[m].value for m in METRICS})
    changes = []
    for number in range(1, n_seeds + 1):
        folds = tokens.token_folds(assign_folds(sizes, tokens.n_folds, tokens.seed + number))
        other = measure(tokens, tokens.error, folds=folds)
        changes.append(other["fvu_nonlinear"].value - own["fvu_nonlinear"].value)
        found.add(
            "seeds",
            kind="folds",
            seed=tokens.seed + number,
            title="other folds",
            **{m: other[m].value for m in METRICS},
        )
        stage.advance(1)
    near = half_width(own["fvu_nonlinear"])
    found.tables["controls"].append(
        control(
            "fold_seeds", "Other folds", _largest(changes), (0.0, near),
            expected=0.0, group="seeds", rule=WITHIN, n=(tokens.n_tokens, tokens.n_contexts),
            quantity="Nonlinear FVU: largest change from the SAE's own",
            what=f"Contexts cut into {tokens.n_folds} folds by {n_seeds} other seeds.",
            why="Less than half of the width of the SAE's own interval: folds are drawn by chance and must not matter.",
            means="The number depends on how the contexts were cut.",
        )
    )  # fmt: skip


def _largest(changes: Sequence[float]) -> Estimate:
    """The largest change, whatever its sign: a number of these seeds, without an interval."""
    largest = max(abs(change) for change in changes)
    return Estimate(largest, largest, largest)


def training_seed_control(saes: pl.DataFrame | None, n: tuple[int, int], found: Found) -> None:
    """SAEs of several training seeds.

    Args:
        saes: rows of `PARTS_TABLES["saes"]` of the SAEs trained on x; None where the study has none.
        n: tokens and contexts on which they were measured.
    """
    rows = [] if saes is None else [row for row in saes.sort("seed").to_dicts() if row["fvu"] is not None]
    if len(rows) < 2:
        found.remark(
            "seeds",
            "The study has no SAEs that differ in the seed of their training alone: a [parts] table on this SAE with x among "
            "its parts makes some.",
        )
        return
    for row in rows:
        found.add("seeds", kind="training", seed=row["seed"], title=row["sae"], fvu=row["fvu"])
    values = np.array([row["fvu"] for row in rows])
    changes = values - values.mean()
    near = (
        float(np.mean([row["fvu_high"] - row["fvu_low"] for row in rows if row["fvu_low"] is not None] or [np.nan])) / 2
    )
    found.tables["controls"].append(
        control(
            "training_seeds", "Other training seeds", _largest(changes.tolist()), (0.0, near), expected=0.0,
            group="seeds", rule=WITHIN, n=n,
            quantity="FVU: largest distance from the mean over seeds",
            what=f"{len(rows)} SAEs of {rows[0]['d_sae']:,} latents at L0 {rows[0]['l0']:.3g}, trained on x with other seeds.",
            why="Less than half of the width of an SAE's interval over texts: then the interval says all of the uncertainty.",
            means="Training another SAE moves the number by more than other texts do: intervals over texts leave that out.",
        )
    )  # fmt: skip
