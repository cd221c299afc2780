"""Results that show an SAE's own metrics beside theirs: read with the metrics of its summary, which may have been made anew."""

from __future__ import annotations

from dmcore.results import Downstream, read_record
from dmcore.store.store import Entry


def read_downstream(entry: Entry, summary: Entry | None) -> Downstream:
    """What the parts of an SAE's error cost, with the metrics of its record; without, where its summary is gone.

    Raises:
        StoreError: it cannot be read.
    """
    found = Downstream.read(entry.path)
    return found if summary is None else found.with_metrics(read_record(summary.path))
