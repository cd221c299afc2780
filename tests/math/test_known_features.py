"""Known features: frequencies, correlations and pieces are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmcore.math.known_features import ARCS, BLOCKS, INPUTS, MOST_OFTEN, OTHERS, THRESHOLD, World, frequencies

D, N = 12, 48


@pytest.fixture(scope="module")
def world() -> World:
    return World.build(D, N, 4.0, n_groups=8, seed=1)


@pytest.mark.parametrize("density", [1.0, 4.0, 20.0])
def test_frequencies_follow_a_power_law_and_add_up(density: float) -> None:
    found = frequencies(N, density, 0.8).numpy()
    assert found.sum() == pytest.approx(density)
    assert found.max() <= MOST_OFTEN
    free = found[found < MOST_OFTEN]
    ranks = np.arange(N - len(free) + 1, N + 1)
    assert np.polyfit(np.log(ranks), np.log(free), 1)[0] == pytest.approx(-0.8)


def test_features_are_active_as_often_as_asked_with_values_of_mean_one(world: World) -> None:
    values = world.values(4000, 16, torch.Generator().manual_seed(0))
    often = (values > 0).float().mean(0).double()
    assert float(often.sum()) == pytest.approx(4.0, rel=0.02)
    np.testing.assert_allclose(often, world.frequency, rtol=0.15)
    assert float(values[values > 0].mean()) == pytest.approx(1.0, rel=0.02)


def test_features_of_a_group_come_together_and_contexts_have_topics(world: World) -> None:
    active = (world.values(4000, 16, torch.Generator().manual_seed(0)) > 0).double()
    together = np.corrcoef(active.numpy().T)
    same = (world.group[:, None] == world.group[None]).numpy() & ~np.eye(N, dtype=bool)
    assert together[same].mean() > 0.08
    assert abs(together[~same & ~np.eye(N, dtype=bool)].mean()) < 0.01
    by_context = active.view(4000, 16, N).mean(1).var(0)
    independent = active.mean(0) * (1 - active.mean(0)) / 16
    assert float((by_context / independent).mean()) > 1.2


def test_pieces_are_what_they_are_called(world: World) -> None:
    found = world.pieces(50, 8, seed=2)
    assert set(found) == {*INPUTS, *OTHERS}
    values = world.values(50, 8, torch.Generator().manual_seed(2))
    whole = sum(found[f"block_{k}"] for k in range(BLOCKS))
    torch.testing.assert_close(whole, values @ world.directions)
    missed = sum(found[f"missed_{k}"] for k in range(BLOCKS))
    torch.testing.assert_close(missed, (values * (values < THRESHOLD)) @ world.directions)
    for name, rows in world.pieces(50, 8, seed=2).items():
        assert torch.equal(rows, found[name]), "the same seed"
    assert not torch.equal(world.pieces(50, 8, seed=3)["dense"], found["dense"])


def test_circles_lie_on_circles_and_their_rest_is_at_right_angles_to_an_arc() -> None:
    world = World.build(D, N, 4.0, n_circles=1, seed=0)
    found = world.pieces(200, 8, seed=0)
    u, v = world.planes[0]
    point = torch.stack([found["circles"] @ u, found["circles"] @ v], dim=1)
    torch.testing.assert_close(point.norm(dim=1), torch.ones(len(point)))
    kept = found["circles"] - found["arcs"]
    angle = torch.atan2(kept @ v, kept @ u) / (2 * torch.pi / ARCS)
    torch.testing.assert_close(angle, angle.round(), atol=1e-3, rtol=0)
    torch.testing.assert_close((kept * found["arcs"]).sum(1), torch.zeros(len(kept)), atol=1e-5, rtol=0)


def test_what_is_spurious_has_nothing_to_do_with_the_activation(world: World) -> None:
    found = world.pieces(4000, 16, seed=0)
    x = sum(found[name] for name in INPUTS).double()
    design = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    spurious = found["spurious"].double()
    left = spurious - design @ torch.linalg.lstsq(design, spurious).solution
    explained = 1 - float(left.square().sum() / (spurious - spurious.mean(0)).square().sum())
    assert explained == pytest.approx(D / len(x), abs=3 * D / len(x))
