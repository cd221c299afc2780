"""Decoder-only models, through transformer-lens's bridge: raw Hugging Face weights, unless the study asks for processing.

The bridge changes the Hugging Face model in place: what it has wrapped cannot be saved or used by itself any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dmcore.errors import SpecError
from dmcore.memory import is_out_of_memory
from dmcore.sources.hooked import LanguageModel, Site
from dmcore.specs import SITES

PROBE = (2, 16)
"""Contexts and tokens on which the bridge is compared with the model that it has wrapped."""
TOLERANCE = {torch.float32: 0.01}
"""Largest difference of the logits, as a share of their spread, that is rounding; by dtype."""
TOLERANCE_HALF = 0.1


def read_bridge(name: str, hf: Any, processing: Sequence[str] = ()) -> LanguageModel:
    """A decoder-only model with every site that it has.

    Args:
        name: folder or id, for messages.
        hf: as `AutoModelForCausalLM` gives it, on its device; it is changed in place.
        processing: of `dmcore.specs.PROCESSING`; exactly these steps are applied to the weights.

    Raises:
        SpecError: the architecture is not one that the bridge reads, or that it reads rightly, or cannot be processed so.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config

    _check_placed(name, hf)
    device = hf.get_input_embeddings().weight.device
    n_vocabulary = hf.config.get_text_config().vocab_size
    probe = torch.randint(n_vocabulary, PROBE, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        with torch.no_grad():
            expected = hf(input_ids=probe, attention_mask=torch.ones_like(probe), use_cache=False).logits.float()
    except (RuntimeError, ValueError) as error:  # of a model that is spread over devices in a way that it cannot run
        if is_out_of_memory(error):
            raise
        raise SpecError(f"The model {name} cannot be run ({_first_line(error)}): choose another device_map.") from error
    # Not `boot_transformers`: it asks the hub for tokenizers by name alone, and for a model of text and pictures it loads what
    # prepares pictures, and installs packages with pip where that fails.
    try:
        architecture = determine_architecture_from_hf_config(hf.config)
        bridge = build_bridge_from_module(
            hf, architecture, hf_config=hf.config, dtype=hf.dtype, device=str(device), model_name=name
        )
    except Exception as error:  # each architecture fails in its own way
        raise SpecError(
            f"Models like {name} ({type(hf).__name__}) cannot be read ({_first_line(error)}): choose a "
            "decoder-only model, BERT or T5."
        ) from error
    bridge = bridge.eval()

    def predict(ids: Tensor) -> Tensor:
        return bridge.forward(ids, return_type="logits", use_cache=False)

    _check_same(name, hf, expected, predict, probe)
    if processing:
        _process(bridge, name, processing)
    points = bridge.hook_dict
    names = [f"blocks.{layer}.{site}" for layer in range(bridge.cfg.n_layers) for site in SITES]
    # Hooks of torch on the bridge's points: its own `run_with_cache` keeps every layer's attention as well.
    sites = {hook: Site(points[hook]) for hook in names if hook in points}
    return LanguageModel(
        sites, torch.device(device), predict, n_vocabulary=n_vocabulary, blocks=tuple(getattr(bridge, "blocks", ()))
    )


@torch.no_grad()
def _check_same(name: str, hf: Any, expected: Tensor, predict: Callable[[Tensor], Tensor], probe: Tensor) -> None:
    """Some architectures and options (StableLM's partial rotation, GPT-2's unscaled attention) come out wrong, silently."""
    try:
        found = predict(probe).float()
    except Exception as error:
        raise SpecError(
            f"Models like {name} ({type(hf).__name__}) cannot be run ({_first_line(error)}): choose another model."
        ) from error
    spread = (expected - expected.mean(-1, keepdim=True)).norm()
    share = float((found - expected).norm() / spread.clamp_min(1e-12))
    if share > TOLERANCE.get(hf.dtype, TOLERANCE_HALF):  # nan, an overflow in float16, is told when it is captured
        raise SpecError(
            f"Models like {name} ({type(hf).__name__}) are not read rightly: with hooks, the predictions differ from the "
            f"model's own by {share:.0%} of their spread. Choose another model."
        )


def _check_placed(name: str, hf: Any) -> None:
    """What stays outside the devices is brought in by hooks that the bridge goes past."""
    places = {str(place) for place in (getattr(hf, "hf_device_map", None) or {}).values()}
    outside = places & {"disk", "meta"} or any(parameter.device.type == "meta" for parameter in hf.parameters())
    if outside or ("cpu" in places and len(places) > 1):
        raise SpecError(
            f"The model {name} does not fit on the GPUs that there are, and parts of it cannot stay outside them: give "
            'dtype = "bfloat16", or use more GPUs.'
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


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
            f"The weights of {name} cannot be processed ({_first_line(error)}): take processing out of the study."
        ) from error
