"""Clusters of tokens with a large error: planted ones are found, none is claimed in a Gaussian; contents by brute force."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score

from dmcore.analysis.activations import Chunk
from dmcore.analysis.cluster_contents import Texts, at_most, cluster_rows, commonest, silhouette_rows
from dmcore.analysis.error_clusters import (
    APART,
    Found,
    HighVectors,
    centres_of,
    clustered,
    find_clusters,
    gaussian_units,
    nearest_rows,
    unit_rows,
)
from dmcore.analysis.error_spectra import PartMoments
from dmcore.analysis.structure import _said
from dmcore.math.top_values import cut_largest

LENGTH = 20


class Rows:
    """A decoder, and nothing else."""

    def __init__(self, rows: np.ndarray | None, d_in: int, d_sae: int) -> None:
        self.rows, self.d_in, self.d_sae = rows, d_in, d_sae

    def decoder_rows(self, first: int, last: int) -> torch.Tensor | None:
        return None if self.rows is None else torch.from_numpy(self.rows[first:last])


def part_of(rows: np.ndarray, n_groups: int = 5, smallest: float = 1e-12) -> PartMoments:
    """Moments of some vectors, groups of equal size in their order."""
    augmented = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    grams = np.stack([some.T @ some for some in np.array_split(augmented, n_groups)])
    return PartMoments("error", torch.from_numpy(grams), torch.zeros(rows.shape[1]).double(), smallest)


def high_of(rows: np.ndarray, n: int, per_chunk: int = 7) -> HighVectors:
    """The vectors with the largest norm, read in chunks of whole contexts."""
    squares = np.square(rows).sum(1).astype(np.float32)
    found = HighVectors(cut_largest(lambda: iter([squares]), lambda _: n))
    for first in range(0, len(rows) // LENGTH, per_chunk):
        chunk = Chunk(first, min(per_chunk, len(rows) // LENGTH - first), LENGTH)
        found.add(chunk, squares[chunk.rows], torch.from_numpy(rows[chunk.rows]))
    return found


def planted(seed: int = 0, n: int = 3000, d: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian tokens of which a tenth are long, and near one of three directions; their cluster, else -1."""
    g = np.random.default_rng(seed)
    rows = g.standard_normal((n, d))
    of_token = np.where(g.random(n) < 0.1, g.choice(3, n, p=[0.5, 0.3, 0.2]), -1)
    directions = np.linalg.qr(g.standard_normal((d, 3)))[0].T
    rows[of_token >= 0] += 20.0 * directions[of_token[of_token >= 0]]
    return rows, of_token


def test_planted_clusters_are_found_with_their_number_and_members() -> None:
    rows, of_token = planted()
    high = high_of(rows, int((of_token >= 0).sum()))
    np.testing.assert_array_equal(high.tokens, np.flatnonzero(of_token >= 0))
    found = find_clusters(high, part_of(rows), seed=0)
    assert isinstance(found, Found) and found.chosen is not None
    assert found.clustering.ks[found.chosen] == 3
    labels = found.clustering.labels[found.chosen]
    assert adjusted_rand_score(of_token[high.tokens], labels) == 1.0
    assert (np.diff(np.bincount(labels)) <= 0).all()
    chosen = [row["k"] for row in silhouette_rows("error", found) if row["chosen"]]
    assert chosen == [3]


@pytest.mark.parametrize("mean", [0.0, 2.0])
@pytest.mark.parametrize("spectrum", ["flat", "steep", "one", "few_dimensions"])
def test_no_clusters_are_claimed_in_a_gaussian_though_its_longest_vectors_are_at_its_two_ends(
    spectrum: str, mean: float
) -> None:
    d = 4 if spectrum == "few_dimensions" else 24
    scale = {"flat": np.ones(d), "steep": 0.8 ** np.arange(d), "one": np.where(np.arange(d) == 0, 6.0, 1.0)}
    for seed in range(2):
        g = np.random.default_rng(seed)
        rows = g.standard_normal((6000, d)) * scale.get(spectrum, np.ones(d)) + mean * np.eye(d)[1]
        found = find_clusters(high_of(rows, 400), part_of(rows), seed=0)
        assert isinstance(found, Found)
        assert found.chosen is None
        if spectrum == "one":  # without the selection in the null these two ends would count as clusters
            assert found.clustering.silhouettes[0] > 0.5


