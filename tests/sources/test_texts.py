"""Texts: contexts of exact length from files and data sets, the same each time, each token with its domain."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zstandard

from dmcore.errors import Cancelled, SpecError
from dmcore.progress import Reporter
from dmcore.sources.contexts import TooFewTextsError, contexts_spec, find_contexts, load_contexts
from dmcore.sources.texts import Document, shuffled
from dmcore.sources.texts_files import texts_fingerprint
from dmcore.specs import ModelSpec, SaeSpec, Settings, Study, TextsSpec
from dmcore.store.fingerprint import content_key, files_fingerprint
from dmcore.store.store import Store
from tests.model_builders import BOS, CLS, EOS, UNKNOWN, VOCABULARY, save_tokenizer

LENGTH = 6


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def build(folder: Path, kind: str = "causal", *, skip_positions: int = 1, **texts: Any) -> Study:
    """A study whose model has a tokenizer and a config, which is all that texts need."""
    if not (folder / "model").exists():
        save_tokenizer(folder / "model", kind)
        (folder / "model" / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": VOCABULARY}))
    where = {} if {"dataset", "path"} & set(texts) else {"files": "corpus"}
    spec = TextsSpec(**{**where, "n_contexts": 2, "context_length": LENGTH, "shuffle_buffer": 0, **texts})
    settings = Settings(skip_positions=skip_positions)
    sae = SaeSpec("blocks.0.hook_resid_post", path="sae")
    return Study("tiny", "", 0, ModelSpec(path="model"), spec, settings, (sae,), folder)


def words(*ids: int) -> str:
    return " ".join(f"w{i}" for i in ids)


def documents(n: int, length: int = 20, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(10, VOCABULARY, length).tolist() for _ in range(n)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sidecar(store: Store, study: Study) -> dict[str, Any]:
    entry = store.find("contexts", content_key(contexts_spec(study, store)))
    return json.loads((entry.path / "contexts.json").read_text())


def test_a_short_document_is_skipped_and_a_long_one_gives_its_first_tokens(tmp_path: Path, store: Store) -> None:
    texts = [words(10, 11), words(*range(10, 30)), words(40, 41, 42, 43), words(50, 51, 52, 53, 54)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": text} for text in texts])
    study = build(tmp_path)
    contexts = load_contexts(study, store)
    assert contexts.tokens.tolist() == [[BOS, 10, 11, 12, 13, 14], [BOS, 50, 51, 52, 53, 54]]
    assert contexts.tokens.dtype == np.uint16
    assert (contexts.domains, contexts.domain_names) == (None, ())
    about = sidecar(store, study)
    assert (about["n_documents"], about["n_skipped"], about["short_documents"]) == (4, 2, "skip")
    assert len(about["tokenizer"]) == 64


def test_packed_contexts_are_the_documents_one_after_the_other(tmp_path: Path, store: Store) -> None:
    texts = [[10, 11], [12, 13, 14, 15, 16, 17, 18], [], [19], [20, 21, 22, 23, 24, 25, 26]]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": words(*text)} for text in texts])
    contexts = load_contexts(build(tmp_path, n_contexts=4, short_documents="pack"), store)
    assert contexts.tokens[:, 0].tolist() == [BOS] * 4
    stream = [token for text in texts if text for token in [*text, EOS]]
    assert contexts.tokens[:, 1:].flatten().tolist() == stream[:20]


@pytest.mark.parametrize(("kind", "first"), [("causal", [BOS]), ("bert", [CLS]), ("t5", []), ("bare", [])])
def test_a_context_begins_as_the_tokenizer_begins_a_text_and_has_no_end(
    kind: str, first: list[int], tmp_path: Path, store: Store
) -> None:
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": words(*range(10, 16))}, {"text": words(*range(20, 26))}])
    contexts = load_contexts(build(tmp_path, kind), store)
    body = LENGTH - len(first)
    assert contexts.tokens.tolist() == [[*first, *range(10, 10 + body)], [*first, *range(20, 20 + body)]]
    packed = load_contexts(build(tmp_path, kind, short_documents="pack"), store).tokens.tolist()
    end = [EOS] if kind in {"causal", "t5"} else []
    stream = [*range(10, 16), *end, *range(20, 26), *end]
    assert packed == [[*first, *stream[:body]], [*first, *stream[body : 2 * body]]]


def test_a_bos_can_be_asked_for_where_the_tokenizer_adds_none() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from dmcore.sources.texts_contexts import Conventions

    inner = Tokenizer(models.WordLevel({"a": 0, "<s>": 1}, unk_token="a"))
    silent = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")
    assert Conventions.of(silent).prefix == ()
    assert Conventions.of(silent, "always").prefix == (1,)
    with pytest.raises(SpecError, match="has no BOS"):
        Conventions.of(PreTrainedTokenizerFast(tokenizer_object=inner), "always")


def test_the_same_spec_gives_the_same_tokens_whatever_the_file_systems_order(tmp_path: Path) -> None:
    texts = documents(40)
    found = []
    for run, order in enumerate((range(40), reversed(range(40)))):
        folder = tmp_path / str(run)
        for i in order:
            file = folder / "corpus" / f"{i % 3}" / f"{i:02}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(words(*texts[i]))
        study = build(folder, n_contexts=30, shuffle_buffer=8)
        found.append(load_contexts(study, Store(folder / "cache")))
    assert found[0].fingerprint == found[1].fingerprint
    assert np.array_equal(found[0].tokens, found[1].tokens)
    other = load_contexts(build(folder, n_contexts=30, shuffle_buffer=8, seed=1), Store(folder / "cache"))
    assert other.fingerprint != found[0].fingerprint
    assert not np.array_equal(other.tokens, found[0].tokens)


def test_a_shuffle_keeps_every_document_and_looks_no_further_than_its_buffer() -> None:
    numbered = [Document(str(i)) for i in range(100)]
    order = [int(document.text) for document in shuffled(iter(numbered), 10, 0)]
    assert sorted(order) == list(range(100))
    assert order != list(range(100))
    assert all(number <= place + 10 for place, number in enumerate(order))
    assert [int(d.text) for d in shuffled(iter(numbered), 0, 0)] == list(range(100))
    read = itertools.count()
    endless = shuffled((Document(str(next(read))) for _ in itertools.count()), 10, 0)
    next(endless)
    assert next(read) == 11


def test_every_kind_of_source_gives_the_same_contexts(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": words(*text), "n": i} for i, text in enumerate(documents(10))]
    write_jsonl(tmp_path / "a.jsonl", rows)
    plain = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain[:300]) + gzip.compress(plain[300:]))
    zstd = zstandard.ZstdCompressor()
    (tmp_path / "a.jsonl.zst").write_bytes(zstd.compress(plain[:300]) + zstd.compress(plain[300:]))  # two frames
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet", row_group_size=3)
    (tmp_path / "code").mkdir()
    for i, row in enumerate(rows):
        (tmp_path / "code" / f"{i}.py").write_text(row["text"])
    given = serve(monkeypatch, rows)
    made = [
        load_contexts(build(tmp_path, n_contexts=9, **where), store).tokens
        for where in (
            {"files": "a.jsonl"},
            {"files": "a.jsonl.gz"},
            {"files": "a.jsonl.zst"},
            {"files": "a.parquet"},
            {"files": "code"},
            {"dataset": "lab/texts"},
        )
    ]
    for other in made[1:]:
        assert np.array_equal(made[0], other)
    assert given == {
        "path": "lab/texts",
        "name": None,
        "split": "train",
        "revision": "main",
        "streaming": True,
        "token": False,
    }


def serve(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Put a data set in the place of the hub; returns what it will have been asked with."""
    import datasets

    given: dict[str, Any] = {}

    def load_dataset(path: str, **options: Any) -> datasets.IterableDataset:
        given.update(path=path, **options)
        return datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=2)

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return given


