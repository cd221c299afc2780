"""Which SAEs a sweep takes: those of the study's site and model, from files, releases or Python."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import dmcore
from dmcore.analysis.activations import Activations
from dmcore.analysis.sanity import check_belongs, reconstruction_fvu
from dmcore.errors import Cancelled, DataError, SpecError
from dmcore.math.sparse_codes import codes_from_dense
from dmcore.progress import Reporter
from dmcore.run.failures import why_failed
from dmcore.run.pipeline import Pipeline
from dmcore.run.plan import make_plan
from dmcore.sources.prefetch import Prefetch
from dmcore.sources.sae_weights import SaeConfig
from dmcore.sources.saes import check_origin
from dmcore.specs import ModelSpec, SaeSpec, load_study
from dmcore.store.store import Store
from tests.builders import D_MODEL, HOOKS, build_sae, build_study


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_study(tmp_path_factory.mktemp("study"), architectures=("topk",))


class Halves:
    """Positive and negative parts of x, times a factor: an FVU of (1 - factor)^2 about zero."""

    d_in = D_MODEL

    def __init__(self, factor: float) -> None:
        self.factor = torch.tensor(factor)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.relu(), (-x).relu()], 1)

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        return self.factor * (acts[:, :D_MODEL] - acts[:, D_MODEL:])


def test_a_python_object_is_swept_like_any_sae(study_path: Path, tmp_path: Path) -> None:
    study = load_study(study_path)
    study = dataclasses.replace(study, saes=(SaeSpec(HOOKS[0], custom="halves"),))
    records = dmcore.sweep(study, saes={"halves": dmcore.CustomSae(Halves(0.75))}, cache=tmp_path, progress=False)
    assert records["sae"].to_list() == ["halves"]
    store = Store(tmp_path)
    plan = make_plan(study, store, {"halves": dmcore.CustomSae(Halves(0.75))})
    acts = Activations(next((tmp_path / "activations").iterdir()))
    x = torch.from_numpy(np.array(acts._mapped)).reshape(acts.n_contexts, acts.length, D_MODEL)[:, 4:]
    flat = x.flatten(0, 1).double()
    expected = (0.0625 * flat.square().sum() / (flat - flat.mean(0)).square().sum()).item()
    assert records["fvu"][0] == pytest.approx(expected, rel=1e-5)
    assert records["r2_error"][0] == pytest.approx(1.0, abs=1e-6), "the error is a quarter of x: all linear"
    other = make_plan(study, store, {"halves": dmcore.CustomSae(Halves(0.5))})
    assert other.saes[0].summary_key != plan.saes[0].summary_key, "another object is another SAE"


def test_a_custom_sae_that_nobody_gives_or_that_cannot_be_one_is_a_sentence(study_path: Path, tmp_path: Path) -> None:
    study = dataclasses.replace(load_study(study_path), saes=(SaeSpec(HOOKS[0], custom="mine"),))
    with pytest.raises(SpecError, match="call dmcore.sweep"):
        dmcore.sweep(study, cache=tmp_path, progress=False)
    with pytest.raises(SpecError, match=r"is given as it is: give dmcore.CustomSae\(sae\) around it"):
        dmcore.sweep(study, saes={"mine": object()}, cache=tmp_path, progress=False)  # type: ignore[dict-item]
    with pytest.raises(SpecError, match="has no method encode"):
        dmcore.sweep(study, saes={"mine": dmcore.CustomSae(object())}, cache=tmp_path, progress=False)

    class Empty:
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x

        decode = encode

    with pytest.raises(SpecError, match="needs a version"):
        dmcore.sweep(study, saes={"mine": dmcore.CustomSae(Empty())}, cache=tmp_path, progress=False)


def test_an_sae_worse_than_the_mean_stops_before_the_capture_with_the_reason(study_path: Path, tmp_path: Path) -> None:
    study = load_study(study_path)
    specs = (SaeSpec(HOOKS[0], custom="good"), SaeSpec(HOOKS[1], custom="bad"))
    study = dataclasses.replace(study, saes=specs)
    custom = {"good": dmcore.CustomSae(Halves(0.9)), "bad": dmcore.CustomSae(Halves(-4.0))}
    outcome = Pipeline(Store(tmp_path), custom=custom).sweep(study)
    assert [record["sae"] for record in outcome.records] == ["good"]
    assert list(outcome.failures) == ["bad"]
    assert "is worse than the mean at blocks.1.attn.hook_z (FVU 49.1 on 80 tokens" in outcome.failures["bad"]
    assert "check = false" in outcome.failures["bad"]
    assert len(list((tmp_path / "activations").iterdir())) == 1, "its site was not captured"
    again = Pipeline(Store(tmp_path), custom=custom).sweep(study)
    assert (again.computed, list(again.failures)) == (0, ["bad"])


class Fails(Halves):
    """An object whose code fails after some calls."""

    def __init__(self, calls: int) -> None:
        super().__init__(0.9)
        self.left = calls

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise IndexError("index 7 is out of bounds\nand more")
        return super().encode(x)


@pytest.mark.parametrize("calls", [1, 3])  # the first is to learn its width: then in the trial, or in the sweep
def test_an_object_whose_code_fails_has_no_result_and_the_others_have(
    study_path: Path, tmp_path: Path, calls: int, caplog: pytest.LogCaptureFixture
) -> None:
    study = load_study(study_path)
    specs = (SaeSpec(HOOKS[0], custom="bad"), SaeSpec(HOOKS[0], custom="good"))
    custom = {
        "good": dmcore.CustomSae(Halves(0.9), version="1"),
        "bad": dmcore.CustomSae(Fails(calls), version="1"),
    }
    outcome = Pipeline(Store(tmp_path), custom=custom).sweep(dataclasses.replace(study, saes=specs))
    assert [record["sae"] for record in outcome.records] == ["good"]
    assert outcome.failures == {
        "bad": "The object bad failed (IndexError: index 7 is out of bounds): see the log for the place; the others go on."
    }
    assert any(record.exc_info and record.exc_info[0] is IndexError for record in caplog.records)


@pytest.mark.parametrize("word", ["try", "run the model", "encode", "split"])
def test_a_cancel_ends_the_sweep_wherever_it_comes(study_path: Path, tmp_path: Path, word: str) -> None:
    seen: list[str] = []
    reporter = Reporter(lambda progress: seen.append(progress.stage), lambda: any(word in stage for stage in seen))
    study = dataclasses.replace(load_study(study_path), saes=(SaeSpec(HOOKS[0], custom="good"),))
    custom = {"good": dmcore.CustomSae(Halves(0.9))}
    with pytest.raises(Cancelled):
        Pipeline(Store(tmp_path), reporter=reporter, custom=custom).sweep(study)
    assert any(word in stage for stage in seen)


@pytest.mark.parametrize("error", [Cancelled("stop"), OSError(5, "the disk"), torch.AcceleratorError("a dead GPU")])
def test_what_is_not_of_one_sae_ends_the_sweep(error: Exception, study_path: Path, tmp_path: Path) -> None:
    sae = make_plan(load_study(study_path), Store(tmp_path)).saes[0]
    with pytest.raises(type(error)):
        why_failed(sae, error, torch.device("cpu"))


def test_an_sae_is_tried_at_an_old_site_too(study_path: Path, tmp_path: Path) -> None:
    study = load_study(study_path)
    one = dataclasses.replace(study, saes=(SaeSpec(HOOKS[0], custom="good"),))
    custom = {"good": dmcore.CustomSae(Halves(0.9)), "bad": dmcore.CustomSae(Halves(-4.0))}
    Pipeline(Store(tmp_path), custom=custom).sweep(one)
    two = dataclasses.replace(study, saes=(SaeSpec(HOOKS[0], custom="good"), SaeSpec(HOOKS[0], custom="bad")))
    outcome = Pipeline(Store(tmp_path), custom=custom).sweep(two)
    assert list(outcome.failures) == ["bad"]
    control = dataclasses.replace(two, saes=(two.saes[0], dataclasses.replace(two.saes[1], check=False)))
    assert len(Pipeline(Store(tmp_path), custom=custom).sweep(control).records) == 2


def test_the_fvu_of_the_check_is_the_fvu() -> None:
    x = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(0)) + 2

    class Scaled:
        def encode(self, x: torch.Tensor) -> object:
            return codes_from_dense(x)

        def decode(self, codes: object, x: torch.Tensor) -> torch.Tensor:
            return 0.8 * x

    kept = x[:, 10:].flatten(0, 1).double()
    expected = (0.04 * kept.square().sum() / (kept - kept.mean(0)).square().sum()).item()
    assert reconstruction_fvu(x[:, 10:].flatten(0, 1), Scaled()) == pytest.approx(expected, rel=1e-6)
    check_belongs("s", "h", x, 10, Scaled())
    with pytest.raises(DataError, match="NaN or infinity"):
        check_belongs("s", "h", torch.full_like(x, float("nan")), 10, Scaled())


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (SaeConfig("topk", 4, 8, hook="blocks.3.hook_resid_post"), "was trained at blocks.3"),
        (
            SaeConfig("topk", 4, 8, model="gemma-2-2b"),
            "was trained on gemma-2-2b, but the study's model is google/gemma-2-9b",
        ),
        (SaeConfig("topk", 4, 8, processing=("center_writing_weights",)), "write processing ="),
    ],
)
def test_an_sae_of_another_hook_model_or_processing_is_refused(study_path: Path, found: SaeConfig, reason: str) -> None:
    study = dataclasses.replace(load_study(study_path), model=ModelSpec(id="google/gemma-2-9b"))
    sae = SaeSpec("blocks.1.hook_resid_post", release="r", id="i")
    with pytest.raises(SpecError, match=reason):
        check_origin(study, sae, found)
    check_origin(study, dataclasses.replace(sae, check=False), found)


@pytest.mark.parametrize(
    "found",
    [
        SaeConfig("topk", 4, 8, hook="blocks.1.hook_out", model="gemma-2-9b"),
        SaeConfig("topk", 4, 8, hook="blocks.1.hook_resid_post", model="google/Gemma-2-9b"),
        SaeConfig("topk", 4, 8),
    ],
)
def test_other_spellings_of_the_same_hook_and_model_are_taken(study_path: Path, found: SaeConfig) -> None:
    study = dataclasses.replace(load_study(study_path), model=ModelSpec(id="google/gemma-2-9b"))
    check_origin(study, SaeSpec("blocks.1.hook_resid_post", release="r", id="i"), found)


def test_reading_ahead_reads_all_and_harms_nothing(study_path: Path) -> None:
    study = load_study(study_path)
    prefetch = Prefetch()
    prefetch.start(study, study.saes[0])
    prefetch.wait()
    prefetch.start(study, SaeSpec(HOOKS[0], path="saes/none"))
    prefetch.wait()
    prefetch.stop()


def test_out_of_memory_halves_the_batch_and_changes_no_number(
    study_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dmcore.sources import models

    plain = Pipeline(Store(tmp_path / "plain")).sweep(load_study(study_path))
    load, sizes = models.load_model, []

    def small(study: object, device: object) -> object:
        model = load(study, device)
        run = model.run

        def limited(tokens: torch.Tensor, hooks: object, *, with_loss: bool) -> object:
            sizes.append(len(tokens))
            if len(tokens) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return run(tokens, hooks, with_loss=with_loss)

        monkeypatch.setattr(model, "run", limited)
        return model

    monkeypatch.setattr("dmcore.run.pipeline.load_model", small)
    found = Pipeline(Store(tmp_path / "small"), reporter=Reporter()).sweep(load_study(study_path))
    drop = ("computed",)
    kept = [[{k: v for k, v in r.items() if k not in drop} for r in o.records] for o in (plain, found)]
    assert json.dumps(kept[0]) == json.dumps(kept[1])
    assert sizes[:4] == [8, 4, 2, 2], "halved until it fits"
    assert max(sizes[4:]) == 4, "and not tried at the full size again"
    assert "Out of memory while it was to run the model on 8 contexts at once: going on with 4." in caplog.text


def test_encoding_halves_too(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from dmcore.sources.dictionary import Dictionary

    sae = build_sae("topk")
    x = torch.randn(64, D_MODEL, generator=torch.Generator().manual_seed(0))
    whole = Dictionary(sae).encode(x)
    dictionary = Dictionary(sae)
    encode = dictionary._encode

    def limited(part: torch.Tensor) -> object:
        if len(part) > 20:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return encode(part)

    monkeypatch.setattr(dictionary, "_encode", limited)
    found = dictionary.encode(x)
    for name in ("offsets", "latents", "values"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=0, atol=0)
    assert "going on with 32" in caplog.text
    monkeypatch.setattr(dictionary, "_encode", lambda part: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dictionary.encode(x)


class Largest(torch.nn.Module):
    """A TopK whose k is no tensor."""

    d_in = D_MODEL

    def __init__(self, k: int, act: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.k, self.act = k, act or torch.nn.ReLU()
        self.register_buffer("scale", torch.ones(1, dtype=torch.float64))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x)

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        return acts


def test_the_key_of_a_custom_sae_changes_with_its_settings_its_modules_and_its_code() -> None:
    class Other(Largest):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(x) * 2

    Other.__qualname__ = "Largest"  # as in a notebook, where a cell is edited and run again
    finer = Largest(4)
    finer.scale += 1e-12
    saes = [Largest(4), Largest(5), Largest(4, torch.nn.GELU()), Other(4), finer]
    keys = [dmcore.CustomSae(sae).fingerprint() for sae in saes]
    assert len(set(keys)) == len(saes)
    assert dmcore.CustomSae(Largest(4).eval()).fingerprint() == keys[0]
    assert dmcore.CustomSae(Largest(5), version="1").fingerprint() == dmcore.CustomSae(saes[0], "1").fingerprint()
