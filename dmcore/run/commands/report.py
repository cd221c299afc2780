"""`report`: a study as one HTML file that can be sent, with its tables and pictures as a zip."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcore.errors import DarkMatterError, StoreError
from dmcore.places import DEMO
from dmcore.run.commands.shared import resolve_study, say
from dmcore.store.fingerprint import content_key
from dmcore.store.published import index_of
from dmcore.store.store import Store

if TYPE_CHECKING:
    from dmcore.report.subject import Subject


def register(commands: Any) -> None:
    """Add the command."""
    report = commands.add_parser("report", help="a study as one HTML file that opens without network")
    report.add_argument("study", help="a study file, or: demo")
    report.add_argument("-o", "--out", type=Path, default=Path("report.html"), metavar="FILE", help="(report.html)")
    report.add_argument(
        "--tables", type=Path, default=None, metavar="FILE", help="a zip of its tables and pictures as well"
    )
    report.add_argument("--sae", default=None, help="for the charts of single SAEs; its name or the end of it (the base of "
                        "[parts], or one in the middle)")  # fmt: skip
    report.add_argument("--compare", default=None, metavar="STUDY", help="another study, beside this one")
    report.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from dmcore.report.archive import archive
    from dmcore.report.build import build
    from dmcore.report.compare import comparison_html
    from dmcore.report.html import report_html

    for path in filter(None, (arguments.out, arguments.tables)):
        check_file(path)
    if arguments.tables is not None and arguments.tables.absolute() == arguments.out.absolute():
        raise DarkMatterError(f"{arguments.out} cannot be the report and its tables too: give --tables another name.")
    report = build(opened(arguments.study, arguments.sae))
    other = None if arguments.compare is None else build(opened(arguments.compare, None))
    text = report_html(report) if other is None else comparison_html(report, other)
    write(arguments.out, text.encode())
    if arguments.tables is not None:
        write(arguments.tables, archive(report))
    return 0


def opened(name: str, sae: str | None) -> Subject:
    """The results of a study that is given by its file."""
    from dmcore.report.subject import open_subject

    study = resolve_study(name)
    store = Store()
    shown = index_of(study.name, store)
    if shown is not None and shown.key != content_key(study.to_dict()):
        raise StoreError(f"{name} is not as it was when {study.name} was swept last: sweep it again, then report it.")
    text = (DEMO if name == "demo" else Path(name)).read_text(encoding="utf-8")
    return open_subject(study.name, sae, text, store)


def check_file(path: Path) -> None:
    """Before any work: whether a file can be written there.

    Raises:
        DarkMatterError: it is a folder, or its folder does not exist.
    """
    if path.is_dir():
        raise DarkMatterError(f"{path} is a folder: name a file in it, e.g. -o {path / 'report.html'}.")
    if not path.parent.is_dir():
        raise DarkMatterError(f"There is no folder {path.parent}: make it, or name another file.")


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and say how large it is."""
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    say(f"{path}: {len(content) / 2**20:.1f} MiB")
