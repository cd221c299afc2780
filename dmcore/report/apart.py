"""A report made in a process of its own, for the app: drawing charts holds Python's lock, and others look at pages meanwhile.

1. `start` writes what is asked into a folder of its own, and runs this module there.
2. The process writes `progress.json` (in words) as it draws, then `report.html` and `tables.zip`, each by one rename.
3. `Making` reads how far it is. The folder goes with it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dmcore.errors import DarkMatterError
from dmcore.legible import for_terminal
from dmcore.places import HOME
from dmcore.store.store import Store

HTML, TABLES, PROGRESS, ASKED = "report.html", "tables.zip", "progress.json", "asked.json"


@dataclass(frozen=True)
class Making:
    """A report that is being made, or is there."""

    place: tempfile.TemporaryDirectory[str]
    process: subprocess.Popen[bytes]

    @property
    def ended(self) -> bool:
        """Whether the process is over."""
        return self.process.poll() is not None

    @property
    def error(self) -> str:
        """Why there is none, in a sentence; empty where there is one."""
        if self.process.poll() in (None, 0):
            return ""
        lines = (self.folder / "errors.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "The report could not be made."

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return Path(self.place.name)

    @property
    def progress(self) -> tuple[str, int, int]:
        """What is done, in words; how much of it, and of how much."""
        try:
            told = json.loads((self.folder / PROGRESS).read_text(encoding="utf-8"))
            return str(told["words"]), int(told["done"]), int(told["total"])
        except (OSError, ValueError):
            return "Reading the results", 0, 0

    def read(self, name: str) -> bytes:
        """A file of a report that is there: `HTML` or `TABLES`."""
        return (self.folder / name).read_bytes()


def start(study_id: str, sae: str, study_text: str, root: Path) -> Making:
    """Begin to make the report of a study around an SAE, from the results under a folder."""
    place = tempfile.TemporaryDirectory(prefix="dmcore-report-")
    folder = Path(place.name)
    asked = {"study": study_id, "sae": sae, "text": study_text, "root": str(root)}
    (folder / ASKED).write_text(json.dumps(asked), encoding="utf-8")
    with (folder / "errors.txt").open("wb") as errors:
        process = subprocess.Popen([sys.executable, "-m", "dmcore.report.apart", str(folder)], cwd=HOME,
                                   stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)  # fmt: skip
    return Making(place, process)


def make(folder: Path) -> None:
    """What the process does: the report and its tables, as `ASKED` says."""
    from dmcore.report.archive import archive
    from dmcore.report.build import build
    from dmcore.report.html import report_html
    from dmcore.report.subject import open_subject

    asked = json.loads((folder / ASKED).read_text(encoding="utf-8"))

    def told(words: str, done: int, total: int) -> None:
        _write(folder / PROGRESS, json.dumps({"words": words, "done": done, "total": total}).encode())

    told("Reading the results", 0, 0)
    report = build(open_subject(asked["study"], asked["sae"], asked["text"], Store(Path(asked["root"]))))
    _write(folder / HTML, report_html(report, told).encode())
    told("Tables and pictures", 0, 0)
    _write(folder / TABLES, archive(report, told))


def _write(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".part")
    draft.write_bytes(content)
    draft.replace(path)


def results_stamp(store: Store, stages: tuple[str, ...]) -> str:
    """A name for the results that a store has now: of other results, or of newer ones, it is another."""
    found = hashlib.sha256()
    for stage in stages:
        for manifest in sorted((store.root / stage).glob("*/manifest.json")):
            found.update(f"{stage}/{manifest.parent.name}/{manifest.stat().st_mtime_ns}\n".encode())
    return found.hexdigest()[:16]


if __name__ == "__main__":
    try:
        make(Path(sys.argv[1]))
    except DarkMatterError as error:
        sys.stderr.write(f"error: {for_terminal(str(error))}\n")
        sys.exit(1)
