"""The view *Not yet learned?* of the page Nonlinear error: which latents of SAEs on the parts a dictionary has already."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dmcore.charts.learned import learned_chart, learned_table
from dmcore.charts.part_names import NAMES
from dmcore.results import Learned
from dmcore.results.learned import COMPONENTS, SAME
from dmcore.ui.figure import Figure, draw
from dmcore.ui.scaling_words import row_of
from dmcore.ui.words import listed


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
    first, *others = ((_on(part), _share(row, "same"), _share(row, "above_random")) for part, row in known.items())
    same = listed(
        [f"{first[1]} of the latents of SAEs on {first[0]}", *(f"{share} on {on}" for on, share, _ in others)]
    )
    random = listed([share for _, _, share in (first, *others)])
    return (
        f"In {where} there is a latent of the same direction (cosine ≥ {SAME}) for {same}. Nearer to one of its latents than "
        f"95 % of random directions are {random}."
    )


def draw_learned(learned: Learned, key: tuple[str, ...]) -> None:
    """Draw the view; `key` names the entry."""
    if learned.latents["cosine"].null_count() == len(learned.latents):
        return
    names = names_of(learned)
    named = learned.latents.with_columns(pl.col("against").replace(names))
    seeds = learned.latents["seed"].n_unique()
    draw(
        Figure(
            name="learned",
            key=key,
            question="Does a wider SAE have these features already?",
            caption="Each latent of the SAEs on the parts: the largest cosine of its decoder row with a row of the base, of "
            "wider SAEs of the site, and with principal components of x (without sign). A curve that falls further to the right: "
            "more is known already. Dashed: what 95 % of random directions stay below; above each panel, the share of latents "
            "beyond it, 5 % by chance. "
            f"n = {_counts(learned)}, of {seeds} seed{'s' if seeds > 1 else ''}; latents that never fire are left out.",
            chart=lambda: learned_chart(named),
            data=lambda: learned_table(named),
        )
    )
    shown = shares_shown(learned)
    st.dataframe(
        shown,
        hide_index=True,
        height=36 * (len(shown) + 1),
        column_config={
            "same": st.column_config.TextColumn(
                f"Same direction (cosine ≥ {SAME})", help="Mean of the seeds, and the least and the most of them."
            ),
            "above_random": st.column_config.TextColumn(
                "Above 95 % of random directions", help="Mean of the seeds, and the least and the most of them."
            ),
            "median_cosine": st.column_config.NumberColumn("Median cosine", format="%.2f"),
        },
    )
    st.caption(
        "A direction that no dictionary has is not yet a feature: SAEs that are trained on noise find directions too. That "
        "the same ones come back with other seeds, under *SAEs on the parts*, is a hint; what they fire on, under *Features*, "
        "another."
    )


def shares_shown(learned: Learned) -> pl.DataFrame:
    """The shares as the page shows them, by dictionary and part."""
    names = names_of(learned)
    rows = [
        {
            "SAEs on": NAMES[row["part"]],
            "compared with": names[row["against"]],
            "same": _share(row, "same"),
            "above_random": _share(row, "above_random"),
            "median_cosine": row["median_cosine"],
        }
        for row in learned.shares().to_dicts()
    ]
    order = list(names.values())
    return pl.DataFrame(rows).sort(
        pl.col("compared with").replace_strict(order, range(len(order))), maintain_order=True
    )


def _share(row: dict[str, Any], name: str) -> str:
    value, least, most = (100 * row[f"{name}{end}"] for end in ("", "_least", "_most"))
    digits = 1 if value < 10 else 0
    if f"{least:.{digits}f}" == f"{most:.{digits}f}":
        return f"{value:.{digits}f} %"
    return f"{value:.{digits}f} % ({least:.{digits}f} to {most:.{digits}f})"


def _on(part: str) -> str:
    return "x" if part == "x" else f"the {NAMES[part]}"


def _counts(learned: Learned) -> str:
    first = learned.latents.filter(against=learned.latents["against"][0])
    counts = first.group_by("part", maintain_order=True).len()
    return ", ".join(f"{row['len']:,} ({NAMES[row['part']]})" for row in counts.to_dicts())
