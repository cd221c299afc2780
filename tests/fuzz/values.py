"""Values that nobody meant, and files with something wrong in them."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import strategies as st

NASTY_TEXTS = (
    "", " ", "\n", "../../escape", "/etc/passwd", "a/../../b", "..", ".", "~", "C:\\x", "\x00", "a\x00b", "\x1b[31mred",
    "\u202egnp.exe", "\ud800", "𝕏" * 40, "é" * 300, "<script>alert(1)</script>", "${HOME}", "%s%s%n", "'; DROP TABLE jobs; --",
    "CON", "nan", "inf", "-1", "1e999", "0x10", "１２３", "٣", "blocks.0.hook_resid_post", "blocks.99999.hook_resid_post",
    "blocks.-1.hook_resid_post", "a" * 5000,
)  # fmt: skip
NASTY_NUMBERS = (
    0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.0, -0.0, 1.5, 1e308, 5e-324, math.nan, math.inf, -math.inf, True, False,
)  # fmt: skip

texts = st.one_of(st.sampled_from(NASTY_TEXTS), st.text(max_size=30))
numbers = st.one_of(st.sampled_from(NASTY_NUMBERS), st.integers(), st.floats())
scalars = st.one_of(texts, numbers)
nests = st.recursive(
    st.one_of(scalars, st.just([]), st.just({})),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)
"""Anything that TOML or JSON can say, null aside."""
json_values = st.one_of(nests, st.none(), st.lists(st.none(), max_size=2))


@st.composite
def changed_nests(draw: st.DrawFn, sound: Any, values: st.SearchStrategy[Any] = json_values, most: int = 3) -> Any:
    """A sound nest of dicts and lists with a few of its values replaced, removed, added or renamed."""
    nest = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, most))):
        where, parents = nest, []
        while isinstance(where, dict | list) and where and (not parents or draw(st.integers(0, 3))):
            key = draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
            parents.append((where, key))
            where = where[key]
        if not parents:
            return draw(values)
        parent, key = parents[-1]
        what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "wrap"]))
        if what == "replace":
            parent[key] = draw(values)
        elif what == "remove":
            del parent[key]
        elif what == "wrap":
            parent[key] = [parent[key]]
        elif isinstance(parent, dict):
            parent[draw(texts)] = draw(values)
        else:
            parent.append(draw(values))
    return nest


@st.composite
def hurt_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """A file with bits turned, bytes cut, put in or overwritten."""
    found = bytearray(sound)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "flip", "cut", "drop", "insert", "overwrite", "repeat"]))
        if kind == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del found[at:]
        elif kind == "drop":
            del found[at : at + draw(st.integers(1, 64))]
        elif kind == "insert":
            found[at:at] = draw(st.binary(max_size=32))
        elif kind == "overwrite":
            piece = draw(st.binary(min_size=1, max_size=16))
            found[at : at + len(piece)] = piece
        else:
            found[at:at] = found[at : at + 64]
    return bytes(found)
