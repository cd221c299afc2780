"""The precision of the encoders' products: part of every key, other results under another name; and too little memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dmcore.analysis.encode import error_moments
from dmcore.errors import DataError, SpecError
from dmcore.math.arithmetic import Arithmetic, round_to_tf32
from dmcore.math.device_memory import GIB, resident_bytes, sae_memory
from dmcore.math.sparse_codes import ThresholdEncoder, TopKEncoder
from dmcore.run import device_room
from dmcore.run.cli import main
from dmcore.run.device_room import check_room, room_needed
from dmcore.run.pipeline import Pipeline
from dmcore.run.plan import make_plan
from dmcore.sources.dictionary import Dictionary
from dmcore.specs import Study, load_study
from dmcore.store.store import Store
from tests.builders import D_MODEL, build_sae, build_study

CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load_study(build_study(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def swept(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The first SAE of the study in two precisions, in one store."""
    store = Store(tmp_path_factory.mktemp("cache"))
    for precision in (None, "bfloat16"):
        Pipeline(store).sweep(only_one(study).with_precision(precision), scale=False)
    return store


def only_one(study: Study) -> Study:
    return replace(study, saes=study.saes[:1])


def test_tf32_is_the_nearest_number_of_ten_bits() -> None:
    g = torch.Generator().manual_seed(0)
    values = torch.cat([torch.randn(1000, generator=g), torch.tensor([0.0, -0.0, 1.0, 1 + 2.0**-10, 1 + 2.0**-11])])
    rounded = round_to_tf32(values)
    mantissa, _ = torch.frexp(rounded)
    assert bool(((mantissa * 2**11) % 1 == 0).all())
    assert bool(((rounded - values).abs() <= values.abs() * 2.0**-11).all())
    assert float(rounded[-1]) == 1 + 2.0**-10, "ties away from zero, as the hardware's conversion rounds"
    assert torch.equal(round_to_tf32(values.double()), values.double())


@pytest.mark.parametrize(("precision", "unit"), [("tf32", 2.0**-11), ("bfloat16", 2.0**-9)])
def test_a_product_is_that_of_rounded_inputs(precision: str, unit: float) -> None:
    g = torch.Generator().manual_seed(0)
    x, w, b = torch.randn(50, 32, generator=g), torch.randn(32, 70, generator=g), torch.randn(70, generator=g)
    arithmetic = Arithmetic(precision)
    made = arithmetic.addmm(b, arithmetic.inputs(x), arithmetic.weights(w))
    exact = x.double() @ w.double() + b.double()
    bound = 2.1 * unit * (x.abs().double() @ w.abs().double())
    assert made.dtype == torch.float32
    assert bool(((made - exact).abs() <= bound).all())
    assert float((made - exact).abs().max()) > 0.02 * float(bound.min()), "and not float32's"
    kept = arithmetic.weights(w)
    assert kept.dtype == (torch.bfloat16 if precision == "bfloat16" else torch.float32)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_encoders_threshold_the_rounded_product(precision: str) -> None:
    g = torch.Generator().manual_seed(0)
    x, w, b = torch.randn(90, 32, generator=g), torch.randn(32, 700, generator=g), torch.randn(700, generator=g)
    arithmetic, threshold = Arithmetic(precision), torch.full((700,), 12.0)
    pre = arithmetic.addmm(b, arithmetic.inputs(x), arithmetic.weights(w))
    codes = ThresholdEncoder(w, b, threshold, arithmetic).encode(x)
    assert codes.l0.tolist() == (pre > threshold).sum(1).tolist()
    best = TopKEncoder(w, b, 9, arithmetic=arithmetic).encode(x)
    expected = pre.topk(9).values.sort(1).values
    torch.testing.assert_close(best.values.view(90, 9).sort(1).values, expected, rtol=0, atol=1e-4)


def test_the_precision_is_part_of_the_keys_and_float32_of_none(study: Study, tmp_path: Path) -> None:
    store = Store(tmp_path)
    plain, low = (make_plan(study.with_precision(p), store, reporter=Pipeline(store).reporter) for p in (None, "tf32"))
    assert "precision" not in plain.saes[0].codes and "precision" not in plain.saes[0].split["settings"]
    assert "precision" not in plain.study.to_dict()["settings"]
    assert low.saes[0].codes == {**plain.saes[0].codes, "precision": "tf32"}
    assert low.saes[0].summary_key != plain.saes[0].summary_key
    assert low.sites == plain.sites and low.inputs == plain.inputs, "activations and their moments are shared"
    assert low.study.name == f"{study.name}-tf32" and study.with_precision("float32") is study
    with pytest.raises(SpecError, match="choose one of float32, tf32, bfloat16"):
        study.with_precision("float8")


