"""Who gets which role, what a wrong settings file says, and that no page changes anything but by an action that asks."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import streamlit as st

from dmcore.run.host.access import RUNNER, VIEWER, AccessError, name_of, parse_access, read_access, verified_email
from dmcore.run.jobs.queue import Queue
from dmcore.store.store import Store
from dmcore.ui import actions, hosts, sign_in
from dmcore.ui.sign_in import Visitor, check_provider, visitor_of
from tests.pages.fake_results import write_fake_study

ROOT = Path(__file__).parents[2]
CONTENT = {
    "schema": 1,
    "viewer": {"domains": ["Lab.example"]},
    "runner": {"emails": ["Ada@lab.example"], "claims": {"groups": ["sae-runners"], "role": ["boss"]}},
}
ISSUER = "https://id.lab.example"
SECRETS: dict[str, Any] = {
    "redirect_uri": "https://dm.lab.example/oauth2callback",
    "cookie_secret": "s" * 32,
    "client_id": "dmcore",
    "client_secret": "p",
    "server_metadata_url": f"{ISSUER}/.well-known/openid-configuration",
}
NOW = 1_800_000_000.0


def person(**claims: Any) -> dict[str, Any]:
    base = {"is_logged_in": True, "provider": "default", "iss": ISSUER, "iat": NOW - 60, "sub": "1"}
    return {**base, "email": "ada@lab.example", "email_verified": True, **claims}


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({}, RUNNER),
        ({"email": "ADA@LAB.EXAMPLE"}, RUNNER),
        ({"email_verified": "true"}, RUNNER),
        ({"email": "grace@lab.example"}, VIEWER),
        ({"email": "grace@LAB.example"}, VIEWER),
        ({"email": "grace@x.lab.example"}, ""),
        ({"email": "grace@lab.example.evil.example"}, ""),
        ({"email": "grace@evil-lab.example"}, ""),
        ({"email": "a@evil.example@lab.example"}, ""),
        ({"email": "grace@evil.example\n@lab.example"}, ""),
        ({"email": "grace@lab.example "}, ""),
        ({"email": "ada@la\u212ab.example"}, ""),
        ({"email": "\uff21da@lab.example"}, ""),
        ({"email_verified": False}, ""),
        ({"email_verified": 1}, ""),
        ({"email_verified": None}, ""),
        ({"email": ["ada@lab.example"]}, ""),
        ({"email": None, "email_verified": None, "groups": ["x", "sae-runners"]}, RUNNER),
        ({"email": None, "role": "boss"}, RUNNER),
        ({"email": None, "role": "BOSS"}, ""),
        ({"email": None, "groups": {"sae-runners": True}}, ""),
        ({"email": None, "groups": [["sae-runners"], 3]}, ""),
    ],
)
def test_a_role_needs_a_verified_address_or_a_claim_of_the_providers(claims: dict[str, Any], role: str) -> None:
    found = visitor_of(parse_access(CONTENT), ISSUER, person(**claims), NOW)
    assert (found.role, found.why) == (role, "" if role else "stranger")


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"is_logged_in": False}, "signed out"),
        ({"is_logged_in": "yes"}, "signed out"),
        ({"iss": "https://other.example"}, "stranger"),
        ({"iss": None}, "stranger"),
        ({"provider": "other"}, "stranger"),
        ({"iat": NOW - 13 * 3600}, "expired"),
        ({"iat": NOW + 3600}, "expired"),
        ({"iat": None}, "expired"),
        ({"iat": float("nan")}, "expired"),
        ({"iat": True}, "expired"),
        ({"iat": "1800000000"}, "expired"),
    ],
)
def test_another_provider_an_old_sign_in_or_none_gives_nobody_a_role(claims: dict[str, Any], why: str) -> None:
    found = visitor_of(parse_access(CONTENT), ISSUER, person(**claims), NOW)
    assert (found.role, found.why) == ("", why)


def test_an_issuer_may_end_with_a_slash() -> None:
    assert visitor_of(parse_access(CONTENT), ISSUER, person(iss=f"{ISSUER}/"), NOW).role == RUNNER


def test_who_somebody_is_called() -> None:
    assert verified_email(person(email="ADA@lab.example")) == "ada@lab.example"
    assert name_of(person(email_verified=False, preferred_username="ada")) == "ada"
    assert name_of({"sub": "x" * 999}) == "x" * 200
    assert name_of({}) == "somebody without a name"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema = 1"),
        ({"schema": True}, "schema = 1"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"session_hours": 0}, "session_hours"),
        ({"session_hours": float("nan")}, "session_hours"),
        ({"session_hours": 1000}, "session_hours"),
        ({"provider": "a_b"}, "provider"),
        ({"runner": {}}, "nobody may start a job"),
        ({"runner": []}, "must be a table"),
        ({"runner": {"emials": []}}, "unknown key 'emials'"),
        ({"runner": {"emails": "ada@lab.example"}}, "must be a list"),
        ({"runner": {"emails": ["ada"]}}, "an address like"),
        ({"runner": {"emails": [3]}}, "an address like"),
        ({"viewer": {"domains": ["*.lab.example"]}}, "a domain like"),
        ({"viewer": {"domains": ["@lab.example"]}}, "a domain like"),
        ({"viewer": {"domains": ["gmail.com"]}}, "anybody can have an address at gmail.com"),
        ({"runner": {"claims": {"email": ["ada@lab.example"]}}}, "a claim of"),
        ({"runner": {"claims": {"groups": []}}}, "a list of texts"),
        ({"runner": {"claims": {"groups": [True]}}}, "a list of texts"),
    ],
)
def test_a_wrong_settings_file_is_refused_in_one_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(AccessError, match=said) as caught:
        parse_access({**CONTENT, **change})
    assert "\n" not in str(caught.value)


def test_a_file_that_should_be_there_and_is_not_is_an_error_and_none_at_all_is_no_sign_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DMCORE_ACCESS", raising=False)
    assert read_access(tmp_path) is None
    (tmp_path / "access.toml").symlink_to(tmp_path / "gone.toml")
    with pytest.raises(AccessError, match="Cannot read"):
        read_access(tmp_path)
    monkeypatch.setenv("DMCORE_ACCESS", str(tmp_path / "other.toml"))
    with pytest.raises(AccessError, match="Cannot read"):
        read_access(tmp_path)
    monkeypatch.setenv("DMCORE_ACCESS", " ")
    with pytest.raises(AccessError, match="set to nothing"):
        read_access(tmp_path)
    (tmp_path / "other.toml").write_bytes(b"schema = 1\n\xff")
    monkeypatch.setenv("DMCORE_ACCESS", str(tmp_path / "other.toml"))
    with pytest.raises(AccessError, match="not valid TOML"):
        read_access(tmp_path)


def test_the_issuer_is_that_of_the_secrets_and_what_they_lack_is_said() -> None:
    access = parse_access(CONTENT)
    assert check_provider(access, SECRETS) == ISSUER
    named = parse_access({**CONTENT, "provider": "lab"})
    keys = ("client_id", "client_secret", "server_metadata_url")
    shared = {k: v for k, v in SECRETS.items() if k not in keys}
    assert check_provider(named, {**shared, "lab": {k: SECRETS[k] for k in keys}}) == ISSUER
    with pytest.raises(AccessError, match=r"\[auth\.lab\]"):
        check_provider(named, SECRETS)
    for key in SECRETS:
        with pytest.raises(AccessError, match=key):
            check_provider(access, {**SECRETS, key: ""})
    for key, value in (
        ("cookie_secret", "short"),
        ("redirect_uri", "http://dm.lab.example/oauth2callback"),
        ("redirect_uri", "https://dm.lab.example/"),
        ("server_metadata_url", "http://id.lab.example/.well-known/openid-configuration"),
        ("server_metadata_url", ISSUER),
    ):
        with pytest.raises(AccessError, match=key) as caught:
            check_provider(access, {**SECRETS, key: value})
        assert SECRETS["cookie_secret"] not in str(caught.value)
    with pytest.raises(AccessError, match="no \\[auth\\] table"):
        check_provider(access, {})


def test_entra_is_named_by_the_tenants_guid_as_the_docs_do() -> None:
    page, access = (ROOT / "docs" / "sign-in.md").read_text(encoding="utf-8"), parse_access(CONTENT)
    (address,) = re.findall(r"https://login\.microsoftonline\.com/\S+", page)
    assert check_provider(access, {**SECRETS, "server_metadata_url": address}).endswith("-555555555555/v2.0")
    assert "claim `email`" in page
    for tenant in ("common", "organizations", "consumers", "lab.onmicrosoft.com", "TENANT", ""):
        other = address.replace("11111111-2222-3333-4444-555555555555", tenant)
        with pytest.raises(AccessError, match="your Entra tenant's GUID"):
            check_provider(access, {**SECRETS, "server_metadata_url": other})


def test_a_header_that_says_who_somebody_is_shuts_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    real = st.get_option
    monkeypatch.setattr(st, "get_option", lambda key: {"X": "email"} if "trustedUser" in key else real(key))
    with pytest.raises(AccessError, match="trustedUserHeaders"):
        check_provider(parse_access(CONTENT), SECRETS)


@pytest.fixture
def as_viewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with a study, and a session of somebody who may only look."""
    write_fake_study(tmp_path, n_saes=1)
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(sign_in, "visitor", lambda: Visitor("grace@lab.example", VIEWER))
    monkeypatch.setattr(actions.worker, "ensure_worker", lambda *a: pytest.fail("a worker was started"))
    yield tmp_path


