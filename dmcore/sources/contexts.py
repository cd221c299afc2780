"""Contexts: the token ids of a study, (n_contexts, context_length) of equal length.

They are read from a folder (`path`), or made once from local files or a data set and kept in the store.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from dmcore.errors import SpecError
from dmcore.places import DEMO
from dmcore.progress import Reporter
from dmcore.sources.hub import file_of_commit, resolve_commit
from dmcore.sources.model_files import most_positions, read_model_config, vocabulary_size
from dmcore.sources.texts import read_documents
from dmcore.sources.texts_contexts import DOMAINS, SIDECAR, TOKENS, TooFewTextsError, make_contexts
from dmcore.specs import Study, TextsSpec, spec_dict
from dmcore.store.fingerprint import content_key, file_sha256, files_fingerprint
from dmcore.store.store import Entry, Store

__all__ = ["Contexts", "TooFewTextsError", "contexts_spec", "find_contexts", "load_contexts", "tokenizer_fingerprint"]

STAGE, VERSION = "contexts", 1
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
"""Files that a tokenizer may consist of."""


@dataclass(frozen=True)
class Contexts:
    """Token ids, mapped from disk."""

    tokens: np.ndarray
    """(n_contexts, context_length) unsigned integers."""
    fingerprint: str
    """Hash of the tokens, their domains, and (in a folder) the sidecar."""
    domains: np.ndarray | None = None
    """(n_contexts, context_length) numbers into `domain_names`; None if the texts have no domains."""
    domain_names: tuple[str, ...] = ()
    """By number."""
    documents: tuple[str, ...] = ()
    """The document of each context, where a folder says so; empty if it does not, or for contexts of several documents."""

    @property
    def n_contexts(self) -> int:
        """Texts."""
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        """Tokens in each text."""
        return self.tokens.shape[1]


def load_contexts(
    study: Study, store: Store | None = None, reporter: Reporter | None = None, texts: TextsSpec | None = None
) -> Contexts:
    """The contexts of a study; made if they are to be made and are not there.

    Args:
        study: whose model's tokenizer is used.
        store: where made contexts are kept; the default one if None.
        reporter: told of progress, and asked whether to stop.
        texts: other texts than the study's, for instance those to train on.

    Raises:
        TooFewTextsError: the texts end early; says how many contexts they give.
        SpecError: a file is missing or is not what it should be, the tokens were made by another tokenizer, or a context has
            no position left after the skipped ones.
    """
    texts = texts or study.texts
    if texts.path:
        return _load_folder(study, texts)
    check_length(study, texts, texts.context_length)
    store = store or Store()
    spec = contexts_spec(study, store, texts)

    def make(folder: Path) -> None:
        from dmcore.sources.models import load_tokenizer

        config = read_model_config(study)
        make_contexts(
            folder,
            read_documents(study, texts),
            texts,
            load_tokenizer(study),
            reporter or Reporter(),
            n_vocabulary=vocabulary_size(config) if config else None,
            about={"tokenizer": _tokenizer_sha256(study), "source": texts.dataset or texts.files},
        )

    return _read_entry(store.get_or_make(STAGE, spec, make))


def find_contexts(study: Study, store: Store, texts: TextsSpec | None = None) -> Contexts | None:
    """The contexts if they are there; never makes them.

    Raises:
        SpecError: a file that the study names is missing or is not what it should be.
    """
    texts = texts or study.texts
    if texts.path:
        return load_contexts(study, store, texts=texts)
    check_length(study, texts, texts.context_length)
    entry = store.find(STAGE, content_key(contexts_spec(study, store, texts)))
    return _read_entry(entry) if entry else None


def contexts_spec(study: Study, store: Store, texts: TextsSpec | None = None) -> dict[str, Any]:
    """What made contexts are made from; its `content_key` is their entry's.

    Local files count by their bytes, wherever they are; a data set by its name and revision.

    Raises:
        SpecError: local files, or the model's tokenizer, are missing.
    """
    texts = texts or study.texts
    memory = store.root / "fingerprints"
    content = {name: value for name, value in spec_dict(texts).items() if name not in {"path", "files"}}
    if texts.files:
        from dmcore.sources.texts_files import texts_fingerprint

        content["files"] = texts_fingerprint(study.resolve(texts.files), memory)
    return {"stage": STAGE, "version": VERSION, "texts": content, "tokenizer": tokenizer_fingerprint(study)}


def tokenizer_fingerprint(study: Study) -> str:
    """Hash of a local tokenizer's files, or of the id and the commit that it means.

    Raises:
        SpecError: the folder has no tokenizer.
    """
    spec = study.model
    if spec.id:
        return content_key({"id": spec.id, "revision": resolve_commit(spec.id, spec.revision) or spec.revision})
    folder = study.resolve(spec.path)
    names = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not names:
        raise SpecError(f"{folder} has no tokenizer (tokenizer.json): put the model's own there.")
    return files_fingerprint(folder, names)


def check_length(study: Study, texts: TextsSpec, length: int) -> None:
    """Raise a SpecError where contexts are longer than the model can read, or all of their positions are skipped."""
    config = read_model_config(study)
    most = most_positions(config) if config else None
    if most is not None and length > most:
        raise SpecError(
            f"Contexts of {length:,} tokens are asked for, but the model has {most:,} positions: lower context_length."
        )
    skip = study.settings.skip_positions
    if texts is study.texts and skip >= length:
        raise SpecError(f"skip_positions is {skip}, but contexts have {length} tokens: lower it.")


def _load_folder(study: Study, texts: TextsSpec) -> Contexts:
    folder = study.resolve(texts.path)
    if not folder.is_dir() and folder.is_relative_to(DEMO.parent):
        raise SpecError("The demo's texts for training do not come with it: `python -m dmcore.demo build` makes them.")
    names = [TOKENS, SIDECAR, *([DOMAINS] if (folder / DOMAINS).is_file() else [])]
    contexts = _read(folder, files_fingerprint(folder, names))
    check_length(study, texts, contexts.length)
    _check_tokenizer(study, folder)
    config = read_model_config(study)
    size = vocabulary_size(config) if config else None
    if size is not None and int(contexts.tokens.max()) >= size:
        raise SpecError(
            f"The texts in {folder} have the token id {int(contexts.tokens.max()):,}, but the model knows {size:,} tokens: "
            "tokenise them again with the model's tokenizer."
        )
    return contexts


def _read_entry(entry: Entry) -> Contexts:
    """Made contexts count by their tokens, not by what they were made from: the branch of a data set may move."""
    hashes = {name: file["sha256"] for name, file in entry.manifest.files.items() if name in {TOKENS, DOMAINS}}
    return _read(entry.path, content_key(hashes))


def _read(folder: Path, fingerprint: str) -> Contexts:
    try:
        tokens = np.load(folder / TOKENS, mmap_mode="r", allow_pickle=False)
        sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        has_domains = (folder / DOMAINS).is_file()
        domains = np.load(folder / DOMAINS, mmap_mode="r", allow_pickle=False) if has_domains else None
    except (OSError, ValueError, EOFError, TokenError, RecursionError) as error:
        # numpy reads a header as Python: what has no end there is a TokenError
        raise SpecError(f"{folder} holds no readable token file ({error}): build the texts again.") from error
    if tokens.ndim != 2 or tokens.dtype.kind not in "ui" or tokens.size == 0:
        raise SpecError(
            f"{folder / TOKENS} has shape {tokens.shape} and type {tokens.dtype}: integers of shape "
            "(n_contexts, context_length) are needed."
        )
    listed = sidecar.get("domains", ()) if isinstance(sidecar, dict) else ()
    if not isinstance(listed, list | tuple):
        raise SpecError(f"{folder / SIDECAR} has domains that are no list of names: build the texts again.")
    names = tuple(map(str, listed))
    if domains is not None and (domains.shape != tokens.shape or int(domains.max()) >= len(names)):
        raise SpecError(f"{folder / DOMAINS} does not fit the tokens or the names of domains: build the texts again.")
    documents = sidecar.get("documents", ()) if isinstance(sidecar, dict) else ()
    one_each = isinstance(documents, list) and len(documents) == len(tokens)
    return Contexts(
        tokens,
        fingerprint,
        domains,
        names if domains is not None else (),
        tuple(str(name) for name in documents) if one_each else (),
    )


def _tokenizer_sha256(study: Study) -> str | None:
    """Hash of the model's `tokenizer.json`; None if it has none, or it is not here yet."""
    spec = study.model
    if spec.path:
        path = study.resolve(spec.path) / "tokenizer.json"
    else:
        commit = resolve_commit(spec.id, spec.revision)
        path = file_of_commit(spec.id, "tokenizer.json", commit) if commit else None
    return file_sha256(path) if path and path.is_file() else None


def _check_tokenizer(study: Study, folder: Path) -> None:
    sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    expected = sidecar.get("tokenizer") if isinstance(sidecar, dict) else None
    actual = _tokenizer_sha256(study) if expected else None
    if expected and actual and actual != expected:
        raise SpecError(
            f"The texts in {folder} were made with another tokenizer than the model's: tokenise them again."
        )
