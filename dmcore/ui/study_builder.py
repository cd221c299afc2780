"""A study put together on the page: model, SAEs, texts, settings, name; its plan; and the file that it becomes.

1. Draw the choices; say what is missing.
2. Show what the study would take, before anything is written or downloaded.
3. On Start, write `<cache>/studies/<name>.toml`, read it back, and put it into the queue. Another study is never overwritten.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dmcore.errors import DarkMatterError, SpecError, StoreError
from dmcore.places import SHIPPED_STUDIES
from dmcore.run.jobs.queue import Queue
from dmcore.specs import NAME, ModelSpec, SaeSpec, Settings, Study, TextsSpec
from dmcore.ui import actions, reads
from dmcore.ui.builder_inputs import CATALOGUE, HUB, KEEP, draw_model, draw_settings, draw_texts
from dmcore.ui.builder_saes import draw_catalogue_saes, draw_folder_saes
from dmcore.ui.plan_panel import draw_plan
from dmcore.ui.sign_in import why_not
from dmcore.ui.study_start import start, studies_folder
from dmcore.words.names import listed, plain

SAVED = "builder.saved"


def draw_builder() -> None:
    """Draw the builder; not for viewers, whom its answers on folders would tell what is on this machine."""
    if grey := why_not():
        st.info(plain(grey), icon=":material/lock:")
        return
    st.markdown("#### 1. Model")
    model = draw_model()
    st.markdown("#### 2. SAEs")
    saes = _saes(model)
    st.markdown("#### 3. Texts")
    texts = draw_texts()
    settings, seed = draw_settings()
    st.markdown("#### 4. Name")
    left, right = st.columns([1, 2])
    name = left.text_input(
        "Name of the study",
        key="builder.name",
        placeholder="gemma-2-2b-layer-12",
        help="Letters, digits, - and _.",
        **KEEP,
    ).strip()
    title = right.text_input(
        "Title, as the pages show it", key="builder.title", placeholder=name or "A title", **KEEP
    ).strip()
    _finish(model, saes, texts, settings, seed, name, title)


def _saes(model: ModelSpec | None) -> list[SaeSpec]:
    places = [CATALOGUE, "Folders on this machine"]
    source = st.segmented_control(
        "SAEs", places, default=CATALOGUE, required=True, key="builder.sae-source", label_visibility="collapsed", **KEEP
    )
    if source != CATALOGUE:
        return draw_folder_saes()
    if model is None or not model.id:
        hint = (
            "Choose a model first."
            if model is None
            else f"The catalogue goes by Hugging Face ids: choose *{HUB}* above."
        )
        st.caption(hint)
        return []
    return draw_catalogue_saes(model.id)


def _finish(
    model: ModelSpec | None,
    saes: list[SaeSpec],
    texts: TextsSpec | None,
    settings: Settings,
    seed: int,
    name: str,
    title: str,
) -> None:
    """The plan, and the buttons."""
    st.markdown("#### 5. Plan")
    parts = {"a model": model, "an SAE": saes, "texts": texts, "a name": name}
    missing = [part for part, there in parts.items() if not there]
    if model is None or texts is None or missing:
        st.info(f"Still missing: {listed(missing)}.", icon=":material/pending:")
        return
    try:
        toml = compose(name, title, model, texts, settings, saes, seed)
        check_name(name, toml)
        study = Study(name, title or name, seed, model, texts, settings, tuple(saes), studies_folder(Queue()))
    except DarkMatterError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    can = draw_plan(study)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Start",
            type="primary",
            icon=":material/play_arrow:",
            key="builder.start",
            disabled=not can,
            on_click=_start,
            args=(name, toml),
        )
        st.button(
            "Save without starting", icon=":material/save:", key="builder.save", on_click=_save, args=(name, toml)
        )
        st.download_button(
            "Download the file", toml, file_name=f"{name}.toml", icon=":material/download:", type="tertiary", on_click="ignore",
            key="builder.download",
        )  # fmt: skip
    if st.session_state.pop(SAVED, None):
        st.success("Saved: it is in the list on *Jobs*.", icon=":material/check:")


def compose(
    name: str, title: str, model: ModelSpec, texts: TextsSpec, settings: Settings, saes: list[SaeSpec], seed: int
) -> str:
    """The study file's text.

    Raises:
        SpecError: the parts do not make a study.
    """
    from dmcore.sources.study_file import study_toml

    if not NAME.fullmatch(name):
        raise SpecError(
            "The name may have letters, digits, - and _ only, at most 64, and begins with a letter or digit."
        )
    return study_toml(name, title, model, texts, settings, saes, seed)


def check_name(name: str, toml: str) -> None:
    """Raise a `StoreError` if another study has this name."""
    path = studies_folder(Queue()) / f"{name}.toml"
    if (SHIPPED_STUDIES / f"{name}.toml").exists():
        raise StoreError(f"A study called {name} comes with the app: choose another name.")
    if path.exists():
        if path.read_text(encoding="utf-8") != toml:
            raise StoreError(f"There is another study called {name}: choose another name.")
        return
    try:
        published = reads.studies()
    except StoreError:
        published = {}
    if name == "demo" or name in published:
        raise StoreError(f"There are results of another study called {name}: choose another name.")


def write_study(name: str, toml: str) -> Path:
    """Write a study file that is whole or not there, and read it back.

    Raises:
        StoreError: another study has this name, or the folder cannot be written.
        SpecError: what was written is no study.
        AccessError: who is looking may not.
    """
    check_name(name, toml)
    return actions.save_study(studies_folder(Queue()), name, toml)


def _save(name: str, toml: str) -> Path | None:
    try:
        path = write_study(name, toml)
    except DarkMatterError as error:
        st.session_state["jobs.error"] = str(error)
        return None
    st.session_state[SAVED] = True
    return path


def _start(name: str, toml: str) -> None:
    path = _save(name, toml)
    if path is not None:
        st.session_state.pop(SAVED)
        start(path, "sweep")
