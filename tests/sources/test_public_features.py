"""The public page of an SAE's features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmcore.results.features import Features
from dmcore.sources.public_features import public_name
from dmcore.specs import SaeSpec, Study, load_study
from tests.run.jobs.test_queue import write_study

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load_study(write_study(tmp_path))


def test_a_released_sae_has_the_name_that_the_registry_gives(study: Study) -> None:
    sae = SaeSpec(
        "blocks.0.hook_resid_post", release="gemma-scope-2b-pt-res-canonical", id="layer_0/width_16k/canonical"
    )
    assert public_name(study, sae) == "gemma-2-2b/0-gemmascope-res-16k"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"metadata": {"neuronpedia_id": "gpt2-small/8-res-jb"}}, "gpt2-small/8-res-jb"),
        ({"neuronpedia_id": "gpt2-small/8-res-jb", "metadata": {}}, "gpt2-small/8-res-jb"),
        ({"metadata": {"neuronpedia_id": "../../evil/x?y"}}, ""),
        ({"metadata": {"neuronpedia_id": 'a"onclick="b/c'}}, ""),
        ({"metadata": ["x"]}, ""),
        (["x"], ""),
    ],
)
def test_a_folder_has_the_name_that_its_config_gives_if_it_can_be_part_of_a_link(
    config: Any, name: str, study: Study
) -> None:
    folder = study.resolve("s")
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps(config))
    assert public_name(study, SaeSpec(HOOK, "s")) == name


def test_a_folder_without_a_config_has_none(study: Study) -> None:
    assert public_name(study, SaeSpec(HOOK, "s")) == ""


def test_the_address_is_of_one_latent_and_never_of_another_site() -> None:
    def page(name: Any) -> str | None:
        return Features({"d_sae": 9, "public": name}, Path()).public_page(7)

    assert page("gpt2-small/8-res-jb") == "https://www.neuronpedia.org/gpt2-small/8-res-jb/7"
    assert [page(name) for name in ("", None, "a/b/../../c", "x", "https://evil.org/a")] == [None] * 5
