"""Texts and kinds of tokens: one meaning for every way in which tokenizers mark words, bytes and special tokens."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from dmcore.analysis.token_kinds import KINDS, _byte_of_character, token_kind, unnamed_vocabulary, vocabulary
from dmcore.results.scaling import TABLES


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (" the", "word start"),
        ("\tthe", "word start"),
        ("    return", "word start"),
        ("Error", "word part"),
        ("ing", "word part"),
        (" Ünïcode", "word start"),
        (" и", "word start"),
        ("中文", "word part"),
        ("हिन्दी", "word part"),
        ("می‌خواهم", "word part"),
        ("ି", "word part"),
        ("7", "number"),
        (" 2024", "number"),
        ("٣", "number"),
        ("½", "number"),
        ("1.5", "mixed"),
        ("'s", "mixed"),
        ("_name", "mixed"),
        (" x1", "mixed"),
        ("a b", "mixed"),
        (" (", "punctuation"),
        ("...", "punctuation"),
        ("__", "punctuation"),
        ("❤️", "punctuation"),
        ("€", "punctuation"),
        ("\u200b", "punctuation"),
        (" ", "space"),
        ("\t\t", "space"),
        ("\u00a0", "space"),
        ("\n", "newline"),
        ("  \n    ", "newline"),
        ("\r\n", "newline"),
        ("\u2028", "newline"),
        ("⟨0xE2⟩", "bytes"),
        (" ⟨0xE2⟩⟨0x80⟩", "bytes"),
        ("\ufffd", "bytes"),
        ("", "special"),
    ],
)
def test_each_text_has_the_kind_that_is_documented(text: str, kind: str) -> None:
    assert token_kind(text, special=False) == kind
    assert kind in KINDS
    assert token_kind(text, special=True) == "special"


def test_bytes_of_a_byte_level_vocabulary_are_those_of_transformers() -> None:
    assert _byte_of_character() == {character: byte for byte, character in bytes_to_unicode().items()}


def wrapped(tokenizer: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", **options)


def found(tokenizer: Any, ids: list[int]) -> dict[int, tuple[str, str]]:
    table = vocabulary(tokenizer, ids)
    assert dict(table.schema) == TABLES["vocabulary"]
    return {i: (text, kind) for i, text, kind in table.iter_rows()}


def test_byte_level_tokens_keep_spaces_and_name_stray_bytes() -> None:
    pieces = ["<s>", "Ġthe", "the", "Ġ", "Ċ", "â", "ĠâĢ", "Ã©", "ĊĊĠĠ", "ĠĠĠĠ"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(["   é", AddedToken("<|pad|>", special=True)])
    tokenizer.add_special_tokens(["<|im|>"])
    assert found(wrapped(tokenizer), list(range(13))) == {
        0: ("<s>", "special"),
        1: (" the", "word start"),
        2: ("the", "word part"),
        3: (" ", "space"),
        4: ("\n", "newline"),
        5: ("⟨0xE2⟩", "bytes"),
        6: (" ⟨0xE2⟩⟨0x80⟩", "bytes"),
        7: ("é", "word part"),
        8: ("\n\n  ", "newline"),
        9: ("    ", "space"),
        10: ("   é", "word start"),  # added as it is, not through the table of bytes
        11: ("<|pad|>", "special"),
        12: ("<|im|>", "special"),
    }


@pytest.mark.parametrize("kind", ["llama", "gemma", "t5"])
def test_sentencepiece_tokens_keep_the_space_that_decode_drops(kind: str) -> None:
    pieces = ["<s>", "▁the", "the", "▁", "▁▁▁", "<0x0A>", "<0xE2>", "\n", "▁(", "<0x41>"]
    if kind == "t5":
        tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)]))
        tokenizer.decoder = decoders.Metaspace()
    else:
        tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if kind == "llama" else [])])
    fast = wrapped(tokenizer)
    assert kind == "gemma" or fast.decode([1]) == "the"
    assert found(fast, list(range(10))) == {
        0: ("<s>", "special"),
        1: (" the", "word start"),
        2: ("the", "word part"),
        3: (" ", "space"),
        4: ("   ", "space"),
        5: ("\n", "newline"),
        6: ("⟨0xE2⟩", "bytes"),
        7: ("\n", "newline"),
        8: (" (", "punctuation"),
        9: ("A", "word part"),
    }


def test_pieces_of_whole_words_begin_with_a_space_unless_they_go_on() -> None:
    pieces = ["<s>", "the", "##ing", "[UNK]", "##", "7", "##7"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    texts = found(wrapped(tokenizer, unk_token="[UNK]"), list(range(7)))
    assert texts == {
        0: ("<s>", "special"),
        1: (" the", "word start"),
        2: ("ing", "word part"),
        3: ("[UNK]", "special"),
        4: (" ##", "punctuation"),
        5: (" 7", "number"),
        6: ("7", "number"),
    }
    assert "".join(texts[i][0] for i in (1, 5, 2)) == " the 7ing"


def test_a_vocabulary_of_characters_is_given_no_spaces() -> None:
    letters = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, " ": 2}, unk_token="<s>"))
    assert found(wrapped(letters), [1, 2]) == {1: ("a", "word part"), 2: (" ", "space")}
    words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1}, unk_token="<s>"))
    assert found(wrapped(words), [1]) == {1: (" a", "word start")}


def test_texts_of_consecutive_tokens_join_to_the_text_that_was_cut() -> None:
    text = "for x in 'ünï': print(x)  # naïve ❤️\n\treturn 12"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    vocabulary_of_bytes = {character: i for i, character in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    tokenizer.model = models.BPE({**vocabulary_of_bytes, "Ġi": 256, "in": 257}, [("Ġ", "i"), ("i", "n")])
    ids = tokenizer.encode(text).ids
    texts = found(PreTrainedTokenizerFast(tokenizer_object=tokenizer), ids)
    shown = "".join(texts[i][0] for i in ids)
    raw = re.sub(r"⟨0x(..)⟩", lambda found: chr(0xDC00 + int(found[1], 16)), shown)
    assert raw != shown
    assert raw.encode("utf-8", errors="surrogateescape").decode() == text
    assert {256, 257} <= set(ids)


class _Slow:
    """A tokenizer without the Rust backend."""

    all_special_ids = (0,)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[Any]:
        return [{0: "<s>", 1: "▁the", 2: "Ġthe", 3: "âĢ", 4: "Ā"}.get(i) for i in ids]

    def decode(self, ids: list[int], **options: Any) -> str:
        assert options == {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return {0: "<s>", 1: "the", 2: " the", 3: "\ufffd", 4: "\x00"}[ids[0]]


def test_tokenizers_without_a_backend_are_read_by_their_marks_and_by_decode() -> None:
    assert found(_Slow(), [0, 1, 2, 3, 4, 9]) == {
        0: ("<s>", "special"),
        1: (" the", "word start"),
        2: (" the", "word start"),
        3: ("⟨0xE2⟩⟨0x80⟩", "bytes"),
        4: ("\x00", "punctuation"),
        9: ("#9", "unknown"),
    }


def test_ids_that_no_tokenizer_knows_have_a_number_for_a_text() -> None:
    tokenizer = wrapped(Tokenizer(models.WordLevel({"<s>": 0, "a": 1}, unk_token="<s>")))
    assert vocabulary(tokenizer, [999, 1, 1]).rows() == [(1, " a", "word start"), (999, "#999", "unknown")]
    assert unnamed_vocabulary([7, 3, 7]).rows() == [(3, "#3", "unknown"), (7, "#7", "unknown")]
    assert dict(unnamed_vocabulary([]).schema) == TABLES["vocabulary"]
