"""Sign-in, roles and forged hosts in a real browser, with a provider of OpenID Connect that runs beside the app."""

from __future__ import annotations

import base64
import json
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from dmcore.places import DEMO
from dmcore.run.jobs.queue import Queue
from tests.chromium import system_chromium
from tests.pages.conftest import ROOT, free_port, serve
from tests.pages.fake_results import write_fake_study
from tests.pages.provider import PASSWORD, Provider, provider, secrets_toml
from tests.pages.test_runs_page import WorkerAlive
from tests.run.jobs_seen import end_workers, wait_for

pytestmark = pytest.mark.browser
pytest.importorskip("authlib", reason="needs requirements-sign-in.txt")
TIMEOUT = 30_000
ACCESS = (
    'schema = 1\n[viewer]\ndomains = ["lab.example"]\n[runner]\nemails = ["Ada@Lab.example"]\n'
    'claims = { groups = ["sae-runners"] }\n'
)
TITLE = "A title that only those who are known may see"
SHOWN = "What does a sparse autoencoder miss?"


class Host:
    """The app with sign-in, on a cache with one study and one job."""

    def __init__(self, url: str, root: Path, access: Path, told_by: Provider) -> None:
        self.url, self.root, self.access, self.told_by = url, root, access, told_by


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    root, access, port = folder / "cache", folder / "access.toml", free_port()
    write_fake_study(root, "known", 3, title=TITLE)
    with provider() as told_by:
        url = f"http://127.0.0.1:{port}"
        (folder / "secrets.toml").write_text(secrets_toml(url, told_by.address))
        access.write_text(ACCESS)
        secrets = ("--secrets.files", str(folder / "secrets.toml"))
        variables = {"DMCORE_ACCESS": str(access), "DMCORE_LOG": "json", "DMCORE_LOG_FILE": "1", "OMP_NUM_THREADS": "1"}
        with serve(root, port=port, more=secrets, **variables):
            yield Host(url, root, access, told_by)
    end_workers(root)


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    made = context.new_page()
    made.set_default_timeout(TIMEOUT)
    yield made
    context.close()


def sign_in(page: Any, host: Host, email: str, path: str = "", **claims: Any) -> None:
    """Come as somebody; the provider asks nothing."""
    host.told_by.person = {"email": email, "email_verified": True, **claims}
    page.goto(host.url)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_function("!document.querySelector('.st-key-gate') || document.body.innerText.includes('No access')")
    page.locator("h1").first.wait_for()
    if path:
        page.goto(host.url + path)


def test_every_page_asks_first_and_shows_nothing(host: Host, page: Any) -> None:
    for path in ("/", "/regression", "/runs", "/catalogue?study=known", "/runs?show=Disk"):
        page.goto(host.url + path)
        page.get_by_role("button", name="Sign in").wait_for()
        body = page.locator("body").inner_text()
        assert "Sign in to go on." in body
        assert TITLE not in body and "Runs" not in body and str(host.root) not in body, path
        assert page.locator("[data-testid=stVegaLiteChart], [data-testid=stSidebarNavLink]").count() == 0


def test_a_viewer_sees_everything_and_may_change_nothing(host: Host, page: Any) -> None:
    sign_in(page, host, "GRACE@lab.example")
    page.get_by_text(TITLE).first.wait_for()
    assert page.get_by_role("heading", name=SHOWN).count() == 1
    assert "grace@lab.example · viewer" in page.locator("[data-testid=stSidebar]").inner_text()
    page.goto(f"{host.url}/runs")
    page.get_by_text("Start a study", exact=True).wait_for()
    start = page.get_by_role("button", name="Start", exact=True).first
    start.wait_for()
    buttons = page.locator("[class*=st-key-start] button")
    assert buttons.count() >= 1
    assert all(buttons.nth(i).is_disabled() for i in range(buttons.count()))
    page.locator("[data-test-script-state=notRunning]").wait_for()
    for _ in range(20):  # the button moves away from under the mouse while what is above it is still being drawn
        page.mouse.move(0, 0)
        start.hover(force=True)
        with suppress(PlaywrightTimeout):
            page.get_by_text("is for runners").first.wait_for(timeout=2_000)
            break
    assert page.get_by_text("is for runners").first.is_visible()
    page.goto(f"{host.url}/runs?show=New+study")
    page.get_by_text("is for runners").first.wait_for()
    assert page.locator("[data-testid=stMain] input").count() == 0
    assert Queue(host.root).jobs() == []
    assert PASSWORD not in page.content() and "0123456789abcdef" * 3 not in page.content()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in").wait_for()
    page.goto(f"{host.url}/runs")
    page.get_by_role("button", name="Sign in").wait_for()
    assert TITLE not in page.locator("body").inner_text()


