"""Study files: what is wrong is said in one sentence with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmcore.errors import SpecError
from dmcore.specs import load_study, parse_hook

GOOD = """
schema = 1
name = "s"
title = "S"
seed = 3
[model]
path = "model"
[texts]
path = "contexts"
[settings]
skip_positions = 4
compare_skips = [4, 1, 0, 1]
[[saes]]
hook = "blocks.2.hook_resid_post"
path = "saes/a"
[[saes]]
hook = "blocks.0.attn.hook_z"
release = "r"
id = "i"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def test_a_study_is_read(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, GOOD))
    assert study.hooks == ("blocks.2.hook_resid_post", "blocks.0.attn.hook_z")
    assert [(s.name, s.layer, s.stream) for s in study.saes] == [("saes/a", 2, "residual"), ("r/i", 0, "attention")]
    assert study.settings.compare_skips == (0, 1)
    assert study.resolve("model") == tmp_path / "model"


def test_the_same_study_elsewhere_is_the_same_study(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = (load_study(write(tmp_path / name, GOOD)) for name in ("a", "b"))
    assert one == two
    assert one.to_dict() == two.to_dict()


@pytest.mark.parametrize(
    ("old", "new", "remedy"),
    [
        ("skip_positions = 4", "skip_position = 4", "did you mean 'skip_positions'"),
        ("skip_positions = 4", "skip_positions = -1", "0 or above"),
        ("skip_positions = 4", "skip_positions = true", "whole number"),
        ("skip_positions = 4", "n_folds = 1", "2 or above"),
        ("skip_positions = 4", "ridge = -2.0", "0 or above"),
        ("skip_positions = 4", "ridge = nan", "finite"),
        ("skip_positions = 4", 'fit_bias = "no"', "true or false"),
        ("skip_positions = 4", "zzz = 1", "known keys are"),
        ("hook_resid_post", "hook_resid_pots", "blocks.2.hook_resid_post"),
        ("blocks.2.hook_resid_post", "layer2", "did you mean"),
        ('path = "saes/a"', "", "needs either path"),
        ('path = "saes/a"', 'path = "saes/a"\nrelease = "r"\nid = "i"', "not both"),
        ('path = "saes/a"', "path = 7", "text in quotes"),
        ('[model]\npath = "model"', "", "[model]"),
        ('[model]\npath = "model"', '[model]\npath = "model"\ndtype = "int8"', "float32"),
        ('name = "s"', 'name = "../s"', "letters, digits"),
        ("seed = 3", "seed = -3", "0 or above"),
        ("schema = 1", "schema = 2", "schema = 1"),
        ("schema = 1", "schema = = 1", "not valid TOML"),
        ('release = "r"\nid = "i"', 'release = "r"', "needs either path"),
        (
            'hook = "blocks.0.attn.hook_z"\nrelease = "r"\nid = "i"',
            'hook = "blocks.2.hook_resid_post"\npath = "saes/a"',
            "twice",
        ),
        ("[[saes]]", "[[sae]]", "did you mean 'saes'"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_the_remedy(old: str, new: str, remedy: str, tmp_path: Path) -> None:
    assert old in GOOD
    with pytest.raises(SpecError) as caught:
        load_study(write(tmp_path, GOOD.replace(old, new)))
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_study_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="use `demo`"):
        load_study(tmp_path / "none.toml")


def test_hooks_are_parsed() -> None:
    assert parse_hook("blocks.17.attn.hook_z") == (17, "attn.hook_z")
    with pytest.raises(SpecError, match=r"blocks\.3\.hook_mlp_out"):
        parse_hook("blocks.3.mlp_out")
