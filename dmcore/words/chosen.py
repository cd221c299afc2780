"""What sentences and figures are told of: an SAE of a study, and how to read the results of the others."""

from __future__ import annotations

from typing import Any, Protocol

from dmcore.results import Downstream, Reduction, Scaling, Summary


class Chosen(Protocol):
    """An SAE that has been chosen; a page's selection is one, and so is what a report is about."""

    @property
    def study_id(self) -> str:
        """Name of the study."""
        ...

    @property
    def published(self) -> Any:
        """The study's `Published` results, its records told apart."""
        ...

    @property
    def record(self) -> dict[str, Any]:
        """The chosen SAE's row of `RECORD`."""
        ...

    @property
    def summary(self) -> Summary:
        """The chosen SAE's tables."""
        ...

    def summary_of(self, record: dict[str, Any]) -> Summary:
        """The tables of another SAE of the study."""
        ...

    def scaling_at(self, site: str) -> Scaling:
        """The comparison of the SAEs at a site; raises `StoreError` with the remedy where there is none."""
        ...

    def reduction(self, summary_key: str) -> Reduction | None:
        """What reduces an SAE's error."""
        ...

    def downstream(self, summary_key: str) -> Downstream | None:
        """What an SAE's error costs the model."""
        ...

    def looked(self, stage: str) -> list[str]:
        """Keys of the summaries of the SAEs that have what `reduction` or `downstream` reads, in the study's order."""
        ...
