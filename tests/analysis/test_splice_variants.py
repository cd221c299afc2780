"""What is put in the place of an activation: parts that add up, and controls with the norms that they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmcore.analysis.activations import Chunk
from dmcore.analysis.splice_variants import EVERYWHERE, ON_SOME, ChunkVectors

N, LENGTH, D, SKIP = 5, 12, 8, 3
CONTEXTS = list(range(N))


def chunk_vectors(first: int = 10, seed: int = 0, n: int = N) -> ChunkVectors:
    g = torch.Generator().manual_seed(1)
    x, error, linear = (torch.randn(N * LENGTH, D, generator=g)[: n * LENGTH] for _ in range(3))
    return ChunkVectors(
        Chunk(first, n, LENGTH), x, 0.3 * error, 0.1 * linear, torch.ones(D), skip_positions=SKIP, seed=seed
    )


def test_parts_add_up() -> None:
    v = chunk_vectors()
    torch.testing.assert_close(v.of("sae", CONTEXTS) + v.linear + v.nonlinear, v.x)
    torch.testing.assert_close(v.of("exact", CONTEXTS), v.x)
    torch.testing.assert_close(v.of("sae_linear", CONTEXTS), v.recon + v.linear)
    torch.testing.assert_close(v.of("sae_nonlinear", CONTEXTS), v.x - v.linear)
    torch.testing.assert_close(v.of("nonlinear_1.5", [1, 3]), (v.recon + 1.5 * v.nonlinear)[[1, 3]])
    torch.testing.assert_close(v.of("linear_0.25", [4]), (v.recon + 0.25 * v.linear)[[4]])
    assert not v.of("zero", CONTEXTS).any() and (v.of("mean", CONTEXTS) == 1).all()
    assert all(v.of(name, [0, 2]).shape == (2, LENGTH, D) for name in (*EVERYWHERE, *ON_SOME))


@pytest.mark.parametrize(("name", "base"), [("sae_random", "recon"), ("sae_shuffled", "recon"), ("x_random", "x")])
def test_controls_have_the_errors_norm_at_each_token(name: str, base: str) -> None:
    v = chunk_vectors()
    added = v.of(name, CONTEXTS) - getattr(v, base)
    torch.testing.assert_close(added.norm(dim=-1), v.error.norm(dim=-1), rtol=1e-4, atol=1e-5)
    cosines = torch.cosine_similarity(added, v.error, dim=-1)[:, SKIP:]
    assert cosines.max() < 0.999, "no token has its own error"
    assert abs(float(cosines.mean())) < 0.2


def test_shuffled_errors_are_those_of_other_kept_tokens_each_once() -> None:
    v = chunk_vectors()
    source = v._shuffled.numpy()
    kept = np.flatnonzero(np.tile(np.arange(LENGTH) >= SKIP, N))
    assert sorted(source[kept]) == kept.tolist() and (source[kept] != kept).all()
    one = ChunkVectors(Chunk(0, 1, 4), *(torch.ones(4, D) for _ in range(3)), torch.ones(D), skip_positions=3, seed=0)
    assert torch.isfinite(one.of("sae_shuffled", [0])).all(), "one kept token"


def test_controls_depend_on_context_and_seed_alone() -> None:
    v = chunk_vectors()
    both, one = v.random([1, 3]), v.random([3])
    assert torch.equal(both[1:], one)
    shifted = chunk_vectors(first=12)
    own = shifted.random([1])[0] / shifted.error[1].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(own, v.random([3])[0] / v.error[3].norm(dim=-1, keepdim=True))
    assert not torch.equal(chunk_vectors(seed=1).random([3]), one)
    assert not torch.equal(chunk_vectors(seed=1).shuffled([3]), v.shuffled([3]))


def test_a_token_without_error_gets_none() -> None:
    v = ChunkVectors(
        Chunk(0, 2, 6),
        torch.ones(12, D),
        *(torch.zeros(12, D) for _ in range(2)),
        torch.ones(D),
        skip_positions=1,
        seed=0,
    )
    for name in ("sae_random", "sae_shuffled", "x_random"):
        assert torch.equal(v.of(name, [0, 1]), v.x)
