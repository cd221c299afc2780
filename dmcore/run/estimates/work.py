"""The work that a study is: bytes on disk, operations, memory, each by the rule of the stage that does it."""

from __future__ import annotations

from dataclasses import dataclass

from dmcore.run.estimates.machine import Machine
from dmcore.run.estimates.result import Operations, SiteEstimate
from dmcore.run.estimates.saes import SaeEstimate
from dmcore.run.retention import KEPT_MOMENTS
from dmcore.sources.hub_cache import cached_weights
from dmcore.sources.model_shape import ModelShape
from dmcore.specs import Study, parse_hook, stack_of

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SLAB = 65_536
"""Latents for which a token's count is kept apart, as in `analysis.codes`."""
CHUNK_TOKENS = 4096
"""Tokens worked on at once, as in `analysis.activations`."""
CONTEXTS_PER_RUN = {"cpu": 8}
CONTEXTS_PER_RUN_GPU = 32
"""Contexts that go through the model at once, as in `analysis.capture`."""
LOGITS_PER_RUN = 2**29
"""Most logits of one run of the model, as in `sources.hooked`."""

BROWSED = 64
"""Contexts of a site whose tokens can be looked at, as in `analysis.worst_tokens`."""
NORMS_SOLVED = 76
"""Products of d_model x d_model that the tests of norms make an SAE, with 5 folds: counted, not measured."""