def test_a_viewers_call_of_any_action_is_refused_whatever_the_buttons_say(as_viewer: Path) -> None:
    demo = ROOT / "dmcore" / "demo" / "artifacts" / "study.toml"
    job = Queue(as_viewer).submit("sweep", demo, "cpu", asked_by="ada@lab.example")
    (entry,) = [one for one in Store(as_viewer).entries() if one.manifest.stage == "summary"]
    asked = {
        "submit": lambda: actions.submit("sweep", demo),
        "cancel": lambda: actions.cancel(job.id),
        "retry": lambda: actions.retry(job.id),
        "remove": lambda: actions.remove(job.id),
        "delete_entries": lambda: actions.delete_entries([("summary", entry.key)]),
        "delete_unfinished": actions.delete_unfinished,
        "save_study": lambda: actions.save_study(as_viewer / "studies", "mine", "schema = 1"),
        "delete_study": lambda: actions.delete_study(demo.parent, "study"),
    }
    tree = ast.parse((ROOT / "dmcore" / "ui" / "actions.py").read_text())
    own = {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")}
    assert own == set(asked), "every action is tried here"
    for name, act in asked.items():
        with pytest.raises(AccessError, match="for runners"):
            act()
        assert Queue(as_viewer).jobs() == [job], name
    assert entry.key in [one.key for one in Store(as_viewer).entries()]
    assert not (as_viewer / "studies").exists() and demo.is_file()


def test_nobody_who_is_not_signed_in_may_act(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (Visitor(why="signed out"), Visitor("eve", why="stranger"), Visitor(why="host")):
        monkeypatch.setattr(sign_in, "visitor", lambda found=found: found)
        with pytest.raises(AccessError, match="not signed in"):
            sign_in.require_runner()


CHANGES = {"submit", "cancel", "retry", "remove", "ensure_worker", "delete_holdings", "delete_leftovers", "write_text",
           "write_bytes", "unlink", "rmtree", "mkdir", "rename", "replace_entry"}  # fmt: skip


@pytest.mark.parametrize("path", sorted([*ROOT.glob("pages/*.py"), *ROOT.glob("dmcore/ui/*.py")]), ids=lambda p: p.name)
def test_a_page_changes_something_only_by_an_action_that_asks(path: Path) -> None:
    if path.name == "actions.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in CHANGES:
            # job.cancel is a field: whether it has been asked to stop.
            assert ast.unparse(node) == "job.cancel" or ast.unparse(node.value) == "actions", (
                f"{path.name}:{node.lineno} {ast.unparse(node)}"
            )
        if isinstance(node, ast.ImportFrom):
            assert not {alias.name for alias in node.names} & CHANGES, f"{path.name}:{node.lineno}"


UI_FILES = sorted([ROOT / "app.py", *ROOT.glob("pages/*.py"), *ROOT.glob("dmcore/ui/*.py")])


def fragments_of(tree: ast.Module) -> list[ast.FunctionDef]:
    """The functions of a file that Streamlit runs again without the page: decorated, or handed to `fragment`."""
    named = {
        node.args[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("fragment") and node.args
        if isinstance(node.args[0], ast.Name)
    }
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    again = ("fragment", "dialog")
    return [
        node
        for node in found
        if node.name in named
        or any(ast.unparse(d.func if isinstance(d, ast.Call) else d).endswith(again) for d in node.decorator_list)
    ]


def test_whatever_runs_without_the_page_asks_first_who_is_looking() -> None:
    """A fragment, and a download that is made at the click: the role may have been taken away since the page was drawn."""
    seen = []
    for path in UI_FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in fragments_of(tree):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert ast.unparse(body[0]) == "if not admitted():\n    st.rerun()", f"{path.name}: {node.name}"
            seen.append(path.stem)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("download_button"):
                data = ast.unparse(node.args[1])
                assert data.startswith("once_admitted(") or data == "toml", f"{path.name}:{node.lineno} {data}"
                seen.append(f"{path.stem} download")
    assert {"health_panel", "report_button", "look_job", "job_panel"} <= set(seen)
    assert {"figure download", "report_button download"} <= set(seen)


@pytest.fixture
def signed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The settings file of a host on which Ada is signed in."""
    file = tmp_path / "access.toml"
    file.write_text('schema = 1\n[runner]\nemails = ["ada@lab.example"]\n')
    monkeypatch.setenv("DMCORE_ACCESS", str(file))
    monkeypatch.setattr(sign_in, "_auth_table", lambda: SECRETS)
    monkeypatch.setattr(sign_in, "_claims", lambda: person(iat=time.time()))
    yield file
    sign_in._LEFT.clear()


def test_settings_that_break_in_the_middle_of_a_page_are_no_exception(signed_in: Path) -> None:
    signed_in.write_text("schema = 2")
    assert sign_in.draw_who() is None
    assert not sign_in.admitted()


def test_a_download_is_made_only_for_who_may_still_see_it(signed_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sign_in.once_admitted(lambda: b"a report")
    monkeypatch.setattr(sign_in, "_claims", dict)  # as at the click, in a thread that knows no user
    assert made() == b"a report"
    signed_in.write_text('schema = 1\n[runner]\nemails = ["grace@lab.example"]\n')
    with pytest.raises(AccessError, match="not signed in"):
        made()


def test_who_signs_out_does_so_in_every_tab(signed_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = sign_in._claims()
    monkeypatch.setattr(sign_in, "_claims", lambda: claims)
    monkeypatch.setattr(sign_in.st, "logout", lambda: None)
    made = sign_in.once_admitted(lambda: b"a report")
    assert sign_in.visitor().role == RUNNER
    sign_in._sign_out()
    assert sign_in.visitor() == Visitor(why="signed out")
    with pytest.raises(AccessError, match="not signed in"):
        made()
    claims = {**claims, "iat": claims["iat"] + 1}
    assert sign_in.visitor().role == RUNNER, "a new sign-in is another"


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("localhost", True), ("LocalHost:8501", True), ("127.0.0.1:8501", True), ("[::1]:8501", True), ("localhost.", True),
        ("dm.lab.example", True), ("a.wild.example", True), ("wild.example", False), ("awild.example", False), ("", False),
        ("evil.example", False), ("localhost.evil.example", False), ("evil@localhost", False), ("localhost@evil.example", False),
        ("localhost:99999", False), ("localhost:x", False), ("[::1", False), ("127.0.0.1/evil", False),
        ("localhost\\evil", False),
        ("::1", False), ("127.1", False), ("localhost\u202e", False),
    ],
)  # fmt: skip
def test_only_the_hosts_of_the_list_are_served(host: str, served: bool) -> None:
    assert hosts.host_allowed(host, ["dm.lab.example", "*.wild.example", *hosts.LOOPBACK]) is served


def test_a_request_without_exactly_one_host_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    class Headers(dict):
        def get_all(self, name: str) -> list[str]:
            return self.get(name, [])

    for content, served in (({"Host": ["localhost"]}, True), ({"Host": ["localhost", "localhost"]}, False),
                            ({"Cookie": ["x"]}, False), ({}, True)):  # fmt: skip
        monkeypatch.setattr(hosts.st, "context", SimpleNamespace(headers=Headers(content)))
        assert hosts.request_allowed() is served
    monkeypatch.setattr(hosts.st, "get_option", lambda key: [] if key == "server.allowedHosts" else "0.0.0.0")
    assert hosts.served_hosts() == list(hosts.LOOPBACK)


def test_the_server_is_for_this_machine_and_takes_nothing_in() -> None:
    said = {key: st.get_option(f"server.{key}") for key in (
        "address", "enableXsrfProtection", "enableCORS", "enableStaticServing", "maxUploadSize", "fileWatcherType",
        "enableAgentApi", "trustedUserHeaders", "corsAllowedOrigins", "scriptHealthCheckEnabled")}  # fmt: skip
    assert said == {
        "address": "127.0.0.1", "enableXsrfProtection": True, "enableCORS": True, "enableStaticServing": False,
        "maxUploadSize": 1, "fileWatcherType": "none", "enableAgentApi": False, "trustedUserHeaders": {},
        "corsAllowedOrigins": [], "scriptHealthCheckEnabled": False,
    }  # fmt: skip
    assert set(st.get_option("server.allowedHosts")) == set(hosts.LOOPBACK)
    assert st.get_option("client.showErrorDetails") == "none"
