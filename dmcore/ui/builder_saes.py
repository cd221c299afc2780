"""The study builder's SAEs: chosen from the catalogue by release, layer, width and L0, or found in folders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.legible import visible
from dmcore.results.columns import mapped
from dmcore.sources.catalogue import find_saes
from dmcore.specs import SaeSpec, parse_hook
from dmcore.ui import reads
from dmcore.ui.table import show_table
from dmcore.words.names import architecture_name, plain
from dmcore.words.streams import stream_name

CHOSEN = "builder.saes"
"""Session key of the chosen rows of the catalogue."""
_OWN = "builder.own"
EVERYTHING = "All releases"
COLUMNS = ("release", "id", "hook", "model", "processing", "d_sae", "l0")
FILTERS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "stream": ("Stream", stream_name),
    "layer": ("Layer", str),
    "d_sae": ("Width (latents)", lambda width: f"{width:,}"),
}
"""Label and words of the filters of which several values may be asked for, by column."""
MOST = 2000
"""SAEs that a study may be given here."""
SHOWN = 1000
DEPTH = 5
"""Folders below the one that is typed in which SAEs are looked for."""


def chosen_rows() -> list[dict[str, Any]]:
    """What has been chosen of the catalogue; rows that another page has handed over in another form are left out."""
    rows = st.session_state.get(CHOSEN) or []
    return [
        dict(row) for row in rows if isinstance(row, Mapping) and all(row.get(k) for k in ("release", "id", "hook"))
    ]


def hand_over(rows: list[dict[str, Any]]) -> None:
    """Choose rows on another page: the builder opens with their model, and with filters that show them."""
    st.session_state[CHOSEN] = rows
    st.session_state.pop(_OWN, None)


def taken_over() -> str:
    """The model of SAEs that another page has chosen since this was last asked; empty if none has."""
    rows = chosen_rows()
    names = [(row["release"], row["id"]) for row in rows]
    before = st.session_state.get(_OWN)
    st.session_state[_OWN] = names
    models = {str(row.get("model") or "") for row in rows}
    return models.pop() if names != (before or []) and len(models) == 1 else ""


def filter_like_chosen(model: str) -> None:
    """Set the filters to the release, stream, layer and width that all chosen SAEs of a model share, the others to anything."""
    try:
        frame = reads.catalogue().filter(pl.col("model") == model)
    except DarkMatterError:
        return  # the place where it is shown says so
    names = [(str(row["release"]), str(row["id"])) for row in chosen_rows()]
    rows = find_saes(frame, names)
    alike = [name for name in ("release", *FILTERS) if rows.height == len(names) and rows[name].n_unique() == 1]
    shared = {name: rows[name][0] for name in alike}
    st.session_state["builder.release"] = shared.get("release", EVERYTHING)
    for name in FILTERS:
        st.session_state[f"builder.filter.{name}"] = [shared[name]] if shared.get(name) is not None else []
    st.session_state["builder.l0.low"] = st.session_state["builder.l0.high"] = None


def draw_catalogue_saes(model: str) -> list[SaeSpec]:
    """Filters, matches and the chosen list; returns the chosen SAEs of this model.

    Args:
        model: Hugging Face id.
    """
    try:
        frame = reads.catalogue().filter((pl.col("model") == model) & pl.col("hook").is_not_null())
    except DarkMatterError as error:
        st.info(plain(str(error)), icon=":material/inbox:")
        return []
    if not len(frame):
        st.info(f"The catalogue has no SAE of {plain(model)}: take SAEs from folders.", icon=":material/inbox:")
        return []
    found = _filtered(frame)
    _matches(found)
    return _chosen(model)


def _filtered(frame: pl.DataFrame) -> pl.DataFrame:
    """The catalogue's rows that the filters leave; each filter offers what the ones before it left."""
    columns = st.columns([3, 2, 2, 2, 2])
    counts = frame["release"].value_counts(sort=True)
    release = columns[0].selectbox(
        "Release", [EVERYTHING, *counts["release"]], key="builder.release", persist_state="session"
    )
    if release != EVERYTHING:
        frame = frame.filter(pl.col("release") == release)
    for column, (name, (label, text)) in zip(columns[1:4], FILTERS.items(), strict=True):
        options = frame[name].drop_nulls().unique().sort().to_list()
        asked = column.multiselect(
            label, options, format_func=text, key=f"builder.filter.{name}", placeholder="Any", persist_state="session"
        )
        frame = frame.filter(pl.col(name).is_in(asked)) if asked else frame
    with columns[4]:
        frame = _l0_filter(frame)
    return frame


