"""Training of the demo's language model: a small Llama, AdamW, bfloat16 products, warm-up and a cosine to zero.

The weights are stored as float16. Everything downstream, the SAEs too, uses exactly those rounded weights in float32.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmcore.demo.scale import CONTEXT_LENGTH, SEED, ModelScale
from dmcore.demo.tokenizer import BOS_ID, EOS_ID
from dmcore.progress import Reporter
from dmcore.training.checkpoints import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

log = logging.getLogger(__name__)
_WARMUP, _WEIGHT_DECAY, _BETAS, _CLIP = 0.02, 0.1, (0.9, 0.95), 1.0


def new_model(scale: ModelScale, n_vocabulary: int) -> LlamaForCausalLM:
    """A freshly initialised model of this scale; the same one on every call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=n_vocabulary,
        hidden_size=scale.d_model,
        intermediate_size=scale.d_mlp,
        num_hidden_layers=scale.n_layers,
        num_attention_heads=scale.n_heads,
        num_key_value_heads=scale.n_heads,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=EOS_ID,
        attention_dropout=0.0,
    )
    # Plain attention: at 256 tokens a context it trains faster on a CPU than the fused kernel.
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config)


def train_model(
    contexts: np.ndarray, scale: ModelScale, n_vocabulary: int, work: Path, device: str, reporter: Reporter
) -> tuple[LlamaForCausalLM, dict[str, object]]:
    """Train, resuming from the checkpoint in `work`; returns the model and a record of the training for the report."""
    import torch

    model = new_model(scale, n_vocabulary).to(device)
    optimizer = _optimizer(model, scale)
    per_step = scale.batch_contexts * CONTEXT_LENGTH
    n_steps = max(1, scale.tokens // per_step)
    first, curve = _restore(model, optimizer, work)
    loss_of = _loss_function(model, scale, device)
    with reporter.stage("train the model", total=n_steps * per_step, unit="tokens", done=first * per_step) as stage:
        for step in range(first, n_steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, n_steps, scale.learning_rate)
            batch = torch.from_numpy(_batch(contexts, step, scale.batch_contexts)).to(device)
            loss = loss_of(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if (step + 1) % scale.checkpoint_steps == 0 or step + 1 == n_steps:
                curve.append([(step + 1) * per_step, round(loss.item(), 4)])
                log.info("step %d of %d: batch loss %.3f", step + 1, n_steps, loss.item())
                _save(model, optimizer, work, step + 1, curve)
            stage.advance(per_step)
    seen = {"tokens": n_steps * per_step, "contexts": n_steps * scale.batch_contexts}
    return model, seen | {"steps": n_steps, "batch_loss_curve": curve}


def learning_rate(step: int, n_steps: int, peak: float) -> float:
    """Linear warm-up over the first 2 % of the steps, then a cosine to zero."""
    warmup = max(1, round(_WARMUP * n_steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write `config.json` and `model.safetensors`, weights rounded to float16."""
    import copy

    import torch

    copy.deepcopy(model).to("cpu", torch.float16).save_pretrained(folder)


def load_model(folder: Path, device: str) -> LlamaForCausalLM:
    """The stored model with its rounded weights, in float32, in evaluation mode."""
    import torch
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)


def mean_loss(model: LlamaForCausalLM, contexts: np.ndarray, device: str) -> float:
    """Mean cross-entropy in nats of the tokens at positions 1 to 255 of these contexts."""
    import torch

    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(contexts), 16):
            batch = torch.from_numpy(contexts[start : start + 16].astype(np.int64)).to(device)
            total += float(_cross_entropy(model, batch)) * len(batch)
    return total / len(contexts)


def _cross_entropy(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy of a batch of contexts, the softmax in float32."""
    import torch.nn.functional as F

    hidden = model.model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden).float()
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1))


def _loss_function(model: LlamaForCausalLM, scale: ModelScale, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The training loss under bfloat16 autocast; compiled where that is asked for and a compiler works."""
    import torch

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            return _cross_entropy(model, batch)

    if not scale.compile:
        return loss_of
    compiled = torch.compile(loss_of)
    try:
        compiled(torch.zeros((scale.batch_contexts, CONTEXT_LENGTH), dtype=torch.int64, device=device)).backward()
    except Exception as error:
        log.warning("torch.compile does not work here (%s); the model is trained without it, more slowly", error)
        return loss_of
    finally:
        model.zero_grad(set_to_none=True)
    return compiled


def _optimizer(model: LlamaForCausalLM, scale: ModelScale) -> torch.optim.AdamW:
    """AdamW that does not decay the gains of the norms."""
    import torch

    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": _WEIGHT_DECAY}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=scale.learning_rate, betas=_BETAS, fused=True)


def _batch(contexts: np.ndarray, step: int, size: int) -> np.ndarray:
    """The contexts of a step, in order, starting again when all have been used."""
    rows = np.arange(step * size, (step + 1) * size) % len(contexts)
    return contexts[rows].astype(np.int64)


def _save(model: LlamaForCausalLM, optimizer: torch.optim.AdamW, work: Path, step: int, curve: list) -> None:
    """Store weights, moments and the step."""
    tensors = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"w.{name}": parameter, f"m.{name}": state["exp_avg"], f"v.{name}": state["exp_avg_sq"]}
    save_checkpoint(work / "model-checkpoint", tensors, {"step": step, "curve": curve})


def _restore(model: LlamaForCausalLM, optimizer: torch.optim.AdamW, work: Path) -> tuple[int, list]:
    """Load the checkpoint, if there is one; the step to go on from and the losses so far."""
    import torch

    found = load_checkpoint(work / "model-checkpoint")
    if found is None:
        return 0, []
    tensors, state = found
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"w.{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(state["step"]), device=parameter.device),
                "exp_avg": tensors[f"m.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"v.{name}"].to(parameter.device),
            }
    return int(state["step"]), list(state["curve"])
