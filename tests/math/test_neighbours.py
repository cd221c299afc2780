"""Nearest directions: equal to brute force whatever the size of the blocks, and to what chance gives in known cases."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.decomposition import PCA

from dmcore.errors import DataError
from dmcore.math import neighbours
from dmcore.math.moments import InputMoments, MomentAccumulator
from dmcore.math.neighbours import DecoderRows, nearest, principal_components, random_nearest


def directions(n: int, d: int, seed: int) -> torch.Tensor:
    """Of all lengths."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g) * torch.rand(n, 1, generator=g) * 10


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize(("rows_at_once", "product"), [(2**20, 2**20), (50, 60)])
def test_nearest_rows_equal_a_full_product(
    unsigned: bool, rows_at_once: int, product: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "ROWS_ELEMENTS", rows_at_once)
    monkeypatch.setattr(neighbours, "PRODUCT_ELEMENTS", product)
    mine, theirs = directions(37, 6, 0), directions(41, 6, 1)
    mine[5] = 0.0
    theirs[9] = 0.0
    theirs[30] = 3.0 * theirs[4]  # equal directions: either will do
    mine[7] = theirs[4]
    told: list[int] = []
    found = nearest(DecoderRows.of(mine), DecoderRows.of(theirs), unsigned=unsigned, advance=told.append)
    cosines = torch.nn.functional.cosine_similarity(mine.double()[:, None], theirs.double()[None], dim=-1)
    cosines = cosines.abs() if unsigned else cosines
    others = torch.arange(37) != 5
    torch.testing.assert_close(found.cosine[others].double(), cosines.max(1).values[others], rtol=1e-6, atol=1e-6)
    chosen = cosines[torch.arange(37), found.index]
    torch.testing.assert_close(chosen[others], cosines.max(1).values[others], rtol=1e-6, atol=1e-6)
    assert int(found.index[7]) in {4, 30}
    assert (found.index[5], bool(found.cosine[5].isnan())) == (-1, True)
    assert sum(told) == 37 * 41
    assert len(told) == 1 or rows_at_once == 50


def test_rows_are_read_in_ranges_that_cover_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "ROWS_ELEMENTS", 40)
    monkeypatch.setattr(neighbours, "PRODUCT_ELEMENTS", 30)
    matrix = directions(23, 8, 0).bfloat16()
    read: list[tuple[int, int]] = []

    def rows(first: int, last: int) -> torch.Tensor:
        read.append((first, last))
        return matrix[first:last]

    found = nearest(DecoderRows(23, rows), DecoderRows.of(matrix))
    assert found.index.tolist() == list(range(23))
    assert all(last <= 23 and last - first <= 5 for first, last in read)


def test_what_cannot_be_compared_is_refused() -> None:
    good = DecoderRows.of(torch.ones(3, 4))
    with pytest.raises(DataError, match="NaN or infinity"):
        nearest(good, DecoderRows.of(torch.tensor([[1.0, torch.inf, 0.0, 0.0]])))
    with pytest.raises(DataError, match="4 and 5 dimensions"):
        nearest(good, DecoderRows.of(torch.ones(3, 5)))
    with pytest.raises(DataError, match="give a dictionary that has rows"):
        nearest(good, DecoderRows.of(torch.ones(0, 4)))
    with pytest.raises(DataError, match="has no decoder rows"):
        nearest(good, DecoderRows(3, lambda first, last: None))
    assert nearest(DecoderRows.of(torch.ones(0, 4)), good).index.tolist() == []


def test_random_directions_reach_what_geometry_says() -> None:
    # On the circle, next to one direction and its opposite, the angle to the nearer one is uniform on 0 to 90 degrees.
    pair = DecoderRows.of(torch.tensor([[2.0, 0.0], [-1.0, 0.0]]))
    drawn = random_nearest(pair, seed=0, n=4000)
    assert drawn.shape == (4000,)
    assert (drawn.diff() >= 0).all()
    assert float(drawn.mean()) == pytest.approx(2 / math.pi, abs=0.02)
    assert float(torch.quantile(drawn, 0.95)) == pytest.approx(math.cos(0.05 * math.pi / 2), abs=0.003)
    one = DecoderRows.of(torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(random_nearest(one, seed=0, n=4000, unsigned=True), drawn)
    assert float(random_nearest(one, seed=0, n=4000).mean()) == pytest.approx(0.0, abs=0.03)
    assert not torch.equal(random_nearest(pair, seed=1, n=4000), drawn)


def test_principal_components_equal_those_of_the_data() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=g) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.3]) @ torch.randn(5, 5, generator=g) + 40
    inputs = InputMoments(2, x[:10].mean(0).double())
    accumulator = MomentAccumulator(inputs, None, inputs.shift)
    accumulator.add(x, None, torch.arange(400) % 2)
    accumulator.finish()
    for cells, rows in (([0, 1], x), ([1], x[1::2])):
        found = principal_components(inputs, cells, 3)
        expected = torch.from_numpy(PCA(3).fit(rows.double().numpy()).components_).float()
        torch.testing.assert_close((found * expected).sum(1).abs(), torch.ones(3), rtol=1e-5, atol=1e-5)
    assert principal_components(inputs, [0, 1], 32).shape == (5, 5)
