"""Codes on disk come back exactly, any chunk of them, for narrow and wide dictionaries, in the bytes promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dmcore.analysis.activations import Chunk, chunks_of
from dmcore.analysis.codes import Codes, CodesWriter
from dmcore.errors import DataError
from dmcore.math.sparse_codes import SparseCodes


def random_codes(n_tokens: int, d_sae: int, l0: int, seed: int) -> SparseCodes:
    g = np.random.default_rng(seed)
    counts = g.poisson(l0, n_tokens)
    counts[::7] = 0
    latents = [np.sort(g.choice(d_sae, count, replace=False)) for count in counts]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    values = g.random(offsets[-1]).astype(np.float32)
    return SparseCodes(
        torch.from_numpy(offsets), torch.from_numpy(np.concatenate(latents).astype(np.int32)), torch.from_numpy(values)
    )


@pytest.mark.parametrize("d_sae", [300, 65_536, 1_000_000])
def test_codes_come_back_exactly(d_sae: int, tmp_path: Path) -> None:
    writer = CodesWriter(tmp_path, d_sae)
    chunks = list(chunks_of(10, 50, tokens=150))
    written = [random_codes(chunk.n_contexts * 50, d_sae, 12, seed) for seed, chunk in enumerate(chunks)]
    for chunk, codes in zip(chunks, written, strict=True):
        writer.append(codes, chunk)
    writer.close()
    stored = Codes(tmp_path)
    for chunk, codes in zip(reversed(chunks), reversed(written), strict=True):
        found = stored.read(chunk, torch.device("cpu"))
        for name in ("offsets", "latents", "values"):
            torch.testing.assert_close(getattr(found, name), getattr(codes, name), rtol=0, atol=0)
    one = stored.read(Chunk(4, 1, 50), torch.device("cpu"))
    start, stop = int(written[1].offsets[50]), int(written[1].offsets[100])
    torch.testing.assert_close(one.values, written[1].values[start:stop], rtol=0, atol=0)
    active = sum(codes.latents.numel() for codes in written)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.npy"))
    assert size <= 6 * active + 500 * (2 * -(-d_sae // 65_536)) + 8 * 11 + 4 * 128


def test_more_active_latents_than_a_count_can_say_are_refused(tmp_path: Path) -> None:
    n = 65_536
    codes = SparseCodes(torch.tensor([0, n]), torch.arange(n, dtype=torch.int32), torch.ones(n))
    with pytest.raises(DataError, match="it is not sparse"):
        CodesWriter(tmp_path, n).append(codes, Chunk(0, 1, 1))
