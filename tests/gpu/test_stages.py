"""Stage by stage, a CUDA device gives what the CPU gives, and takes the memory that was said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmcore.analysis.activations import Activations, ActivationWriter
from dmcore.analysis.ahead import read_groups
from dmcore.analysis.encode import decoded, encoded, error_moments, groups_of, site_moments
from dmcore.analysis.partition import Partition
from dmcore.analysis.split_pass import SplitInputs, split_pass
from dmcore.math import moments
from dmcore.math.arithmetic import Arithmetic
from dmcore.math.atoms import Atoms
from dmcore.math.best_atom import ScreenedScan, best_atom_scan
from dmcore.math.device_memory import GIB, sae_memory
from dmcore.math.exact_product import add_product
from dmcore.math.halves import join_bits, split_bits
from dmcore.math.moments import MomentAccumulator, TargetMoments
from dmcore.math.pursuit import gradient_pursuit
from dmcore.math.sparse_codes import SparseCodes, decode
from dmcore.progress import Reporter
from dmcore.results import METRICS
from dmcore.sources.block_encoders import gated_encoder, thresholded, topk_encoder
from dmcore.sources.dictionary import Dictionary
from dmcore.specs import Settings
from tests.builders import D_MODEL, build_sae

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
D, WIDTH, N = 256, 20_000, 9000


def dense_on_cpu(codes: SparseCodes, width: int = WIDTH) -> Tensor:
    offsets, latents, values = (t.cpu() for t in (codes.offsets, codes.latents, codes.values))
    out = torch.zeros(len(offsets) - 1, width)
    out[torch.repeat_interleave(torch.arange(len(out)), offsets.diff()), latents.long()] = values.float()
    return out


def encoder_on(device: torch.device, kind: str, precision: str) -> object:
    g = torch.Generator().manual_seed(0)
    w, b = torch.randn(D, WIDTH, generator=g) / 16, 0.1 * torch.randn(WIDTH, generator=g)
    own, b = Arithmetic(precision), b.to(device)
    if kind == "topk":
        return topk_encoder(w, b, 40, None, own, device)
    if kind == "gated":
        return gated_encoder(w, b - 3, 0.1 * b, b, own, device)
    return thresholded(w, b, torch.full((WIDTH,), 3.0, device=device), own, device)


@pytest.mark.parametrize("kind", ["threshold", "gated", "topk"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-5), ("tf32", 2e-4), ("bfloat16", 2e-5)])
def test_encoders(kind: str, precision: str, tolerance: float) -> None:
    """Values agree wherever both have them; where one has none, the other is within the tolerance of its threshold."""
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    found = dense_on_cpu(encoder_on(CUDA, kind, precision).encode(x.to(CUDA)))
    expected = dense_on_cpu(encoder_on(CPU, kind, precision).encode(x))
    both = (found > 0) & (expected > 0)
    torch.testing.assert_close(found[both], expected[both], rtol=10 * tolerance, atol=100 * tolerance)
    lone = int(((found > 0) ^ (expected > 0)).sum())
    assert lone <= 50 * tolerance * int((expected > 0).sum()), "only what is at its threshold differs"


def test_halves_decode_and_exact_products() -> None:
    g = torch.Generator().manual_seed(0)
    x, rows = torch.randn(1000, D, generator=g), torch.randn(WIDTH, D, generator=g)
    assert torch.equal(join_bits(*split_bits(rows.to(CUDA))).cpu(), rows)
    codes = encoder_on(CPU, "topk", "float32").encode(x)
    there = SparseCodes(*(t.to(CUDA) for t in (codes.offsets, codes.latents, codes.values)))
    zeros = torch.zeros(D)
    torch.testing.assert_close(
        decode(there, rows.to(CUDA), zeros.to(CUDA)).cpu(), decode(codes, rows, zeros), rtol=1e-5, atol=1e-4
    )
    totals = [torch.zeros(D, D, dtype=torch.float64, device=device) for device in (CPU, CUDA)]
    for total in totals:
        add_product(total, x.to(total.device))
    assert torch.equal(totals[0], totals[1].cpu()), "exact sums do not depend on who adds"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_moments(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "product_dtype", lambda device: torch.float64 if device.type == "cpu" else dtype)
    g = torch.Generator().manual_seed(0)
    x, y, cells = torch.randn(5000, D, generator=g) + 5, torch.randn(5000, 3, generator=g), torch.arange(5000) % 4
    made = []
    for device in (CPU, CUDA):
        targets = TargetMoments(4, D, 3, device)
        accumulator = MomentAccumulator(None, targets, torch.full((D,), 5.0, dtype=torch.float64, device=device))
        accumulator.add(x.to(device), y.to(device), cells)
        accumulator.finish()
        made.append(targets)
    torch.testing.assert_close(made[1].cross.cpu(), made[0].cross, rtol=1e-6, atol=1e-4)


def stored(folder: Path, d_model: int, n_contexts: int, length: int, dtype: torch.dtype) -> Activations:
    folder.mkdir()
    writer = ActivationWriter(folder, n_contexts, length)
    g = torch.Generator().manual_seed(0)
    writer.write(0, torch.randn(n_contexts, length, d_model, generator=g).to(dtype))
    writer.finish()
    return Activations(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_that_are_sent_ahead(tmp_path: Path, dtype: torch.dtype) -> None:
    acts = stored(tmp_path / "acts", D, 64, 500, dtype)
    groups = list(groups_of(acts.chunks(), 8192))
    for chunks, x in read_groups(acts, groups, CUDA):
        torch.cuda._sleep(2_000_000)  # work that is behind, so that a buffer used too early would show
        assert torch.equal(x.cpu(), acts.read_all(chunks, CPU))


def test_pursuit() -> None:
    g = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(5000, 64, generator=g), dim=1)
    assert type(best_atom_scan(Atoms(rows.to(CUDA), rows[:1].to(CUDA)), rows[:1].to(CUDA))) is ScreenedScan
    x = torch.randn(200, 64, generator=g)
    here, there = gradient_pursuit(x, rows, 10), gradient_pursuit(x.to(CUDA), rows.to(CUDA), 10)
    recons = [decode(c, rows.to(c.values.device), torch.zeros(64, device=c.values.device)).cpu() for c in (here, there)]
    left = [float((x - recon).square().sum()) for recon in recons]
    assert left[1] == pytest.approx(left[0], rel=1e-3)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "gated"])
def test_a_pass_with_its_split(tmp_path: Path, architecture: str) -> None:
    acts, settings = stored(tmp_path / "acts", D_MODEL, 30, 200, torch.float32), Settings(skip_positions=1)
    partition = Partition.of(settings, acts.n_contexts, acts.length, 0)
    found = []
    for device in (CPU, CUDA):
        sae = Dictionary(build_sae(architecture), device=device, owned=True)
        folder = tmp_path / device.type
        folder.mkdir()
        inputs = site_moments(acts, partition, device, Reporter(), "site")
        targets = error_moments(encoded(acts, sae, folder, device), inputs, partition, Reporter(), "sae", acts.n_tokens)
        given = SplitInputs(inputs, targets, partition, settings, 0, sae.d_sae, acts.n_tokens)
        found.append(split_pass(decoded(acts, sae, folder, device), given, folder, Reporter(), "sae").main.values)
    for metric in METRICS:
        assert found[1][metric].value == pytest.approx(found[0][metric].value, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("topk", [False, True])
def test_memory_is_what_was_said(tmp_path: Path, precision: str, topk: bool) -> None:
    """A pass takes no more than the estimate, and the estimate not much more than the pass."""
    d_model, d_sae = 2048, 65_536
    acts, settings = stored(tmp_path / "acts", d_model, 24, 1024, torch.bfloat16), Settings(compare_skips=())
    partition = Partition.of(settings, acts.n_contexts, acts.length, 0)
    g = torch.Generator().manual_seed(0)
    options = {"k": 60, "rescale_acts_by_decoder_norm": False} if topk else {}
    sae = build_sae("topk" if topk else "jumprelu", d_in=d_model, d_sae=d_sae, **options)
    sae.W_enc.data = torch.randn(d_model, d_sae, generator=g) / d_model**0.5
    if not topk:
        sae.threshold.data = torch.full((d_sae,), 3.1)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    dictionary = Dictionary(sae, device=CUDA, owned=True, precision=precision)
    inputs = site_moments(acts, partition, CUDA, Reporter(), "site")
    error_moments(encoded(acts, dictionary, tmp_path, CUDA), inputs, partition, Reporter(), "sae", acts.n_tokens)
    peak = torch.cuda.max_memory_allocated() - before
    said = sae_memory(
        d_model, d_sae, CUDA, precision=precision, topk=topk, n_cells=partition.n_cells, n_maps=0, length=1024
    ).total
    assert peak <= said <= 2 * peak + GIB
