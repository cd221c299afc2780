"""A language model with the activation at one site replaced at the kept positions: what that does to its predictions.

1. A clean run of a few contexts: the activation at the site, the predictions, and what the last layer before the site leaves.
2. A spliced run puts given vectors in the activation's place. Decoder-only models run only what follows the site: the layers
   before it give what they gave in the clean run. Others run anew.
3. Predictions are compared over the vocabulary a few thousand tokens at a time: loss, KL(clean || spliced), the most probable
   token.

The first run of a `Splicer` puts the model's own activation back, and refuses an architecture in which that changes anything.
In the bridge `hook_resid_mid` is the input of a norm, beside which the residual stream goes on: there the difference is added
to what attention writes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dmcore.errors import DataError, SpecError
from dmcore.sources.hooked import LOGITS_AT_ONCE, LOGITS_PER_RUN, LanguageModel
from dmcore.sources.site_hooks import at_site, first_of, giving, with_first
from dmcore.specs.hooks import parse_hook, stack_of

LOGITS_AT_ONCE_CPU = 2**21
"""Fewer on a CPU, so that they stay in its cache."""
KEPT_PROBABILITIES = 2**27
"""Most probabilities of a clean run that are kept instead of being computed for every comparison: 512 MiB."""
SAME = 1e-3
"""Nats by which the loss of a token may move when the model's own activation is put back."""


@dataclass(frozen=True)
class Prediction:
    """What is predicted at the scored positions of some contexts."""

    loss: Float[Tensor, "n_contexts n_scored"]
    """Nats: `-log p(next token)` (encoder-decoders: of this token), float32."""
    top: Int[Tensor, "n_contexts n_scored"]
    """Id of the most probable token."""
    kl: Float[Tensor, "n_contexts n_scored"]
    """Nats: `sum p log(p / q)` over the vocabulary, p the clean prediction and q this one; 0 for the clean one itself."""


