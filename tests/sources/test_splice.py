"""Splicing: the loss with vectors put in at a site is what plain hooks on the Hugging Face model give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmcore.errors import DataError, SpecError
from dmcore.sources.models import LanguageModel, load_model
from dmcore.sources.splice import Splicer
from dmcore.specs import ModelSpec, SaeSpec, Settings, Study, TextsSpec
from tests.model_builders import VOCABULARY, save_model

CAUSAL = ("gpt2", "llama3", "gemma2")
SITES = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "attn.hook_z")
SKIP, LAYER = 3, 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save_model(name, root / name) for name in (*CAUSAL, "pythia", "bert", "t5")}


def load(folder: Path) -> LanguageModel:
    hook = "blocks.0.hook_resid_post"
    model, texts = ModelSpec(path=str(folder)), TextsSpec(path="contexts")
    return load_model(
        Study("tiny", "", 0, model, texts, Settings(), (SaeSpec(hook, path="sae"),), folder.parent), "cpu"
    )


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, LanguageModel]:
    return {name: load(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(0, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(0))


def vectors_like(acts: Tensor) -> Tensor:
    return acts + 0.7 * acts.std() * torch.randn(acts.shape, generator=torch.Generator().manual_seed(1))


def causal_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    logits = logits.float()
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return losses[:, SKIP:]


def block_of(hf: Any, layer: int) -> Any:
    return (hf.transformer.h if hasattr(hf, "transformer") else hf.model.layers)[layer]


def attention_output(block: Any) -> Any:
    return block.attn.c_proj if hasattr(block, "attn") else block.self_attn.o_proj


def after_mlp(block: Any, middle: Tensor) -> Tensor:
    """The block's output from the residual stream in its middle, by its own modules."""
    if hasattr(block, "ln_2"):
        return middle + block.mlp(block.ln_2(middle))
    if hasattr(block, "pre_feedforward_layernorm"):
        return middle + block.post_feedforward_layernorm(block.mlp(block.pre_feedforward_layernorm(middle)))
    return middle + block.mlp(block.post_attention_layernorm(middle))


