"""The paper's statements over groups of a study's SAEs: by architecture, L0, site and domain of the texts.

Groups are made so that SAEs differ in what is named, and in as little else as the study allows. A grouping of which a study has
but one value is left out.
"""

from __future__ import annotations

import polars as pl

from dmcore.results.claim_tests import ClaimInputs, from_ends, measured, too_small
from dmcore.results.claims import STATEMENTS, Missing, claim_row, claims_frame
from dmcore.results.compare import log_distance

GROUPINGS = {
    "architecture": "SAEs of one site and width, of each architecture the one with the nearest L0",
    "L0": "all SAEs of the site and architecture with the most L0s",
    "site": "SAEs of the commonest architecture and L0, at every site",
    "domain": "all SAEs, on the tokens of each domain of the texts",
}
"""What the groups are, by name."""
OF_DOMAINS = "half_norm"
"""The one statement whose number is kept for each domain."""
STEP = 0.25
"""SAEs whose L0s are further apart than this, on a natural log scale, are of different groups."""


def group_claims(given: ClaimInputs) -> pl.DataFrame:
    """A row of `CLAIMS` for each statement and group."""
    rows = []
    for by, groups in (
        ("architecture", by_architecture(given.records)),
        ("L0", by_l0(given.records)),
        ("site", by_site(given.records)),
    ):
        if len(groups) > 1:
            rows += [measured(claim, given, of, (by, name)) for name, of in groups.items() for claim in STATEMENTS]
    return claims_frame(rows + _domains(given))


def by_architecture(records: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """One SAE of each architecture, at the site and width that has the most of them."""
    places = [place for place in records.partition_by("site", "d_sae", maintain_order=True) if len(place)]
    most = max(places, key=lambda place: place["label"].n_unique(), default=records)
    rarest = most.group_by("label", maintain_order=True).len().sort("len", maintain_order=True)["label"]
    if not len(rarest):
        return {}
    l0 = float(most.filter(pl.col("label") == rarest[0])["l0"][0])
    found = {}
    for label in most["label"].unique(maintain_order=True):
        rows = most.filter(pl.col("label") == label).to_dicts()
        nearest = min(rows, key=lambda row: log_distance(row["l0"], l0))
        found[str(label)] = most.filter(pl.col("summary_key") == nearest["summary_key"])
    return found


def _stops(records: pl.DataFrame) -> list[pl.DataFrame]:
    """The SAEs by L0: a new group where the next L0 is further than `STEP` from the first of the group."""
    ordered, starts, start = records.sort("l0", maintain_order=True), [], None
    for l0 in ordered["l0"]:
        start = l0 if start is None or log_distance(l0, start) > STEP else start
        starts.append(start)
    return ordered.with_columns(pl.Series("_start", starts, dtype=pl.Float64)).partition_by(
        "_start", maintain_order=True, include_key=False
    )


def by_l0(records: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The SAEs of each L0, at the site and of the architecture that has the most L0s."""
    groups = [_stops(group) for group in records.partition_by("site", "label", maintain_order=True)]
    most = max(groups, key=len, default=[])
    return {f"L0 {float(group['l0'].median() or 0):.0f}": group for group in most}  # pyright: ignore[reportArgumentType]


def by_site(records: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The SAEs of each site, of the architecture and about the L0 that the most sites have."""
    stops = [stop for group in records.partition_by("label", maintain_order=True) for stop in _stops(group)]
    most = max(stops, key=lambda stop: stop["site"].n_unique(), default=records)
    return {site: most.filter(pl.col("site") == site) for site in records["site"].unique(maintain_order=True)
            if (most["site"] == site).any()}  # fmt: skip


def _domains(given: ClaimInputs) -> list[dict]:
    """The linear share of the squared norm for each domain of the texts."""
    shares: dict[str, list[tuple[float | None, float | None, float | None]]] = {}
    for scaling in given.scaling.values():
        slices = scaling["slices"].filter(pl.col("by") == "domain").sort("order", maintain_order=True)
        for row in slices.to_dicts():
            ends = row["nonlinear_share"], row["nonlinear_share_high"], row["nonlinear_share_low"]
            turned = tuple(None if v is None else 1 - v for v in ends)
            shares.setdefault(row["group"], []).append(turned)  # pyright: ignore[reportArgumentType]
    if len(shares) < 2:
        return []
    statement, few, none = (
        STATEMENTS[OF_DOMAINS],
        too_small(given),
        Missing("No SAE has this number on this domain."),
    )
    return [
        claim_row(statement, few or from_ends(rows, "SAEs") or none, given.n_contexts, ("domain", name))
        for name, rows in shares.items()
    ]
