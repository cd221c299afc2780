"""Contexts of tokens: the training stream, and held-out contexts that each come from one file.

Every context is BOS and 255 tokens. Training contexts are cut from the documents laid end to end, EOS between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmcore.demo.corpus import Corpus, hash_fraction
from dmcore.demo.scale import CONTEXT_LENGTH, SEED, Scale
from dmcore.demo.source_file import SourceFile
from dmcore.demo.tokenizer import BOS_ID, EOS_ID
from dmcore.errors import DataError
from dmcore.progress import Reporter

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH_FILES = 256


@dataclass(frozen=True)
class HeldOutContexts:
    """Contexts of held-out files."""

    tokens: np.ndarray
    """(n_contexts, 256) uint16."""
    documents: tuple[str, ...]
    """The file of each context, relative to the standard library."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer in a model folder."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def training_contexts(corpus: Corpus, tokenizer: Tokenizer, reporter: Reporter) -> np.ndarray:
    """(n_contexts, 256) uint16: the whole stream cut into contexts, the contexts shuffled."""
    files = list(corpus.documents())
    pieces: list[np.ndarray] = []
    with reporter.stage("tokenise", total=len(files), unit="files") as stage:
        for start in range(0, len(files), _BATCH_FILES):
            batch = files[start : start + _BATCH_FILES]
            for encoding in tokenizer.encode_batch_fast([file.text for file in batch], add_special_tokens=False):
                pieces.append(np.array([*encoding.ids, EOS_ID], dtype=np.uint16))
            stage.advance(len(batch))
    stream = np.concatenate(pieces)
    body = CONTEXT_LENGTH - 1
    n_contexts = len(stream) // body
    contexts = np.full((n_contexts, CONTEXT_LENGTH), BOS_ID, dtype=np.uint16)
    contexts[:, 1:] = stream[: n_contexts * body].reshape(n_contexts, body)
    return contexts[np.random.default_rng(SEED).permutation(n_contexts)]


def held_out_contexts(corpus: Corpus, tokenizer: Tokenizer, scale: Scale) -> tuple[HeldOutContexts, HeldOutContexts]:
    """The contexts that are shipped, and the other ones on which the build measures itself; they share no file."""
    usable = [file for file in corpus.held_out if not file.is_test]
    usable.sort(key=lambda file: hash_fraction("contexts", file.name))
    shipped, rest = _take(usable, tokenizer, scale.n_contexts, scale.contexts_per_file)
    validation, _ = _take(rest, tokenizer, scale.n_validation, scale.contexts_per_file)
    return shipped, validation


def _take(
    files: list[SourceFile], tokenizer: Tokenizer, wanted: int, per_file: int
) -> tuple[HeldOutContexts, list[SourceFile]]:
    """`wanted` contexts from the first of these files, at most `per_file` of each, and the files left over."""
    body = CONTEXT_LENGTH - 1
    rows: list[np.ndarray] = []
    documents: list[str] = []
    for index, file in enumerate(files):
        ids = np.array(tokenizer.encode(file.text, add_special_tokens=False).ids, dtype=np.uint16)
        n_here = min(len(ids) // body, per_file, wanted - len(documents))
        rows.append(ids[: n_here * body].reshape(n_here, body))
        documents += [file.name] * n_here
        if len(documents) == wanted:
            tokens = np.full((wanted, CONTEXT_LENGTH), BOS_ID, dtype=np.uint16)
            tokens[:, 1:] = np.concatenate(rows)
            return HeldOutContexts(tokens, tuple(documents)), files[index + 1 :]
    raise DataError(
        f"The held-out files give {len(documents)} contexts where {wanted} are needed: raise held_out_share in scale.py."
    )