def _l0_filter(frame: pl.DataFrame) -> pl.DataFrame:
    low, high = st.columns(2)
    least = low.number_input(
        "L0 from", min_value=0.0, value=None, key="builder.l0.low", persist_state="session", format="%g"
    )
    most = high.number_input(
        "L0 to", min_value=0.0, value=None, key="builder.l0.high", persist_state="session", format="%g"
    )
    if least is None and most is None:
        return frame
    return frame.filter(pl.col("l0").is_between(least or 0.0, most if most is not None else 1e12))


def _matches(found: pl.DataFrame) -> None:
    if not len(found):
        st.info("No SAE of the catalogue matches all filters: take one away.", icon=":material/filter_alt_off:")
        return
    shown = found.head(SHOWN)
    state = show_table(
        shown.select("release", "id", "layer", mapped(shown["stream"], stream_name), "d_sae", "l0",
                     mapped(shown["architecture"], architecture_name), "on_disk"),
        key="builder.matches",
        on_select="rerun",
        selection_mode="multi-row",
        hide_index=True,
        placeholder="unknown",
        height=min(38 + 35 * len(shown), 260),
        column_config={
            "release": "Release", "id": "SAE", "layer": st.column_config.NumberColumn("Layer", format="%d"),
            "stream": "Stream", "d_sae": st.column_config.NumberColumn("Width", format="localized", width=105),
            "l0": st.column_config.NumberColumn("L0", format="%.0f"), "architecture": "Architecture",
            "on_disk": st.column_config.CheckboxColumn("Here", help="Already on this machine."),
        },
    )  # fmt: skip
    rows = [i for i in state.selection.rows if i < len(shown)]
    picked = shown[rows] if rows else found
    label = (
        f"Add the {len(rows)} selected" if rows else f"Add {'this SAE' if len(found) == 1 else f'all {len(found):,}'}"
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            label, icon=":material/add:", key="builder.add", disabled=len(picked) > MOST,
            on_click=_add, args=(picked.select(COLUMNS).to_dicts(),),
        )  # fmt: skip
        note = f"More than {MOST:,}: narrow the filters." if len(picked) > MOST else "Tick rows to add only those."
        more = f" The first {SHOWN:,} are shown." if len(found) > SHOWN else ""
        st.caption(f"{len(found):,} {'matches' if len(found) == 1 else 'match'}. {note}{more}")


def _add(rows: list[dict[str, Any]]) -> None:
    there = {(row["release"], row["id"]) for row in chosen_rows()}
    _choose([*chosen_rows(), *(row for row in rows if (row["release"], row["id"]) not in there)])


