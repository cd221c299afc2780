"""Logs: one line is one line whoever wrote it, a monitor can read them, and no secret is in them."""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmcore.errors import DarkMatterError
from dmcore.run import logs
from dmcore.run.cli import main
from dmcore.run.jobs.files import tail
from dmcore.run.jobs.queue import Queue
from dmcore.run.logs import LogSettings, SharedFile
from tests.run.jobs.test_queue import ROOT, write_study

FORGED = '{"time": "2026-01-01T00:00:00.000+00:00", "level": "error", "message": "forged"}'
HOSTILE = f"mine\n{FORGED}\r\x1b[2J\u202e\u2028\x85\x00\ud800"
log = logging.getLogger("dmcore.test")


@pytest.fixture(autouse=True)
def own_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The logs of the tests themselves, as they were before."""
    for name in (logs.FORMAT_VARIABLE, logs.LEVEL_VARIABLE, logs.FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    level, ours = logging.getLogger().level, logging.getLogger("dmcore").level
    yield
    logs.forget()
    logs.configure("cli", LogSettings())
    logging.getLogger().setLevel(level)
    logging.getLogger("dmcore").setLevel(ours)


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_json_line_says_when_who_what_and_of_which_job(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("job", LogSettings("json"), level="info")
    logs.note(job="0123456789ab", study="demo", sae="")
    log.info("%s of %d", "one", 2)
    with logs.about(sae="blocks.0/topk"):
        log.warning("inside")
    log.debug("not shown")
    logging.getLogger("a.library").info("not shown")
    first, second = json_lines(capsys.readouterr().err)
    assert {k: first[k] for k in ("level", "logger", "message", "role", "job", "study")} == {
        "level": "info", "logger": "dmcore.test", "message": "one of 2", "role": "job", "job": "0123456789ab", "study": "demo",
    }  # fmt: skip
    assert first["time"].endswith("+00:00")
    assert first["pid"] == os.getpid()
    assert "sae" not in first
    assert (second["sae"], second["level"]) == ("blocks.0/topk", "warning")


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_hostile_name_cannot_forge_a_line(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("job", LogSettings(format, "info"))
    logs.note(study=HOSTILE)
    log.info("%s begins", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("it failed")
    written = capsys.readouterr().err
    lines = written.splitlines()
    assert all(character.isprintable() or character == "\n" for character in written)
    if format == "json":
        assert len(lines) == 2
        assert [line["message"] for line in json_lines(written)][1] == "it failed"
        assert all(line["level"] != "error" or line["message"] != "forged" for line in json_lines(written))
    else:
        assert lines[0][8:] == " " + logs.one_line(f"{HOSTILE} begins")
        assert lines[1][8:] == " it failed"
        assert all(line.startswith("  | ") for line in lines[2:])


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_TOKEN", "abcdefgh-not-like-one")
    monkeypatch.setenv("LAB_API_KEY", "another-secret")
    monkeypatch.setenv("SOME_KEY_FILE", "/etc/ssl/key.pem")
    logs.configure("job", LogSettings("json"), level="info")
    looks = "hf_abcdefghijk sk-0123456789abcdef0123 Bearer eyJhbGciOi.x.y https://user:pass@host/"
    secret = f"{looks} abcdefgh-not-like-one another-secret"
    log.info("%s /etc/ssl/key.pem", secret)
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        log.exception("no")
    written = capsys.readouterr().err
    for hidden in ("hf_abc", "sk-0123", "eyJhbG", "user:pass", "not-like-one", "another-secret"):
        assert hidden not in written
    assert "/etc/ssl/key.pem" in written
    assert "https://***@host/" in written


def test_the_options_stand_before_or_after_the_command_and_else_the_environment_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def taken(*words: str) -> tuple[LogSettings, list[str]]:
        return logs.take_options(argparse.ArgumentParser(add_help=False, allow_abbrev=False), words)

    assert taken("sweep", "demo") == (LogSettings(), ["sweep", "demo"])
    both = (LogSettings("json", "debug", True), ["sweep", "demo", "--device", "cpu"])
    for name in (logs.FORMAT_VARIABLE, logs.LEVEL_VARIABLE, logs.FILE_VARIABLE):
        monkeypatch.setenv(name, "")  # put back afterwards
    assert taken("--log-format", "json", "sweep", "demo", "--device", "cpu", "--log-level=debug", "--log-file") == both
    assert taken("sweep", "demo", "--device", "cpu") == both  # what this process starts logs alike
    monkeypatch.setenv("DMCORE_LOG", "xml")
    with pytest.raises(DarkMatterError, match="DMCORE_LOG is neither text nor json"):
        taken("sweep")
    assert main(["sweep", "demo"]) == 1


def test_an_error_of_a_command_is_a_json_line_where_lines_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DMCORE_LOG", "")
    assert main(["--log-format", "json", "sweep", str(tmp_path / "no.toml")]) == 1
    (line,) = json_lines(capsys.readouterr().err)
    assert line["level"] == "error"
    assert "no.toml" in line["message"]


def test_a_job_logs_as_its_worker_was_told_and_the_page_shows_it_as_text(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "cache")
    job = queue.submit("sweep", write_study(tmp_path), "cpu")
    environment = {**os.environ, "DMCORE_CACHE": str(queue.root), "DMCORE_LOG": "json", "DMCORE_LOG_FILE": "1"}
    command = [sys.executable, "-m", "dmcore", "worker", "--device", "cpu", "--once"]
    worker = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    own = json_lines(worker.stderr)
    assert worker.stdout == ""
    assert {line["role"] for line in own} == {"worker"}
    theirs = json_lines(queue.log_path(job.id).read_text())
    assert all((line["job"], line["study"], line["role"]) == (job.id, "tiny", "job") for line in theirs)
    assert theirs[-1]["message"].startswith("failed: ")  # there is no model
    shown = tail(queue.log_path(job.id), 1)[0]
    assert shown[9:] == theirs[-1]["message"][: len(shown) - 9]
    together = json_lines((queue.folder / "dmcore.log").read_text())
    assert {line["role"] for line in together} == {"worker", "job"}
    assert len(together) == len(own) + len(theirs)


def write_lines(path: Path, name: str) -> None:
    handler = SharedFile(path, limit=2000, kept=3)
    handler.setFormatter(logs.JsonFormatter(name))
    for i in range(60):
        handler.emit(logging.LogRecord("x", logging.INFO, "", 0, f"{name} {i}", None, None))


def test_a_shared_file_keeps_whole_lines_and_stays_short(tmp_path: Path) -> None:
    path = tmp_path / "jobs" / "dmcore.log"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_lines, args=(path, name)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert "dmcore.log.1" in names_of(path.parent)
    for file in map(path.with_name, names_of(path.parent)):
        assert all(line["message"][0] in "ab" for line in json_lines(file.read_text()))
        assert file.stat().st_mode & 0o077 == 0  # of the owner alone


def names_of(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("dmcore.log*") if path.suffix != ".lock"}


def test_old_lines_go_when_a_file_has_been_moved_aside_often_enough(tmp_path: Path) -> None:
    path = tmp_path / "dmcore.log"
    write_lines(path, "a")
    files = names_of(tmp_path)
    assert files - {"dmcore.log"} == {"dmcore.log.1", "dmcore.log.2", "dmcore.log.3"}
    assert all((tmp_path / name).stat().st_size < 2000 + 200 for name in files)
    newest = [json_lines((tmp_path / name).read_text())[-1]["message"] for name in sorted(files)]
    numbers = [int(message.split()[1]) for message in newest]
    assert numbers == sorted(numbers, reverse=True)
    assert max(numbers) == 59


def test_a_file_that_cannot_be_written_does_not_end_the_work(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file where the folder should be")
    write_lines(tmp_path / "jobs" / "dmcore.log", "a")


def test_a_program_that_uses_dmcore_keeps_its_own_logs(caplog: pytest.LogCaptureFixture) -> None:
    before = list(logging.getLogger().handlers)
    logs.configure("cli", LogSettings())
    assert logging.getLogger().handlers == before
