"""The shapes of a study's SAEs before they are loaded: from the catalogue, from an SAE's folder, or from the training grid."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcore.errors import SpecError
from dmcore.sources.catalogue import check_release, nearest_ids, read_catalogue
from dmcore.sources.catalogue_facts import WIDTHS
from dmcore.sources.model_shape import ModelShape
from dmcore.specs import SaeSpec, Study, parse_hook

ASSUMED_L0 = 100.0
"""Active latents a token where nobody has said."""
ASSUMED_FACTOR = 16
"""Latents per dimension where nobody has said."""
FOLDER_FILES = ("cfg.json", "hyperparams.json")
"""Configurations of an SAE's folder that give `d_sae`: SAELens's, Llama Scope's."""


@dataclass(frozen=True)
class SaeEstimate:
    """What is known of an SAE of a study, and what it takes."""

    name: str
    """Its id in tables."""
    hook: str
    """The site that it reads."""
    d_in: int
    """Width of its site."""
    d_sae: int
    """Latents."""
    l0: float
    """Active latents a token, expected."""
    l0_known: bool
    """Whether somebody has said so; else `ASSUMED_L0`."""
    width_known: bool
    """Whether `d_sae` is known; else `ASSUMED_FACTOR` times `d_in`."""
    source: str
    """Where it comes from: `download`, `disk`, `training`, `missing` (a folder that is not there yet) or `custom`."""

    @property
    def weight_bytes(self) -> int:
        """Its tensors in float32: two matrices, and the biases and thresholds."""
        return 4 * (2 * self.d_in * self.d_sae + 2 * self.d_sae + self.d_in)


def estimate_saes(study: Study, shape: ModelShape, cache_root: Path | None = None) -> tuple[SaeEstimate, ...]:
    """The SAEs of a study, in its order.

    Raises:
        SpecError: the registry has no such SAE, or one reads another width than its site's.
    """
    listed = _listed(study, cache_root)
    made = {sae.path: sae for sae in (study.train.saes() if study.train else ())}
    found = []
    for sae in study.saes:
        d_in = shape.site_width(parse_hook(sae.hook)[1])
        if sae.release:
            found.append(_of_release(sae, d_in, listed[sae.release, sae.id]))
        elif sae.custom:
            found.append(_filled(sae, d_in, None, None, "custom"))
        else:
            found.append(_of_folder(study, sae, d_in, trained=sae.path in made))
    return tuple(found)


def _listed(study: Study, cache_root: Path | None) -> dict[tuple[str, str], dict[str, Any]]:
    releases = {sae.release for sae in study.saes if sae.release}
    if not releases:
        return {}
    frame = read_catalogue(cache_root)
    for release in sorted(releases):
        check_release(frame, release)
    rows = {
        (r["release"], r["id"]): r for r in frame.filter(frame["release"].is_in(list(releases))).iter_rows(named=True)
    }
    for sae in study.saes:
        if sae.release and (sae.release, sae.id) not in rows:
            near = nearest_ids(frame, sae.release, sae.id)
            raise SpecError(f"The release {sae.release} has no SAE {sae.id!r}: did you mean {' or '.join(near)}?")
    return rows


def _of_release(sae: SaeSpec, d_in: int, row: dict[str, Any]) -> SaeEstimate:
    if row["hook"] and row["hook"] != sae.hook:
        raise SpecError(
            f"The SAE {sae.name} was trained at {row['hook']}, but the study reads it at {sae.hook}: mend its hook."
        )
    if row["d_in"] and row["d_in"] != d_in:
        raise SpecError(
            f"The SAE {sae.name} reads {row['d_in']} dimensions, but {sae.hook} has {d_in}: give an SAE of this site and model."
        )
    return _filled(sae, d_in, row["d_sae"], row["l0"], "disk" if row["on_disk"] else "download")


def _of_folder(study: Study, sae: SaeSpec, d_in: int, *, trained: bool) -> SaeEstimate:
    folder = study.resolve(sae.path)
    config: dict[str, Any] = {}
    for name in FOLDER_FILES:
        try:
            config = json.loads((folder / name).read_text(encoding="utf-8"))
            break
        except (OSError, ValueError):
            continue
    # `topk_4096_16` is how train-saes names a folder; `width_16k/average_l0_57` is Gemma Scope's, `layer_9_width_16k_l0_big`
    # Gemma Scope 2's.
    grid = re.search(r"[a-z]+_(\d+)_(\d+)$", sae.path)
    scope = re.search(r"width_(\d+[km])/average_l0_(\d+)$", sae.path)
    named = scope or re.search(r"width_(\d+[km])_l0_\w+$", sae.path)
    width = config.get("d_sae") or (int(grid[1]) if grid else None) or (WIDTHS.get(named[1]) if named else None)
    l0 = config.get("k") or (float(grid[2]) if grid else None) or (float(scope[2]) if scope else None)
    if folder.is_dir():
        return _filled(sae, d_in, width, l0, "disk")
    return _filled(sae, d_in, width, l0, "training" if trained else "missing")


def _filled(sae: SaeSpec, d_in: int, d_sae: int | None, l0: float | None, source: str) -> SaeEstimate:
    width = int(d_sae or ASSUMED_FACTOR * d_in)
    return SaeEstimate(
        name=sae.name,
        hook=sae.hook,
        d_in=d_in,
        d_sae=width,
        l0=min(float(l0 or ASSUMED_L0), width),
        l0_known=bool(l0),
        width_known=bool(d_sae),
        source=source,
    )
