"""A view as a link: the selection written to query parameters, and read back from ones that nobody can be trusted with.

A number that cannot be read is dropped; a word is only ever compared with what exists. Both are reported by *field*, never
by value, so that nothing from a link reaches the page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from dmcore.ui.grid import Wish

SHARED = ("study", "stream", "layer", "width", "l0", "arch")
"""Parameters of every page, in the order in which a link has them."""

_LARGEST = 10**9


def read_wish(params: Mapping[str, str]) -> tuple[Wish, tuple[str, ...]]:
    """The wish that some parameters express, and the fields that could not be read."""
    kinds = {"stream": str, "layer": _whole, "width": _whole, "l0": _not_negative, "arch": str}
    values = {field: kind(params[field]) for field, kind in kinds.items() if field in params}
    return Wish(**values), tuple(field for field, value in values.items() if value is None)


def read_study(params: Mapping[str, str], studies: Mapping[str, Any]) -> tuple[str, bool]:
    """The study that the parameters name if it exists, else the first one; and whether the name was good (or absent)."""
    asked = params.get("study")
    if asked in studies:
        return asked, True
    return next(iter(studies)), asked is None


def write_params(study: str, record: Mapping[str, Any]) -> dict[str, str]:
    """The parameters that reproduce a choice."""
    return {
        "study": study,
        "stream": record["stream"],
        "layer": str(record["layer"]),
        "width": str(record["d_sae"]),
        "l0": f"{record['l0']:.4g}",
        "arch": record["label"],
    }


def full_link(page_url: str, params: Mapping[str, str]) -> str:
    """Address of the page with its parameters, quoted."""
    address = page_url.split("?")[0]
    root = "" if address.count("/") > 2 or not address else "/"
    return f"{address}{root}?{urlencode(params)}"


def _whole(text: str) -> int | None:
    return min(int(text), _LARGEST) if re.fullmatch(r"[0-9]{1,12}", text) else None


def _not_negative(text: str) -> float | None:
    if not re.fullmatch(r"[0-9.eE+-]{1,24}", text):
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
