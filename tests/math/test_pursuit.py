"""Gradient pursuit equals a plain float64 version of itself, and of the paper's code; edges; a planted code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmcore.errors import DataError
from dmcore.math import best_atom, pursuit_state, screen
from dmcore.math.atoms import Atoms
from dmcore.math.best_atom import PlainScan, ScreenedScan
from dmcore.math.pursuit import GradientStep, gradient_pursuit
from dmcore.math.pursuit_state import Rule, pursue
from dmcore.math.sparse_codes import SparseCodes, decode

needs_sampling = pytest.mark.skipif(
    not torch.backends.mkl.is_available(), reason="this torch cannot sample a matrix product (built without MKL)"
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and batches that do not divide the shapes, so that every edge is crossed."""
    monkeypatch.setattr(best_atom, "PLAIN_BLOCK", 96)
    monkeypatch.setattr(best_atom, "SCREEN_BLOCK", 256)
    monkeypatch.setattr(screen, "SCREEN_BLOCK", 256)
    monkeypatch.setattr(pursuit_state, "TOKENS_PER_BATCH", 70)


def dense(codes: SparseCodes, width: int) -> torch.Tensor:
    out = torch.zeros(codes.offsets.numel() - 1, width, dtype=codes.values.dtype)
    out[torch.repeat_interleave(torch.arange(len(out)), codes.l0), codes.latents.long()] = codes.values
    for start, stop in zip(codes.offsets[:-1].tolist(), codes.offsets[1:].tolist(), strict=True):
        assert bool((codes.latents[start:stop].diff() > 0).all())
    return out


def reference(
    x: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor, *, again: bool = False, refill: bool = False
) -> torch.Tensor:
    """Token by token, dense, as it is defined."""
    out = torch.zeros(len(x), len(rows), dtype=x.dtype)
    for i, (one, target) in enumerate(zip(x, targets.tolist(), strict=True)):
        w, steps = out[i], 0
        while steps < (4 * target if refill else target) and not (refill and int((w > 0).sum()) == target):
            products = rows @ (one - w @ rows)
            allowed = torch.ones_like(w, dtype=torch.bool) if again else w == 0
            best = int(torch.where(allowed, products, -torch.inf).argmax())
            if not again and not (allowed[best] and products[best] > 0):
                break
            support = w > 0
            support[best] = True
            gradient = products * support
            length_sq = (gradient @ rows).square().sum()
            if length_sq > 0:
                w += gradient.square().sum() / length_sq * gradient
            w.clamp_(min=0)
            steps += 1
    return out


