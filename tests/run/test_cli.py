"""The command line: exit status, JSON, and errors on one line that name the remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dmcore
from dmcore.run.cli import main
from dmcore.store.store import Entry, Store
from tests.builders import build_study


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small study and a cache in which it has been computed."""
    study = build_study(tmp_path_factory.mktemp("study"), architectures=("topk",))
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DMCORE_CACHE", str(cache))
        assert main(["sweep", str(study), "--device", "cpu"]) == 0
    return study, cache


@pytest.fixture
def study(swept: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DMCORE_CACHE", str(swept[1]))
    return swept[0]


def test_show_prints_one_record_per_sae(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(study), "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert len(records) == 3
    needed = {"site", "layer", "d_sae", "l0", "architecture", "fvu", "fvu_nonlinear", "r2_error", "r2_error_mean_dims"}
    assert needed | {"r2_error_norm_sq", "fvu_low", "fvu_high"} <= set(records[0])
    assert main(["show", str(study)]) == 0
    assert "blocks.1.hook_resid_post/topk" in capsys.readouterr().out


def test_a_second_sweep_takes_everything_from_the_cache(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(study)]) == 0
    assert "3 of 3 SAEs: 0 computed, 3 from the cache." in capsys.readouterr().out


def test_recompute_compares_with_the_cache(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(study), "--recompute", "--device", "cpu"]) == 0
    assert "The cache agrees." in capsys.readouterr().out


def test_workers_share_a_sweep(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    assert main(["sweep", str(study), "--workers", "2", "--device", "cpu"]) == 0
    assert "3 of 3 SAEs" in capfd.readouterr().out


def shared_digits(keys: list[str]) -> set[str]:
    """First digits that several keys have."""
    return {key[0] for key in keys if sum(other.startswith(key[0]) for other in keys) > 1}


def test_cache_ls_verify_and_rm(
    swept: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(swept[1], tmp_path / "cache")
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    assert main(["cache", "ls", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"activations", "codes", "summary"} <= {entry["stage"] for entry in listed}
    assert main(["cache", "verify"]) == 0
    capsys.readouterr()
    entry = next(e for e in Store().entries() if isinstance(e, Entry) and e.manifest.stage == "codes")
    (entry.path / "values.npy").write_bytes(b"short")
    assert main(["cache", "verify", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [d["key"] for d in found["damaged"]] == [entry.key]
    before = len(list(Store().entries()))
    for unclear in ("", next(iter(shared_digits([e["key"] for e in listed])))):
        assert main(["cache", "rm", unclear]) == 1
    assert len(list(Store().entries())) == before
    capsys.readouterr()
    assert main(["cache", "rm", "activations", entry.key[:8], "damaged"]) == 1  # the damaged one is gone already
    assert main(["cache", "rm", "activations", "damaged"]) == 0
    assert not [e for e in Store().entries() if isinstance(e, Entry) and e.manifest.stage == "activations"]
    assert not (tmp_path / "cache" / "damaged").exists()


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["sweep", "none.toml"], "check the path, or use `demo`"),
        (["show", "none.toml", "--json"], "check the path"),
        (["sweep", "STUDY", "--device", "tpu9"], "--device cpu"),
        (["sweep", "STUDY", "--workers", "0"], "1 or above"),
        (["cache", "rm", "zzzz"], "cache ls"),
        ([], "dmcore COMMAND --help"),
        (["swep"], "dmcore COMMAND --help"),
        (["catalogue", "--width", "16z"], "'16z' is no width"),
        (["catalogue", "--width", "-4"], "'-4' is no width"),
        (["worker", "--once", "--idle-seconds", "nan"], "0 or above"),
        (["worker", "--once", "--idle-seconds", "-1"], "0 or above"),
        (["show", "gpt2-small"], "did you mean studies/gpt2-small.toml?"),
        (["sweep", "llama-3.1-8b.toml"], "did you mean studies/llama-3.1-8b.toml?"),
        (["plan", "studies/gpt2-small"], "did you mean studies/gpt2-small.toml?"),
        (["show", "STUDY", "--jsn"], "--help"),
        (["catalogue", "--model", "gemma2-2b"], "gemma-2-2b"),
        (["catalogue", "--site", "reisdual"], "did you mean residual"),
        (["catalogue", "--architecture", "topkk"], "did you mean topk"),
        (["catalogue", "--architecture", "zzz"], "there are"),
    ],
)
def test_errors_are_one_line_with_the_remedy(
    arguments: list[str], remedy: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(study) if a == "STUDY" else a for a in arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert remedy in error
    assert "\n" not in error


@pytest.mark.parametrize("command", [["sweep", "STUDY"], ["worker", "--once"]])
def test_a_cache_that_cannot_be_written_is_a_sentence(
    command: list[str], study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "file"))
    assert main([str(study) if a == "STUDY" else a for a in command]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "DMCORE_CACHE" in error


def test_filters_that_leave_nothing_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalogue", "--model", "gemma-2-2b", "--layer", "99"]) == 0
    assert "leave one of the filters out" in capsys.readouterr().out


def test_show_before_sweep_says_what_to_run(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    assert main(["show", str(study)]) == 1
    assert "python -m dmcore sweep" in capsys.readouterr().err


def test_a_token_file_that_cannot_be_used_is_a_sentence(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    import numpy as np

    shutil.copytree(study.parent, tmp_path / "s")
    copy = tmp_path / "s" / "study.toml"
    np.save(tmp_path / "s" / "contexts" / "tokens.npy", np.zeros((3, 4)))
    assert main(["sweep", str(copy)]) == 1
    assert "integers of shape" in capsys.readouterr().err
    np.save(tmp_path / "s" / "contexts" / "tokens.npy", np.zeros((3, 24), dtype=np.uint16))
    assert main(["sweep", str(copy)]) == 1
    assert "set n_folds to 3" in capsys.readouterr().err
    copy.write_text(copy.read_text().replace("skip_positions = 4", "skip_positions = 24"))
    assert main(["sweep", str(copy)]) == 1
    assert "contexts have 24 tokens: lower it" in capsys.readouterr().err


def test_a_name_of_the_caches_own_studies_is_told_by_its_path(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    (tmp_path / "studies").mkdir()
    own = tmp_path / "studies" / "mine.toml"
    own.write_text(study.read_text())
    assert main(["show", "mine"]) == 1
    assert f"did you mean {own}?" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"dmcore {dmcore.__version__}\n"


def test_a_worker_without_a_job_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    assert main(["worker", "--once", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "No job is waiting.\n"


@pytest.mark.parametrize("argv", [["--help"], ["sweep", "--help"], ["show", "--help"], ["cache", "--help"]])
def test_every_command_has_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out
