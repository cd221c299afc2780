"""What pages read: the index of each study that has been computed, and the summaries that it names. No torch here.

The index of a study is an entry whose key is the hash of the study itself, so that a page finds results without hashing
models or SAEs; a sweep writes it anew whenever a summary has been added.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dmcore.errors import StoreError
from dmcore.results import (
    CONTROLS,
    DETECTION,
    DOWNSTREAM,
    FEATURES,
    LEARNED,
    OF_ONE_SAE,
    PARTS_STAGE,
    RECORD,
    REDUCTION,
    SCALING,
    STRUCTURE,
    Controls,
    Detection,
    Downstream,
    Features,
    Learned,
    Parts,
    Reduction,
    Scaling,
    Structure,
    Summary,
    dictionaries_of,
    features_spec,
    learned_spec,
    read_features,
    read_learned,
    read_summary,
    reduction_spec,
    scaling_spec,
    structure_spec,
    wider_rows,
    widest_of,
)
from dmcore.results.claim_groups import group_claims
from dmcore.results.claim_tests import study_claims
from dmcore.results.claims import Claims
from dmcore.results.controls import VERSION as CONTROLS_VERSION
from dmcore.results.downstream import VERSION as DOWNSTREAM_VERSION
from dmcore.results.earlier import earlier_saes
from dmcore.results.shrinkage import SHRINKAGE, Shrinkage, shrinkage_spec
from dmcore.results.transfer import TRANSFER, Transfer, transfer_members, transfer_spec
from dmcore.specs import NAME, Study
from dmcore.store.fingerprint import content_key
from dmcore.store.manifest import read_manifest
from dmcore.store.own_metrics import read_downstream
from dmcore.store.store import Entry, Store

INDEX = "index"
SUMMARY = "summary"


@dataclass(frozen=True)
class Published:
    """The results of one study."""

    study_id: str
    title: str
    model: str
    """The model in a word or two."""
    records: pl.DataFrame
    """One row per SAE, with the columns of `dmcore.results.RECORD`."""
    computed: str
    """UTC time of the newest result, ISO 8601."""
    n_missing: int
    """SAEs that the study names and that have no result yet."""
    store: Store

    def summary(self, summary_key: str) -> Summary:
        """All tables of one SAE.

        Raises:
            StoreError: the entry is missing or was damaged.
        """
        entry = self.store.find(SUMMARY, summary_key)
        if entry is None:
            raise StoreError(
                f"The results of this SAE are missing or damaged: `python -m dmcore sweep {self.study_id}` makes them again."
            )
        return read_summary(entry.path)

    def scaling(self, site: str) -> Scaling:
        """The comparison of the SAEs at one site.

        Raises:
            StoreError: it has not been made for the SAEs that have results now, or was damaged.
        """
        entry = self.store.find(SCALING, content_key(scaling_spec(site, self.records)))
        if entry is None:
            raise StoreError(
                f"The SAEs at {site} have not been compared yet: run `python -m dmcore scaling {self.file}`, or start the "
                "study on Runs, which does it at the end."
            )
        return Scaling.read(entry.path)

    def parts(self, summary_key: str) -> Parts | None:
        """The SAEs that were trained on the parts of one SAE's error, as last measured; None if there are none."""
        entry = find_parts(self.store, summary_key)
        return None if entry is None else Parts.read(entry.path)

    def bases(self) -> list[str]:
        """Keys of the summaries of this study's SAEs with measured SAEs on the parts of their error, in the study's order."""
        measured = {spec.get("summary") for _, spec in _specs(self.store, PARTS_STAGE)}
        return [key for key in self.records["summary_key"] if key in measured]

    def features(self, summary_key: str, part: str | None = None) -> Features | None:
        """The features of an SAE, or of one that was trained on a part of its error; None if they have not been made.

        Args:
            summary_key: of the SAE, or of the base.
            part: key of the `part` entry (`Parts.about`: entries), for an SAE on a part.
        """
        spec = features_spec(summary_key, widest_of(self.records, summary_key), part)
        entry = self.store.find(FEATURES, content_key(spec))
        return None if entry is None else read_features(entry.path)

    def learned(self, summary_key: str, parts: Parts) -> Learned | None:
        """Which latents of SAEs on the parts of an SAE's error are in a dictionary already; None if that was not computed."""
        spec = learned_spec(parts.folder.name, dictionaries_of(self.records, summary_key))
        entry = self.store.find(LEARNED, content_key(spec))
        return None if entry is None else read_learned(entry.path)

    def structure(self, summary_key: str) -> Structure | None:
        """The structure of an SAE's error; None if it has not been made."""
        entry = self.store.find(STRUCTURE, content_key(structure_spec(summary_key)))
        return None if entry is None else Structure.read(entry.path)

    def reduction(self, summary_key: str) -> Reduction | None:
        """What reduces an SAE's error, by the usual methods; None if it has not been made."""
        earlier, _ = earlier_saes(self.records, summary_key)
        entry = self.store.find(REDUCTION, content_key(reduction_spec(summary_key, list(earlier.items()))))
        return None if entry is None else Reduction.read(entry.path)

    def shrinkage(self, summary_key: str) -> Shrinkage | None:
        """How much of an SAE's linear error is undone shrinkage; None if it has not been made."""
        entry = self.store.find(SHRINKAGE, content_key(shrinkage_spec(summary_key)))
        return None if entry is None else Shrinkage.read(entry.path)

    def transfer(self, summary_key: str, by: str) -> Transfer | None:
        """Maps fitted in one place and tested in another, around one SAE; None if that has not been made."""
        records = open_published(self.study_id, self.store).records  # labels as they were: a page tells them apart
        spec = transfer_spec(by, transfer_members(records, summary_key, by))
        entry = self.store.find(TRANSFER, content_key(spec))
        return None if entry is None else Transfer.read(entry.path)

    def wider(self, summary_key: str) -> list[dict[str, Any]]:
        """Rows of `Reduction`'s table of methods for the wider SAEs at the same L0."""
        return wider_rows(self.records, summary_key, lambda key: self.summary(key).replicates)

    def downstream(self, summary_key: str) -> Downstream | None:
        """What the parts of an SAE's error cost the model's own loss, on the most contexts; None if it has not been made."""
        entry = find_downstream(self.store, summary_key)
        return None if entry is None else read_downstream(entry, self.store.find(SUMMARY, summary_key))

    def controls(self, summary_key: str) -> Controls | None:
        """The controls of an SAE's numbers, on the most contexts; None if they have not been made."""
        entry = find_controls(self.store, summary_key)
        return None if entry is None else Controls.read(entry.path)

    def detections(self, summary_key: str) -> list[Detection]:
        """Detection scores of an SAE and of those on the parts of its error, by each scorer: those of the most latents."""
        return [Detection.read(entry.path) for entry in find_detections(self.store, summary_key)]

    def claims(self) -> Claims:
        """The paper's statements held against this study, from what has been computed."""
        from dmcore.store.claim_inputs import claim_inputs

        given = claim_inputs(self)
        return Claims(study_claims(given), group_claims(given))

    @property
    def file(self) -> str:
        """What a command is given for this study."""
        return "demo" if self.study_id == "demo" else "STUDY.toml"


