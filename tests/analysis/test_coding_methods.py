"""Coding methods: each one codes, none reconstructs worse than it should, and a lab can add its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dmcore.analysis import coding_methods as methods
from dmcore.analysis.coding_methods import CodingProblem, DictionaryAtoms, coding_method, register_method
from dmcore.errors import DataError, SpecError
from dmcore.math.sparse_codes import SparseCodes, decode
from dmcore.sources.dictionary import Dictionary
from dmcore.sources.sae_layouts import open_weights
from dmcore.sources.sliced_dictionary import SlicedDictionary
from tests.builders import build_sae

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture
def problem() -> CodingProblem:
    sae = Dictionary(build_sae("topk", HOOK))
    x = torch.randn(60, sae.d_in, generator=torch.Generator().manual_seed(0))
    return CodingProblem.of(x, sae, DictionaryAtoms(sae, x))


def left(problem: CodingProblem, codes: SparseCodes) -> float:
    rows = problem.dictionary.atoms.rows(torch.arange(problem.dictionary.atoms.d_sae)[None])[0]
    return float((problem.x - decode(codes, rows, problem.dictionary.bias)).square().sum())


@pytest.mark.parametrize("name", [method.name for method in methods.coding_methods()])
def test_each_method_codes_within_the_targets(name: str, problem: CodingProblem) -> None:
    method = coding_method(name)
    assert isinstance(method, methods.CodingMethod)
    assert method.title
    assert method.source
    codes = method.code(problem)
    assert codes.offsets.numel() == 61
    assert bool((codes.l0 <= problem.targets).all())
    assert bool((codes.values > 0).all())


def test_least_squares_never_loses_to_the_encoder_whose_support_it_has(problem: CodingProblem) -> None:
    own, refitted, orthogonal, matching = (
        left(problem, coding_method(name).code(problem))
        for name in (methods.OWN, "nnls_on_support", "orthogonal_matching_pursuit", "matching_pursuit")
    )
    assert refitted <= own
    assert orthogonal < matching < own


def test_the_encoders_own_codes_come_first_and_are_its_own(problem: CodingProblem) -> None:
    assert methods.coding_methods()[0].name == methods.OWN
    assert coding_method(methods.OWN).code(problem) is problem.own


def test_an_sae_on_disk_gives_the_same_codes(tmp_path: Path) -> None:
    sae = build_sae("standard", HOOK)
    sae.save_model(tmp_path)
    whole, sliced = Dictionary(sae), SlicedDictionary(open_weights(tmp_path))
    x = torch.randn(30, whole.d_in, generator=torch.Generator().manual_seed(0))
    for name in ("gradient_pursuit", "nnls_on_support"):
        a, b = (coding_method(name).code(CodingProblem.of(x, one, DictionaryAtoms(one, x))) for one in (whole, sliced))
        assert torch.equal(a.latents, b.latents)
        torch.testing.assert_close(a.values, b.values)


def test_a_lab_adds_its_own(monkeypatch: pytest.MonkeyPatch, problem: CodingProblem) -> None:
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))

    def halved(problem: CodingProblem) -> SparseCodes:
        return SparseCodes(problem.own.offsets, problem.own.latents, problem.own.values / 2)

    added = register_method("halved", "Half of the encoder's", "our lab", halved)
    assert methods.coding_methods()[-1] is added
    torch.testing.assert_close(coding_method("halved").code(problem).values, problem.own.values / 2)
    with pytest.raises(SpecError, match="already"):
        register_method("halved", "Again", "our lab", halved)
    register_method("halved", "Again", "our lab", halved, replace=True)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (SparseCodes(torch.zeros(3).long(), torch.zeros(0).long(), torch.zeros(0)), "2 tokens for 60"),
        (SparseCodes(torch.ones(61).long(), torch.tensor([10**6]), torch.ones(1)), "not among the SAE's"),
        (SparseCodes(torch.ones(61).long(), torch.tensor([0]), torch.tensor([torch.nan])), "NaN"),
    ],
)
def test_codes_that_cannot_be_are_refused(codes: SparseCodes, message: str, problem: CodingProblem) -> None:
    with pytest.raises(DataError, match=message):
        methods.Method("mine", "Mine", "our lab", lambda _: codes).code(problem)


def test_an_unknown_method_and_an_sae_without_rows_say_what_to_do() -> None:
    with pytest.raises(SpecError, match="choose one of encoder"):
        coding_method("lasso")
    sae = Dictionary(build_sae("standard", HOOK, normalize_activations="layer_norm"))
    with pytest.raises(DataError, match="not a sum of decoder rows"):
        DictionaryAtoms(sae, torch.ones(1, sae.d_in))
