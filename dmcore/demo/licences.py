"""Which installed packages may be learned from: those whose metadata names permissive licences only.

A package states its licence in up to three places; the most exact one decides:
1. `License-Expression`, an SPDX expression: every part of an AND must be permissive, one part of an OR suffices;
2. else the `License ::` classifiers: all must be permissive;
3. else the first line of `License`, read as a name.
What is not understood is not permitted.
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution

PERMISSIVE = frozenset(
    {
        *("0bsd", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc0-1.0", "cnri-python", "hpnd", "isc"),
        *("mit", "mit-0", "mit-cmu", "psf-2.0", "python-2.0", "unlicense", "zlib"),
    }
)
"""SPDX identifiers, lower case."""

CLASSIFIERS = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
    "zlib/libpng License": "Zlib",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "The Unlicense (Unlicense)": "Unlicense",
}
"""Last part of a trove classifier -> SPDX identifier."""

_NAMES = (
    (re.compile(r"^(the )?mit( license)?$"), "MIT"),
    (re.compile(r"^((new|modified|simplified) )?(\d-clause )?bsd([ -]\d(-| )clause)?( license)?$"), "BSD-3-Clause"),
    (re.compile(r"^apache([ -]|, version |-| license(, version)? )?(2(\.0)?)?( license)?$"), "Apache-2.0"),
    (re.compile(r"^apache software license( 2\.0)?$"), "Apache-2.0"),
    (re.compile(r"^(psf|psfl|psf-2\.0|python software foundation license)$"), "PSF-2.0"),
    (re.compile(r"^isc( license)?( \(iscl\))?$"), "ISC"),
    (re.compile(r"^3-clause bsd license$"), "BSD-3-Clause"),
)


def _expression_permitted(expression: str) -> bool:
    """Whether an SPDX expression leaves a choice of permissive licences only; nested ones must be so in every part."""
    flat = re.sub(r"\s+with\s+[\w.-]+", "", expression.strip().lower())
    if "(" in flat:
        parts = re.split(r"\s+(?:and|or)\s+|[()]", flat)
        return all(part.strip() in PERMISSIVE for part in parts if part.strip())
    return any(
        all(part.strip() in PERMISSIVE for part in re.split(r"\s+and\s+", choice))
        for choice in re.split(r"\s+or\s+", flat)
    )


def permissive_licence(expression: str, classifiers: list[str], licence: str) -> str | None:
    """The licence to record for a package with these metadata, or None if it may not be used."""
    if expression.strip():
        return expression.strip() if _expression_permitted(expression) else None
    named = [c.split("::")[-1].strip() for c in classifiers if c.startswith("License ::")]
    named = [name for name in named if name != "OSI Approved"]
    if named:
        return " AND ".join(CLASSIFIERS[n] for n in named) if all(n in CLASSIFIERS for n in named) else None
    first_line = licence.strip().splitlines()[0].strip().lower() if licence.strip() else ""
    for pattern, identifier in _NAMES:
        if pattern.match(first_line):
            return identifier
    return first_line if first_line and _expression_permitted(first_line) else None


def distribution_licence(distribution: Distribution) -> str | None:
    """`permissive_licence` of an installed distribution."""
    metadata = distribution.metadata
    return permissive_licence(
        metadata.get("License-Expression") or "",
        [str(value) for value in metadata.get_all("Classifier") or []],
        metadata.get("License") or "",
    )
