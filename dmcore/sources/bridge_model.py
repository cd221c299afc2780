"""Decoder-only models, through transformer-lens's bridge: raw Hugging Face weights, unless the study asks for processing.

The bridge changes the Hugging Face model in place: what it has wrapped cannot be saved or used by itself any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dmcore.errors import SpecError
from dmcore.sources.hooked import LanguageModel, Site
from dmcore.specs import SITES


def read_bridge(name: str, hf: Any, tokenizer: Any, processing: Sequence[str] = ()) -> LanguageModel:
    """A decoder-only model with every site that it has.

    Args:
        name: folder or id, for messages.
        hf: as `AutoModelForCausalLM` gives it, on its device; it is changed in place.
        tokenizer: the model's; the bridge would ask the hub for one.
        processing: of `dmcore.specs.PROCESSING`; exactly these steps are applied to the weights.

    Raises:
        SpecError: the architecture is not one that the bridge reads, or cannot be processed so.
    """
    from transformer_lens.model_bridge import TransformerBridge

    device = hf.get_input_embeddings().weight.device
    try:
        bridge = TransformerBridge.boot_transformers(
            name, hf_model=hf, tokenizer=tokenizer, device=str(device), dtype=hf.dtype
        )
    except (ValueError, NotImplementedError, AttributeError) as error:
        if "offload" in str(error).lower():
            raise SpecError(
                f"The model {name} does not fit on the GPUs that there are, and parts of it cannot stay outside them: give "
                'dtype = "bfloat16", or use more GPUs.'
            ) from error
        raise SpecError(
            f"Models like {name} ({type(hf).__name__}) cannot be read ({str(error).splitlines()[0][:120]}): choose a "
            "decoder-only model, BERT or T5."
        ) from error
    bridge = bridge.eval()
    if processing:
        _process(bridge, name, processing)
    points = bridge.hook_dict
    names = [f"blocks.{layer}.{site}" for layer in range(bridge.cfg.n_layers) for site in SITES]
    # Hooks of torch on the bridge's points: its own `run_with_cache` keeps every layer's attention as well.
    sites = {hook: Site(points[hook]) for hook in names if hook in points}

    def predict(ids: Tensor) -> Tensor:
        return bridge.forward(ids, return_type="logits", use_cache=False)

    return LanguageModel(sites, torch.device(device), predict, n_vocabulary=hf.config.get_text_config().vocab_size)


def _process(bridge: Any, name: str, processing: Sequence[str]) -> None:
    centred = "center_writing_weights" in processing
    if centred and (bridge.cfg.normalization_type not in {"LN", "LNPre"} or bridge.cfg.final_rms):
        # The library would leave the step out without a word.
        raise SpecError(
            f"The weights of {name} cannot be centred, because its norms do not subtract the mean: take "
            "center_writing_weights out of processing."
        )
    try:
        bridge.enable_compatibility_mode(
            disable_warnings=True,
            fold_ln="fold_ln" in processing,
            center_writing_weights=centred,
            center_unembed=False,
            fold_value_biases=False,
            refactor_factored_attn_matrices=False,
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise SpecError(
            f"The weights of {name} cannot be processed ({str(error).splitlines()[0][:120]}): take processing out of the "
            "study."
        ) from error
