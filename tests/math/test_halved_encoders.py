"""Encoders in halves: four bytes a weight give back its float32, and the codes are those of float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmcore.math import halved_encoders
from dmcore.math.halved_encoders import HalvedGated, HalvedThreshold, HalvedTopK, halves_pay
from dmcore.math.halves import HalvedRows, join_bits, split_bits
from dmcore.math.sparse_codes import Encoder, GatedEncoder, SparseCodes, ThresholdEncoder, TopKEncoder

D, WIDTH, N = 40, 333, 150
CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    not torch.backends.mkl.is_available(), reason="this torch cannot sample a matrix product (built without MKL)"
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halved_encoders, "LATENTS_PER_BLOCK", 64)
    monkeypatch.setattr(halved_encoders, "TOKENS_PER_BLOCK", 40)
    monkeypatch.setattr(halved_encoders, "UPPER_ELEMENTS", 50 * WIDTH)
    monkeypatch.setattr(halved_encoders, "MAX_CANDIDATES", 0.5)


def dense(codes: SparseCodes) -> Tensor:
    out = torch.zeros(codes.offsets.numel() - 1, WIDTH)
    out[torch.repeat_interleave(torch.arange(out.shape[0]), codes.l0), codes.latents.long()] = codes.values.float()
    return out


def problem(seed: int, mean: float, outlier: float) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=g) + mean
    x[:, 5] *= outlier
    return x, torch.randn(D, WIDTH, generator=g) * torch.rand(WIDTH, generator=g), 0.1 * torch.randn(WIDTH, generator=g)


def pair(kind: str, x: Tensor, w: Tensor, b: Tensor) -> tuple[Encoder, Encoder]:
    """In halves, and the plain one."""
    if kind == "topk":
        return HalvedTopK(w.T, b, 7, CPU), TopKEncoder(w, b, 7)
    if kind == "topk, rescaled":
        scale = 0.5 + torch.rand(WIDTH, generator=torch.Generator().manual_seed(9))
        return HalvedTopK(w.T, b, 7, CPU, scale), TopKEncoder(w, b, 7, scale)
    if kind == "gated":
        gate, r = -(x @ w).quantile(0.97, dim=0), 0.3 * b
        return HalvedGated(w.T, gate, r, 20 * b, CPU), GatedEncoder(w, gate, r, 20 * b)
    threshold = (x @ w + b).quantile(0.97, dim=0)
    return HalvedThreshold(w.T, b, threshold, CPU), ThresholdEncoder(w, b, threshold)


@pytest.mark.parametrize("seed", range(20))
def test_two_halves_are_the_float32_bit_for_bit(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (500, 7), generator=g, dtype=torch.int64).to(torch.int32)
    values = bits.view(torch.float32)
    values[~torch.isfinite(values)] = -0.0
    values[0, :4] = torch.tensor([0.0, -0.0, 1.0 + 2**-8, 2.0**-140])
    high, low = split_bits(values)
    assert torch.equal(join_bits(high, low).view(torch.int32), values.view(torch.int32))
    small = values.abs() < 1e38
    assert bool(((high.float() - values).abs()[small] <= values.abs()[small] * 2.0**-8 + 1e-38).all()), "bfloat16"


def test_rows_in_halves_take_four_bytes_a_weight_and_keep_their_place() -> None:
    rows = torch.randn(9000, 32)
    halved = HalvedRows.of(rows, 32, CPU)
    assert halved.nbytes == rows.nbytes
    assert torch.equal(halved.block(4000, 8500), rows[4000:8500])
    transposed = HalvedRows.of(rows.T.contiguous().T, 64, CPU)
    assert torch.equal(transposed.block(0, 9000), rows) and not bool(transposed.high[:, 32:].any())


@pytest.mark.parametrize(("mean", "outlier"), [(0.0, 1.0), (30.0, 1.0), (1.0, 50.0)])
@pytest.mark.parametrize("kind", ["threshold", "gated", "topk", "topk, rescaled"])
@pytest.mark.parametrize("seed", range(2))
def test_codes_equal_float32s(kind: str, mean: float, outlier: float, seed: int) -> None:
    x, w, b = problem(seed, mean, outlier)
    halved, plain = pair(kind, x, w, b)
    found, expected = dense(halved.encode(x)), dense(plain.encode(x))
    assert int((expected > 0).sum()) > 3 * N, "there is something to miss"
    # A latent at its threshold, or tied with the k-th, may go either way by float32's rounding.
    scale = x.norm(dim=1, keepdim=True) * w.norm(dim=0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(scale.max()))


@pytest.mark.parametrize("kind", ["threshold", "gated", "topk"])
def test_a_screen_that_lets_much_through_gives_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halved_encoders, "MAX_CANDIDATES", 0.0)
    x, w, b = problem(0, 0.0, 1.0)
    halved, plain = pair(kind, x, w, b)
    torch.testing.assert_close(dense(halved.encode(x)), dense(plain.encode(x)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", ["threshold", "topk"])
def test_the_screen_rejects_nearly_everything(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen that let all through would pass the other tests."""
    x, w, b = problem(0, 0.0, 1.0)
    encoder, seen = pair(kind, x, w, b)[0], []
    exact = type(encoder)._exact

    def counting(self: object, some: Tensor, passed: Tensor, first: int, last: int) -> object:
        seen.append(int(passed.sum()))
        return exact(self, some, passed, first, last)

    monkeypatch.setattr(type(encoder), "_exact", counting)
    active = int(encoder.encode(x).l0.sum())
    assert active < sum(seen) < 3 * active < N * WIDTH / 4


def test_values_at_the_edge_of_the_margin_are_not_missed() -> None:
    """All products rounded the same way: the worst case of the bound."""
    x = torch.full((8, D), 1.0 + 2.0**-8 - 2.0**-12)  # rounds down by almost half a unit in the last place
    rows = torch.full((WIDTH, D), 1.0 + 2.0**-8 - 2.0**-12)
    exact = float(x[1].double() @ rows[0].double())
    encoder = HalvedThreshold(rows, torch.zeros(WIDTH), torch.full((WIDTH,), exact * (1 - 2e-5)), CPU)
    encoder._prepare(torch.zeros(1, D))
    assert encoder.encode(x).l0.tolist() == [WIDTH] * 8
    rows[:5] *= 1 + 2.0**-9  # in bfloat16 the other way round
    rows[5:] = torch.full((D,), 1.0 + 2.0**-7 + 2.0**-9 + 2.0**-12) * (1 - 2.0**-8)
    best = HalvedTopK(rows, torch.zeros(WIDTH), 5, CPU)
    best._prepare(torch.zeros(1, D))
    products = (x.double() @ rows.double().T)[0]
    assert products[best.encode(x).latents[:5].long()].min() >= products.topk(5).values.min() * (1 - 1e-6)


def test_no_tokens_have_no_codes_and_only_cuda_is_said_to_pay() -> None:
    x, w, b = problem(0, 0.0, 1.0)
    for kind in ("threshold", "topk"):
        codes = pair(kind, x, w, b)[0].encode(x[:0])
        assert codes.offsets.tolist() == [0] and codes.values.numel() == 0
    assert not halves_pay(CPU)
