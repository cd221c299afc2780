"""Values by key in a file that only grows, one JSON object a line: what is written there survives a kill.

Several threads may write, and so may several processes: a line is one write at the end of the file. A line that was cut
short by a kill is left out when the file is read.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

from dmcore.errors import StoreError

log = logging.getLogger(__name__)


class Journal:
    """A dictionary from key to JSON value, kept in a file.

    Args:
        path: the file, made with its folders when the first value is written; None keeps nothing on disk.

    Raises:
        StoreError: the file cannot be read.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._values: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._is_torn = False
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror}): check its rights.") from error
        self._is_torn = bool(raw) and not raw.endswith(b"\n")
        left_out = 0
        for line in raw.split(b"\n"):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                self._values[record["key"]] = record["value"]
            except (ValueError, KeyError, TypeError, RecursionError):
                left_out += 1
        if left_out:
            log.warning("%d lines of %s are no records; they were left out.", left_out, path)

    def get(self, key: str) -> Any:
        """The value of a key; None where there is none."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value, in place of any that the key has.

        Raises:
            StoreError: the file cannot be written.
        """
        line = json.dumps({"key": key, "value": value}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._values[key] = value
            if self.path is None:
                return
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab", buffering=0) as file:
                    file.write(b"\n" + line if self._is_torn else line)
            except OSError as error:
                raise StoreError(
                    f"{self.path} cannot be written ({error.strerror}): free space, or set DMCORE_CACHE to another folder."
                ) from error
            self._is_torn = False
