"""A real chat server on this machine, which answers as a test says."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Answer:
    """What is sent back; the defaults are those of a server that works."""

    text: str | None = "fine"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None  # in place of a chat answer
    hang_up_after: int | None = None  # bytes
    wait_for: threading.Event | None = None
    drips: bool = False  # a byte now and then, until the client goes


@dataclass
class Server:
    """What it was asked."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)  # path, headers, body
    tunnels: list[str] = field(default_factory=list)  # that it was asked for as a proxy, with their headers
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def prompts(self) -> list[str]:
        return [request["body"]["messages"][0]["content"] for request in self.requests]


def chat(text: str | None) -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {"choices": [{"message": message}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    ).encode()


@contextmanager
def serve(answer: Callable[[str, int], Answer], certificate: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """A server for the time of a test: `answer(prompt, number of the request)` says what it answers.

    With a certificate and its key it speaks https.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                number = len(server.requests)
                server.requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
            self.send(answer(body["messages"][0]["content"], number))

        def do_GET(self) -> None:
            server.requests.append({"path": self.path, "headers": dict(self.headers), "body": None})
            self.send(Answer())

        def do_CONNECT(self) -> None:
            server.tunnels.append(f"{self.requestline}\n{self.headers}")
            self.send_error(501)

        def send(self, one: Answer) -> None:
            if one.wait_for is not None:
                one.wait_for.wait(30)
            raw = chat(one.text) if one.raw is None else one.raw
            headers = {
                "Content-Type": "application/json",
                "Content-Length": str(10**6 if one.drips else len(raw)),
                **one.headers,
            }
            try:
                self.send_response(one.status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                while one.drips:
                    self.wfile.write(b" ")
                    time.sleep(0.05)
                self.wfile.write(raw if one.hang_up_after is None else raw[: one.hang_up_after])
            except ConnectionError:
                pass  # who asked has gone

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        http.socket = context.wrap_socket(http.socket, server_side=True)
        scheme = "https"
    server = Server(f"{scheme}://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
