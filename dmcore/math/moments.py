"""Moments: additive sufficient statistics of least squares, in float64, about a fixed shift.

1. `InputMoments`: `G = sum [x - s, 1]^T [x - s, 1]`, for each cell of a partition of the tokens (fold of contexts, range
   of positions). It does not know the SAE, and is shared by all SAEs of a site.
2. `TargetMoments`: `C = sum [x - s, 1]^T y` and `sum y^2`, where `y = [e, |e|^2]` for an SAE's error `e`.
3. Both merge by `+`, so that shards on many devices give what one device gives; the whole is the sum of its cells.
   In shapes, `d_aug` is d_in + 1: the inputs and the constant.
4. `MomentAccumulator` fills them from chunks of tokens; its memory does not depend on their number.

The shift `s` (about the mean) keeps outlier dimensions, a thousand times the rest in Gemma, from cancelling. Products are
made in float64 where a device is fast at it, else from float32 in slices whose products are exact (`exact_product`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from dmcore.errors import DataError
from dmcore.math.exact_product import add_product

ROWS_PER_PRODUCT = 1024
"""Tokens of one cell that are gathered before a matrix product is made of them."""
FAST_FLOAT64 = {(7, 0), (8, 0), (9, 0), (10, 0)}
"""Compute capabilities with half the rate of float32 or more in float64: V100, A100, H100 and H200, B200. All others, B300
(10.3) among them, have 1/32 of it or less."""
ROWS_BYTES = 2**28
"""Most bytes that wait for a product; where activations are wide, products are made of fewer tokens."""
LEAST_ROWS = 128


def _added(cells: Float64[Tensor, "n_cells ..."], chosen: Sequence[int]) -> Tensor:
    """The sum of some cells, one after the other: no copy of all of them is made."""
    first, *others = chosen
    total = cells[first].clone()
    for cell in others:
        total += cells[cell]
    return total


class InputMoments:
    """`G = sum [x - shift, 1]^T [x - shift, 1]` per cell."""

    def __init__(self, n_cells: int, shift: Float64[Tensor, " d_in"]) -> None:
        d_in = shift.shape[0]
        self.shift = shift.double()
        self.gram: Float64[Tensor, "n_cells d_aug d_aug"] = torch.zeros(
            n_cells, d_in + 1, d_in + 1, dtype=torch.float64, device=shift.device
        )

    @property
    def n_tokens(self) -> Float64[Tensor, " n_cells"]:
        """Tokens in each cell."""
        return self.gram[:, -1, -1]

    def pooled(self, cells: Sequence[int]) -> Float64[Tensor, "d_aug d_aug"]:
        """The Gram matrix of the tokens in `cells`, added in their order."""
        return _added(self.gram, cells)

    def mean(self, cells: Sequence[int]) -> Float64[Tensor, " d_in"]:
        """Mean of `x` over the tokens in `cells`."""
        gram = self.pooled(cells)
        return self.shift + gram[-1, :-1] / gram[-1, -1]

    def scatter(self, cells: Sequence[int]) -> Float64[Tensor, " d_in"]:
        """`sum (x - mean)^2` for each dimension, over the tokens in `cells`."""
        gram = self.pooled(cells)
        return (gram.diagonal()[:-1] - gram[-1, :-1].square() / gram[-1, -1]).clamp_min(0.0)

    def __add__(self, other: InputMoments) -> InputMoments:
        if not torch.equal(self.shift, other.shift):
            raise DataError("Moments about different shifts cannot be added: make every shard with the same shift.")
        total = InputMoments(self.gram.shape[0], self.shift)
        total.gram = self.gram + other.gram
        return total


class TargetMoments:
    """`C = sum [x - shift, 1]^T y`, and `sum y^2`, per cell."""

    def __init__(self, n_cells: int, d_in: int, d_target: int, device: torch.device | str = "cpu") -> None:
        self.cross: Float64[Tensor, "n_cells d_aug d_target"] = torch.zeros(
            n_cells, d_in + 1, d_target, dtype=torch.float64, device=device
        )
        self.target_sq: Float64[Tensor, "n_cells d_target"] = torch.zeros(
            n_cells, d_target, dtype=torch.float64, device=device
        )

    def pooled(self, cells: Sequence[int]) -> tuple[Float64[Tensor, "d_aug d_target"], Float64[Tensor, " d_target"]]:
        """The cross moments and sums of squares of the tokens in `cells`, added in their order."""
        return _added(self.cross, cells), _added(self.target_sq, cells)

    def __add__(self, other: TargetMoments) -> TargetMoments:
        n_cells, d_in_1, d_target = self.cross.shape
        total = TargetMoments(n_cells, d_in_1 - 1, d_target, self.cross.device)
        total.cross = self.cross + other.cross
        total.target_sq = self.target_sq + other.target_sq
        return total


def product_dtype(device: torch.device) -> torch.dtype:
    """float64 where its matrix products run at a fair rate (CPUs, `FAST_FLOAT64`), else float32."""
    if device.type == "cpu":
        return torch.float64
    if device.type == "cuda" and torch.cuda.get_device_capability(device) in FAST_FLOAT64:
        return torch.float64
    return torch.float32


class MomentAccumulator:
    """Adds chunks of tokens to moments; rows wait, cell by cell, until a product of `ROWS_PER_PRODUCT` is worth making.

    Args:
        inputs: filled with the Gram matrices, or None where another pass has made them.
        targets: filled with the cross moments, or None for inputs alone.
        shift: (d_in,) subtracted from `x`.
    """

    def __init__(self, inputs: InputMoments | None, targets: TargetMoments | None, shift: Tensor) -> None:
        self.inputs, self.targets = inputs, targets
        self._dtype = product_dtype(shift.device)
        self._rounded_shift = shift.to(self._dtype)
        d_target = targets.cross.shape[2] if targets is not None else 0
        n_cells = targets.cross.shape[0] if targets is not None else inputs.gram.shape[0] if inputs is not None else 0
        width = shift.shape[0] + 1 + d_target
        affordable = ROWS_BYTES // max(1, n_cells * width * self._dtype.itemsize)
        self._rows_per_product = min(ROWS_PER_PRODUCT, max(LEAST_ROWS, affordable))
        self._rows = torch.empty(n_cells, self._rows_per_product, width, dtype=self._dtype, device=shift.device)
        self._filled = [0] * n_cells
        self._d_in_1 = shift.shape[0] + 1

    def add(self, x: Tensor, y: Tensor | None, cells: Int64[Tensor, " n_tokens"]) -> None:
        """Add tokens: `x` (n_tokens, d_in), `y` (n_tokens, d_target) or None, and each token's cell (below 0: skipped;
        best on the CPU)."""
        cells = cells.cpu()  # where they are given there, a GPU is not waited for
        order = torch.argsort(cells, stable=True)
        ids, counts = torch.unique_consecutive(cells[order], return_counts=True)
        start = 0
        for cell, count in zip(ids.tolist(), counts.tolist(), strict=True):
            picked = order[start : start + count]
            start += count
            if cell >= 0:
                contiguous = bool(picked[-1] - picked[0] == count - 1)
                where = slice(int(picked[0]), int(picked[-1]) + 1) if contiguous else picked.to(x.device)
                self._add_to_cell(cell, x[where], None if y is None else y[where])

    def _add_to_cell(self, cell: int, x: Tensor, y: Tensor | None) -> None:
        done = 0
        while done < x.shape[0]:
            at = self._filled[cell]
            take = min(self._rows_per_product - at, x.shape[0] - done)
            rows = self._rows[cell, at : at + take]
            torch.sub(x[done : done + take], self._rounded_shift, out=rows[:, : self._d_in_1 - 1])
            rows[:, self._d_in_1 - 1] = 1.0
            if y is not None:
                rows[:, self._d_in_1 :] = y[done : done + take]
            self._filled[cell] += take
            done += take
            if self._filled[cell] == self._rows_per_product:
                self._flush(cell)

    def _flush(self, cell: int) -> None:
        rows = self._rows[cell, : self._filled[cell]]
        self._filled[cell] = 0
        augmented, y = rows[:, : self._d_in_1], rows[:, self._d_in_1 :]
        exact = self._dtype == torch.float64
        if self.inputs is not None:
            gram = self.inputs.gram[cell]
            gram.addmm_(augmented.T, augmented) if exact else add_product(gram, augmented)
        if self.targets is not None:
            cross = self.targets.cross[cell]
            cross.addmm_(augmented.T, y) if exact else add_product(cross, augmented, y)
            self.targets.target_sq[cell] += y.double().square().sum(0)

    def finish(self) -> None:
        """Add the rows that still wait; must be called once, after the last chunk."""
        for cell, filled in enumerate(self._filled):
            if filled:
                self._flush(cell)


def error_targets(error: Tensor) -> Tensor:
    """`[e, |e|^2]`, (n_tokens, d_model + 1): what the linear maps predict."""
    return torch.cat([error, error.square().sum(1, keepdim=True)], dim=1)


def cells_where(n_cells: int, keep: Iterable[bool]) -> list[int]:
    """The cells for which `keep` is true."""
    return [cell for cell, kept in zip(range(n_cells), keep, strict=True) if kept]
