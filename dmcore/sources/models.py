"""Language models: a Hugging Face id or folder, loaded and ready to be read at its hooks.

Decoder-only models go through transformer-lens's bridge (`bridge_model`), encoders and encoder-decoders through plain
forward hooks (`stack_models`); what is read is the same `LanguageModel` (`hooked`). Weights come from safetensors only, and
no code from the hub is run.
"""

from __future__ import annotations

from typing import Any

import torch

from dmcore.errors import SpecError
from dmcore.memory import available_memory
from dmcore.sources.bridge_model import read_bridge
from dmcore.sources.hooked import LanguageModel, ModelOutput
from dmcore.sources.hub import explain, loading_options, without_waiting
from dmcore.sources.model_files import check_layers, model_fingerprint, model_kind
from dmcore.sources.quiet import quiet_transformers
from dmcore.sources.stack_models import read_encoder, read_encoder_decoder
from dmcore.specs import Study

__all__ = [
    "LanguageModel",
    "ModelOutput",
    "check_layers",
    "load_model",
    "load_tokenizer",
    "model_fingerprint",
    "random_model",
]


OTHER_WEIGHTS = 0x5EED_0000
"""Added to the seed of a copy with random weights."""


def load_model(study: Study, device: torch.device | str) -> LanguageModel:
    """Load a study's model.

    Args:
        study: whose `[model]` says what, in which dtype and, with `device_map`, on which devices.
        device: where to; with `device_map` it is not used.

    Raises:
        SpecError: it cannot be loaded (not there, gated, no network, no memory, unknown kind); says what to do.
    """
    spec = study.model
    where, options = _where(study)
    _, kind, loader = _kind(study)
    try:
        with quiet_transformers():
            hf: Any = without_waiting(
                lambda: loader.from_pretrained(
                    where,
                    dtype=getattr(torch, spec.dtype),
                    use_safetensors=True,
                    trust_remote_code=False,
                    attn_implementation="eager",
                    **({"device_map": spec.device_map} if spec.device_map else {}),
                    **options,
                ),
                local=bool(spec.path),
            )
        hf = hf.eval() if spec.device_map else hf.to(device).eval()
    except Exception as error:
        raise SpecError(explain(error, "model", where)) from error
    return _read(study, kind, hf)


def random_model(study: Study, device: torch.device | str, seed: int) -> LanguageModel:
    """A copy of a study's model that has learned nothing: its config, with weights as its own code initialises them.

    Args:
        study: whose model; nothing but its config is read.
        device: where to; it must fit on this one.
        seed: of the weights, drawn on the CPU in float32: the same on every device.

    Raises:
        SpecError: it cannot be made, or half of the memory is too little for it.
    """
    where, _ = _where(study)
    config, kind, loader = _kind(study)
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            with torch.device("meta"):
                size = sum(4 * p.numel() for p in loader.from_config(config, trust_remote_code=False).parameters())
            if size > available_memory(torch.device("cpu")) / 2:
                raise SpecError(
                    f"A copy of {study.model.name} with random weights takes {size / 1e9:.0f} GB of memory."
                )
            # Not the plain seed: a small model that was itself made by it must not come out again.
            torch.manual_seed(seed + OTHER_WEIGHTS)
            hf: Any = loader.from_config(config, trust_remote_code=False, attn_implementation="eager")
        hf = hf.to(device=device, dtype=getattr(torch, study.model.dtype)).eval()
    except SpecError:
        raise
    except Exception as error:
        raise SpecError(explain(error, "model", where)) from error
    return _read(study, kind, hf)


def _kind(study: Study) -> tuple[Any, str, Any]:
    """Config, kind and the class of transformers that a study's model is of."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    spec = study.model
    where, options = _where(study)
    try:
        config = without_waiting(
            lambda: AutoConfig.from_pretrained(where, trust_remote_code=False, **options), local=bool(spec.path)
        )
    except Exception as error:
        raise SpecError(explain(error, "model", where)) from error
    kind = model_kind(config.to_dict())
    if spec.processing and (kind != "causal" or spec.device_map):
        reason = f"of the kind {kind}" if kind != "causal" else "on several devices"
        raise SpecError(f"The weights of a model {reason} cannot be processed: take processing out of the study.")
    loader = {"causal": AutoModelForCausalLM, "encoder": AutoModel, "encoder-decoder": AutoModelForSeq2SeqLM}[kind]
    return config, kind, loader


def _read(study: Study, kind: str, hf: Any) -> LanguageModel:
    """A model of transformers, ready to be read at its hooks."""
    if kind == "encoder":
        return read_encoder(hf)
    if kind == "encoder-decoder":
        return read_encoder_decoder(hf)
    return read_bridge(_where(study)[0], hf, study.model.processing)


def load_tokenizer(study: Study) -> Any:
    """The tokenizer of a study's model, as transformers gives it.

    Raises:
        SpecError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    where, options = _where(study)
    try:
        return without_waiting(
            lambda: AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options),
            local=bool(study.model.path),
        )
    except Exception as error:
        raise SpecError(explain(error, "model", where)) from error


def _where(study: Study) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is given: the very commit that the fingerprint names."""
    spec = study.model
    if spec.path:
        folder = study.resolve(spec.path)
        if not (folder / "config.json").is_file():
            raise SpecError(f"{folder} is no model folder: it needs config.json and weights as .safetensors.")
        # Nothing that a folder lacks is looked for elsewhere.
        return str(folder), {"local_files_only": True, "token": False}
    return spec.id, loading_options(spec.id, spec.revision)
