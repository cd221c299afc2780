"""Contexts: the token file of a study, (n_contexts, context_length) token ids of equal length."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmcore.errors import SpecError
from dmcore.specs import Study
from dmcore.store.fingerprint import file_sha256, files_fingerprint

TOKENS = "tokens.npy"
SIDECAR = "contexts.json"


@dataclass(frozen=True)
class Contexts:
    """Token ids, mapped from disk."""

    tokens: np.ndarray
    """(n_contexts, context_length) unsigned integers."""
    fingerprint: str
    """Hash of the token file and its sidecar."""

    @property
    def n_contexts(self) -> int:
        """Texts."""
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        """Tokens in each text."""
        return self.tokens.shape[1]


def load_contexts(study: Study) -> Contexts:
    """The contexts of a study.

    Raises:
        SpecError: a file is missing or is not what it should be, the tokens were made by another tokenizer, or a context
            has no position left after the skipped ones.
    """
    folder = study.resolve(study.texts.path)
    fingerprint = files_fingerprint(folder, [TOKENS, SIDECAR])
    try:
        tokens = np.load(folder / TOKENS, mmap_mode="r", allow_pickle=False)
        sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{folder} holds no readable token file ({error}): build the texts again.") from error
    if tokens.ndim != 2 or tokens.dtype.kind not in "ui" or tokens.size == 0:
        raise SpecError(
            f"{folder / TOKENS} has shape {tokens.shape} and type {tokens.dtype}: integers of shape "
            "(n_contexts, context_length) are needed."
        )
    if study.settings.skip_positions >= tokens.shape[1]:
        raise SpecError(
            f"skip_positions is {study.settings.skip_positions}, but contexts have {tokens.shape[1]} tokens: lower it."
        )
    _check_tokenizer(study, sidecar, folder)
    return Contexts(tokens, fingerprint)


def _check_tokenizer(study: Study, sidecar: object, folder: Path) -> None:
    expected = sidecar.get("tokenizer") if isinstance(sidecar, dict) else None
    tokenizer = study.resolve(study.model.path) / "tokenizer.json" if study.model.path else None
    if not expected or tokenizer is None or not tokenizer.is_file():
        return
    if file_sha256(tokenizer) != expected:
        raise SpecError(
            f"The texts in {folder} were made with another tokenizer than the model's: tokenise them again."
        )
