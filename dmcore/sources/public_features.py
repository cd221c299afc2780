"""Where the features of a released SAE are shown to everybody: its name on Neuronpedia, if it has one."""

from __future__ import annotations

import json
from typing import Any

from dmcore.results.features import PUBLIC_NAME
from dmcore.sources.sae_layouts import CONFIG
from dmcore.sources.saes import release_row
from dmcore.specs import SaeSpec, Study


def public_name(study: Study, sae: SaeSpec) -> str:
    """`MODEL/SOURCE` on Neuronpedia; empty where there is none. No network: what the catalogue, or a SAELens folder, says.

    What does not look like such a name is left out: it becomes part of a link.
    """
    if sae.custom:
        return ""
    said = release_row(sae)["neuronpedia_id"] if sae.release else _of_folder(study, sae)
    return said if isinstance(said, str) and PUBLIC_NAME.fullmatch(said) else ""


def _of_folder(study: Study, sae: SaeSpec) -> Any:
    try:
        config = json.loads((study.resolve(sae.path) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    metadata = config.get("metadata")
    inner = metadata.get("neuronpedia_id") if isinstance(metadata, dict) else None
    return inner or config.get("neuronpedia_id")
