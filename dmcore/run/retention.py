"""What is not kept once it has served: the moments of an SAE, where they are large."""

from __future__ import annotations

KEPT_MOMENTS = 2**27
"""Bytes of an SAE's moments up to which they stay beside its summary. They grow with d_model squared, to 1.5 GB an SAE in
Gemma 2 9B, and one pass over the codes makes them again if another split of the same SAE is asked for."""
