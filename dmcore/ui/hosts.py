"""The hosts under which the app answers: a page of somebody else's domain that was pointed at this machine is shown nothing.

Streamlit refuses the connection itself by `server.allowedHosts` (`.streamlit/config.toml`). Here the same list is held
again, with the address that is served and the names of loopback, and also where Streamlit's list has been emptied.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

import streamlit as st

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERY_ADDRESS = ("", "0.0.0.0", "::")  # what a server listens on, but no name of a host


def host_allowed(host: str, allowed: Iterable[str]) -> bool:
    """Whether a Host header names a host of the list, where `*.lab.example` stands for what is below it and `*` for all."""
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not name or parts.path or parts.query or parts.fragment or "@" in parts.netloc or not host.isprintable():
        return False
    name = name.lower().rstrip(".")
    for one in allowed:
        wanted = one.strip().lower().rstrip(".")
        if wanted in ("*", name) or (wanted.startswith("*.") and name.endswith(wanted[1:])):
            return True
    return False


def served_hosts() -> list[str]:
    """The list: Streamlit's, the address that is served, and loopback."""
    address = st.get_option("server.address") or ""
    own = [] if address in EVERY_ADDRESS else [address]
    return [*(st.get_option("server.allowedHosts") or []), *own, *LOOPBACK]


def request_allowed() -> bool:
    """Whether the connection of this session came to a host of the list; True where there is no connection, as in a test."""
    headers = st.context.headers
    if not len(headers):
        return True
    hosts = headers.get_all("Host")
    return len(hosts) == 1 and host_allowed(hosts[0], served_hosts())
