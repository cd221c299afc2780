"""A model read at its hooks: run it no further than the last site that is asked for, and keep nothing else.

1. Every site is the input or the output of some module; forward hooks on the modules asked for keep what passes.
2. When the last of them has come, and no loss is wanted, the run is stopped by an exception that `run` catches, so that
   deeper layers and the prediction are never computed.
3. With a loss, the model runs a few contexts at a time, because predictions are vocabulary-sized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dmcore.errors import SpecError
from dmcore.sources.model_files import check_known

LOGITS_AT_ONCE = 2**24
"""Most logits that are turned into probabilities at once."""
LOGITS_PER_RUN = 2**29
"""Most logits that one run of the model may give: 1 GiB in bfloat16."""


@dataclass(frozen=True)
class Site:
    """Where in the model's modules a hook reads."""

    module: nn.Module
    side: str = "output"
    """`input` (the first argument) or `output` (the first, if there are several)."""


@dataclass(frozen=True)
class ModelOutput:
    """What one run of the model gave."""

    acts: dict[str, Float[Tensor, "n_contexts length d_model"]]
    """By hook name; attention heads flattened."""
    loss: Float[Tensor, "n_contexts length"] | None
    """In nats. Decoder-only models: `-log p(next token)`, made at each position; nan at the last, which predicts nothing.
    Encoder-decoders: `-log p(this token)`, from the context in the encoder and the tokens before this one in the
    decoder. Encoders predict no next token: nan everywhere."""
    entropy: Float[Tensor, "n_contexts length"] | None
    """Entropy of the prediction made at each position, in nats; nan everywhere in encoders."""


class StopRun(Exception):  # noqa: N818 - it is no error
    """All that was asked for has been read."""


class LanguageModel:
    """A model that can be read at its hooks. Made by `load_model`.

    Args:
        sites: what the model has, by hook name.
        device: where token ids go.
        predict: runs the model on ids (n_contexts, length) and returns logits (n_contexts, length, n_vocabulary), or None
            for a model that predicts no next token.
        n_vocabulary: logits at a position.
        predicts_itself: position i predicts token i, not token i + 1.
        predicts: whether it predicts tokens at all.
        blocks: the layers of its only stack, in order, each of which gives the residual stream to the next; none where
            that is not so.
    """

    def __init__(
        self,
        sites: dict[str, Site],
        device: torch.device,
        predict: Callable[[Tensor], Tensor | None],
        *,
        n_vocabulary: int,
        predicts_itself: bool = False,
        predicts: bool = True,
        blocks: Sequence[nn.Module] = (),
    ) -> None:
        self._sites, self._predict = sites, predict
        self._n_vocabulary, self._predicts_itself = n_vocabulary, predicts_itself
        self.device, self.predicts, self.blocks = device, predicts, tuple(blocks)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Every hook name that the model has."""
        return tuple(self._sites)

    @property
    def n_vocabulary(self) -> int:
        """Logits at a position."""
        return self._n_vocabulary

    @property
    def predicts_itself(self) -> bool:
        """Whether position i predicts token i, not token i + 1."""
        return self._predicts_itself

    def site(self, hook: str) -> Site:
        """Where a hook is.

        Raises:
            SpecError: the model has no such hook.
        """
        self.check_hooks([hook])
        return self._sites[hook]

    def logits(self, ids: Int[Tensor, "n_contexts length"]) -> Tensor | None:
        """Logits (n_contexts, length, n_vocabulary) of contexts on the model's device; None if it predicts no tokens."""
        return self._predict(ids)

    def check_hooks(self, hooks: Sequence[str]) -> None:
        """Raise a SpecError for a hook that the model does not have; it names the nearest that it has."""
        check_known(hooks, self._sites)

    @torch.no_grad()  # not inference_mode: SAEs are trained on what this returns
    def run(self, tokens: Int[Tensor, "n_contexts length"], hooks: Sequence[str], *, with_loss: bool) -> ModelOutput:
        """Run the contexts, no deeper than the hooks unless the loss is wanted; every token is attended to.

        Raises:
            SpecError: the model has no such hook.
        """
        self.check_hooks(hooks)
        ids = tokens.to(self.device)
        if not with_loss:
            return ModelOutput(self._read(ids, hooks)[0], None, None) if hooks else ModelOutput({}, None, None)
        rows = max(1, LOGITS_PER_RUN // (ids.shape[1] * self._n_vocabulary))
        parts = []
        for some in ids.split(rows):
            acts, logits = self._read(some, hooks, to_the_end=True)
            parts.append((acts, *self._loss_and_entropy(logits, some)))
        return ModelOutput(
            {hook: torch.cat([part[0][hook] for part in parts]) for hook in hooks},
            torch.cat([part[1] for part in parts]),
            torch.cat([part[2] for part in parts]),
        )

    def _read(
        self, ids: Tensor, hooks: Sequence[str], *, to_the_end: bool = False
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        acts: dict[str, Tensor] = {}
        logits = None
        with self._reading(hooks, acts, stop=not to_the_end):
            logits = self._predict(ids)
        missing = [hook for hook in hooks if hook not in acts]
        if missing:
            raise SpecError(f"The model ran but gave nothing at {missing[0]}: this architecture has no such site.")
        # Some models (OPT) put all tokens on one axis in their MLPs.
        return {hook: acts[hook].reshape(*ids.shape, -1) for hook in hooks}, logits

    @contextmanager
    def _reading(self, hooks: Sequence[str], acts: dict[str, Tensor], *, stop: bool) -> Iterator[None]:
        def keep(hook: str, value: Any) -> None:
            acts[hook] = (value[0] if isinstance(value, tuple) else value).detach()
            if stop and len(acts) == len(set(hooks)):
                raise StopRun

        with ExitStack() as stack:
            for hook in hooks:
                stack.callback(_listen(self._sites[hook], hook, keep).remove)
            with suppress(StopRun):
                yield

    def _loss_and_entropy(self, logits: Tensor | None, ids: Tensor) -> tuple[Tensor, Tensor]:
        nothing = torch.full(ids.shape, float("nan"), device=ids.device)
        if logits is None:
            return nothing, nothing.clone()
        targets = ids.to(logits.device)
        if not self._predicts_itself:
            targets = targets.roll(-1, 1)
        losses, entropies = [], []
        at_once = max(1, LOGITS_AT_ONCE // logits.shape[2])
        for some, wanted in zip(logits.flatten(0, 1).split(at_once), targets.flatten().split(at_once), strict=True):
            log_probs = some.float().log_softmax(-1)
            entropies.append(-(log_probs.exp() * log_probs).sum(-1))
            losses.append(-log_probs.gather(-1, wanted[:, None]).squeeze(-1))
        loss = torch.cat(losses).view(ids.shape)
        if not self._predicts_itself:
            loss[:, -1] = float("nan")
        return loss, torch.cat(entropies).view(ids.shape)


def _listen(site: Site, hook: str, keep: Callable[[str, Any], None]) -> Any:
    if site.side == "output":
        return site.module.register_forward_hook(lambda _module, _given, output: keep(hook, output))

    def before(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        keep(hook, given[0] if given else named["hidden_states"])

    return site.module.register_forward_pre_hook(before, with_kwargs=True)
