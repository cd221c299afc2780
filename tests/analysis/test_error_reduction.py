"""What reduces an SAE's error equals the plain way on stacked tokens, and finds what was planted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dmcore.analysis.activations import Activations, ActivationWriter
from dmcore.analysis.codes import CodesWriter
from dmcore.analysis.coding_methods import CodingProblem, Method, coding_method
from dmcore.analysis.encode import site_moments
from dmcore.analysis.error_reduction import ReductionInputs, error_reduction
from dmcore.analysis.partition import Partition
from dmcore.analysis.reduction_methods import subsets_of
from dmcore.analysis.reduction_passes import Coded, TokenSources
from dmcore.analysis.unit_sums import UnitSums
from dmcore.errors import Cancelled, DataError
from dmcore.math.bootstrap import poisson_weights
from dmcore.math.sparse_codes import SparseCodes, codes_from_dense
from dmcore.progress import Progress, Reporter
from dmcore.results.reduction import METRICS, REDUCTION_TABLES, Reduction
from dmcore.sources.dictionary import Dictionary
from dmcore.specs import Settings
from tests.analysis.test_norm_tests import CPU, LENGTH, N_CONTEXTS, SEED, SETTINGS, SKIP, acts
from tests.builders import D_MODEL, build_sae

ROLES = ("previous", "mlp", "attention")
Arrays = dict[str, np.ndarray]


@dataclass
class Given:
    """A reconstruction that is its own code."""

    d_in: int
    d_sae: int

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


def stored(folder: Path, x: torch.Tensor, recon: torch.Tensor | None = None, sae: Dictionary | None = None) -> Coded:
    """Activations and codes on disk: of a reconstruction, or those of an SAE."""
    for name in ("acts", "codes"):
        (folder / name).mkdir(parents=True)
    writer = ActivationWriter(folder / "acts", x.shape[0], x.shape[1])
    writer.write(0, x)
    writer.finish()
    found = Activations(folder / "acts")
    sae = sae or Dictionary(Given(x.shape[2], x.shape[2]))
    codes = CodesWriter(folder / "codes", sae.d_sae)
    for chunk in found.chunks():
        rows = found.read(chunk, CPU)
        made = sae.encode(rows) if recon is None else codes_from_dense(recon.flatten(0, 1)[chunk.rows].float())
        codes.append(made, chunk)
    codes.close()
    return Coded(found, sae, folder / "codes")


def given_for(
    own: Coded, earlier: Sequence[Coded] = (), settings: Settings = SETTINGS, methods: Sequence[Any] = ()
) -> ReductionInputs:
    partition = Partition.of(settings, own.acts.n_contexts, own.acts.length, SEED)
    by_role = dict(zip(ROLES, earlier, strict=False))
    sources = TokenSources(own, by_role, partition, settings.skip_positions, CPU)
    inputs = site_moments(own.acts, partition, CPU, Reporter(), "site")
    parts = tuple(
        {"role": role, "sae": role, "site": role, "d_sae": 8, "l0": 3.0, "summary_key": role} for role in by_role
    )
    return ReductionInputs(sources, inputs, settings, SEED, tuple(methods), parts, 5.0)


def found_of(given: ReductionInputs, folder: Path) -> Reduction:
    """The reduction, with every warning an error."""
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error_reduction(given, folder, Reporter(), "sae")
    assert {path.name for path in folder.iterdir()} == {"about.json", *(f"{name}.parquet" for name in REDUCTION_TABLES)}
    return Reduction.read(folder)


def random(seed: int, width: int = D_MODEL) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(N_CONTEXTS, LENGTH, width, generator=g).double()


def plain(design: np.ndarray, target: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Least-squares prediction of all rows by a fit on some, with a bias."""
    ones = np.ones((len(design), 1))
    augmented = np.hstack([design, ones])
    return augmented @ np.linalg.lstsq(augmented[train], target[train], rcond=None)[0]


