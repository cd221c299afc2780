"""Study files: what is wrong is said in one sentence with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmcore.errors import SpecError
from dmcore.specs import load_study, parse_hook, spec_dict, stream_of

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
        ("blocks.2.hook_resid_post", "encoder_blocks.2.hook_resid_post", "did you mean encoder.2.hook_resid_post"),
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
        ('path = "contexts"', 'path = "contexts"\ndataset = "a/b"', "needs one of"),
        ('path = "contexts"', 'files = "f"\nshort_documents = "pad"', "skip or pack"),
        ('path = "contexts"', 'files = "f"\nn_contexts = 0', "1 or above"),
        ('path = "model"', 'path = "model"\nprocessing = ["fold"]', "center_writing_weights"),
        ("[texts]", "[train]\nhooks = []\nwidths = [8]\nl0s = [2]\n[texts]", "at least one"),
        (
            "[texts]",
            '[train]\nhooks = ["blocks.0.hook_mlp_out"]\nwidths = [8]\nl0s = [2]\narchitectures = ["x"]\n[texts]',
            "choose among",
        ),
        (
            "[texts]",
            '[train]\nhooks = ["blocks.0.hook_mlp_out"]\nwidths = [8]\nl0s = [2]\nfolder = ""\n[texts]',
            "a folder inside the study's own",
        ),
        ("blocks.2.hook_resid_post", "encoder.2.hook_cross_attn_out", "encoder.2.hook_attn_out"),
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


def test_fields_that_came_later_leave_the_keys_of_older_studies_alone(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, GOOD))
    assert spec_dict(study.texts) == {"path": "contexts"}
    assert spec_dict(study.model) == {"path": "model", "id": "", "revision": "main", "dtype": "float32"}
    assert "train" not in study.to_dict()


def test_a_study_that_trains_names_the_saes_that_it_will_have(tmp_path: Path) -> None:
    table = '[train]\nhooks = ["decoder.1.hook_mlp_out"]\nwidths = [8, 16]\nl0s = [2, 12]\n[train.texts]\nfiles = "t"\n'
    study = load_study(write(tmp_path, GOOD + table))
    assert [sae.path for sae in study.saes[2:]] == [
        "saes/decoder.1.hook_mlp_out/topk_8_2",
        "saes/decoder.1.hook_mlp_out/topk_16_2",
        "saes/decoder.1.hook_mlp_out/topk_16_12",
    ]
    assert study.saes[2].stream == "decoder mlp"
    assert study.to_dict()["train"]["texts"] == {"path": "", "files": "t"}


def test_streams_of_an_encoder_decoder_name_the_stack() -> None:
    assert stream_of("encoder.0.attn.hook_z") == "encoder attention"
    assert stream_of("decoder.0.hook_resid_mid_cross") == "decoder residual"
