"""The audit of what is installed finds each thing that it looks for, and finds nothing in what is right."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
audit: Any = importlib.util.module_from_spec(SPEC)  # type: ignore[arg-type]
sys.modules["audit"] = audit
SPEC.loader.exec_module(audit)  # type: ignore[union-attr]

A = audit.Installed("a", "1.0", "MIT", False, ("b>=2", "c; extra == 'more'", "d; python_version < '3'"))
B = audit.Installed("b", "2.0+cpu", "BSD License", False)
GOOD = {"a": A, "b": B}
REQUIRED, PINNED = ["a==1.0"], ["a==1.0", "b==2.0"]


def wrong(there: dict[str, Any] = GOOD, required: list[str] = REQUIRED, pinned: list[str] = PINNED) -> list[str]:
    return audit.problems(there, required, pinned)[0]


def test_what_is_right_is_passed_and_extras_are_not_asked_for() -> None:
    assert audit.problems(GOOD, REQUIRED, PINNED) == ([], [])
    with_extra = {**GOOD, "c": replace(B, name="c"), "d": replace(B, name="d")}
    assert audit.needed(["a==1.0"], with_extra) == {"a", "b"}
    assert audit.needed(["a[more]==1.0"], with_extra) == {"a", "b", "c"}
    assert audit.problems(with_extra, REQUIRED, PINNED)[1] == ["c", "d"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (lambda: wrong(pinned=["a==1.0"]), "b 2.0+cpu is not pinned"),
        (lambda: wrong(pinned=["a==1.0", "b==2.1"]), "2.1 is pinned"),
        (lambda: wrong(required=["a>=1.0"]), "pin one version"),
        (lambda: wrong(required=["a==1.*"]), "pin one version"),
        (lambda: wrong(required=["a @ https://a.example/a.whl"]), "pin one version"),
        (lambda: wrong(pinned=["a==1.1", "b==2.0"]), "constraints.txt pins 1.1"),
        (lambda: wrong({**GOOD, "b": replace(B, from_address=True)}), "from an address"),
        (lambda: wrong({**GOOD, "b": replace(B, licence="")}), "licence (none)"),
        (lambda: wrong({**GOOD, "b": replace(B, licence="AGPL-3.0 AND MIT")}), "licence AGPL"),
        (lambda: wrong({**GOOD, "b": replace(B, licence="GNU General Public License (GPL)")}), "licence GNU"),
        (lambda: wrong({**GOOD, "torch": audit.Installed("torch", "2.5.1", "BSD", False)}), "CVE-2025-32434"),
    ],
)
def test_what_is_wrong_is_said(found: Any, said: str) -> None:
    assert any(said in line for line in found()), found()


def test_an_answer_of_pip_audit_is_read_and_silence_is_no_acquittal() -> None:
    bad = {"name": "a", "version": "1", "vulns": [{"id": "X-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}]}
    found, known, skipped = audit.read_audit(
        json.dumps({"dependencies": [bad, {"name": "b", "skip_reason": "unknown"}]})
    )
    assert (found, known, skipped) == (["a 1: X-1 (mended in: 2)."], 1, 1)


def test_without_network_the_audit_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError

    monkeypatch.setattr(audit.socket, "create_connection", refuse)
    found, said = audit.ask_database(GOOD)
    assert found == [] and "cannot be reached" in said


def test_this_environment_is_as_the_files_say() -> None:
    required = [line for path in sorted(ROOT.glob("requirements*.txt")) for line in audit.lines_of(path)]
    there = audit.installed()
    assert audit.problems(there, required, audit.lines_of(ROOT / "constraints.txt"))[0] == []