def _chosen(model: str) -> list[SaeSpec]:
    rows = chosen_rows()
    mine = [row for row in rows if row.get("model") in (None, "", model)]
    if not rows:
        st.caption("No SAE is chosen yet.")
        return []
    if len(mine) < len(rows):
        others = sorted({str(row["model"]) for row in rows} - {model})
        st.warning(
            f"{len(rows) - len(mine)} of the chosen SAEs belong to another model ({plain(', '.join(others))}) and are left out.",
            icon=":material/warning:",
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{len(mine):,} SAE{'' if len(mine) == 1 else 's'} chosen**")
        st.button(
            "Remove all", icon=":material/close:", type="tertiary", key="builder.clear", on_click=_keep, args=([],)
        )
    with st.expander("The chosen SAEs", key="builder.chosen-list"):
        names = [f"{row['release']}/{row['id']}" for row in mine]
        st.text(visible("\n".join(names[:200])) + (f"\n... and {len(names) - 200} more" if len(names) > 200 else ""))
        gone = st.multiselect("Take away", names, key="builder.take-away", placeholder="Choose SAEs")
        kept = [row for row, name in zip(mine, names, strict=True) if name not in gone]
        st.button("Take away", key="builder.take", disabled=not gone, on_click=_keep, args=(kept,))
    return [SaeSpec(hook=row["hook"], release=row["release"], id=row["id"]) for row in mine]


def _keep(rows: list[dict[str, Any]]) -> None:
    _choose(rows)
    st.session_state.pop("builder.take-away", None)


def _choose(rows: list[dict[str, Any]]) -> None:
    st.session_state[CHOSEN] = rows
    taken_over()  # it is this page's own choice


def processing_of(model: str) -> tuple[str, ...]:
    """The changes to raw weights that the chosen SAEs of a model were trained on."""
    steps = {
        step
        for row in chosen_rows()
        if row.get("model") == model
        for step in str(row.get("processing") or "").split(",")
    }
    return tuple(sorted(steps - {""}))


def draw_folder_saes() -> list[SaeSpec]:
    """SAEs below a folder of this machine; returns those whose site is known."""
    typed = st.text_input(
        "Folder with SAEs", key="builder.sae-folder", persist_state="session", placeholder="/data/saes",
        help="An SAE's folder, or one that holds several: SAELens's, Gemma Scope's (1 and 2) or Llama Scope's layout.",
    ).strip()  # fmt: skip
    if not typed:
        return []
    folder = Path(typed).expanduser()
    if not folder.is_absolute() or not folder.is_dir():
        st.error("There is no such folder: give its whole path.", icon=":material/folder_off:")
        return []
    found = sae_folders(folder)
    if not found:
        st.error(
            "No SAE was found in it: an SAE's folder holds cfg.json, params.npz, params.safetensors or "
            "hyperparams.json."
        )
        return []
    unknown = [path for path, hook in found if not hook]
    hook = ""
    if unknown:
        hook = st.text_input(
            f"Site of the {len(unknown)} SAEs that do not say theirs", key="builder.hook", persist_state="session",
            placeholder="blocks.12.hook_resid_post",
        ).strip()  # fmt: skip
    return _with_sites(found, hook)


def _with_sites(found: Sequence[tuple[Path, str]], hook: str) -> list[SaeSpec]:
    saes, problem = [], ""
    for path, own in found:
        site = own or hook
        if not site:
            continue
        try:
            parse_hook(site)
            saes.append(SaeSpec(hook=site, path=str(path)))
        except DarkMatterError as error:
            problem = str(error)
    if problem:
        st.error(plain(problem))
    st.caption(f"{len(found)} SAEs found, {len(saes)} with a site.")
    return saes


def sae_folders(folder: Path) -> list[tuple[Path, str]]:
    """(folder, hook) of the SAEs in or below a folder, by path; an empty hook where the SAE does not say it."""
    found = []
    for where, names, files in os.walk(folder):
        names.sort()
        if len(Path(where).relative_to(folder).parts) >= DEPTH:
            names.clear()
        if {"cfg.json", "params.npz", "params.safetensors", "hyperparams.json"} & set(files):
            found.append((Path(where), _own_hook(Path(where))))
            names.clear()
        if len(found) >= MOST:
            break
    return found


def _own_hook(folder: Path) -> str:
    for name, keys in (
        ("cfg.json", ("hook_name", "hook_point")),
        ("hyperparams.json", ("hook_point_in", "hook_point")),
    ):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for place in (content, content.get("metadata") if isinstance(content, dict) else None):
            if isinstance(place, dict):
                for key in keys:
                    if isinstance(place.get(key), str) and place[key]:
                        return place[key]
    return ""