@dataclass(frozen=True)
class Work:
    """What the parts of an estimate are made from."""

    study: Study
    shape: ModelShape
    saes: tuple[SaeEstimate, ...]
    n_contexts: int
    length: int
    machine: Machine
    device: str

    @property
    def n_tokens(self) -> int:
        return self.n_contexts * self.length

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.study.model.dtype]

    @property
    def n_cells(self) -> int:
        """Folds times ranges of positions, as in `analysis.partition`."""
        settings = self.study.settings
        skips = {0, settings.skip_positions, *(s for s in settings.compare_skips if s < self.length)}
        return settings.n_folds * len(skips)

    @property
    def n_variants(self) -> int:
        """Splits that are reported, as in `analysis.split_pass`."""
        compared = len(self.study.settings.compare_skips)
        return 2 * (1 + compared) if compared else 1

    def sites(self) -> tuple[SiteEstimate, ...]:
        found = []
        for hook in self.study.hooks:
            width = self.shape.site_width(parse_hook(hook)[1])
            n_saes = sum(sae.hook == hook for sae in self.saes)
            found.append(SiteEstimate(hook, width, n_saes, self.n_tokens * width * self.dtype_bytes))
        return tuple(found)

    def moment_bytes(self) -> int:
        n_folds = self.study.settings.n_folds
        sites = sum(8 * self.n_cells * (site.width + 1) ** 2 for site in self.sites())
        saes = largest_dropped = 0
        for sae in self.saes:
            d = sae.d_in
            cross = 8 * self.n_cells * (d + 2) * (d + 1)
            maps = 4 * (n_folds + 1) * (d + 1) * d + 4 * d * (d + 1)  # of the folds and of all, and the summary's
            saes += maps + 20 * self.n_tokens
            if cross <= KEPT_MOMENTS:
                saes += cross
            else:  # they go when the SAE is done, so that there are never those of two
                largest_dropped = max(largest_dropped, cross)
        return sites + saes + largest_dropped + self.looked_at_bytes() + 8 * self.n_tokens  # with the table of losses

    def operations(self) -> Operations:
        n, folds = self.n_tokens, self.study.settings.n_folds
        encode = sum(2.0 * n * s.d_in * (s.d_sae + 2 * s.l0) for s in self.saes)
        moments = sum(
            2.0 * n * (d + 1) ** 2 for d in [site.width for site in self.sites()] + [s.d_in for s in self.saes]
        )
        # Maps and the fit's influence, applied to every token; solved once a fold and variant (7/3 d^3 and 13/3 d^3); the
        # ridge path's bases (4 d^3 a fold).
        applied = sum(4.0 * n * self.n_variants * s.d_in**2 for s in self.saes)
        solved = sum((20 / 3 * self.n_variants + 4) * folds * s.d_in**3 for s in self.saes)
        bases = sum(10.0 * folds * site.width**3 for site in self.sites())
        model = n * self.shape.flops_per_token(None, self.length, with_loss=True)
        return Operations(model, encode, moments, applied + solved + bases, self.norms(), *self.training_operations())

    def norms(self) -> float:
        """Of the tests of norms: two products in float64 and two in float32 a token, and what is solved from them."""
        return sum(2.0 * 4 * self.n_tokens * (s.d_in + 1) ** 2 + NORMS_SOLVED * s.d_in**3 for s in self.saes)

    def looked_at_bytes(self) -> int:
        """The norms and ids of the tokens that can be looked at: three float16 an SAE, and an int32."""
        kept = min(self.n_contexts, BROWSED) * self.length
        return sum(kept * (6 * site.n_saes + 4) for site in self.sites())

    def training_operations(self) -> tuple[float, float]:
        """Of the model, in its dtype; and of the SAEs, in float32."""
        train = self.study.train
        made = [sae for sae in self.saes if sae.source == "training"]
        if train is None or not made:
            return 0.0, 0.0
        # Forward, and twice that backward, through encoder and decoder.
        fit = sum(3 * 4.0 * train.tokens * sae.d_in * sae.d_sae for sae in made)
        deepest = max(self.layers_to(sae.hook) for sae in made)
        per_token = self.shape.flops_per_token(deepest, self.training_length(), with_loss=False)
        return self.training_tokens_run() * per_token, fit

    def training_length(self) -> int:
        """Tokens in a context that SAEs are trained on."""
        texts = self.study.train.texts if self.study.train else None
        return texts.context_length if texts and not texts.path else self.length

    def training_tokens_run(self) -> int:
        """Tokens that the model reads for the training, with the first positions of contexts, which are left out."""
        if self.study.train is None:
            return 0
        length = self.training_length()
        used = max(1, length - self.study.settings.skip_positions)
        return -(-self.study.train.tokens // used) * length

    def layers_to(self, hook: str) -> int:
        """Layers that are run to read a hook."""
        before = self.shape.n_layers if stack_of(hook) == "decoder" else 0
        return before + parse_hook(hook)[0] + 1

    def training_bytes(self) -> int:
        train = self.study.train
        made = [sae for sae in self.saes if sae.source == "training"]
        if train is None or not made:
            return 0
        widths = {sae.hook: sae.d_in for sae in made}
        kept = (
            sum(self.training_tokens_run() * width * self.dtype_bytes for width in widths.values())
            if train.source == "captured"
            else 0
        )
        return kept + sum(sae.weight_bytes for sae in made)

    def model_download_bytes(self) -> int:
        spec = self.study.model
        return 0 if spec.path or cached_weights(spec.id) else self.shape.parameters * self.dtype_bytes

    def model_memory(self) -> int:
        """Per device: parameters; logits; scores of one layer; what one layer holds; activations that are read."""
        at_once = min(CONTEXTS_PER_RUN.get(self.device, CONTEXTS_PER_RUN_GPU), self.n_contexts)
        rows = min(at_once, max(1, LOGITS_PER_RUN // (self.length * self.shape.vocabulary)))
        tokens = rows * self.length
        logits = tokens * self.shape.vocabulary * self.dtype_bytes
        scores = rows * self.shape.n_heads * self.length**2 * (self.dtype_bytes + 4)
        layer = tokens * (3 * self.shape.d_mlp + 8 * self.shape.d_model) * self.dtype_bytes
        kept = sum(2 * at_once * self.length * site.width * self.dtype_bytes for site in self.sites())
        return self.shape.parameters * self.dtype_bytes // self.machine.devices + max(logits, scores + layer) + kept

    def sae_memory(self) -> int:
        """Weights in float32, moments of site and error, a map and an influence for each fold and variant, solving for one in
        float64, a chunk of tokens."""
        chunk = max(CHUNK_TOKENS, self.length)
        return max(
            s.weight_bytes
            + 2 * 8 * self.n_cells * (s.d_in + 1) ** 2
            + 8 * ((self.n_variants + 2) * self.study.settings.n_folds + 2 + 4) * (s.d_in + 1) ** 2
            + 4 * chunk * (min(s.d_sae, SLAB) + 15 * s.d_in)
            for s in self.saes
        )

    def training_memory(self) -> int:
        """Weights, gradients and two moments of Adam in float32; a batch; and the model's share where it runs along."""
        train = self.study.train
        made = [sae for sae in self.saes if sae.source == "training"]
        if train is None or not made:
            return 0
        model = self.model_memory() if train.source == "live" else 0
        return model + max(4 * s.weight_bytes + 8 * train.batch_tokens * (s.d_sae + s.d_in) for s in made)


def code_bytes(sae: SaeEstimate, n_contexts: int, length: int) -> int:
    """Codes of an SAE on disk: the layout of `analysis.codes`."""
    slabs = -(-sae.d_sae // SLAB)
    return int(n_contexts * length * (6 * sae.l0 + 2 * slabs)) + 8 * (n_contexts + 1)
