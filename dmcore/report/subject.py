"""What a report is about: the finished results of a study, and the SAE that its charts of single SAEs show."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from shlex import quote
from typing import Any

import polars as pl

from dmcore.errors import StoreError
from dmcore.report.noted import Noted
from dmcore.results import DOWNSTREAM, REDUCTION, Downstream, Reduction, Scaling, Summary, over_widths
from dmcore.store.looked import summaries_with
from dmcore.store.published import index_of, open_published
from dmcore.store.store import Store
from dmcore.words.streams import told_apart


@dataclass(frozen=True)
class Subject:
    """A study's results around one SAE; each is read once. Pages' figures and sentences are told of it (`Chosen`)."""

    published: Noted
    record: dict[str, Any]
    study_text: str
    """The study file."""
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def study_id(self) -> str:
        """Name of the study."""
        return self.published.study_id

    @property
    def key(self) -> str:
        """Key of the chosen SAE's summary."""
        return self.record["summary_key"]

    @property
    def sae(self) -> str:
        """The chosen SAE's name, as a command is given it."""
        return quote(self.record["sae"])

    def _once(self, *what: Any) -> Any:
        if what not in self._kept:
            self._kept[what] = getattr(self.published, what[0])(*what[1:])
        return self._kept[what]

    @property
    def summary(self) -> Summary:
        """The chosen SAE's tables."""
        return self._once("summary", self.key)

    def summary_of(self, record: dict[str, Any]) -> Summary:
        """The tables of another SAE of the study."""
        return self._once("summary", record["summary_key"])

    def scaling_at(self, site: str) -> Scaling:
        """The comparison of the SAEs at a site; raises `StoreError` with the remedy where there is none."""
        return self._once("scaling", site)

    def reduction(self, summary_key: str) -> Reduction | None:
        """What reduces an SAE's error."""
        return self._once("reduction", summary_key)

    def downstream(self, summary_key: str) -> Downstream | None:
        """What an SAE's error costs the model."""
        return self._once("downstream", summary_key)

    def looked(self, stage: str) -> list[str]:
        """Keys of the summaries of the SAEs that have what `reduction` or `downstream` reads, in the study's order."""
        read = {REDUCTION: self.reduction, DOWNSTREAM: self.downstream}[stage]
        made = summaries_with(self.published.store, stage)
        return [key for key in self.published.records["summary_key"] if key in made and read(key) is not None]


def open_subject(study_id: str, sae: str | None = None, study_text: str = "", store: Store | None = None) -> Subject:
    """The results of a study around an SAE.

    Args:
        study_id: name of the study.
        sae: name of one of its SAEs, or the end of it; None for the base of its [parts], or one in the middle of its widths.
        study_text: its file, as it is; empty for what the results say it was.
        store: where results are; None for the usual one.

    Raises:
        StoreError: there are no results, or none of that SAE.
    """
    store = store or Store()
    found = open_published(study_id, store)
    if not len(found.records):
        raise StoreError(f"The study {study_id} has no result yet: run `python -m dmcore sweep {found.file}`.")
    given = {one.name: getattr(found, one.name) for one in fields(found)}
    found = Noted(**given | {"records": told_apart(found.records)})
    index = index_of(study_id, store)
    spec = index.manifest.spec if index is not None else {}
    record = middle_sae(found.records, spec) if sae is None else sae_called(found.records, sae)
    return Subject(found, record, study_text or written(spec))


def sae_called(records: pl.DataFrame, name: str) -> dict[str, Any]:
    """The record of an SAE by its name or the end of it."""
    rows = records.filter(pl.col("sae") == name)
    rows = rows if len(rows) else records.filter(pl.col("sae").str.ends_with(f"/{name}"))
    if len(rows) != 1:
        many = f"{len(rows)} SAEs with results are" if len(rows) else "No SAE with results is"
        raise StoreError(f"{many} called {name}: give the whole name, e.g. {records['sae'][0]}.")
    return rows.row(0, named=True)


def middle_sae(records: pl.DataFrame, spec: dict[str, Any]) -> dict[str, Any]:
    """The base of the study's [parts]; else, at the site with most SAEs, that in the middle of the widths and of the L0s."""
    base = records.filter(pl.col("sae") == (spec.get("parts") or {}).get("base", ""))
    if len(base):
        return base.row(0, named=True)
    sites = records.group_by("site", maintain_order=True).len().sort("len", descending=True, maintain_order=True)
    here = records.filter(pl.col("site") == sites["site"][0]).sort("l0", "sae")
    widths = over_widths(records, here.row(len(here) // 2, named=True))
    return widths.row(len(widths) // 2, named=True)


def written(spec: dict[str, Any]) -> str:
    """The study of some results as the text of a file, where the file itself is not at hand."""
    from dmcore.sources.study_file import toml_value

    def pairs(table: dict[str, Any]) -> list[str]:
        return [f"{k} = {toml_value(v)}" for k, v in table.items() if v not in (None, "") and not isinstance(v, dict)]

    lines = ["# As the results were made from.", "schema = 1"]
    lines += pairs({k: spec[k] for k in ("name", "title", "seed") if k in spec})
    for name in ("model", "texts", "settings", "train", "parts"):
        table = spec.get(name) or {}
        lines += ["", f"[{name}]", *pairs(table)] if table else []
        lines += ["", f"[{name}.texts]", *pairs(table["texts"])] if isinstance(table.get("texts"), dict) else []
    for sae in spec.get("saes", []):
        lines += ["", "[[saes]]", *pairs(sae)]
    return "\n".join(lines) + "\n"
