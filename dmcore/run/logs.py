"""Logs, configured in one place for the command line, the worker, its jobs and the app.

1. Text, or one JSON object a line (`--log-format json`, or `DMCORE_LOG=json`): time (UTC, ISO 8601), level, logger, message, the
   process, and where they are known job, study and SAE.
2. A line is one line whatever is in it: control and bidirectional characters are escaped, so that the title of a study, or a
   server's answer, can neither forge a line nor turn one around.
3. Secrets are masked: what the environment holds under a name like TOKEN or KEY, and whatever looks like a token.
4. With `--log-file` (`DMCORE_LOG_FILE=1`) the same lines go to `jobs/dmcore.log` of the cache too, which is kept short.

Processes that are started inherit all of it through the environment.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dmcore.errors import DarkMatterError

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
FORMAT_VARIABLE, LEVEL_VARIABLE, FILE_VARIABLE = "DMCORE_LOG", "DMCORE_LOG_LEVEL", "DMCORE_LOG_FILE"
FILE_NAME = "dmcore.log"
FILE_BYTES, FILES_KEPT = 10 * 2**20, 5
MOST_CHARACTERS = 20_000
"""Of a message or a traceback in a line."""
MASK = "***"
_SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|PRIVATE_KEY|_KEY|CREDENTIAL)", re.IGNORECASE
)
_SECRET_LOOKS = re.compile(
    r"hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{16,}|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_KNOWN: dict[str, str] = {}
"""What is true of the whole process: its job, its study."""
_ABOUT: ContextVar[dict[str, str] | None] = ContextVar("about", default=None)


@dataclass(frozen=True)
class LogSettings:
    """How to log."""

    format: str = "text"
    """Of `FORMATS`."""
    level: str = ""
    """Of `LEVELS`; empty for what suits the process."""
    to_file: bool = False
    """Whether lines go to a file of the cache too."""

    @classmethod
    def of_environment(cls) -> LogSettings:
        """As the environment says.

        Raises:
            DarkMatterError: it names a format or a level that there is not.
        """
        kind = os.environ.get(FORMAT_VARIABLE, "").strip().lower() or "text"
        level = os.environ.get(LEVEL_VARIABLE, "").strip().lower()
        if kind not in FORMATS:
            raise DarkMatterError(f"{FORMAT_VARIABLE} is neither text nor json: set it anew, or unset it.")
        if level and level not in LEVELS:
            raise DarkMatterError(f"{LEVEL_VARIABLE} is none of {', '.join(LEVELS)}: set it anew, or unset it.")
        return cls(kind, level, os.environ.get(FILE_VARIABLE, "").strip() not in {"", "0"})


def configure(
    role: str, settings: LogSettings, *, level: str = "warning", bare: bool = False, root: Path | None = None
) -> None:
    """Set up the logs of this process, in place of what was set up before.

    Args:
        role: `cli`, `worker`, `job` or `app`; a field of every JSON line.
        settings: how.
        level: of dmcore's own loggers where the settings name none; those of libraries are at `warning` or above.
        bare: text as the message alone, for a terminal.
        root: the cache folder, for the file.
    """
    top = logging.getLogger()
    for handler in [one for one in top.handlers if isinstance(one, _Stderr | SharedFile)]:
        top.removeHandler(handler)
    if top.handlers and settings == LogSettings():
        return  # a program that uses dmcore has set up its own, and asked for nothing else
    as_json = settings.format == "json"
    handlers: list[logging.Handler] = [_Stderr()]
    handlers[0].setFormatter(JsonFormatter(role) if as_json else TextFormatter(bare=bare and not settings.level))
    if settings.to_file and root is not None:
        handlers.append(SharedFile(root / "jobs" / FILE_NAME))
        handlers[1].setFormatter(JsonFormatter(role) if as_json else TextFormatter())
    for handler in handlers:
        top.addHandler(handler)
    chosen = logging.getLevelName((settings.level or level).upper())
    top.setLevel(max(chosen, logging.WARNING))
    logging.getLogger("dmcore").setLevel(chosen)


class _Stderr(logging.StreamHandler):
    """Writes to what stderr is when a line is written."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Where to."""
        return sys.stderr


