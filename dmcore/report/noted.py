"""Results of a study, with a note of every entry that was read: a report says what it was made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dmcore.results import (
    LEARNED,
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
)
from dmcore.results.claim_groups import group_claims
from dmcore.results.claim_tests import study_claims
from dmcore.results.claims import Claims
from dmcore.results.shrinkage import Shrinkage
from dmcore.results.transfer import Transfer
from dmcore.store.claim_inputs import claim_inputs
from dmcore.store.published import SUMMARY, Published

R = TypeVar("R")


@dataclass(frozen=True)
class Noted(Published):
    """The results of a study; `entries` are the folders of what was read, in that order."""

    entries: dict[Path, None] = field(default_factory=dict, repr=False, compare=False)

    def noted(self, found: R) -> R:
        """The result that was found, its entry noted."""
        folder = getattr(found, "folder", None)
        if isinstance(folder, Path):
            self.entries[folder] = None
        return found

    def summary(self, summary_key: str) -> Summary:
        """As of `Published`."""
        self.entries[self.store.folder(SUMMARY, summary_key)] = None
        return super().summary(summary_key)

    def scaling(self, site: str) -> Scaling:
        """As of `Published`."""
        return self.noted(super().scaling(site))

    def parts(self, summary_key: str) -> Parts | None:
        """As of `Published`."""
        return self.noted(super().parts(summary_key))

    def features(self, summary_key: str, part: str | None = None) -> Features | None:
        """As of `Published`."""
        return self.noted(super().features(summary_key, part))

    def learned(self, summary_key: str, parts: Parts) -> Learned | None:
        """As of `Published`."""
        found = super().learned(summary_key, parts)
        if found is not None:
            self.entries[self.store.folder(LEARNED, found.key)] = None
        return found

    def structure(self, summary_key: str) -> Structure | None:
        """As of `Published`."""
        return self.noted(super().structure(summary_key))

    def reduction(self, summary_key: str) -> Reduction | None:
        """As of `Published`."""
        return self.noted(super().reduction(summary_key))

    def shrinkage(self, summary_key: str) -> Shrinkage | None:
        """As of `Published`."""
        return self.noted(super().shrinkage(summary_key))

    def transfer(self, summary_key: str, by: str) -> Transfer | None:
        """As of `Published`."""
        return self.noted(super().transfer(summary_key, by))

    def downstream(self, summary_key: str) -> Downstream | None:
        """As of `Published`."""
        return self.noted(super().downstream(summary_key))

    def controls(self, summary_key: str) -> Controls | None:
        """As of `Published`."""
        return self.noted(super().controls(summary_key))

    def detections(self, summary_key: str) -> list[Detection]:
        """As of `Published`."""
        return [self.noted(one) for one in super().detections(summary_key)]

    def claims(self) -> Claims:
        """As of `Published`, with everything that statements are tested on."""
        given = claim_inputs(self)
        for found in (given.parts, given.downstream, given.reduction):
            for one in found.values():
                self.noted(one)
        return Claims(study_claims(given), group_claims(given))
