"""The SAEs of a study: found, checked and loaded, from a folder, a SAELens release, or Python.

1. What is known without reading weights (`read_config`) is compared with the study: hook, model, processing.
2. An SAE that fits in memory becomes a `Dictionary`; a wider one a `SlicedDictionary`, read from disk as it is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
import torch

from dmcore.errors import SpecError
from dmcore.math.device_memory import resident_bytes
from dmcore.memory import available_memory
from dmcore.sources.catalogue import check_release, find_saes, nearest_ids, read_catalogue, why_unusable
from dmcore.sources.custom_saes import CustomSae, custom_sae
from dmcore.sources.dictionary import Dictionary, check_numbers
from dmcore.sources.disk_tensor import safetensors_header, whole_numbers
from dmcore.sources.hub import asking, explain, token, without_waiting
from dmcore.sources.hub_cache import snapshots
from dmcore.sources.sae_layouts import (
    CHANGED,
    LAYOUTS,
    WEIGHTS,
    folder_fingerprint,
    layout_of,
    open_weights,
    processing_of,
    read_sae_config,
)
from dmcore.sources.sae_weights import SaeConfig, check_scaling
from dmcore.sources.sliced_dictionary import SLICEABLE, SlicedDictionary
from dmcore.specs import PROCESSING, SaeSpec, Study
from dmcore.store.fingerprint import content_key

MEMORY_VARIABLE = "DMCORE_SAE_MEMORY_GIB"
"""Environment variable: memory that an SAE may take before it is read in slices."""
SHARE_OF_MEMORY = 0.5
"""Share of the memory that is left which an SAE may take, where the variable is not set."""
UNSAFE_VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
"""Environment variable that lets torch.load run code."""
SITE_ALIASES = {
    "hook_out": "hook_resid_post",
    "hook_in": "hook_resid_pre",
    "attn.o.hook_in": "attn.hook_z",
    "attn.hook_out": "hook_attn_out",
    "mlp.hook_out": "hook_mlp_out",
}
"""Other names of sites, as transformer-lens's bridge writes them."""
MODEL_ALIASES = {"gpt2-small": "gpt2", "meta-llama-3.1-8b": "llama-3.1-8b", "mistral-7b": "mistral-7b-v0.1"}
OWN_READERS = {"gemma_2": "Gemma Scope", "gemma_3": "Gemma Scope 2", "llama_scope": "Llama Scope"}
"""Layouts of releases that are read here, by SAELens's name of their loader; the others are read by SAELens."""


def sae_fingerprint(
    study: Study, sae: SaeSpec, memory: Path | None = None, custom: Mapping[str, CustomSae] | None = None
) -> str:
    """Hash of an SAE's configuration and weights, or of its release and id."""
    if sae.custom:
        return custom_sae(custom or {}, sae.custom).fingerprint()
    if sae.release:
        layout = OWN_READERS.get(release_row(sae)["conversion_func"], "")
        return content_key({"release": sae.release, "id": sae.id, **CHANGED.get(layout, {})})
    folder = study.resolve(sae.path)
    _check_trained(study, sae, folder)
    return folder_fingerprint(folder, memory)


def read_config(study: Study, sae: SaeSpec) -> SaeConfig | None:
    """What the small files of an SAE say, or the catalogue; None for an object of Python, which is known once loaded.

    Raises:
        SpecError: the folder, a key, the release or the id is missing, or the SAE was trained at another hook or model.
    """
    if sae.custom:
        return None
    if sae.release:
        row = release_row(sae)
        problem = why_unusable(row)
        if problem and (sae.check or row["kind"] != "sae" or row["architecture"] == "temporal"):
            raise SpecError(f"The SAE {sae.name} cannot be studied. {problem} Take it out of the study.")
        listed = _listed_config(row)
        check_origin(study, sae, listed)
        return listed
    folder = study.resolve(sae.path)
    _check_trained(study, sae, folder)
    found = read_sae_config(folder)
    check_origin(study, sae, found)
    return found


def _listed_config(row: dict[str, Any]) -> SaeConfig:
    steps = tuple(step for step in str(row["processing"] or "").split(",") if step in PROCESSING) or None
    if row["conversion_func"] != "sae_lens":  # those say so in their own files, where the registry does not
        steps = steps or ()
    return SaeConfig(
        row["architecture"] or "", row["d_in"] or 0, row["d_sae"] or 0, row["hook"] or "", row["model"] or "", steps
    )


def _check_trained(study: Study, sae: SaeSpec, folder: Path) -> None:
    if study.train and sae in study.train.saes() and not folder.is_dir():
        raise SpecError(
            f"The SAE {sae.name} has not been trained yet: run `python -m dmcore train-saes` on the study first."
        )