def test_a_data_set_is_shuffled_by_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": words(*text), "meta": {"set": f"s{i % 3}"}} for i, text in enumerate(documents(30))]
    given = serve(monkeypatch, rows)
    asked = {"dataset": "lab/texts", "config": "en", "n_contexts": 30, "domain": "meta.set"}
    found = {
        (seed, run): load_contexts(
            build(tmp_path, **asked, shuffle_buffer=10, seed=seed), Store(tmp_path / f"{seed}{run}")
        )
        for seed, run in ((0, 0), (0, 1), (1, 0))
    }
    assert given["name"] == "en"
    assert np.array_equal(found[0, 0].tokens, found[0, 1].tokens)
    assert not np.array_equal(found[0, 0].tokens, found[1, 0].tokens)
    by_body = {tuple(text[: LENGTH - 1]): f"s{i % 3}" for i, text in enumerate(documents(30))}
    for contexts in found.values():
        assert {tuple(row[1:].tolist()) for row in contexts.tokens} == set(by_body)
        for row, where in zip(contexts.tokens, contexts.domains, strict=True):
            assert {contexts.domain_names[number] for number in where} == {by_body[tuple(row[1:].tolist())]}


def test_each_token_keeps_the_domain_of_its_document(tmp_path: Path, store: Store) -> None:
    rows = [
        {"text": words(10, 11, 12), "from": {"name": "web"}},
        {"text": words(20, 21, 22, 23), "from": {"name": "books"}},
        {"text": words(*[10] * 12), "from": {"name": None}},
    ]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", rows)
    contexts = load_contexts(build(tmp_path, n_contexts=3, short_documents="pack", domain="from.name"), store)
    assert contexts.domain_names == ("web", "books", "(none)")
    assert contexts.domains.dtype == np.uint16
    names = [[contexts.domain_names[number] for number in row] for row in contexts.domains]
    # BOS w10 w11 w12 EOS w20 | BOS w21 w22 w23 EOS w10 | ...: the BOS goes with what follows it.
    assert names == [["web"] * 5 + ["books"], ["books"] * 5 + ["(none)"], ["(none)"] * 6]