class Splicer:
    """Puts vectors in place of the activation at one site.

    Args:
        model: as `load_model` gives it.
        hook: the site.
        skip_positions: the first positions of each context are left as they are, and not scored.

    Raises:
        SpecError: the model has no such site, or predicts no tokens.
    """

    def __init__(self, model: LanguageModel, hook: str, skip_positions: int = 0) -> None:
        model.check_hooks([hook])
        if not model.predicts:
            raise SpecError(
                "This model is an encoder, which predicts no next token, so there is no loss that an error could cost: take a "
                "decoder-only model or an encoder-decoder."
            )
        self.model, self.hook, self.skip_positions = model, hook, skip_positions
        layer, site = parse_hook(hook)
        causal = stack_of(hook) == "blocks"
        self._adds = causal and site == "hook_resid_mid"
        self._written = hook.replace("hook_resid_mid", "hook_attn_out") if self._adds else hook
        model.check_hooks([self._written])
        self._is_last = site == "hook_resid_post"
        self._skipped = model.blocks[: layer + int(self._is_last)] if causal else ()
        self._checked = False

    def scored(self, length: int) -> slice:
        """Positions whose predictions are scored, in contexts of `length` tokens.

        Raises:
            SpecError: there is none.
        """
        last = length if self.model.predicts_itself else length - 1
        if last <= self.skip_positions:
            raise SpecError(
                f"Contexts of {length} tokens leave no prediction to score after the {self.skip_positions} skipped positions: "
                "lower skip_positions, or take longer contexts."
            )
        return slice(self.skip_positions, last)

    def contexts_at_once(self, length: int) -> int:
        """Most contexts that one run may have, because predictions are vocabulary-sized."""
        return max(1, LOGITS_PER_RUN // (length * self.model.n_vocabulary))

    @torch.no_grad()
    def clean(self, tokens: Int[Tensor, "n_contexts length"]) -> CleanRun:
        """Run some contexts as they are.

        Raises:
            SpecError: nothing can be put in place at this site, in this architecture; no position is scored.
            DataError: the loss is not finite.
        """
        ids = tokens.to(self.model.device)
        self.scored(ids.shape[1])
        run = self._run(ids)
        if not self._checked:
            run = self._check(ids, run)
            self._checked = True
        return run

    def _run(self, ids: Tensor) -> CleanRun:
        seen: dict[str, Any] = {}

        def keep(name: str) -> Callable[[Tensor], Tensor | None]:
            return lambda value: seen.__setitem__(name, value.detach().reshape(*ids.shape, -1))

        with ExitStack() as stack:
            for hook in dict.fromkeys((self.hook, self._written)):
                stack.enter_context(at_site(self.model.site(hook), keep(hook)))
            if self._skipped:
                handle = self._skipped[-1].register_forward_hook(lambda _m, _g, output: seen.__setitem__("", output))
                stack.callback(handle.remove)
            logits = self.model.logits(ids)
        if logits is None or self.hook not in seen or self._written not in seen:
            raise SpecError(f"The model ran but gave nothing at {self.hook}: this architecture has no such site.")
        return CleanRun(self, ids, seen[self.hook], seen[self._written], seen.get(""), logits)

    def _check(self, ids: Tensor, run: CleanRun) -> CleanRun:
        """The clean run, once it is known that its own activation changes nothing; without short cuts where those do."""
        found = run.spliced(run.acts)
        if self._skipped and _apart(found, run.prediction) > SAME:
            self._skipped = ()
            run = self._run(ids)
            found = run.spliced(run.acts)
        if (gap := _apart(found, run.prediction)) > SAME:
            raise SpecError(
                f"Putting the model's own activation back at {self.hook} changes its loss by up to {gap:.2g} nats, so this "
                "architecture cannot be spliced there: choose an SAE of another site."
            )
        return run

    def predict_with(self, run: CleanRun, wanted: Tensor) -> Tensor:
        """Logits (n_contexts, length, n_vocabulary) with `wanted` (n_contexts, length, d_site) in place everywhere."""

        reached = False

        def put(value: Tensor) -> Tensor:
            nonlocal reached
            reached = True
            return wanted.to(value).reshape(value.shape)

        with ExitStack() as stack:
            if self._skipped and run.before is not None:
                whole = self._is_last
                given = with_first(run.before, put(first_of(run.before))) if whole else run.before
                stack.enter_context(giving(self._skipped, given))
                if not whole:
                    stack.enter_context(at_site(self.model.site(self._written), put))
            else:
                stack.enter_context(at_site(self.model.site(self._written), put))
            logits = self.model.logits(run.ids)
        if logits is None or not reached:
            raise SpecError(
                f"The site {self.hook} is not reached when it is to be replaced: choose an SAE of another site."
            )
        return logits

    def difference(self, run: CleanRun, vectors: Tensor) -> Tensor:
        """What is to be written at every position so that the site holds `vectors` at the kept ones."""
        kept = torch.arange(vectors.shape[1], device=vectors.device)[None, :, None] >= self.skip_positions
        wanted = torch.where(kept, vectors.to(run.acts), run.acts)
        return run.written + (wanted - run.acts) if self._adds else wanted


class CleanRun:
    """Some contexts run as they are, and what becomes of their predictions when vectors are put in; made by `Splicer.clean`."""

    def __init__(
        self, splicer: Splicer, ids: Tensor, acts: Tensor, written: Tensor, before: Any, logits: Tensor
    ) -> None:
        self._splicer, self.ids = splicer, ids
        self.acts = acts
        """(n_contexts, length, d_site) activation at the site, heads flattened, in the model's dtype."""
        self.written, self.before = written, before
        self._scored = splicer.scored(ids.shape[1])
        self.targets = (ids if splicer.model.predicts_itself else ids.roll(-1, 1))[:, self._scored].to(logits.device)
        self._logits, self._probs = logits, None
        few = LOGITS_AT_ONCE if logits.device.type == "cuda" else LOGITS_AT_ONCE_CPU
        self._rows = max(1, few // logits.shape[2])
        self._norm = self._apply(logits, lambda some, _c, _where: some.logsumexp(-1))
        if logits.numel() <= KEPT_PROBABILITIES:
            self._probs = (logits[:, self._scored].float() - self._norm[..., None]).exp_()
        self.prediction = self._compared(logits, clean=True)
        """The clean prediction."""

    @torch.no_grad()
    def spliced(self, vectors: Float[Tensor, "n_contexts length d_site"]) -> Prediction:
        """The predictions with `vectors` at the kept positions; what they hold at skipped ones is not looked at.

        Raises:
            DataError: they have another shape, or hold NaN or infinity; or the loss is then not finite.
        """
        return self._compared(self.logits(vectors), clean=False)

    @torch.no_grad()
    def graded(self, vectors: Float[Tensor, "n_contexts length d_site"]) -> tuple[Tensor, Tensor]:
        """(n_contexts, n_scored) losses of `spliced`, and whether the most probable token is the one that comes.

        Raises:
            As `spliced`.
        """

        def grade(some: Tensor, context: int, where: slice) -> Tensor:
            right = some.argmax(-1) == self.targets[context, where]
            return torch.stack([self._loss(some, context, where), right.to(some)])

        loss, right = self._apply(self.logits(vectors), grade).unbind(1)
        return self._finite(loss, clean=False).float(), right > 0

    def right(self, prediction: Prediction) -> Tensor:
        """(n_contexts, n_scored) whether the most probable token of a prediction is the one that comes."""
        return prediction.top == self.targets.to(prediction.top.device)

    @torch.no_grad()
    def logits(self, vectors: Float[Tensor, "n_contexts length d_site"]) -> Float[Tensor, "n_contexts length vocab"]:
        """The logits of all positions with `vectors` at the kept ones.

        Raises:
            DataError: they have another shape, or hold NaN or infinity.
        """
        hook, skip = self._splicer.hook, self._splicer.skip_positions
        if vectors.shape != self.acts.shape:
            raise DataError(
                f"The vectors to put at {hook} have shape {tuple(vectors.shape)}, the activation {tuple(self.acts.shape)}: "
                "give one for every token."
            )
        if not bool(torch.isfinite(vectors[:, skip:]).all()):
            raise DataError(f"The vectors to put at {hook} hold NaN or infinity: check the SAE's weights and dtype.")
        return self._splicer.predict_with(self, self._splicer.difference(self, vectors))

    def _compared(self, logits: Tensor, *, clean: bool) -> Prediction:
        def compare(some: Tensor, context: int, where: slice) -> Tensor:
            best = some.max(-1)
            norm = self._norm[context, where] if clean else some.logsumexp(-1)
            loss = norm - some.gather(-1, self.targets[context, where, None]).squeeze(-1)
            kl = torch.zeros_like(loss) if clean else self._kl(some, norm, context, where)
            return torch.stack([loss.double(), kl.double(), best.indices.double()])  # ids above 2**24 stay whole

        columns = self._apply(logits, compare)
        loss, kl, top = columns.unbind(1)
        return Prediction(self._finite(loss, clean=clean).float(), top.long(), kl.float())

    def _loss(self, some: Tensor, context: int, where: slice) -> Tensor:
        return some.logsumexp(-1) - some.gather(-1, self.targets[context, where, None]).squeeze(-1)

    def _finite(self, loss: Tensor, *, clean: bool) -> Tensor:
        if not bool(torch.isfinite(loss).all()):
            what = "has a loss that is" if clean else f"with vectors put in at {self._splicer.hook} has a loss that is"
            raise DataError(f"The model {what} not finite: use dtype float32 or bfloat16, and check its weights.")
        return loss

    def _kl(self, some: Tensor, norm: Tensor, context: int, where: slice) -> Tensor:
        clean = self._logits[context, self._scored][where].float()
        own_norm = self._norm[context, where]
        kept = self._probs
        probs = (clean - own_norm[:, None]).exp_() if kept is None else kept[context, where]
        # Of differences, so that equal predictions give 0.
        return norm - own_norm - (some - clean).mul_(probs).sum(-1)

    def _apply(self, logits: Tensor, what: Callable[[Tensor, int, slice], Tensor]) -> Tensor:
        """Of every context, what is computed of some of its scored positions at a time, joined on the last axis."""
        contexts = []
        for context in range(len(logits)):
            rows = logits[context, self._scored]
            parts = []
            for first in range(0, len(rows), self._rows):
                where = slice(first, min(first + self._rows, len(rows)))
                parts.append(what(rows[where].float(), context, where))
            contexts.append(torch.cat(parts, -1))
        return torch.stack(contexts)


def _apart(one: Prediction, other: Prediction) -> float:
    return float((one.loss - other.loss).abs().max())
