"""What a study would take, from configurations alone: parameters, memory, disk, operations, time; nothing is downloaded.

1. The model's shape (`sources.model_shape`), the texts' size, each SAE's shape (`estimate_saes`).
2. Disk: activations once a site in the model's dtype; codes (6 bytes an active latent, 2 a token for every 65,536 latents);
   moments in float64 and maps in float32; 20 bytes a token of tables.
3. Operations: the model run once to its end; per SAE the encoder, its moments, and the pass that splits its error.
4. The same for the SAEs on the parts (`estimate_parts`).
5. Time: operations over `EFFICIENCY` of a device's peak (`estimate_machine`), and bytes over a disk's rates.
Torch is not imported.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dmcore.errors import SpecError
from dmcore.run.estimates.machine import (
    EFFICIENCY,
    GIB,
    OTHER,
    READ_BYTES_PER_SECOND,
    SECONDS_PER_SAE,
    WRITE_BYTES_PER_SECOND,
    Machine,
    Peak,
)
from dmcore.run.estimates.parts import PartsWork
from dmcore.run.estimates.result import Operations, SiteEstimate, StudyEstimate, describe
from dmcore.run.estimates.saes import ASSUMED_FACTOR, ASSUMED_L0, SaeEstimate, estimate_saes
from dmcore.run.estimates.work import Work, code_bytes
from dmcore.sources.model_shape import model_shape
from dmcore.specs import Study
from dmcore.store.store import Store

__all__ = ["Machine", "Operations", "SaeEstimate", "SiteEstimate", "StudyEstimate", "describe", "estimate_study"]


def estimate_study(study: Study, store: Store | None = None, machine: Machine | None = None) -> StudyEstimate:
    """What a study would take.

    Args:
        study: any study; its model and SAEs need not be there.
        store: its folder keeps the catalogue's table; None for the default one.
        machine: where it would run; None for one device, an H100 for models from a billion parameters up, else a CPU.

    Raises:
        SpecError: nothing is known of the model offline, or an SAE cannot be what the study says.
    """
    machine = machine or Machine()
    shape = model_shape(study.model, study.folder)
    peak, device = machine.peak(shape.parameters), machine.named(shape.parameters)
    n_contexts, length = texts_size(study)
    saes = estimate_saes(study, shape, store.root if store else None)
    work = Work(study, shape, saes, n_contexts, length, machine, device)
    parts = PartsWork(work)
    operations, disk = _with_parts(work.operations(), parts), work.moment_bytes()
    activations = sum(site.activation_bytes for site in work.sites())
    codes = sum(code_bytes(sae, n_contexts, length) for sae in saes) + parts.code_bytes()
    training = work.training_bytes() + parts.training_bytes()
    seconds = _seconds(work, operations, activations, codes + disk + training, peak)
    return StudyEstimate(
        study=study.name,
        model=study.model.name,
        dtype=study.model.dtype,
        parameters=shape.parameters,
        parameter_bytes=shape.parameters * work.dtype_bytes,
        parameters_run=shape.parameters_run(),
        n_layers=shape.n_layers + shape.n_decoder_layers,
        n_contexts=n_contexts,
        context_length=length,
        sites=work.sites(),
        saes=saes,
        activation_bytes=activations,
        code_bytes=codes,
        moment_bytes=disk,
        training_bytes=training,
        model_download_bytes=work.model_download_bytes(),
        sae_download_bytes=sum(sae.weight_bytes for sae in saes if sae.source in {"download", "missing"}),
        largest_sae_bytes=max(sae.weight_bytes for sae in saes),
        operations=operations,
        device=device,
        devices=machine.devices,
        device_memory_bytes=int(peak.memory_gib * GIB),
        model_memory_bytes=work.model_memory(),
        sae_memory_bytes=work.sae_memory(),
        training_memory_bytes=max(work.training_memory(), parts.training_memory()),
        seconds=sum(seconds.values()),
        seconds_by_stage=seconds,
        assumptions=_assumptions(work, parts, peak),
    )


def texts_size(study: Study) -> tuple[int, int]:
    """Contexts, and tokens in each."""
    texts = study.texts
    if not texts.path:
        return texts.n_contexts, texts.context_length
    path = study.resolve(texts.path) / "tokens.npy"
    try:
        n_contexts, length = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError) as error:
        raise SpecError(f"{path.parent} holds no readable token file ({error}): build the texts again.") from error
    return n_contexts, length


def _with_parts(operations: Operations, parts: PartsWork) -> Operations:
    model, training, measured = parts.operations()
    return replace(
        operations,
        encode=operations.encode + measured,
        training_model=operations.training_model + model,
        training=operations.training + training,
    )


def _seconds(work: Work, operations: Operations, activations: int, other: int, peak: Peak) -> dict[str, float]:
    rate = {name: getattr(peak, name) * 1e12 * EFFICIENCY for name in ("half", "single", "double")}
    of_model = rate["single" if work.dtype_bytes == 4 else "half"]
    # Each SAE reads its site's activations twice, and twice for the tests of norms; each site once for itself.
    read = sum(site.activation_bytes * (1 + 4 * site.n_saes) for site in work.sites())
    return {
        "model": operations.model / of_model,
        "encode": operations.encode / rate["single"],
        "moments": operations.moments / rate["double"],
        "split": operations.split / rate["single"],
        "norms": operations.norms / rate["double"],
        "disk": read / READ_BYTES_PER_SECOND
        + (activations + other) / WRITE_BYTES_PER_SECOND
        + SECONDS_PER_SAE * len(work.saes),
        "training": operations.training_model / of_model + operations.training / rate["single"],
    }


def _assumptions(work: Work, parts: PartsWork, peak: Peak) -> tuple[str, ...]:
    said = [
        f"A device does {EFFICIENCY:.0%} of its peak: {peak.half:g} (16-bit), {peak.single:g} (float32) and {peak.double:g} "
        "(float64) x 10^12 operations a second.",
        f"The disk reads {READ_BYTES_PER_SECOND / 1e9:g} GB and writes {WRITE_BYTES_PER_SECOND / 1e9:g} GB a second; an SAE "
        f"takes {SECONDS_PER_SAE:g} s besides. Downloads are not in the time.",
        "The model's files are taken to be in the study's dtype; where a publisher keeps float32, they are twice as large.",
    ]
    if work.device == OTHER and not work.machine.tflops:
        said.append(
            f"The rates of {work.machine.gpu or 'this GPU'} are not known here: those of an RTX 3090 are assumed, so the time is "
            "a guess; the memory is "
            + (
                f"its own, {peak.memory_gib:.3g} GiB."
                if work.machine.memory_gib
                else f"taken to be {peak.memory_gib:g} GiB."
            )
        )
    if work.machine.devices > 1:
        said.append("Devices share the parameters and work one after the other, so more of them save memory, not time.")
    unknown = [sae for sae in work.saes if not sae.l0_known]
    if unknown:
        said.append(
            f"{len(unknown)} of {len(work.saes)} SAEs do not say their L0: {ASSUMED_L0:g} active latents are assumed."
        )
    unknown = [sae for sae in work.saes if not sae.width_known]
    if unknown:
        said.append(f"{len(unknown)} SAEs do not say their width: {ASSUMED_FACTOR} times their site's is assumed.")
    missing = sum(sae.source == "missing" for sae in work.saes)
    if missing:
        said.append(f"{missing} SAEs are folders that are not there yet; they are counted as downloads.")
    train = work.study.train
    if train is not None:
        how = "as training goes" if train.source == "live" else "and keeps its activations"
        said.append(
            f"For training, the model runs once over {work.training_tokens_run():,} tokens {how}, with all SAEs side by side; "
            "where memory holds only some of them, once for each group."
        )
    return (*said, *parts.said())
