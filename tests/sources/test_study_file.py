"""Study files that are written: read back, they are the same study, whatever their texts hold."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmcore.errors import SpecError
from dmcore.sources.study_file import study_toml, toml_value
from dmcore.specs import ModelSpec, PartsSpec, SaeSpec, Settings, Study, TextsSpec, TrainSpec, load_study

MODEL = ModelSpec(id="owner/model", dtype="bfloat16", processing=("center_writing_weights",), device_map="auto")
TEXTS = TextsSpec(dataset="owner/texts", domain="meta.set", n_contexts=12, context_length=64, short_documents="pack")
SETTINGS = Settings(skip_positions=7, n_folds=4, ridge=1e-9, fit_bias=False, compare_skips=(0, 3))
SAES = (
    SaeSpec("blocks.3.attn.hook_z", release="a-b", id="layer_3/x"),
    SaeSpec("blocks.3.hook_mlp_out", "s/1", label="q"),
)
TRAIN = TrainSpec(
    ("blocks.3.hook_resid_post",), (64, 128), (4, 8), tokens=1000, texts=TextsSpec(files="c.jsonl", skip_contexts=3)
)

PARTS = PartsSpec("s/1", 64, 8, on=("x", "linear"), seeds=(4,), texts=TextsSpec(files="d.jsonl"))


def read(tmp_path: Path, text: str) -> Study:
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    return load_study(path)


@pytest.mark.parametrize("train", [None, TRAIN])
@pytest.mark.parametrize("saes", [SAES, SAES[:1]])
def test_what_is_written_is_read_back_equal(tmp_path: Path, saes: tuple, train: TrainSpec | None) -> None:
    made = train.saes() if train else ()
    text = study_toml(
        "a-study", "A study", MODEL, TEXTS, SETTINGS, saes, seed=3, train=train, comment="What\n\nand why"
    )
    assert read(tmp_path, text) == Study("a-study", "A study", 3, MODEL, TEXTS, SETTINGS, (*saes, *made), train=train)
    assert text.startswith("# What\n#\n# and why\nschema = 1\n")
    assert "\ndtype = " in text  # even were it the default


@pytest.mark.parametrize("train", [None, TRAIN])
def test_parts_are_written_and_read_back_equal(tmp_path: Path, train: TrainSpec | None) -> None:
    text = study_toml("s", "S", MODEL, TEXTS, SETTINGS, SAES, train=train, parts=PARTS)
    made = train.saes() if train else ()
    assert read(tmp_path, text) == Study("s", "S", 0, MODEL, TEXTS, SETTINGS, (*SAES, *made), train=train, parts=PARTS)


def test_saes_that_training_makes_are_not_written_twice(tmp_path: Path) -> None:
    text = study_toml("s", "", MODEL, TEXTS, SETTINGS, (*SAES, *TRAIN.saes()), train=TRAIN)
    study = read(tmp_path, text)
    assert study.saes == (*SAES, *TRAIN.saes())
    assert study.title == "s"


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_survives(text: str) -> None:
    assert tomllib.loads(f"x = {toml_value(text)}")["x"] == text


@pytest.mark.parametrize("value", [True, False, 0, 10**9, 1e-9, 1e22, 0.1, (1, 2), ("a", 'b"'), ()])
def test_values_survive(value: object) -> None:
    got = tomllib.loads(f"x = {toml_value(value)}")["x"]
    assert (tuple(got) if isinstance(got, list) else got) == value
    assert isinstance(got, list) or type(got) is type(value)


def test_a_quote_in_an_id_cannot_add_keys_to_the_file(tmp_path: Path) -> None:
    sneaky = 'x"\n[[saes]]\nhook = "blocks.0.attn.hook_z"\npath = "/etc"'
    study = read(
        tmp_path,
        study_toml("s", sneaky, MODEL, TEXTS, SETTINGS, [SaeSpec("blocks.1.hook_mlp_out", release="r", id=sneaky)]),
    )
    assert len(study.saes) == 1
    assert (study.title, study.saes[0].id) == (sneaky, sneaky)


def test_what_is_no_study_is_not_written() -> None:
    with pytest.raises(SpecError, match="names no SAE"):
        study_toml("s", "", MODEL, TEXTS, SETTINGS, [])
    with pytest.raises(SpecError, match="name is 'no name'"):
        study_toml("no name", "", MODEL, TEXTS, SETTINGS, SAES)
    with pytest.raises(SpecError, match="twice"):
        study_toml("s", "", MODEL, TEXTS, SETTINGS, [SAES[0], SAES[0]])
    with pytest.raises(SpecError, match="cannot be written"):
        study_toml("s", "half \ud800", MODEL, TEXTS, SETTINGS, SAES)
