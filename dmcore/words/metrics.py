"""The metrics that the views of the Scaling page can show."""

from __future__ import annotations

SURFACE_OPTIONS = {
    "fvu": "FVU",
    "fvu_nonlinear": "Nonlinear FVU",
    "r2_error": "R² of the vector",
    "r2_error_norm_sq": "R² of the squared norm",
}


FORMULAS = {
    "fvu": "FVU = Σ|x − Sae(x)|² / Σ|x − mean x|².",
    "fvu_nonlinear": "Nonlinear FVU = Σ|e − ê|² / Σ|x − mean x|².",
    "r2_error": "R² = 1 − Σ|e − ê|² / Σ|e − mean e|², pooled over tokens and dimensions.",
    "r2_error_norm_sq": "R² of |e|² predicted by a linear map of x.",
}
