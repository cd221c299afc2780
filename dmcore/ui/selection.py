"""The sidebar: which SAE is shown, the same on every page, kept in the URL.

1. `pull`: the view is kept in the session. A new link in the address bar (a shared one, or the browser's back button)
   overrides it, unless this run was caused by one of the controls, whose address is about to follow.
2. `_draw_controls`: each control offers what exists at the choices before it (`grid.py`); a wish that does not exist snaps to
   the nearest that does, with a notice.
3. `push`: the address is made to say what is shown. Streamlit clears it on a change of page; this puts it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dmcore.charts.numbers import compact
from dmcore.legible import visible
from dmcore.ui import reads
from dmcore.ui.grid import Choice, choose_nearest
from dmcore.ui.link import SHARED, full_link, read_study, read_wish, write_params
from dmcore.ui.words import FIELD_NAMES
from dmcore.words.names import architecture_name, listed, plain, short, stops_text
from dmcore.words.streams import stream_name

_VIEW = "view"
_PUSHED = "view.pushed"
_TOUCHED = "view.touched"
_PAGE = "view.page"
_FRESH = "view.fresh"
_DRAWN = "view.drawn"


@dataclass(frozen=True)
class Selection:
    """What every page starts from."""

    study_id: str
    published: Any
    """The study's `Published` results."""
    record: dict[str, Any]
    """The chosen SAE's row of `RECORD`."""

    @property
    def summary(self) -> Any:
        """The chosen SAE's `Summary`."""
        return reads.summary(self.study_id, self.record["summary_key"])

    def summary_of(self, record: dict[str, Any]) -> Any:
        """The `Summary` of another SAE of the study."""
        return reads.summary(self.study_id, record["summary_key"])

    @property
    def scaling(self) -> Any:
        """The `Scaling` of the chosen SAE's site."""
        return self.scaling_at(self.record["site"])

    def scaling_at(self, site: str) -> Any:
        """The `Scaling` of one of the study's sites."""
        return reads.scaling(self.study_id, site, tuple(self.published.records.filter(site=site)["summary_key"]))

    def reduction(self, summary_key: str) -> Any:
        """What reduces an SAE's error; None if it has not been made."""
        return reads.reduction(self.study_id, summary_key)

    def downstream(self, summary_key: str) -> Any:
        """What an SAE's error costs the model; None if it has not been made."""
        return reads.downstream(self.study_id, summary_key)

    def looked(self, stage: str) -> list[str]:
        """Keys of the summaries of the study's SAEs that have what `reduction` or `downstream` reads."""
        return reads.looked(self.study_id, stage)


def _view() -> dict[str, str]:
    return st.session_state.setdefault(_VIEW, {})


def _touch(field: str, widget: str, values: dict[str, str]) -> None:
    chosen = st.session_state.get(widget)
    if chosen in values:
        _view()[field] = values[chosen]
        st.session_state[_TOUCHED] = True


def note_page() -> None:
    """Note whether this run is the first on its page. Every page calls it before it draws.

    Streamlit keeps the value of a control by its key when another page draws a control of that key, but the browser makes a
    new one, which starts at its first option unless it is told a value.
    """
    context = get_script_run_ctx()
    here = context.page_script_hash if context else ""
    st.session_state[_FRESH] = here != st.session_state.get(_PAGE)
    st.session_state[_PAGE] = here
    st.session_state[_DRAWN] = set()


def select(study_id: str, record: dict[str, Any]) -> None:
    """Choose an SAE from a page, as a control would; for use in a widget's callback."""
    _view().update(write_params(study_id, record))
    st.session_state[_TOUCHED] = True


def set_option(field: str, value: str) -> None:
    """Choose a value of a page's own link parameter; for use in a callback."""
    _view()[field] = value
    st.session_state[_TOUCHED] = True


def pull(own: Sequence[str]) -> bool:
    """Take the address bar's wishes into the view; True if it had any that were not ours. `own`: the page's parameters."""
    asked = {k: v for k, v in st.query_params.to_dict().items() if k in (*SHARED, *own)}
    touched = st.session_state.pop(_TOUCHED, False)
    if touched or not asked or asked == st.session_state.get(_PUSHED):
        return False
    _view().update(asked)
    return True


def choose(own: Sequence[str]) -> Selection:
    """Draw the sidebar's controls and return what they chose."""
    linked = pull(own)
    view = _view()
    studies = reads.studies()
    study_id, study_known = read_study(view, studies)
    view["study"] = study_id
    with st.sidebar:
        _control("study", "Study", list(studies), _unique(studies), study_id, kind=st.selectbox)
        results = reads.published(study_id)
        wish, unreadable = read_wish(view)
        choice = choose_nearest(results.records, wish)
        _draw_controls(choice)
        missed = [*([] if study_known else ["study"]), *unreadable, *choice.snapped]
        _notice(missed, linked)
    view |= write_params(study_id, choice.record)
    return Selection(study_id, results, choice.record)