def is_json() -> bool:
    """Whether this process logs JSON lines."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def note(**known: str) -> None:
    """Say what is true of the whole process from now on: `job`, `study`."""
    _KNOWN.update({name: value for name, value in known.items() if value})


def forget() -> None:
    """Unsay what `note` has said."""
    _KNOWN.clear()


@contextmanager
def about(**known: str) -> Iterator[None]:
    """Say what is true inside the block: `sae`."""
    token = _ABOUT.set({**(_ABOUT.get() or {}), **known})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def one_line(text: str) -> str:
    """Text without secrets, on one line, its control and bidirectional characters escaped: `a\\nb`."""
    shown = mask(text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} (cut)")
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), shown)


def mask(text: str) -> str:
    """Text without what the environment holds as secrets, and without what looks like a token."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name) and not Path(value).is_absolute():
            text = text.replace(value, MASK)
    return _SECRET_LOOKS.sub(MASK, text)


class TextFormatter(logging.Formatter):
    """`05:12:33 warning dmcore.store: message`, or the message alone; a traceback's lines begin with `  | `."""

    def __init__(self, *, bare: bool = False) -> None:
        super().__init__()
        self._bare = bare

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, and its traceback below."""
        line = one_line(record.getMessage())
        if not self._bare:
            line = f"{datetime.fromtimestamp(record.created, UTC):%H:%M:%S} {line}"
        trace = self._trace(record)
        return "\n".join([line, *(f"  | {one_line(part)}" for part in trace.split("\n"))]) if trace else line

    def _trace(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info).rstrip() if record.exc_info else ""


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """The record as an object."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": one_line(record.getMessage()),
            "role": self._role,
            "pid": record.process,
        }
        line |= {name: one_line(str(value)) for name, value in {**_KNOWN, **(_ABOUT.get() or {})}.items()}
        if record.exc_info:
            line["exception"] = mask(self.formatException(record.exc_info))[:MOST_CHARACTERS]
        return json.dumps(line, ensure_ascii=True)


class SharedFile(logging.Handler):
    """A file that several processes append to, a line at a time; a long one is moved aside by whoever finds it so."""

    def __init__(self, path: Path, limit: int = FILE_BYTES, kept: int = FILES_KEPT) -> None:
        super().__init__()
        self.path, self._limit, self._kept = path, limit, kept

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line; a disk that refuses it must not end the work."""
        try:
            line = (self.format(record) + "\n").encode("utf-8", errors="backslashreplace")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, line)
                size = os.fstat(file).st_size
            finally:
                os.close(file)
            if size > self._limit:
                self._rotate()
        except OSError:
            return

    def _rotate(self) -> None:
        try:
            with FileLock(self.path.with_suffix(".log.lock"), timeout=0):
                if self.path.stat().st_size <= self._limit:  # another process was first
                    return
                for number in range(self._kept - 1, 0, -1):
                    older = self.path.with_suffix(f".log.{number}")
                    if older.exists():
                        older.replace(self.path.with_suffix(f".log.{number + 1}"))
                self.path.replace(self.path.with_suffix(".log.1"))
        except Timeout:
            return


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command takes."""
    group = parser.add_argument_group("logs, before or after COMMAND")
    group.add_argument(
        "--log-format", choices=FORMATS, help=f"text, or one JSON object a line ({FORMAT_VARIABLE}, or text)"
    )
    group.add_argument("--log-level", choices=LEVELS, help=f"from which level on ({LEVEL_VARIABLE})")
    group.add_argument(
        "--log-file", action="store_true", help=f"to jobs/{FILE_NAME} of the cache too ({FILE_VARIABLE}=1)"
    )


def take_options(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[LogSettings, list[str]]:
    """The settings that the options of a command line ask for, else the environment; and the command line without them.

    Raises:
        DarkMatterError: there is no such format or level.
    """
    add_options(parser)
    given, rest = parser.parse_known_args(argv)
    kept = LogSettings.of_environment()
    for variable, value in ((FORMAT_VARIABLE, given.log_format), (LEVEL_VARIABLE, given.log_level)):
        if value:
            os.environ[variable] = value
    if given.log_file:
        os.environ[FILE_VARIABLE] = "1"
    return LogSettings(
        given.log_format or kept.format, given.log_level or kept.level, given.log_file or kept.to_file
    ), rest
