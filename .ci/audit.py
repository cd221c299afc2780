"""What is installed, looked through: pinned, expected, from an index, under a licence that we may use, not known to be bad.

1. Without network: every distribution that the requirement files bring is installed at the version that constraints.txt pins;
   nothing else is installed (an error in CI, a remark elsewhere); none came from an address instead of an index; each has an
   allowed licence; none is on the list of versions that are known to be bad, which is kept here with its date.
2. With network: pip-audit asks a database of vulnerabilities, in an environment of its own. Any that is not accepted below is
   an error. Where the database cannot be asked, a line says so and the rest stands.

Run: python .ci/audit.py
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
TOOLS = {"pip", "setuptools", "wheel", "packaging"}
"""What an environment has by itself."""
OF_TORCH = re.compile(r"nvidia-.+|triton|cuda-.+")
"""What torch brings on a GPU host, at versions that it pins itself."""

ALLOWED = re.compile(
    r"apache|bsd|\bmit\b|mit-0|mit-cmu|\bisc\b|isc license|psf|python software foundation|mozilla|mpl-2\.0|zlib|0bsd|cc0|bsl-1\.0"
    r"|hpnd|unlicense|cnri-python|llvm-exception",
    re.IGNORECASE,
)
FORBIDDEN = re.compile(r"\b[al]?gpl|affero|sspl|busl|proprietary|commercial|non-?commercial|cc-by-nc", re.IGNORECASE)

KNOWN_BAD_DATE = "2026-11-23"
KNOWN_BAD = {
    "authlib": ("<1.6.5", "CVE-2025-61920: a token of any size is parsed"),
    "cryptography": ("<44.0.1", "CVE-2024-12797: a server that proves itself by a raw key is not checked"),
    "h11": ("<0.16.0", "CVE-2025-43859: chunked bodies that are malformed are accepted"),
    "jinja2": ("<3.1.6", "CVE-2025-27516: a way out of the sandbox"),
    "nltk": ("<3.9", "CVE-2024-39705: a download is unpickled"),
    "pillow": ("<11.3.0", "CVE-2025-48379: a write beyond a buffer"),
    "protobuf": ("<6.31.1", "CVE-2025-4565: recursion without an end"),
    "python-multipart": ("<0.0.18", "CVE-2024-53981: a form that keeps the server busy"),
    "requests": ("<2.32.4", "CVE-2024-47081: a password sent to another host"),
    "setuptools": ("<78.1.1", "CVE-2025-47273: a file written anywhere"),
    "starlette": ("<0.49.1", "CVE-2025-62727: a Range header that keeps the server busy"),
    "torch": ("<2.6.0", "CVE-2025-32434: weights_only loads run code"),
    "urllib3": ("<2.5.0", "CVE-2025-50181: redirects followed that were forbidden"),
}
"""Versions and why, by name; what was published until the date, of what is used here."""
ACCEPTED: dict[str, str] = {}
"""Ids of vulnerabilities that do not concern how a package is used here: why, and until when."""
DATABASE = ("api.osv.dev", 443)
PIP_AUDIT = "pip-audit==2.10.1"


@dataclass(frozen=True)
class Installed:
    """A distribution of this environment."""

    name: str
    version: str
    licence: str
    from_address: bool
    requires: tuple[str, ...] = ()


def installed() -> dict[str, Installed]:
    """Everything in this environment, by canonical name."""
    found = {}
    for one in metadata.distributions():
        about = one.metadata
        kinds = [c.rsplit("::", 1)[-1].strip() for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
        licence = about.get("License-Expression") or "; ".join(kinds) or (about.get("License") or "").split("\n")[0]
        name = canonicalize_name(about["Name"])
        address = one.read_text("direct_url.json") is not None
        found[name] = Installed(name, one.version, licence.strip(), address, tuple(one.requires or ()))
    return found


def lines_of(path: Path) -> list[str]:
    """The lines of a requirement or constraint file that name a distribution."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def pins(lines: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Versions by name, and what is wrong with lines that pin none."""
    pinned, wrong = {}, []
    for line in lines:
        one = Requirement(line)
        exact = [s.version for s in one.specifier if s.operator == "==" and not s.version.endswith(".*")]
        if len(exact) != 1 or len(one.specifier) != 1 or one.url:
            wrong.append(f"{line}: pin one version with ==.")
        else:
            pinned[canonicalize_name(one.name)] = exact[0]
    return pinned, wrong