def check_origin(study: Study, sae: SaeSpec, found: SaeConfig) -> None:
    """Compare where an SAE was trained with where the study reads it.

    Raises:
        SpecError: the hook, the model or its processing is another one, and the study does not say `check = false`.
    """
    if not sae.check:
        return
    if found.hook and _plain_hook(found.hook) != sae.hook:
        raise SpecError(
            f"The SAE {sae.name} was trained at {found.hook}, but the study reads it at {sae.hook}: mend its hook."
        )
    if found.model and study.model.id and _plain_model(found.model) != _plain_model(study.model.id):
        raise SpecError(
            f"The SAE {sae.name} was trained on {found.model}, but the study's model is {study.model.id}: "
            "name that model, or say check = false for the SAE."
        )
    if study.model.id and found.processing is not None and set(found.processing) != set(study.model.processing):
        asked = ", ".join(found.processing) or "the raw weights"
        raise SpecError(
            f"The SAE {sae.name} was trained on {asked}, but [model] processing is {list(study.model.processing)}: "
            f"write processing = {list(found.processing)}, or say check = false for the SAE."
        )


def _plain_hook(hook: str) -> str:
    block, _, site = hook.removesuffix(".").partition(".")
    layer, _, site = site.partition(".")
    return f"{block}.{layer}.{SITE_ALIASES.get(site, site)}"


def _plain_model(name: str) -> str:
    last = name.rsplit("/", 1)[-1].lower()
    return MODEL_ALIASES.get(last, last)


def memory_for_saes(device: torch.device) -> int:
    """Bytes that an SAE may take on a device before it is read in slices.

    Raises:
        SpecError: the environment variable is not a number.
    """
    asked = os.environ.get(MEMORY_VARIABLE, "")
    if not asked:
        return int(SHARE_OF_MEMORY * available_memory(device))
    try:
        return int(float(asked) * 2**30)
    except ValueError as error:
        raise SpecError(f"{MEMORY_VARIABLE} is {asked!r}: give a number of GiB.") from error


def load_dictionary(
    study: Study,
    sae: SaeSpec,
    d_model: int,
    device: torch.device | str,
    custom: Mapping[str, CustomSae] | None = None,
    memory: int | None = None,
) -> Dictionary | SlicedDictionary:
    """Load an SAE of a study.

    Args:
        study, sae: which.
        d_model: dimensions of the site's activations.
        device: where it works.
        custom: SAEs that are Python objects, by name.
        memory: bytes that it may take before it is read in slices; None for what `memory_for_saes` says.

    Raises:
        SpecError: it cannot be loaded, its d_in is not the site's, or it is a transcoder (whose output is another site).
    """
    device, precision = torch.device(device), study.settings.precision
    if sae.custom:
        given = custom_sae(custom or {}, sae.custom)
        found: Dictionary | SlicedDictionary = Dictionary(given.sae, given.d_in or d_model, precision=precision)
    else:
        try:
            folder = release_folder(sae) if sae.release else study.resolve(sae.path)
            unsliced = folder is None
            found = _from_release(study, sae, device) if unsliced else _from_folder(folder, device, memory, precision)
        except SpecError:
            raise
        except Exception as error:  # SAELens raises many kinds; each means that this SAE cannot be read
            if sae.release:
                raise SpecError(explain(error, "SAE", sae.name)) from error
            said = f"Cannot load the SAE {sae.name} ({_reason(error)}): check its folder or id, or copy it again."
            raise SpecError(said) from error
    if found.d_in != d_model:
        raise SpecError(
            f"The SAE {sae.name} reads {found.d_in} dimensions, but {sae.hook} has {d_model}: "
            "give an SAE of this site and model."
        )
    return found


def _reason(error: Exception) -> str:
    """The first thing that an error says; not the headline alone, nor a bare name."""
    if isinstance(error, KeyError):
        return f"nothing is known of {error}"
    said = str(error).strip() or type(error).__name__
    headline, _, rest = said.partition(":\n")
    return " ".join((rest or headline).strip().splitlines()[0].split())[:200].rstrip(". ")


