"""Loading models: how far they are run, processing, precision, devices, keys; and every failure as one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dmcore.errors import SpecError
from dmcore.sources import hub, models
from dmcore.sources.model_files import read_model_config
from dmcore.sources.models import LanguageModel, check_layers, load_model, load_tokenizer, model_fingerprint
from dmcore.specs import ModelSpec, SaeSpec, Settings, Study, TextsSpec, load_study
from tests.builders import build_study
from tests.model_builders import D_MODEL, VOCABULARY, save_model

POST = "blocks.1.hook_resid_post"


def study_of(folder: Path | str, *hooks: str, **model: Any) -> Study:
    where = {"path": str(folder)} if isinstance(folder, Path) else {"id": folder}
    saes = tuple(SaeSpec(hook, path="sae") for hook in hooks or (POST,))
    return Study("tiny", "", 0, ModelSpec(**where, **model), TextsSpec(path="contexts"), Settings(), saes)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("saved")
    return {name: save_model(name, root / name) for name in ("gpt2", "llama3", "pythia", "bert", "t5")}


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(0))


def blocks_run(model: LanguageModel, tokens: torch.Tensor, hooks: list[str], *, with_loss: bool = False) -> list[str]:
    """The blocks that a run enters, in order."""
    entered: list[str] = []
    handles = []
    for hook in model.hooks:
        if hook.endswith(".hook_resid_pre"):
            name = hook.removesuffix(".hook_resid_pre")
            module = model._sites[hook].module
            handles.append(module.register_forward_pre_hook(lambda m, a, name=name: entered.append(name)))
    model.run(tokens, hooks, with_loss=with_loss)
    for handle in handles:
        handle.remove()
    return entered


@pytest.mark.parametrize(("state", "expected"), [("answers", [False]), ("silent", [True]), ("busy", [True, False])])
def test_a_busy_hub_is_asked_for_what_its_cache_lacks_and_a_silent_one_is_not(
    state: str, expected: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_state", lambda: state)
    seen: list[bool] = []

    def load() -> str:
        seen.append(constants.is_offline_mode())
        if seen[-1]:
            raise OfflineModeIsEnabled
        return "loaded"

    if state == "silent":
        with pytest.raises(OfflineModeIsEnabled):
            hub.without_waiting(load)
    else:
        assert hub.without_waiting(load) == "loaded"
    assert seen == expected and not constants.is_offline_mode()
    with hub.asking():  # a download that is under way is not cut off
        seen.clear()
        assert hub.without_waiting(load) == "loaded"
        assert seen == [False]


def test_a_model_in_a_folder_asks_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(build_study(tmp_path, architectures=("topk",)))
    monkeypatch.setattr(hub, "_state", lambda: pytest.fail("it was asked"))
    assert load_model(study, "cpu") is not None
    assert load_tokenizer(study) is not None


def test_loading_starts_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bridge's own way to load a model of text and pictures installs packages with pip."""
    folder = save_model("gemma3-with-pictures", tmp_path / "gemma3")
    started: list[object] = []

    def start(command: object, **_: object) -> None:
        started.append(command)
        raise OSError("no program is started in this test")

    for name in ("call", "check_call", "check_output", "run", "Popen"):
        monkeypatch.setattr(subprocess, name, start)
    assert "blocks.1.hook_resid_post" in load_model(study_of(folder), "cpu").hooks
    assert not started


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_only_the_blocks_that_are_needed_are_run(name: str, saved: dict[str, Path], tokens: torch.Tensor) -> None:
    model = load_model(study_of(saved[name]), "cpu")
    assert blocks_run(model, tokens, ["blocks.0.hook_resid_post"]) == ["blocks.0"]
    assert blocks_run(model, tokens, ["blocks.1.hook_mlp_out", "blocks.0.attn.hook_z"]) == ["blocks.0", "blocks.1"]
    assert len(blocks_run(model, tokens, ["blocks.0.hook_resid_post"], with_loss=True)) == 3
    assert blocks_run(model, tokens, []) == []


