"""What several commands share: the study argument, the device, output, the table of records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcore.errors import DarkMatterError, SpecError, StoreError
from dmcore.legible import for_terminal
from dmcore.places import DEMO, SHIPPED_STUDIES
from dmcore.specs import PRECISIONS, Study, load_study
from dmcore.store.store import default_root

if TYPE_CHECKING:
    from dmcore.run.looks.inspect import Inspector


def say(text: str) -> None:
    """Write a line of the command's own output; nothing in it is for the terminal to obey."""
    sys.stdout.write(for_terminal(text) + "\n")


def resolve_study(name: str) -> Study:
    """A study by the path of its file; `demo` is the embedded one.

    Raises:
        SpecError: it cannot be read; names the file that was meant where a study is called so.
    """
    try:
        return load_study(DEMO if name == "demo" else Path(name))
    except SpecError as error:
        meant = _file_called(name) if isinstance(error.__cause__, FileNotFoundError) else None
        if meant is None:
            raise
        raise SpecError(f"There is no file {name}: did you mean {meant}?") from error


def _file_called(name: str) -> Path | None:
    """The study file that a name without its folder or its ending stands for, from here if it is below."""
    places = [Path(f"{name}.toml")]
    if Path(name).name == name:
        file = f"{name.removesuffix('.toml')}.toml"
        places += [default_root() / "studies" / file, SHIPPED_STUDIES / file]
    found = next((place for place in places if place.is_file()), None)
    below = found is not None and found.is_relative_to(Path.cwd())
    return found.relative_to(Path.cwd()) if found is not None and below else found


def some_saes(study: Study) -> str:
    """The first names of a study's SAEs, for a sentence that asks for one."""
    names = [sae.name for sae in study.saes]
    return ", ".join(names[:3]) + (f" or {len(names) - 3} more" if len(names) > 3 else "")


def chosen_saes(inspector: Inspector, names: Sequence[str]) -> list[str]:
    """The SAEs that are meant, each once: those called so, or by the ends of their names; if none are, all with results.

    Raises:
        SpecError: the study has no such SAE.
        StoreError: there are none.
    """
    from dmcore.run.pipeline import finished_records

    study = inspector.study
    if names:
        return list(dict.fromkeys(study.sae_called(name).name for name in names))
    finished = [record["sae"] for record in finished_records(inspector.plan, inspector.store)]
    if not finished:
        raise StoreError(f"Nothing has been computed for {study.name}: sweep it first.")
    return finished


def over_saes(names: Sequence[str], work: Callable[[str], object]) -> list[str]:
    """Do some work for each SAE; returns a sentence for each that failed.

    Raises:
        DarkMatterError: there is but one, and it failed.
    """
    failures = []
    for name in names:
        try:
            work(name)
        except DarkMatterError as error:
            if len(names) == 1:
                raise
            failures.append(f"{name}: {error}")
    return failures


def say_aside(text: str) -> None:
    """Write a line that is not the command's output: of what was left out, or went wrong."""
    sys.stderr.write(for_terminal(text) + "\n")


def say_failures(failures: Sequence[str]) -> int:
    """Write them as errors; returns the exit status."""
    for failure in failures:
        say_aside(f"error: {failure}")
    return 1 if failures else 0


def device_named(name: str) -> Any:
    """A torch device; `auto` is the first GPU, or the CPU.

    Raises:
        DarkMatterError: there is no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DarkMatterError(f"There is no device {name!r} here: use --device cpu, or leave it out.") from error
    return device


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The option `--precision`."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=None,
        help="of the encoders' products; other than the study's: results of their own, under NAME-PRECISION (the study's)",
    )


COLUMNS = ("sae", "d_sae", "l0", "label", "fvu", "fvu_nonlinear", "r2_error", "r2_error_mean_dims", "r2_error_norm_sq")


def records_table(records: list[dict[str, Any]]) -> str:
    """Records as aligned text."""

    def text(value: Any) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [list(COLUMNS), *([text(record[column]) for column in COLUMNS] for record in records)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
