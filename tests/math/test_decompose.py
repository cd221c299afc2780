"""`decompose`: planted maps come back, the identities hold, and bad input is one sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score

import dmcore
from dmcore.errors import DataError

N, D, PER_CONTEXT = 3000, 24, 50


def planted(
    seed: int = 0, *, outliers: bool = False, noise: float = 0.5, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Correlated activations, a reconstruction whose error is a planted linear map plus noise, contexts, and the map."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=g, dtype=torch.float64) @ torch.randn(D, D, generator=g, dtype=torch.float64)
    scale = torch.ones(D, dtype=torch.float64)
    if outliers:
        scale[3], scale[11] = 1000.0, 4000.0
    x = (x + 3.0) * scale
    weight = 0.05 * torch.randn(D, D, generator=g, dtype=torch.float64) / scale[:, None]
    error = x @ weight + 0.7 + noise * torch.randn(N, D, generator=g, dtype=torch.float64)
    return x.to(dtype), (x - error).to(dtype), torch.arange(N) // PER_CONTEXT, weight


def held_out_predictions(
    x: np.ndarray, y: np.ndarray, folds: np.ndarray, model: LinearRegression | Ridge
) -> np.ndarray:
    """The plain way: one scikit-learn fit a fold, on stacked data."""
    predicted = np.zeros_like(y)
    for fold in np.unique(folds):
        train = folds != fold
        predicted[~train] = model.fit(x[train], y[train]).predict(x[~train]).reshape(-1, y.shape[1])
    return predicted


@pytest.mark.parametrize("fit_bias", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 50.0])
def test_parts_and_numbers_equal_scikit_learn_on_the_stacked_data(fit_bias: bool, ridge: float) -> None:
    x, recon, groups, _ = planted()
    split = dmcore.decompose(x, recon, groups=groups, ridge=ridge, fit_bias=fit_bias)
    error = (x - recon).numpy()
    model = Ridge(alpha=ridge, fit_intercept=fit_bias) if ridge else LinearRegression(fit_intercept=fit_bias)
    predicted = held_out_predictions(x.numpy(), error, split.folds, model)
    np.testing.assert_allclose(split.linear_error.numpy(), predicted, rtol=0, atol=1e-8 * np.abs(predicted).max())
    scatter = ((x.numpy() - x.numpy().mean(0)) ** 2).sum()
    assert split.fvu.value == pytest.approx((error**2).sum() / scatter, rel=1e-10)
    assert split.fvu_nonlinear.value == pytest.approx(((error - predicted) ** 2).sum() / scatter, rel=1e-8)
    assert split.r2_error.value == pytest.approx(r2_score(error, predicted, multioutput="variance_weighted"), abs=1e-8)
    assert split.r2_error_mean_dims.value == pytest.approx(r2_score(error, predicted), abs=1e-8)
    norm_sq = (error**2).sum(1)
    norm_predicted = held_out_predictions(x.numpy(), norm_sq[:, None], split.folds, model)[:, 0]
    assert split.r2_error_norm_sq.value == pytest.approx(r2_score(norm_sq, norm_predicted), abs=1e-8)


def test_the_full_map_equals_lstsq_and_recovers_the_planted_one() -> None:
    x, recon, groups, weight = planted(noise=1e-6)
    split = dmcore.decompose(x, recon, groups=groups)
    design = torch.cat([x, torch.ones(N, 1, dtype=x.dtype)], 1)
    solution = torch.linalg.lstsq(design, x - recon).solution
    predicted = x @ split.linear_map.weight + split.linear_map.bias
    expected = design @ solution
    assert float((predicted - expected).abs().max() / expected.abs().max()) < 1e-8
    torch.testing.assert_close(split.linear_map.weight, weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(split.linear_map.bias, torch.full((D,), 0.7, dtype=x.dtype), rtol=0, atol=1e-4)


def test_float32_with_outlier_dimensions_agrees_with_float64_to_1e_4() -> None:
    x, recon, groups, _ = planted(outliers=True)
    single = dmcore.decompose(x.float(), recon.float(), groups=groups)
    exact = LinearRegression()
    error = (x.float() - recon.float()).double().numpy()
    predicted = held_out_predictions(x.float().double().numpy(), error, single.folds, exact)
    spread = predicted.std(0)
    worst = np.abs(single.linear_error.double().numpy() - predicted).max(0)
    small = np.ones(D, dtype=bool)
    small[[3, 11]] = False  # the outliers' own errors carry float32 rounding of numbers in the thousands
    assert (worst[small] / spread[small]).max() < 1e-4
    assert single.linear_error.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_and_nonlinear_error_add_up_to_the_error(dtype: torch.dtype) -> None:
    x, recon, groups, _ = planted(dtype=dtype)
    split = dmcore.decompose(x, recon, groups=groups)
    gap = (split.linear_error + split.nonlinear_error - (x - recon)).abs()
    parts = split.linear_error.abs() + split.nonlinear_error.abs()
    assert float((gap / parts).max()) <= torch.finfo(dtype).eps
    assert float((gap == 0).double().mean()) > 0.9


def test_folds_never_cut_a_context_and_every_fold_is_used() -> None:
    x, recon, groups, _ = planted()
    split = dmcore.decompose(x, recon, groups=groups, n_folds=4, seed=3)
    per_context = split.folds.reshape(-1, PER_CONTEXT)
    assert (per_context == per_context[:, :1]).all()
    assert np.unique(split.folds).tolist() == [0, 1, 2, 3]
    assert (dmcore.decompose(x, recon, groups=groups, n_folds=4, seed=4).folds != split.folds).any()


def test_group_ids_may_be_any_labels_in_any_order() -> None:
    x, recon, groups, _ = planted()
    labels = np.array([f"doc-{g}" for g in groups.tolist()])
    by_label = dmcore.decompose(x, recon, groups=labels)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    shuffled = dmcore.decompose(x[order], recon[order], groups=labels[order.numpy()])
    assert shuffled.fvu_nonlinear.value == pytest.approx(by_label.fvu_nonlinear.value, rel=1e-9)


def test_arrays_give_arrays_and_tensors_give_tensors() -> None:
    x, recon, groups, _ = planted()
    split = dmcore.decompose(x.numpy(), recon.numpy(), groups=groups.numpy())
    assert isinstance(split.linear_error, np.ndarray)
    assert isinstance(split.linear_map.weight, np.ndarray)


def test_half_precision_activations_are_computed_in_float32_or_better() -> None:
    x, recon, groups, _ = planted()
    half = dmcore.decompose(x.bfloat16(), recon.bfloat16(), groups=groups)
    same = dmcore.decompose(x.bfloat16().double(), recon.bfloat16().double(), groups=groups)
    assert half.linear_error.dtype == torch.float32
    assert half.fvu.value == pytest.approx(same.fvu.value, rel=1e-9)


def test_pure_noise_has_no_linear_part_out_of_fold() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 40, generator=g)
    recon = x - torch.randn(2000, 40, generator=g)
    split = dmcore.decompose(x, recon, groups=torch.arange(2000) // 20)
    assert split.r2_error.high < 0.0  # in sample it would be about +0.02
    assert split.fvu_nonlinear > split.fvu


def test_a_dead_sae_has_an_error_that_is_all_linear() -> None:
    x, _, groups, _ = planted()
    split = dmcore.decompose(x, x.mean(0).expand_as(x), groups=groups)
    assert split.fvu.value == pytest.approx(1.0, abs=1e-9)
    assert split.r2_error.value == pytest.approx(1.0, abs=1e-9)


def test_an_exact_reconstruction_has_no_error_and_no_r2() -> None:
    x, _, groups, _ = planted()
    split = dmcore.decompose(x, x, groups=groups)
    assert split.fvu == 0.0
    assert split.fvu_nonlinear == 0.0
    assert np.isnan(split.r2_error)
    assert np.isnan(split.r2_error_norm_sq)


def test_a_constant_dimension_changes_nothing_else() -> None:
    x, recon, groups, _ = planted()
    one = torch.full((N, 1), 123.456, dtype=x.dtype)
    with_constant = dmcore.decompose(torch.cat([x, one], 1), torch.cat([recon, one - 1.0], 1), groups=groups)
    without = dmcore.decompose(x, recon, groups=groups)
    torch.testing.assert_close(with_constant.linear_error[:, :D], without.linear_error, rtol=0, atol=1e-9)
    assert np.isnan(with_constant.r2_dims[D])
    assert with_constant.r2_error_mean_dims.value == pytest.approx(without.r2_error_mean_dims.value, abs=1e-9)
    assert bool(torch.isfinite(with_constant.linear_map.weight).all())


def test_a_repeated_dimension_gives_the_predictions_of_least_squares() -> None:
    x, recon, groups, _ = planted()
    twice, recon_twice = torch.cat([x, x[:, :1]], 1), torch.cat([recon, recon[:, :1]], 1)
    split = dmcore.decompose(twice, recon_twice, groups=groups)
    without = dmcore.decompose(x, recon, groups=groups)
    torch.testing.assert_close(split.linear_error[:, :D], without.linear_error, rtol=0, atol=1e-7)


def test_intervals_cover_the_value_and_shrink_with_more_contexts() -> None:
    x, recon, groups, _ = planted()
    many = dmcore.decompose(x, recon, groups=groups)
    few = dmcore.decompose(x[: N // 4], recon[: N // 4], groups=groups[: N // 4])
    for name in ("fvu", "fvu_nonlinear", "r2_error", "r2_error_mean_dims", "r2_error_norm_sq"):
        estimate = getattr(many, name)
        assert estimate.low < estimate.value < estimate.high
    assert few.fvu.high - few.fvu.low > many.fvu.high - many.fvu.low


BAD = {
    "shape": (lambda x, r, g: (x, r[:-1], g), "give the reconstruction of these tokens"),
    "three dimensions": (lambda x, r, g: (x[None], r[None], g), "flatten batch and position"),
    "integers": (lambda x, r, g: (x.long(), r, g), "convert it with .float()"),
    "nan in acts": (
        lambda x, r, g: (x.index_fill(0, torch.tensor([5]), torch.nan), r, g),
        "acts has NaN or infinity on 1",
    ),
    "inf in recon": (
        lambda x, r, g: (x, r.index_fill(0, torch.tensor([5]), torch.inf), g),
        "recon has NaN or infinity",
    ),
    "few tokens": (lambda x, r, g: (x[:20], r[:20], None), "set ridge above 0"),
    "one context": (lambda x, r, g: (x, r, torch.zeros_like(g)), "at least 2 contexts"),
    "three contexts": (lambda x, r, g: (x, r, g % 3), "set n_folds to 3 or fewer"),
    "groups": (lambda x, r, g: (x, r, g[:-1]), "one context id per token"),
    "no variance": (lambda x, r, g: (torch.ones_like(x), r, g), "do not vary"),
    "empty": (lambda x, r, g: (x[:0], r[:0], None), "at least 2 contexts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_that_names_the_remedy(case: str) -> None:
    change, remedy = BAD[case]
    acts, recon, groups = change(*planted()[:3])
    with pytest.raises(DataError, match=remedy.replace("(", r"\(").replace(")", r"\)")) as caught:
        dmcore.decompose(acts, recon, groups=groups)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ridge", [-1.0, float("nan"), float("inf")])
def test_an_impossible_ridge_is_refused(ridge: float) -> None:
    x, recon, groups, _ = planted()
    with pytest.raises(DataError, match="0 or above"):
        dmcore.decompose(x, recon, groups=groups, ridge=ridge)


def test_fewer_tokens_than_dimensions_are_allowed_with_a_ridge() -> None:
    x, recon, _, _ = planted()
    split = dmcore.decompose(x[:20], recon[:20], ridge=10.0)
    assert np.isfinite(split.fvu_nonlinear)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_norm_that_varies_by_rounding_alone_has_no_r2(dtype: type) -> None:
    rng = np.random.default_rng(0)
    h, groups = rng.normal(size=(2000, 16)) @ rng.normal(size=(16, 16)), np.arange(2000) // 20
    x = ((h - h.mean(1, keepdims=True)) / h.std(1, keepdims=True)).astype(dtype)  # a normalised site
    dead = dmcore.decompose(x, 0 * x, groups=groups)  # |e|^2 = 16 for every token
    assert np.isnan(dead.r2_error_norm_sq) and np.isnan(dead.r2_error_norm_sq.low)
    assert np.isnan(dmcore.decompose(x, x - dtype(0.5), groups=groups).r2_error_norm_sq)
    # An error whose norm does vary keeps its number, be it small: it is in proportion to the error.
    small = {np.float32: 1e-3, np.float64: 1e-9}[dtype]
    error = (rng.normal(size=x.shape) * np.abs(x)).astype(dtype)
    whole, scaled = (dmcore.decompose(x, x - dtype(size) * error, groups=groups) for size in (1.0, small))
    assert np.isfinite(whole.r2_error_norm_sq)
    np.testing.assert_allclose(scaled.r2_error_norm_sq, whole.r2_error_norm_sq, rtol=0, atol=2e-3)


def test_whole_numbers_of_numpy_are_seeds_and_folds(unchecked: None) -> None:
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(400, 6)), np.arange(400) // 20
    recon = 0.8 * x + 0.1 * rng.normal(size=x.shape)
    plain = dmcore.decompose(x, recon, groups=groups, seed=3, n_folds=4)
    other = dmcore.decompose(x, recon, groups=groups, seed=np.int64(3), n_folds=np.int32(4))
    assert (other.fvu, other.fvu.low, other.fvu.high) == (plain.fvu, plain.fvu.low, plain.fvu.high)


def test_tensors_that_hold_no_numbers_of_their_own_are_sentences() -> None:
    x = torch.randn(100, 4, dtype=torch.float64)
    for wrong, said in (
        (x.to_sparse(), "give a dense one"),
        (x.to("meta"), "give a dense one that holds its numbers"),
        (x.to(torch.float8_e4m3fn), r"convert it with .float\(\)"),
        (x[:0], "There are no tokens"),
        (x * 1e77, "has values above 1e\\+70"),
    ):
        with pytest.raises(DataError, match=said):
            dmcore.decompose(wrong, wrong if wrong.is_meta or not len(wrong) else x)
