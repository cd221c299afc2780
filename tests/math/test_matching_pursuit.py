"""Matching pursuits against scikit-learn and plain versions; their residuals only fall; a planted support."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.linear_model import orthogonal_mp

from dmcore.math import pursuit_state
from dmcore.math.matching_pursuit import matching_pursuit, orthogonal_matching_pursuit
from dmcore.math.sparse_codes import SparseCodes, decode


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pursuit_state, "TOKENS_PER_BATCH", 23)


def problem(
    n: int = 50, d: int = 24, width: int = 160, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(width, d, generator=g, dtype=dtype), dim=1)
    return torch.randn(n, d, generator=g, dtype=dtype), rows


def dense(codes: SparseCodes, width: int) -> torch.Tensor:
    out = torch.zeros(codes.offsets.numel() - 1, width, dtype=codes.values.dtype)
    out[torch.repeat_interleave(torch.arange(len(out)), codes.l0), codes.latents.long()] = codes.values
    return out


def test_orthogonal_matching_pursuit_is_scikit_learns() -> None:
    x, rows = problem()
    for k in (1, 7, 20):
        expected = orthogonal_mp(rows.T.numpy(), x.T.numpy(), n_nonzero_coefs=k).T
        found = dense(orthogonal_matching_pursuit(x, rows, k, nonnegative=False), 160)
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-11)


def test_non_negative_orthogonal_matching_pursuit_is_its_definition() -> None:
    x, rows = problem()
    rows = rows * (0.5 + torch.rand(160, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    targets = torch.arange(50) % 12
    found = dense(orthogonal_matching_pursuit(x, rows, targets), 160)
    for one, code, target in zip(x, found, targets.tolist(), strict=True):
        w = torch.zeros(160, dtype=torch.float64)
        for _ in range(target):
            products = (rows @ (one - w @ rows)).masked_fill(w > 0, -torch.inf)
            support = w > 0
            support[products.argmax()] = True
            w[support] = torch.from_numpy(nnls(rows[support].T.numpy(), one.numpy())[0])
        torch.testing.assert_close(code, w, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("nonnegative", [True, False])
def test_matching_pursuit_is_its_definition(nonnegative: bool) -> None:
    x, rows = problem()
    rows = rows * (0.5 + torch.rand(160, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    found = dense(matching_pursuit(x, rows, 9, nonnegative=nonnegative), 160)
    for one, code in zip(x, found, strict=True):
        w = torch.zeros(160, dtype=torch.float64)
        for _ in range(9):
            products = rows @ (one - w @ rows)
            best = int((products if nonnegative else products.abs()).argmax())
            w[best] += products[best] / rows[best].square().sum()
        torch.testing.assert_close(code, w, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("pursuit", [matching_pursuit, orthogonal_matching_pursuit])
def test_a_step_never_raises_the_residual(pursuit: object, nonnegative: bool) -> None:
    x, rows = problem()
    left = torch.full((50,), torch.inf, dtype=torch.float64)
    for k in range(16):
        now = (x - dense(pursuit(x, rows, k, nonnegative=nonnegative), 160) @ rows).norm(dim=1)
        assert bool((now <= left * (1 + 1e-12)).all())
        left = now


@pytest.mark.parametrize(("pursuit", "k"), [(matching_pursuit, 5), (orthogonal_matching_pursuit, 6)])
def test_refilled_codes_have_more_of_the_atoms_asked(pursuit: object, k: int) -> None:
    x, rows = problem(d=6, width=30)
    plain, refilled = (pursuit(x, rows, k, refill=refill).l0 for refill in (False, True))
    assert int(refilled.sum()) > int(plain.sum())
    assert int(refilled.max()) == k


def test_a_planted_code_is_recovered_exactly_and_then_nothing_is_left_to_choose() -> None:
    g = torch.Generator().manual_seed(0)
    _, rows = problem(1, 256, 400)
    true = torch.stack([torch.randperm(400, generator=g)[:6].sort().values for _ in range(40)])
    values = 1 + torch.rand(40, 6, generator=g, dtype=torch.float64)
    bias = torch.randn(256, generator=g, dtype=torch.float64)
    x = torch.bmm(values[:, None], rows[true]).squeeze(1) + bias
    for nonnegative in (True, False):
        codes = orthogonal_matching_pursuit(x, rows, 10, bias=bias, nonnegative=nonnegative)
        assert torch.equal(codes.latents.view(40, 6).long(), true)
        torch.testing.assert_close(codes.values.view(40, 6), values)
        torch.testing.assert_close(decode(codes, rows, bias), x)


def test_an_atom_in_the_span_of_the_support_ends_the_token() -> None:
    rows = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    codes = orthogonal_matching_pursuit(torch.tensor([[3.0, 1.0, 5.0]]), rows, 4, nonnegative=False)
    assert codes.latents.numel() == 2
    assert bool(codes.values.isfinite().all())


def test_float32_agrees_with_float64() -> None:
    x, rows = problem(400, 48, 900, torch.float32)
    for pursuit in (matching_pursuit, orthogonal_matching_pursuit):
        single, double = (dense(pursuit(x.to(t), rows.to(t), 8), 900) for t in (torch.float32, torch.float64))
        same = ((single > 0) == (double > 0)).all(1)
        assert float(same.double().mean()) >= 0.995
        np.testing.assert_allclose(single[same], double[same], rtol=1e-3, atol=1e-5)
