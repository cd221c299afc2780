"""One POST over HTTP(S), to the given host and no other, with every way to fail told apart.

No redirect is followed, no other scheme is opened, and no password file is read. A proxy of the environment is used for
https alone, where it sees nothing but the host.
"""

from __future__ import annotations

import http.client
import ipaddress
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from dmcore import __version__
from dmcore.errors import SpecError
from dmcore.explain.interface import EndpointError

MOST_BYTES = 2**23
"""Of an answer; longer ones are cut off and count as broken."""


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    """Of HTTP."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class NotReachedError(Exception):
    """There is no connection; the message says why, in a few words."""


class CutOffError(Exception):
    """There was a connection and no whole answer; the message says why, in a few words."""


def check_address(base_url: str) -> SplitResult:
    """The parts of an endpoint's address.

    Raises:
        SpecError: it is not http(s), has no host, or holds a name, password, query or fragment, which may be secrets.
    """
    remedy = "give one like http://localhost:8000/v1 or https://HOST/v1."
    try:
        parts = urlsplit(base_url)
        port_is_fine = parts.port != 0
    except ValueError:
        raise SpecError(f"base_url is not an address: {remedy}") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise SpecError(
            "base_url must hold no password, query or fragment: name the variable that has the key in key_variable."
        )
    is_plain = base_url.isascii() and base_url.isprintable() and " " not in base_url
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_fine or not is_plain:
        raise SpecError(f"base_url is not an http or https address: {remedy}")
    return parts


def is_this_machine(host: str) -> bool:
    """Whether a host name means the machine that asks."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Hands a redirect out as the answer that it is."""

    def redirect_request(self, *_args: object, **_named: object) -> None:
        return None


def _opener(parts: SplitResult) -> urllib.request.OpenerDirector:
    """Handlers of the address's scheme alone, without the ones for files and FTP that `build_opener` adds."""
    opener = urllib.request.OpenerDirector()
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        _NoRedirects(),
    ]
    proxies = urllib.request.getproxies()
    if parts.scheme == "https" and "https" in proxies and not urllib.request.proxy_bypass(parts.hostname or ""):
        handlers.append(urllib.request.ProxyHandler({"https": proxies["https"]}))
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def post(parts: SplitResult, path: str, payload: bytes, headers: Mapping[str, str], timeout: float) -> Reply:
    """Send `payload` to an address and read the whole answer, of whatever status.

    Args:
        parts: of the address, as `check_address` gives them.
        path: added to its path, e.g. `/chat/completions`.
        payload: JSON.
        headers: of the request; never named in an error.
        timeout: seconds until connected, between two pieces of the answer, and about as many for all of it.

    Raises:
        NotReachedError: no connection.
        CutOffError: no whole answer: time is up, or the server hung up.
        EndpointError: its certificate is not to be trusted.
    """
    url = parts._replace(path=parts.path.rstrip("/") + path).geturl()
    # Headers set so are not sent on to a proxy, nor after a redirect.
    request = urllib.request.Request(url, data=payload, method="POST")
    for name, value in {"User-Agent": f"dmcore/{__version__}", **headers}.items():
        request.add_unredirected_header(name, value)
    until = time.monotonic() + timeout
    try:
        with _opener(parts).open(request, timeout=timeout) as response:
            return _read(response, until)
    except urllib.error.HTTPError as response:
        with response:
            try:
                return _read(response, until)
            except (OSError, http.client.HTTPException):
                return Reply(response.code, _headers(response.headers), b"")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)  # what a URLError is about
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise EndpointError(
                f"The certificate of {parts.hostname} is not to be trusted: check base_url, or set SSL_CERT_FILE."
            ) from None
        if isinstance(reason, TimeoutError):
            raise CutOffError(f"no answer within {timeout:g} s") from None
        if isinstance(reason, ConnectionResetError | BrokenPipeError | http.client.HTTPException):
            raise CutOffError("the server hung up") from None
        said = getattr(reason, "strerror", None) or type(reason).__name__
        raise NotReachedError(said.lower()) from None


def _headers(message: http.client.HTTPMessage | None) -> dict[str, str]:
    return {name.lower(): value for name, value in message.items()} if message is not None else {}


def _read(response: http.client.HTTPResponse | urllib.error.HTTPError, until: float) -> Reply:
    headers = _headers(response.headers)
    pieces: list[bytes] = []
    n_bytes = 0
    while piece := response.read1(2**16):
        pieces.append(piece)
        n_bytes += len(piece)
        if n_bytes > MOST_BYTES:
            raise http.client.HTTPException
        if time.monotonic() > until:
            raise TimeoutError
    promised = headers.get("content-length", "")
    # `read1` does not mind an end that comes too early.
    if promised.isdecimal() and n_bytes < int(promised) and "transfer-encoding" not in headers:
        raise http.client.HTTPException
    return Reply(int(response.status or 0), headers, b"".join(pieces))