def needed(roots: Iterable[str], there: dict[str, Installed]) -> set[str]:
    """Names of what some requirements bring along, themselves included, as far as it is installed."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(root) for root in roots]
    while todo:
        one = todo.pop()
        name, extras = canonicalize_name(one.name), frozenset(one.extras)
        if (name, extras) in seen or name not in there:
            continue
        seen.add((name, extras))
        for text in there[name].requires:
            also = Requirement(text)
            if also.marker is None or any(also.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append(also)
    return {name for name, _ in seen}


def problems(
    there: dict[str, Installed], requirements: list[str], constraints: list[str]
) -> tuple[list[str], list[str]]:
    """What is wrong, and what is there that nothing asked for."""
    asked, wrong = pins(requirements)
    pinned, also = pins(constraints)
    wrong += also
    wrong += [f"{name} {version} is asked for, and constraints.txt pins {pinned[name]}." for name, version in asked.items()
              if name in pinned and pinned[name] != version]  # fmt: skip
    chosen = needed(requirements, there)
    for name in sorted(chosen):
        one = there[name]
        if (name in TOOLS and name not in pinned) or OF_TORCH.fullmatch(name):
            continue
        if name not in pinned and name not in asked:
            wrong.append(f"{name} {one.version} is not pinned: add it to constraints.txt.")
        elif Version(one.version).public != Version(pinned.get(name, asked.get(name, ""))).public:
            wrong.append(f"{name} {one.version} is installed, and {pinned.get(name, asked.get(name))} is pinned.")
        if one.from_address:
            wrong.append(f"{name} was installed from an address or a folder: install it from an index.")
        if FORBIDDEN.search(one.licence) or not ALLOWED.search(one.licence):
            wrong.append(f"{name} {one.version} has the licence {one.licence or '(none)'}, which is not on the list.")
    for name, one in there.items():
        bad = KNOWN_BAD.get(name)
        if bad and Version(one.version) in SpecifierSet(bad[0], prereleases=True):
            wrong.append(f"{name} {one.version} is known to be bad ({bad[1]}): take one that is not {bad[0]}.")
    foreign = [name for name in sorted(set(there) - chosen) if name not in TOOLS and not OF_TORCH.fullmatch(name)]
    return wrong, foreign


def read_audit(output: str) -> tuple[list[str], int, int]:
    """What pip-audit's JSON says: vulnerabilities that nobody has accepted; how many distributions it knew; and did not."""
    found, known, skipped = [], 0, 0
    for one in json.loads(output)["dependencies"]:
        if "skip_reason" in one:
            skipped += 1
            continue
        known += 1
        for bad in one["vulns"]:
            if not {bad["id"], *bad.get("aliases", [])} & set(ACCEPTED):
                mended = ", ".join(bad["fix_versions"]) or "none yet"
                found.append(f"{one['name']} {one['version']}: {bad['id']} (mended in: {mended}).")
    return found, known, skipped


def ask_database(there: dict[str, Installed]) -> tuple[list[str], str]:
    """Vulnerabilities by pip-audit, and a line on what could be asked."""
    try:
        socket.create_connection(DATABASE, timeout=3).close()
    except OSError:
        return (
            [],
            "pip-audit: the database of vulnerabilities cannot be reached from here; only the checks above were made.",
        )
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        names = Path(folder) / "installed.txt"
        names.write_text("".join(f"{one.name}=={Version(one.version).public}\n" for one in there.values()))
        try:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=60)
            subprocess.run([python, "-m", "pip", "install", "-q", PIP_AUDIT], check=True, timeout=120)
            command = [python, "-m", "pip_audit", "-s", "osv", "-f", "json", "--no-deps", "--disable-pip", "-r", names]
            made = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
            found, known, skipped = read_audit(made.stdout)
        except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            return [], f"pip-audit could not be run ({type(error).__name__}); only the checks above were made."
    if not known:
        return [], "pip-audit: the database knew none of the distributions; only the checks above were made."
    return found, f"pip-audit: {known} distributions asked about, {skipped} unknown, {len(found)} vulnerabilities."


def main() -> int:
    there = installed()
    requirements = [line for path in sorted(ROOT.glob("requirements*.txt")) for line in lines_of(path)]
    wrong, foreign = problems(there, requirements, lines_of(ROOT / "constraints.txt"))
    bad, said = ask_database(there)
    strict = os.environ.get("CI") == "true"
    if foreign:
        text = f"installed, but no requirement file asks for it: {', '.join(foreign)}."
        wrong += [text] if strict else []
        sys.stdout.write("" if strict else f"Remark: {text}\n")
    for line in [*wrong, *bad]:
        sys.stdout.write(f"error: {line}\n")
    sys.stdout.write(
        f"{len(there)} distributions looked through; list of known bad versions of {KNOWN_BAD_DATE}.\n{said}\n"
    )
    return 1 if wrong or bad else 0


if __name__ == "__main__":
    sys.exit(main())
