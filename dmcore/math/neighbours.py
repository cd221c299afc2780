"""Which direction of a dictionary is nearest to each of some others, and how near a random direction would be.

1. `nearest`: for each row of one matrix, the row of another with the largest cosine. Both are read in ranges of rows, so
   that neither has to fit in memory; products are float32.
2. `random_nearest`: the same for random unit vectors. In d dimensions the largest of many cosines with random directions is
   far from 0: what a cosine says is seen against this.
3. `principal_components`: the directions along which the activations vary most, as a dictionary of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dmcore.errors import DataError
from dmcore.math.moments import InputMoments

ROWS_ELEMENTS = 2**25
"""Elements, float32, of the rows whose neighbours are looked for at once."""
PRODUCT_ELEMENTS = 2**23
"""Elements of a product."""
N_RANDOM = 1000
"""Random directions of a baseline."""


@dataclass(frozen=True)
class DecoderRows:
    """The directions of a dictionary, read a range of rows at a time."""

    n_rows: int
    read: Callable[[int, int], Tensor | None]
    """`read(first, last)`: (last - first, d_model), on any device and in any type; `Dictionary.decoder_rows` is one."""

    @classmethod
    def of(cls, matrix: Float[Tensor, "n_rows d_model"]) -> DecoderRows:
        """Of a matrix in memory."""
        return cls(matrix.shape[0], lambda first, last: matrix[first:last])

    def unit(self, first: int, last: int) -> Float[Tensor, "n_some d_model"]:
        """Rows scaled to length 1, float32; those that are zero stay so.

        Raises:
            DataError: a row holds NaN or infinity, or there are no rows.
        """
        rows = self.read(first, last)
        if rows is None:
            raise DataError("The dictionary has no decoder rows: leave it out, its latents have no direction.")
        rows = rows.float()
        if not bool(torch.isfinite(rows).all()):
            raise DataError("A decoder row holds NaN or infinity: check the SAE's weights.")
        norms = rows.norm(dim=1, keepdim=True)
        return torch.where(norms > 0, rows / norms, torch.zeros_like(rows))


@dataclass(frozen=True)
class Nearest:
    """The nearest row of a dictionary to each of some directions."""

    index: Int64[Tensor, " n_rows"]
    """Which; -1 for a direction that is zero."""
    cosine: Float[Tensor, " n_rows"]
    """How near; NaN for a direction that is zero."""


@torch.inference_mode()
def nearest(
    rows: DecoderRows,
    others: DecoderRows,
    *,
    unsigned: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> Nearest:
    """The row of `others` with the largest cosine with each of `rows`; on the host.

    Equal to `(unit(rows) @ unit(others).T).max(1)`.

    Args:
        rows: directions whose neighbours are looked for.
        others: where; at least one.
        unsigned: compare cosines without their sign, for directions that have none.
        advance: told of every product: its elements.

    Raises:
        DataError: a row holds NaN or infinity, the dimensions differ, or `others` is empty.
    """
    if others.n_rows < 1:
        raise DataError("There is no direction to compare with: give a dictionary that has rows.")
    index, cosine = [], []
    for first, last in _ranges(rows, ROWS_ELEMENTS):
        mine = rows.unit(first, last)
        best = mine.new_full((last - first,), -torch.inf)
        where = torch.full((last - first,), -1, dtype=torch.int64, device=mine.device)
        step = max(1, PRODUCT_ELEMENTS // (last - first))
        for begin in range(0, others.n_rows, step):
            theirs = others.unit(begin, min(begin + step, others.n_rows)).to(mine.device)
            if theirs.shape[1] != mine.shape[1]:
                raise DataError(
                    f"The dictionaries have {mine.shape[1]} and {theirs.shape[1]} dimensions: give those of one site."
                )
            product = mine @ theirs.T
            value, at = (product.abs_() if unsigned else product).max(1)
            better = value > best
            best, where = torch.where(better, value, best), torch.where(better, at + begin, where)
            advance(product.numel())
        zero = ~mine.any(1)
        index.append(where.masked_fill(zero, -1).cpu())
        cosine.append(best.clamp(-1.0, 1.0).masked_fill(zero, torch.nan).cpu())
    none = torch.zeros(0)
    return Nearest(torch.cat([none.long(), *index]), torch.cat([none, *cosine]))


def random_nearest(others: DecoderRows, seed: int, n: int = N_RANDOM, *, unsigned: bool = False) -> Float[Tensor, " n"]:
    """The largest cosine of each of `n` random unit vectors (uniform on the sphere) with the rows of `others`; ascending."""
    d_model = others.unit(0, 1).shape[1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, d_model, generator=generator)
    return nearest(DecoderRows.of(drawn), others, unsigned=unsigned).cosine.sort().values


def principal_components(inputs: InputMoments, cells: Sequence[int], n: int) -> Float[Tensor, "n_found d_model"]:
    """The `n` directions of largest variance of `x` over the tokens in some cells, unit rows, the largest first.

    Equivalent to `sklearn.decomposition.PCA(n).fit(x).components_`, to sign. Fewer where there are fewer dimensions.
    """
    gram = inputs.pooled(cells)
    count, sums = gram[-1, -1], gram[-1, :-1]
    scatter = gram[:-1, :-1] - torch.outer(sums, sums) / count
    _, vectors = torch.linalg.eigh(scatter)
    return vectors.T.flip(0)[:n].float().contiguous()


def _ranges(rows: DecoderRows, elements: int) -> list[tuple[int, int]]:
    if rows.n_rows < 1:
        return []
    one = rows.read(0, 1)
    step = max(1, elements // (one.shape[1] if one is not None else 1))
    return [(first, min(first + step, rows.n_rows)) for first in range(0, rows.n_rows, step)]