@pytest.mark.parametrize(("domain", "names"), [("folder", {"src", "."}), ("extension", {".py", ".md"})])
def test_in_a_folder_of_source_files_place_or_kind_may_be_the_domain(
    domain: str, names: set[str], tmp_path: Path, store: Store
) -> None:
    corpus = tmp_path / "corpus"
    for name in ("src", ".git"):
        (corpus / name).mkdir(parents=True)
    (corpus / "src" / "a.py").write_text(words(*range(10, 20)))
    (corpus / "b.md").write_text(words(*range(20, 30)))
    (corpus / ".hidden").write_text(words(*range(30, 40)))
    (corpus / ".git" / "c.py").write_text(words(*range(30, 40)))
    (corpus / "image.png").write_bytes(b"\x89PNG\0" + words(*range(30, 40)).encode())
    (corpus / "latin.txt").write_bytes("é".encode("latin-1") + words(*range(30, 40)).encode())
    (corpus / "large.sql").write_text(words(*range(30, 40)) + " " * 5_000_000)
    contexts = load_contexts(build(tmp_path, domain=domain), store)
    assert contexts.tokens[:, 1].tolist() == [20, 10]
    assert set(contexts.domain_names) == names
    with pytest.raises(SpecError, match="give 2 contexts of 6 tokens"):
        load_contexts(build(tmp_path, n_contexts=3), store)


@pytest.mark.parametrize("short", ["skip", "pack"])
def test_contexts_that_are_skipped_are_those_that_another_part_has(short: str, tmp_path: Path, store: Store) -> None:
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": words(*text)} for text in documents(30)])
    common = {"shuffle_buffer": 7, "short_documents": short}
    whole = load_contexts(build(tmp_path, n_contexts=20, **common), store)
    study = build(tmp_path, n_contexts=5, **common)
    rest = load_contexts(study, store, texts=dataclasses.replace(study.texts, n_contexts=15, skip_contexts=5))
    assert np.array_equal(load_contexts(study, store).tokens, whole.tokens[:5])
    assert np.array_equal(rest.tokens, whole.tokens[5:])


def test_contexts_are_made_once_and_found_by_what_they_are_made_from(tmp_path: Path, store: Store) -> None:
    write_jsonl(tmp_path / "one" / "corpus" / "a.jsonl", [{"text": words(*text)} for text in documents(5)])
    study = build(tmp_path / "one")
    assert find_contexts(study, store) is None
    made = load_contexts(study, store)
    (tmp_path / "one").rename(tmp_path / "two")
    moved = build(tmp_path / "two")
    found = find_contexts(moved, store)
    assert found.fingerprint == made.fingerprint
    assert np.array_equal(found.tokens, made.tokens)
    with (tmp_path / "two" / "corpus" / "a.jsonl").open("a") as file:
        file.write(json.dumps({"text": words(10)}) + "\n")
    assert find_contexts(moved, store) is None
    (tmp_path / "two" / "corpus" / "a.jsonl").unlink()
    with pytest.raises(SpecError, match="has no text files"):
        find_contexts(moved, store)


