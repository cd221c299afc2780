"""Specs as plain values for keys and files: fields that came later are left out where they have their default.

So a study written before a field existed keeps its keys, and its results.
"""

from __future__ import annotations

from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any


def added(default: Any) -> Any:
    """A field that came after the first version of its class."""
    return field(default=default, metadata={"added": True})


def spec_dict(spec: Any) -> dict[str, Any]:
    """The fields of a spec as values that JSON has; nested specs too."""
    content = {}
    for f in fields(spec):
        value = getattr(spec, f.name)
        if not f.compare or (f.metadata.get("added") and f.default is not MISSING and value == f.default):
            continue
        content[f.name] = _plain(value)
    return content


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return spec_dict(value)
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value
