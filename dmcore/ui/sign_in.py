"""Who is there, what they may do, and the page for those who may see nothing. Nothing else asks Streamlit for the user.

1. A request to a host that is not ours is shown nothing (`hosts`).
2. Without `access.toml` there is no sign-in: everybody is a runner (`dmcore.run.host.access`).
3. With it, Streamlit's OpenID Connect says who is there. What is wrong in the settings, of ours or of Streamlit's, lets nobody
   in and shows what to do. They are read again at each step, so that a change holds at once.
4. What changes something calls `require_runner` itself; a button that is greyed out is a courtesy.
5. What Streamlit runs without the app around it asks for itself: a fragment by `admitted`, a download by `once_admitted`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dmcore.places import HOME
from dmcore.run.host.access import RUNNER, Access, AccessError, name_of, read_access
from dmcore.ui.hosts import LOOPBACK, request_allowed
from dmcore.ui.wanted import keep_link
from dmcore.words.names import plain

DISCOVERY = "/.well-known/openid-configuration"
CALLBACK = "/oauth2callback"
SHORTEST_SECRET = 32
ENTRA = re.compile(r"https://login\.microsoftonline\.com/([^/]*)/", re.IGNORECASE)
GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
VIEWERS_ONLY = (
    "You may look at everything here; starting, stopping and deleting is for runners. Ask who keeps this host."
)
"""Why a viewer's button is grey."""
HOW = "docs/sign-in.md says how, step by step."
MOST_LEFT = 10_000
_LEFT: dict[tuple[str, ...], None] = {}
"""Sign-ins that their owner has ended here, the latest last: other tabs and copies of the cookie end with them."""


@dataclass(frozen=True)
class Visitor:
    """Who is looking."""

    name: str = ""
    """The verified address, or the provider's name; empty where there is no sign-in."""
    role: str = ""
    """`viewer`, `runner`, or empty: nothing is shown."""
    why: str = ""
    """Why nothing is shown: `host`, `signed out`, `expired`, `stranger`."""


def visitor() -> Visitor:
    """Who is looking, now.

    Raises:
        AccessError: the settings of the sign-in are wrong.
    """
    if get_script_run_ctx(suppress_warning=True) is not None and not request_allowed():
        return Visitor(why="host")
    access = read_access(HOME)
    return Visitor(role=RUNNER) if access is None else _known(access, _claims())


def _claims() -> dict[str, Any]:
    """What Streamlit has of who is looking, from its signed cookie."""
    return dict(st.user.to_dict())


def _known(access: Access, person: Mapping[str, Any]) -> Visitor:
    issuer = check_provider(access, _auth_table())
    if _sign_in_of(person) in _LEFT:
        return Visitor(why="signed out")
    return visitor_of(access, issuer, person, time.time())