def kept_rows(tensor: torch.Tensor) -> np.ndarray:
    return tensor[:, SKIP:].flatten(0, 1).double().numpy()


class Plain:
    """Every number the plain way: stacked tokens, one regression after the other, and a loop over replicates."""

    def __init__(self, given: ReductionInputs, x: torch.Tensor, recon: torch.Tensor, inputs: Sequence[torch.Tensor]):
        self.x, self.e = kept_rows(x), kept_rows(x - recon)
        self.z = dict(zip(ROLES, (kept_rows(one) for one in inputs), strict=False)) | {"x": self.x}
        self.contexts = np.repeat(np.arange(N_CONTEXTS), LENGTH - SKIP)
        self.folds = given.sources.partition.folds[self.contexts]
        self.weights = np.concatenate([np.ones((1, N_CONTEXTS)), poisson_weights(N_CONTEXTS, SEED)])

    def over_folds(self, left: Any) -> tuple[np.ndarray, np.ndarray]:
        """Error and nonlinear error after a method; `left(train)` is the error that it leaves, fitted on some tokens."""
        after, nonlinear = np.zeros_like(self.e), np.zeros_like(self.e)
        for fold in np.unique(self.folds):
            train, test = self.folds != fold, self.folds == fold
            error = left(train)
            after[test] = error[test]
            nonlinear[test] = (error - plain(self.x, error, train))[test]
        return after, nonlinear

    def numbers(self, left: Any) -> Arrays:
        """Value and replicates of each metric."""
        own, own_nonlinear = (v for v in self.over_folds(lambda _: self.e))
        error, nonlinear = self.over_folds(left)
        norm = np.square(error).sum(1)
        predicted = np.zeros_like(norm)
        for fold in np.unique(self.folds):
            train = self.folds != fold
            predicted[~train] = plain(self.x, norm, train)[~train]
        sums = {
            "x": np.square(self.x - self.x.mean(0)).sum(1),
            "own": np.square(own).sum(1),
            "own_nonlinear": np.square(own_nonlinear).sum(1),
            "error": norm,
            "nonlinear": np.square(nonlinear).sum(1),
            "scatter": np.square(error - error.mean(0)).sum(1),
            "residual": np.square(norm - predicted),
            "norm": np.square(norm - norm.mean()),
        }
        by_context = {name: np.bincount(self.contexts, weights=v) for name, v in sums.items()}
        of = {name: np.array([w @ v for w in self.weights]) for name, v in by_context.items()}
        return {
            "fvu": of["error"] / of["x"],
            "fvu_nonlinear": of["nonlinear"] / of["x"],
            "error_removed": 1 - of["error"] / of["own"],
            "nonlinear_removed": 1 - of["nonlinear"] / of["own_nonlinear"],
            "r2_error": 1 - of["nonlinear"] / of["scatter"],
            "r2_error_norm_sq": 1 - of["residual"] / of["norm"],
        }

    def rescaled(self, per_dimension: bool) -> Any:
        def left(train: np.ndarray) -> np.ndarray:
            recon = self.x - self.e
            mean = recon[train].mean(0)
            a, b = self.x[train] - self.x[train].mean(0), recon[train] - mean
            axis = 0 if per_dimension else None
            return self.x - mean - (a * b).sum(axis) / np.square(b).sum(axis) * (recon - mean)

        return left

    def skip(self, rank: int) -> Any:
        def left(train: np.ndarray) -> np.ndarray:
            predicted = plain(self.x, self.e, train)
            mean = predicted[train].mean(0)
            _, _, right = np.linalg.svd(predicted[train] - mean, full_matrices=False)
            return self.e - mean - (predicted - mean) @ right[:rank].T @ right[:rank]

        return left

    def added(self, names: Sequence[str]) -> Any:
        return lambda train: self.e - plain(np.hstack([self.z[name] for name in names]), self.e, train)

    def r2(self, names: Sequence[str], target: str) -> np.ndarray:
        design = np.hstack([self.z[name] for name in names])
        residual, actual = np.zeros_like(self.e), np.zeros_like(self.e)
        for fold in np.unique(self.folds):
            train, test = self.folds != fold, self.folds == fold
            linear = plain(self.x, self.e, train)
            y = {"error": self.e, "linear": linear, "nonlinear": self.e - linear}[target]
            residual[test], actual[test] = (y - plain(design, y, train))[test], y[test]
        scatter = np.square(actual - actual.mean(0)).sum(1)
        left, whole = (np.bincount(self.contexts, weights=v) for v in (np.square(residual).sum(1), scatter))
        return np.array([1 - (w @ left) / (w @ whole) for w in self.weights])


