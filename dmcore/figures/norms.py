"""The charts of the view *Norms*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dmcore.charts.latents import latents_chart, latents_table
from dmcore.charts.norm_tests import named, norm_tests_chart, norm_tests_table
from dmcore.figures.figure import Figure
from dmcore.results import Scaling
from dmcore.words.chosen import Chosen
from dmcore.words.sample import sample_words


def norm_tests_figure(chosen: Chosen, sites: Sequence[Scaling]) -> Figure:
    """The tests of norms over the SAEs of some sites."""
    record, records = chosen.record, chosen.published.records
    tests = pl.concat([named(one["norm_tests"], one.about["saes"]) for one in sites])
    return Figure(
        name="norm_tests",
        key=(record["summary_key"], *(one.folder.name for one in sites)),
        question="Whose size does a linear map know?",
        caption="Held-out R² of |v|² predicted by a linear map with a bias, for six quantities v: a dot is an SAE of the "
        f"study ({len(records)} in all), the diamond the selected one, the bar the median. Left: from x. Right: from v "
        f"itself. A sparse sum of features whose sizes are fixed has a squared norm that is linear in it; noise has not. "
        "Sae(x) + nonlinear error is x less its linear error. Linear and nonlinear error are out of fold. "
        f"{sample_words(record)}",
        chart=lambda: norm_tests_chart(tests, records, record["sae"]),
        data=lambda: norm_tests_table(tests, records),
    )


def latent_check_figure(chosen: Chosen, scaling: Scaling, latents: pl.DataFrame, check: Mapping[str, Any]) -> Figure:
    """Slope of the probe of the norm along each latent, against its size."""
    return Figure(
        name="latent_check",
        key=(chosen.record["summary_key"], scaling.folder.name),
        question="Does the probe of the norm know each latent's size?",
        caption="w: a linear probe for |Sae(x) − b|² from Sae(x) − b, where b is the decoder's bias. Vertical: its slope "
        "w·d/|d| along a latent's decoder row d. Horizontal: the latent's mean value where it is active, "
        "times |d|. If latents "
        "were orthogonal and each had one size, all would lie on the dashed line. "
        f"A dot is a latent: {len(latents)} of {check['n_latents']:,} latents that are active on 10 tokens "
        f"or more, at equal steps of frequency. {sample_words(chosen.record)}",
        chart=lambda: latents_chart(latents),
        data=lambda: latents_table(latents),
    )
