"""What `doctor` asks of the network: whether the hub answers, whether the app's port is free, who can reach the app."""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import threading
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmcore.places import HOME
from dmcore.run.host.checks import OK, WARN, Check

HUB_SECONDS = 2.5
HUB_VARIABLE, HUB = "HF_ENDPOINT", "https://huggingface.co"
DEFAULT_PORT = 8501
CONFIG = Path(".streamlit") / "config.toml"
_YES = {"1", "on", "yes", "true"}


def hub_check(ask: Callable[[str, float], str] | None = None) -> Check:
    """Whether models and SAEs can be downloaded; `ask`: why the address does not answer, or nothing."""
    from dmcore.sources.hub import token

    signed = "HF_TOKEN is set" if token() else "no HF_TOKEN: gated models cannot be downloaded"
    fine = "What is in the local cache, and local folders, can be studied all the same"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _YES:
        return Check("hub", OK, f"HF_HUB_OFFLINE is set, so it is not asked; {signed}. {fine}.")
    address = os.environ.get(HUB_VARIABLE) or HUB
    why = (ask or _ask_in_time)(address, HUB_SECONDS)
    if not why:
        return Check("hub", OK, f"It answers; {signed}.")
    said = f"It cannot be reached ({why}); {signed}."
    return Check("hub", WARN, said, f"{fine}; to download, check the network and HTTPS_PROXY.")


def _ask_in_time(address: str, seconds: float) -> str:
    """As `_ask`, given up after `seconds` also where looking up the name takes longer, which has no limit of its own."""
    answer = [f"no answer in {seconds:g} s"]

    def ask() -> None:
        answer[0] = _ask(address, seconds)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds + 0.2)
    return answer[0]


def _ask(address: str, seconds: float) -> str:
    if not address.startswith(("https://", "http://")):
        return f"{HUB_VARIABLE} is no http address"
    try:
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=seconds).close()
    except urllib.error.HTTPError:
        return ""  # it answered
    except urllib.error.URLError as error:
        return str(getattr(error.reason, "strerror", None) or error.reason)[:80]
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "strerror", None) or error or type(error).__name__)[:80]
    return ""


def server_settings() -> dict[str, Any]:
    """The table `[server]` of the app's configuration, with what the environment says in its place."""
    found: dict[str, Any] = {}
    for path in (Path.home() / CONFIG, HOME / CONFIG):
        try:
            found |= tomllib.loads(path.read_text(encoding="utf-8")).get("server", {})
        except (OSError, ValueError, AttributeError, TypeError):
            continue
    for name in ("address", "port"):
        if value := os.environ.get(f"STREAMLIT_SERVER_{name.upper()}"):
            found[name] = value
    return found


def port_check(settings: dict[str, Any]) -> Check:
    """Whether the app's port is free, or the app's own."""
    try:
        port = int(settings.get("port") or DEFAULT_PORT)
    except (TypeError, ValueError):
        return Check("port", WARN, "The app's port is no number.", f"Mend server.port in {CONFIG}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return Check("port", OK, f"{port} is free for the app.")
        except (OSError, OverflowError):
            pass
    if _app_answers(port):
        return Check("port", OK, f"The app answers on {port}.")
    remedy = "End what uses it, or run `streamlit run app.py --server.port PORT`."
    return Check("port", WARN, f"{port} is taken by another program.", remedy)


def _app_answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1) as answer:
            return answer.read(100).strip() == b"ok"
    except (OSError, ValueError, http.client.HTTPException):
        return False


def address_check(settings: dict[str, Any]) -> Check:
    """Whether the app can be reached from this host alone."""
    address = str(settings.get("address") or "")
    if is_loopback(address):
        return Check("address", OK, f"The app is bound to {address}: only this host reaches it.")
    said = f"The app is bound to {address or 'every address'}: others can reach it, unencrypted."
    remedy = 'Set server.address = "127.0.0.1" and put a proxy with TLS before it (docs/lab-server.md).'
    return Check("address", WARN, said, remedy)


def is_loopback(address: str) -> bool:
    """Whether an address means this host alone."""
    try:
        return address == "localhost" or ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False
