"""The next SAE's file, read while one computes: on real data the disk is the floor of a sweep.

A thread reads the file's bytes and drops them, so that the system has them in its cache when the SAE is loaded; an SAE of a
release that is read here (Gemma Scope, Gemma Scope 2, Llama Scope) and not on disk yet is downloaded. Nothing here can fail a
sweep: what goes wrong shows when the SAE is loaded.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import torch

from dmcore.memory import available_memory
from dmcore.sources.sae_layouts import layout_files
from dmcore.sources.saes import release_folder
from dmcore.specs import SaeSpec, Study

log = logging.getLogger(__name__)

BLOCK = 2**23
SHARE_OF_MEMORY = 0.5
"""Largest file that is read ahead, as a share of the memory that is left: a larger one would push itself out."""


class Prefetch:
    """Reads one SAE's files in the background; a new `start` or `stop` ends the one before."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, study: Study, sae: SaeSpec) -> None:
        """Begin to read the files of an SAE."""
        self.stop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=_warm, args=(study, sae, self._stop), name="prefetch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Do not read on; waits for the block that is being read, not for a download."""
        self._stop.set()
        self._thread = None

    def wait(self) -> None:
        """Until the files have been read."""
        if self._thread is not None:
            self._thread.join()


def _warm(study: Study, sae: SaeSpec, stop: threading.Event) -> None:
    try:
        folder = release_folder(sae) if sae.release else study.resolve(sae.path) if sae.path else None
        if folder is None:
            return
        paths = [folder / name for name in layout_files(folder)]
        if sum(path.stat().st_size for path in paths) > SHARE_OF_MEMORY * available_memory(torch.device("cpu")):
            return
        for path in paths:
            _read(path, stop)
    except Exception as error:  # of the disk, of the hub, of its network library
        log.debug("Reading ahead of %s stopped: %s", sae.name, error)


def _read(path: Path, stop: threading.Event) -> None:
    block = bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while not stop.is_set() and file.readinto(block):
            pass
