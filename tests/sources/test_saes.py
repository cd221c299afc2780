"""SAEs: the blocked path equals SAELens's own forward pass, for every architecture and option."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dmcore.errors import SpecError
from dmcore.sources.saes import Dictionary, load_dictionary, read_config
from dmcore.specs import SaeSpec, load_study
from tests.builders import ARCHITECTURES, D_MODEL, build_sae, build_study, check_equal_forward

X = torch.randn(200, D_MODEL, generator=torch.Generator().manual_seed(1))


def check_against_saelens(sae: object, x: torch.Tensor = X) -> None:
    check_equal_forward(sae, Dictionary(sae), x)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_equals_its_own_forward_pass(architecture: str) -> None:
    check_against_saelens(build_sae(architecture))


@pytest.mark.parametrize("architecture", ["topk", "standard", "jumprelu", "gated"])
@pytest.mark.parametrize("options", [{"apply_b_dec_to_input": False}, {"normalize_activations": "layer_norm"}])
def test_the_options_of_saelens_are_obeyed(architecture: str, options: dict[str, object]) -> None:
    check_against_saelens(build_sae(architecture, **options))


def test_topk_with_rescaling_by_decoder_norms() -> None:
    check_against_saelens(build_sae("topk", rescale_acts_by_decoder_norm=True))


def check_decoder_rows(dictionary: Dictionary, x: torch.Tensor = X) -> None:
    """Assert that a token's reconstruction is the bias and each active latent's value times its row."""
    codes = dictionary.encode(x)
    rows = torch.cat([dictionary.decoder_rows(0, 20), dictionary.decoder_rows(20, dictionary.d_sae)])
    assert rows.shape == (dictionary.d_sae, D_MODEL) and not rows.requires_grad
    tokens = torch.repeat_interleave(torch.arange(len(x)), codes.l0)
    parts = codes.values[:, None] * rows[codes.latents.long()]
    expected = torch.zeros(len(x), D_MODEL).index_add_(0, tokens, parts) + dictionary.decoder_bias
    torch.testing.assert_close(dictionary.decode(codes, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        *((architecture, {}) for architecture in ARCHITECTURES),
        ("topk", {"rescale_acts_by_decoder_norm": True}),
        ("standard", {"normalize_activations": "expected_average_only_in"}),
        ("jumprelu", {"apply_b_dec_to_input": False}),
        ("matching_pursuit", {"apply_b_dec_to_input": False}),
    ],
)
def test_decoder_rows_and_the_bias_make_the_reconstruction(architecture: str, options: dict[str, object]) -> None:
    check_decoder_rows(Dictionary(build_sae(architecture, **options)))


@pytest.mark.parametrize("scaling", ["layer_norm", "constant_norm_rescale"])
def test_an_sae_that_scales_each_token_has_no_decoder_rows(scaling: str) -> None:
    dictionary = Dictionary(build_sae("topk", normalize_activations=scaling))
    assert dictionary.decoder_rows(0, 2) is None and dictionary.decoder_bias is None


def test_a_batchtopk_sae_as_saved_is_a_jumprelu_and_exact(tmp_path: Path) -> None:
    from sae_lens import SAE
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    training = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D_MODEL, d_sae=64, k=4))
    for weights in (training.W_enc, training.W_dec, training.b_dec):
        weights.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    training.topk_threshold.data.fill_(0.5)
    training.save_inference_model(str(tmp_path))
    check_against_saelens(SAE.load_from_disk(tmp_path))


def test_any_object_with_encode_and_decode_goes_through() -> None:
    class Config:
        d_in, d_sae = D_MODEL, 2 * D_MODEL

    class Plain:
        """Positive and negative parts: an exact reconstruction."""

        cfg = Config()

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x.relu(), (-x).relu()], 1)

        def decode(self, acts: torch.Tensor) -> torch.Tensor:
            return acts[:, :D_MODEL] - acts[:, D_MODEL:]

    dictionary = Dictionary(Plain())
    torch.testing.assert_close(dictionary.decode(dictionary.encode(X), X), X)
    assert dictionary.decoder_rows(0, 2) is None and dictionary.decoder_bias is None


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_study(tmp_path_factory.mktemp("study"), architectures=("topk",))


def test_an_sae_of_another_width_of_activation_is_refused(study_path: Path) -> None:
    study = load_study(study_path)
    with pytest.raises(SpecError, match=f"reads {D_MODEL} dimensions, but blocks.1.hook_resid_post has 99"):
        load_dictionary(study, study.saes[0], 99, "cpu")


def test_a_missing_folder_a_cut_file_and_another_hook_are_sentences(study_path: Path, tmp_path: Path) -> None:
    study = load_study(study_path)
    with pytest.raises(SpecError, match="There is no SAE at"):
        read_config(study, SaeSpec(hook="blocks.1.hook_resid_post", path="saes/none"))
    with pytest.raises(SpecError, match="was trained at blocks.1.hook_resid_post"):
        read_config(study, SaeSpec(hook="blocks.0.hook_resid_post", path=study.saes[0].path))
    copy = study_path.parent / "saes" / "cut"
    build_sae("topk").save_model(copy)
    weights = copy / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(SpecError, match="Cannot load the SAE saes/cut") as caught:
        load_dictionary(study, SaeSpec(hook="blocks.1.hook_resid_post", path="saes/cut"), D_MODEL, "cpu")
    assert "\n" not in str(caught.value)


def test_transcoders_are_refused(study_path: Path) -> None:
    from sae_lens.saes.transcoder import Transcoder, TranscoderConfig

    study = load_study(study_path)
    Transcoder(TranscoderConfig(d_in=D_MODEL, d_sae=32, d_out=D_MODEL, apply_b_dec_to_input=False)).save_model(
        study_path.parent / "saes" / "transcoder"
    )
    with pytest.raises(SpecError, match="is a transcoder"):
        load_dictionary(study, SaeSpec(hook="blocks.1.hook_resid_post", path="saes/transcoder"), D_MODEL, "cpu")
