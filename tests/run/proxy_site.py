"""The site of deploy/nginx.conf on ports of a test's own, with a certificate that it makes for itself."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = "explorer.lab.example"
WHOLE = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def write_site(folder: Path, app: int, tls: int, plain: int) -> Path:
    """Write nginx's settings into a folder; the ports of the app, and of nginx on loopback. Returns the file."""
    key, certificate = folder / "site.key", folder / "site.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={NAME}"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    site = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    changes = {
        "listen 443 ssl;": f"listen 127.0.0.1:{tls} ssl;",
        "listen 80;": f"listen 127.0.0.1:{plain};",
        f"/etc/ssl/{NAME}.pem": str(certificate),
        f"/etc/ssl/{NAME}.key": str(key),
        "127.0.0.1:8501": f"127.0.0.1:{app}",
    }
    for old, new in changes.items():
        assert old in site, old
        site = site.replace(old, new)
    (folder / "site.conf").write_text(site, encoding="utf-8")
    settings = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # else its processes could not write the folder
    settings.write_text(user + WHOLE.format(folder=folder), encoding="utf-8")
    return settings


@contextmanager
def nginx(folder: Path, app: int, tls: int, plain: int) -> Iterator[None]:
    """nginx before an app, until the block ends."""
    settings = write_site(folder, app, tls, plain)
    server = subprocess.Popen(["nginx", "-p", folder, "-c", settings], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", tls)) == 0:
                    break
            assert server.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait(10)
