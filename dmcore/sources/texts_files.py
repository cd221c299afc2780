"""Local texts: a .txt, .jsonl or .parquet file, or a folder of them or of source files.

A .txt or source file is one document, a line of .jsonl (also as .jsonl.gz or .jsonl.zst) one, a row of .parquet one. In a
folder files are read in the order of their names; what is hidden, binary, no UTF-8, or (source files) above 5 MB is left out.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from dmcore.errors import SpecError
from dmcore.sources.texts import Document, row_document
from dmcore.specs import TextsSpec
from dmcore.store.fingerprint import content_key, files_fingerprint

COMPRESSIONS = {".jsonl.gz": "gzip", ".jsonl.zst": "zstd"}
TABLES = (".jsonl", *COMPRESSIONS, ".parquet")
LARGEST_SOURCE_FILE = 5_000_000
"""Bytes; a source file above that is generated, or data."""
REMEMBERED_FROM = 2**24
"""Bytes of a corpus above which its hash is remembered."""
ROWS_AT_ONCE = 256


def list_files(path: Path) -> tuple[Path, list[str]]:
    """The folder that names are relative to, and the names of the files to read, in order.

    Raises:
        SpecError: there is no such file or folder, or nothing in it that could be a text.
    """
    if path.is_file():
        if _ending(path) not in {".txt", *TABLES}:
            raise SpecError(
                f"{path} ends in {path.suffix or 'nothing'}: give a .txt, .jsonl or .parquet file (.jsonl also as "
                ".jsonl.gz or .jsonl.zst), or a folder."
            )
        return path.parent, [path.name]
    if not path.is_dir():
        raise SpecError(f"There is no {path}: check files in [texts].")
    names = []
    for root, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            file = Path(root, name)
            is_source = _ending(file) not in {".txt", *TABLES}
            if name.startswith(".") or not file.is_file() or (is_source and file.stat().st_size > LARGEST_SOURCE_FILE):
                continue
            names.append(file.relative_to(path).as_posix())
    if not names:
        raise SpecError(f"{path} has no text files: give a folder of .txt, .jsonl, .parquet or source files.")
    return path, sorted(names)


def _ending(path: Path) -> str:
    """How a file's name ends; both endings of a compressed table."""
    both = "".join(path.suffixes[-2:]).lower()
    return both if both in TABLES else path.suffix.lower()


def texts_fingerprint(path: Path, memory: Path | None = None) -> str:
    """Hash of the bytes and names of all files that are read.

    Args:
        path: the file or folder.
        memory: a folder in which the hash of a large corpus is remembered by the names, sizes and times of change of its
            files; None remembers nothing.

    Raises:
        SpecError: there are none, or one cannot be read.
    """
    folder, names = list_files(path)
    fingerprint = _fingerprint(folder, names, memory)
    if any(_ending(Path(name)) in COMPRESSIONS for name in names):  # which were passed over once, as binary files
        return content_key({"texts": fingerprint, "compressed": 1})
    return fingerprint


def _fingerprint(folder: Path, names: list[str], memory: Path | None) -> str:
    stats = [(folder / name).stat() for name in names]
    if memory is None or sum(stat.st_size for stat in stats) < REMEMBERED_FROM:
        return files_fingerprint(folder, names, memory)
    mark = [str(folder.resolve()), [[n, s.st_size, s.st_mtime_ns] for n, s in zip(names, stats, strict=True)]]
    note = memory / f"{content_key(mark)}.json"
    try:
        return json.loads(note.read_text(encoding="utf-8"))["texts"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    fingerprint = files_fingerprint(folder, names, memory)
    memory.mkdir(parents=True, exist_ok=True)
    temporary = note.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"texts": fingerprint}), encoding="utf-8")
    temporary.replace(note)
    return fingerprint


def read_files(path: Path, texts: TextsSpec) -> Iterator[Document]:
    """The documents of a file or folder, in order.

    Raises:
        SpecError: a file cannot be read, or lacks a column.
    """
    folder, names = list_files(path)
    for name in names:
        file = folder / name
        domain = _path_domain(name, texts.domain)
        try:
            if _ending(file).startswith(".jsonl"):
                yield from _read_jsonl(file, texts, domain)
            elif _ending(file) == ".parquet":
                yield from _read_parquet(file, texts, domain)
            else:
                yield from _read_text(file, texts, domain)
        except OSError as error:
            raise SpecError(f"Cannot read {file} ({error.strerror or error}): check files in [texts].") from error


def _path_domain(name: str, domain: str) -> str | None:
    """The domain of a document that is a file: its first folder, or how its name ends."""
    if domain == "folder":
        return name.split("/")[0] if "/" in name else "."
    if domain == "extension":
        return Path(name).suffix.lower() or Path(name).name
    return None


def _read_text(file: Path, texts: TextsSpec, domain: str | None) -> Iterator[Document]:
    if texts.domain and domain is None:
        raise SpecError(
            f"{file} is a text without columns, so it has no {texts.domain!r}: give domain as folder or extension, or "
            "leave it out."
        )
    data = file.read_bytes()
    if b"\0" in data:
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return
    yield Document(text, domain) if domain else Document(text)


def _read_jsonl(file: Path, texts: TextsSpec, domain: str | None) -> Iterator[Document]:
    number = 0
    with _open_lines(file) as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise SpecError(f"Line {number} of {file} holds no object: write one {{...}} a line.")
                yield row_document(row, texts, str(file), domain)
        except UnicodeDecodeError as error:
            raise SpecError(f"{file} is not UTF-8: convert it.") from error
        except SpecError:
            raise
        except OSError as error:
            if error.errno is not None:  # of the disk, not of what is on it
                raise
            raise SpecError(f"{file} is damaged after line {number:,} ({error}): copy or download it again.") from error
        except (ValueError, RecursionError) as error:  # no JSON, nested too deeply, or a number of thousands of digits
            said = getattr(error, "msg", str(error))[:120]
            raise SpecError(f"Line {number} of {file} is not valid JSON ({said}): write one object a line.") from error


def _open_lines(file: Path) -> TextIO:
    packed = COMPRESSIONS.get(_ending(file))
    if packed is None:
        return file.open(encoding="utf-8-sig")
    import pyarrow

    return io.TextIOWrapper(pyarrow.input_stream(file, compression=packed), encoding="utf-8-sig")  # type: ignore[arg-type]


def _read_parquet(file: Path, texts: TextsSpec, domain: str | None) -> Iterator[Document]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
        asked = [texts.column, *([texts.domain] if texts.domain and domain is None else [])]
        there = table.schema_arrow.names
        top = [name if name in there else name.split(".")[0] for name in asked]
        # A column that is missing is found by the row, which has all names then.
        columns = sorted(set(top)) if set(top) <= set(there) else None
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                yield row_document(row, texts, str(file), domain)
    except pyarrow.ArrowException as error:
        raise SpecError(f"{file} is no readable parquet file ({str(error)[:120]}): write it again.") from error
