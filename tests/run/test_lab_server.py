"""docs/lab-server.md says what is true: its commands are understood, its files and links are there, its units start."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from dmcore.run import logs
from dmcore.run.cli import build_parser
from dmcore.run.jobs.takeover import STUCK_SECONDS
from tests.run.proxy_site import write_site

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


HEADERS = {
    "Strict-Transport-Security": "max-age=31536000",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
WAY = {"X-Forwarded-For": "remote", "X-Forwarded-Host": "host", "X-Forwarded-Proto": "scheme", "X-Real-IP": "remote"}
"""Headers of the way here, and what of the connection they are made from."""
WHO = {"Forwarded", "X-Forwarded-User", "X-Forwarded-Email", "Remote-User"}


def block(text: str, opening: str) -> str:
    """What a block of nginx's or Caddy's settings holds by itself: not what is in the blocks within it."""
    start = text.index(f"{opening} {{") + len(opening) + 2
    depth, own = 1, []
    for line in text[start:].splitlines():
        code = line.partition("#")[0].strip()
        inside = depth
        depth += (code.endswith("{")) - (code == "}")
        if depth == 0:
            return "\n".join(own)
        if inside == depth == 1 and code:
            own.append(code)
    raise AssertionError(f"{opening} has no end")


def proxy(name: str) -> str:
    return (ROOT / "deploy" / name).read_text(encoding="utf-8")


def test_both_proxies_say_what_browsers_may_do_with_a_page() -> None:
    server = block(proxy("nginx.conf"), "server")
    added = dict(re.findall(r"^add_header (\S+) (.+) always;$", server, re.MULTILINE))
    assert {name: value.strip('"') for name, value in added.items()} == HEADERS
    assert proxy("nginx.conf").count("\n        add_header") == 0, "one in a location would take all others away"
    said = re.findall(r"^([A-Z][\w-]+) (.+)$", block(proxy("Caddyfile"), "header"), re.MULTILINE)
    assert {name: value.strip('"') for name, value in said} == HEADERS
    model = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    assert all(f"{name}: {value}" in model for name, value in HEADERS.items() if not name.startswith("Strict"))


@pytest.mark.parametrize("opening", ["server", "location = /_stcore/stream"])
def test_what_a_browser_says_of_its_way_and_of_its_user_is_overwritten(opening: str) -> None:
    sent = dict(re.findall(r"^proxy_set_header (\S+) (\S+);$", block(proxy("nginx.conf"), opening), re.MULTILINE))
    assert {name: value for name, value in sent.items() if name not in {"Upgrade", "Connection"}} == {
        "Host": "$http_host", "X-Forwarded-For": "$remote_addr", "X-Forwarded-Host": "$http_host", "X-Forwarded-Proto": "$scheme",
        "X-Real-IP": "$remote_addr", **dict.fromkeys(WHO, '""'),
    }  # fmt: skip
    assert "proxy_add_x_forwarded_for" not in proxy("nginx.conf"), "it appends"
    caddy = block(proxy("Caddyfile"), "reverse_proxy 127.0.0.1:8501")
    assert set(re.findall(r"^header_up -(\S+)$", caddy, re.MULTILINE)) == WHO
    written = dict(re.findall(r"^header_up ([A-Z]\S+) \{(\w+)\}$", caddy, re.MULTILINE))
    assert {name: value.replace("_host", "").removesuffix("port") for name, value in written.items()} == WAY


def test_no_other_location_of_nginx_drops_what_the_server_sets() -> None:
    for opening in ("location /", "location /static/"):
        assert "proxy_set_header" not in block(proxy("nginx.conf"), opening)
    assert "if ($host != $server_name)" in proxy("nginx.conf")
    assert "return 301 https://$server_name$request_uri;" in proxy("nginx.conf"), "not to what the Host header says"


def test_a_websocket_passes_and_may_stay_open() -> None:
    stream = block(proxy("nginx.conf"), "location = /_stcore/stream")
    for line in ("proxy_set_header Upgrade $http_upgrade;", "proxy_set_header Connection upgrade;",
                 "proxy_read_timeout 1d;", "proxy_send_timeout 1d;", "proxy_buffering off;"):  # fmt: skip
        assert line in stream.splitlines()
    assert "proxy_http_version 1.1;" in block(proxy("nginx.conf"), "server").splitlines()


def test_bodies_are_as_small_as_the_apps_own_limit() -> None:
    settings = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    most = settings["server"]["maxUploadSize"]
    assert f"client_max_body_size {most}m;" in block(proxy("nginx.conf"), "server").splitlines()
    assert block(proxy("Caddyfile"), "request_body") == f"max_size {most}MiB"


def test_limits_have_room_for_fifty_people_behind_one_address() -> None:
    text, people = proxy("nginx.conf"), 50
    bursts = {zone: int(burst) for zone, burst in re.findall(r"limit_req zone=(\w+) burst=(\d+) nodelay;", text)}
    assert bursts["dmcore_static"] >= people * 150
    assert bursts["dmcore_other"] >= people * 10
    connections = {zone: int(most) for zone, most in re.findall(r"limit_conn (\w+) (\d+);", text)}
    assert connections["dmcore_websockets"] >= people * 4  # tabs
    assert connections["dmcore_all"] >= connections["dmcore_websockets"] + people * 6  # connections of a browser
    zones = set(re.findall(r"zone=(\w+):", text))
    assert zones == set(bursts) | set(connections)
    assert text.count("limit_req zone") == text.count("proxy_pass"), "every location has a limit"


@pytest.mark.skipif(shutil.which("nginx") is None or shutil.which("openssl") is None, reason="needs nginx and openssl")
def test_nginx_understands_the_site(tmp_path: Path) -> None:
    settings = write_site(tmp_path, 8501, 8443, 8080)
    found = subprocess.run(["nginx", "-t", "-p", tmp_path, "-c", settings], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "[warn]" not in found.stderr


def test_slurms_example_gives_ray_the_whole_node() -> None:
    text = (ROOT / "docs" / "ray.md").read_text(encoding="utf-8")
    asked = shlex.split(" ".join(re.findall(r"^#SBATCH (.+)$", text, re.MULTILINE)))
    assert "--mem=0" in asked
    assert any(re.fullmatch(r"--cpus-per-task=\d+", word) for word in asked)
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in text.splitlines()
