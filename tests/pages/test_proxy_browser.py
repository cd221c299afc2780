"""deploy/nginx.conf for real: nginx before the app, and a browser before nginx."""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import system_chromium
from tests.pages.conftest import free_port, serve
from tests.run.proxy_site import NAME, nginx

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        shutil.which("nginx") is None or shutil.which("openssl") is None, reason="needs nginx and openssl"
    ),
]
SHOWN = "What does a sparse autoencoder miss?"
TIMEOUT = 30_000


class Echo(BaseHTTPRequestHandler):
    """Answers with the headers that it was sent; /frame holds the address of its query in a frame."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        framed = self.path.partition("?")[2]
        body = f'<iframe src="{framed}"></iframe>' if framed else json.dumps(self.headers.items())
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    """The port of a server that says what it was sent."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def ask(tls: int, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", tls, context=trusting, timeout=10)
    connection.request(
        method, "/", body or None, {"Host": NAME, **{k.replace("_", "-"): v for k, v in headers.items()}}
    )
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_what_a_browser_claims_is_overwritten_and_what_is_too_much_refused(echo: int, tmp_path: Path) -> None:
    tls, plain = free_port(), free_port()
    with nginx(tmp_path, echo, tls, plain):
        names = ["X_Forwarded_For", "X_Forwarded_Host", "X_Forwarded_Proto", "X_Real_IP", "Forwarded"]
        forged = dict.fromkeys([*names, "X_Forwarded_User", "X_Forwarded_Email", "Remote_User"], "6.6.6.6, evil")
        status, headers, body = ask(tls, **forged)
        assert status == 200
        sent = dict(json.loads(body))
        assert not any("6.6.6.6" in value for value in sent.values())
        assert (sent["Host"], sent["X-Forwarded-For"], sent["X-Forwarded-Proto"]) == (NAME, "127.0.0.1", "https")
        assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert ask(tls, "POST", b"x" * (2**20 - 10))[0] == 200
        status, headers, _ = ask(tls, "POST", b"x" * (2**20 + 10))
        assert (status, headers["X-Content-Type-Options"]) == (413, "nosniff"), "headers are on errors too"
        assert ask(tls, Host="evil.example")[0] == 421
        connection = http.client.HTTPConnection("127.0.0.1", plain, timeout=10)
        connection.request("GET", "/runs?a=1", headers={"Host": "evil.example"})
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Location")) == (301, f"https://{NAME}/runs?a=1")
        connection.close()


def test_the_app_works_behind_nginx_and_in_no_frame(browser: Any, fake_cache: Path, echo: int, tmp_path: Path) -> None:
    tls, port = free_port(), free_port()
    made = browser.browser_type.launch(
        executable_path=system_chromium(),
        args=["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"],
    )
    try:
        with (
            serve(
                fake_cache, port=port, more=("--server.allowedHosts", NAME, "--server.allowedHosts", "127.0.0.1")
            ) as bare,
            nginx(tmp_path, port, tls, free_port()),
        ):
            page = made.new_context(ignore_https_errors=True, viewport={"width": 1400, "height": 900}).new_page()
            page.set_default_timeout(TIMEOUT)
            refused, sockets = [], []
            page.on("response", lambda answer: refused.append(answer.url) if answer.status in (413, 421, 429) else None)
            page.on("websocket", lambda socket: sockets.append(socket.url))
            page.goto(f"https://{NAME}:{tls}/")
            page.get_by_role("heading", name=SHOWN).wait_for()
            page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg").first.wait_for()
            page.get_by_role("link", name="Health").click()
            page.get_by_role("heading", name="Is this host well?").wait_for()
            assert [url.partition("://")[0] for url in sockets] == ["wss"]
            assert refused == []
            # The frame of a foreign page: without the proxy it would show the app, which is why the header is there.
            page.goto(f"http://127.0.0.1:{echo}/frame?{bare}/")
            page.frame_locator("iframe").get_by_role("heading", name=SHOWN).wait_for(state="attached")
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            page.goto(f"http://127.0.0.1:{echo}/frame?https://{NAME}:{tls}/")
            page.wait_for_load_state("networkidle")
            (frame,) = page.frames[1:]
            assert frame.url.startswith("chrome-error:")
            assert any("frame-ancestors" in line for line in said)
    finally:
        made.close()
