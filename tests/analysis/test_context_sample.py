"""A sample of contexts: large enough for the maps, a study of its own, and what is relative to the SAE paired on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmcore.analysis.coding_methods import coding_method
from dmcore.analysis.context_sample import TOKENS_PER_WEIGHT, at_steps, sample_of
from dmcore.analysis.encode import site_moments
from dmcore.analysis.partition import Partition
from dmcore.progress import Reporter
from dmcore.results.reduction import METRICS, ReductionSettings
from dmcore.sources.dictionary import Dictionary
from tests.analysis.test_error_reduction import found_of, given_for, stored
from tests.analysis.test_norm_tests import CPU, LENGTH, N_CONTEXTS, SKIP, acts
from tests.builders import D_MODEL, build_sae

METHODS = [coding_method(name) for name in ("encoder", "nnls_on_support", "gradient_pursuit")]
KEPT = LENGTH - SKIP
SHARES = {"error_removed": "fvu", "nonlinear_removed": "fvu_nonlinear"}


def test_a_sample_is_at_equal_steps_and_grows_until_every_map_is_determined() -> None:
    partition = Partition(np.arange(400) % 5, 5, (0,))
    assert sample_of(partition, 100, 0, 10).is_whole
    assert sample_of(partition, 100, 40, 10).contexts == tuple(at_steps(range(400), 40))
    grown = sample_of(partition, 10, 4, 33)
    per_fold = np.bincount(partition.folds[list(grown.contexts)], minlength=5)
    assert 4 < len(grown.contexts) < 130
    assert (per_fold.sum() - per_fold.max()) * 10 >= TOKENS_PER_WEIGHT * 33
    assert sample_of(partition, 1, 4, 10_000).is_whole
    one_fold = Partition(np.zeros(30, dtype=int), 5, (0,))
    assert sample_of(one_fold, 100, 4, 1).is_whole, "there would be nothing to fit on"


def test_on_a_sample_the_numbers_are_those_of_a_study_of_its_contexts(tmp_path: Path) -> None:
    x, sae = acts(), Dictionary(build_sae("topk"))
    given = given_for(stored(tmp_path / "own", x, sae=sae), methods=METHODS)
    wanted = sample_of(given.sources.partition, KEPT, 1, D_MODEL + 1)
    n = len(wanted.contexts)
    assert 1 < n < N_CONTEXTS
    found = found_of(replace(given, asked=ReductionSettings(n, 0)), tmp_path / "out")
    small = given_for(stored(tmp_path / "small", x[list(wanted.contexts)], sae=sae), methods=METHODS)
    sources = replace(small.sources, partition=wanted.partition(given.sources.partition))
    inputs = site_moments(sources.own.acts, sources.partition, CPU, Reporter(), "site")
    alone = found_of(replace(small, sources=sources, inputs=inputs), tmp_path / "out2")
    assert found.about["coding_contexts"] == n
    first = found["methods"].row(0, named=True)
    rows, others = found["methods"].tail(len(METHODS)).to_dicts(), alone["methods"].tail(len(METHODS)).to_dicts()
    for row, other in zip(rows, others, strict=True):
        assert (row["n_contexts"], row["n_tokens"], row["l0"]) == (n, n * KEPT, other["l0"])
        for metric in METRICS:
            mine = f"sample_{metric}" if metric in SHARES.values() else metric
            assert row[mine] == pytest.approx(other[metric], abs=2e-5), (row["method"], metric)
        for share, metric in SHARES.items():
            assert row[share] == pytest.approx(1 - row[f"sample_{metric}"] / row[f"own_sample_{metric}"], abs=1e-9)
            assert row[f"{share}_low"] <= row[share] <= row[f"{share}_high"]
            assert row[metric] == pytest.approx(
                first[metric] * (1 - row[share]), rel=1e-9
            )  # carried over to all tokens
            assert row[f"{metric}_low"] < row[metric] < row[f"{metric}_high"]
    assert [rows[0][f"error_removed{end}"] for end in ("", "_low", "_high")] == [0, 0, 0], "the encoder's own, paired"
    assert [rows[0][f"fvu{end}"] for end in ("", "_low", "_high")] == [
        first[f"fvu{end}"] for end in ("", "_low", "_high")
    ]
    assert (first["n_contexts"], first["n_tokens"]) == (N_CONTEXTS, N_CONTEXTS * KEPT)
    assert first["sample_fvu"] is None and rows[0]["sample_fvu"] != first["fvu"]


def test_a_sample_of_all_contexts_is_all_contexts(tmp_path: Path) -> None:
    given = given_for(stored(tmp_path / "own", acts(), sae=Dictionary(build_sae("topk"))), methods=METHODS)
    whole, all_of_them = (
        found_of(replace(given, asked=ReductionSettings(n, 0)), tmp_path / f"out{n}")["methods"]
        for n in (0, N_CONTEXTS)
    )
    assert whole.drop("seconds_per_1000").equals(all_of_them.drop("seconds_per_1000"))
    assert set(whole["n_contexts"]) == {N_CONTEXTS}