def publish(store: Store, study: Study, records: Sequence[dict[str, Any]]) -> Entry:
    """Write the index of a study: its finished records, in the order of the study."""

    table = pl.DataFrame(list(records), schema=RECORD)
    there = store.find(INDEX, content_key(study.to_dict()))
    if there is not None and _holds(there, table):
        return there

    def make(folder: Path) -> None:
        table.write_parquet(folder / "records.parquet", compression="zstd")
        about = {"name": study.name, "title": study.title, "model": study.model.described, "n_saes": len(study.saes)}
        (folder / "study.json").write_text(json.dumps(about, indent=1), encoding="utf-8")

    return store.replace(INDEX, study.to_dict(), make)


def _specs(store: Store, stage: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and spec of every finished entry of a stage, by key."""
    for folder in sorted((store.root / stage).glob("*")):
        try:
            yield folder.name, read_manifest(folder).spec
        except StoreError:
            continue


def find_parts(store: Store, summary_key: str) -> Entry | None:
    """The newest entry of SAEs on the parts of the error of the SAE with this summary; None if there is none."""
    newest: Entry | None = None
    for key, spec in _specs(store, PARTS_STAGE):
        entry = store.find(PARTS_STAGE, key) if spec.get("summary") == summary_key else None
        if entry is not None and (newest is None or newest.manifest.created < entry.manifest.created):
            newest = entry
    return newest


def find_downstream(store: Store, summary_key: str) -> Entry | None:
    """The entry of the SAE with this summary that is of the most contexts, then the most with doses; of several the newest."""

    def size(entry: Entry) -> tuple[float, int, str]:
        spec = entry.manifest.spec
        return int(spec["contexts"]) or math.inf, int(spec["dose_contexts"]), entry.manifest.created

    found = [store.find(DOWNSTREAM, k) for k, spec in _specs(store, DOWNSTREAM) if spec.get("summary") == summary_key]
    return max((e for e in found if e and e.manifest.spec["version"] == DOWNSTREAM_VERSION), key=size, default=None)


def find_controls(store: Store, summary_key: str) -> Entry | None:
    """The entry of the SAE with this summary of the most contexts, then training tokens and draws; of several the newest."""

    def size(entry: Entry) -> tuple[float, int, int, str]:
        spec = entry.manifest.spec
        contexts = int(spec["contexts"]) or math.inf
        return contexts, int(spec["training_tokens"]), int(spec["draws"]), entry.manifest.created

    keys = [key for key, spec in _specs(store, CONTROLS) if spec.get("summary") == summary_key]
    found = [entry for key in keys if (entry := store.find(CONTROLS, key)) is not None]
    return max((e for e in found if e.manifest.spec["version"] == CONTROLS_VERSION), key=size, default=None)


def find_detections(store: Store, summary_key: str) -> list[Entry]:
    """The entry with the most latents of each scorer for the SAE with this summary, and for each SAE on a part of its error.

    Of several the newest.
    """
    best: dict[str, Entry] = {}
    for key, spec in _specs(store, DETECTION):
        entry = store.find(DETECTION, key) if spec.get("summary") == summary_key else None
        which = content_key([spec.get("part"), spec.get("scorer")])
        if entry is not None and (which not in best or _size(best[which]) < _size(entry)):
            best[which] = entry
    return list(best.values())


def _size(entry: Entry) -> tuple[int, str]:
    return int(entry.manifest.spec["n_latents"]), entry.manifest.created


def _holds(index: Entry, table: pl.DataFrame) -> bool:
    try:
        return pl.read_parquet(index.path / "records.parquet").equals(table)
    except (OSError, pl.exceptions.PolarsError):  # another process is replacing it at this moment
        return False


def _indexes(store: Store) -> dict[str, Entry]:
    """The newest index of each study, by the study's name."""
    newest: dict[str, Entry] = {}
    for folder in sorted((store.root / INDEX).glob("*")):
        entry = store.find(INDEX, folder.name) if folder.is_dir() else None
        if entry is None:
            continue
        name = str(entry.manifest.spec.get("name", ""))
        if NAME.fullmatch(name) and (name not in newest or newest[name].manifest.created < entry.manifest.created):
            newest[name] = entry
    return newest


def index_of(study_id: str, store: Store) -> Entry | None:
    """The newest index of a study; its manifest says of which study, and by which versions. None if there is none."""
    return _indexes(store).get(study_id)


def list_studies(store: Store | None = None) -> dict[str, str]:
    """Titles of the studies that have results, by name; the demo first."""
    found = {name: str(entry.manifest.spec.get("title") or name) for name, entry in _indexes(store or Store()).items()}
    return dict(sorted(found.items(), key=lambda item: (item[0] != "demo", item[0])))


def open_published(study_id: str, store: Store | None = None) -> Published:
    """The results of a study, by its name.

    Raises:
        StoreError: the name is no study's, or nothing has been computed.
    """
    store = store or Store()
    if not NAME.fullmatch(study_id):
        raise StoreError("That is not the name of a study: choose one in the sidebar.")
    entry = _indexes(store).get(study_id)
    if entry is None:
        command = "demo" if study_id == "demo" else "STUDY.toml"
        raise StoreError(
            f"Nothing has been computed for the study {study_id} yet: run `python -m dmcore sweep {command}`."
        )
    try:
        records = pl.read_parquet(entry.path / "records.parquet")
        about = json.loads((entry.path / "study.json").read_text(encoding="utf-8"))
        records = records.with_columns(pl.col(column).cast(dtype) for column, dtype in RECORD.items())
        if any(records[name].null_count() for name in OF_ONE_SAE):
            raise ValueError("a record does not say of which SAE it is")
        newest = str(records["computed"].max()) if len(records) else entry.manifest.created
        n_missing = int(about["n_saes"]) - len(records)
        return Published(study_id, str(about["title"]), str(about["model"]), records, newest, n_missing, store)
    except OSError as error:  # a sweep is replacing it at this moment
        raise StoreError(f"The index of the study {study_id} is being written: look again in a moment.") from error
    except (ValueError, KeyError, TypeError, RecursionError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"The index of the study {study_id} cannot be read: sweep the study again.") from error
