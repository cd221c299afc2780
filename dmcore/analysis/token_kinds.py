"""The text of a token, and what kind of text it is, for any language and tokenizer.

1. `vocabulary`: every tokenizer marks the start of a word in its own way; here it is a leading space, so that texts of
   consecutive tokens joined together can be read:
       byte-level BPE (GPT-2, Llama 3, Qwen)   bytes stand for themselves; those that are no UTF-8 alone read `⟨0xE2⟩`
       sentencepiece (Llama 2, Gemma, T5)      `▁` is a space; `decode` would drop a leading one; `<0x0A>` is its byte
       whole words (BERT's WordPiece, a list)  a space before every piece but those that go on a word (`##ing`)
2. `token_kind`: the kind of such a text.

Texts are as they are: who shows them escapes them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from dmcore.results.scaling import TABLES

UNKNOWN = "unknown"
"""Kind of a token whose text is not known."""
KINDS = (
    "word start",
    "word part",
    "number",
    "punctuation",
    "mixed",
    "space",
    "newline",
    "bytes",
    "special",
    UNKNOWN,
)
"""In the order in which they are shown."""

_BREAKS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_BYTE = re.compile(r"⟨0x[0-9A-F]{2}⟩")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_JOINERS = frozenset("\u200c\u200d")
"""Part of words in Persian and in the scripts of India."""
_SPACE_MARK = "▁"


def token_kind(text: str, *, special: bool) -> str:
    """One of `KINDS` but `UNKNOWN`.

    Args:
        text: as `vocabulary` gives it.
        special: whether the tokenizer says that it is no text (BOS, EOS, padding).

    - special: as told, or no text at all.
    - bytes: holds bytes that are no character alone, or the sign that stands for such.
    - newline: white space alone, with a line break. space: other white space alone.
    - number: digits alone, with or without white space before.
    - word start: letters alone after white space. word part: letters alone with none before: the rest of a word, a word
      after a bracket or at the start of a line, and all words of a script that has no spaces. A capital is no sign of a
      start: most of those without a space before are inside a name (`ValueError`).
    - punctuation: no letter or digit. mixed: the rest (`'s`, `x1`, `_name`).
    """
    if special or not text:
        return "special"
    if _BYTE.search(text) or "\ufffd" in text:
        return "bytes"
    if text.isspace():
        return "newline" if _BREAKS & set(text) else "space"
    core = text.strip()
    kinds = {_character_kind(character) for character in core}
    if kinds == {"digit"}:
        return "number"
    if kinds == {"letter"}:
        return "word part" if text[0] == core[0] else "word start"
    return "mixed" if kinds & {"letter", "digit"} else "punctuation"


@lru_cache(maxsize=1 << 16)
def _character_kind(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] == "N":
        return "digit"
    # Vowel signs and accents belong to letters; enclosing marks and variation selectors to symbols.
    if category[0] == "L" or (category in {"Mn", "Mc"} and not 0xFE00 <= ord(character) <= 0xFE0F):
        return "letter"
    return "letter" if character in _JOINERS else "other"


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for; equal to the inverse of GPT-2's table."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _text_of_bytes(raw: bytes) -> str:
    """UTF-8, with `⟨0xE2⟩` for each byte that is no part of a character."""
    surrogates = raw.decode("utf-8", errors="surrogateescape")
    return "".join(f"⟨0x{ord(c) - 0xDC00:02X}⟩" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in surrogates)


class _Texts:
    """Texts of the tokens of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        added = dict(getattr(tokenizer, "added_tokens_decoder", None) or {})
        self._tokenizer = tokenizer
        self._added = {int(i): str(token) for i, token in added.items()}
        self.special = {int(i) for i in tokenizer.all_special_ids}
        self.special |= {int(i) for i, token in added.items() if getattr(token, "special", False)}
        model = getattr(backend, "model", None)
        self._is_byte_level = "ByteLevel" in repr(getattr(backend, "decoder", None))
        whole_words = type(model).__name__ in {"WordPiece", "WordLevel"} and not self._is_byte_level
        # A vocabulary that has the space itself leaves none out.
        self._is_words = whole_words and backend.token_to_id(" ") is None
        self._goes_on = getattr(model, "continuing_subword_prefix", None) or "##"
        self._is_slow = backend is None

    def of(self, token_id: int) -> str | None:
        """Text of a token; None if the tokenizer has no such token."""
        if token_id in self._added:
            return self._added[token_id]
        piece = self._tokenizer.convert_ids_to_tokens([token_id])[0]
        if piece is None:
            return None
        piece = piece.decode("latin-1") if isinstance(piece, bytes) else str(piece)
        if self._is_byte_level:
            return self._of_byte_level(piece)
        if found := _BYTE_TOKEN.fullmatch(piece):
            return _text_of_bytes(bytes([int(found[1], 16)]))
        if self._is_words:
            if piece.startswith(self._goes_on) and piece != self._goes_on:
                return piece.removeprefix(self._goes_on)
            return f" {piece}"
        if self._is_slow and _SPACE_MARK not in piece:
            text = self._tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False)
            # What decodes to no character is bytes, if the tokenizer is of the byte-level kind.
            return self._of_byte_level(piece) if "\ufffd" in text else text
        return piece.replace(_SPACE_MARK, " ")

    @staticmethod
    def _of_byte_level(piece: str) -> str:
        table = _byte_of_character()
        return _text_of_bytes(bytes(table[c] for c in piece)) if all(c in table for c in piece) else piece


def vocabulary(tokenizer: Any, ids: Iterable[int]) -> pl.DataFrame:
    """Text and kind of some tokens, by id: a table `vocabulary`.

    Args:
        tokenizer: as transformers gives it.
        ids: of tokens; those that the tokenizer does not have (a model may have more rows) are unknown.
    """
    texts = _Texts(tokenizer)
    rows = []
    for token_id in sorted({int(i) for i in ids}):
        text = texts.of(token_id)
        if text is None:
            rows.append((token_id, f"#{token_id}", UNKNOWN))
        else:
            rows.append((token_id, text, token_kind(text, special=token_id in texts.special)))
    return pl.DataFrame(rows, schema=TABLES["vocabulary"], orient="row")


def unnamed_vocabulary(ids: Iterable[int]) -> pl.DataFrame:
    """The same without a tokenizer: `#123`, of unknown kind."""
    unique = sorted({int(i) for i in ids})
    rows = [(i, f"#{i}", UNKNOWN) for i in unique]
    return pl.DataFrame(rows, schema=TABLES["vocabulary"], orient="row")


def kind_numbers(words: pl.DataFrame) -> np.ndarray:
    """The place in `KINDS` of each token id up to the largest in a vocabulary; unknown of those that it lacks."""
    ids = words["token"].to_numpy()
    numbers = np.full(int(ids.max()) + 1, KINDS.index(UNKNOWN))
    numbers[ids] = [KINDS.index(kind) for kind in words["kind"]]
    return numbers
