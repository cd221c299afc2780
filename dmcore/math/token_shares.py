"""Shares of some tokens on threads of their own, for work of many small steps in which no token needs another.

torch gives every product to all cores, which then wait for the slowest at every step: little where products are large, most of
the time where there are hundreds of small ones and the machine has other work too. A share of the tokens a thread, each with
its part of the cores, waits once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")
Share = TypeVar("Share")

LEAST_TOKENS = 128
"""Tokens below which a share is not worth a thread: all that it reads would serve too few."""


def n_shares(n_tokens: int, device: torch.device) -> int:
    """Into how many shares some tokens are best cut."""
    return 1 if device.type != "cpu" else max(1, min(torch.get_num_threads(), n_tokens // LEAST_TOKENS))


def work_shares(work: Callable[[Share], Result], shares: Iterable[Share], n_threads: int) -> list[Result]:
    """What `work` gives for each share, in their order; what it raises is raised.

    Args:
        work: on a share; it must not write what another share reads.
        shares: in any number.
        n_threads: threads; the cores that torch may use are divided among them.
    """
    shares = shares if isinstance(shares, Sequence) else list(shares)
    if n_threads <= 1 or len(shares) <= 1:
        return [work(share) for share in shares]
    cores, inference, grad = torch.get_num_threads(), torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def begin() -> None:
        torch.set_num_threads(max(1, cores // n_threads))

    def one(share: Share) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad and not inference):  # both are of a thread
            return work(share)

    try:
        with ThreadPoolExecutor(n_threads, initializer=begin) as pool:
            return list(pool.map(one, shares))
    finally:
        torch.set_num_threads(cores)  # what a thread sets is what threads that begin later start from
