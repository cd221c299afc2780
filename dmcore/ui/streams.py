"""How pages tell sites apart: the names of `dmcore.words.streams`."""

from __future__ import annotations

from dmcore.words.streams import AGAIN, site_phrase, stream_name, told_apart

__all__ = ["AGAIN", "site_phrase", "stream_name", "told_apart"]
