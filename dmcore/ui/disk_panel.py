"""What the cache holds, and deleting from it: sizes by stage and study, what a deletion frees, before and after it."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dmcore.errors import DarkMatterError
from dmcore.results.columns import mapped
from dmcore.run.estimates.words import bytes_text
from dmcore.run.jobs.disk import Holding, in_use
from dmcore.run.jobs.files import leftovers
from dmcore.run.jobs.queue import Queue
from dmcore.store.disk import free_bytes, in_words
from dmcore.store.leftovers import DAMAGED, set_aside, size_of
from dmcore.store.store import default_root
from dmcore.ui import actions, reads
from dmcore.ui.sign_in import why_not
from dmcore.ui.table import show_table
from dmcore.words.names import plain

STAGES = {
    "summary": "what an SAE's error is made of; every page",
    "index": "the list of a study's results; every page",
    "activations": "the model's activations; made again by running the model",
    "losses": "loss and entropy of each token; made again by running the model",
    "inputs": "moments of the activations",
    "codes": "which features are active; made again from activations and SAE",
    "targets": "moments of the errors; made again from the codes",
    "split": "every token's split; made again from codes and moments",
    "norms": "tests of norms; made again from splits",
    "scaling": "SAEs of a site compared; page Scaling",
    "part": "one SAE on a part of an SAE's error",
    "parts": "SAEs on the parts of an SAE's error; page Nonlinear error",
    "features": "an SAE's latents and their examples; page Nonlinear error",
    "learned": "latents on the parts beside the SAE's own; page Nonlinear error",
    "detection": "how well latents can be told from the text; page Nonlinear error",
    "structure": "spectra, directions and clusters of an error; page Nonlinear error",
    "reduction": "what makes an error smaller; page Error reduction",
    "downstream": "what an error costs the model; page Downstream",
    "controls": "controls of an SAE's numbers; page Controls",
    "shrinkage": "what the linear map is; page Controls",
    "transfer": "where maps hold; page Controls",
    "synthetic": "errors planted in an SAE; page Synthetic",
    "ground-truth": "activations of known features; page Synthetic",
    "contexts": "tokens of the texts; made again from the texts",
}
"""What each stage is, for who decides whether to delete it. What a page names was computed for it, and can be again."""
SAFE = ("activations", "codes", "targets", "split", "inputs", "losses")
"""Stages without which the pages still show every result."""
EVERY_STUDY = "All studies"
NO_STUDY = "No study"
_DONE = "disk.done"


def draw_disk() -> None:
    """Draw the panel."""
    queue = Queue()
    held = reads.disk()
    free = free_bytes(queue.root)
    left = "its disk does not say how much is free" if free is None else f"**{bytes_text(free)}** of its disk are free"
    total = sum(h.size for h in held)
    st.markdown(f"The cache holds **{bytes_text(total)}** in {len(held):,} entries; {left}.")
    st.caption(f"It is the folder {plain(str(queue.root))}.")
    _said()
    if not held:
        st.info("The cache is empty: it fills when a study runs.", icon=":material/inbox:")
    else:
        _table(held)
        _choice(queue, held, total)
    _unfinished(queue)
    _damaged(queue)


def _table(held: list[Holding]) -> None:
    rows = pl.DataFrame(
        [{"study": _study(h), "stage": h.stage, "size": h.size, "shipped": h.shipped} for h in held],
        schema={"study": pl.String, "stage": pl.String, "size": pl.Int64, "shipped": pl.Boolean},
    )
    table = (
        rows.group_by("study", "stage")
        .agg(pl.len().alias("entries"), pl.col("size").sum(), pl.col("shipped").any())
        .sort("size", descending=True)
        .with_columns(shipped=pl.when("shipped").then(pl.lit("shipped with the app")).otherwise(pl.lit("")))
    )
    table = table.with_columns(
        mapped(table["size"], bytes_text), mapped(table["stage"], lambda stage: STAGES.get(stage, "")).alias("what")
    )
    shipped = ["shipped"] if any(h.shipped for h in held) else []
    show_table(
        table.select("study", "stage", "entries", "size", "what", *shipped),
        hide_index=True,
        height=min(38 + 35 * len(table), 420),
        column_config={"study": "Study", "stage": "Stage", "entries": "Entries", "size": "Size",
                       "what": st.column_config.TextColumn("What it is", width="large"), "shipped": ""},
    )  # fmt: skip


def _study(holding: Holding) -> str:
    return ", ".join(sorted(holding.studies)) or NO_STUDY


def _choice(queue: Queue, held: list[Holding], total: int) -> None:
    st.markdown("#### Free space")
    names = sorted({name for h in held for name in h.studies})
    extra = [NO_STUDY] if any(not h.studies for h in held) else []
    left, right = st.columns([1, 2])
    study = left.selectbox("Study", [EVERY_STUDY, *names, *extra], key="disk.study", persist_state="session")
    # Only what no other study needs too: deleting for one study must not cost another.
    mine = [h for h in held if not h.shipped and _belongs(h, study)]
    sizes = {stage: sum(h.size for h in mine if h.stage == stage) for stage in sorted({h.stage for h in mine})}
    stages = right.multiselect(
        "Stages to delete",
        sorted(sizes, key=lambda stage: -sizes[stage]),
        format_func=lambda stage: f"{stage} ({bytes_text(sizes.get(stage, 0))})",
        key="disk.stages",
        persist_state="session",
        placeholder="Choose stages",
    )
    chosen = [h for h in mine if h.stage in stages]
    if not chosen:
        shared = sum(h.size for h in held if study in h.studies and len(h.studies) > 1)
        note = f" {bytes_text(shared)} that other studies use too are left out." if shared else ""
        st.caption(
            f"Results stay visible without {', '.join(SAFE[:4])}: a sweep makes them again when they are needed.{note}"
        )
        return
    freed = sum(h.size for h in chosen)
    st.markdown(f"This frees **{bytes_text(freed)}** in {len(chosen):,} entries: the cache goes from {bytes_text(total)} to "
                f"{bytes_text(total - freed)}.")  # fmt: skip
    if shown := [stage for stage in stages if " page" in STAGES.get(stage, "")]:
        again = "the study is swept again" if {"summary", "index"} & set(stages) else "they are made again"
        st.warning(
            f"Pages will no longer show these results until {again}: {', '.join(shown)}.", icon=":material/warning:"
        )
    running = [job.study for job in queue.jobs() if job.active]
    busy, grey = in_use(chosen, running), why_not()
    if busy:
        st.info("A job that waits or runs may need some of this: wait for it, or cancel it.", icon=":material/lock:")
    st.button(
        f"Delete {bytes_text(freed)}", icon=":material/delete:", type="primary", key="disk.delete",
        disabled=bool(busy) or grey is not None, help=grey, on_click=_delete, args=([(h.stage, h.entry.key) for h in chosen],),
    )  # fmt: skip


def _belongs(holding: Holding, study: str) -> bool:
    if study == EVERY_STUDY:
        return True
    return holding.studies == (frozenset() if study == NO_STUDY else frozenset({study}))


def _delete(keys: list[tuple[str, str]]) -> None:
    """As the button says; what a job has come to need since the page was drawn is refused."""
    try:
        with in_words(default_root()):
            st.session_state[_DONE] = f"{bytes_text(actions.delete_entries(keys))} freed."
    except DarkMatterError as error:
        st.session_state["jobs.error"] = str(error)
    st.session_state["disk.stages"] = []  # popped, the browser would go on showing what was chosen
    reads.forget()


def _unfinished(queue: Queue) -> None:
    size = leftovers(queue.root)
    if not size:
        return
    st.markdown("#### Unfinished work")
    st.caption(
        f"{bytes_text(size)} belong to captures that were stopped: the next run of the same study goes on from them. What a "
        "process is making now is never deleted."
    )
    grey = why_not()
    st.button("Delete unfinished work", icon=":material/delete:", key="disk.leftovers", on_click=_delete_leftovers,
              disabled=grey is not None, help=grey)  # fmt: skip


def _damaged(queue: Queue) -> None:
    found = set_aside(queue.root)
    if found:
        entries = "1 damaged entry was" if len(found) == 1 else f"{len(found)} damaged entries were"
        st.warning(
            f"{entries} moved to {plain(str(found[0].parent))} ({bytes_text(size_of(queue.root, DAMAGED))}): a sweep of the "
            "study makes them again. Look whether the disk is sound; `python -m dmcore cache rm damaged` deletes them.",
            icon=":material/warning:",
        )


def _delete_leftovers() -> None:
    try:
        with in_words(default_root()):
            st.session_state[_DONE] = f"{bytes_text(actions.delete_unfinished())} of unfinished work freed."
    except DarkMatterError as error:
        st.session_state["jobs.error"] = str(error)


def _said() -> None:
    done = st.session_state.pop(_DONE, None)
    if done:
        st.success(done, icon=":material/check:")