def option(field: str, label: str, values: Sequence[str], texts: Sequence[str], default: str, **widget: Any) -> str:
    """A page's own choice, drawn where it is called and kept in the link like the sidebar's; returns one of `values`."""
    view = _view()
    asked = view.get(field, default)
    chosen = asked if asked in values else default
    if asked != chosen:
        st.caption(f":material/info: The {FIELD_NAMES[field]} asked for is not in this study; showing its own.")
    _keep(field, chosen)
    _control(field, label, list(values), list(texts), chosen, kind=widget.pop("kind", st.radio), **widget)
    return chosen


def own_value(field: str, values: Sequence[str], default: str) -> str:
    """A page's own choice that has no control, one of `values`: what the link or `set_option` says, if it exists."""
    asked = _view().get(field)
    return _keep(field, asked if asked in values else default)


def _keep(field: str, chosen: str) -> str:
    """Keep a page's own choice, and let the address name it: it names nothing that the page has not checked."""
    _view()[field] = chosen
    st.session_state.setdefault(_DRAWN, set()).add(field)
    return chosen


def push(own: Sequence[str]) -> None:
    """Make the address say what is shown, and offer it as a link to copy."""
    view = _view()
    drawn = st.session_state.get(_DRAWN, set())
    params = {key: view[key] for key in (*SHARED, *own) if key in view and (key in SHARED or key in drawn)}
    foreign = {k: v for k, v in st.query_params.to_dict().items() if k not in (*SHARED, *own)}
    if {**foreign, **params} != st.query_params.to_dict():
        st.query_params.from_dict({**foreign, **params})
    st.session_state[_PUSHED] = params
    with st.sidebar:
        # The code box, for its copy button, is drawn when it is asked for: its script is the largest of a page's.
        share = st.popover("Link to this view", icon=":material/link:", width="stretch", on_change="rerun", key="share")
        if share.open:
            share.code(full_link(st.context.url or "", params), language=None, wrap_lines=True)


def _draw_controls(choice: Choice) -> None:
    record = choice.record
    _control("stream", "Stream", list(choice.streams), [stream_name(s) for s in choice.streams], record["stream"],
             kind=st.segmented_control, width="stretch")  # fmt: skip
    layers = [str(layer) for layer in choice.layers]
    _control("layer", "Layer", layers, layers, str(record["layer"]))
    widths = [str(width) for width in choice.widths]
    _control("width", "Width (latents)", widths, [compact(w) for w in choice.widths], str(record["d_sae"]))
    l0s = stops_text([record["l0"] for record in step.records] for step in choice.steps)
    values = [f"{step.l0:.6g}" for step in choice.steps]
    _control("l0", "L0 (active latents per token)", values, l0s, values[choice.step])
    names = [visible(architecture_name(label)) for label in choice.archs]
    _control("arch", "Architecture", list(choice.archs), names, record["label"], kind=st.selectbox)
    st.caption("Showing this SAE")
    st.text(short(visible(record["sae"]), 400))


def _control(
    field: str,
    label: str,
    values: list[str],
    texts: list[str],
    chosen: str,
    *,
    kind: Any = st.select_slider,
    **more: Any,
) -> None:
    """A widget over `texts`, or plain text where there is nothing to choose."""
    if len(values) == 1:
        st.markdown(f"{label}: **{plain(texts[0])}**")
        return
    widget = f"control.{field}"
    shown = texts[values.index(chosen)]
    if st.session_state.get(_FRESH) or st.session_state.get(widget) != shown:
        st.session_state[widget] = shown
    if kind is st.segmented_control:
        more["required"] = True
    by_text = dict(zip(texts, values, strict=True))
    kind(label, texts, key=widget, on_change=_touch, args=(field, widget, by_text), **more)


def _unique(titles: Mapping[str, str]) -> list[str]:
    """Titles, with the study's name where two are the same."""
    titles = {name: short(visible(title)) for name, title in titles.items()}
    full = [f"{t} ({name})" for name, t in titles.items()]
    told = [t if list(titles.values()).count(t) == 1 else f for t, f in zip(titles.values(), full, strict=True)]
    return told if len(set(told)) == len(told) else full  # a title may look like another's with its name


def _notice(missed: list[str], linked: bool) -> None:
    if not missed:
        return
    names = listed(FIELD_NAMES[field] for field in dict.fromkeys(missed))
    where = "in the link" if linked else "chosen before"
    verb = "is" if len(set(missed)) == 1 else "are"
    st.caption(f":material/info: The {names} {where} {verb} not available here; showing the nearest.")
