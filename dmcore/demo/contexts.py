"""The shipped contexts: `tokens.npy`, `contexts.json` that says where each one comes from, and the licence of the text."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import sysconfig
from pathlib import Path

import numpy as np

from dmcore.demo.scale import CONTEXT_LENGTH
from dmcore.demo.tokens import HeldOutContexts
from dmcore.training.checkpoints import write_json

_NOTICE = (
    "Excerpts of the CPython standard library, Copyright (c) 2001 onwards Python Software Foundation; all rights "
    "reserved. Distributed under the PSF licence agreement in LICENSE.txt; changed only by cutting it into tokens."
)


def write_contexts(folder: Path, contexts: HeldOutContexts, tokenizer_file: Path) -> None:
    """Write the folder; `contexts.json`, written last, marks it as complete."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", contexts.tokens)
    (folder / "LICENSE.txt").write_text(python_licence(), encoding="utf-8")
    description = {
        "tokenizer": hashlib.sha256(tokenizer_file.read_bytes()).hexdigest(),
        "context_length": CONTEXT_LENGTH,
        "n_contexts": len(contexts.tokens),
        "documents": list(contexts.documents),
        "source": f"CPython {platform.python_version()} standard library",
        "licence": "PSF-2.0",
        "notice": _NOTICE,
    }
    write_json(folder / "contexts.json", description)


def python_licence() -> str:
    """The licence text that came with this Python; where it came without, a pointer to it."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    for folder in (stdlib, Path(os.__file__).parent, Path(sys.base_prefix)):
        for name in ("LICENSE.txt", "LICENSE"):
            if (folder / name).is_file():
                return (folder / name).read_text(encoding="utf-8", errors="replace")
    return f"{_NOTICE}\nThe agreement: https://docs.python.org/{sys.version_info.major}/license.html\n"
