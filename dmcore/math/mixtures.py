"""Splits of many errors that are mixtures of the same pieces, from one pass over the tokens.

Activations and errors are sums of pieces with a weight each: `x = sum_i w_i p_i`, `e = sum_j v_j p_j`, where some pieces are in
both. Second moments of the pieces then give those of every mixture, so that a grid of hundreds of experiments costs one pass.

1. `PieceMoments`: `sum [inputs, 1]^T [pieces, 1]` for each cell (a fold), and `sum <p_i, p_j>`, in float64.
2. `best_split`: what the best affine map of x leaves of e, on all tokens of the moments, and of each component of e.
3. `held_out_split`: the same held out by fold, on the tokens themselves, with an interval over contexts: the numbers of
   `dmcore.decompose`, which is tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmcore.errors import DataError
from dmcore.math.bootstrap import interval, poisson_weights
from dmcore.math.fit_noise import fit_influence, fit_pulls
from dmcore.math.linear_map import centred, solve_scaled
from dmcore.math.moments import InputMoments, TargetMoments
from dmcore.math.split import fit_folds, row_norm_sq

Weights = Mapping[str, float]
"""Of pieces in a mixture, by name; a piece that is not named has weight 0."""
ROWS = 4096
"""Tokens of a product."""


class PieceMoments:
    """Second moments of pieces, (n_tokens, d_model) each.

    Args:
        inputs: names of the pieces that activations are made of.
        others: names of those that only errors are made of.
        d_model: their width.
        n_cells: cells (folds) that are kept apart.
    """

    def __init__(self, inputs: Sequence[str], others: Sequence[str], d_model: int, n_cells: int = 1,
                 device: torch.device | str = "cpu") -> None:  # fmt: skip
        self.inputs, self.names, self.d_model = tuple(inputs), (*inputs, *others), d_model
        shape = (n_cells, len(self.inputs) * d_model + 1, len(self.names) * d_model + 1)
        self.cross = torch.zeros(shape, dtype=torch.float64, device=device)
        """(n_cells, inputs + 1, pieces + 1)."""
        self.dots = torch.zeros(len(self.names), len(self.names), dtype=torch.float64, device=device)
        """`sum <p_i, p_j>` over all tokens."""

    def add(self, pieces: Mapping[str, Tensor], cells: Tensor | None = None) -> None:
        """Add tokens; `cells`: (n_tokens,) the cell of each, None for the first."""
        n_tokens = pieces[self.names[0]].shape[0]
        for start in range(0, n_tokens, ROWS):
            rows = slice(start, min(start + ROWS, n_tokens))
            joined = torch.cat([pieces[name][rows].double() for name in self.names], dim=1)
            joined = torch.cat([joined, joined.new_ones(joined.shape[0], 1)], dim=1)
            width = len(self.inputs) * self.d_model
            of_piece = joined[:, :-1].view(len(joined), len(self.names), self.d_model).transpose(0, 1).flatten(1)
            self.dots += of_piece @ of_piece.T
            here = cells[rows] if cells is not None else torch.zeros(len(joined), dtype=torch.int64)
            for cell in torch.unique(here).tolist():
                some = joined[(here == cell).to(joined.device)]
                left = torch.cat([some[:, :width], some[:, -1:]], dim=1)
                self.cross[cell] += left.T @ some

    def mixed(self, cells: Sequence[int], x: Weights, e: Weights) -> Tensor:
        """(d_model + 1, d_model + 1) `sum [x, 1]^T [e, 1]` of two mixtures over some cells.

        Raises:
            DataError: an activation is made of a piece that is not among `inputs`.
        """
        if unknown := [name for name, weight in x.items() if weight and name not in self.inputs]:
            raise DataError(f"{', '.join(unknown)}: not among the pieces that activations are made of.")
        chosen, d = list(cells), self.d_model
        cross = self.cross[chosen[0]] if len(chosen) == 1 else self.cross[chosen].sum(0)
        left, right = self._vector(x)[: len(self.inputs)], self._vector(e)
        found = cross.new_zeros(d + 1, d + 1)
        blocks = cross[:-1, :-1].reshape(len(left), d, -1)
        half = torch.tensordot(left, blocks, dims=1)
        found[:-1, :-1] = (half.view(d, len(right), d) * right[None, :, None]).sum(1)
        found[-1, :-1] = right @ cross[-1, :-1].view(len(right), d)
        found[:-1, -1] = left @ cross[:-1, -1].view(len(left), d)
        found[-1, -1] = cross[-1, -1]
        return found

    def _vector(self, weights: Weights) -> Tensor:
        return self.dots.new_tensor([weights.get(name, 0.0) for name in self.names])

    def dot(self, a: Weights, b: Weights) -> float:
        """`sum <a, b>` of two mixtures over all tokens."""
        return float(self._vector(a) @ self.dots @ self._vector(b))


@dataclass(frozen=True)
class BestSplit:
    """What the best affine map of x leaves of an error, over the tokens of the moments; shares of `sum |x - mean x|^2`."""

    fvu: float
    linear: float
    """`fvu - nonlinear`: with the mean of the error, which a bias predicts."""
    nonlinear: float
    components: dict[str, tuple[float, float, float, float]]
    """Of each component: size, its part in `linear`, its part in `nonlinear`, and the R2 of its own best map."""


def best_split(moments: PieceMoments, x: Weights, e: Weights, components: Mapping[str, Weights]) -> BestSplit:
    """The split by the best affine map of all tokens.

    Args:
        moments: of so many tokens that fitting on them costs nothing, or of which the expectation is known.
        x, e: the activation and the error.
        components: mixtures that add up to the error; may be empty.

    The map of the error is the sum of the maps of its components, so `sum <c - map_c(x), e - map(x)>` over components adds up
    to the nonlinear error: that is a component's part in it. Equivalent to `sklearn.linear_model.LinearRegression` in sample.
    """
    cells = range(moments.cross.shape[0])
    gram = moments.mixed(cells, x, x)
    n_tokens = float(gram[-1, -1])

    def slopes(c: Weights) -> tuple[Tensor, Tensor, Tensor]:
        cross = moments.mixed(cells, x, c)[:, :-1]
        scatter, right = centred(gram, cross)
        return solve_scaled(scatter, right, 0.0), right, cross[-1]

    scatter, _ = centred(gram, gram[:, :-1])
    total = float(scatter.diagonal().sum())
    weight, _, sums = slopes(e)
    whole = moments.dot(e, e)

    def explained(right: Tensor, of: Tensor) -> float:
        """`sum <map_c(x), map_e(x)>`, the means included."""
        return float((weight * right).sum() + sums @ of / n_tokens)

    found = {}
    for name, c in components.items():
        own, right, of = slopes(c)
        size, linear = moments.dot(c, c), explained(right, of)
        variance = size - float(of @ of) / n_tokens
        # A component of nothing, up to rounding, has no R2.
        r2 = float((own * right).sum()) / variance if variance > 1e-12 * total else float("nan")
        found[name] = (size / total, linear / total, (moments.dot(c, e) - linear) / total, r2)
    _, right, _ = slopes(e)
    linear = explained(right, sums)
    return BestSplit(whole / total, linear / total, max(whole - linear, 0.0) / total, found)


class Tokens:
    """Tokens whose pieces are in memory, cut into folds of contexts.

    Args:
        pieces: (n_tokens, d_model) each, by name.
        moments: of the same tokens, a cell a fold.
        folds, contexts: (n_tokens,) of each token; contexts are numbered from 0.
        seed: of the bootstrap.
        units: (n_contexts,) bootstrap unit of each context; None for its own.
    """

    def __init__(self, pieces: Mapping[str, Tensor], moments: PieceMoments, folds: Tensor, contexts: Tensor, seed: int,
                 units: np.ndarray | None = None) -> None:  # fmt: skip
        self.pieces, self.moments, self.folds = pieces, moments, folds
        self._contexts = contexts.cpu().numpy() if units is None else units[contexts.cpu().numpy()]
        present, self._unit_of = np.unique(self._contexts, return_inverse=True)
        drawn = poisson_weights(int(present.max()) + 1, seed)[:, present]
        # (1 + n_replicates, n_units): all tokens once, then the replicates.
        self.draws = np.concatenate([np.ones((1, len(present))), drawn])

    @property
    def n_tokens(self) -> int:
        """How many there are."""
        return len(self._contexts)

    def mixture(self, weights: Weights) -> Tensor:
        """(n_tokens, d_model) of a mixture."""
        total = None
        for name, weight in weights.items():
            if weight:
                piece = self.pieces[name]
                total = piece * weight if total is None else total.add_(piece, alpha=weight)
        return total if total is not None else torch.zeros_like(next(iter(self.pieces.values())))

    def sums(self, values: Tensor) -> np.ndarray:
        """(n_units,) sums of (n_tokens,) values."""
        return np.bincount(self._unit_of, weights=values.double().cpu().numpy(), minlength=self.draws.shape[1])


def held_out_split(tokens: Tokens, x: Weights, e: Weights) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The split of a mixture, held out by fold: `fvu`, `linear`, `nonlinear` with `_low` and `_high`, and their replicates.

    Raises:
        DataError: the activations do not vary.
    """
    inputs, targets = _moments_of(tokens.moments, x, e)
    cells = [[f] for f in range(len(inputs.gram))]
    fit = fit_folds(inputs, targets, cells, full=False)
    pulls = fit_pulls(inputs, targets, cells, fit)
    acts, nonlinear = tokens.mixture(x), tokens.mixture(e)
    size = tokens.sums(row_norm_sq(nonlinear))
    for f, fitted in enumerate(fit.fold_maps):
        rows = (tokens.folds == f).nonzero().squeeze(1)
        nonlinear[rows] -= fitted.predict(acts[rows])
    left = tokens.sums(row_norm_sq(nonlinear))
    moved = tokens.sums(fit_influence(pulls, acts, nonlinear, tokens.folds).sum(1))
    mean = inputs.mean(range(len(cells)))
    variance = tokens.sums(row_norm_sq(acts - mean.to(acts.dtype)))
    if not variance.sum() > 0:
        raise DataError("The activations do not vary over tokens, so there is no variance to explain: give other ones.")
    draws = tokens.draws
    count = tokens.sums(torch.ones_like(tokens.folds, dtype=torch.float64))
    through_fit = (draws - (draws @ count / count.sum())[:, None]) @ moved  # as in `dmcore.math.split.estimates`
    with np.errstate(divide="ignore", invalid="ignore"):
        below = draws @ variance
        columns = {"fvu": draws @ size / below, "nonlinear": np.maximum(draws @ left + through_fit, 0.0) / below}
    columns["linear"] = columns["fvu"] - columns["nonlinear"]
    found: dict[str, float] = {"n_tokens": float(tokens.n_tokens), "price": price_of(tokens, acts.shape[1])}
    for name, column in columns.items():
        one = interval(float(column[0]), column[1:])
        found |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
    return found, {name: column[1:] for name, column in columns.items()}


def _moments_of(moments: PieceMoments, x: Weights, e: Weights) -> tuple[InputMoments, TargetMoments]:
    """Of an activation and an error, a cell a fold, as they would be from the tokens themselves."""
    n_cells, d = moments.cross.shape[0], moments.d_model
    inputs = InputMoments(n_cells, moments.dots.new_zeros(d))
    targets = TargetMoments(n_cells, d, d, moments.dots.device)
    for cell in range(n_cells):
        inputs.gram[cell] = moments.mixed([cell], x, x)
        targets.cross[cell] = moments.mixed([cell], x, e)[:, :-1]
    return inputs, targets


def price_of(tokens: Tokens, d_model: int) -> float:
    """By what share held-out least squares overstates what is left, for Gaussian x and errors that do not depend on it.

    `E |y - prediction|^2 = sigma^2 (n + 1) (n - 2) / (n (n - d - 2))` for n training tokens and d inputs with a bias
    (Stein 1960); infinite where n is not above d + 2.
    """
    sizes = np.bincount(tokens.folds.cpu().numpy())
    n = float(tokens.n_tokens - (sizes @ sizes) / sizes.sum())
    return (n + 1) * (n - 2) / (n * (n - d_model - 2)) - 1 if n > d_model + 2 else float("inf")
