"""What the view *Not yet learned?* says in sentences, made from the numbers."""

from __future__ import annotations

from typing import Any

import polars as pl

from dmcore.charts.part_names import NAMES
from dmcore.results import Learned
from dmcore.results.learned import COMPONENTS, SAME
from dmcore.words.names import listed
from dmcore.words.scaling import row_of


def names_of(learned: Learned) -> dict[str, str]:
    """What the dictionaries are called in pictures and sentences, by the name of the table."""
    about = learned.about
    return {
        name: f"{'base, ' * (name == about['base'])}{about['widths'][name]:,} latents" for name in about["against"]
    } | {
        COMPONENTS: f"{learned.about['n_components']} components of x",
    }


def learned_finding(learned: Learned) -> str:
    """Which share of the latents of each part the widest dictionary has."""
    about = learned.about
    if learned.latents["cosine"].null_count() == len(learned.latents):
        return "None of the SAEs on the parts has a latent that fires and has a direction."
    if not about["against"]:
        return "No SAE of the study at this site has decoder rows that all tokens share: there is none to look in."
    shares, widest = learned.shares(), about["against"][-1]
    told = {part: row_of(shares, part=part, against=widest) for part in ("nonlinear", "linear", "x", "error")}
    known = {part: row for part, row in told.items() if row is not None}
    if len(known) > 1:
        known.pop("error", None)
    where = f"the {about['widths'][widest]:,}-latent SAE"
    if widest == about["base"]:
        why = "the study has no wider one at this site"
        if len(about["widths"]) > 1:
            why = "the wider ones have no decoder rows that all tokens share"
        where = f"the base SAE ({why})"
    first, *others = (
        (_on(part), share_words(row, "same"), share_words(row, "above_random")) for part, row in known.items()
    )
    same = listed(
        [f"{first[1]} of the latents of SAEs on {first[0]}", *(f"{share} on {on}" for on, share, _ in others)]
    )
    random = listed([share for _, _, share in (first, *others)])
    return (
        f"In {where} there is a latent of the same direction (cosine ≥ {SAME}) for {same}. Nearer to one of its latents than "
        f"95 % of random directions are {random}."
    )


def shares_shown(learned: Learned) -> pl.DataFrame:
    """The shares as the page shows them, by dictionary and part."""
    names = names_of(learned)
    rows = [
        {
            "SAEs on": NAMES[row["part"]],
            "compared with": names[row["against"]],
            "same": share_words(row, "same"),
            "above_random": share_words(row, "above_random"),
            "median_cosine": row["median_cosine"],
        }
        for row in learned.shares().to_dicts()
    ]
    order = list(names.values())
    return pl.DataFrame(rows).sort(
        pl.col("compared with").replace_strict(order, range(len(order))), maintain_order=True
    )


def share_words(row: dict[str, Any], name: str) -> str:
    value, least, most = (100 * row[f"{name}{end}"] for end in ("", "_least", "_most"))
    digits = 1 if value < 10 else 0
    if f"{least:.{digits}f}" == f"{most:.{digits}f}":
        return f"{value:.{digits}f} %"
    return f"{value:.{digits}f} % ({least:.{digits}f} to {most:.{digits}f})"


def _on(part: str) -> str:
    return "x" if part == "x" else f"the {NAMES[part]}"


def counts_words(learned: Learned) -> str:
    first = learned.latents.filter(against=learned.latents["against"][0])
    counts = first.group_by("part", maintain_order=True).len()
    return ", ".join(f"{row['len']:,} ({NAMES[row['part']]})" for row in counts.to_dicts())