def _sign_in_of(person: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells one sign-in from every other: who says so, of whom, and when."""
    return tuple(str(person.get(key)) for key in ("iss", "sub", "iat"))


def visitor_of(access: Access, issuer: str, person: Mapping[str, Any], now: float) -> Visitor:
    """Who somebody is by the claims that Streamlit has from its signed cookie; `now` in UTC seconds since 1970."""
    if person.get("is_logged_in") is not True:
        return Visitor(why="signed out")
    # Another provider of secrets.toml may call people what it likes.
    told_by = str(person.get("iss", "")).rstrip("/")
    if told_by != issuer or person.get("provider") != (access.provider or "default"):
        return Visitor(name_of(person), why="stranger")
    if access.expired(person, now):
        return Visitor(name_of(person), why="expired")
    role = access.role(person)
    return Visitor(name_of(person), role, "" if role else "stranger")


def check_provider(access: Access, auth: Mapping[str, Any]) -> str:
    """The issuer that the [auth] table of secrets.toml trusts.

    Raises:
        AccessError: the table does not make a sign-in, or a header could stand in for one.
    """
    if st.get_option("server.trustedUserHeaders"):
        raise AccessError(
            "server.trustedUserHeaders lets a header say who somebody is: unset it, or remove access.toml."
        )
    if not auth:
        raise AccessError("Sign-in is on, but there is no [auth] table in .streamlit/secrets.toml: write it.")
    own = auth.get(access.provider, {}) if access.provider else auth
    where = f"[auth.{access.provider}]" if access.provider else "[auth]"
    shared, each = ("redirect_uri", "cookie_secret"), ("client_id", "client_secret", "server_metadata_url")
    tables = {**dict.fromkeys(shared, ("[auth]", auth)), **dict.fromkeys(each, (where, own))}
    for key, (name, table) in tables.items():
        if not isinstance(table, Mapping) or not isinstance(table.get(key), str) or not table[key].strip():
            raise AccessError(f"Sign-in is on, but {name} of .streamlit/secrets.toml has no {key}: write it.")
    if len(auth["cookie_secret"]) < SHORTEST_SECRET:
        raise AccessError(
            f"cookie_secret of .streamlit/secrets.toml is shorter than {SHORTEST_SECRET} characters: make a random one."
        )
    _check_address(auth["redirect_uri"], "redirect_uri", CALLBACK)
    _check_address(own["server_metadata_url"], "server_metadata_url", DISCOVERY)
    tenant = ENTRA.match(own["server_metadata_url"])
    if tenant and not GUID.fullmatch(tenant[1]):
        raise AccessError(
            "server_metadata_url of .streamlit/secrets.toml must have your Entra tenant's GUID, as the issuer of its tokens has: "
            "copy its Directory (tenant) ID there."
        )
    return own["server_metadata_url"].removesuffix(DISCOVERY).rstrip("/")


def _check_address(address: str, key: str, ending: str) -> None:
    parts = urlsplit(address.replace("{port}", "0"))
    if not address.endswith(ending):
        raise AccessError(f"{key} of .streamlit/secrets.toml must end with {ending}: mend it.")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise AccessError(f"{key} of .streamlit/secrets.toml must begin with https://: passwords travel there.")


def _auth_table() -> Mapping[str, Any]:
    """What secrets.toml has under [auth]; empty where there is no such file or table."""
    try:
        table = st.secrets.get("auth", {})
    except Exception as error:  # Streamlit's own, by what is wrong with the file; its text may quote a secret
        if isinstance(error, FileNotFoundError):
            return {}
        raise AccessError("Sign-in is on, but .streamlit/secrets.toml cannot be read: mend it there.") from error
    return table if isinstance(table, Mapping) else {}


def require_runner() -> str:
    """The name of who is looking, who may change things.

    Raises:
        AccessError: they may not, or the settings of the sign-in are wrong.
    """
    found = visitor()
    if found.role != RUNNER:
        raise AccessError(VIEWERS_ONLY if found.role else "You are not signed in: open the page again.")
    return found.name


def why_not() -> str | None:
    """Why buttons that change something are grey; None for a runner."""
    try:
        return None if visitor().role == RUNNER else VIEWERS_ONLY
    except AccessError as error:
        return str(error)


def admitted() -> bool:
    """Whether who is looking may see anything."""
    try:
        return bool(visitor().role)
    except AccessError:
        return False


def once_admitted(make: Callable[[], bytes]) -> Callable[[], bytes]:
    """A download's function that asks again, when it is called, whether who was shown its button may still see anything.

    Streamlit calls it at the click without a page around it, in a thread that knows no user: so the claims are kept here.
    """
    person = {} if read_access(HOME) is None else _claims()

    def made() -> bytes:
        access = read_access(HOME)
        if access is not None and not _known(access, person).role:
            raise AccessError("You are not signed in: open the page again.")
        return make()

    return made


def draw_gate() -> None:
    """The page of those who may see nothing: what is the matter and what to do. It says nothing of what the app holds."""
    _, middle, _ = st.columns([1, 2, 1])
    with middle.container(key="gate"):
        try:
            found = visitor()
        except AccessError as error:
            st.title("Nobody can sign in yet", anchor=False)
            st.error(plain(str(error)), icon=":material/lock:")
            st.caption(f"Nothing is shown until the settings of this host's sign-in are right. {HOW}")
            return
        if found.why == "host":
            st.title("This address is not served", anchor=False)
            st.error(
                "The app does not know the name under which this page was asked for. Use the address that who keeps this host "
                "gave you; who keeps it lists its names under server.allowedHosts.", icon=":material/public_off:",
            )  # fmt: skip
            return
        if found.why == "stranger":
            st.title("No access", anchor=False)
            st.warning(
                f"You are signed in as {plain(found.name)}, which this host's list does not have, or whose address the provider "
                "has not verified. Ask who keeps it, or sign in as somebody else.", icon=":material/person_off:",
            )  # fmt: skip
            st.button("Sign out", icon=":material/logout:", key="gate.out", on_click=_sign_out)
            return
        st.title("Dark-matter explorer", anchor=False)
        said = (
            "Your sign-in has expired." if found.why == "expired" else "This host shows its results to those it knows."
        )
        st.markdown(f"{said} Sign in to go on.")
        st.button("Sign in", type="primary", icon=":material/login:", key="gate.in", on_click=_sign_in)
        if error := st.session_state.pop("gate.error", None):
            st.error(plain(error), icon=":material/error:")


def _sign_in() -> None:
    from streamlit.errors import StreamlitAuthError

    try:
        access = read_access(HOME)
        keep_link()
        st.login(access.provider or None) if access is not None else None
    except (AccessError, StreamlitAuthError) as error:
        missing = "Authlib" in str(error)
        st.session_state["gate.error"] = (
            "Sign-in needs Authlib on this host: pip install -r requirements-sign-in.txt." if missing else str(error)
        )


def _sign_out() -> None:
    """End this sign-in, in every tab and for every copy of its cookie, until the app starts anew."""
    if person := _claims():
        _LEFT[_sign_in_of(person)] = None
        while len(_LEFT) > MOST_LEFT:
            _LEFT.pop(next(iter(_LEFT)))
    st.logout()


def draw_who() -> None:
    """Who is signed in, as what, and the way out; nothing where there is no sign-in."""
    try:
        found = visitor()
    except AccessError:  # the settings have been changed since the app asked: the page asks again
        return
    if not found.name:
        return
    with st.sidebar.container(horizontal=True, vertical_alignment="center", key="who"):
        st.caption(f":material/person: {plain(found.name)} · {found.role}")
        st.button("Sign out", icon=":material/logout:", type="tertiary", key="who.out", on_click=_sign_out)
