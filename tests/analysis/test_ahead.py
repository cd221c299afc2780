"""Activations that are read ahead are those that are read one by one; the codes that leave are all written, in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dmcore.analysis.activations import Activations, ActivationWriter, Chunk, chunks_of
from dmcore.analysis.ahead import SLOTS, Leaving, read_groups
from dmcore.analysis.codes import Codes
from dmcore.analysis.context_sample import ContextSample
from dmcore.analysis.encode import decoded, encoded, groups_of
from dmcore.sources.dictionary import Dictionary
from tests.builders import D_MODEL, build_sae

CPU = torch.device("cpu")


def stored(folder: Path, dtype: torch.dtype, n_contexts: int = 11, length: int = 7) -> Activations:
    g = torch.Generator().manual_seed(0)
    folder.mkdir()
    writer = ActivationWriter(folder, n_contexts, length)
    writer.write(0, torch.randn(n_contexts, length, D_MODEL, generator=g).to(dtype))
    writer.finish()
    return Activations(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("sampled", [False, True])
def test_what_is_read_ahead_is_what_is_there(tmp_path: Path, dtype: torch.dtype, sampled: bool) -> None:
    acts = stored(tmp_path / "acts", dtype)
    if sampled:
        acts = ContextSample((0, 2, 3, 4, 7, 8, 9), acts.n_contexts).acts(acts)
    chunks = chunks_of(acts.n_contexts, acts.length, 3 * acts.length)
    groups = list(groups_of(chunks, 25))
    assert len(groups) > 1
    plain = list(read_groups(acts, groups, CPU, ahead=False))
    ahead = [(chunks, x.clone()) for chunks, x in read_groups(acts, groups, CPU, ahead=True)]
    assert [c for c, _ in plain] == [c for c, _ in ahead] == groups
    for (_, one), (_, other) in zip(plain, ahead, strict=True):
        assert one.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(one, other)


def test_only_so_many_are_on_their_way_and_an_early_end_is_borne(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts, read = stored(tmp_path / "acts", torch.float32), []
    copy = acts.copy_into
    monkeypatch.setattr(acts, "copy_into", lambda chunk, held: (read.append(chunk.first_context), copy(chunk, held)))
    groups = [[Chunk(context, 1, 7)] for context in range(11)]
    going = read_groups(acts, groups, CPU, ahead=True)
    next(going)
    next(going)
    assert len(read) <= 2 + SLOTS
    going.close()
    assert len(read) <= 2 + SLOTS


def test_a_file_that_cannot_be_read_says_so_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = stored(tmp_path / "acts", torch.float32)

    def broken(chunk: object, held: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(acts, "copy_into", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        next(read_groups(acts, [[next(acts.chunks())]], CPU, ahead=True))


def test_codes_that_leave_late_are_all_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: groups of two chunks, read ahead, whose codes are written behind the work."""
    acts, sae = stored(tmp_path / "acts", torch.float32), Dictionary(build_sae("topk"))
    monkeypatch.setattr(type(acts), "chunks", lambda self: chunks_of(self.n_contexts, self.length, 14))
    monkeypatch.setattr(sae, "tokens_at_once", 28)
    for name, ahead in (("plain", False), ("ahead", True)):
        if ahead:
            monkeypatch.setattr("dmcore.analysis.encode.read_groups", lambda *given: read_groups(*given, ahead=True))
            monkeypatch.setattr("dmcore.analysis.encode.LATE", frozenset({"cpu"}))
        (tmp_path / name).mkdir()
        errors = [part.error for part in encoded(acts, sae, tmp_path / name, CPU)]
        again = [part.error for part in decoded(acts, sae, tmp_path / name, CPU)]
        assert all(torch.equal(a, b) for a, b in zip(errors, again, strict=True))
    for file in ("latents", "values", "counts", "contexts"):
        assert (tmp_path / "plain" / f"{file}.npy").read_bytes() == (tmp_path / "ahead" / f"{file}.npy").read_bytes()
    assert Leaving.start(sae.encode(torch.zeros(7, D_MODEL)), Chunk(0, 1, 7)).wait().chunk.length == 7
    assert len(Codes(tmp_path / "ahead")._contexts) == 12
