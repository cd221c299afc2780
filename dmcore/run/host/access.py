"""Who may do what on a host that others can reach: the file `access.toml`, and the role of a person by it. No Streamlit here.

schema = 1
session_hours = 12                  # after which one signs in again
provider = ""                       # where secrets.toml has [auth.NAME] tables: which of them
[viewer]                            # sees everything, starts and deletes nothing
domains = ["lab.example"]
[runner]                            # may start, cancel and delete too
emails = ["ada@lab.example"]
claims = { groups = ["sae-runners"] }

1. Without a file there is no sign-in: whoever reaches the page may do all, which is what a laptop's loopback address is for.
2. With one, everybody signs in, and a file that cannot be read lets nobody in.
3. A person has a role by address or domain only if the provider says that the address is theirs (`email_verified`), compared
   in ASCII without case; or by a claim, which the provider vouches for itself.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmcore.errors import DarkMatterError

VARIABLE = "DMCORE_ACCESS"
FILE = "access.toml"
SCHEMA = 1
VIEWER, RUNNER = "viewer", "runner"
ROLES = (VIEWER, RUNNER)
MOST_HOURS = 720.0
"""Streamlit's cookie lives for 30 days."""
SKEW_SECONDS = 300
"""How far a provider's clock may be ahead of this one."""

