"""Encoders (BERT-like) and encoder-decoders (T5-like): where their sites are in Hugging Face's own modules.

They are read by plain forward hooks: transformer-lens's bridge cannot run T5, and in BERT its `hook_attn_out` and
`hook_resid_mid` are read after the norm of the wrong sublayer.

BERT puts its norms after each sum, so that with `post-norm` streams
    resid_mid = norm(resid_pre + attn_out),  resid_post = norm(resid_mid + mlp_out),
and `resid_post` of layer L is what Hugging Face calls `hidden_states[L + 1]`. T5 has its norms before each sublayer:
    resid_mid = resid_pre + attn_out,  resid_mid_cross = resid_mid + cross_attn_out (decoder),
    resid_post = (resid_mid or resid_mid_cross) + mlp_out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmcore.errors import SpecError
from dmcore.sources.hooked import LanguageModel, Site


def read_encoder(hf: Any) -> LanguageModel:
    """A BERT-like encoder, without a head: it predicts no next token, so that loss and entropy are nan.

    Args:
        hf: as `AutoModel` gives it.
    """
    sites = {}
    for layer, block in enumerate(hf.encoder.layer):
        at = {
            "hook_resid_pre": Site(block, "input"),
            "hook_resid_mid": Site(block.attention),
            "hook_resid_post": Site(block),
            "hook_mlp_out": Site(block.output.dense),
            "hook_attn_out": Site(block.attention.output.dense),
            "attn.hook_z": Site(block.attention.output.dense, "input"),
        }
        sites |= {f"blocks.{layer}.{site}": where for site, where in at.items()}

    def predict(ids: Tensor) -> None:
        hf(input_ids=ids, attention_mask=torch.ones_like(ids))

    device = hf.get_input_embeddings().weight.device
    return LanguageModel(sites, device, predict, n_vocabulary=hf.config.vocab_size, predicts=False)


def read_encoder_decoder(hf: Any) -> LanguageModel:
    """A T5-like encoder-decoder: the encoder reads the context, the decoder the same context shifted right by one.

    So decoder position i has read tokens before i, and predicts token i. The encoder alone is run if no site of the decoder
    and no loss is wanted.

    Args:
        hf: as `AutoModelForSeq2SeqLM` gives it.

    Raises:
        SpecError: the config does not say with which token the decoder starts.
    """
    if hf.config.decoder_start_token_id is None:
        raise SpecError(
            "The model's config.json has no decoder_start_token_id: add it (T5 starts with its pad token, 0)."
        )
    sites = {}
    for stack in ("encoder", "decoder"):
        for layer, block in enumerate(getattr(hf, stack).block):
            sites |= {f"{stack}.{layer}.{site}": where for site, where in _block_sites(block).items()}

    def predict(ids: Tensor) -> Tensor:
        shifted = torch.cat([torch.full_like(ids[:, :1], hf.config.decoder_start_token_id), ids[:, :-1]], dim=1)
        everything = torch.ones_like(ids)
        return hf(
            input_ids=ids,
            attention_mask=everything,
            decoder_input_ids=shifted,
            decoder_attention_mask=everything,
            use_cache=False,
        ).logits

    device = hf.get_input_embeddings().weight.device
    return LanguageModel(sites, device, predict, n_vocabulary=hf.config.vocab_size, predicts_itself=True)


def _block_sites(block: Any) -> dict[str, Site]:
    """Sites of a T5 block: self-attention, cross-attention (decoder), feed-forward; each adds to the stream."""
    attention, feed_forward = block.layer[0], block.layer[-1]
    sites = {
        "hook_resid_pre": Site(block, "input"),
        "hook_attn_out": Site(attention.SelfAttention),
        "attn.hook_z": Site(attention.SelfAttention.o, "input"),
        # The input of what follows, not the output of attention: in float16 there is a clamp between.
        "hook_resid_mid": Site(block.layer[1], "input"),
        "hook_mlp_out": Site(feed_forward.DenseReluDense),
        "hook_resid_post": Site(block),
    }
    if len(block.layer) == 3:
        cross = block.layer[1].EncDecAttention
        sites |= {
            "hook_cross_attn_out": Site(cross),
            "cross_attn.hook_z": Site(cross.o, "input"),
            "hook_resid_mid_cross": Site(feed_forward, "input"),
        }
    return sites