def test_a_sweep_in_bfloat16_has_results_of_its_own(study: Study, swept: Store) -> None:
    one = only_one(study)
    plain, low = (Pipeline(swept).sweep(one.with_precision(p), scale=False) for p in (None, "bfloat16"))
    assert plain.computed == low.computed == 0, "both are in the cache, side by side"
    assert plain.records[0]["fvu"] != low.records[0]["fvu"]
    assert low.records[0]["fvu"] == pytest.approx(plain.records[0]["fvu"], rel=0.02)


def test_show_has_the_precision_that_is_asked_for(
    study: Study, swept: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(swept.root))
    shown = []
    for more in ([], ["--precision", "bfloat16"]):
        assert main(["show", str(study.folder / "study.toml"), "--json", *more]) == 0
        shown.append(json.loads(capsys.readouterr().out)[0]["fvu"])
    assert shown[0] != shown[1]
    assert main(["show", str(study.folder / "study.toml"), "--precision", "tf32"]) == 1
    assert "Nothing has been computed" in capsys.readouterr().err


def test_what_encodes_by_its_own_code_says_that_it_has_no_precision() -> None:
    with pytest.raises(SpecError, match="encodes by its own code, not in bfloat16"):
        Dictionary(build_sae("matching_pursuit"), precision="bfloat16")


@pytest.mark.parametrize("architecture", ["topk", "standard", "jumprelu", "gated"])
def test_in_halves_as_on_a_gpu_an_sae_is_the_same(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(64, D_MODEL, generator=torch.Generator().manual_seed(0))
    plain = Dictionary(build_sae(architecture))
    monkeypatch.setattr("dmcore.sources.block_encoders.halves_pay", lambda device: True)
    halved = Dictionary(build_sae(architecture), device=torch.device("cpu"), owned=True)
    assert halved._sae.W_enc.numel() == 0, "the weights are there once"
    found, expected = halved.encode(x), plain.encode(x)
    assert torch.equal(found.latents, expected.latents) and torch.equal(found.offsets, expected.offsets)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(halved.decode(found, x), plain.decode(expected, x), rtol=1e-5, atol=1e-5)
    mine = build_sae(architecture)
    Dictionary(mine)
    assert mine.W_enc.numel(), "but not those of an object that somebody else uses"


def test_a_million_latents_take_under_forty_gib_of_a_gpu() -> None:
    for topk in (False, True):
        memory = sae_memory(3584, 2**20, CUDA, topk=topk)
        assert 30 * GIB < memory.total < 40 * GIB
        assert memory.weights == resident_bytes(3584, 2**20, CUDA)
    assert "GiB (" in memory.words() and "for weights" in memory.words()
    assert sae_memory(3584, 2**20, CUDA, sliced=True).total < 12 * GIB


def test_too_little_memory_is_said_before_the_work_begins(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    plan = make_plan(study, store, reporter=Pipeline(store).reporter)
    monkeypatch.setenv("DMCORE_SAE_MEMORY_GIB", "1")
    needed = room_needed(plan, plan.saes[0], D_MODEL, CUDA)
    assert needed is not None
    monkeypatch.setattr(device_room, "available_memory", lambda device: needed.total - 1)
    with pytest.raises(DataError, match=r"takes about .* GiB .*on cuda, where .* GiB are free: .*--device cpu"):
        check_room(plan, plan.saes[0], D_MODEL, CUDA)
    check_room(plan, plan.saes[0], D_MODEL, torch.device("cpu"))
    monkeypatch.setattr(device_room, "available_memory", lambda device: needed.total)
    check_room(plan, plan.saes[0], D_MODEL, CUDA)


def test_memory_that_runs_out_in_the_middle_costs_one_sae(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, made = replace(study, saes=study.saes[:2]), []
    broken = two.saes[0].name

    def moments(*arguments: object, **named: object) -> object:
        if not made:
            made.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return error_moments(*arguments, **named)

    monkeypatch.setattr("dmcore.run.sae_stages.error_moments", moments)
    found = Pipeline(Store(tmp_path)).sweep(two, scale=False)
    assert list(found.failures) == [broken] and [r["sae"] for r in found.records] == [two.saes[1].name]
    assert "ran out on" in found.failures[broken] and "Finished work is kept." in found.failures[broken]
    again = Pipeline(Store(tmp_path)).sweep(two, scale=False)
    assert again.computed == 1 and not again.failures, "the next sweep makes what was missing, and that alone"
