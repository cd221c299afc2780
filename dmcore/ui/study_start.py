"""Studies that exist as files, each with a button that starts it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.places import DEMO, SHIPPED_STUDIES
from dmcore.run.engines import devices_for_jobs
from dmcore.run.jobs.queue import Queue
from dmcore.specs import Study, load_study
from dmcore.ui import actions, reads
from dmcore.ui.plan_panel import draw_plan
from dmcore.ui.sign_in import why_not
from dmcore.words.names import plain, short

CHECKED = "Sees that every result is there; nothing is computed twice."
NO_TEXTS = "The texts that it trains on are not on this machine."
UNTRAINED = "Its SAEs are not there yet: train them first."


def studies_folder(queue: Queue) -> Path:
    """Where studies that were put together on the page are kept."""
    return queue.root / "studies"


def study_files(queue: Queue) -> list[Path]:
    """The study files that the page offers: its own, those that come with the app, the demo."""
    own = sorted(studies_folder(queue).glob("*.toml"))
    return list(dict.fromkeys([*own, DEMO, *sorted(SHIPPED_STUDIES.glob("*.toml"))]))  # the cache may lie in the clone


def start(path: Path, kind: str, device: str = "auto") -> None:
    """Put a study into the queue and see that a worker is there; for use in a button's callback."""
    try:
        job = actions.submit(kind, path, device)
    except (DarkMatterError, OSError) as error:
        st.session_state["jobs.error"] = str(error)
        return
    reads.forget()
    st.session_state["runs.started"] = job.title
    st.session_state["show"] = "Jobs"


def draw_studies() -> None:
    """List the studies that can be started."""
    st.subheader("Start a study", anchor=False)
    queue = Queue()
    active = {(job.path, job.kind) for job in queue.jobs() if job.active}
    grey = why_not()
    device = _choose_device()
    for path in study_files(queue):
        try:
            study = load_study(path)
        except DarkMatterError as error:
            st.caption(f":material/error: {plain(str(error))}")
            continue
        with st.container(border=True, gap="xsmall"):
            _row(study, path, active, grey, device)


def _choose_device() -> str:
    """What sweeps are to run on; asked only where there is a choice."""
    offered = devices_for_jobs()
    if len(offered) == 1:
        return "auto"
    return st.selectbox(
        "Run sweeps on",
        list(offered),
        format_func=lambda device: plain(offered[device]),
        key="runs.device",
        help="On a Ray cluster shards of the texts and SAEs are worked on by all nodes at once; results and cache are the same.",
    )


def _no_texts_to_train(study: Study) -> bool:
    """Whether the study names a folder of tokens to train on that is not on this machine."""
    texts = [one.texts for one in (study.train, study.parts) if one is not None and one.texts is not None]
    return any(one.path and not study.resolve(one.path).is_dir() for one in texts)


def _untrained(study: Study) -> bool:
    """Whether SAEs that the study itself trains are not there yet: a sweep would only say so, some seconds later."""
    trained = study.train.saes() if study.train is not None else ()
    return any(not study.resolve(sae.path).is_dir() for sae in trained)


def _lacking(study: Study, kind: str) -> str | None:
    """What is not there that a job of this kind needs."""
    if kind == "sweep":
        return UNTRAINED if _untrained(study) else None
    return NO_TEXTS if _no_texts_to_train(study) else None


def _draw_delete(path: Path, busy: bool, grey: str | None) -> None:
    """Take a study that was put together here off the list, after asking."""
    with st.popover("Delete", icon=":material/delete:", type="tertiary", disabled=busy or grey is not None, help=grey):
        st.caption("The study's file is deleted. Its results stay until they are deleted under *Disk*.")
        st.button("Delete the study", key=f"delete.{path}", on_click=_delete, args=(path,))


def _delete(path: Path) -> None:
    try:
        actions.delete_study(studies_folder(Queue()), path.stem)
    except DarkMatterError as error:
        st.session_state["jobs.error"] = str(error)


def _row(study: Study, path: Path, active: set[tuple[str, str]], grey: str | None, device: str) -> None:
    n_have, n_saes = reads.n_results(study), len(study.saes)
    have = "all with results" if n_have >= n_saes else f"{n_have} with results" if n_have else "no results yet"
    words, buttons = st.columns([5, 2], vertical_alignment="center")
    words.markdown(f"**{plain(short(study.title))}**")
    model = plain(study.model.id) if study.model.id else "a model on this machine"
    words.caption(f"{plain(study.name)} · {model} · {n_saes} SAE{'s' if n_saes > 1 else ''}, {have}")
    kinds = [("sweep", "Check again" if n_have >= n_saes else "Start")]
    if study.train is not None or study.parts is not None:
        kinds.insert(0, ("train-saes", "Train SAEs"))
    with buttons.container(horizontal=True, horizontal_alignment="right"):
        for kind, label in kinds:
            busy = (str(path), kind) in active
            lacking = _lacking(study, kind)
            st.button(
                "In the queue" if busy else label,
                icon=":material/hourglass:" if busy else ":material/play_arrow:",
                key=f"start.{kind}.{path}",
                disabled=busy or lacking is not None or grey is not None,
                help=grey or lacking or (CHECKED if kind == "sweep" and n_have >= n_saes else None),
                on_click=start,
                args=(path, kind, device if kind == "sweep" else "auto"),
            )
        if path.parent == studies_folder(Queue()):
            _draw_delete(path, any(where == str(path) for where, _ in active), grey)
    # Estimated only where somebody looks.
    plan = st.expander("What it takes", key=f"plan.{path}", type="compact", on_change="rerun")
    if plan.open:
        with plan:
            draw_plan(study)
