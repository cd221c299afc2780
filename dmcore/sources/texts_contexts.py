"""Contexts made from documents: token ids of exact length, each beginning as the model's tokenizer begins a text.

`skip`: a document shorter than a context is left out, a longer one gives one context, its first tokens (as in the paper).
`pack`: documents are joined, an end-of-text token between, and cut into contexts one after the other; what is left over of
a document begins the next context.

A beginning is what the tokenizer puts before a text by itself: a BOS (Gemma, Llama), [CLS] (BERT), nothing (GPT-2, T5; a BOS
with `bos = "always"`, which SAEs of SAELens expect). What
it would put at the end is left out, because a context is no whole text.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dmcore.errors import SpecError
from dmcore.progress import Reporter
from dmcore.sources.texts import Document
from dmcore.specs import TextsSpec
from dmcore.store.disk import reserve

TOKENS, DOMAINS, SIDECAR = "tokens.npy", "domains.npy", "contexts.json"
DOCUMENTS_AT_ONCE = 64
"""Documents that are tokenised together."""
MOST_DOMAINS = 2**16


class TooFewTextsError(SpecError):
    """The texts end before there are as many contexts as were asked for."""

    def __init__(self, message: str, made: int) -> None:
        super().__init__(message)
        self.made = made
        """Contexts that they give."""


@dataclass(frozen=True)
class Conventions:
    """How a tokenizer begins and ends texts."""

    prefix: tuple[int, ...]
    """Ids that it puts before a text."""
    separator: tuple[int, ...]
    """The end-of-text id that goes between packed documents; nothing if it has none."""

    @classmethod
    def of(cls, tokenizer: Any, bos: str = "tokenizer") -> Conventions:
        """Read off by tokenising a letter; with `bos="always"` its BOS begins a text in any case.

        Raises:
            SpecError: a BOS is asked for and the tokenizer has none.
        """
        whole = _ids(tokenizer, ["a"], add_special_tokens=True)[0]
        bare = _ids(tokenizer, ["a"])[0]
        starts = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
        end, prefix = tokenizer.eos_token_id, tuple(whole[: starts[0]]) if starts and bare else ()
        if bos == "always" and not prefix:
            if tokenizer.bos_token_id is None:
                raise SpecError('[texts] bos is "always", but the tokenizer has no BOS: leave bos out.')
            prefix = (int(tokenizer.bos_token_id),)
        return cls(prefix, () if end is None else (int(end),))


@dataclass
class Tally:
    """What was read on the way; counts only documents that were looked at."""

    n_documents: int = 0
    n_skipped: int = 0
    """Shorter than a context, with `skip`."""
    domains: dict[str, int] = field(default_factory=dict)
    """Number of each domain, in the order in which they came."""

    def domain(self, name: str) -> int:
        """The number of a domain."""
        if name not in self.domains and len(self.domains) == MOST_DOMAINS:
            raise SpecError(f"The domains are more than {MOST_DOMAINS:,}: give domain a column that has fewer values.")
        return self.domains.setdefault(name, len(self.domains))


def make_contexts(
    folder: Path,
    documents: Iterable[Document],
    texts: TextsSpec,
    tokenizer: Any,
    reporter: Reporter,
    *,
    n_vocabulary: int | None = None,
    about: dict[str, Any] | None = None,
) -> None:
    """Write `tokens.npy` (n_contexts, context_length), `contexts.json`, and `domains.npy` of the same shape if asked for.

    Args:
        folder: where to.
        documents: read only as far as needed.
        texts: lengths, numbers, packing.
        tokenizer: the model's, as transformers gives it.
        reporter: told of each context.
        n_vocabulary: token ids that the model knows; None if that is not known.
        about: goes into `contexts.json` as well.

    Raises:
        TooFewTextsError: there are too few documents.
        SpecError: the tokenizer is not the model's.
    """
    n, length = texts.n_contexts, texts.context_length
    conventions, tally = Conventions.of(tokenizer, texts.bos), Tally()
    if len(conventions.prefix) >= length:
        raise SpecError(f"[texts] context_length is {length}, which the tokenizer's beginning fills: raise it.")
    size = max(len(tokenizer), n_vocabulary or 0)
    dtype = np.uint16 if size <= 2**16 else np.uint32
    tokens = np.lib.format.open_memmap(folder / TOKENS, "w+", dtype, (n, length))
    domains = np.lib.format.open_memmap(folder / DOMAINS, "w+", np.uint16, (n, length)) if texts.domain else None
    for name in (TOKENS, DOMAINS) if texts.domain else (TOKENS,):
        reserve(folder / name)
    made = 0
    with reporter.stage("make contexts", n, "contexts") as stage:
        cut = _pack if texts.short_documents == "pack" else _skip
        encoded = _encode(documents, tokenizer, stage)
        for index, (ids, where) in enumerate(cut(encoded, texts, conventions, tally)):
            if index < texts.skip_contexts:
                continue
            _check_ids(ids, n_vocabulary)
            tokens[made] = ids
            if domains is not None:
                domains[made] = where
            made += 1
            stage.advance()
            if made == n:
                break
    if made < n:
        raise TooFewTextsError(_too_few(made, texts, tally), made)
    tokens.flush()
    if domains is not None:
        domains.flush()
    _write_sidecar(folder, texts, conventions, tally, about or {})


def _encode(documents: Iterable[Document], tokenizer: Any, stage: Any) -> Iterator[tuple[Document, np.ndarray]]:
    for some in _batched(documents):
        stage.advance(0)  # so that it can be cancelled while nothing but short documents comes
        encoded = _ids(tokenizer, [document.text for document in some])
        for document, ids in zip(some, encoded, strict=True):
            yield document, np.asarray(ids, dtype=np.int64)


def _skip(
    encoded: Iterable[tuple[Document, np.ndarray]], texts: TextsSpec, conventions: Conventions, tally: Tally
) -> Iterator[tuple[np.ndarray, np.ndarray | int]]:
    prefix = np.asarray(conventions.prefix, dtype=np.int64)
    body = texts.context_length - len(prefix)
    for document, ids in encoded:
        tally.n_documents += 1
        if len(ids) < body:
            tally.n_skipped += 1
            continue
        yield np.concatenate([prefix, ids[:body]]), tally.domain(document.domain) if texts.domain else 0


def _pack(
    encoded: Iterable[tuple[Document, np.ndarray]], texts: TextsSpec, conventions: Conventions, tally: Tally
) -> Iterator[tuple[np.ndarray, np.ndarray | int]]:
    prefix = np.asarray(conventions.prefix, dtype=np.int64)
    separator = np.asarray(conventions.separator, dtype=np.int64)
    body = texts.context_length - len(prefix)
    waiting, of_domain = np.empty(0, np.int64), np.empty(0, np.int64)
    for document, ids in encoded:
        tally.n_documents += 1
        if not len(ids):
            continue
        number = tally.domain(document.domain) if texts.domain else 0
        waiting = np.concatenate([waiting, ids, separator])
        of_domain = np.concatenate([of_domain, np.full(len(ids) + len(separator), number)])
        used = 0
        while len(waiting) - used >= body:
            some = slice(used, used + body)
            # The beginning belongs to the text that follows it.
            where = np.concatenate([np.full(len(prefix), of_domain[used]), of_domain[some]])
            yield np.concatenate([prefix, waiting[some]]), where
            used += body
        waiting, of_domain = waiting[used:], of_domain[used:]


def _ids(tokenizer: Any, texts: list[str], *, add_special_tokens: bool = False) -> list[list[int]]:
    return tokenizer(
        texts,
        add_special_tokens=add_special_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]


def _batched(documents: Iterable[Document]) -> Iterator[tuple[Document, ...]]:
    """`itertools.batched`, which came with Python 3.12."""
    rest = iter(documents)
    while some := tuple(itertools.islice(rest, DOCUMENTS_AT_ONCE)):
        yield some


def _check_ids(ids: np.ndarray, n_vocabulary: int | None) -> None:
    if n_vocabulary is not None and int(ids.max()) >= n_vocabulary:
        raise SpecError(
            f"The tokenizer gives the id {int(ids.max()):,}, but the model knows {n_vocabulary:,} tokens: it is not the "
            "model's tokenizer; put the model's own beside it."
        )


def _too_few(made: int, texts: TextsSpec, tally: Tally) -> str:
    after = f" after the first {texts.skip_contexts:,}" if texts.skip_contexts else ""
    short = f", {tally.n_skipped:,} of them shorter" if texts.short_documents == "skip" and tally.n_skipped else ""
    remedy = f"lower n_contexts to {made:,}" if made > 1 else "give more texts or a smaller context_length"
    # A document gives one context, whatever its length; packed, all of it is read.
    whole = "; then all of a long document is read, too" if made <= tally.n_documents else ""
    pack = f', or give short_documents = "pack" (on the page under *More about the texts*){whole}'
    pack = pack if texts.short_documents == "skip" else ""
    return (
        f"The texts give {_count(made, 'context')} of {texts.context_length:,} tokens{after}, not {texts.n_contexts:,} "
        f"({_count(tally.n_documents, 'document')}{short}): {remedy}{pack}."
    )


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _write_sidecar(
    folder: Path, texts: TextsSpec, conventions: Conventions, tally: Tally, about: dict[str, Any]
) -> None:
    content = {
        "n_contexts": texts.n_contexts,
        "context_length": texts.context_length,
        "short_documents": texts.short_documents,
        "n_documents": tally.n_documents,
        "n_skipped": tally.n_skipped,
        "prefix": list(conventions.prefix),
        "separator": list(conventions.separator) if texts.short_documents == "pack" else [],
        "domains": list(tally.domains),
        **about,
    }
    (folder / SIDECAR).write_text(json.dumps(content, indent=1), encoding="utf-8")