def problem(
    n: int, d: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(width, d, generator=g, dtype=dtype) * (0.5 + torch.rand(width, 1, generator=g, dtype=dtype))
    return torch.randn(n, d, generator=g, dtype=dtype), rows, torch.randint(0, 9, (n,), generator=g)


def screened(x: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor, *, again: bool = False) -> torch.Tensor:
    """Gradient pursuit by the screen, whatever the processor."""
    atoms = Atoms(rows, x, rows_per_slab=600)
    scan = ScreenedScan(atoms)
    codes = pursue(x, atoms, targets, scan, GradientStep(again), Rule(refill=False, need_positive=not again))
    return dense(codes, len(rows))


@pytest.mark.parametrize(("again", "refill"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize(("d", "width"), [(5, 12), (12, 300), (40, 1100)])
def test_codes_are_those_of_the_definition(d: int, width: int, again: bool, refill: bool) -> None:
    x, rows, targets = problem(150, d, width)
    found = dense(gradient_pursuit(x, rows, targets, again=again, refill=refill), width)
    torch.testing.assert_close(found, reference(x, rows, targets, again=again, refill=refill), rtol=1e-9, atol=1e-11)
    assert bool(((found > 0).sum(1) <= targets).all())


def test_refilling_replaces_clamped_atoms() -> None:
    x, rows, targets = problem(300, 6, 40)
    plain, refilled = (gradient_pursuit(x, rows, targets, refill=refill).l0 for refill in (False, True))
    assert bool((plain < targets).any())
    assert int((refilled < targets).sum()) < int((plain < targets).sum())


@needs_sampling
@pytest.mark.parametrize("again", [False, True])
def test_float32_and_its_screen_agree_with_float64(again: bool) -> None:
    x, rows, targets = problem(1000, 64, 1500, dtype=torch.float32)
    expected = reference(x.double(), rows.double(), targets, again=again)
    scatter = (x - x.mean(0)).double().square().sum()
    fvu = (x.double() - expected @ rows.double()).square().sum() / scatter
    plain = dense(gradient_pursuit(x, rows, targets, again=again), 1500).double()
    for found in (plain, screened(x, rows, targets, again=again).double()):
        same = ((found > 0) == (expected > 0)).all(1)
        assert float(same.double().mean()) >= 0.999
        torch.testing.assert_close(found[same], expected[same], rtol=1e-4, atol=1e-5)
        assert abs((x.double() - found @ rows.double()).square().sum() / scatter - fvu) < 1e-6


@needs_sampling
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("scale", [1e-20, 1e-8, 1.0, 1e8])
def test_the_screen_finds_the_plain_scans_atom(scale: float, signed: bool) -> None:
    g = torch.Generator().manual_seed(1)
    rows = torch.randn(900, 33, generator=g) * torch.rand(900, 1, generator=g).pow(3)
    rows[17], rows[400], rows[500] = 0.0, rows[3], rows[3] * (1 + 2.0**-10)  # far below what bfloat16 tells apart
    residual = scale * torch.randn(131, 33, generator=g)
    residual[5] = 0.0
    residual[6:40] = scale * rows[3] + 1e-4 * residual[6:40]
    support = torch.randint(-1, 900, (131, 8), generator=g)
    support[6:20, 0] = 500
    atoms = Atoms(rows, residual, rows_per_slab=700)
    for own in (None, support):
        plain, fast = (kind(atoms, signed=signed).best(residual, own) for kind in (PlainScan, ScreenedScan))
        torch.testing.assert_close(fast.scores, plain.scores, rtol=1e-5, atol=0)
        assert float((fast.atoms == plain.atoms).double().mean()) > 0.98  # float32 may see copies as equal
        torch.testing.assert_close(fast.rows, rows[fast.atoms])
    assert bool((plain.atoms[:, None] != support).all())


@needs_sampling
def test_tokens_of_which_the_screen_says_nothing_are_scanned_plainly() -> None:
    g = torch.Generator().manual_seed(0)
    rows, x = torch.rand(900, 16, generator=g), torch.rand(40, 16, generator=g)
    x[:20] *= -1  # all inner products are below 0
    rows[:] = rows[0] * (1 + 1e-4 * torch.rand(900, 1, generator=g))  # and all are nearly equal
    atoms = Atoms(rows, x)
    scan = ScreenedScan(atoms)
    found, expected = scan.best(x), PlainScan(atoms).best(x)
    assert scan.n_plain >= 20
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-6, atol=0)


class Streamed:
    """Rows that are given in ranges."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.d_sae, self.asked = rows, len(rows), 0

    def decoder_rows(self, first: int, last: int) -> torch.Tensor:
        self.asked = max(self.asked, last - first)
        return self.rows[first:last]


@pytest.mark.parametrize("normalise", [False, True])
def test_a_decoder_read_in_ranges_gives_the_same_codes(normalise: bool) -> None:
    x, rows, targets = problem(100, 16, 500)
    whole = gradient_pursuit(x, rows, targets, normalise=normalise)
    source = Streamed(rows)
    sliced = gradient_pursuit(x, source, targets, normalise=normalise, block=130)
    assert source.asked == 130
    assert torch.equal(whole.latents, sliced.latents)
    torch.testing.assert_close(whole.values, sliced.values)


def test_normalised_atoms_have_values_for_the_rows_as_they_are() -> None:
    x, rows, targets = problem(100, 16, 200)
    norms = rows.norm(dim=1, keepdim=True)
    found = dense(gradient_pursuit(x, rows, targets, normalise=True), 200)
    torch.testing.assert_close(found * norms.T, dense(gradient_pursuit(x, rows / norms, targets), 200))


def test_a_planted_code_is_recovered() -> None:
    g = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(400, 256, generator=g, dtype=torch.float64), dim=1)
    true = torch.stack([torch.randperm(400, generator=g)[:5].sort().values for _ in range(60)])
    values = 1 + torch.rand(60, 5, generator=g, dtype=torch.float64)
    bias = torch.randn(256, generator=g, dtype=torch.float64)
    x = torch.bmm(values[:, None], rows[true]).squeeze(1) + bias
    codes = gradient_pursuit(x, rows, 5, bias=bias)
    assert torch.equal(codes.latents.view(60, 5).long(), true)
    errors = [float((x - decode(gradient_pursuit(x, rows, k, bias=bias), rows, bias)).norm()) for k in range(6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


def test_targets_of_no_atom_and_of_every_atom() -> None:
    x, rows, _ = problem(20, 8, 30)
    assert gradient_pursuit(x, rows, 0).latents.numel() == 0
    assert gradient_pursuit(x[:0], rows, 3).offsets.tolist() == [0]
    assert int(gradient_pursuit(x, rows, 30, refill=True).l0.max()) <= 30
    mixed = gradient_pursuit(x, rows, torch.tensor([0, 4] * 10))
    assert mixed.l0[::2].sum() == 0
    torch.testing.assert_close(dense(mixed, 30)[1::2], dense(gradient_pursuit(x, rows, 4), 30)[1::2])


def test_zero_rows_are_never_chosen_and_of_copies_the_first() -> None:
    x, rows, targets = problem(200, 6, 50)
    rows[::5], rows[1::5] = 0.0, rows[2::5]
    found = dense(gradient_pursuit(x, rows, targets), 50)
    assert not bool((found[:, ::5] > 0).any())
    first = gradient_pursuit(x, rows, 1)
    assert not bool((first.latents % 5 == 2).any())


def test_a_token_ends_where_no_inner_product_is_above_zero() -> None:
    x = -torch.ones(4, 3)
    x[1] = 0.0
    codes = gradient_pursuit(x, torch.eye(3), 2)
    assert codes.latents.numel() == 0
    assert gradient_pursuit(-x, torch.eye(3), 3).l0.tolist() == [3, 0, 3, 3]


def test_half_precision_is_worked_on_in_float32() -> None:
    x, rows, targets = problem(20, 8, 30, dtype=torch.float32)
    assert gradient_pursuit(x.bfloat16(), rows.bfloat16(), targets).values.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.full((4, 3), torch.nan)}, "activations hold NaN"),
        ({"decoder": torch.full((5, 3), torch.inf)}, "decoder holds NaN"),
        ({"decoder": torch.ones(5, 4)}, "do not go with activations of 3"),
        ({"targets": 6}, "between 0 and the 5 latents"),
        ({"targets": -1}, "between 0 and the 5 latents"),
        ({"targets": torch.ones(3, dtype=torch.int64)}, "3 targets for 4 tokens"),
        ({"again": True, "refill": True}, "not both"),
        ({"block": 0}, "ask for 1 or more"),
        ({"decoder": Atoms(torch.ones(5, 3), torch.ones(1, 3)), "normalise": True}, "make them anew"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(change: dict[str, object], message: str) -> None:
    given = {"x": torch.ones(4, 3), "decoder": torch.ones(5, 3), "targets": 2} | change
    with pytest.raises(DataError, match=message) as raised:
        gradient_pursuit(**given)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("of_x", "of_rows"), [(1.0, 1e-12), (1.0, 1e12), (1e15, 1.0), (1e-15, 1.0), (1e12, 1e-12)])
def test_the_scale_of_x_and_of_the_rows_does_not_matter(of_x: float, of_rows: float) -> None:
    g = torch.Generator().manual_seed(5)
    rows, x = torch.randn(60, 16, generator=g), torch.randn(40, 16, generator=g)
    usual, scaled = gradient_pursuit(x, rows, 7), gradient_pursuit(x * of_x, rows * of_rows, 7)
    assert torch.equal(scaled.latents, usual.latents) and torch.equal(scaled.offsets, usual.offsets)
    torch.testing.assert_close(scaled.values * of_rows / of_x, usual.values, rtol=1e-4, atol=1e-6)


def test_targets_and_shapes_that_do_not_fit_are_sentences(unchecked: None) -> None:
    x, decoder = torch.randn(5, 6), torch.randn(9, 6)
    for targets in ([1, 2, 3, 4, 5], np.arange(1, 6)):
        expected = gradient_pursuit(x, decoder, torch.arange(1, 6))
        torch.testing.assert_close(gradient_pursuit(x, decoder, targets).latents, expected.latents)
    for given, targets, bias, said in (
        (x, 2.5, None, "Targets are whole numbers"),
        (x, torch.ones(5, 1, dtype=torch.int64), None, "Targets are whole numbers"),
        (x, torch.ones(5), None, "Targets are whole numbers"),
        (x, "2", None, "Targets are whole numbers"),
        (x[0], 2, None, r"a \(n_tokens, d_model\) tensor"),
        (x, 2, torch.zeros(4), r"The bias has shape \(4,\), but \(6,\) is needed"),
    ):
        with pytest.raises(DataError, match=said):
            gradient_pursuit(given, decoder, targets, bias=bias)  # type: ignore[arg-type]
