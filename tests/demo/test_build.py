"""A whole tiny build: what it makes loads through the usual libraries, and an interrupted one makes the same."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmcore.demo.__main__ import main
from dmcore.demo.build import BuildPlan, build, missing
from dmcore.demo.corpus import collect
from dmcore.demo.scale import CONTEXT_LENGTH, TINY
from dmcore.demo.tokenizer import BOS_ID
from dmcore.errors import Cancelled, SpecError
from dmcore.progress import Reporter
from dmcore.training.checkpoints import read_json

SAES = replace(TINY.saes, grid_widths=(32,), grid_l0s=(4, 8), site_widths=(32,), architecture_width=32)
SCALE = replace(TINY, saes=SAES)


def plan_in(folder: Path) -> BuildPlan:
    return BuildPlan(SCALE, folder / "out", folder / "work", "cpu")


@pytest.fixture(scope="module")
def built(tmp_path_factory, one_thread) -> BuildPlan:
    plan = plan_in(tmp_path_factory.mktemp("demo"))
    build(plan, Reporter())
    return plan


class Interruption:
    """Asks to stop after some calls, once."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def test_everything_that_was_asked_for_is_there(built):
    assert missing(built) == []
    study = tomllib.loads((built.out / "study.toml").read_text())
    assert list(study) == ["schema", "name", "title", "seed", "model", "texts", "settings", "saes", "parts"]
    assert study["settings"] == {"skip_positions": 16}
    assert len(study["saes"]) == 2 + 4 + 4 + 2
    assert [sae["path"] for sae in study["saes"]] == sorted(sae["path"] for sae in study["saes"])
    for sae in study["saes"]:
        assert read_json(built.out / sae["path"] / "cfg.json")["metadata"]["hook_name"] == sae["hook"]


def test_the_model_folder_loads_with_transformers_and_gives_the_reported_loss(built):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built.model)
    model = AutoModelForCausalLM.from_pretrained(built.model, dtype=torch.float32)
    text = "def f(x):\n    return {'é': x}\n"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == BOS_ID
    assert ids.count(BOS_ID) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    validation = torch.from_numpy(np.load(built.work / "validation.npy").astype(np.int64))
    with torch.inference_mode():
        loss = float(model(input_ids=validation, labels=validation).loss)
    reported = read_json(built.out / "build_report.json")["model"]
    assert loss == pytest.approx(reported["validation_loss"], abs=1e-3)
    assert reported["validation_loss"] < reported["unigram_loss"]


def test_the_activations_of_the_builder_are_those_of_transformer_lens(built):
    from transformer_lens.model_bridge import TransformerBridge

    from dmcore.demo.activations import ActivationSource
    from dmcore.demo.language_model import load_model

    hooks = ("blocks.2.attn.hook_z", "blocks.2.hook_mlp_out", "blocks.1.hook_resid_post", "blocks.4.hook_resid_post")
    contexts = np.load(built.work / "validation.npy")[:3]
    ours = ActivationSource(load_model(built.model, "cpu"), hooks).read(contexts)
    bridge = TransformerBridge.boot_transformers(str(built.model), device="cpu")
    tokens = torch.from_numpy(contexts.astype(np.int64))
    _, cache = bridge.run_with_cache(tokens, names_filter=list(hooks))
    for hook in hooks:
        theirs = cache[hook][:, 16:].reshape(len(contexts) * (CONTEXT_LENGTH - 16), -1)
        torch.testing.assert_close(ours[hook], theirs, rtol=1e-4, atol=1e-5)


def test_the_stored_saes_give_the_reported_fvu(built):
    from sae_lens import SAE

    from dmcore.demo.activations import ActivationSource
    from dmcore.demo.language_model import load_model

    report = read_json(built.out / "build_report.json")["saes"]
    hook = "blocks.2.hook_resid_post"
    acts = ActivationSource(load_model(built.model, "cpu"), (hook,)).read(np.load(built.work / "validation.npy"))[hook]
    for row in (row for row in report if row["hook"] == hook):
        sae = SAE.load_from_disk(built.out / row["path"], device="cpu")
        with torch.inference_mode():
            codes = sae.encode(acts)
            recon = sae.decode(codes)
        fvu = (acts - recon).square().sum() / (acts - acts.mean(0)).square().sum()
        assert float(fvu) == pytest.approx(row["fvu"], rel=1e-4)
        assert float((codes > 0).sum(1).float().mean()) == pytest.approx(row["l0"], rel=1e-4)
        assert row["stopped_by"] in ("plateau", "token budget")


