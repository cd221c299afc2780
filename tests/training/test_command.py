"""`train-saes` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmcore.run.cli import main
from dmcore.specs import load_study
from tests.builders import build_study
from tests.training.studies import save_tokens

GRID = ["--hooks", "blocks.1.hook_resid_post", "--widths", "32", "--l0s", "4", "--tokens", "1500"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study without a [train] table, and a folder of other contexts beside it."""
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    save_tokens(tmp_path / "more", 60, seed=9)
    return build_study(tmp_path / "study", architectures=("topk",))


def test_options_make_a_study_that_is_trained_and_can_be_swept(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    options = [*GRID, "--architectures", "topk", "jumprelu", "--batch-tokens", "128", "--texts", str(tmp_path / "more")]
    command = ["train-saes", str(study), *options, "--out", str(out), "--device", "cpu"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "saes/blocks.1.hook_resid_post/jumprelu_32_4" in shown
    assert f"2 of 2 SAEs trained, 0 were there. Next: python -m dmcore sweep {out / 'study.toml'}" in shown
    made = load_study(out / "study.toml")
    assert made.name == "mine"
    assert [sae.label for sae in made.saes] == ["topk", "jumprelu"]
    assert main(command) == 0
    assert "0 of 2 SAEs trained, 2 were there." in capsys.readouterr().out
    assert main(["sweep", str(out / "study.toml"), "--device", "cpu", "--json"]) == 0
    assert [record["label"] for record in json.loads(capsys.readouterr().out)] == ["topk", "jumprelu"]


def test_json_has_a_record_an_sae(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*GRID, "--texts", str(tmp_path / "more"), "--engine", "lean", "--source", "captured", "--json"]
    assert main(["train-saes", str(study), *options, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["architecture"] == "topk"
    assert record["l0"] == 4.0
    assert 0 < record["fvu"] < 1
    assert {"dead_share", "tokens", "seconds", "trained", "site", "folder"} <= set(record)
    log = json.loads((Path(record["folder"]) / "train.json").read_text())
    assert log["settings"]["engine"] == "lean"


def test_files_of_text_are_made_into_contexts_of_the_studys_length(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The study's tokenizer knows no spaces: a line of one word each.
    (tmp_path / "corpus.jsonl").write_text("\n".join(json.dumps({"text": f"w{3 + i % 50}"}) for i in range(3000)))
    options = [*GRID, "--texts", str(tmp_path / "corpus.jsonl"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["train-saes", str(study), *options]) == 0
    made = load_study(tmp_path / "out" / "study.toml")
    assert made.train is not None
    assert made.train.texts is not None
    assert made.train.texts.context_length == 24


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--widths", "32"], "say with --out FOLDER"),
        (["--out", "OUT", "--widths", "32"], "give --hooks, --l0s"),
        (["--out", "OUT", *GRID], "[train.texts]"),
        (["--out", "OUT", *GRID, "--texts", "nowhere"], "There is nothing at"),
        ([], "no [train] table"),
    ],
)
def test_what_is_lacking_is_said_in_one_line(
    options: list[str], sentence: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(tmp_path / "out") if option == "OUT" else option for option in options]
    assert main(["train-saes", str(study), *options, "--device", "cpu"]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert sentence in error[0]


def test_another_study_in_the_folder_is_not_overwritten(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "study.toml").write_text("schema = 1\n")
    options = [*GRID, "--texts", str(tmp_path / "more"), "--out", str(out), "--device", "cpu"]
    assert main(["train-saes", str(study), *options]) == 1
    assert "is another study" in capsys.readouterr().err
    assert (out / "study.toml").read_text() == "schema = 1\n"