def test_clusters_that_run_into_each_other_are_beyond_chance_and_far_from_apart() -> None:
    g = np.random.default_rng(7)
    rows = g.standard_normal((4000, 24))
    directions = np.linalg.qr(g.standard_normal((24, 4)))[0].T
    rows += 2.5 * directions[g.integers(0, 4, 4000)]
    found = find_clusters(high_of(rows, 600), part_of(rows), seed=0)
    assert isinstance(found, Found) and found.chosen is not None
    assert found.clustering.ks[found.chosen] == 4
    assert found.clustering.silhouettes[found.chosen] < APART
    text = _said("error", found, 600)
    assert text is not None and "run into each other" in text
    apart = dataclasses.replace(found, clustering=dataclasses.replace(found.clustering, silhouettes=np.full(11, 0.9)))
    assert _said("error", apart, 600) is None


def test_clusterings_are_those_of_scikit_learn() -> None:
    g = np.random.default_rng(1)
    units = unit_rows(g.standard_normal((300, 80)).astype(np.float32))
    found = clustered(units, 3, (2, 5))
    assert found is not None and found.ks == (2, 5)
    scores = PCA(50, random_state=3).fit_transform(units)
    for k, labels, silhouette in zip(found.ks, found.labels, found.silhouettes, strict=True):
        expected = KMeans(k, n_init=4, random_state=3).fit_predict(scores)
        assert adjusted_rand_score(labels, expected) == 1.0
        assert silhouette == pytest.approx(silhouette_score(scores.astype(np.float64), expected), abs=1e-9)


def test_gaussian_vectors_have_the_covariance_asked_for_and_the_longest_are_kept() -> None:
    mean, variances = np.array([1.0, 0.0, 0.0]), np.array([4.0, 1.0, 0.25])
    units = gaussian_units(mean, variances, 20_000, 20_000, 0)
    rows = np.random.default_rng(1).standard_normal((20_000, 3)) * np.sqrt(variances) + mean
    expected = unit_rows(rows)
    np.testing.assert_allclose(units.mean(0), expected.mean(0), atol=0.02)
    np.testing.assert_allclose(np.cov(units.T), np.cov(expected.T), atol=0.02)
    longest = expected[np.argsort(-np.square(rows).sum(1))[:200]]
    kept = gaussian_units(mean, variances, 200, 20_000, 0)
    assert len(kept) == 200
    np.testing.assert_allclose(np.square(kept).mean(0), np.square(longest).mean(0), atol=0.03)
    assert np.square(kept[:, 0]).mean() > np.square(units[:, 0]).mean() + 0.1


def test_few_different_vectors_have_as_few_clusters_and_one_direction_has_none() -> None:
    g = np.random.default_rng(2)
    few = unit_rows(g.standard_normal((5, 8)))[g.integers(0, 5, 100)].astype(np.float32)
    found = clustered(few, 0)
    assert found is not None and found.ks == (2, 3, 4)
    assert clustered(np.repeat(few[:1], 100, axis=0), 0) is None


def test_what_cannot_be_clustered_is_a_sentence() -> None:
    rows = np.random.default_rng(3).standard_normal((400, 6))
    few = find_clusters(high_of(rows, 10), part_of(rows), 0)
    assert isinstance(few, str) and "10 kept tokens" in few
    nothing = find_clusters(high_of(rows, 100), part_of(rows, smallest=1e9), 0)
    assert isinstance(nothing, str) and "0 up to rounding" in nothing
    same = np.ones((400, 6))
    constant = find_clusters(high_of(same, 100), part_of(same), 0)
    assert isinstance(constant, str) and "one direction" in constant


def test_nearest_rows_are_those_of_all_cosines_and_there_are_none_without_a_decoder() -> None:
    g = np.random.default_rng(4)
    decoder, units = g.standard_normal((50, 8)), unit_rows(g.standard_normal((90, 8)))
    decoder[7] = 0.0
    labels = np.arange(90) % 3
    centres = centres_of(units, labels)
    cosines = unit_rows(np.where(decoder == 0, 1e-9, decoder)) @ centres.T
    found = list(nearest_rows(centres, Rows(decoder, 8, 50)))
    assert [latent for latent, _ in found] == cosines.argmax(0).tolist()
    np.testing.assert_allclose([cosine for _, cosine in found], cosines.max(0))
    assert list(nearest_rows(centres, Rows(None, 8, 50))) == [(None, None)] * 3