_EMAIL = re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@([a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+)")
_DOMAIN = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+")
_CLAIM = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_OURS = ("email", "email_verified", "is_logged_in", "iss", "iat", "exp", "provider", "tokens")
"""Claims that have a rule of their own, or that are Streamlit's: no role may hang on them."""
OPEN_TO_ALL = {
    "gmail.com", "googlemail.com", "outlook.com", "hotmail.com", "live.com", "msn.com", "yahoo.com", "icloud.com", "me.com",
    "aol.com", "gmx.com", "gmx.net", "gmx.de", "web.de", "mail.com", "mail.ru", "yandex.ru", "qq.com", "163.com", "proton.me",
    "protonmail.com", "zoho.com",
}  # fmt: skip
"""Domains where anybody can have an address."""


class AccessError(DarkMatterError):
    """The settings of the sign-in are wrong, or somebody asks for what their role may not do."""


@dataclass(frozen=True)
class People:
    """Whom a role is given to."""

    emails: frozenset[str] = frozenset()
    """Addresses, in lower case."""
    domains: frozenset[str] = frozenset()
    """What follows the @ of an address, in lower case; `lab.example` does not stand for `x.lab.example`."""
    claims: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Values of claims of the provider's, one of which is enough."""

    def include(self, person: Mapping[str, Any]) -> bool:
        """Whether the role is this person's; `person`: the claims."""
        address = verified_email(person)
        if address and (address in self.emails or address.partition("@")[2] in self.domains):
            return True
        return any(wanted & _values(person.get(name)) for name, wanted in self.claims.items())


@dataclass(frozen=True)
class Access:
    """What `access.toml` says."""

    viewer: People
    runner: People
    provider: str = ""
    """Name of the provider's table in secrets.toml; empty: [auth] itself."""
    session_hours: float = 12.0
    """How long a sign-in lasts."""

    def role(self, person: Mapping[str, Any]) -> str:
        """`runner`, `viewer`, or empty for somebody who has no business here."""
        return RUNNER if self.runner.include(person) else VIEWER if self.viewer.include(person) else ""

    def expired(self, person: Mapping[str, Any], now: float) -> bool:
        """Whether a sign-in is too old, or does not say when it was; `now` in UTC seconds since 1970."""
        at = person.get("iat")
        if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
            return True
        return not now - self.session_hours * 3600 < at < now + SKEW_SECONDS


def verified_email(person: Mapping[str, Any]) -> str:
    """A person's address in lower case; empty unless the provider says that it is theirs.

    Letters beyond ASCII are refused: several of them become the same ASCII letter without case.
    """
    address, verified = person.get("email"), person.get("email_verified")
    if not isinstance(address, str) or not (verified is True or verified == "true") or not address.isascii():
        return ""
    return address.lower() if _EMAIL.fullmatch(address.lower()) else ""


def name_of(person: Mapping[str, Any]) -> str:
    """What to call a person: the verified address, or the provider's own name for them."""
    for name in (verified_email(person), person.get("preferred_username"), person.get("sub")):
        if isinstance(name, str) and name:
            return name[:200]
    return "somebody without a name"


def read_access(folder: Path) -> Access | None:
    """The settings: of the file that `DMCORE_ACCESS` names, else of `access.toml` in a folder; None where there is neither.

    Raises:
        AccessError: there should be one and it cannot be read, or says something unknown; one sentence with the remedy.
    """
    named = os.environ.get(VARIABLE)
    if named is not None and not named.strip():
        raise AccessError(f"{VARIABLE} is set to nothing: give it the path of an access.toml, or unset it.")
    path = Path(named) if named is not None else folder / FILE
    if named is None and not os.path.lexists(path):
        return None
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AccessError(f"Cannot read {path} ({error.strerror}): mend its path or its permissions.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AccessError(f"{path} is not valid TOML ({error}): mend it there.") from error
    try:
        return parse_access(content)
    except AccessError as error:
        raise AccessError(f"{path}: {error}") from error


def parse_access(content: Mapping[str, Any]) -> Access:
    """The settings that a file's tables say; raises `AccessError` for anything unknown or that could not be meant."""
    _only(content, ("schema", "provider", "session_hours", *ROLES), "the file")
    if content.get("schema") != SCHEMA or isinstance(content.get("schema"), bool):
        raise AccessError(f"write schema = {SCHEMA} at its top.")
    provider = content.get("provider", "")
    if not isinstance(provider, str) or not re.fullmatch(r"[A-Za-z0-9-]{0,64}", provider):
        raise AccessError("provider must be the name of an [auth.NAME] table of secrets.toml.")
    hours = content.get("session_hours", 12.0)
    if isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours <= MOST_HOURS:
        raise AccessError(f"session_hours must be a number above 0 and at most {MOST_HOURS:.0f}.")
    viewer, runner = (_people(content.get(role, {}), role) for role in ROLES)
    if not (runner.emails or runner.domains or runner.claims):
        raise AccessError("nobody may start a job: name at least one address, domain or claim under [runner].")
    return Access(viewer, runner, provider, float(hours))


def _people(table: Any, role: str) -> People:
    if not isinstance(table, dict):
        raise AccessError(f"{role} must be a table: write [{role}].")
    _only(table, ("emails", "domains", "claims"), f"[{role}]")
    emails = _texts(table.get("emails", []), f"emails of [{role}]", _EMAIL, "an address like ada@lab.example")
    domains = _texts(table.get("domains", []), f"domains of [{role}]", _DOMAIN, "a domain like lab.example")
    if public := sorted(domains & OPEN_TO_ALL):
        raise AccessError(
            f"anybody can have an address at {public[0]}: list addresses under emails of [{role}] instead."
        )
    claims = table.get("claims", {})
    if not isinstance(claims, dict):
        raise AccessError(f'claims of [{role}] must be a table: write claims = {{ groups = ["name"] }}.')
    for name in claims:
        if not _CLAIM.fullmatch(name) or name in _OURS:
            raise AccessError(
                f"a claim of [{role}] cannot be used: name one of the provider's own, as groups or roles."
            )
    return People(emails, domains, {name: _claimed(values, role) for name, values in claims.items()})


def _texts(values: Any, where: str, form: re.Pattern[str], what: str) -> frozenset[str]:
    if not isinstance(values, list):
        raise AccessError(f"{where} must be a list.")
    lowered = [value.lower() if isinstance(value, str) and value.isascii() else "" for value in values]
    if not all(form.fullmatch(value) for value in lowered):
        raise AccessError(f"{where}: each must be {what}.")
    return frozenset(lowered)


def _claimed(values: Any, role: str) -> frozenset[str]:
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v.strip() for v in values):
        raise AccessError(f"claims of [{role}]: each must have a list of texts.")
    return frozenset(values)


def _values(value: Any) -> frozenset[str]:
    """The texts of a claim, which providers give as one or as a list."""
    return frozenset(one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str))


def _only(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := sorted(set(table) - set(known)):
        raise AccessError(f"{where} has an unknown key {unknown[0]!r}: it may have {', '.join(known)}.")
