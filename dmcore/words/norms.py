"""What the view *Norms* says in sentences, made from the numbers."""

from __future__ import annotations

from dmcore.charts.norm_tests import QUANTITY_NAMES
from dmcore.charts.numbers import number
from dmcore.results import Scaling
from dmcore.words.scaling import triple


def norms_sentence(scaling: Scaling, sae: int) -> str:
    """The selected SAE's numbers."""
    rows = {row["quantity"]: row for row in scaling["norm_tests"].filter(sae=sae, predictor="x").to_dicts()}
    told = [
        f"{QUANTITY_NAMES[q]} {number(*triple(rows[q], 'r2'))}"
        for q in ("x", "recon", "error", "linear", "nonlinear")
        if q in rows
    ]
    return f"Selected SAE, R² of the squared norm from x: {', '.join(told)}." if told else ""