def test_contents_of_clusters_are_those_of_a_brute_force() -> None:
    rows, of_token = planted()
    high = high_of(rows, int((of_token >= 0).sum()))
    found = find_clusters(high, part_of(rows), seed=0)
    assert isinstance(found, Found) and found.chosen is not None
    g = np.random.default_rng(5)
    tokens = g.integers(0, 6, (len(rows) // LENGTH, LENGTH)).astype(np.uint16)
    tokens.reshape(-1)[(of_token == 1) & (g.random(len(rows)) < 0.7)] = 9
    kinds = {i: "number" if i == 9 else "word start" for i in range(10)}
    contents = cluster_rows("error", found, high, Texts(tokens, kinds), Rows(None, 24, 5))
    ids, labels = tokens.reshape(-1)[high.tokens], found.clustering.labels[found.chosen]
    assert [row["n_tokens"] for row in contents["clusters"]] == np.bincount(labels).tolist()
    context, position = np.divmod(high.tokens, LENGTH)
    for row in contents["clusters"]:
        own = labels == row["cluster"]
        assert row["n_contexts"] == len(set(context[own]))
        assert row["mean_position"] == pytest.approx(position[own].mean())
    nines = max((r for r in contents["cluster_tokens"] if r["token"] == 9), key=lambda r: r["count"])
    own = labels == nines["cluster"]
    assert nines["rank"] == 0 and nines["count"] == (ids[own] == 9).sum()
    assert nines["lift"] == pytest.approx((ids[own] == 9).mean() / (ids == 9).mean())
    assert nines["lift"] > 2
    of_kind = [r for r in contents["cluster_kinds"] if r["cluster"] == nines["cluster"]]
    assert of_kind[0]["kind"] == "number" and of_kind[0]["count"] == nines["count"]
    assert sum(r["count"] for r in of_kind) == own.sum()
    examples = [r for r in contents["examples"] if r["cluster"] == nines["cluster"]]
    cosines = high.units @ centres_of(high.units, labels)[nines["cluster"]]
    assert examples[0]["cosine"] == pytest.approx(cosines[own].max())
    assert [r["cosine"] for r in examples] == sorted((r["cosine"] for r in examples), reverse=True)
    for row in examples:
        text = tokens[row["context"]].tolist()
        window = [*row["before"], row["token"], *row["after"]]
        assert window == text[max(0, row["position"] - 24) : row["position"] + 9]
    assert max(np.bincount([r["context"] for r in examples])) <= 2 and len(examples) == 12


def test_no_clusters_have_no_contents() -> None:
    rows = np.random.default_rng(6).standard_normal((2000, 10))
    high = high_of(rows, 200)
    found = find_clusters(high, part_of(rows), 0)
    assert isinstance(found, Found)
    contents = cluster_rows("error", found, high, Texts(np.zeros((100, 20), int), {0: "number"}), Rows(None, 10, 5))
    assert not any(contents.values())
    assert not any(row["chosen"] for row in silhouette_rows("error", found))


def test_commonest_values_and_at_most_two_of_a_group() -> None:
    values = np.array([3, 3, 5, 5, 5, 1, 3, 5])
    assert commonest(values, np.array([0, 1, 2, 5])) == [
        (3, {"count": 2, "share": 0.5, "lift": 0.5 * 8 / 3}),
        (1, {"count": 1, "share": 0.25, "lift": 0.25 * 8 / 1}),
        (5, {"count": 1, "share": 0.25, "lift": 0.25 * 8 / 4}),
    ]
    order, groups = np.array([4, 2, 0, 1, 3]), np.array([7, 8, 7, 8, 7])
    assert at_most(order, groups, 2, 5) == [4, 2, 1, 3]
    assert at_most(order, groups, 1, 5) == [4, 1]
    assert at_most(order, groups, 2, 3) == [4, 2, 1]
