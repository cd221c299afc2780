"""Command lines: any words after `python -m dmcore`, of commands that are quick to answer."""

from __future__ import annotations

import contextlib
import io

from hypothesis import strategies as st

from dmcore.run.cli import main
from tests.fuzz.values import texts

HEADS = (
    ["show"], ["plan"], ["scaling"], ["claims"], ["cache", "ls"], ["cache", "rm"], ["cache", "verify"], ["jobs", "ls"],
    ["jobs", "cancel"], ["jobs", "watch"], ["jobs", "submit"], ["features"], ["structure"], ["reduce"], ["shrinkage"], ["parts"],
    ["transfer"], ["catalogue"], [],
)  # fmt: skip
WORDS = ("--json", "--help", "--latent", "--search", "--contexts", "--by", "layer", "--workers", "--layer", "--release", "-1",
         "0", "1e9", "summary", "damaged", "nothing.toml", "--devices", "--tflops")  # fmt: skip


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """The words of a command line; no study that is there, so nothing is computed."""
    head = draw(st.sampled_from(HEADS))
    return [*head, *draw(st.lists(st.one_of(st.sampled_from(WORDS), texts), max_size=4))]


def run(words: list[str]) -> None:
    """An exit status, and one line of complaint at most."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            status = main(words)
        except SystemExit as request:
            status = request.code
    assert status in (0, 1, 2, None), f"exit status {status!r}"
    if status:
        complaint = said.getvalue()
        assert complaint.strip() and len(complaint.strip().splitlines()) == 1, f"not one line: {complaint[:300]!r}"
    assert "Traceback" not in said.getvalue()
