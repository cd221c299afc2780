"""Catalogue: which SAEs can be had, for which model and site, how wide and how sparse, and which are here already."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dmcore.charts.catalogue import catalogue_chart, catalogue_table
from dmcore.errors import DarkMatterError
from dmcore.store.disk import in_words
from dmcore.store.store import default_root
from dmcore.ui import reads
from dmcore.ui.catalogue_filters import clear_filters, draw_filters
from dmcore.ui.catalogue_table import draw_table, draw_use
from dmcore.ui.figure import Figure, draw
from dmcore.ui.page import enter_through_app
from dmcore.ui.sections import finding
from dmcore.words.names import plain


def draw_finding(frame: pl.DataFrame) -> None:
    here = int(frame["on_disk"].sum())
    on_disk = (
        f"{here:,} of them {'is' if here == 1 else 'are'} on this machine" if here else "none is on this machine yet"
    )
    releases, models = (frame[name].n_unique() for name in ("release", "model"))
    finding(
        f"{frame.height:,} published SAEs and transcoders in {releases:,} releases, for {models:,} models; {on_disk}."
    )


def matches_text(found: pl.DataFrame) -> str:
    known = found.height - found["l0"].null_count()
    l0 = "all" if known == found.height else f"{known:,} of them" if known else "none"
    return f"**{found.height:,}** match, {l0} with a published L0."


def draw_chart(found: pl.DataFrame, key: tuple[str, ...]) -> None:
    shown = catalogue_table(found)["saes"].sum()
    if not shown:
        st.caption(":material/info: None of these has both a published width and a published L0, so there is no chart.")
        return
    left_out = found.height - shown
    rest = f" {left_out:,} whose width or L0 is not published are left out." if left_out else ""
    draw(
        Figure(
            name="catalogue",
            key=(*key, str(found.height)),
            question="Which widths and sparsities are there to choose from?",
            caption=f"{shown:,} SAEs. L0 is the publisher's number, not a measurement; SAEs of one width whose L0s agree to two "
            f"digits share a dot, its area their number.{rest}",
            chart=lambda: catalogue_chart(found),
            data=lambda: catalogue_table(found),
        )
    )


def draw_methods(frame: pl.DataFrame) -> None:
    saes = frame.filter(pl.col("kind") == "sae")
    known = {
        name: 1 - saes[name].null_count() / max(1, saes.height) for name in ("hook", "d_sae", "l0", "architecture")
    }
    with st.expander("Where this comes from", icon=":material/science:"):
        st.markdown(
            f"""
- **The registry** is the one that comes with the installed SAELens; nothing is downloaded to show it.
- **Site, width and L0** are read from the names that publishers gave, by their own rules, and from the L0 that the registry
  expects (where it expects 0, nobody has said). Known for {known["hook"]:.1%}, {known["d_sae"]:.1%} and {known["l0"]:.1%} of
  {saes.height:,} SAEs; the architecture for {known["architecture"]:.1%}. The rest is unknown, not guessed.
- **Transcoders** ({frame.height - saes.height:,} entries) predict another site than they read, so they have no error to split.
- **On this machine** means that the weights are in the local Hugging Face cache.
- The same list without a browser: `python -m dmcore catalogue --release NAME --json`.
"""
        )


def main() -> None:
    enter_through_app()
    st.title("Which SAEs are there?", anchor=False)
    try:
        with in_words(default_root()):
            frame = reads.catalogue()
    except DarkMatterError as error:
        st.info(plain(str(error)), icon=":material/inbox:")
        return
    draw_finding(frame)
    filters = draw_filters(frame)
    found = filters.apply(frame)
    if not found.height:
        st.info("No SAE matches all filters.", icon=":material/filter_alt_off:")
        if not filters.others and filters.apply(frame.with_columns(hook=pl.lit("any"))).height:
            st.caption("Something matches that is no SAE: switch on “Transcoders too” to see it.")
        st.button("Show all", icon=":material/refresh:", on_click=clear_filters)
    else:
        st.markdown(matches_text(found))
        draw_use(draw_table(found, filters))
        draw_chart(found, filters.key)
    draw_methods(frame)


main()
