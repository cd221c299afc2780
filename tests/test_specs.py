"""Study files: what is wrong is said in one sentence with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmcore.errors import SpecError
from dmcore.specs import PartsSpec, load_study, parse_hook, spec_dict, stream_of

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


PARTS_TABLE = '[parts]\nbase = "saes/a"\nwidth = 64\nl0 = 4\nseeds = [0, 3]\n[parts.texts]\nfiles = "t"\n'


def test_a_study_that_trains_on_parts_names_the_saes_that_it_will_have(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, GOOD + PARTS_TABLE))
    assert study.parts is not None
    assert study.base == study.saes[0]
    assert len(study.saes) == 2, "SAEs on parts read no site, and are not swept with the others"
    found = study.parts.saes()
    assert [(sae.part, sae.seed) for sae in found] == [
        (part, seed) for part in ("x", "error", "linear", "nonlinear") for seed in (0, 3)
    ]
    assert found[3].path == "parts/saes__a/error/topk_64_4_seed3"
    assert study.to_dict()["parts"]["texts"] == {"path": "", "files": "t"}
    training = study.parts.training("blocks.2.hook_resid_post", 3)
    assert (training.seed, training.folder, training.widths) == (3, "parts/saes__a", (64,))


@pytest.mark.parametrize(
    ("base", "place"),
    [("r/i", "parts/r__i"), ("../saes/ä b", "parts/saes__--b"), ("/abs/x", "parts/abs__x"), ("..", "parts/base")],
)
def test_the_folder_of_the_parts_is_one_name_inside_the_study(base: str, place: str) -> None:
    assert PartsSpec(base, 8, 2).place == place


def test_without_parts_a_study_keeps_its_key(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, GOOD))
    assert study.parts is None
    assert "parts" not in study.to_dict()
    with pytest.raises(SpecError, match=r"no \[parts\] table"):
        study.base


@pytest.mark.parametrize(
    ("old", "new", "remedy"),
    [
        ('base = "saes/a"', 'base = "saes/b"', "did you mean 'saes/a'"),
        ('base = "saes/a"', 'base = ""', "name an SAE of the study"),
        ('base = "saes/a"', "base = 3", "text in quotes"),
        ('base = "saes/a"\n', "", "lacks 'base'"),
        ("width = 64", "width = 0", "1 or above"),
        ("width = 64", "width = [64]", "whole number"),
        ("l0 = 4", "l0 = 65", "lower l0, or raise width"),
        ("l0 = 4", "l0 = true", "whole number"),
        ("seeds = [0, 3]", "seeds = [0, 0]", "0 twice"),
        ("seeds = [0, 3]", "seeds = []", "at least one"),
        ("seeds = [0, 3]", "seeds = 0", "give a list"),
        ("seeds = [0, 3]", "seeds = [-1]", "0 or above"),
        ("seeds = [0, 3]", 'on = ["x", "errors"]', "choose among x, error, linear, nonlinear"),
        ("seeds = [0, 3]", 'on = ["x", "x"]', "'x' twice"),
        ("seeds = [0, 3]", 'on = "x"', "give a list"),
        ("seeds = [0, 3]", 'architecture = "relu"', "choose one of topk"),
        ("seeds = [0, 3]", 'engine = "fast"', "[parts] engine is 'fast': give sae-lens or lean"),
        ("seeds = [0, 3]", 'source = "disk"', "live or captured"),
        ("seeds = [0, 3]", "tokens = 0", "[parts] tokens is 0"),
        ("seeds = [0, 3]", "learning_rate = -1", "[parts] learning_rate"),
        ("seeds = [0, 3]", 'folder = "../x"', "a folder inside the study's own"),
        ("seeds = [0, 3]", "seed = 3", "did you mean 'seeds'"),
        ('files = "t"', 'files = "t"\npath = "u"', "[texts] needs one of"),
    ],
)
def test_what_is_wrong_with_parts_is_one_sentence(old: str, new: str, remedy: str, tmp_path: Path) -> None:
    assert old in PARTS_TABLE
    with pytest.raises(SpecError) as caught:
        load_study(write(tmp_path, GOOD + PARTS_TABLE.replace(old, new)))
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_base_that_is_not_one_sae_of_a_folder_or_release_is_refused(tmp_path: Path) -> None:
    twice = '[[saes]]\nhook = "blocks.1.hook_mlp_out"\npath = "saes/a"\n'
    with pytest.raises(SpecError, match="at 2 hooks"):
        load_study(write(tmp_path, GOOD + twice + PARTS_TABLE))
    custom = '[[saes]]\nhook = "blocks.1.hook_mlp_out"\ncustom = "mine"\n'
    with pytest.raises(SpecError, match="an object of Python"):
        load_study(write(tmp_path, GOOD + custom + PARTS_TABLE.replace("saes/a", "mine")))


def test_streams_of_an_encoder_decoder_name_the_stack() -> None:
    assert stream_of("encoder.0.attn.hook_z") == "encoder attention"
    assert stream_of("decoder.0.hook_resid_mid_cross") == "decoder residual"
