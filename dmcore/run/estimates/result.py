"""What an estimate says: typed, with units, and in words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from dmcore.run.estimates.saes import SaeEstimate
from dmcore.run.estimates.words import bytes_text, count_text, flops_text, seconds_text, span_text


@dataclass(frozen=True)
class SiteEstimate:
    """A site and what is kept of it."""

    hook: str
    """Its name."""
    width: int
    """Dimensions."""
    n_saes: int
    """SAEs of the study that read it."""
    activation_bytes: int
    """On disk, in the model's dtype."""


@dataclass(frozen=True)
class Operations:
    """Floating-point operations, by what they are for."""

    model: float
    """The model, over the contexts that are measured."""
    encode: float
    """Encoders and sparse decoders."""
    moments: float
    """Gram matrices and cross moments, in float64."""
    split: float
    """Linear maps applied to every token, and fitted."""
    norms: float
    """Tests of norms: moments of the parts of the error, in float64, and maps applied to every token."""
    training_model: float
    """The model, over the tokens on which SAEs are trained."""
    training: float
    """The SAEs that are trained."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.model + self.encode + self.moments + self.split + self.norms + self.training_model + self.training


@dataclass(frozen=True)
class StudyEstimate:
    """What a study would take. Bytes are bytes, times seconds."""

    study: str
    """Its name."""
    model: str
    """Id or folder of its model."""
    dtype: str
    """In which the model computes."""
    parameters: int
    """Of the model."""
    parameter_bytes: int
    """In the dtype."""
    parameters_run: int
    """Those that a run uses: all, because the loss is wanted."""
    n_layers: int
    """Of the model; of both stacks in an encoder-decoder."""
    n_contexts: int
    """Contexts."""
    context_length: int
    """Tokens of each."""
    sites: tuple[SiteEstimate, ...]
    saes: tuple[SaeEstimate, ...]
    activation_bytes: int
    """Disk for the activations of all sites."""
    code_bytes: int
    """Disk for the sparse codes of all SAEs."""
    moment_bytes: int
    """Disk for moments, linear maps, tables of tokens, and the tokens that can be looked at."""
    training_bytes: int
    """Disk for training: activations, where they are captured first, and the trained SAEs."""
    model_download_bytes: int
    """Of the model; 0 where it is a folder or on this machine already."""
    sae_download_bytes: int
    """Of the SAEs that are not on this machine."""
    largest_sae_bytes: int
    """The largest SAE in float32."""
    operations: Operations
    device: str
    """The device whose rates are assumed."""
    devices: int
    """Devices over which the model is spread."""
    device_memory_bytes: int
    """Of each."""
    model_memory_bytes: int
    """Per device while the model runs: its share of the parameters, and working memory."""
    sae_memory_bytes: int
    """On one device while an SAE is worked on."""
    training_memory_bytes: int
    """On one device while an SAE is trained; 0 where none is."""
    seconds: float
    """All of it, on one device at a time."""
    seconds_by_stage: dict[str, float]
    """`model`, `encode`, `moments`, `split`, `norms`, `disk`, `training`."""
    assumptions: tuple[str, ...]
    """Sentences."""

    @property
    def n_tokens(self) -> int:
        """Tokens that the model reads, those at skipped positions too."""
        return self.n_contexts * self.context_length

    @property
    def disk_bytes(self) -> int:
        """All that the cache and the training folder would hold."""
        return self.activation_bytes + self.code_bytes + self.moment_bytes + self.training_bytes

    @property
    def download_bytes(self) -> int:
        """Model and SAEs."""
        return self.model_download_bytes + self.sae_download_bytes

    @property
    def memory_per_device(self) -> int:
        """The most that a device must hold at any time."""
        return max(self.model_memory_bytes, self.sae_memory_bytes, self.training_memory_bytes)

    @property
    def fits(self) -> bool:
        """Whether that is less than the device has."""
        return self.memory_per_device <= self.device_memory_bytes

    @property
    def devices_needed(self) -> int | None:
        """The fewest devices over which the model fits; None where more devices would not help."""
        spread = max(self.model_memory_bytes, self.training_memory_bytes) - self.parameter_bytes // self.devices
        room = self.device_memory_bytes - spread
        if room <= 0 or self.sae_memory_bytes > self.device_memory_bytes:
            return None
        return max(1, math.ceil(self.parameter_bytes / room))

    def to_dict(self) -> dict[str, Any]:
        """All fields and sums, as values that JSON has."""
        sums = ("n_tokens", "disk_bytes", "download_bytes", "memory_per_device", "fits", "devices_needed")
        content = {**asdict(self), **{name: getattr(self, name) for name in sums}}
        content["operations"]["total"] = self.operations.total
        return content


def describe(estimate: StudyEstimate) -> list[tuple[str, str]]:
    """The estimate as labels and values in words, with units."""
    e = estimate
    widths = span_text([sae.d_sae for sae in e.saes])
    at = f"{len(e.sites)} site{'s' if len(e.sites) > 1 else ''}"
    verdict = "fits" if e.fits else "does not fit"
    verdict += f" in {bytes_text(e.device_memory_bytes)}"
    if not e.fits and e.devices_needed:
        verdict += f"; {e.devices_needed} devices would do"
    download = "nothing: all of it is on this machine"
    if e.download_bytes:
        parts = (("model", e.model_download_bytes), ("SAEs", e.sae_download_bytes))
        download = ", ".join(f"{bytes_text(n)} {what}" for what, n in parts if n)
    stages = ", ".join(f"{name} {seconds_text(s)}" for name, s in e.seconds_by_stage.items() if s >= 0.5)
    spread = f"{e.devices} x {e.device}" if e.devices > 1 else e.device
    rows = [
        ("Model", f"{e.model}: {count_text(e.parameters)} parameters, {e.n_layers} layers, {e.dtype}"),
        ("Parameters", f"{e.parameters:,}: {bytes_text(e.parameter_bytes)} in {e.dtype}"),
        ("Texts", f"{e.n_contexts:,} contexts of {e.context_length:,} tokens: {e.n_tokens:,} tokens"),
        ("SAEs", f"{len(e.saes):,} at {at}, {widths} latents, largest {bytes_text(e.largest_sae_bytes)}"),
        ("To download", download),
        ("Memory per device", f"{bytes_text(e.memory_per_device)} on {spread}: {verdict}"),
        ("  while the model runs", bytes_text(e.model_memory_bytes)),
        ("  while an SAE is split", bytes_text(e.sae_memory_bytes)),
        *([("  while an SAE is trained", bytes_text(e.training_memory_bytes))] if e.training_memory_bytes else []),
        ("Disk", bytes_text(e.disk_bytes)),
        ("  activations", f"{bytes_text(e.activation_bytes)} in {e.dtype}"),
        ("  codes", bytes_text(e.code_bytes)),
        ("  moments, maps, tables", bytes_text(e.moment_bytes)),
        *([("  training", bytes_text(e.training_bytes))] if e.training_bytes else []),
        ("Operations", flops_text(e.operations.total)),
        *((f"  {name.replace('_', ', ')}", flops_text(n)) for name, n in asdict(e.operations).items() if n),
        ("Time", f"about {seconds_text(e.seconds)} on one {e.device}" + (f" ({stages})" if stages else "")),
    ]
    return rows
