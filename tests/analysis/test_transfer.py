"""Transfer of maps: what was planted in two places, and the plain way on stacked tokens."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from dmcore.analysis.partition import Partition
from dmcore.analysis.reduction_passes import Coded
from dmcore.analysis.transfer import TransferInputs, transfer
from dmcore.analysis.transfer_places import NO_DOMAIN, Labels, Places, SaePlaces, TextPlaces, labels_of
from dmcore.errors import DataError
from dmcore.math.bootstrap import poisson_weights
from dmcore.progress import Reporter
from dmcore.results.transfer import ALL_TEXTS, KEPT, TRANSFER_TABLES, Transfer
from dmcore.sources.contexts import Contexts
from dmcore.specs import Settings
from tests.analysis.test_error_reduction import kept_rows, random, stored
from tests.analysis.test_norm_tests import CPU, LENGTH, N_CONTEXTS, SEED, SETTINGS, SKIP

D = 5
"""Of these tests: a map needs ten training tokens a weight."""
PARTITION = Partition.of(SETTINGS, N_CONTEXTS, LENGTH, SEED)
FOLDS = np.repeat(PARTITION.folds, LENGTH - SKIP)
CONTEXTS = np.repeat(np.arange(N_CONTEXTS), LENGTH - SKIP)


def weight(seed: int) -> torch.Tensor:
    return 0.4 * torch.randn(D, D, generator=torch.Generator().manual_seed(seed)).double()


def acts_of(seed: int = 0) -> torch.Tensor:
    return random(seed, D) + 0.7


def made(places: Places, names: list[str], folder: Path, by: str, settings: Settings = SETTINGS) -> Transfer:
    folder.mkdir(parents=True)
    members = tuple({"name": name, "site": "site", "layer": 0, "d_sae": D, "l0": 1.0} for name in names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transfer(TransferInputs(places, members, settings, SEED, by), folder, Reporter(), "between")
    found = Transfer.read(folder)
    for name, schema in TRANSFER_TABLES.items():
        assert found[name].schema == pl.Schema(schema), name
    return found


def of_saes(saes: list[tuple[torch.Tensor, torch.Tensor, str]], folder: Path) -> Transfer:
    """A transfer between SAEs, each x, error and site."""
    coded: list[Coded] = [stored(folder / f"in{k}", x, x - error) for k, (x, error, _) in enumerate(saes)]
    places = SaePlaces(tuple(coded), tuple(site for *_, site in saes), PARTITION, SKIP, CPU)
    return made(places, [f"sae {k}" for k in range(len(saes))], folder / "out", "sae")


def of_texts(x: torch.Tensor, error: torch.Tensor, values: np.ndarray, folder: Path) -> Transfer:
    whole = np.broadcast_to(values.reshape(len(values), -1), (N_CONTEXTS, LENGTH))[:, SKIP:]
    sizes = tuple(int((whole == k).sum()) for k in (0, 1))
    labels = Labels(("one", "two"), values, sizes, tuple(int((whole == k).any(1).sum()) for k in (0, 1)))
    places = TextPlaces(stored(folder / "in", x, x - error), labels, PARTITION, SKIP, CPU)
    return made(places, ["one", "two", ALL_TEXTS], folder / "out", "domain")


def cell(found: Transfer, fitted: int, tested: int, kept: str = "map") -> dict[str, float]:
    where = (pl.col("fitted") == fitted) & (pl.col("tested") == tested) & (pl.col("kept") == kept)
    return found["cells"].filter(where).row(0, named=True)


def plain_r2(
    fit: tuple[np.ndarray, np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray, np.ndarray],
    kept: str,
) -> tuple[float, float, float]:
    """R2 with its interval of maps fitted on some tokens and tested on others, the plain way; each x, e and mask."""
    (xa, ea, in_a), (xb, eb, in_b) = fit, test
    left = np.zeros_like(eb)
    for fold in range(SETTINGS.n_folds):
        train_a, train_b, held = in_a & (fold != FOLDS), in_b & (fold != FOLDS), in_b & (fold == FOLDS)
        ones = np.ones((len(xa), 1))
        solved = np.linalg.lstsq(np.hstack([xa, ones])[train_a], ea[train_a], rcond=None)[0]
        if kept == "map":
            left[held] = (eb - np.hstack([xb, ones]) @ solved)[held]
            continue
        predicted, about = (xb - xb[train_b].mean(0)) @ solved[:-1], eb - eb[train_b].mean(0)
        products = (predicted[train_b] * about[train_b]).sum(), np.square(predicted[train_b]).sum()
        scale = products[0] / products[1] if kept == "scaled" else 1.0
        left[held] = (about - scale * predicted)[held]
    scatter = np.square(eb - eb[in_b].mean(0)).sum(1) * in_b
    weights = np.concatenate([np.ones((1, N_CONTEXTS)), poisson_weights(N_CONTEXTS, SEED)])
    sums = [np.bincount(CONTEXTS, weights=v * in_b, minlength=N_CONTEXTS) for v in (np.square(left).sum(1), scatter)]
    drawn = 1 - (weights @ sums[0]) / (weights @ sums[1])
    return float(drawn[0]), *(float(v) for v in np.percentile(drawn[1:], [2.5, 97.5]))


@pytest.mark.parametrize("sites", [("here", "here", "there"), ("here", "there", "else")])
def test_every_cell_equals_the_plain_way(tmp_path: Path, sites: tuple[str, ...]) -> None:
    x = {site: acts_of(k) for k, site in enumerate(dict.fromkeys(sites))}
    saes = []
    for k, site in enumerate(sites):
        saes.append((x[site], x[site] @ weight(k) + 0.3 * random(20 + k, D) + 0.1 * k, site))
    found = of_saes(saes, tmp_path)
    everyone = np.ones(len(FOLDS), dtype=bool)
    rows = [(kept_rows(x), kept_rows(error), everyone) for x, error, _ in saes]
    for a in range(3):
        for b in range(3):
            for kept in KEPT:
                row = cell(found, a, b, kept)
                wanted = plain_r2(rows[a], rows[b], kept)
                assert (row["r2"], row["r2_low"], row["r2_high"]) == pytest.approx(wanted, abs=3e-6), (a, b, kept)
                own = cell(found, b, b)["r2"]
                assert row["drop"] == pytest.approx(own - row["r2"], abs=1e-9)
                assert row["relative"] == pytest.approx(row["r2"] / own, abs=1e-9)
    for b in range(3):
        assert cell(found, b, b)["relative_low"] == cell(found, b, b)["relative_high"] == 1.0
        assert cell(found, b, b, "scaled")["scale"] == pytest.approx(1.0, abs=1e-6)


def test_every_cell_between_texts_equals_the_plain_way(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(-1, 2, (N_CONTEXTS, LENGTH))  # domains change inside a context, and some tokens have none
    x = acts_of()
    error = x @ weight(1) + 0.4 * random(5, D)
    found = of_texts(x, error, values, tmp_path)
    of = values[:, SKIP:].reshape(-1)
    masks = [of == 0, of == 1, np.ones(len(of), dtype=bool)]
    rows = [(kept_rows(x), kept_rows(error), mask) for mask in masks]
    for a in range(3):
        for b in range(3):
            for kept in KEPT:
                row = cell(found, a, b, kept)
                assert (row["r2"], row["r2_low"], row["r2_high"]) == pytest.approx(
                    plain_r2(rows[a], rows[b], kept), abs=3e-6
                ), (a, b, kept)
    assert found["members"]["n_tokens"].to_list() == [int(mask.sum()) for mask in masks]
    assert found.off_diagonal("map").select("fitted", "tested").rows() == [(1, 0), (0, 1)]


def halves() -> np.ndarray:
    """Every other context."""
    return np.arange(N_CONTEXTS) % 2


def test_the_same_map_in_two_domains_transfers_whole(tmp_path: Path) -> None:
    x = acts_of()
    found = of_texts(x, x @ weight(2) + 0.2 * random(6, D), halves(), tmp_path)
    for a, b in ((0, 1), (1, 0)):
        row = cell(found, a, b)
        assert row["drop_low"] <= 0.01 and row["relative"] == pytest.approx(1.0, abs=0.03)


def test_opposite_maps_in_two_domains_make_it_worse(tmp_path: Path) -> None:
    x = acts_of()
    sign = torch.from_numpy(1.0 - 2.0 * halves())[:, None, None]
    found = of_texts(x, sign * (x @ weight(2)) + 0.2 * random(6, D), halves(), tmp_path)
    for a, b in ((0, 1), (1, 0)):
        assert cell(found, a, b)["r2_high"] < -1.0
        turned = cell(found, a, b, "scaled")
        assert turned["scale"] == pytest.approx(-1.0, abs=0.05), "the directions hold, with the other sign"
        assert turned["relative"] == pytest.approx(1.0, abs=0.03)
    assert cell(found, 2, 2)["r2_high"] < 0.1, "one map of both finds nothing"
    assert cell(found, 0, 0)["r2_low"] > 0.7


def test_a_map_of_twice_the_size_holds_up_to_one_number(tmp_path: Path) -> None:
    x = acts_of()
    saes = [(x, x @ weight(3) * k + 0.1 * random(7, D), "here") for k in (1.0, 2.0)]
    found = of_saes(saes, tmp_path)
    assert cell(found, 0, 1, "scaled")["scale"] == pytest.approx(2.0, rel=0.02)
    assert cell(found, 1, 0, "scaled")["scale"] == pytest.approx(0.5, rel=0.02)
    assert cell(found, 0, 1, "scaled")["relative"] > 0.97 > 0.85 > cell(found, 0, 1, "map")["relative"]


def test_a_shifted_error_is_missed_by_the_bias_and_met_by_the_slope(tmp_path: Path) -> None:
    x = acts_of()
    saes = [(x, x @ weight(3) + offset + 0.1 * random(7, D), "here") for offset in (0.0, 3.0)]
    found = of_saes(saes, tmp_path)
    assert cell(found, 0, 1, "map")["r2"] < -1.0
    assert cell(found, 0, 1, "slope")["relative"] > 0.97


def test_nothing_is_relative_to_a_map_that_explains_nothing(tmp_path: Path) -> None:
    x = acts_of()
    found = of_saes([(x, x @ weight(3), "here"), (x, random(8, D), "here")], tmp_path)
    assert cell(found, 0, 1)["relative"] is None and cell(found, 1, 0)["relative"] is not None
    assert any("sae 1 explains nothing" in text for text in found["remarks"]["text"])


def test_too_few_tokens_or_members_are_refused_in_a_sentence(tmp_path: Path) -> None:
    x = acts_of()
    with pytest.raises(DataError, match="nothing to transfer between"):
        of_saes([(x, 0.1 * x, "here")], tmp_path)
    values = np.full(N_CONTEXTS, NO_DOMAIN)
    values[:6], values[6:] = 0, 1
    few = np.where(np.arange(LENGTH)[None] < SKIP + 2, values[:, None], NO_DOMAIN)
    with pytest.raises(DataError, match="too few to say whether maps transfer"):
        of_texts(x, 0.1 * x, few, tmp_path / "few")


EACH = np.arange(6)
"""A fold for each of six contexts."""


def contexts_of(**more: object) -> Contexts:
    return Contexts(np.zeros((6, 10), dtype=np.uint16), "print", **more)  # type: ignore[arg-type]


def test_domains_are_the_texts_own_or_the_heads_of_their_documents() -> None:
    documents = ("a/x.py", "a/y.py", "b.py", "b.py", "c/z", "c/z")
    found = labels_of(contexts_of(documents=documents), 2, 8, EACH)
    assert (found.names, found.n_tokens, found.n_contexts) == (("a", "b.py", "c"), (16, 16, 16), (2, 2, 2))
    assert found.values.tolist() == [0, 0, 1, 1, 2, 2] and not found.said
    numbers = np.zeros((6, 10), dtype=np.uint8)
    numbers[:, 5:] = 1
    numbers[0, 9] = 2
    found = labels_of(
        contexts_of(domains=numbers, domain_names=("web", "code", "rare"), documents=documents), 2, 5, EACH
    )
    assert (found.names, found.n_tokens, found.n_contexts) == (("web", "code"), (18, 29), (6, 6))
    assert found.values[0].tolist() == [0] * 5 + [1] * 4 + [NO_DOMAIN]
    assert "1 of 3 domains have fewer than 5 training tokens" in found.said
    assert labels_of(contexts_of(), 2, 5, EACH).names == ()


def test_of_many_domains_the_largest_are_compared() -> None:
    tokens = np.zeros((40, 10), dtype=np.uint16)
    documents = (*(f"text {k // 2}" for k in range(38)), "text 5", "text 5")
    found = labels_of(Contexts(tokens, "print", documents=documents), 0, 1, np.arange(40) % 2)
    assert len(found.names) == 11 and "text 5" in found.names
    assert "the 11 largest are compared" in found.said


def test_a_domain_that_lies_in_one_fold_has_no_map_of_its_own() -> None:
    documents = ("a", "a", "a", "b", "b", "c")
    found = labels_of(contexts_of(documents=documents), 0, 10, np.array([0, 1, 2, 0, 1, 2]))
    assert found.names == ("a", "b")
    found = labels_of(contexts_of(documents=documents), 0, 10, np.array([0, 1, 2, 1, 1, 2]))
    assert found.names == ("a",) and "2 of 3 domains have fewer than 10 training tokens" in found.said
