"""Where the program itself lies: its checkout, what it ships, and the demo's study."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).parents[1]
"""The checkout: where app.py, pages/ and studies/ are. Commands of their own start here."""

SHIPPED_CACHE = HOME / "cache"
SHIPPED_STUDIES = HOME / "studies"
DEMO = HOME / "dmcore" / "demo" / "artifacts" / "study.toml"
