"""Tiny random models of every architecture, saved in Hugging Face folders; no download.

Weights are drawn wide (and norms away from 1), so that a site that is read in the wrong place cannot look right by luck.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

D_MODEL, N_LAYERS, N_HEADS, D_HEAD, VOCABULARY, MAX_LENGTH = 16, 3, 4, 4, 60, 64
BOS, EOS, PAD, UNKNOWN, CLS, SEP, MASK = 1, 2, 0, 3, 4, 5, 6
"""Ids of the special tokens; the words `w7` to `w59` follow."""


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=N_LAYERS,
            n_embd=D_MODEL,
            n_head=N_HEADS,
            n_positions=MAX_LENGTH,
            vocab_size=VOCABULARY,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )


def pythia(*, parallel: bool = True) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            num_hidden_layers=N_LAYERS,
            hidden_size=D_MODEL,
            num_attention_heads=N_HEADS,
            intermediate_size=32,
            vocab_size=VOCABULARY,
            max_position_embeddings=MAX_LENGTH,
            use_parallel_residual=parallel,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )


def _rotary(**more: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": N_LAYERS,
        "hidden_size": D_MODEL,
        "num_attention_heads": N_HEADS,
        "intermediate_size": 32,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        **more,
    }


def llama2() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_rotary(num_key_value_heads=N_HEADS)))


def llama3() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
        "rope_theta": 500_000.0,
    }
    return LlamaForCausalLM(LlamaConfig(**_rotary(num_key_value_heads=2, rope_parameters=scaling)))


def gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    # A head of another size than d_model / n_heads, a window shorter than the contexts and low caps: all of them bite.
    return Gemma2ForCausalLM(
        Gemma2Config(
            **_rotary(num_key_value_heads=2),
            head_dim=6,
            query_pre_attn_scalar=6,
            sliding_window=4,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        )
    )


def gemma3() -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(**_gemma3()))


def gemma3_with_pictures() -> Any:
    """As the larger ones are: the language model beside one that reads pictures, of which nothing is wanted."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    pictures = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": 28, "patch_size": 14}  # fmt: skip
    ids = {"image_token_index": 57, "boi_token_index": 58, "eoi_token_index": 59, "mm_tokens_per_image": 4}
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=_gemma3(), vision_config=pictures, **ids))


def _gemma3() -> dict[str, Any]:
    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    return _rotary(num_key_value_heads=2, head_dim=D_HEAD, sliding_window=8, layer_types=layers)


def qwen2() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**_rotary(num_key_value_heads=2)))


def qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**_rotary(num_key_value_heads=2), head_dim=6))


def bert() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            num_hidden_layers=N_LAYERS,
            hidden_size=D_MODEL,
            num_attention_heads=N_HEADS,
            intermediate_size=32,
            vocab_size=VOCABULARY,
            max_position_embeddings=MAX_LENGTH,
        )
    )


def roberta() -> Any:
    from transformers import RobertaConfig, RobertaForMaskedLM

    return RobertaForMaskedLM(
        RobertaConfig(
            num_hidden_layers=N_LAYERS,
            hidden_size=D_MODEL,
            num_attention_heads=N_HEADS,
            intermediate_size=32,
            vocab_size=VOCABULARY,
            max_position_embeddings=MAX_LENGTH,
            pad_token_id=PAD,
        )
    )


def umt5() -> Any:
    from transformers import UMT5Config, UMT5ForConditionalGeneration

    return UMT5ForConditionalGeneration(UMT5Config(**_t5()))


def _t5() -> dict[str, Any]:
    # The decoder is deeper than the encoder, and a head is not d_model / n_heads.
    return {
        "num_layers": N_LAYERS - 1,
        "num_decoder_layers": N_LAYERS,
        "d_model": D_MODEL,
        "d_kv": 6,
        "d_ff": 32,
        "num_heads": N_HEADS,
        "vocab_size": VOCABULARY,
        "decoder_start_token_id": PAD,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
    }


def t5(feed_forward: str = "relu", *, tied: bool = True) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(T5Config(**_t5(), feed_forward_proj=feed_forward, tie_word_embeddings=tied))


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "gpt2": gpt2,
    "pythia": pythia,
    "pythia-sequential": lambda: pythia(parallel=False),
    "llama2": llama2,
    "llama3": llama3,
    "gemma2": gemma2,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma3": gemma3,
    "gemma3-with-pictures": gemma3_with_pictures,
    "bert": bert,
    "roberta": roberta,
    "t5": t5,
    "t5-v1.1": lambda: t5("gated-gelu", tied=False),
    "umt5": umt5,
}
ENCODERS = ("bert", "roberta")
ENCODER_DECODERS = ("t5", "t5-v1.1", "umt5")
DECODER_ONLY = tuple(name for name in ARCHITECTURES if name not in ENCODERS + ENCODER_DECODERS)


def save_tokenizer(folder: Path, kind: str = "causal") -> None:
    """A word-level tokenizer: `causal` puts a BOS first, `bert` puts [CLS] and [SEP] around, `t5` an EOS last, `bare` nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<bos>", "<eos>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    words = Tokenizer(
        models.WordLevel(
            {**{name: i for i, name in enumerate(names)}, **{f"w{i}": i for i in range(len(names), VOCABULARY)}},
            unk_token="<unk>",
        )
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = {
        "causal": ("<bos> $A", [("<bos>", BOS)]),
        "bert": ("[CLS] $A [SEP]", [("[CLS]", CLS), ("[SEP]", SEP)]),
        "t5": ("$A <eos>", [("<eos>", EOS)]),
    }
    if kind in around:
        template, special = around[kind]
        words.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    special_names = {
        "causal": {"bos_token": "<bos>", "eos_token": "<eos>"},
        "bert": {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"},
        "t5": {"eos_token": "<eos>"},
        "bare": {},
    }[kind]
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", **special_names
    ).save_pretrained(folder)


def save_model(name: str, folder: Path, *, seed: int = 0) -> Path:
    """The model and a tokenizer that suits it, in a folder."""
    torch.manual_seed(seed)
    model = ARCHITECTURES[name]()
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = parameter.ndim == 1 and parameter_name.endswith("weight")
        parameter.data = parameter.data + 0.3 * noise if is_norm else 0.3 * noise
    model.save_pretrained(folder)
    save_tokenizer(folder, "bert" if name in ENCODERS else "t5" if name in ENCODER_DECODERS else "causal")
    return folder
