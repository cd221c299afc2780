"""The filters of the Catalogue page, each kept in the address: release, model, stream, layer, width, L0, architecture, words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import polars as pl
import streamlit as st

from dmcore.sources.catalogue import filter_catalogue
from dmcore.words.names import architecture_name, listed
from dmcore.words.streams import stream_name

KEYS = (
    "release",
    "model",
    "stream",
    "layer",
    "width",
    "l0_from",
    "l0_to",
    "architecture",
    "words",
    "on_disk",
    "others",
)
"""Session keys of the filters, and their names in the address."""
NAMES = {
    "l0_from": "lowest L0",
    "l0_to": "highest L0",
    "on_disk": "choice of what is on this machine",
    "others": "choice of transcoders",
}
"""Filters as a sentence says them, where that is not their key."""
LARGEST = 1e6
"""Above any L0."""


@dataclass(frozen=True)
class Filters:
    """What is asked for; None and empty for anything."""

    release: str | None = None
    model: str | None = None
    stream: str | None = None
    layer: int | None = None
    width: int | None = None
    l0_from: float | None = None
    l0_to: float | None = None
    architecture: str | None = None
    words: str = ""
    on_disk: bool = False
    others: bool = False
    """Whether what cannot be decomposed (transcoders, embeddings) is listed too."""

    @property
    def key(self) -> tuple[str, ...]:
        """The same filters, the same key."""
        return tuple(map(str, astuple(self)))

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows that are asked for, by release, layer, width and L0."""
        given = self.l0_from is not None or self.l0_to is not None
        found = filter_catalogue(
            frame,
            self.release,
            self.model,
            self.layer,
            self.width,
            self.stream,
            self.architecture,
            self.words,
            on_disk=self.on_disk,
            l0=(self.l0_from or 0.0, LARGEST if self.l0_to is None else self.l0_to) if given else None,
        )
        kept = found if self.others else found.filter(pl.col("hook").is_not_null())
        return kept.sort("release", "layer", "d_sae", "l0", maintain_order=True)


def draw_filters(frame: pl.DataFrame) -> Filters:
    """Draw the filters; each offers what those before it leave. What a link asks for in vain is said below."""
    linked = _linked()
    with st.container(border=True):
        top = st.columns([3, 3, 2, 2], vertical_alignment="bottom")
        left = frame
        release = _choice(top[0], "Release", "release", left["release"].unique(maintain_order=True).sort(), str)
        left = filter_catalogue(left, release)
        model = _choice(top[1], "Model", "model", left["model"].unique().sort(), str)
        left = filter_catalogue(left, model=model)
        stream = _choice(top[2], "Stream", "stream", left["stream"].drop_nulls().unique().sort(), stream_name)
        left = filter_catalogue(left, site=stream)
        architectures = left["architecture"].drop_nulls().unique().sort()
        architecture = _choice(top[3], "Architecture", "architecture", architectures, architecture_name)
        left = filter_catalogue(left, architecture=architecture)
        bottom = st.columns([1.5, 2, 1.5, 1.5, 3.5], vertical_alignment="bottom")
        layer = _choice(bottom[0], "Layer", "layer", left["layer"].drop_nulls().unique().sort(), str)
        widths = filter_catalogue(left, layer=layer)["d_sae"].drop_nulls().unique().sort()
        width = _choice(bottom[1], "Width (latents)", "width", widths, lambda w: f"{w:,}")
        bounds = [
            column.number_input(label, min_value=0.0, max_value=LARGEST, value=None, format="%g", key=key, placeholder="Any",
                                bind="query-params", persist_state="session")
            for column, label, key in ((bottom[2], "L0 from", "l0_from"), (bottom[3], "L0 to", "l0_to"))
        ]  # fmt: skip
        words = bottom[4].text_input(
            "Words in its name", key="words", placeholder="e.g. canonical", max_chars=100, bind="query-params",
            persist_state="session", icon=":material/search:",
        )  # fmt: skip
        with st.container(horizontal=True, vertical_alignment="center"):
            on_disk = st.toggle("On this machine", key="on_disk", bind="query-params", persist_state="session")
            others = st.toggle(
                "Transcoders too",
                key="others",
                bind="query-params",
                persist_state="session",
                help="Transcoders predict another site than they read, so they have no error to split. They, and SAEs on "
                "embeddings, can be listed here but not put in a study.",
            )
            st.space("stretch")
            st.button("Clear filters", icon=":material/filter_alt_off:", type="tertiary", on_click=clear_filters)
    filters = Filters(
        release,
        model,
        stream,
        layer,
        width,
        bounds[0],
        bounds[1],
        architecture,
        words or "",
        bool(on_disk),
        bool(others),
    )
    # Not `in (None, "", False)`: layer 0 and an L0 of 0 are choices.
    _notice([key for key in linked if (value := getattr(filters, key)) is None or value is False or value == ""])
    return filters


def _linked() -> list[str]:
    """The filters that the address asks for and that are not drawn yet: once they are, it may be older than their choice."""
    asked = {key: st.query_params.get(key, "") for key in KEYS if key not in st.session_state}
    return [key for key, value in asked.items() if value and value.lower() != "false"]


def _notice(missed: list[str]) -> None:
    """Say which filters a link asked for in vain; their values are not repeated."""
    if missed:
        verb, them = ("is", "it") if len(missed) == 1 else ("are", "them")
        names = listed(NAMES.get(key, key) for key in missed)
        st.caption(
            f":material/info: The {names} in the link {verb} not in the catalogue, or not with its other filters; "
            f"showing what there is without {them}."
        )


def clear_filters() -> None:
    """Ask for everything."""
    for key in KEYS:
        if key in st.session_state:
            st.session_state[key] = "" if key == "words" else False if key in {"on_disk", "others"} else None


def _choice(column: Any, label: str, key: str, values: pl.Series, text: Callable[[Any], str]) -> Any:
    return column.selectbox(
        label,
        values.to_list(),
        index=None,
        key=key,
        format_func=text,
        placeholder="Any",
        bind="query-params",
        persist_state="session",
    )