def test_a_large_corpus_is_hashed_once(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from dmcore.sources import texts_files

    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": words(*text)} for text in documents(5)])
    plain = contexts_spec(build(tmp_path), store)
    monkeypatch.setattr(texts_files, "REMEMBERED_FROM", 0)
    assert contexts_spec(build(tmp_path), store) == plain
    with monkeypatch.context() as patch:
        patch.setattr(texts_files, "files_fingerprint", lambda *_: pytest.fail("it was hashed again"))
        assert contexts_spec(build(tmp_path), store) == plain
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": words(*text)} for text in documents(6)])
    assert contexts_spec(build(tmp_path), store) != plain


def test_another_tokenizer_makes_other_contexts(tmp_path: Path, store: Store) -> None:
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": words(*text)} for text in documents(5)])
    before = load_contexts(build(tmp_path), store).fingerprint
    save_tokenizer(tmp_path / "model", "bert")
    assert load_contexts(build(tmp_path), store).fingerprint != before
    for file in (tmp_path / "model").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(SpecError, match="has no tokenizer"):
        load_contexts(build(tmp_path), store)


def test_a_token_that_the_model_does_not_know_is_refused(tmp_path: Path, store: Store) -> None:
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": words(*[59] * 10)}] * 2)
    study = build(tmp_path)
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 59}))
    with pytest.raises(SpecError, match="gives the id 59, but the model knows 59 tokens"):
        load_contexts(study, store)
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 70_000}))
    assert load_contexts(study, store).tokens.dtype == np.uint32


def test_an_unknown_word_is_the_unknown_token(tmp_path: Path, store: Store) -> None:
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": "nonsense " * 9}] * 2)
    assert load_contexts(build(tmp_path), store).tokens[0].tolist() == [BOS] + [UNKNOWN] * 5


def test_too_few_documents_says_how_many_there_are(tmp_path: Path, store: Store) -> None:
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": words(*text)} for text in (*documents(4), [10, 11])])
    with pytest.raises(
        TooFewTextsError,
        match="give 4 contexts of 6 tokens, not 9 \\(5 documents, 1 of them shorter\\): lower n_contexts to 4, or",
    ):
        load_contexts(build(tmp_path, n_contexts=9), store)
    with pytest.raises(
        TooFewTextsError, match="give 1 context of 6 tokens after the first 3, not 9 .* more texts"
    ) as caught:
        load_contexts(build(tmp_path, n_contexts=9, skip_contexts=3), store)
    assert caught.value.made == 1
    with pytest.raises(SpecError, match="lower n_contexts to 17.$"):
        load_contexts(build(tmp_path, n_contexts=90, short_documents="pack"), store)
    assert list(store.entries()) == []