def test_a_runner_may_start_and_the_job_says_who_asked(host: Host, page: Any) -> None:
    sign_in(page, host, "ada@LAB.example", "/runs")
    start = page.get_by_role("button", name="Start", exact=True).last
    start.wait_for()
    assert start.is_enabled()
    # Nothing is computed: the file of the study goes away between the list and the click, or the job is cancelled at once.
    start.click()
    page.get_by_role("button", name="Cancel").first.click()
    page.get_by_text("for ada@lab.example").first.wait_for()
    (job,) = Queue(host.root).jobs()
    assert job.asked_by == "ada@lab.example"

    def told() -> list[str]:
        lines = [json.loads(line) for line in (host.root / "jobs" / "dmcore.log").read_text().splitlines()]
        return [line["message"] for line in lines if line["role"] == "app" and line["logger"] == "dmcore.ui.actions"]

    wait_for(lambda: len(told()) == 2, 20)  # a click is answered later
    assert told() == [
        f"ada@lab.example {what}"
        for what in (f"asked for job {job.id} (sweep of {job.study})", f"cancelled job {job.id}")
    ]
    Queue(host.root).cancel(job.id)


def test_after_signing_in_one_is_where_the_link_led(host: Host, page: Any, browser: Any) -> None:
    host.told_by.person = {"email": "grace@lab.example", "email_verified": True}
    page.goto(f"{host.url}/runs?show=New+study")
    page.get_by_role("button", name="Sign in").wait_for()
    elsewhere = browser.new_context()
    other = elsewhere.new_page()
    other.set_default_timeout(TIMEOUT)
    sign_in(other, host, "grace@lab.example")  # another browser's link is not theirs
    other.get_by_role("heading", name=SHOWN).wait_for()
    elsewhere.close()
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="What should be studied?").wait_for()
    assert page.url == f"{host.url}/runs?show=New+study"
    page.goto(host.url)  # once
    page.get_by_role("heading", name=SHOWN).wait_for()


def test_strangers_and_unverified_addresses_see_nothing(host: Host, page: Any) -> None:
    sign_in(page, host, "eve@evil-lab.example")
    page.get_by_role("heading", name="No access").wait_for()
    body = page.locator("body").inner_text()
    assert "eve@evil-lab.example" in body and TITLE not in body
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in").wait_for()
    sign_in(page, host, "ada@lab.example", email_verified=False, sub="</script><img src=x onerror=alert(1)>**x**")
    page.get_by_role("heading", name="No access").wait_for()
    assert page.locator("[data-testid=stMain] img").count() == 0
    assert "**x**" in page.locator("body").inner_text()


def test_who_loses_the_role_loses_it_at_once_and_a_broken_file_lets_nobody_in(host: Host, page: Any) -> None:
    sign_in(page, host, "grace@lab.example")
    page.get_by_text(TITLE).first.wait_for()
    try:
        host.access.write_text(ACCESS.replace("lab.example", "other.example"))
        page.get_by_role("link", name="Runs").click()
        page.get_by_role("heading", name="No access").wait_for()
        host.access.write_text("schema = 1\n[runner]\nemials = []\n")
        page.reload()
        page.get_by_role("heading", name="Nobody can sign in yet").wait_for()
        assert "unknown key 'emials'" in page.locator("body").inner_text()
        host.access.unlink()
        page.reload()
        page.get_by_text("Cannot read").first.wait_for()
        assert TITLE not in page.locator("body").inner_text()
    finally:
        host.access.write_text(ACCESS)