def naive_logits(folder: Path, tokens: Tensor, site: str, vectors: Tensor) -> Tensor:
    """Hugging Face's model with vectors put in from position `SKIP` on, by plain hooks."""
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    block = block_of(hf, LAYER)
    gemma = hasattr(block, "pre_feedforward_layernorm")

    def put(value: Tensor, new: Tensor = vectors) -> Tensor:
        value = value.clone()
        value[:, SKIP:] = new[:, SKIP:].to(value)
        return value

    def after(_m: Any, _g: Any, out: Any) -> Any:
        new = after_mlp(block, vectors) if site == "hook_resid_mid" else vectors
        return (put(out[0], new), *out[1:]) if isinstance(out, tuple) else put(out, new)

    def before(_m: Any, given: Any) -> Any:
        return (put(given[0]), *given[1:])

    if site == "attn.hook_z":
        attention_output(block).register_forward_pre_hook(before)
    elif site == "hook_resid_pre":
        block.register_forward_pre_hook(before)
    else:
        module = {
            "hook_resid_mid": block,
            "hook_resid_post": block,
            "hook_mlp_out": block.post_feedforward_layernorm if gemma else block.mlp,
            "hook_attn_out": block.post_attention_layernorm if gemma else attention_output(block),
        }[site]
        module.register_forward_hook(after)
    with torch.no_grad():
        return hf(tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits


@pytest.mark.parametrize("name", CAUSAL)
def test_the_clean_loss_is_hugging_faces(
    name: str, folders: dict[str, Path], models: dict[str, LanguageModel], tokens: Tensor
) -> None:
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(folders[name], attn_implementation="eager").eval()
    run = Splicer(models[name], f"blocks.{LAYER}.hook_mlp_out", SKIP).clean(tokens)
    whole = Splicer(models[name], f"blocks.{LAYER}.hook_mlp_out").clean(tokens)
    with torch.no_grad():
        expected = hf(tokens, attention_mask=torch.ones_like(tokens), labels=tokens, use_cache=False)
    assert float(whole.prediction.loss.mean()) == pytest.approx(float(expected.loss), abs=1e-5)
    torch.testing.assert_close(run.prediction.loss, causal_loss(expected.logits, tokens), rtol=1e-5, atol=1e-5)
    assert torch.equal(run.prediction.top, expected.logits[:, SKIP:-1].argmax(-1))
    assert not run.prediction.kl.any()


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", CAUSAL)
def test_a_spliced_run_is_that_of_plain_hooks(
    name: str, site: str, folders: dict[str, Path], models: dict[str, LanguageModel], tokens: Tensor
) -> None:
    splicer = Splicer(models[name], f"blocks.{LAYER}.{site}", SKIP)
    run = splicer.clean(tokens)
    own = run.spliced(run.acts)
    torch.testing.assert_close(own.loss, run.prediction.loss, rtol=0, atol=1e-6)
    assert float(own.kl.abs().max()) < 1e-6 and torch.equal(own.top, run.prediction.top)
    vectors = vectors_like(run.acts)
    vectors[:, :SKIP] = float("nan")
    found, logits = run.spliced(vectors), naive_logits(folders[name], tokens, site, vectors.nan_to_num())
    torch.testing.assert_close(found.loss, causal_loss(logits, tokens), rtol=1e-4, atol=1e-4)
    clean = naive_logits(folders[name], tokens, site, run.acts)
    p, q = (v[:, SKIP:-1].log_softmax(-1) for v in (clean, logits))
    torch.testing.assert_close(found.kl, (p.exp() * (p - q)).sum(-1), rtol=1e-4, atol=1e-4)
    assert float(found.kl.mean()) > 1e-3, "the splice does something"
    torch.testing.assert_close(run.logits(vectors), logits, rtol=1e-4, atol=1e-4)
    again = run.spliced(run.acts)
    assert torch.equal(again.loss, own.loss), "nothing stays behind"
    assert torch.equal(splicer.clean(tokens).prediction.loss, run.prediction.loss)


@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_resid_post", "attn.hook_z"])
def test_leaving_out_the_layers_before_the_site_changes_nothing(
    site: str, models: dict[str, LanguageModel], tokens: Tensor
) -> None:
    model = models["pythia"]
    splicer, slow = (Splicer(model, f"blocks.{LAYER}.{site}", SKIP) for _ in range(2))
    slow._skipped = ()
    run = splicer.clean(tokens)
    ran: list[int] = []
    handles = [block.attn.register_forward_hook(lambda *_a, i=i: ran.append(i)) for i, block in enumerate(model.blocks)]
    vectors = vectors_like(run.acts)
    found = run.spliced(vectors)
    for handle in handles:
        handle.remove()
    assert ran == ([2] if site == "hook_resid_post" else [1, 2])
    assert torch.equal(found.loss, slow.clean(tokens).spliced(vectors).loss)
    assert all("forward" not in block.__dict__ for block in model.blocks)


def test_a_short_cut_that_changes_the_model_is_not_taken(
    models: dict[str, LanguageModel], tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, hook = models["llama3"], "blocks.2.hook_mlp_out"
    expected = Splicer(model, hook, SKIP).clean(tokens)
    vectors = vectors_like(expected.acts)
    other = Splicer(model, hook, SKIP)
    other._skipped = (
        model.blocks[1],
        model.blocks[0],
    )  # as if the last of them did not give all that the next one reads
    run = other.clean(tokens)
    assert other._skipped == ()
    assert torch.equal(run.spliced(vectors).loss, expected.spliced(vectors).loss)
    unreached = Splicer(model, hook, SKIP)
    unreached._skipped = model.blocks
    with pytest.raises(SpecError, match="not reached"):
        unreached.clean(tokens)
    monkeypatch.setattr(Splicer, "predict_with", lambda _s, run, _w: run._logits.roll(1, 1))
    with pytest.raises(SpecError, match="cannot be spliced there"):
        Splicer(model, hook, SKIP).clean(tokens)


@pytest.mark.parametrize(
    "hook", ["encoder.1.hook_resid_post", "decoder.1.hook_resid_mid", "decoder.1.attn.hook_z", "encoder.0.hook_mlp_out"]
)
def test_an_encoder_decoder_is_spliced_in_either_stack(
    hook: str, folders: dict[str, Path], models: dict[str, LanguageModel], tokens: Tensor
) -> None:
    run = Splicer(models["t5"], hook, SKIP).clean(tokens)
    assert run.prediction.loss.shape == (3, 20 - SKIP), "position i predicts token i"
    expected = models["t5"].run(tokens, [], with_loss=True).loss
    assert expected is not None
    torch.testing.assert_close(run.prediction.loss, expected[:, SKIP:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run.spliced(run.acts).loss, run.prediction.loss, rtol=0, atol=1e-6)
    vectors = vectors_like(run.acts)
    found = run.spliced(vectors)
    assert float(found.kl.mean()) > 1e-4
    from transformers import AutoModelForSeq2SeqLM

    if hook != "encoder.1.hook_resid_post":
        return
    hf: Any = AutoModelForSeq2SeqLM.from_pretrained(folders["t5"], attn_implementation="eager").eval()
    given = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1)

    def after(_m: Any, _g: Any, out: Any) -> Any:
        new = torch.cat([out[0][:, :SKIP], vectors[:, SKIP:]], 1)
        return (new, *out[1:])

    hf.encoder.block[1].register_forward_hook(after)
    with torch.no_grad():
        logits = hf(input_ids=tokens, decoder_input_ids=given, use_cache=False,
                    attention_mask=torch.ones_like(tokens), decoder_attention_mask=torch.ones_like(tokens)).logits  # fmt: skip
    plain = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")[:, SKIP:]
    torch.testing.assert_close(found.loss, plain, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_spliced_is_a_sentence(models: dict[str, LanguageModel], tokens: Tensor) -> None:
    with pytest.raises(SpecError, match="encoder, which predicts no next token"):
        Splicer(models["bert"], "blocks.1.hook_resid_post")
    with pytest.raises(SpecError, match=r"layers 0 to 2, so there is no blocks\.9"):
        Splicer(models["gpt2"], "blocks.9.hook_resid_post")
    with pytest.raises(SpecError, match="20 tokens leave no prediction to score after the 19 skipped"):
        Splicer(models["gpt2"], "blocks.1.hook_resid_post", 19).clean(tokens)
    run = Splicer(models["gpt2"], "blocks.1.hook_resid_post", SKIP).clean(tokens)
    with pytest.raises(DataError, match="give one for every token"):
        run.spliced(run.acts[:, 1:])
    broken = run.acts.clone()
    broken[1, SKIP, 0] = float("inf")
    with pytest.raises(DataError, match="hold NaN or infinity: check the SAE"):
        run.spliced(broken)
    huge = torch.full_like(run.acts, 3e38)
    with pytest.raises(DataError, match="loss that is not finite: use dtype"):
        run.spliced(huge)


def test_one_scored_position_is_enough(models: dict[str, LanguageModel], tokens: Tensor) -> None:
    run = Splicer(models["gpt2"], "blocks.1.hook_resid_post", 18).clean(tokens)
    assert run.spliced(run.acts).loss.shape == (3, 1)
    one = Splicer(models["gpt2"], "blocks.1.hook_resid_post").clean(tokens[:1, :2])
    assert one.spliced(torch.zeros_like(one.acts)).loss.shape == (1, 1)


def test_small_pieces_of_the_vocabulary_give_the_same(
    models: dict[str, LanguageModel], tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(splicer: Splicer) -> list[Tensor]:
        run = splicer.clean(tokens)
        one = run.spliced(vectors_like(run.acts))
        return [one.loss, one.kl, one.top.float()]

    make: Callable[[], Splicer] = lambda: Splicer(models["gemma2"], f"blocks.{LAYER}.attn.hook_z", SKIP)  # noqa: E731
    expected = found(make())
    monkeypatch.setattr("dmcore.sources.splice.LOGITS_AT_ONCE_CPU", VOCABULARY * 2)
    monkeypatch.setattr("dmcore.sources.splice.KEPT_PROBABILITIES", 0)
    torch.testing.assert_close(found(make()), expected, rtol=1e-6, atol=1e-6)