def test_held_out_text_is_never_trained_on(built):
    contexts = read_json(built.out / "contexts" / "contexts.json")
    text = read_json(built.work / "text.json")
    held_out = set(text["corpus"]["held_out_files"])
    shipped, validation = set(contexts["documents"]), set(text["validation_documents"])
    assert shipped <= held_out
    assert validation <= held_out
    assert not shipped & validation
    corpus = collect(SCALE.corpus, Reporter())
    assert not held_out & {file.name for file in corpus.training if file.origin == "standard library"}
    stream = np.load(built.work / "train.npy")
    rows = {row.tobytes() for row in stream[:, 1:]}
    for tokens in (np.load(built.out / "contexts" / "tokens.npy"), np.load(built.work / "validation.npy")):
        assert tokens.dtype == np.uint16
        assert tokens.shape[1] == CONTEXT_LENGTH
        assert (tokens[:, 0] == BOS_ID).all()
        assert not rows & {row.tobytes() for row in tokens[:, 1:]}


def test_the_contexts_say_where_they_come_from(built):
    import hashlib

    contexts = read_json(built.out / "contexts" / "contexts.json")
    assert contexts["tokenizer"] == hashlib.sha256((built.model / "tokenizer.json").read_bytes()).hexdigest()
    assert contexts["n_contexts"] == len(contexts["documents"]) == SCALE.n_contexts
    assert contexts["licence"] == "PSF-2.0"
    assert (built.out / "contexts" / "LICENSE.txt").stat().st_size > 0


def test_a_build_interrupted_anywhere_goes_on_and_makes_the_same_files(built, tmp_path):
    plan = plan_in(tmp_path)
    # The text is the same by construction; copying it saves the slow part.
    plan.work.mkdir()
    for name in ("text.json", "train.npy", "validation.npy", "build.json"):
        shutil.copy(built.work / name, plan.work)
    shutil.copytree(built.out / "contexts", plan.out / "contexts")
    shutil.copytree(built.model, plan.work / "model")
    (plan.work / "model" / "model.safetensors").unlink()
    for calls in (12, 150, 400):
        with pytest.raises(Cancelled):
            build(plan, Reporter(should_cancel=Interruption(calls)))
    assert missing(plan)
    build(plan, Reporter())
    for path in sorted(built.out.rglob("*.safetensors")):
        same = plan.out / path.relative_to(built.out)
        assert same.read_bytes() == path.read_bytes(), path.name


def test_a_second_build_does_nothing(built, capsys, monkeypatch):
    monkeypatch.setattr("dmcore.demo.__main__.SCALES", {"tiny": SCALE})
    before = {path: path.stat().st_mtime_ns for path in built.out.rglob("*")}
    options = ["--scale", "tiny", "--out", str(built.out), "--work", str(built.work)]
    assert main(["build", *options]) == 0
    assert main(["status", *options]) == 0
    assert {path: path.stat().st_mtime_ns for path in built.out.rglob("*")} == before
    assert "complete" in capsys.readouterr().out


def test_status_names_what_is_missing(tmp_path, capsys):
    assert main(["status", "--scale", "tiny", "--out", str(tmp_path)]) == 1
    assert "missing: model/config.json" in capsys.readouterr().out


def test_a_work_folder_of_another_scale_is_refused(built, tmp_path):
    plan = BuildPlan(TINY, tmp_path, built.work, "cpu")
    with pytest.raises(SpecError, match="another --work"):
        build(plan, Reporter())


def test_the_report_is_json_and_its_table_has_every_sae(built):
    report = json.loads((built.out / "build_report.json").read_text())
    readme = (built.out / "README.md").read_text()
    assert readme.count("| `blocks.") == len(report["saes"])
    assert "GPL" not in json.dumps(report["text"]["corpus"]["packages"])