@pytest.mark.parametrize("path", ["/health", "/runs"])
def test_a_page_that_redraws_itself_sees_by_itself_that_a_role_was_taken_away(host: Host, page: Any, path: str) -> None:
    end_workers(host.root)  # another test's would take the job
    job = Queue(host.root).submit("sweep", DEMO, "cpu")  # Runs redraws itself while there is a job
    try:
        with WorkerAlive(Queue(host.root)):  # so that none is started
            sign_in(page, host, "grace@lab.example", path)
            page.get_by_text({"/health": "Is this host well?", "/runs": "What is running?"}[path]).wait_for()
            host.access.write_text(ACCESS.replace("lab.example", "other.example"))
            page.get_by_role("heading", name="No access").wait_for()
        assert str(host.root) not in page.locator("body").inner_text()
    finally:
        host.access.write_text(ACCESS)
        Queue(host.root).cancel(job.id)


def test_signing_out_in_one_tab_ends_the_other(host: Host, page: Any) -> None:
    sign_in(page, host, "grace@lab.example", "/health")
    page.get_by_text("Is this host well?").wait_for()
    other = page.context.new_page()
    other.set_default_timeout(TIMEOUT)
    other.goto(host.url)
    other.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in").wait_for()
    assert "Is this host well?" not in page.locator("body").inner_text()


def upgraded(url: str, host_header: str, origin: str | None) -> str:
    """The status line that a WebSocket of the app's answers to such headers."""
    port = int(url.rsplit(":", 1)[1])
    lines = [
        "GET /_stcore/stream HTTP/1.1", f"Host: {host_header}", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(secrets.token_bytes(16)).decode()}", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: streamlit",
    ]  # fmt: skip
    lines += [f"Origin: {origin}"] if origin else []
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return connection.recv(4096).decode(errors="replace").splitlines()[0]


def test_a_forged_host_or_a_foreign_page_gets_no_connection(app_url: str) -> None:
    port = app_url.rsplit(":", 1)[1]
    for good in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST.:{port}", f"[::1]:{port}"):
        assert " 101 " in upgraded(app_url, good, f"http://{good}") + " ", good
    for bad in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "127.0.0.1/x",
    ):
        assert " 101 " not in upgraded(app_url, bad, f"http://{bad}"), bad
        assert " 101 " not in upgraded(app_url, bad, None), bad
    assert " 101 " not in upgraded(app_url, f"127.0.0.1:{port}", "http://evil.example")


def test_a_page_of_a_domain_that_was_pointed_here_shows_nothing(fake_cache: Path, browser: Any, tmp_path: Path) -> None:
    """DNS rebinding, with Streamlit's own list emptied: the app's own check is what refuses."""
    shutil.copy(ROOT / "app.py", tmp_path)
    for name in ("pages", "dmcore"):
        (tmp_path / name).symlink_to(ROOT / name)
    settings = (ROOT / ".streamlit" / "config.toml").read_text()
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "config.toml").write_text(re.sub("allowedHosts = .*", "allowedHosts = []", settings))
    with serve(fake_cache, folder=tmp_path) as url:
        port = url.rsplit(":", 1)[1]
        made = browser.browser_type.launch(
            executable_path=system_chromium(),
            args=["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP evil.example 127.0.0.1"],
        )
        try:
            page = made.new_page()
            page.set_default_timeout(TIMEOUT)
            page.goto(f"http://evil.example:{port}/")
            page.get_by_role("heading", name="This address is not served").wait_for()
            body = page.locator("body").inner_text()
            assert "Made-up results" not in body and "Runs" not in body
            assert page.locator("[data-testid=stVegaLiteChart]").count() == 0
            page.goto(f"{url}/")
            page.locator("[data-testid=stSidebarNavLink]").first.wait_for(state="attached")  # it may be folded away
            assert "not served" not in page.locator("body").inner_text()
        finally:
            made.close()