def test_t5_runs_its_decoder_only_if_it_is_needed(saved: dict[str, Path], tokens: torch.Tensor) -> None:
    model = load_model(study_of(saved["t5"], "encoder.0.hook_resid_post"), "cpu")
    encoder, decoder = ["encoder.0", "encoder.1"], ["decoder.0", "decoder.1", "decoder.2"]
    assert blocks_run(model, tokens, ["encoder.0.hook_resid_post"]) == encoder[:1]
    assert blocks_run(model, tokens, ["encoder.1.hook_resid_post"]) == encoder
    assert blocks_run(model, tokens, ["encoder.0.hook_mlp_out", "decoder.1.hook_resid_post"]) == encoder + decoder[:2]
    assert blocks_run(model, tokens, ["encoder.0.hook_resid_post"], with_loss=True) == encoder + decoder


def test_what_is_read_can_be_trained_on(saved: dict[str, Path], tokens: torch.Tensor) -> None:
    acts = load_model(study_of(saved["gpt2"]), "cpu").run(tokens, [POST], with_loss=False).acts[POST]
    assert not acts.requires_grad
    weight = torch.ones(D_MODEL, requires_grad=True)
    (acts @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, acts.sum((0, 1)))


def test_a_run_leaves_no_hook_behind(saved: dict[str, Path], tokens: torch.Tensor) -> None:
    model = load_model(study_of(saved["gpt2"]), "cpu")
    for with_loss in (False, True):
        model.run(tokens, list(model.hooks), with_loss=with_loss)
    modules = {site.module for site in model._sites.values()}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_runs_in_small_parts_give_the_same_loss(
    saved: dict[str, Path], tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(study_of(saved["gpt2"]), "cpu")
    whole = model.run(tokens, [POST], with_loss=True)
    monkeypatch.setattr("dmcore.sources.hooked.LOGITS_PER_RUN", 1)
    monkeypatch.setattr("dmcore.sources.hooked.LOGITS_AT_ONCE", 7 * VOCABULARY)
    parts = model.run(tokens, [POST], with_loss=True)
    torch.testing.assert_close(parts.loss, whole.loss, equal_nan=True)
    torch.testing.assert_close(parts.entropy, whole.entropy)
    torch.testing.assert_close(parts.acts[POST], whole.acts[POST])


@pytest.mark.parametrize("steps", [("center_writing_weights",), ("fold_ln",), ("fold_ln", "center_writing_weights")])
def test_processing_does_its_step_and_leaves_the_predictions(
    steps: tuple[str, ...], saved: dict[str, Path], tokens: torch.Tensor
) -> None:
    raw = load_model(study_of(saved["gpt2"]), "cpu")
    processed = load_model(study_of(saved["gpt2"], processing=steps), "cpu")
    assert processed.hooks == raw.hooks
    before, after = (model.run(tokens, list(model.hooks), with_loss=True) for model in (raw, processed))
    torch.testing.assert_close(after.loss, before.loss, rtol=1e-4, atol=1e-4, equal_nan=True)
    torch.testing.assert_close(after.entropy, before.entropy, rtol=1e-4, atol=1e-4)
    centred = "center_writing_weights" in steps
    assert before.acts[POST].mean(-1).abs().max() > 0.1
    for hook in raw.hooks:
        expected = before.acts[hook]
        if centred and not hook.endswith("hook_z"):
            expected = expected - expected.mean(-1, keepdim=True)
        torch.testing.assert_close(after.acts[hook], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [("center_writing_weights",), ("fold_ln",)])
def test_no_step_is_applied_that_was_not_asked_for(
    steps: tuple[str, ...], saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    given: dict[str, bool] = {}
    process = TransformerBridge.process_weights
    monkeypatch.setattr(
        TransformerBridge, "process_weights", lambda self, **options: (given.update(options), process(self, **options))
    )
    load_model(study_of(saved["gpt2"], processing=steps), "cpu")
    assert {name for name, on in given.items() if on} == set(steps)
    every_step = {"fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"}
    assert every_step | {"refactor_factored_attn_matrices"} == set(given)


def test_processing_that_cannot_be_is_refused(saved: dict[str, Path]) -> None:
    with pytest.raises(SpecError, match="cannot be centred.*take center_writing_weights out"):
        load_model(study_of(saved["llama3"], processing=("center_writing_weights",)), "cpu")
    for name, hook in (("bert", POST), ("t5", "encoder.0.hook_resid_post")):
        with pytest.raises(SpecError, match="cannot be processed: take processing out"):
            load_model(study_of(saved[name], hook, processing=("fold_ln",)), "cpu")


@pytest.mark.parametrize("name", ["gpt2", "llama3", "bert", "t5"])
def test_bfloat16_is_kept_and_close(name: str, saved: dict[str, Path], tokens: torch.Tensor) -> None:
    hook = "decoder.1.hook_resid_post" if name == "t5" else POST
    exact = load_model(study_of(saved[name], hook), "cpu").run(tokens, [hook], with_loss=False).acts[hook]
    found = load_model(study_of(saved[name], hook, dtype="bfloat16"), "cpu").run(tokens, [hook], with_loss=True)
    assert found.acts[hook].dtype == torch.bfloat16
    assert found.loss.dtype == torch.float32
    error = (found.acts[hook].float() - exact).norm() / exact.norm()
    assert 0 < float(error) < 0.05


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_a_device_map_does_not_change_the_numbers(name: str, saved: dict[str, Path], tokens: torch.Tensor) -> None:
    hook = "decoder.1.hook_resid_post" if name == "t5" else POST
    plain = load_model(study_of(saved[name], hook), "cpu").run(tokens, [hook], with_loss=True)
    spread_model = load_model(study_of(saved[name], hook, device_map="auto"), "cpu")
    spread = spread_model.run(tokens, [hook], with_loss=True)
    torch.testing.assert_close(spread.acts[hook].cpu(), plain.acts[hook], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(spread.loss.cpu(), plain.loss, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_what_does_not_change_the_numbers_does_not_change_the_key(saved: dict[str, Path]) -> None:
    key = model_fingerprint(study_of(saved["gpt2"]))
    assert model_fingerprint(study_of(saved["gpt2"], device_map="auto")) == key
    assert model_fingerprint(study_of(saved["gpt2"], dtype="bfloat16")) != key
    both = [model_fingerprint(study_of(saved["gpt2"], processing=p)) for p in (("fold_ln",), ("fold_ln",) * 2)]
    assert key not in both


def test_the_demos_key_is_what_it_was() -> None:
    from dmcore.specs import load_study

    demo = Path(models.__file__).parents[1] / "demo" / "artifacts" / "study.toml"
    expected = [
        json.loads(path.read_text(encoding="utf-8"))["spec"]["model"]
        for path in (demo.parents[3] / "cache" / "losses").glob("*/manifest.json")
    ]
    key = model_fingerprint(load_study(demo))
    assert not expected or key in expected


LACKING = {
    "gpt2": (
        "blocks.3.hook_resid_post",
        "layers 0 to 2, so there is no blocks.3.hook_resid_post: did you mean blocks.2",
    ),
    "pythia": ("blocks.1.hook_resid_mid", "side by side in its layers: did you mean blocks.1.hook_resid"),
    "bert": ("encoder.1.hook_resid_post", "no encoder, only blocks.*did you mean blocks.1.hook_resid_post"),
    "t5": ("encoder.2.hook_resid_post", "encoder has layers 0 to 1.*did you mean encoder.1.hook_resid_post"),
}


@pytest.mark.parametrize("name", LACKING)
def test_what_a_model_lacks_is_found_from_its_config(name: str, saved: dict[str, Path]) -> None:
    hook, message = LACKING[name]
    with pytest.raises(SpecError, match=message):
        check_layers(study_of(saved[name], hook))


@pytest.mark.parametrize("name", ["gpt2", "llama3", "pythia", "bert", "t5"])
def test_the_config_tells_the_sites_that_the_model_has(name: str, saved: dict[str, Path]) -> None:
    from dmcore.sources.model_files import sites_in_config

    hook = "decoder.2.cross_attn.hook_z" if name == "t5" else POST
    study = study_of(saved[name], hook)
    check_layers(study)
    assert sorted(sites_in_config(read_model_config(study))) == sorted(load_model(study, "cpu").hooks)


def put_in_hub_cache(cache: Path, identifier: str, commit: str, files: Path) -> None:
    """A repository as the hub's client leaves it after a download."""
    folder = cache / f"models--{identifier.replace('/', '--')}"
    shutil.copytree(files, folder / "snapshots" / commit)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)


def test_an_id_is_its_commit_and_is_read_from_the_cache(
    saved: dict[str, Path], tokens: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    study = study_of("lab/tiny", "blocks.5.hook_resid_post")
    unknown = model_fingerprint(study)
    check_layers(study)  # nothing is known yet
    put_in_hub_cache(tmp_path, "lab/tiny", "a" * 40, saved["gpt2"])
    first = model_fingerprint(study)
    assert first == model_fingerprint(study_of("lab/tiny", revision="a" * 40)) != unknown
    with pytest.raises(SpecError, match="layers 0 to 2"):
        check_layers(study)
    loaded = load_model(study_of("lab/tiny"), "cpu").run(tokens, [POST], with_loss=False)
    local = load_model(study_of(saved["gpt2"]), "cpu").run(tokens, [POST], with_loss=False)
    assert torch.equal(loaded.acts[POST], local.acts[POST])
    put_in_hub_cache(tmp_path, "lab/tiny", "b" * 40, saved["gpt2"])
    assert model_fingerprint(study) != first


def hub_error(name: str, message: str, status: int) -> Exception:
    from huggingface_hub import errors

    kind = getattr(errors, name)
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.response = SimpleNamespace(status_code=status)
    return error


def wrapped(message: str, cause: Exception) -> OSError:
    error = OSError(message)
    error.__cause__ = cause
    return error


SECRET = "hf_" + "Abcdefghijklmnop"
FAILURES = {
    "gated": (lambda: hub_error("GatedRepoError", f"403 {SECRET}", 403), "is gated: accept its licence.*set HF_TOKEN"),
    "gated, wrapped": (
        lambda: OSError(f"You are trying to access a gated repo.\nMake sure to have access {SECRET}"),
        "lab/model is gated: accept its licence on its page \\(huggingface.co/lab/model\\)",
    ),
    "unknown": (
        lambda: wrapped("no", hub_error("RepositoryNotFoundError", "401", 401)),
        "no model lab/model on the hub",
    ),
    "forbidden": (lambda: hub_error("HfHubHTTPError", f"403 {SECRET}", 403), "or it is private.*set HF_TOKEN"),
    "revision": (
        lambda: wrapped("no", hub_error("RevisionNotFoundError", "404", 404)),
        "no such revision: check revision",
    ),
    "offline": (
        lambda: OSError("We couldn't connect to 'https://huggingface.co' to load the files"),
        "check the network",
    ),
    "unsafe": (
        lambda: OSError("lab/model does not appear to have a file named model.safetensors"),
        "no weights as .safetensors.*convert them",
    ),
    "memory": (
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        'bfloat16", or device_map = "auto"',
    ),
    "other": (
        lambda: ValueError(f"something odd {SECRET}\nand more"),
        "Cannot load the model lab/model \\(something odd",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_every_failure_is_one_sentence_without_the_token(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig

    make, message = FAILURES[case]
    monkeypatch.setenv("HF_TOKEN", SECRET)
    given: dict[str, Any] = {}

    def refuse(where: str, **options: Any) -> None:
        given.update(options)
        raise make()

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(SpecError, match=message) as caught:
        load_model(study_of("lab/model"), "cpu")
    said = str(caught.value)
    assert given["token"] == SECRET
    assert given["trust_remote_code"] is False
    assert SECRET not in said
    assert "\n" not in said
    assert said.count(". ") == 0


def test_no_token_is_sent_but_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in hub.TOKEN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert hub.token() is False


def test_a_gated_model_is_told_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    def refuse(*_: Any, **__: Any) -> None:
        raise hub_error("GatedRepoError", "403", 403)

    monkeypatch.setattr(HfApi, "model_info", refuse)
    for ask in (model_fingerprint, check_layers):
        with pytest.raises(SpecError, match="is gated"):
            ask(study_of("lab/gated"))


def test_folders_that_are_not_whole_are_sentences(saved: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no model folder: it needs config.json"):
        load_model(study_of(tmp_path), "cpu")
    with pytest.raises(SpecError, match="no readable config.json"):
        check_layers(study_of(tmp_path))
    bare = tmp_path / "bare"
    shutil.copytree(saved["gpt2"], bare)
    (bare / "model.safetensors").unlink()
    with pytest.raises(SpecError, match="no weights as .safetensors"):
        load_model(study_of(bare), "cpu")
    with pytest.raises(SpecError, match="no model folder"):
        model_fingerprint(study_of(bare))


def test_an_encoder_decoder_of_another_kind_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    from transformers import BartConfig

    BartConfig(d_model=D_MODEL).save_pretrained(tmp_path)
    with pytest.raises(SpecError, match="type bart are not read: choose one of the types t5"):
        load_model(study_of(tmp_path, "encoder.0.hook_resid_post"), "cpu")


def test_a_local_model_never_asks_the_network(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a local model asked the network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_model(study_of(saved["gpt2"]), "cpu")
