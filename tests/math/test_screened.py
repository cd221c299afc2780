"""The screen misses nothing: codes equal those of float32, and it is given up where it does not pay."""

from __future__ import annotations

import pytest
import torch

from dmcore.math import screened
from dmcore.math.screened import ScreenedEncoder, screening_pays
from dmcore.math.sparse_codes import ThresholdEncoder

D, WIDTH, N = 96, 300, 150

needs_sampling = pytest.mark.skipif(
    not torch.backends.mkl.is_available(), reason="this torch cannot sample a matrix product (built without MKL)"
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screened, "LATENTS_PER_BLOCK", 64)
    monkeypatch.setattr(screened, "TOKENS_PER_BLOCK", 40)


def problem(seed: int, *, mean: float = 0.0, outlier: float = 1.0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=g) + mean
    x[:, 5] *= outlier
    w = torch.randn(D, WIDTH, generator=g) * torch.rand(WIDTH, generator=g)
    pre = x @ w
    b = 0.1 * torch.randn(WIDTH, generator=g)
    threshold = (pre + b).quantile(0.99, dim=0).clamp_min(0.0)
    return x, w, b, threshold


@needs_sampling
@pytest.mark.parametrize(("mean", "outlier"), [(0.0, 1.0), (30.0, 1.0), (1.0, 50.0)])
@pytest.mark.parametrize("seed", range(4))
def test_codes_equal_float32s(seed: int, mean: float, outlier: float) -> None:
    x, w, b, threshold = problem(seed, mean=mean, outlier=outlier)
    encoder = ScreenedEncoder(w, b, threshold)
    found, expected = encoder.encode(x), ThresholdEncoder(w, b, threshold).encode(x)
    dense = [torch.zeros(N, WIDTH, dtype=torch.float64) for _ in range(2)]
    for out, codes in zip(dense, (found, expected), strict=True):
        out[torch.repeat_interleave(torch.arange(N), codes.l0), codes.latents.long()] = codes.values.double()
    pre = x.double() @ w.double() + b.double()
    clear = (pre - threshold.double()).abs() > 1e-5 * x.double().norm(dim=1, keepdim=True) * w.double().norm(dim=0)
    torch.testing.assert_close(dense[0] * clear, dense[1] * clear, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close((dense[0] > 0) & clear, (pre > threshold) & clear)


@needs_sampling
def test_values_at_the_edge_of_the_margin_are_not_missed() -> None:
    """All products rounded the same way: the worst case of the bound."""
    x = torch.full((8, D), 1.0 + 2.0**-8 - 2.0**-12)  # rounds down by almost half a unit in the last place
    w = torch.full((D, WIDTH), 1.0 + 2.0**-8 - 2.0**-12)
    x[0] = 0.0  # keeps the centre from absorbing the rest
    exact = float(x[1].double() @ w[:, 0].double())
    threshold = torch.full(
        (WIDTH,), exact * (1 - 2e-5)
    )  # float32 sums are that exact; bfloat16 products are off by 7e-3
    encoder = ScreenedEncoder(w, torch.zeros(WIDTH), threshold)
    encoder._centre = torch.zeros(D)
    screened.MAX_CANDIDATES, before = 1.0, screened.MAX_CANDIDATES
    try:
        encoder._prepare(torch.zeros(1, D))
        assert encoder.encode(x).l0.tolist() == [0] + [WIDTH] * 7
    finally:
        screened.MAX_CANDIDATES = before


@needs_sampling
def test_a_screen_that_lets_everything_through_is_given_up() -> None:
    x, w, b, _ = problem(0)
    encoder = ScreenedEncoder(w, b, torch.zeros(WIDTH))
    codes = encoder.encode(x)
    assert not encoder.screening
    assert int(codes.l0.sum()) == int((x @ w + b > 0).sum())


def test_other_devices_do_not_screen() -> None:
    assert not screening_pays(torch.device("meta"))


@needs_sampling
@pytest.mark.parametrize(("amx", "pairs"), [(True, False), (False, True), (False, False)])
def test_processors_that_are_made_for_bfloat16_screen(amx: bool, pairs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: pairs)
    assert screening_pays(torch.device("cpu")) == (amx or pairs)


@needs_sampling
def test_a_screen_that_memory_cut_short_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b, threshold = problem(0)
    encoder, zeros, made = ScreenedEncoder(w, b, threshold), torch.zeros, []

    def short_of_memory(*size: int, **more: object) -> torch.Tensor:
        made.append(size)
        if len(made) == 3:
            raise MemoryError
        return zeros(*size, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", short_of_memory)
        with pytest.raises(MemoryError):
            encoder.encode(x)
    found, expected = encoder.encode(x), ThresholdEncoder(w, b, threshold).encode(x)
    assert found.latents.tolist() == expected.latents.tolist()
