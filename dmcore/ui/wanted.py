"""The link that somebody opened before they were signed in: they come back to it, not to the first page.

The provider sends everybody back to the app's root, so the link waits here meanwhile, in the memory of the server: for the
browser that asked, which Streamlit's own cookie against forged requests tells from others, and for minutes. What comes back is a
page of the app and parameters that are checked as any link's are.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import streamlit as st
from streamlit.navigation.page import StreamlitPage
from streamlit.web.server.starlette.starlette_app_utils import decode_xsrf_token_string
from streamlit.web.server.starlette.starlette_server_config import XSRF_COOKIE_NAME

SECONDS = 600
"""How long a sign-in may take; after it one begins at the first page."""
MOST = 1_000
LONGEST = 4_096
"""Characters of parameters that are kept."""
_HERE = "wanted.looked"
_WANTED: dict[str, _Link] = {}


@dataclass(frozen=True)
class _Link:
    page: str
    query: dict[str, list[str]]
    at: float


def keep_link() -> None:
    """Keep the link that is open, for the one who is about to sign in."""
    browser = _browser()
    if not browser:
        return
    _WANTED.pop(browser, None)  # an older one is not wanted any more
    page = urlsplit(st.context.url or "").path.rstrip("/").rsplit("/", 1)[-1]
    query = {key: st.query_params.get_all(key) for key in st.query_params}
    if (page or query) and sum(len(key) + sum(map(len, values)) for key, values in query.items()) <= LONGEST:
        _WANTED[browser] = _Link(page, query, time.monotonic())
    while len(_WANTED) > MOST:
        _WANTED.pop(next(iter(_WANTED)))


def go_on(pages: Sequence[StreamlitPage], page: StreamlitPage) -> None:
    """Open the link that was kept, if this is the first step of a session that comes from signing in.

    Args:
        pages: those that the app has; a link to any other is forgotten.
        page: the one that the address names.
    """
    first = not st.session_state.get(_HERE)
    st.session_state[_HERE] = True
    if not first or page.url_path or st.query_params:
        return
    link = _WANTED.pop(_browser(), None) if _WANTED else None
    if link is None or time.monotonic() - link.at > SECONDS:
        return
    to = next((one for one in pages if one.url_path == link.page), page)
    if to is page and not link.query:
        return
    st.switch_page(to, query_params=link.query)


def _browser() -> str:
    """What tells this browser from every other; empty where Streamlit's protection against forged requests is off."""
    token, _ = decode_xsrf_token_string(st.context.cookies.get(XSRF_COOKIE_NAME, ""))
    return hashlib.sha256(token).hexdigest() if token else ""
