"""Each architecture: what is stored reconstructs as what was trained, and training reduces the error."""

import math

import pytest
import torch

from dmcore.demo.sae_rounding import round_matrices
from dmcore.training.lean import CLASSES, lean_trainer
from dmcore.training.lean.base import DEAD_AFTER
from dmcore.training.lean.penalised import jump_relu
from dmcore.training.records import measure
from dmcore.training.sae_trainer import ActivationStats
from dmcore.training.sparsity import SparsityController
from dmcore.training.target import SaeTarget

ARCHITECTURES = tuple(CLASSES)

HOOK = "blocks.2.hook_resid_post"


BATCH = 256


def planted(n_tokens: int, d_in: int = 16, n_features: int = 24, seed: int = 0) -> torch.Tensor:
    """Sparse sums of fixed directions about a mean a hundred times their size."""
    directions = torch.randn(n_features, d_in, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(seed)
    active = (torch.rand(n_tokens, n_features, generator=g) < 0.1) * torch.rand(n_tokens, n_features, generator=g)
    return 3 * active @ directions + 100 * torch.ones(d_in)


def trained(architecture: str, steps: int = 400, l0: int = 3):
    acts = planted(BATCH * 40)
    training = lean_trainer(SaeTarget(HOOK, architecture, 32, l0), ActivationStats.of(acts), 0, "cpu")
    before = training.fvu(acts[:2048])[0]
    for step in range(steps):
        training.step(acts[(step % 40) * BATCH :][:BATCH], min(1.0, 2 * (1 - step / steps)))
    return training, before


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_stored_sae_reconstructs_as_the_trained_one_and_better_than_an_untrained_one(architecture, tmp_path):
    training, before = trained(architecture)
    held_out = planted(4096, seed=5)
    quick, quick_l0 = training.fvu(held_out)
    training.save(tmp_path / "sae", {"model_name": "tiny"})
    round_matrices(tmp_path / "sae")
    stored, stored_l0 = measure(tmp_path / "sae", held_out, "cpu")
    assert stored < 0.6 * before
    # Training multiplies in bfloat16, the stored SAE in float32.
    assert stored == pytest.approx(quick, rel=0.05)
    assert stored_l0 == pytest.approx(quick_l0, rel=0.05)


def test_stored_saes_are_ordinary_saelens_folders_in_float32(tmp_path):
    from sae_lens import SAE
    from safetensors.torch import load_file

    classes = {"topk": "TopKSAE", "batchtopk": "JumpReLUSAE", "gated": "GatedSAE", "jumprelu": "JumpReLUSAE"}
    for architecture in ARCHITECTURES:
        training, _ = trained(architecture, steps=2)
        folder = tmp_path / architecture
        training.save(folder, {"model_name": "tiny"})
        round_matrices(folder)
        sae = SAE.load_from_disk(folder, device="cpu")
        assert type(sae).__name__ == classes.get(architecture, "StandardSAE")
        assert sae.cfg.metadata.hook_name == HOOK
        stored = load_file(folder / "sae_weights.safetensors")
        assert stored["W_dec"].dtype == torch.float16
        assert torch.equal(sae.W_dec, stored["W_dec"].float())


@pytest.mark.parametrize("architecture", ["batchtopk", "gated", "jumprelu", "standard"])
def test_sparsity_comes_close_to_its_target(architecture):
    training, _ = trained(architecture, steps=1200)
    assert training.fvu(planted(4096, seed=5))[1] == pytest.approx(3, rel=0.25)


def test_a_restored_sae_goes_on_exactly_as_if_it_had_not_been_stopped():
    acts = planted(4096)
    for architecture in ARCHITECTURES:
        spec, stats = SaeTarget(HOOK, architecture, 32, 3), ActivationStats.of(acts)
        one = lean_trainer(spec, stats, 0, "cpu")
        one.step(acts[:1024], 1.0)
        two = lean_trainer(spec, stats, 0, "cpu")
        two.restore({name: value.clone() for name, value in one.tensors().items()})
        two.restore_control(one.control_state())
        for training in (one, two):
            training.step(acts[1024:2048], 1.0)
        for name, value in one.tensors().items():
            assert torch.equal(value, two.tensors()[name]), (architecture, name)


def test_dead_latents_get_a_gradient_and_live_ones_do_not_from_the_auxiliary_loss():
    acts = planted(2048)
    plain, helped = (lean_trainer(SaeTarget(HOOK, "topk", 32, 1), ActivationStats.of(acts), 0, "cpu") for _ in range(2))
    helped.since_fired[:5] = DEAD_AFTER + 1
    x = plain.normalise(acts)
    for training in (plain, helped):
        recon, _ = training.backward(x)
        training.revive(x, recon)
    difference = (helped.parameters["enc"].grad - plain.parameters["enc"].grad).abs().sum(1)
    assert (difference[:5] > 0).any()
    assert difference[5:].sum() == 0


def test_jump_relu_has_the_pseudo_derivatives_of_the_paper():
    pre = torch.tensor([[0.5, 1.05, 0.96, 2.0]], requires_grad=True)
    threshold = torch.ones(4, requires_grad=True)
    active, on = jump_relu(pre, threshold, bandwidth=0.2)
    torch.testing.assert_close(active, torch.tensor([[0.0, 1.05, 0.0, 2.0]]))
    torch.testing.assert_close(on, torch.tensor([[0.0, 1.0, 0.0, 1.0]]))
    (2 * active.sum() + 3 * on.sum()).backward()
    torch.testing.assert_close(pre.grad, torch.tensor([[0.0, 2.0, 0.0, 2.0]]))
    inside = -(2 * 1.0 + 3) / 0.2
    torch.testing.assert_close(threshold.grad, torch.tensor([0.0, inside, inside, 0.0]))


def test_the_controller_finds_the_coefficient_that_gives_the_target_and_then_keeps_it():
    control = SparsityController(target=16, base=0.01)
    l0 = 500.0
    for _ in range(5000):
        coefficient = control.update(l0)
        # A lagging plant whose L0 falls as the coefficient rises.
        l0 += 0.02 * (2.0 / coefficient - l0)
    assert l0 == pytest.approx(16, rel=0.02)
    control.freeze(coefficient)
    assert control.update(1000.0) == coefficient
    restored = SparsityController(target=16, base=1.0)
    restored.restore(control.state())
    assert math.isclose(restored.update(5.0), coefficient)