def assert_interval(row: dict[str, Any], name: str, numbers: np.ndarray, tolerance: float) -> None:
    low, high = np.percentile(numbers[1:], [2.5, 97.5])
    found = [row[f"{name}{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([numbers[0], low, high], abs=tolerance), (row.get("method"), name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reduction, Plain]:
    folder = tmp_path_factory.mktemp("reduction")
    x, sae = acts(dtype=torch.float64), Dictionary(build_sae("topk"))
    own = stored(folder / "own", x, sae=sae)
    recon = sae.decode(sae.encode(x.flatten(0, 1)), x.flatten(0, 1)).double().reshape(x.shape)
    # Earlier components that are there in the error, whole or in part, or not at all; one is of another width.
    inputs = [(x - recon + random(1)).float(), recon[..., :5].pow(2).float(), random(2, 3).float()]
    earlier = [
        stored(folder / f"earlier{k}", random(k, one.shape[2]).float(), one) for k, one in enumerate(inputs, start=5)
    ]
    given = given_for(own, earlier)
    return found_of(given, folder / "out"), Plain(given, x, recon, [one.double() for one in inputs])


def test_every_number_and_paired_interval_equals_the_plain_way(made: tuple[Reduction, Plain]) -> None:
    found, way = made
    lefts = {"encoder": lambda _: way.e}
    lefts |= {"shrinkage_scalar": way.rescaled(False), "shrinkage_diagonal": way.rescaled(True)}
    lefts |= {f"skip_{rank}": way.skip(rank) for rank in (1, 2, 4, 8, 16)}
    lefts |= {f"earlier_{'+'.join(names)}": way.added(names) for names in subsets_of(ROLES)}
    assert found["methods"]["method"].to_list() == list(lefts)
    for name in lefts:
        row, numbers = found.method(name), way.numbers(lefts[name])
        for metric in METRICS:
            assert_interval(row, metric, numbers[metric], 1e-5)


def test_regressions_equal_the_plain_way(made: tuple[Reduction, Plain]) -> None:
    found, way = made
    assert len(found["regressions"]) == 3 * len(subsets_of(ROLES)) == 24
    for names in subsets_of(ROLES):
        for target in ("error", "linear", "nonlinear"):
            row = found.r2("+".join(names), target)
            assert row is not None
            if (names[-1], target) != ("x", "linear"):
                assert_interval(row, "r2", way.r2(names, target), 1e-6)
            else:
                assert row["r2"] == pytest.approx(1.0, abs=1e-9)


def test_the_curve_over_ranks_meets_the_methods_and_the_nonlinear_error(made: tuple[Reduction, Plain]) -> None:
    found, _ = made
    ranks = {row["rank"]: row for row in found["ranks"].to_dicts()}
    assert list(ranks) == list(range(D_MODEL + 1))
    for rank in (1, 2, 4, 8, 16):
        row = found.method(f"skip_{rank}")
        assert row["rank"] == rank
        for name in ("fvu", "fvu_low", "fvu_high", "error_removed", "parameters_added"):
            assert ranks[rank][name] == pytest.approx(row[name], rel=1e-9)
        assert row["nonlinear_removed"] == 0.0
    assert ranks[D_MODEL]["fvu"] == pytest.approx(found.method("encoder")["fvu_nonlinear"], rel=1e-9)


def test_what_is_added_is_counted(made: tuple[Reduction, Plain]) -> None:
    found, _ = made
    counted = {row["method"]: (row["parameters_added"], row["extra_l0"]) for row in found["methods"].to_dicts()}
    d = D_MODEL
    assert counted["encoder"] == (0, 0.0)
    assert (counted["shrinkage_scalar"], counted["shrinkage_diagonal"]) == ((1, 0.0), (d, 0.0))
    assert counted["skip_4"] == (8 * d, 0.0)
    assert counted["skip_16"] == (d * d, 0.0)
    assert counted["earlier_mlp"] == (5 * d, 3.0)
    assert counted["earlier_previous+mlp+attention+x"] == ((d + 5 + 3 + d) * d, 9.0)
    assert found.method("earlier_mlp")["title"] == "Regression on the layer's MLP"
    assert found.method("skip_16")["title"] == "Affine skip, full rank"


def test_an_error_that_is_linear_of_rank_two_is_removed_by_rank_two(tmp_path: Path) -> None:
    x = random(0)
    low = 0.3 * random(1)[0, 0, :, None] @ random(2)[0, :1, :] + 0.4 * random(3)[0, 0, :, None] @ random(4)[0, :1, :]
    found = found_of(given_for(stored(tmp_path / "own", x, x - x @ low - 0.2)), tmp_path / "out")
    assert found.method("encoder")["fvu"] > 0.05
    assert found.method("skip_1")["error_removed"] < 0.999
    for name in ("skip_2", "skip_4", "skip_16"):
        assert found.method(name)["error_removed"] == pytest.approx(1.0, abs=1e-9)
    row = found.method("encoder")
    assert row["r2_error"] == pytest.approx(1.0, abs=1e-9)
    assert row["nonlinear_removed"] is None
    assert "linear in x up to rounding" in found["remarks"]["text"][0]


def test_shrinkage_that_was_planted_is_undone_and_no_more(tmp_path: Path) -> None:
    x = random(0)
    found = found_of(given_for(stored(tmp_path / "own", x, 0.7 * x + 0.05 * random(1))), tmp_path / "out")
    row = found.method("shrinkage_scalar")
    assert row["fvu"] == pytest.approx((0.05 / 0.7) ** 2, rel=0.05)
    assert row["nonlinear_removed"] == pytest.approx(1 - 1 / 0.7**2, rel=0.05), "noise grows with what it is in"


def test_moments_that_do_not_fit_in_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, mlp = stored(tmp_path / "own", random(0), random(1)), stored(tmp_path / "mlp", random(2), random(3))
    monkeypatch.setattr("dmcore.analysis.reduction_passes.available_memory", lambda _: 1000)
    with pytest.raises(DataError, match="GiB are free: give it more memory.$"):
        found_of(given_for(own, [mlp]), tmp_path / "one")
    with pytest.raises(DataError, match="or name fewer components with --earlier"):
        found_of(given_for(own, [mlp, mlp]), tmp_path / "two")


def test_a_planted_dependence_on_an_earlier_component_is_found_with_its_share(tmp_path: Path) -> None:
    x, there, not_there = random(0), random(1, 6), random(2, 6)
    mix = random(3)[0, :6, :] * 0.1
    shared = there @ mix
    noise = random(4) * shared.std() * (2 / 3) ** 0.5
    own = stored(tmp_path / "own", x, x - 0.2 * x.flip(2) - shared - noise)
    earlier = [stored(tmp_path / f"earlier{k}", one.float(), one) for k, one in enumerate((there, not_there))]
    found = found_of(given_for(own, earlier), tmp_path / "out")
    for name in ("earlier_previous", "earlier_previous+mlp", "earlier_previous+mlp+x"):
        row = found.method(name)
        assert row["nonlinear_removed"] == pytest.approx(0.6, abs=0.02)
        assert row["nonlinear_removed_low"] < row["nonlinear_removed"] < row["nonlinear_removed_high"]
    r2 = {target: found.r2("previous", target)["r2"] for target in ("error", "linear", "nonlinear")}
    assert r2["nonlinear"] == pytest.approx(0.6, abs=0.02)
    assert abs(r2["linear"]) < 0.01 < r2["error"] < 0.6
    assert abs(found.method("earlier_mlp")["nonlinear_removed"]) < 0.01
    assert abs(found.r2("mlp", "nonlinear")["r2"]) < 0.01
    assert found.method("earlier_mlp")["nonlinear_removed"] < 0, "in noise there is nothing, and held out it costs"


def test_coding_methods_are_run_split_and_timed(tmp_path: Path) -> None:
    x, sae = acts(), Dictionary(build_sae("topk"))
    own = stored(tmp_path / "own", x, sae=sae)
    seen = []

    def halved(problem: CodingProblem) -> SparseCodes:
        seen.append(problem.x.shape[0])
        return SparseCodes(problem.own.offsets, problem.own.latents, problem.own.values / 2)

    methods = [coding_method("encoder"), Method("halved", "Half", "us", halved), coding_method("nnls_on_support")]
    found = found_of(given_for(own, methods=methods), tmp_path / "out")
    rows = [row for row in found["methods"].to_dicts() if row["kind"] == "coding"]
    assert [row["method"] for row in rows] == ["encoder", "halved", "nnls_on_support"]
    assert sum(seen) == N_CONTEXTS * (LENGTH - SKIP), "tokens at skipped positions are not coded"
    before = found["methods"].row(0, named=True)
    for metric in METRICS:
        for end in ("", "_low", "_high"):
            assert rows[0][f"{metric}{end}"] == pytest.approx(before[f"{metric}{end}"], abs=1e-5), metric
    halves = [kept_rows(x - sae.decode(codes, x.flatten(0, 1)).reshape(x.shape)) for codes in [_halved(sae, x)]]
    rows_x = kept_rows(x)
    assert rows[1]["fvu"] == pytest.approx(
        np.square(halves[0]).sum() / np.square(rows_x - rows_x.mean(0)).sum(), rel=1e-4
    )
    assert rows[1]["l0"] == pytest.approx(rows[0]["l0"])
    assert rows[2]["fvu"] < before["fvu"] and rows[2]["error_removed_low"] > 0
    assert all(row["seconds_per_1000"] > 0 and row["parameters_added"] == 0 for row in rows)


def _halved(sae: Dictionary, x: torch.Tensor) -> SparseCodes:
    codes = sae.encode(x.flatten(0, 1))
    return SparseCodes(codes.offsets, codes.latents, codes.values / 2)


def test_a_method_that_fails_is_named_and_the_others_stay(tmp_path: Path) -> None:
    own = stored(tmp_path / "own", acts(), sae=Dictionary(build_sae("topk")))
    bad = Method("bad", "Bad", "us", lambda p: SparseCodes(p.own.offsets, p.own.latents, p.own.values * float("nan")))
    found = found_of(given_for(own, methods=[bad, coding_method("nnls_on_support")]), tmp_path / "out")
    assert found["methods"]["method"].to_list()[-1] == "nnls_on_support"
    assert found["remarks"].row(0)[0] == "coding" and "bad gave NaN" in found["remarks"]["text"][0]


def test_a_dictionary_without_rows_has_no_other_codes_and_says_so(tmp_path: Path) -> None:
    x = random(0)
    own = stored(tmp_path / "own", x, x + 0.1 * random(1))
    found = found_of(given_for(own, methods=[coding_method("matching_pursuit")]), tmp_path / "out")
    assert "coding" not in found["methods"]["kind"].to_list()
    assert "not a sum of decoder rows" in found["remarks"]["text"][0]


@pytest.mark.parametrize(("share", "said"), [(1.0, "nothing to remove"), (0.0, "no nonlinear error")])
def test_an_exact_and_a_dead_sae_have_nulls_with_a_sentence(share: float, said: str, tmp_path: Path) -> None:
    x = random(0).float()
    own = stored(tmp_path / "own", x, share * x)  # at 0 no latent is ever active: L0 0
    found = found_of(given_for(own), tmp_path / "out")
    row = found.method("encoder")
    assert row["fvu"] == pytest.approx(1.0 - share, abs=1e-3)
    assert row["nonlinear_removed"] is None
    assert said in found["remarks"]["text"][0]
    for table in ("methods", "ranks", "regressions"):
        for column in found[table].select(p for p, t in found[table].schema.items() if t.is_float()):
            assert bool((column.is_null() | column.is_finite()).all())


def test_inputs_too_wide_for_the_tokens_are_left_out_with_a_sentence(tmp_path: Path) -> None:
    few = Settings(skip_positions=0, n_folds=2, compare_skips=())
    x = random(0)[:2, :20]
    own = stored(tmp_path / "own", x, x + 0.1 * random(1)[:2, :20])
    wide = random(2, 30)[:2, :20].float()
    found = found_of(given_for(own, [stored(tmp_path / "earlier", wide, wide)], few), tmp_path / "out")
    assert "earlier" not in found["methods"]["kind"].to_list()
    assert "has 31 weights a dimension, but 20 training tokens" in found["remarks"]["text"][0]
    assert found.method("skip_16")["fvu"] > 0
    with pytest.raises(DataError, match="least squares has no single answer"):
        found_of(given_for(stored(tmp_path / "short", x[:, :8], x[:, :8]), settings=few), tmp_path / "out2")


def test_ridge_and_no_bias_are_those_of_the_study(tmp_path: Path) -> None:
    x, sae = acts(dtype=torch.float64), Dictionary(build_sae("topk"))
    settings = Settings(skip_positions=SKIP, compare_skips=(), ridge=50.0, fit_bias=False)
    own = stored(tmp_path / "own", x, sae=sae)
    found = found_of(given_for(own, settings=settings), tmp_path / "out")
    plain_settings = found_of(given_for(own), tmp_path / "out2")
    full, own_row = found.method("skip_16"), found.method("encoder")
    assert full["fvu"] == pytest.approx(own_row["fvu_nonlinear"], rel=1e-9)
    assert own_row["fvu_nonlinear"] != pytest.approx(plain_settings.method("encoder")["fvu_nonlinear"], rel=1e-6)


def test_it_can_be_cancelled_and_leaves_no_codes_behind(tmp_path: Path) -> None:
    own = stored(tmp_path / "own", acts(), sae=Dictionary(build_sae("topk")))
    seen: list[str] = []

    def sink(progress: Progress) -> None:
        seen.append(progress.stage)

    (tmp_path / "out").mkdir()
    stop = Reporter(sink, lambda: bool(seen) and seen[-1].startswith("split by"))
    with pytest.raises(Cancelled):
        error_reduction(given_for(own, methods=[coding_method("matching_pursuit")]), tmp_path / "out", stop, "sae")
    assert list((tmp_path / "out").iterdir()) == []


def test_sums_over_units_are_those_of_numpy() -> None:
    sums, g = UnitSums(2500, 2), np.random.default_rng(0)
    contexts, values = g.integers(0, 2500, 4000), g.standard_normal((4000, 2))
    for some in (slice(0, 1500), slice(1500, 4000)):
        sums.add(torch.from_numpy(contexts[some]), torch.from_numpy(values[some]))
    for column in range(2):
        expected = np.bincount(contexts % 2000, weights=values[:, column], minlength=2000)
        np.testing.assert_allclose(sums.sums[:, column], expected, atol=1e-12)