def test_compressed_tables_which_were_once_passed_over_change_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    write_jsonl(folder / "a.jsonl", [{"text": "a"}])
    assert texts_fingerprint(folder) == files_fingerprint(folder, ["a.jsonl"])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "b"}\n'))
    assert texts_fingerprint(folder) != files_fingerprint(folder, ["a.jsonl", "b.jsonl.gz"])


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path, store: Store) -> None:
    def refused(message: str, **texts: Any) -> None:
        with pytest.raises(SpecError, match=message):
            load_contexts(build(tmp_path, **texts), store)

    refused("There is no .*absent.jsonl: check files", files="absent.jsonl")
    (tmp_path / "a.csv").write_text("text\n")
    refused("ends in .csv: give a .txt, .jsonl or .parquet file", files="a.csv")
    write_jsonl(tmp_path / "a.jsonl", [{"content": words(*range(10, 20)), "meta": {"lang": "en"}, "size": 3}] * 3)
    refused("no column 'text': give column one of content, meta.lang, size", files="a.jsonl")
    refused("no column 'lang': give domain one of content, meta.lang", files="a.jsonl", column="content", domain="lang")
    refused("'size' .*holds int, not text: give column one of content", files="a.jsonl", column="size")
    pl.DataFrame({"content": ["a"], "n": [1]}).write_parquet(tmp_path / "a.parquet")
    refused("no column 'text': give column one of content, n", files="a.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"not a table")
    refused("is no readable parquet file", files="bad.parquet")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 9)[:-12])
    refused("cut.jsonl.gz is damaged after line .*: copy or download it again", files="cut.jsonl.gz")
    for name in ("no.jsonl.gz", "no.jsonl.zst"):
        (tmp_path / name).write_bytes(b"not compressed")
        refused(f"{name} is damaged after line 0", files=name)
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "a"}\n' * 9)[:-3])
    refused("cut.jsonl.zst is damaged after line", files="cut.jsonl.zst")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    refused("Line 2 of .*bad.jsonl is not valid JSON", files="bad.jsonl")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    refused("Line 1 of .* holds no object", files="list.jsonl")
    (tmp_path / "deep.jsonl").write_text('{"text": ' + "[" * 200_000 + "\n")
    refused("Line 1 of .*deep.jsonl is not valid JSON", files="deep.jsonl")
    (tmp_path / "long.jsonl").write_text('{"text": "a", "n": ' + "1" * 5000 + "}\n")
    refused("Line 1 of .*long.jsonl is not valid JSON", files="long.jsonl")
    (tmp_path / "a.txt").write_text(words(10))
    refused("text without columns, so it has no 'lang'", files="a.txt", domain="lang")
    with pytest.raises(SpecError, match="skip_positions is 6, but contexts have 6 tokens"):
        load_contexts(build(tmp_path, skip_positions=6, files="a.txt"), store)


def missing_data_set(message: str) -> Exception:
    from datasets.exceptions import DatasetNotFoundError

    return DatasetNotFoundError(message)


DATA_SET_FAILURES = {
    "gated": (
        lambda: missing_data_set("Dataset 'lab/texts' is a gated dataset on the Hub."),
        "lab/texts is gated: accept its licence on its page \\(huggingface.co/datasets/lab/texts\\)",
    ),
    "unknown": (
        lambda: missing_data_set("Dataset 'lab/texts' doesn't exist on the Hub"),
        "no data set lab/texts on the hub",
    ),
    "offline": (lambda: ConnectionError("Couldn't reach 'lab/texts' on the Hub"), "check the network"),
    "config": (
        lambda: ValueError("Config name is missing.\nPlease pick one among the available configs: ['en', 'de']"),
        "Please pick one among the available configs: \\['en', 'de'\\]",
    ),
}


