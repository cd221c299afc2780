"""The empty state of a view whose result is made when it is asked for: what is missing, and what makes it."""

from __future__ import annotations

import streamlit as st


def draw_missing(what: str, command: str) -> None:
    """Say what has not been made, and the command that makes it.

    Args:
        what: begins a sentence: "The features of this SAE have".
        command: of `python -m dmcore`, with its arguments. It may hold a name of the study: it is shown as code.
    """
    code = command.replace("`", "'")  # Markdown is inert in code; a backtick would end it
    st.info(f"{what} not been made yet: run `python -m dmcore {code}`.", icon=":material/inbox:")
