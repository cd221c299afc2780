"""docs/lab-server.md says what is true: its commands are understood, its files and links are there, its units start."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import pytest

from dmcore.run import logs
from dmcore.run.cli import build_parser
from dmcore.run.jobs.takeover import STUCK_SECONDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "lab-server.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"python -m dmcore ((?!\.)[^`#\n|&]+)", PAGE)))


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(ROOT / "deploy" / name, encoding="utf-8")
    return parser


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command: str) -> None:
    words = shlex.split(command.strip())
    words = [word for word in words if word != "ID"] + (["0123456789ab"] if "ID" in words else [])
    build_parser().parse_args(words)


def test_every_link_and_file_is_there() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / link).is_file(), link
    for path in re.findall(r"deploy/[\w.-]+", PAGE):
        assert (ROOT / path).is_file(), path


def test_every_variable_and_option_is_one_that_is_read() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "dmcore").rglob("*.py"))
    for name in set(re.findall(r"DMCORE_\w+", PAGE)):
        assert f'"{name}"' in code, name
    assert set(re.findall(r"--log-\w+", PAGE)) == {"--log-format", "--log-level", "--log-file"}


def test_the_workers_unit_starts_what_there_is() -> None:
    service = unit("dmcore-worker.service")["Service"]
    words = shlex.split(service["ExecStart"].partition("-m dmcore ")[2])
    arguments = build_parser().parse_args(words)
    assert arguments.idle_seconds > 1e9  # it stays
    assert float(service["WatchdogSec"]) == STUCK_SECONDS
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    environment = shlex.split((ROOT / "deploy" / "dmcore-worker.service").read_text(encoding="utf-8"), comments=True)
    assert f"Environment={logs.FORMAT_VARIABLE}=json" in environment


def test_the_apps_unit_and_the_proxies_agree() -> None:
    start = unit("dmcore-app.service")["Service"]["ExecStart"]
    assert "--server.address 127.0.0.1" in start
    (port,) = re.findall(r"--server\.port (\d+)", start)
    (host,) = re.findall(r"--server\.allowedHosts (\S+)", start)
    for name in ("nginx.conf", "Caddyfile"):
        proxy = (ROOT / "deploy" / name).read_text(encoding="utf-8")
        assert f"127.0.0.1:{port}" in proxy
        assert host in proxy
    assert "proxy_set_header Upgrade" in (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
