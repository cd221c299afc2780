"""What a study's finished results say of the paper's statements, gathered from the cache in one look at each stage."""

from __future__ import annotations

import math
from collections import defaultdict

import polars as pl

from dmcore.errors import StoreError
from dmcore.results import DOWNSTREAM, PARTS_STAGE, REDUCTION, Downstream, Parts, Reduction, reduction_spec
from dmcore.results.claim_tests import ClaimInputs
from dmcore.results.downstream import VERSION as DOWNSTREAM_VERSION
from dmcore.store.fingerprint import content_key
from dmcore.store.manifest import Manifest, read_manifest
from dmcore.store.published import SUMMARY, Published
from dmcore.store.store import Entry


def claim_inputs(published: Published) -> ClaimInputs:
    """Everything of a study that a statement is tested on. What is missing or damaged is left out."""
    records, keys = published.records, set(published.records["summary_key"])
    parts = _newest(published, PARTS_STAGE, keys)
    downstream = _newest(published, DOWNSTREAM, keys)
    scaling = {}
    for site in records["site"].unique(maintain_order=True):
        try:
            scaling[site] = published.scaling(site)
        except StoreError:
            continue
    return ClaimInputs(
        records=records,
        file=published.file,
        replicates=_replicates(published),
        scaling=scaling,
        parts={key: Parts.read(entry.path) for key, entry in parts.items()},
        downstream={key: Downstream.read(entry.path) for key, entry in downstream.items()},
        reduction=_reductions(published, keys),
    )


def _reductions(published: Published, keys: set[str]) -> dict[str, Reduction]:
    """What `Published.reduction` gives for each SAE; which earlier SAEs it read is only looked for where there are several."""
    found = {}
    for key, manifests in _manifests(published, REDUCTION, keys).items():
        usual = [m for m in manifests if m.key == content_key(reduction_spec(key, m.spec.get("earlier", [])))]
        entry = published.store.find(REDUCTION, usual[0].key) if len(usual) == 1 else None
        one = Reduction.read(entry.path) if entry is not None else published.reduction(key) if usual else None
        if one is not None:
            found[key] = one
    return found


def _replicates(published: Published) -> dict[str, pl.DataFrame]:
    """The replicates of each SAE, without the rest of its summary."""
    found = {}
    for key in published.records["summary_key"]:
        entry = published.store.find(SUMMARY, key)
        if entry is not None:
            try:
                found[key] = pl.read_parquet(entry.path / "replicates.parquet", memory_map=False)
            except (OSError, pl.exceptions.PolarsError) as error:
                raise StoreError(
                    f"The results of an SAE cannot be read: `python -m dmcore sweep {published.file}` makes them again."
                ) from error
    return found


def _manifests(published: Published, stage: str, keys: set[str]) -> dict[str, list[Manifest]]:
    """The manifests of a stage's finished entries, by the summary that they were made from."""
    found = defaultdict(list)
    for folder in sorted((published.store.root / stage).glob("*")):
        try:
            manifest = read_manifest(folder)
        except StoreError:
            continue
        if manifest.spec.get("summary") in keys:
            found[manifest.spec["summary"]].append(manifest)
    return dict(found)


def _newest(published: Published, stage: str, keys: set[str]) -> dict[str, Entry]:
    """The entry of each SAE that `Published.parts` or `Published.downstream` gives, at one look at the manifests."""

    def size(manifest: Manifest) -> tuple[float, int, str]:
        spec = manifest.spec
        contexts = int(spec.get("contexts", 0)) or math.inf
        return contexts, int(spec.get("dose_contexts", 0)), manifest.created

    found = {}
    for key, manifests in _manifests(published, stage, keys).items():
        usable = [m for m in manifests if stage != DOWNSTREAM or m.spec.get("version") == DOWNSTREAM_VERSION]
        for manifest in sorted(usable, key=size, reverse=True):
            entry = published.store.find(stage, manifest.key)
            if entry is not None:
                found[key] = entry
                break
    return found
