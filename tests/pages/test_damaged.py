"""Every page on damaged results of the demo: a sentence where a view was, never an exception, and the rest as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dmcore.places import HOME, SHIPPED_CACHE
from dmcore.store.shipped import shipped_names
from dmcore.ui import reads

READ_BY = {
    "index": [("overview", {})],
    "summary": [("overview", {}), ("regression", {})],
    "scaling": [("scaling", {}), ("scaling", {"scale": "tokens"})],
    "parts": [("nonlinear", {"look": "parts"})],
    "features": [("nonlinear", {"look": "features"})],
    "learned": [("nonlinear", {"look": "learned"})],
    "structure": [("nonlinear", {"look": "structure"})],
    "detection": [("nonlinear", {"look": "detection"})],
    "reduction": [("reduction", {"reduce": "methods"}), ("reduction", {"reduce": "all"})],
    "downstream": [("downstream", {"cost": "cost"}), ("downstream", {"cost": "tokens"})],
    "controls": [("controls", {"trust": "controls"})],
    "shrinkage": [("controls", {"trust": "shrinkage"})],
    "transfer": [("controls", {"trust": "transfer"})],
    "synthetic": [("synthetic", {"synthetic": "planted"})],
}
"""Stages, and the views that read them."""


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def bring(root: Path, stage: str) -> None:
    """Copy the shipped entries of a stage."""
    for name in shipped_names():
        if name.startswith(f"{stage}/"):
            shutil.copytree(SHIPPED_CACHE / name, root / name)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damaged") / "cache"
    for stage in READ_BY:
        bring(root, stage)
    return root


@pytest.fixture
def cache(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DMCORE_CACHE", str(copied))
    reads.forget()
    yield copied
    reads.forget()


def said(page: str, params: dict[str, str]) -> list[str]:
    at = AppTest.from_file(str(HOME / "pages" / f"{page}.py"), default_timeout=60)
    for key, value in params.items():
        at.query_params[key] = value
    at.run()
    assert [e.value for e in at.exception] == []
    return [str(one.value) for one in [*at.info, *at.warning, *at.error]]


def test_every_shipped_stage_is_damaged_here() -> None:
    assert {name.split("/")[0] for name in shipped_names()} == {
        *READ_BY,
        "ground-truth",
    }  # no study's: found elsewhere too


@pytest.mark.parametrize("hurt", [cut_short, Path.unlink])
@pytest.mark.parametrize("stage", READ_BY)
def test_a_page_says_what_is_the_matter(cache: Path, stage: str, hurt: Callable[[Path], None]) -> None:
    for page, params in READ_BY[stage]:
        whole = said(page, params)
        for file in (cache / stage).rglob("*"):
            if file.is_file() and file.name != "manifest.json":
                hurt(file)
        reads.forget()
        told = [one for one in said(page, params) if one not in whole]
        shutil.rmtree(cache / stage)  # what was found damaged has been moved aside
        bring(cache, stage)
        assert any("`python -m dmcore" in one or "sweep" in one for one in told), told
        reads.forget()
        assert said(page, params) == whole