@pytest.mark.parametrize("case", DATA_SET_FAILURES)
@pytest.mark.parametrize("late", [False, True])
def test_every_failure_of_a_data_set_is_one_sentence(
    case: str, late: bool, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    make, message = DATA_SET_FAILURES[case]

    def rows() -> Iterator[dict[str, Any]]:
        yield {"text": words(*range(10, 20))}
        raise make()

    def load_dataset(*_: Any, **__: Any) -> datasets.IterableDataset:
        if not late:
            raise make()
        return datasets.IterableDataset.from_generator(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(SpecError, match=message) as caught:
        load_contexts(build(tmp_path, dataset="lab/texts"), store)
    assert "\n" not in str(caught.value)


def test_making_contexts_reports_and_can_be_cancelled(tmp_path: Path, store: Store) -> None:
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": words(10)}] * 100)
    with pytest.raises(Cancelled):
        load_contexts(build(tmp_path), store, Reporter(should_cancel=lambda: True))
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": words(*text)} for text in documents(5)])
    seen: list[Any] = []
    load_contexts(build(tmp_path, n_contexts=5), store, Reporter(seen.append))
    assert (seen[0].stage, seen[0].total, seen[-1].done, seen[0].unit) == ("make contexts", 5, 5, "contexts")


def ready_made(folder: Path, tokens: list[list[int]], **about: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", np.asarray(tokens, dtype=np.uint16))
    (folder / "contexts.json").write_text(json.dumps(about))


def test_a_folder_of_tokens_may_have_domains_and_must_fit_the_model(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "contexts"
    ready_made(folder, [[1, 20, 30], [1, 21, 31]], domains=["a", "b"])
    study = build(tmp_path, path="contexts")
    plain = find_contexts(study, store)
    assert plain.domains is None
    np.save(folder / "domains.npy", np.array([[0, 0, 0], [1, 1, 1]], dtype=np.uint16))
    with_domains = load_contexts(study)
    assert with_domains.domain_names == ("a", "b")
    assert with_domains.domains.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert with_domains.fingerprint != plain.fingerprint
    np.save(folder / "domains.npy", np.array([[0, 0], [2, 1]], dtype=np.uint16))
    with pytest.raises(SpecError, match="domains.npy does not fit"):
        load_contexts(study)
    (folder / "domains.npy").unlink()
    ready_made(folder, [[1, 20, VOCABULARY]])
    with pytest.raises(SpecError, match="have the token id 60, but the model knows 60 tokens"):
        load_contexts(study)
    ready_made(folder, [[1, 20, 30]], tokenizer="0" * 64)
    with pytest.raises(SpecError, match="another tokenizer than the model's"):
        load_contexts(study)


def test_tokens_of_another_tokenizer_are_refused_for_an_id_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    ready_made(tmp_path / "contexts", [[1, 20, 30]], tokenizer="0" * 64)
    study = dataclasses.replace(build(tmp_path, path="contexts"), model=ModelSpec(id="lab/tiny"))
    load_contexts(study)  # nothing is here to compare with
    snapshot = tmp_path / "hub" / "models--lab--tiny" / "snapshots" / ("a" * 40)
    save_tokenizer(snapshot)
    (snapshot / "config.json").write_text(json.dumps({"vocab_size": VOCABULARY}))
    refs = tmp_path / "hub" / "models--lab--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    with pytest.raises(SpecError, match="another tokenizer than the model's"):
        load_contexts(study)


def test_tokens_count_by_what_they_are_and_not_by_the_name_of_a_branch(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = [documents(9, seed=0)]
    monkeypatch.setattr(
        "dmcore.sources.contexts.read_documents", lambda *_: (Document(words(*text)) for text in moving[-1])
    )
    study = build(tmp_path, dataset="lab/texts")
    before = load_contexts(study, store)
    again = load_contexts(study, Store(tmp_path / "elsewhere"))
    moving.append(documents(9, seed=1))
    moved = load_contexts(study, Store(tmp_path / "another"))
    assert again.fingerprint == before.fingerprint == find_contexts(study, store).fingerprint
    assert moved.fingerprint != before.fingerprint, "activations of the old texts are not taken for those of the new"


def test_half_characters_and_byte_order_marks_are_read_and_what_is_nested_may_be_missing(
    tmp_path: Path, store: Store
) -> None:
    body = words(*range(10, 20))
    rows = [{"text": f"{body} \ud800", "meta": {"lang": "en"}}, {"text": body, "meta": None}]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(map(json.dumps, rows)).encode())
    contexts = load_contexts(build(tmp_path, files="a.jsonl", domain="meta.lang"), store)
    assert contexts.domain_names == ("en", "(none)")
    pl.DataFrame({"text": [body] * 2, "meta": [{"lang": "en"}, None]}).write_parquet(tmp_path / "a.parquet")
    table = load_contexts(build(tmp_path, files="a.parquet", domain="meta.lang"), store)
    assert table.domain_names == ("en", "(none)")
    assert np.array_equal(table.tokens, contexts.tokens)


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"model_type": "gpt2", "n_positions": 5}, 5),
        ({"model_type": "bert", "max_position_embeddings": 5}, 5),
        ({"model_type": "roberta", "max_position_embeddings": 7, "pad_token_id": 1}, 5),
    ],
)
def test_contexts_longer_than_the_model_reads_are_refused_before_they_are_made(
    config: dict[str, Any], most: int, tmp_path: Path, store: Store
) -> None:
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": words(*text)} for text in documents(5)])
    study = build(tmp_path)
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "vocab_size": VOCABULARY}))
    for find in (find_contexts, load_contexts):
        with pytest.raises(SpecError, match=f"of 6 tokens are asked for, but the model has {most} positions: lower"):
            find(study, store)
    rotary = {"model_type": "llama", "max_position_embeddings": 5, "vocab_size": VOCABULARY}
    (tmp_path / "model" / "config.json").write_text(json.dumps(rotary))
    assert load_contexts(study, store).length == 6
