"""Sparse codes: every blocked encoder equals the dense definition, and decoding equals the dense product."""

from __future__ import annotations

import pytest
import torch

from dmcore.math import sparse_codes
from dmcore.math.sparse_codes import (
    DenseEncoder,
    Encoder,
    GatedEncoder,
    SparseCodes,
    ThresholdEncoder,
    TopKEncoder,
    codes_from_dense,
    decode,
    where_true,
)

N, D, WIDTH = 70, 12, 210


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that do not divide the shapes, so that every edge is crossed."""
    monkeypatch.setattr(sparse_codes, "LATENTS_PER_BLOCK", 64)
    monkeypatch.setattr(sparse_codes, "TOKENS_PER_BLOCK", 32)
    monkeypatch.setattr(sparse_codes, "LATENTS_PER_SLAB", 50)
    monkeypatch.setattr(sparse_codes, "DENSE_ELEMENTS", 1000)


def tensors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=g)
    return x, torch.randn(D, WIDTH, generator=g), torch.randn(WIDTH, generator=g), torch.randn(WIDTH, generator=g)


def dense(codes: SparseCodes) -> torch.Tensor:
    out = torch.zeros(codes.offsets.numel() - 1, WIDTH)
    tokens = torch.repeat_interleave(torch.arange(len(out)), codes.l0)
    out[tokens, codes.latents.long()] = codes.values
    return out


def check(encoder: Encoder, expected: torch.Tensor, x: torch.Tensor) -> None:
    codes = encoder.encode(x)
    torch.testing.assert_close(dense(codes), expected, rtol=1e-5, atol=1e-5)
    assert codes.latents.numel() == int((expected != 0).sum())
    for start, stop in zip(codes.offsets[:-1].tolist(), codes.offsets[1:].tolist(), strict=True):
        assert bool((codes.latents[start:stop].diff() > 0).all())


@pytest.mark.parametrize("n", [0, 7, 64, 1000, 1001])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_where_true_is_nonzero(n: int, share: float) -> None:
    mask = torch.rand(n, generator=torch.Generator().manual_seed(n)) < share
    assert torch.equal(where_true(mask), mask.nonzero().squeeze(1))
    assert torch.equal(where_true(mask[1:]), mask[1:].nonzero().squeeze(1))


def test_relu_and_jumprelu() -> None:
    x, w, b, t = tensors()
    pre = x @ w + b
    check(ThresholdEncoder(w, b, torch.zeros(WIDTH)), pre.relu(), x)
    check(ThresholdEncoder(w, b, t), torch.where(pre > t, pre.relu(), 0.0), x)  # thresholds below 0 too


def test_gated() -> None:
    x, w, b, r = tensors()
    magnitude_bias = b.flip(0)
    expected = ((x @ w + b) > 0) * (x @ (w * r.exp()) + magnitude_bias).relu()
    check(GatedEncoder(w, b, r, magnitude_bias), expected, x)


@pytest.mark.parametrize("k", [1, 9, 60, WIDTH])
def test_topk_over_several_slabs(k: int) -> None:
    x, w, b, _ = tensors()
    values, where = (x @ w + b).topk(k, dim=1)
    check(TopKEncoder(w, b, k), torch.zeros(N, WIDTH).scatter(1, where, values.relu()), x)


def test_anything_else_goes_through_its_own_code() -> None:
    x, w, b, _ = tensors()
    check(DenseEncoder(lambda some: (some @ w + b).sin().relu(), WIDTH), (x @ w + b).sin().relu(), x)


def test_no_latent_active_anywhere() -> None:
    x, w, b, _ = tensors()
    codes = ThresholdEncoder(w, b, torch.full((WIDTH,), 1e9)).encode(x)
    assert codes.latents.numel() == 0
    torch.testing.assert_close(decode(codes, torch.randn(WIDTH, D), torch.ones(D)), torch.ones(N, D))


def test_sparse_decode_equals_the_dense_product() -> None:
    x, w, b, _ = tensors()
    acts = (x @ w + b - 2).relu()
    acts[3] = 0.0
    W_dec, b_dec = torch.randn(WIDTH, D), torch.randn(D)
    torch.testing.assert_close(decode(codes_from_dense(acts), W_dec, b_dec), acts @ W_dec + b_dec, rtol=1e-5, atol=1e-4)


def test_codes_of_chosen_tokens_go_back_to_their_places() -> None:
    g = torch.Generator().manual_seed(3)
    acts = torch.rand(N, WIDTH, generator=g) * (torch.rand(N, WIDTH, generator=g) < 0.1)
    codes, tokens = codes_from_dense(acts), torch.arange(3, N, 4)
    some = codes.chosen(tokens)
    expected = codes_from_dense(acts[tokens])
    assert torch.equal(some.offsets, expected.offsets)
    assert torch.equal(some.latents, expected.latents) and torch.equal(some.values, expected.values)
    gone = torch.ones(N, dtype=torch.bool)
    gone[tokens] = False
    placed, expected = some.placed(tokens, N), codes_from_dense(acts.masked_fill(gone[:, None], 0.0))
    assert torch.equal(placed.offsets, expected.offsets)
    assert torch.equal(placed.latents, expected.latents) and torch.equal(placed.values, expected.values)
    assert codes.chosen(tokens[:0]).placed(tokens[:0], 2).l0.tolist() == [0, 0]
