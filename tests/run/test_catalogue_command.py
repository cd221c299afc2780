"""`catalogue` on the command line: records with their keys, unknown L0 as null, and one line for a release that is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmcore.run.cli import main
from dmcore.run.commands.catalogue import width_named


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(root))
    monkeypatch.setenv("HF_HUB_CACHE", str(root / "hub"))


def test_json_has_a_record_per_sae_and_null_for_an_unknown_l0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalogue", "--release", "gpt2-small-attn-out-v5-32k", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert len(records) == 12
    assert records[3]["l0"] is None
    assert (records[3]["width"], records[3]["d_sae"], records[3]["layer"]) == (32_768, 32_768, 3)
    needed = {"release", "id", "model", "hook", "site", "layer", "width", "l0", "architecture", "on_disk", "processing"}
    assert needed <= set(records[0])
    assert main(["catalogue", "--release", "gpt2-small-res-jb", "--layer", "5", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["hook"], record["l0"] > 0, record["on_disk"]) == ("blocks.5.hook_resid_pre", True, False)
    assert record["processing"] == ["center_writing_weights"]


def test_the_table_says_unknown_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalogue", "--model", "gpt2-small", "--site", "attention", "--width", "131072"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["release", "id", "model", "hook", "width"]
    assert all("unknown" in line for line in lines[1:-1])
    assert lines[-1] == "12 of 13,857 SAEs, 0 on disk."


@pytest.mark.parametrize(
    ("name", "width"),
    [("16k", 2**14), ("32k", 2**15), ("65k", 2**16), ("131k", 2**17), ("262k", 2**18), ("524k", 2**19), ("1m", 2**20),
     ("1M", 2**20), ("64k", 2**16), ("24k", 24_576), ("16384", 16_384), ("16,384", 16_384), ("768", 768)],
)  # fmt: skip
def test_a_width_may_be_named_as_releases_name_it(name: str, width: int) -> None:
    assert width_named(name) == width


def test_a_named_width_finds_what_its_number_finds(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for width in ("65k", "65536"):
        assert main(["catalogue", "--release", "gemma-scope-2b-pt-res", "--width", width]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "width_65k" in said[0]


def test_filters_of_every_kind_narrow_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--text", "gemma-scope-2b l0_10", "--architecture", "jumprelu"]
    assert main(["catalogue", *chosen, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert records
    assert all("gemma-scope-2b" in r["release"] and "l0_10" in r["path"] for r in records)
    assert main(["catalogue", "--on-disk", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_releases_are_listed_with_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalogue", "--releases", "--json"]) == 0
    found = {r["release"]: r for r in json.loads(capsys.readouterr().out)}
    assert len(found) == 170
    assert found["gemma-scope-9b-pt-res"]["saes"] == 536
    assert found["llama_scope_lxr_8x"]["widths"] == [32_768]
    assert main(["catalogue", "--releases", "--model", "gpt2-small"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("SAEs.")


def test_an_unknown_release_is_one_line_with_the_nearest_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalogue", "--release", "gemma-scope-9b-res", "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "gemma-scope-9b-pt-res" in said.err
