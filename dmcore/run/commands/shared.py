"""What several commands share: the study argument, the device, output, the table of records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dmcore.errors import DarkMatterError
from dmcore.specs import Study, load_study

DEMO = Path(__file__).parents[2] / "demo" / "artifacts" / "study.toml"


def say(text: str) -> None:
    """Write a line of the command's own output."""
    sys.stdout.write(text + "\n")


def resolve_study(name: str) -> Study:
    """A study by the path of its file; `demo` is the embedded one."""
    return load_study(DEMO if name == "demo" else Path(name))


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
