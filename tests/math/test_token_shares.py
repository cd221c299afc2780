"""Shares of tokens on threads: the same answers, in order, in the same mode; the cores are given back."""

from __future__ import annotations

import threading

import pytest
import torch

from dmcore.math.pursuit import gradient_pursuit
from dmcore.math.token_shares import LEAST_TOKENS, n_shares, work_shares

CPU = torch.device("cpu")


@pytest.fixture
def two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_are_in_order_and_each_thread_has_its_part_of_the_cores(two_cores):
    met = threading.Barrier(2, timeout=30)

    def work(share: int) -> tuple[int, int, bool]:
        met.wait()  # two at once, or this fails
        return share, torch.get_num_threads(), torch.is_inference_mode_enabled()

    with torch.inference_mode():
        found = work_shares(work, range(4), 2)
    assert found == [(share, 1, True) for share in range(4)]
    assert torch.get_num_threads() == 2
    assert work_shares(lambda share: torch.is_grad_enabled(), [0, 1], 2) == [True, True]


def test_what_a_share_raises_is_raised_and_the_cores_are_given_back(two_cores):
    def work(share: int) -> int:
        if share == 1:
            raise ValueError("the second")
        return share

    with pytest.raises(ValueError, match="the second"):
        work_shares(work, [0, 1, 2], 2)
    assert torch.get_num_threads() == 2


def test_few_tokens_are_one_share(two_cores):
    assert [n_shares(n, CPU) for n in (0, LEAST_TOKENS, 2 * LEAST_TOKENS - 1, 2 * LEAST_TOKENS, 10_000)] == [
        1,
        1,
        1,
        2,
        2,
    ]
    assert n_shares(10_000, torch.device("meta")) == 1


@pytest.mark.parametrize("inference", [False, True])
def test_pursuit_gives_the_same_codes_on_one_thread_and_two(two_cores, inference):
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 24, generator=g, dtype=torch.float64)
    x = torch.randn(700, 24, generator=g, dtype=torch.float64)
    targets = torch.randint(0, 9, (700,), generator=g)
    with torch.inference_mode(inference):
        two = gradient_pursuit(x, rows, targets)
        torch.set_num_threads(1)
        one = gradient_pursuit(x, rows, targets)
    assert torch.equal(two.offsets, one.offsets)
    assert torch.equal(two.latents, one.latents)
    torch.testing.assert_close(two.values, one.values, rtol=1e-12, atol=1e-12)
