"""The comparison of precisions: nothing where they are the same, and what a naive comparison says where they are not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import dmcore
from dmcore.analysis.activations import Activations, ActivationWriter
from dmcore.analysis.partition import Partition
from dmcore.analysis.precision import PrecisionInputs, compare_precisions
from dmcore.errors import SpecError
from dmcore.math.arithmetic import Arithmetic
from dmcore.math.sparse_codes import SparseCodes, ThresholdEncoder, decode
from dmcore.progress import Reporter
from dmcore.run.commands.precision import chosen_precisions, lines_of
from dmcore.specs import Settings

CPU, D, WIDTH, N_CONTEXTS, LENGTH = torch.device("cpu"), 12, 90, 24, 30
SKIP = 3


@dataclass
class Sae:
    """A JumpReLU SAE in a precision."""

    precision: str
    d_sae: int = WIDTH
    tokens_at_once: int = 1

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.w = torch.randn(D, WIDTH, generator=g) / 3
        threshold = torch.full((WIDTH,), 1.5)
        self.encoder = ThresholdEncoder(self.w, torch.zeros(WIDTH), threshold, Arithmetic(self.precision))

    def encode(self, x: torch.Tensor) -> SparseCodes:
        return self.encoder.encode(x)

    def decode(self, codes: SparseCodes, x: torch.Tensor) -> torch.Tensor:
        return decode(codes, self.w.T.contiguous() / 4, torch.zeros(D))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> PrecisionInputs:
    folder, g = tmp_path_factory.mktemp("acts"), torch.Generator().manual_seed(1)
    writer = ActivationWriter(folder, N_CONTEXTS, LENGTH)
    writer.write(0, torch.randn(N_CONTEXTS, LENGTH, D, generator=g))
    writer.finish()
    settings = Settings(skip_positions=SKIP, compare_skips=())
    partition = Partition.of(settings, N_CONTEXTS, LENGTH, 0)
    return PrecisionInputs(Activations(folder), partition, np.arange(N_CONTEXTS), settings, 0, CPU)


@pytest.fixture(scope="module")
def table(given: PrecisionInputs) -> pl.DataFrame:
    load = {name: (lambda name=name: Sae(name)) for name in ("float32", "tf32", "bfloat16")}
    return compare_precisions(given, load, Reporter(), "sae")


def row(table: pl.DataFrame, precision: str, number: str) -> dict:
    return table.row(by_predicate=(pl.col("precision") == precision) & (pl.col("number") == number), named=True)


def test_float32_does_not_differ_from_itself(given: PrecisionInputs, table: pl.DataFrame) -> None:
    own = table.filter(precision="float32")
    assert own["difference"].abs().max() == 0 and set(own["number"]) >= {"fvu", "r2_error", "l0", "same_supports"}
    assert row(table, "float32", "same_supports")["value"] == row(table, "float32", "in_both")["value"] == 1
    again = compare_precisions(
        given, {"float32": lambda: Sae("float32"), "twin": lambda: Sae("float32")}, Reporter(), "sae"
    )
    twin = again.filter(precision="twin")
    assert (
        twin["difference"].abs().max() == twin["difference_low"].abs().max() == twin["difference_high"].abs().max() == 0
    )


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_numbers_are_those_of_a_naive_comparison(given: PrecisionInputs, table: pl.DataFrame, precision: str) -> None:
    x = given.acts.read_all(list(given.acts.chunks()), CPU)
    kept = torch.arange(len(x)) % LENGTH >= SKIP
    dense, splits = [], []
    for name in ("float32", precision):
        sae = Sae(name)
        codes = sae.encode(x)
        out = torch.zeros(len(x), WIDTH)
        out[torch.repeat_interleave(torch.arange(len(x)), codes.l0), codes.latents.long()] = codes.values
        dense.append(out[kept] > 0)
        groups = torch.arange(len(x))[kept] // LENGTH
        splits.append(dmcore.decompose(x[kept], sae.decode(codes, x)[kept], groups=groups))
    same = float((dense[0] == dense[1]).all(1).double().mean())
    both = float((dense[0] & dense[1]).sum() / (dense[0] | dense[1]).sum())
    assert row(table, precision, "same_supports")["value"] == pytest.approx(same)
    assert row(table, precision, "in_both")["value"] == pytest.approx(both)
    assert both < 1 or precision == "tf32", "there is a difference to see"
    l0 = row(table, precision, "l0")
    assert l0["value"] == pytest.approx(float(dense[1].sum(1).double().mean()))
    assert l0["difference"] == pytest.approx(float((dense[1].sum() - dense[0].sum()) / int(kept.sum())), abs=1e-9)
    fvu = row(table, precision, "fvu")
    assert fvu["difference"] == pytest.approx(splits[1].fvu.value - splits[0].fvu.value, abs=1e-6)
    assert fvu["difference_low"] <= fvu["difference"] <= fvu["difference_high"]
    assert fvu["difference_high"] - fvu["difference_low"] < (splits[0].fvu.high - splits[0].fvu.low) / 3, "paired"


def test_the_command_says_what_it_found(table: pl.DataFrame) -> None:
    text = "\n".join(lines_of(table.to_dicts()))
    assert "bfloat16" in text and "tokens with the same active latents" in text and " to " in text
    assert "float32  " not in text
    assert chosen_precisions("bfloat16, tf32,bfloat16") == ["bfloat16", "tf32"]
    for wrong in ("float16", "", "float32"):
        with pytest.raises(SpecError, match="give tf32 or bfloat16"):
            chosen_precisions(wrong)


def test_the_command_on_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from dmcore.run.cli import main
    from tests.builders import build_study

    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    study = build_study(tmp_path / "study")
    assert main(["precision", str(study), "--contexts", "20", "--precisions", "bfloat16", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {r["number"] for r in records} >= {"fvu", "l0", "same_supports"}
    assert {r["n_contexts"] for r in records} == {20} or max(r["n_contexts"] for r in records) > 20
