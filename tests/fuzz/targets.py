"""Everything that is fuzzed, by name: what is drawn, what takes it, and its share of the cases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import arrays, commands, entries, folders, links, studies
from tests.fuzz.oracle import Sandbox
from tests.pages.fake_results import write_fake_study


@dataclass(frozen=True)
class Target:
    """One kind of input."""

    cases: st.SearchStrategy[Any]
    take: Callable[[Any], Any]
    share: float
    """Of all cases."""
    slow: bool = False
    """Whether a case takes more than a hundredth of a second or so."""


@contextmanager
def place(folder: Path) -> Iterator[Sandbox]:
    """A sandbox as the working, home and cache folder of this process, with a made-up study in the cache."""
    sandbox = Sandbox.make(folder / "outer")
    studies.place(sandbox.studies)
    write_fake_study(sandbox.cache)
    kept, here = dict(os.environ), Path.cwd()
    os.environ |= {"DMCORE_CACHE": str(sandbox.cache), "HOME": str(sandbox.outer / "home"), "HF_HUB_OFFLINE": "1"}
    os.chdir(sandbox.outer / "home" / "work")
    try:
        yield sandbox
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ |= kept


def all_targets(sandbox: Sandbox, sound: Path) -> dict[str, Target]:
    """The targets. `sound`: a cache with a made-up study, that is copied for each case that hurts one."""
    return {
        "study values": Target(studies.values, lambda case: studies.read(case, sandbox), 0.20),
        "study files": Target(studies.files, lambda case: studies.read(case, sandbox), 0.10),
        "links": Target(links.links(), links.follow, 0.17),
        "pages": Target(links.pages(), lambda case: links.open_page(*case), 0.03, slow=True),
        "names": Target(entries.names, lambda case: entries.look_up(case, sandbox), 0.05),
        "cache files": Target(
            entries.hurts(sound), lambda case: entries.read_hurt(sound, case, sandbox), 0.10, slow=True
        ),
        "activations": Target(arrays.errors(), arrays.decompose, 0.10),
        "laws": Target(arrays.laws(), arrays.fit_law, 0.05, slow=True),
        "tokens": Target(folders.hurts(("tokens",)), lambda case: folders.open_hurt(case, sandbox.studies), 0.05),
        "SAEs": Target(
            folders.hurts(("saelens", "gemma", "gemma 2", "llama")),
            lambda case: folders.open_hurt(case, sandbox.studies),
            0.10,
        ),
        "commands": Target(commands.lines(), commands.run, 0.05, slow=True),
    }
