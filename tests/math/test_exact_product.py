"""Products from slices: every one of them exact, and the sum as near to float64 as is claimed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmcore.math import moments
from dmcore.math.exact_product import BITS, ROWS, SLICES, add_product, slices_of
from dmcore.math.moments import InputMoments, MomentAccumulator, TargetMoments


def columns(n: int, d: int, seed: int = 0) -> Tensor:
    """Columns of very different sizes, with outliers and one of zeros."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g) * 10.0 ** torch.linspace(-12, 12, d)
    x[n // 2, : d // 2] *= 300
    x[:, 3] = 0.0
    return x


def test_slices_add_up_to_the_column() -> None:
    x = columns(200, 30)
    found, scale = slices_of(x)
    assert bool((found == found.round()).all()) and float(found.abs().max()) <= 2**BITS
    weights = 2.0 ** (-BITS * torch.arange(1, SLICES + 1, dtype=torch.float64))
    whole = (found.double() * weights[:, None, None]).sum(0) * scale
    largest = x.abs().amax(0).double()
    assert bool(((whole - x.double()).abs() <= largest * 2.0**-28).all())


def test_scales_are_powers_of_two_to_the_bit_whatever_a_device_makes_of_powers(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(made: Tensor) -> Tensor:
        return torch.nextafter(made, torch.full_like(made, torch.inf))

    for name in ("ldexp", "pow", "exp2"):  # off by one unit in the last place, as powers may be on a GPU
        real = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *given, real=real: rounded(real(*given)))
    exponents = torch.arange(-100, 100)
    powers = torch.tensor([2.0 ** int(k) for k in exponents], dtype=torch.float64)
    beside = {0.5: powers.float(), 1.0 - 2.0**-24: torch.nextafter(powers.float(), torch.zeros(1)),
              0.5 + 2.0**-24: torch.nextafter(powers.float(), torch.full((1,), torch.inf))}  # fmt: skip
    for share, values in beside.items():
        found, scale = slices_of(torch.stack([values, -values / 3]))
        assert torch.equal(scale, powers if share == 1.0 - 2.0**-24 else 2 * powers)
        assert torch.equal(values.double() / scale, torch.full_like(scale, share))
        assert float(found.abs().max()) <= 2**BITS


def test_a_product_of_slices_is_exact_in_any_order() -> None:
    worst = torch.full((ROWS, 5), 2.0**BITS)
    assert float((worst.T @ worst)[0, 0]) == 2.0**24
    found, _ = slices_of(columns(ROWS, 40))
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    for i in range(SLICES):
        for j in range(SLICES):
            made = found[i].T @ found[j]
            assert torch.equal(made.double(), found[i].double().T @ found[j].double())
            assert torch.equal(made, found[i][order].T @ found[j][order])
            assert torch.equal(found[i].bfloat16().float(), found[i]), "so bfloat16 and tf32 have them too"


@pytest.mark.parametrize("n", [1, 7, ROWS])
def test_the_error_is_within_the_bound_and_far_below_float32s(n: int) -> None:
    a, b = columns(n, 30), columns(n, 17, seed=1)
    for other in (b, None):
        total = torch.zeros(30, 17 if other is not None else 30, dtype=torch.float64)
        add_product(total, a, other)
        right = a if other is None else other
        exact = a.double().T @ right.double()
        bound = n * 2.0**-27 * a.abs().amax(0).double()[:, None] * right.abs().amax(0).double()
        assert bool(((total - exact).abs() <= bound).all())
    with pytest.raises(ValueError, match="more than the 1024"):
        add_product(total, torch.zeros(ROWS + 1, 30))


def test_it_adds_to_what_is_there_and_bears_tiny_and_huge_columns() -> None:
    a = torch.tensor([[1e-38, 1e30, 2.0]])
    total = torch.ones(3, 3, dtype=torch.float64)
    add_product(total, a)
    torch.testing.assert_close(total, 1 + a.double().T @ a.double(), rtol=1e-7, atol=0)


def filled(x: Tensor, y: Tensor, cells: Tensor, shift: Tensor) -> tuple[InputMoments, TargetMoments]:
    inputs, targets = InputMoments(3, shift), TargetMoments(3, x.shape[1], y.shape[1])
    accumulator = MomentAccumulator(inputs, targets, shift)
    for rows in torch.arange(len(x)).split(700):
        accumulator.add(x[rows], y[rows], cells[rows])
    accumulator.finish()
    return inputs, targets


def test_moments_where_float64_is_slow_equal_those_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 24, generator=g) + 3 * torch.randn(24, generator=g)
    x[:, 2] *= 1000
    y = (0.01 * torch.randn(5000, 9, generator=g)) ** 3
    cells, shift = torch.arange(5000) * 5 % 4 - 1, x[:500].double().mean(0).float().double()
    fast = filled(x, y, cells, shift)
    monkeypatch.setattr(moments, "product_dtype", lambda device: torch.float32)
    slow = filled(x, y, cells, shift)
    plain = [(x[cells == c].float() - shift.float()).T @ y[cells == c] for c in range(3)]
    gram, cross = (fast[0].gram, fast[1].cross)
    size = gram.diagonal(dim1=1, dim2=2).sqrt()
    assert float(((slow[0].gram - gram).abs() / (size[:, :, None] * size[:, None, :])).max()) < 1e-7
    sizes = size[:, :, None] * fast[1].target_sq.sqrt()[:, None, :]
    error = ((slow[1].cross - cross).abs() / sizes).max()
    naive = max(float(((p - cross[c, :-1]).abs() / sizes[c, :-1]).max()) for c, p in enumerate(plain))
    assert float(error) < 1e-7 and float(error) < naive / 2, "better than a float32 product of all tokens"
    torch.testing.assert_close(slow[1].target_sq, fast[1].target_sq, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("capability", "fast"),
    [((7, 0), True), ((7, 5), False), ((8, 0), True), ((8, 6), False), ((8, 9), False), ((9, 0), True),
     ((10, 0), True), ((10, 3), False), ((12, 0), False)],
)  # fmt: skip
def test_only_chips_with_fast_float64_use_it(
    capability: tuple[int, int], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert (moments.product_dtype(torch.device("cuda")) == torch.float64) is fast
    assert moments.product_dtype(torch.device("cpu")) == torch.float64
    assert moments.product_dtype(torch.device("mps")) == torch.float32
