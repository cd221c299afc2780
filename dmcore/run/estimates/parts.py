"""What the SAEs on the parts of an error take, besides the SAEs of the study: the part of an estimate that [parts] adds.

1. Training, of those that are not there yet: each seed reads the model's activations (live: the model runs again; captured:
   once, kept on disk), the base SAE and a linear map make the parts of them, and every SAE takes its steps.
2. Measurement: every SAE encodes and decodes its part of the study's tokens, and its codes are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmcore.run.estimates.saes import SaeEstimate
from dmcore.run.estimates.work import Work, code_bytes
from dmcore.specs import PartsSpec


@dataclass(frozen=True)
class PartsWork:
    """The work that a [parts] table is; all of it 0 for a study without one."""

    work: Work

    @property
    def parts(self) -> PartsSpec | None:
        """The table."""
        return self.work.study.parts

    @property
    def base(self) -> SaeEstimate:
        """The SAE whose error is taken apart."""
        name = self.work.study.base.name
        return next(sae for sae in self.work.saes if sae.name == name)

    def one(self) -> SaeEstimate:
        """Any of the SAEs: they have one shape."""
        assert self.parts is not None, "asked for where there is a table"
        d_in = self.base.d_in
        return SaeEstimate("", self.base.hook, d_in, self.parts.width, self.parts.l0, True, True, "training")

    def untrained(self) -> tuple[int, int]:
        """SAEs that are not there yet, and seeds that these have."""
        if self.parts is None:
            return 0, 0
        missing = [sae for sae in self.parts.saes() if not self.work.study.resolve(sae.path).is_dir()]
        return len(missing), len({sae.seed for sae in missing})

    def model_runs(self) -> int:
        """Times that the model goes over the training texts."""
        n_seeds = self.untrained()[1]
        return min(n_seeds, 1) if self.parts is not None and self.parts.source == "captured" else n_seeds

    def tokens_run(self) -> int:
        """Tokens that the model reads in one of them, with the first positions of contexts, which are left out."""
        if self.parts is None or not self.untrained()[0]:
            return 0
        used = max(1, self.length() - self.work.study.settings.skip_positions)
        return -(-self.parts.tokens // used) * self.length()

    def length(self) -> int:
        """Tokens in a training context."""
        study = self.work.study
        texts = next((t.texts for t in (study.parts, study.train) if t is not None and t.texts), None)
        return texts.context_length if texts and not texts.path else self.work.length

    def operations(self) -> tuple[float, float, float]:
        """Of the model, in its dtype; of training; of measurement, both in float32."""
        if self.parts is None:
            return 0.0, 0.0, 0.0
        (n_saes, n_seeds), one, base = self.untrained(), self.one(), self.base
        per_token = self.work.shape.flops_per_token(self.work.layers_to(base.hook), self.length(), with_loss=False)
        model = self.model_runs() * self.tokens_run() * per_token
        making = 2.0 * self.parts.tokens * base.d_in * (base.d_sae + 2 * base.l0 + base.d_in)
        # Forward, and twice that backward, through encoder and decoder.
        steps = 3 * 4.0 * self.parts.tokens * one.d_in * one.d_sae
        of_token = 2.0 * one.d_in * (one.d_sae + 2 * one.l0)
        return model, n_seeds * making + n_saes * steps, len(self.parts.saes()) * self.work.n_tokens * of_token

    def training_bytes(self) -> int:
        """Disk: the activations where they are captured first, and the trained SAEs."""
        if self.parts is None or not self.untrained()[0]:
            return 0
        captured = self.parts.source == "captured"
        kept = self.tokens_run() * self.base.d_in * self.work.dtype_bytes if captured else 0
        return kept + self.untrained()[0] * self.one().weight_bytes

    def code_bytes(self) -> int:
        """Disk: the codes of their measurement."""
        if self.parts is None:
            return 0
        return len(self.parts.saes()) * code_bytes(self.one(), self.work.n_contexts, self.work.length)

    def training_memory(self) -> int:
        """On one device: the base SAE; of the SAEs of one seed weights, gradients, moments of Adam, a batch; the model."""
        if self.parts is None or not self.untrained()[0]:
            return 0
        one, side_by_side = self.one(), len(self.parts.on)
        model = self.work.model_memory() if self.parts.source == "live" else 0
        step = 4 * one.weight_bytes + 8 * self.parts.batch_tokens * (one.d_sae + one.d_in)
        return model + self.base.weight_bytes + side_by_side * step

    def said(self) -> list[str]:
        """What is assumed of them."""
        if self.parts is None:
            return []
        n, (missing, _) = len(self.parts.saes()), self.untrained()
        if not missing:
            return [f"The {n} SAEs on the parts of {self.parts.base} are there; their measurement is counted."]
        return [
            f"{missing} of the {n} SAEs on the parts of {self.parts.base} are to be trained: the model runs {self.model_runs()} "
            f"times over {self.tokens_run():,} tokens for them, the SAEs of a seed side by side."
        ]
