"""Directions that an SAE trained on the error has learned, and that dictionaries and chance do or do not reach."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from dmcore.analysis.feature_neighbours import not_learned
from dmcore.errors import Cancelled
from dmcore.math.neighbours import DecoderRows, random_nearest
from dmcore.progress import Reporter
from dmcore.results.learned import COMPONENTS, NOT_LEARNED

D = 24


def test_planted_directions_are_told_from_new_ones() -> None:
    g = torch.Generator().manual_seed(0)
    base, wide = torch.randn(40, D, generator=g), torch.randn(200, D, generator=g)
    axes = torch.linalg.qr(torch.randn(D, D, generator=g)).Q[:3]
    new = torch.randn(1, D, generator=g)
    rows = torch.cat([2 * base[7:8], wide[150:151] + 0.05 * base[:1], -5 * axes[2:3], new, torch.zeros(1, D)])
    others = {"base": DecoderRows.of(base), "wide 200": DecoderRows.of(wide)}
    table = not_learned(DecoderRows.of(rows), others, axes, 3, Reporter())
    assert dict(table.schema) == NOT_LEARNED
    assert table["against"].to_list() == [n for n in ("base", "wide 200", COMPONENTS) for _ in range(5)]
    assert table["latent"].to_list() == [0, 1, 2, 3, 4] * 3
    planted = [("base", 0, 7), ("wide 200", 1, 150), (COMPONENTS, 2, 2)]
    above = table.filter(pl.col("cosine") > 0.9)
    assert above.select("against", "latent", "nearest").rows() == planted
    assert table.filter(latent=3).filter(pl.col("cosine") > pl.col("baseline_95") + 0.1).is_empty()
    zero = table.filter(latent=4)
    assert zero["nearest"].null_count() == zero["cosine"].null_count() == 3
    for name, other in others.items():
        chance = random_nearest(other, 3)
        own = table.filter(against=name)
        np.testing.assert_allclose(own["baseline_95"], [np.quantile(chance.numpy(), 0.95)] * 5, rtol=1e-5)
        np.testing.assert_allclose(own["baseline_mean"], [chance.numpy().mean()] * 5, rtol=1e-5)
    # Of more directions one is nearer, by chance alone.
    assert table.filter(against="wide 200")["baseline_95"][0] > table.filter(against="base")["baseline_95"][0]


def test_without_dictionaries_or_components_there_are_no_rows() -> None:
    table = not_learned(DecoderRows.of(torch.ones(2, D)), {}, None, 0, Reporter())
    assert dict(table.schema) == NOT_LEARNED
    assert table.is_empty()


def test_it_can_be_cancelled() -> None:
    rows = DecoderRows.of(torch.ones(2, D))
    with pytest.raises(Cancelled, match="nearest latents in base"):
        not_learned(rows, {"base": rows}, None, 0, Reporter(should_cancel=lambda: True))