def _from_folder(
    folder: Path, device: torch.device, memory: int | None, precision: str
) -> Dictionary | SlicedDictionary:
    from sae_lens import SAE

    config = read_sae_config(folder)
    if "transcoder" in config.architecture:
        raise SpecError(f"{folder.name} is a transcoder: it predicts another site, so it has no error to split here.")
    allowed = memory_for_saes(device) if memory is None else memory
    if config.architecture in SLICEABLE and resident_bytes(config.d_in, config.d_sae, device, precision) > allowed:
        return SlicedDictionary(open_weights(folder), device, precision=precision)
    if layout_of(folder) == "SAELens":
        # In float32 whatever its configuration says, as in slices and from a release.
        loaded = SAE.load_from_disk(folder, device="cpu", dtype="float32", converter=_weights_alone)
        return _resident(loaded, device, precision)
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig

    weights = open_weights(folder)
    loaded = JumpReLUSAE(JumpReLUSAEConfig.from_dict({**weights.config, "device": "meta"}))
    loaded.load_state_dict(weights.state_dict(), assign=True)
    loaded.cfg.device = str(device)
    return _resident(loaded, device, precision)


def _weights_alone(path: str | Path, device: str = "cpu", cfg_overrides: dict[str, Any] | None = None) -> Any:
    """SAELens's reader of a folder, without counters and masks that its file holds besides.

    Raises:
        SpecError: its latents are scaled after they were encoded.
    """
    from sae_lens.loading.pretrained_sae_loaders import sae_lens_disk_loader

    file = Path(path) / WEIGHTS
    try:
        weights = safetensors_header(file, others=True)
    except SpecError:
        weights = {}  # the reader says itself that it cannot be read
    check_scaling(file, weights)
    config, tensors = sae_lens_disk_loader(path, device, cfg_overrides)
    passed = whole_numbers(file)  # by the file: what the reader gives is cast already
    return config, {name: tensor for name, tensor in tensors.items() if name not in passed}


def _resident(loaded: Any, device: torch.device, precision: str) -> Dictionary:
    """Weights that were read on the CPU, on the device in the form in which they are used there."""
    if getattr(loaded, "hook_z_reshaping_mode", False):
        loaded.turn_off_forward_pass_hook_z_reshaping()  # heads are flattened when they are captured
    check_numbers(loaded.state_dict())
    return Dictionary(loaded.eval(), precision=precision, device=device, owned=True)


def _from_release(study: Study, sae: SaeSpec, device: torch.device) -> Dictionary:
    from sae_lens import SAE

    if os.environ.get(UNSAFE_VARIABLE):
        # Some releases are files of torch.save; SAELens leaves it to torch that nothing but tensors is read from them.
        raise SpecError(f"{UNSAFE_VARIABLE} is set, so that a downloaded file could run code: unset it.")
    loaded: Any = without_waiting(lambda: SAE.from_pretrained(sae.release, sae.id, device="cpu"))
    if "transcoder" in type(loaded).__name__.lower():
        raise SpecError(f"{sae.name} is a transcoder: it predicts another site, so it has no error to split here.")
    asked = processing_of({name: loaded.cfg.metadata.get(name) for name in ("model_from_pretrained_kwargs",)})
    check_origin(study, sae, SaeConfig("", 0, 0, processing=asked))
    return _resident(loaded, device, study.settings.precision)


def release_folder(sae: SaeSpec) -> Path | None:
    """The folder of an SAE of `OWN_READERS`, downloaded if need be, so that it is read as any local one; None for others.

    Files that are on disk are not asked for again: what a release has published under an id does not change.

    Raises:
        SpecError: there is no such release or id, or it is neither on disk nor to be had.
    """
    row = release_row(sae)
    if row["conversion_func"] not in OWN_READERS or "embedding" in row["path"]:
        return None
    names = [f"{row['path']}/{name}" for name in LAYOUTS[OWN_READERS[row["conversion_func"]]]]
    for snapshot in snapshots(row["repo_id"]):
        if all((snapshot / name).is_file() for name in names):
            return snapshot / row["path"]
    from huggingface_hub import hf_hub_download

    revision = "main"
    try:
        with asking():
            for name in names:  # all of one commit
                found = Path(hf_hub_download(row["repo_id"], filename=name, revision=revision, token=token()))
                snapshot = found.parents[name.count("/")]
                revision = snapshot.name
    except Exception as error:
        raise SpecError(explain(error, "SAE", sae.name)) from error
    return snapshot / row["path"]


@lru_cache(maxsize=1)
def _catalogue() -> pl.DataFrame:
    return read_catalogue()


def release_row(sae: SaeSpec) -> dict[str, Any]:
    """What the catalogue says of an SAE of a release; no network.

    Raises:
        SpecError: there is no such release or id; names the nearest.
    """
    frame = _catalogue()
    check_release(frame, sae.release)
    row = find_saes(frame, [(sae.release, sae.id)])
    if not len(row):
        near = " or ".join(nearest_ids(frame, sae.release, sae.id))
        raise SpecError(f"The release {sae.release} has no SAE {sae.id!r}: did you mean {near}?")
    return row.row(0, named=True)
