"""Documents: the texts of a study one after the other, from local files or a streamed Hugging Face data set.

1. Read documents lazily, in an order that does not depend on the file system.
2. Shuffle them with a buffer: the next is drawn among the `shuffle_buffer` that are waiting. The seed fixes the order.
3. Each comes with the name of its domain, if the study asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmcore.errors import DarkMatterError, SpecError
from dmcore.sources.hub import explain, token, without_waiting
from dmcore.specs import Study, TextsSpec

NO_DOMAIN = "(none)"
"""The domain of documents whose column is empty."""


@dataclass(frozen=True)
class Document:
    """A text."""

    text: str
    domain: str = NO_DOMAIN
    """Name of its domain."""


def read_documents(study: Study, texts: TextsSpec) -> Iterator[Document]:
    """The documents that `texts` names, shuffled as it says; the memory needed does not grow with their number.

    Raises:
        SpecError: there are no such files, data set or columns, or they cannot be read; at the latest when the document in
            question is reached.
    """
    if texts.dataset:
        return _read_dataset(texts)
    from dmcore.sources.texts_files import read_files

    return shuffled(read_files(study.resolve(texts.files), texts), texts.shuffle_buffer, texts.seed)


def shuffled(documents: Iterator[Document], buffer: int, seed: int) -> Iterator[Document]:
    """Draw each document among the `buffer` that wait, as `datasets.IterableDataset.shuffle` does; 0 or 1 keeps the order."""
    if buffer < 2:
        yield from documents
        return
    generator = np.random.default_rng(seed)
    waiting: list[Document] = []
    for document in documents:
        if len(waiting) < buffer:
            waiting.append(document)
            continue
        chosen = int(generator.integers(buffer))
        yield waiting[chosen]
        waiting[chosen] = document
    generator.shuffle(waiting)  # type: ignore[arg-type]
    yield from waiting


def row_document(row: dict[str, Any], texts: TextsSpec, where: str, domain: str | None = None) -> Document:
    """The document in a row of a table.

    Args:
        row: column names and values.
        texts: which columns hold the text and the domain.
        where: the table, for messages.
        domain: the domain, if it is known from elsewhere.

    Raises:
        SpecError: a column is missing, or the text is none.
    """
    text = column_value(row, texts.column, where, "column")
    if text is not None and not isinstance(text, str):
        raise SpecError(
            f"Column {texts.column!r} of {where} holds {type(text).__name__}, not text: give column one of "
            f"{_names(row)}."
        )
    if domain is None and texts.domain:
        value = column_value(row, texts.domain, where, "domain")
        domain = NO_DOMAIN if value is None or value == "" else str(value)
    return Document(_whole(text or ""), _whole(domain or NO_DOMAIN))


def _whole(text: str) -> str:
    """A text that UTF-8 can hold: JSON can write half a character, which tokenizers refuse."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def column_value(row: dict[str, Any], column: str, where: str, key: str) -> Any:
    """A column's value; dots lead into what is nested, unless a column has that very name."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if value is None:  # nothing is nested in this row
            return None
        if not isinstance(value, dict) or part not in value:
            raise SpecError(f"{where} has no column {column!r}: give {key} one of {_names(row)}.")
        value = value[part]
    return value


def _names(row: dict[str, Any]) -> str:
    names = []
    for name, value in row.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name]
    return ", ".join(names[:20]) or "its columns (it has none)"


def _read_dataset(texts: TextsSpec) -> Iterator[Document]:
    import datasets

    try:
        stream: Any = without_waiting(
            lambda: datasets.load_dataset(
                texts.dataset,
                name=texts.config or None,
                split=texts.split,
                revision=texts.revision,
                streaming=True,
                token=token(),
            )
        )
        if texts.shuffle_buffer > 1:
            stream = stream.shuffle(seed=texts.seed, buffer_size=texts.shuffle_buffer)
        for row in stream:
            yield row_document(row, texts, f"The data set {texts.dataset}")
    except DarkMatterError:
        raise
    except Exception as error:
        raise SpecError(explain(error, "data set", texts.dataset)) from error
