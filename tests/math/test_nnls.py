"""Non-negative least squares on a support equals scipy's, however singular the support."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import nnls

from dmcore.errors import DataError
from dmcore.math import pursuit_state
from dmcore.math.nnls import nnls_gram, nnls_on_support
from dmcore.math.sparse_codes import SparseCodes, codes_from_triplets


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pursuit_state, "TOKENS_PER_BATCH", 23)


def supports(n: int, width: int, most: int, seed: int) -> SparseCodes:
    """Random supports of 0 to `most` latents."""
    g = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(n, width, dtype=torch.bool)
    for i, size in enumerate(torch.randint(0, most + 1, (n,), generator=g).tolist()):
        chosen[i, torch.randperm(width, generator=g)[:size]] = True
    tokens, latents = chosen.nonzero(as_tuple=True)
    return codes_from_triplets(tokens, latents.to(torch.int32), torch.ones(len(tokens)), n)


def pairs(codes: SparseCodes) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each token's latents and values."""
    edges = zip(codes.offsets[:-1].tolist(), codes.offsets[1:].tolist(), strict=True)
    return [(codes.latents[a:b].long(), codes.values[a:b]) for a, b in edges]


@pytest.mark.parametrize("spoilt", [False, True])
@pytest.mark.parametrize(("d", "most"), [(30, 12), (30, 29), (10, 10), (8, 30)])
def test_values_are_scipys(d: int, most: int, spoilt: bool) -> None:
    g = torch.Generator().manual_seed(d + most)
    rows = torch.randn(60, d, generator=g, dtype=torch.float64) * 10 ** (
        2 * torch.rand(60, 1, generator=g, dtype=torch.float64) - 1
    )
    if spoilt:
        rows[::7] = 0.0
        rows[1::7] = 2 * rows[2::7][: len(rows[1::7])]
    bias = torch.randn(d, generator=g, dtype=torch.float64)
    x = torch.randn(80, d, generator=g, dtype=torch.float64)
    given = supports(80, 60, most, 1)
    found = nnls_on_support(x + bias, rows, given, bias=bias)
    for one, (allowed, _), (latents, values) in zip(x, pairs(given), pairs(found), strict=True):
        assert set(latents.tolist()) <= set(allowed.tolist())
        assert bool((values > 0).all())
        if not len(allowed):
            continue
        expected, left = nnls(rows[allowed].T.numpy(), one.numpy())
        assert float((one - values @ rows[latents]).norm()) == pytest.approx(left, rel=1e-9, abs=1e-9)
        if most < d and not spoilt:
            full = torch.zeros(60, dtype=torch.float64).index_put((latents,), values)
            torch.testing.assert_close(full[allowed], torch.from_numpy(expected), rtol=1e-8, atol=1e-10)


def test_planted_values_are_recovered_from_a_wider_support() -> None:
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 40, generator=g)
    values = torch.zeros(30, 50).masked_scatter(torch.rand(30, 50, generator=g) < 0.2, torch.rand(1500, generator=g))
    given = SparseCodes(torch.arange(31) * 30, torch.arange(30, dtype=torch.int32).repeat(30), torch.ones(900))
    values[:, 30:] = 0
    found = nnls_on_support(values @ rows, rows, given)
    for true, (latents, got) in zip(values, pairs(found), strict=True):
        torch.testing.assert_close(torch.zeros(50).index_put((latents,), got), true, rtol=1e-3, atol=1e-4)


def test_no_support_at_all() -> None:
    nothing = SparseCodes(torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), torch.zeros(0))
    assert nnls_on_support(torch.ones(3, 2), torch.ones(5, 2), nothing).offsets.tolist() == [0, 0, 0, 0]


def test_the_optimality_conditions_hold() -> None:
    g = torch.Generator().manual_seed(3)
    rows = torch.randn(40, 25, 30, generator=g, dtype=torch.float64) + 1.0  # coherent, so that many end at 0
    x = torch.randn(40, 30, generator=g, dtype=torch.float64)
    gram, along = rows @ rows.transpose(1, 2), torch.bmm(rows, x[:, :, None]).squeeze(2)
    values = nnls_gram(gram, along, torch.ones(40, 25, dtype=torch.bool))
    gradient = along - torch.bmm(gram, values[:, :, None]).squeeze(2)
    assert bool((values >= 0).all())
    assert float(gradient.max()) < 1e-9
    assert float((gradient * values).abs().max()) < 1e-9


def test_codes_of_other_tokens_or_another_dictionary_are_refused() -> None:
    codes = supports(5, 10, 4, 0)
    with pytest.raises(DataError, match="5 tokens for 4"):
        nnls_on_support(torch.ones(4, 3), torch.ones(10, 3), codes)
    with pytest.raises(DataError, match="latents beyond the 2"):
        nnls_on_support(torch.ones(5, 3), torch.ones(2, 3), codes)
