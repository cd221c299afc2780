"""SAELens's trainers as this project steps them: they find what was planted, and are stored as what they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sae_lens import SAE

from dmcore.specs import TRAINABLE
from dmcore.training.records import measure
from dmcore.training.sae_trainer import ActivationStats
from dmcore.training.saelens_trainer import SaeLensTrainer, matryoshka_widths
from dmcore.training.schedule import Budget
from dmcore.training.target import SaeTarget

HOOK = "blocks.2.hook_resid_post"
D_IN, N_FEATURES, N_ACTIVE, BATCH = 24, 24, 3, 256
DIRECTIONS = torch.nn.functional.normalize(
    torch.randn(N_FEATURES, D_IN, generator=torch.Generator().manual_seed(1)), dim=1
)


def planted(n_tokens: int, seed: int = 0) -> torch.Tensor:
    """Three of 24 directions a token, about a mean far larger than they are."""
    g = torch.Generator().manual_seed(seed)
    which = torch.rand(n_tokens, N_FEATURES, generator=g).topk(N_ACTIVE).indices
    size = 1 + torch.rand(n_tokens, N_ACTIVE, generator=g)
    return 3 * torch.zeros(n_tokens, N_FEATURES).scatter(1, which, size) @ DIRECTIONS + 100


def trainer(architecture: str, acts: torch.Tensor, tokens: int = 100_000, hook: str = HOOK) -> SaeLensTrainer:
    target = SaeTarget(hook, architecture, 32, N_ACTIVE)
    return SaeLensTrainer(target, ActivationStats.of(acts), 4e-3, 0, "cpu", BATCH, tokens)


def train(one: SaeLensTrainer, acts: torch.Tensor, steps: int) -> None:
    schedule = Budget(BATCH * steps)
    for step in range(steps):
        one.step(acts[(step * BATCH) % len(acts) :][:BATCH], schedule.rate(step * BATCH))


@pytest.mark.parametrize(
    ("architecture", "fvu", "cosine"),
    [
        ("topk", 0.05, 0.95),
        ("batchtopk", 0.06, 0.95),
        ("jumprelu", 0.08, 0.95),
        ("gated", 0.10, 0.95),
        # Its nested prefixes must each do alone, and an L1 shrinks what it keeps.
        ("matryoshka", 0.25, 0.8),
        ("standard", 0.45, 0.95),
    ],
)
def test_the_planted_features_are_found_at_the_wanted_sparsity(
    architecture: str, fvu: float, cosine: float, tmp_path: Path
) -> None:
    acts, held_out, steps = planted(BATCH * 100), planted(4096, seed=5), 1200
    one = trainer(architecture, acts, BATCH * steps)
    train(one, acts, steps)
    one.save(tmp_path / "sae", {"model_name": "tiny"})
    stored_fvu, stored_l0 = measure(tmp_path / "sae", held_out, "cpu")
    assert stored_fvu < fvu
    assert stored_l0 == pytest.approx(N_ACTIVE, rel=0.1)
    quick_fvu, quick_l0 = one.fvu(held_out)
    assert stored_fvu == pytest.approx(quick_fvu, rel=1e-3)
    assert stored_l0 == pytest.approx(quick_l0, rel=1e-3)
    dec = SAE.load_from_disk(tmp_path / "sae").W_dec.detach()
    torch.testing.assert_close(dec.norm(dim=1), torch.ones(32))
    assert float((dec @ DIRECTIONS.T).max(0).values.mean()) > cosine


@pytest.mark.parametrize("architecture", TRAINABLE)
def test_what_is_stored_gives_the_codes_of_what_was_trained(architecture: str, tmp_path: Path) -> None:
    acts = planted(4096)
    one = trainer(architecture, acts)
    train(one, acts, 30)
    one.save(tmp_path / "sae", {"model_name": "tiny"})
    sae = SAE.load_from_disk(tmp_path / "sae")
    with torch.no_grad():
        recon = sae(acts)
        expected, _ = one.reconstruct(one.normalise(acts))
    torch.testing.assert_close(recon, expected / one.scale + one.centre, rtol=1e-4, atol=1e-3)
    names = {"batchtopk": "jumprelu", "matryoshka": "jumprelu"}
    assert sae.cfg.architecture() == names.get(architecture, architecture)
    assert sae.cfg.metadata.hook_name == HOOK
    assert sae.cfg.metadata.label == architecture


@pytest.mark.parametrize("architecture", TRAINABLE)
def test_a_restored_sae_goes_on_exactly_as_if_it_had_not_been_stopped(architecture: str) -> None:
    acts = planted(4096)
    # Of 2000 tokens, 5 % are fewer than a batch: latents that do not fire are dead at once, and are revived.
    one, two = trainer(architecture, acts, 2000), trainer(architecture, acts, 2000)
    train(one, acts, 7)
    two.restore({name: value.clone() for name, value in one.tensors().items()})
    two.restore_control(one.control_state())
    for some in (one, two):
        some.step(acts[2048:2304], 1.0)
        some.step(acts[2304:2560], 0.2)
    assert one.tensors().keys() == two.tensors().keys()
    for name, value in one.tensors().items():
        assert torch.equal(value, two.tensors()[name]), name
    assert one.control_state() == two.control_state()


def test_first_weights_depend_on_the_seed_and_not_on_what_else_is_drawn() -> None:
    acts = planted(512)
    one = trainer("topk", acts)
    torch.manual_seed(123)
    torch.rand(7)
    two = trainer("topk", acts)
    assert torch.equal(one.sae.W_dec, two.sae.W_dec)
    other = SaeLensTrainer(one.target, ActivationStats.of(acts), 4e-3, 1, "cpu", BATCH, 1000)
    assert not torch.equal(one.sae.W_dec, other.sae.W_dec)


def test_heads_are_flattened_by_saelens_too(tmp_path: Path) -> None:
    acts = planted(512)
    one = trainer("topk", acts, hook="blocks.0.attn.hook_z")
    one.save(tmp_path / "sae", {})
    sae = SAE.load_from_disk(tmp_path / "sae")
    with torch.no_grad():
        heads = sae(acts.view(-1, 4, D_IN // 4))
        sae.turn_off_forward_pass_hook_z_reshaping()
        flat = sae(acts)
    torch.testing.assert_close(heads.flatten(1), flat)


def test_latents_that_have_not_fired_count_as_dead() -> None:
    acts = planted(4096)
    one = trainer("topk", acts)
    train(one, acts, 10)
    fired = torch.zeros(32, dtype=torch.bool)
    one.since_fired += 5000
    assert one.dead_share(5000) == 1.0
    output = one.sae.encode(one.normalise(acts[:BATCH]))
    fired = (output > 0).any(0)
    one.step(acts[:BATCH], 0.0)
    assert one.dead_share(5000) == pytest.approx(1 - float(fired.float().mean()))


@pytest.mark.parametrize("width", [1, 2, 3, 16, 1000])
def test_matryoshkas_widths_are_nested_and_end_with_the_whole(width: int) -> None:
    widths = matryoshka_widths(width)
    assert widths == sorted(set(widths))
    assert widths[-1] == width
    assert len(widths) <= 5
