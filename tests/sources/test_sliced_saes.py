"""SAEs from every layout of folder, whole and in slices of latents: equal to SAELens's own objects."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

import dmcore.sources.scope_layouts as layouts_module
import dmcore.sources.sliced_dictionary as sliced_module
from dmcore.errors import SpecError
from dmcore.sources.catalogue import find_saes, read_catalogue
from dmcore.sources.dictionary import Dictionary
from dmcore.sources.disk_tensor import npz_arrays, safetensors_header
from dmcore.sources.sae_layouts import layout_files, open_weights, read_sae_config
from dmcore.sources.sae_weights import LatentMatrix
from dmcore.sources.saes import _plain_model, load_dictionary, read_config, release_folder, sae_fingerprint
from dmcore.sources.sliced_dictionary import SlicedDictionary
from dmcore.specs import ModelSpec, SaeSpec, load_study
from dmcore.store.fingerprint import content_key, files_fingerprint
from tests.builders import D_MODEL, WIDTH, build_sae, build_study, check_equal_forward

HOOK = "blocks.1.hook_resid_post"
X = torch.randn(300, D_MODEL, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_study(tmp_path_factory.mktemp("study"), architectures=("topk",))


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of ten latents: four whole ones and a rest."""
    monkeypatch.setattr(sliced_module, "LATENTS_MULTIPLE", 10)
    monkeypatch.setattr(sliced_module, "SLICE_BYTES", 1)


def equal_forward(sae: object, dictionary: object) -> None:
    check_equal_forward(sae, dictionary, X)


@pytest.mark.parametrize("architecture", ["topk", "standard", "jumprelu", "gated"])
@pytest.mark.parametrize(
    "options", [{}, {"apply_b_dec_to_input": False}, {"normalize_activations": "layer_norm"}], ids=str
)
def test_an_sae_in_slices_equals_the_whole_one(
    architecture: str, options: dict[str, object], study_path: Path, tmp_path: Path, small_slices: None
) -> None:
    sae = build_sae(architecture, HOOK, **options)
    sae.save_model(tmp_path / "sae")
    loaded = load_dictionary(load_study(study_path), SaeSpec(HOOK, str(tmp_path / "sae")), D_MODEL, "cpu", memory=0)
    assert isinstance(loaded, SlicedDictionary)
    assert loaded.latents_per_slice == 10
    equal_forward(sae, loaded)


def test_a_topk_sae_that_rescales_by_decoder_norms_equals_the_whole_one_in_slices(
    study_path: Path, tmp_path: Path, small_slices: None
) -> None:
    sae = build_sae("topk", HOOK, rescale_acts_by_decoder_norm=True)
    sae.save_model(tmp_path / "sae")
    loaded = load_dictionary(load_study(study_path), SaeSpec(HOOK, str(tmp_path / "sae")), D_MODEL, "cpu", memory=0)
    equal_forward(sae, loaded)


@pytest.mark.parametrize(
    "options", [{}, {"rescale_acts_by_decoder_norm": True}, {"normalize_activations": "layer_norm"}]
)
def test_decoder_rows_are_those_of_the_whole_sae(
    options: dict[str, object], tmp_path: Path, small_slices: None
) -> None:
    sae = build_sae("topk", HOOK, **options)
    sae.save_model(tmp_path / "sae")
    whole, loaded = Dictionary(sae), SlicedDictionary(open_weights(tmp_path / "sae"))
    rows, bias = loaded.decoder_rows(7, 33), loaded.decoder_bias
    if "normalize_activations" in options:
        assert rows is None and bias is None
    else:
        torch.testing.assert_close(rows, whole.decoder_rows(7, 33))
        torch.testing.assert_close(bias, whole.decoder_bias)


def test_slices_report_and_can_be_stopped(study_path: Path, tmp_path: Path, small_slices: None) -> None:
    build_sae("jumprelu", HOOK).save_model(tmp_path / "sae")
    loaded = load_dictionary(load_study(study_path), SaeSpec(HOOK, str(tmp_path / "sae")), D_MODEL, "cpu", memory=0)
    seen = []
    loaded.pulse = lambda done, total: seen.append((done, total))
    codes = loaded.encode(X)
    assert seen == [(i, 5) for i in range(5)]

    class StopNowError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StopNowError

    loaded.pulse = stop
    with pytest.raises(StopNowError):
        loaded.decode(codes, X)


def gemma_folder(folder: Path, sae: object, *, matrices: str = "W", **more: np.ndarray) -> Path:
    """An SAE laid out as Gemma Scope's are; its matrices are W_enc and W_dec as published, or w_enc and w_dec."""
    folder.mkdir(parents=True)
    names = {f"{matrices}_enc": "W_enc", f"{matrices}_dec": "W_dec", **{v: v for v in ("b_enc", "b_dec", "threshold")}}
    np.savez(folder / "params.npz", **{k: getattr(sae, v).detach().numpy() for k, v in names.items()}, **more)
    return folder


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("matrices", ["W", "w"])
def test_a_gemma_scope_folder_equals_a_hand_made_sae(
    study_path: Path, tmp_path: Path, memory: int | None, matrices: str, small_slices: None
) -> None:
    sae = build_sae("jumprelu", HOOK, apply_b_dec_to_input=False)
    more = {"scaling_factor": np.ones(WIDTH, np.float32), "step": np.array(7)}  # what is no weight is passed over
    folder = gemma_folder(tmp_path / "layer_1" / "width_16k" / "average_l0_9", sae, matrices=matrices, **more)
    loaded = load_dictionary(load_study(study_path), SaeSpec(HOOK, str(folder)), D_MODEL, "cpu", memory=memory)
    assert (loaded.architecture, loaded.d_sae) == ("jumprelu", WIDTH)
    equal_forward(sae, loaded)


def test_a_gemma_scope_folder_equals_the_loader_of_saelens(
    study_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    sae_id = "layer_20/width_16k/average_l0_68"
    gemma_folder(tmp_path / sae_id, build_sae("jumprelu", HOOK))
    monkeypatch.setattr(
        loaders, "hf_hub_download", lambda repo_id, filename, subfolder="", **_: str(tmp_path / subfolder / filename)
    )

    def tiny(repo_id: str, folder_name: str, device: str = "cpu", force_download: bool = False, cfg_overrides=None):
        shape = {"d_in": D_MODEL, "d_sae": WIDTH}
        return loaders.gemma_2_sae_huggingface_loader(
            repo_id, folder_name, device, force_download, {**(cfg_overrides or {}), **shape}
        )

    theirs = SAE.from_pretrained("gemma-scope-9b-pt-res", sae_id, converter=tiny)
    ours = load_dictionary(load_study(study_path), SaeSpec(HOOK, str(tmp_path / sae_id)), D_MODEL, "cpu")
    equal_forward(theirs, ours)


def gemma_2_folder(folder: Path, sae: object, **about: str) -> Path:
    """An SAE laid out as those of Gemma Scope 2 are."""
    folder.mkdir(parents=True)
    names = {"w_enc": "W_enc", "w_dec": "W_dec", **{v: v for v in ("b_enc", "b_dec", "threshold")}}
    save_file({k: getattr(sae, v).detach().contiguous() for k, v in names.items()}, folder / "params.safetensors")
    if about:
        (folder / "config.json").write_text(json.dumps({"architecture": "jump_relu", **about}))
    return folder


@pytest.mark.parametrize("memory", [None, 0])
def test_a_gemma_scope_2_folder_equals_a_hand_made_sae(
    study_path: Path, tmp_path: Path, memory: int | None, small_slices: None
) -> None:
    sae = build_sae("jumprelu", HOOK, apply_b_dec_to_input=False)
    folder = gemma_2_folder(tmp_path / "layer_1_width_16k_l0_big", sae)
    loaded = load_dictionary(load_study(study_path), SaeSpec(HOOK, str(folder)), D_MODEL, "cpu", memory=memory)
    equal_forward(sae, loaded)


@pytest.mark.parametrize(
    ("place", "hook"),
    [
        ("model.layers.1.output", "blocks.1.hook_resid_post"),
        ("model.layers.7.self_attn.o_proj.input", "blocks.7.attn.hook_z"),
        ("language_model.layers.30.post_feedforward_layernorm.output", "blocks.30.hook_mlp_out"),
    ],
)
def test_the_origin_of_a_gemma_scope_2_sae_is_read(place: str, hook: str, tmp_path: Path) -> None:
    sae = build_sae("jumprelu", HOOK)
    about = {"hf_hook_point_in": place, "model_name": "gemma-v3-270m-pt"}
    found = read_sae_config(gemma_2_folder(tmp_path / "a", sae, **about))
    assert (found.architecture, found.d_in, found.d_sae) == ("jumprelu", D_MODEL, WIDTH)
    assert (found.hook, found.model) == (hook, "gemma-3-270m")
    other = {**about, "hf_hook_point_out": "model.layers.1.post_feedforward_layernorm.output.x"}
    assert read_sae_config(gemma_2_folder(tmp_path / "b", sae, **other)).architecture == "jumprelu_transcoder"


def test_a_gemma_scope_sae_with_a_scale_of_its_own_is_refused(study_path: Path, tmp_path: Path) -> None:
    folder = gemma_folder(tmp_path / "sae", build_sae("jumprelu", HOOK), scaling_factor=np.full(WIDTH, 1.5, np.float32))
    with pytest.raises(SpecError, match="has a scaling_factor that is not 1"):
        load_dictionary(load_study(study_path), SaeSpec(HOOK, str(folder)), D_MODEL, "cpu")


def llama_folder(folder: Path, **more: object) -> Path:
    """A random SAE laid out as Llama Scope's are."""
    (folder / "checkpoints").mkdir(parents=True)
    g = torch.Generator().manual_seed(3)
    shapes = {
        "encoder.weight": (WIDTH, D_MODEL),
        "encoder.bias": (WIDTH,),
        "decoder.weight": (D_MODEL, WIDTH),
        "decoder.bias": (D_MODEL,),
    }
    tensors = {name: 0.3 * torch.randn(shape, generator=g) for name, shape in shapes.items()}
    save_file(tensors, folder / "checkpoints" / "final.safetensors")
    about = {
        "d_model": D_MODEL,
        "d_sae": WIDTH,
        "jump_relu_threshold": 0.5,
        "hook_point_in": HOOK,
        "dataset_average_activation_norm": {"in": 3.7, "out": 3.7},
        **more,
    }
    (folder / "hyperparams.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize("memory", [None, 0])
def test_a_llama_scope_folder_equals_the_loader_of_saelens(
    study_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int | None, small_slices: None
) -> None:
    import sae_lens.saes.sae as sae_module
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    name = "Llama3_1-8B-Base-L1R-8x"
    folder = llama_folder(tmp_path / name, sparsity_include_decoder_norm=False)
    monkeypatch.setattr(
        loaders, "hf_hub_download", lambda repo_id, filename, subfolder="", **_: str(tmp_path / subfolder / filename)
    )
    # The registry gives the factor that the SAE's own hyperparameters imply.
    monkeypatch.setattr(sae_module, "get_norm_scaling_factor", lambda release, sae_id: D_MODEL**0.5 / 3.7)
    theirs = SAE.from_pretrained("llama_scope_lxr_8x", "l1r_8x")
    ours = load_dictionary(load_study(study_path), SaeSpec(HOOK, str(folder)), D_MODEL, "cpu", memory=memory)
    equal_forward(theirs, ours)


@pytest.mark.parametrize("memory", [None, 0])
def test_llama_scopes_threshold_is_on_what_a_latent_adds(
    study_path: Path, tmp_path: Path, memory: int | None, small_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts_module, "ROWS_BYTES", 8 * WIDTH * 3)  # norms from groups of three rows
    folder = llama_folder(tmp_path / "sae")  # as the publishers' configuration is where it does not say
    t = {k: v.double() for k, v in load_file(folder / "checkpoints" / "final.safetensors").items()}
    scale = D_MODEL**0.5 / 3.7
    # As the publishers run it: the biases in the model's units, gated by pre-activation times decoder norm.
    pre = X.double() @ t["encoder.weight"].T + t["encoder.bias"] / scale
    acts = pre * (pre * t["decoder.weight"].norm(dim=0) > 0.5)
    recon = acts @ t["decoder.weight"].T + t["decoder.bias"] / scale
    ours = load_dictionary(load_study(study_path), SaeSpec(HOOK, str(folder)), D_MODEL, "cpu", memory=memory)
    codes = ours.encode(X)
    assert codes.latents.numel() == int((acts != 0).sum()) != int((pre > 0.5).sum())
    torch.testing.assert_close(ours.decode(codes, X), recon.float(), rtol=1e-4, atol=1e-4)


def test_a_key_of_llama_scope_says_how_it_is_read(study_path: Path, tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "sae")
    files = files_fingerprint(folder, list(layout_files(folder)))
    assert sae_fingerprint(load_study(study_path), SaeSpec(HOOK, str(folder))) == content_key(
        {"files": files, "reader": 2}
    )


def test_what_a_folder_does_not_say_of_its_model_is_not_held_against_it(study_path: Path, tmp_path: Path) -> None:
    build_sae("topk", HOOK).save_model(tmp_path / "sae")
    study = dataclasses.replace(load_study(study_path), model=ModelSpec(id="org/any", processing=("fold_ln",)))
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    config["metadata"] |= {"model_name": "any", "model_from_pretrained_kwargs": None}
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config))
    assert read_config(study, SaeSpec(HOOK, str(tmp_path / "sae"))).processing is None
    config["metadata"]["model_from_pretrained_kwargs"] = {"fold_ln": False}
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(SpecError, match="was trained on the raw weights"):
        read_config(study, SaeSpec(HOOK, str(tmp_path / "sae")))


def test_an_sae_that_lacks_its_scale_is_refused(study_path: Path, tmp_path: Path) -> None:
    build_sae("topk", HOOK).save_model(tmp_path / "sae")
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    (tmp_path / "sae" / "cfg.json").write_text(
        json.dumps({**config, "normalize_activations": "expected_average_only_in"})
    )
    with pytest.raises(SpecError, match="mean norm, which it does not hold: fold it into the weights"):
        read_config(load_study(study_path), SaeSpec(HOOK, str(tmp_path / "sae")))


@pytest.mark.parametrize("memory", [None, 0])
def test_tensors_that_are_no_weights_are_passed_over(study_path: Path, tmp_path: Path, memory: int | None) -> None:
    sae = build_sae("topk", HOOK)
    sae.save_model(tmp_path / "sae")
    path = tmp_path / "sae" / "sae_weights.safetensors"
    save_file({**load_file(path), "n_steps": torch.tensor([3]), "dead": torch.zeros(WIDTH, dtype=torch.bool)}, path)
    assert set(safetensors_header(path)) == set(sae.state_dict())
    spec = SaeSpec(HOOK, str(tmp_path / "sae"))
    equal_forward(sae, load_dictionary(load_study(study_path), spec, D_MODEL, "cpu", memory=memory))
    packed = {"W_enc": torch.zeros(D_MODEL, WIDTH, dtype=torch.int8)}
    save_file({**load_file(path), **packed}, path)
    with pytest.raises(SpecError, match="holds it in a type that is not read"):
        open_weights(tmp_path / "sae")


VECTORS = {
    "standard": ["b_enc"],
    "jumprelu": ["b_enc", "threshold"],
    "topk": ["b_enc"],
    "gated": ["b_gate", "r_mag", "b_mag"],
}


@pytest.mark.parametrize("architecture", VECTORS)
def test_a_vector_that_is_lacking_too_short_or_of_another_type_is_a_sentence(
    architecture: str, study_path: Path, tmp_path: Path
) -> None:
    build_sae(architecture, HOOK).save_model(tmp_path / "sae")
    path, study = tmp_path / "sae" / "sae_weights.safetensors", load_study(study_path)
    whole, spec = load_file(path), SaeSpec(HOOK, str(tmp_path / "sae"))
    for name in ["b_dec", *VECTORS[architecture]]:
        for vector, said in (
            (None, f"lacks {name}, which an SAE of the kind {architecture} has"),
            (whole[name][:-1].clone(), f"has {name} of length"),
            (whole[name].to(torch.float8_e4m3fn), f"holds {name} as F8_E4M3, which is not read: save it as float32"),
        ):
            save_file({k: v for k, v in {**whole, name: vector}.items() if v is not None}, path)
            with pytest.raises(SpecError, match=said):
                load_dictionary(study, spec, D_MODEL, "cpu", memory=0)
    save_file({**whole, "W_dec": whole["W_dec"][:-1].clone()}, path)
    with pytest.raises(SpecError, match="has W_dec of shape"):
        load_dictionary(study, spec, D_MODEL, "cpu", memory=0)


def test_weights_in_a_small_type_are_read_whole_as_saelens_reads_them(study_path: Path, tmp_path: Path) -> None:
    sae = build_sae("jumprelu", HOOK)
    sae.threshold.data = sae.threshold.data.to(torch.float8_e4m3fn).float()
    sae.save_model(tmp_path / "sae")
    path = tmp_path / "sae" / "sae_weights.safetensors"
    weights = load_file(path)
    save_file({**weights, "threshold": weights["threshold"].to(torch.float8_e4m3fn)}, path)
    equal_forward(sae, load_dictionary(load_study(study_path), SaeSpec(HOOK, str(tmp_path / "sae")), D_MODEL, "cpu"))


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("flag", [True, False])
def test_latents_that_are_scaled_afterwards_are_refused_unless_by_one(
    study_path: Path, tmp_path: Path, memory: int | None, flag: bool
) -> None:
    sae = build_sae("standard", HOOK)
    sae.save_model(tmp_path / "sae")
    path, about = tmp_path / "sae" / "sae_weights.safetensors", tmp_path / "sae" / "cfg.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "finetuning_scaling_factor": flag}))
    weights, spec = load_file(path), SaeSpec(HOOK, str(tmp_path / "sae"))
    save_file({**weights, "scaling_factor": torch.ones(WIDTH)}, path)
    equal_forward(sae, load_dictionary(load_study(study_path), spec, D_MODEL, "cpu", memory=memory))
    save_file({**weights, "scaling_factor": torch.full((WIDTH,), 2.0)}, path)
    with pytest.raises(SpecError, match="has a scaling_factor that is not 1, which is not read: fold it into W_dec"):
        load_dictionary(load_study(study_path), spec, D_MODEL, "cpu", memory=memory)


def test_a_models_tensors_of_other_types_are_passed_over_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"head": torch.ones(2, 3), "layer": torch.ones(2).to(torch.float8_e5m2)}, path)
    assert set(safetensors_header(path, others=True)) == {"head"}
    with pytest.raises(SpecError, match="holds layer as F8_E5M2"):
        safetensors_header(path)


def test_an_sae_that_is_not_whole_says_what_is_wrong(study_path: Path, tmp_path: Path) -> None:
    build_sae("topk", HOOK).save_model(tmp_path / "sae")
    path, about = tmp_path / "sae" / "sae_weights.safetensors", tmp_path / "sae" / "cfg.json"
    whole, spec, study = load_file(path), SaeSpec(HOOK, str(tmp_path / "sae")), load_study(study_path)
    for tensors, said in (
        ({k: v for k, v in whole.items() if k != "W_dec"}, r'Missing key\(s\) in state_dict: "W_dec"'),
        ({**whole, "W_enc": whole["W_enc"][:, :-1].clone()}, r"size mismatch for W_enc: .*\d+\]"),
    ):
        save_file(tensors, path)
        with pytest.raises(SpecError, match=rf"Cannot load the SAE .* \({said}.*\): check its folder"):
            load_dictionary(study, spec, D_MODEL, "cpu")
    save_file(whole, path)
    about.write_text(json.dumps({**json.loads(about.read_text()), "architecture": "quux"}))
    with pytest.raises(SpecError, match=r"\(nothing is known of 'quux'\): check its folder"):
        load_dictionary(study, spec, D_MODEL, "cpu")


def test_an_sae_of_the_past_of_a_token_is_refused(study_path: Path) -> None:
    rows = read_catalogue().filter(pl.col("architecture") == "temporal")
    row = rows.row(0, named=True)
    sae = SaeSpec(row["hook"], release=row["release"], id=row["id"], check=False)
    with pytest.raises(SpecError, match="encodes a token by what came before it.*Take it out of the study"):
        read_config(load_study(study_path), sae)


def test_nothing_is_unpickled_where_torch_is_told_to_run_code(
    study_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    row = read_catalogue().filter(pl.col("conversion_func") == "qwen_scope").row(0, named=True)
    with pytest.raises(SpecError, match="could run code: unset it"):
        load_dictionary(load_study(study_path), SaeSpec(row["hook"], release=row["release"], id=row["id"]), 16, "cpu")


def test_what_a_release_says_of_its_model_when_it_is_read_counts(
    study_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sae_lens

    rows = read_catalogue().filter(pl.col("conversion_func") == "sae_lens", pl.col("processing") == "")
    row = rows.row(0, named=True)
    loaded = build_sae("topk", row["hook"])
    loaded.cfg.metadata.model_from_pretrained_kwargs = {"center_writing_weights": True}
    monkeypatch.setattr(sae_lens.SAE, "from_pretrained", lambda *_, **__: loaded)
    sae = SaeSpec(row["hook"], release=row["release"], id=row["id"])
    study = dataclasses.replace(load_study(study_path), model=ModelSpec(id=row["model"]))
    with pytest.raises(SpecError, match=r"write processing = \['center_writing_weights'\]"):
        load_dictionary(study, sae, D_MODEL, "cpu")
    asked = dataclasses.replace(study, model=ModelSpec(id=row["model"], processing=("center_writing_weights",)))
    assert read_config(asked, sae).processing is None, "the registry does not say"
    equal_forward(loaded, load_dictionary(asked, sae, D_MODEL, "cpu"))


def test_mistral_is_one_model_under_both_names(study_path: Path) -> None:
    row = read_catalogue().filter(pl.col("model") == "mistralai/Mistral-7B-v0.1").row(0, named=True)
    study = dataclasses.replace(load_study(study_path), model=ModelSpec(id="mistralai/Mistral-7B-v0.1"))
    assert _plain_model("mistral-7b") == _plain_model("mistralai/Mistral-7B-v0.1")
    assert read_config(study, SaeSpec(row["hook"], release=row["release"], id=row["id"])) is not None


def test_tensors_on_disk_are_read_in_slices(tmp_path: Path) -> None:
    matrix = torch.randn(7, 9)
    save_file({"a": matrix, "b": matrix[0].bfloat16()}, tmp_path / "t.safetensors")
    np.savez(tmp_path / "t.npz", a=matrix.numpy())
    for tensor in (safetensors_header(tmp_path / "t.safetensors")["a"], npz_arrays(tmp_path / "t.npz")["a"]):
        torch.testing.assert_close(tensor.read(), matrix, rtol=0, atol=0)
        torch.testing.assert_close(tensor.rows(2, 5), matrix[2:5], rtol=0, atol=0)
        torch.testing.assert_close(tensor.columns(3, 9), matrix[:, 3:9], rtol=0, atol=0)
    half = safetensors_header(tmp_path / "t.safetensors")["b"]
    torch.testing.assert_close(half.read(), matrix[0].bfloat16(), rtol=0, atol=0)


def test_damaged_and_foreign_files_are_sentences(study_path: Path, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-9])
    with pytest.raises(SpecError, match="is cut short: copy or download it again"):
        safetensors_header(tmp_path / "cut.safetensors")
    (tmp_path / "text.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(SpecError, match="is not a safetensors file"):
        safetensors_header(tmp_path / "text.safetensors")
    np.savez_compressed(tmp_path / "small.npz", w_enc=np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(SpecError, match="small.npz is compressed: save it again with numpy.savez, .* slices.$"):
        npz_arrays(tmp_path / "small.npz")
    np.savez(tmp_path / "object.npz", w_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(SpecError, match="is not an npz file of weights"):
        npz_arrays(tmp_path / "object.npz")
    study = load_study(study_path)
    (tmp_path / "gemma").mkdir()
    np.savez(tmp_path / "gemma" / "params.npz", w_enc=np.zeros((D_MODEL, 4), np.float32), w_dec=np.zeros((4, D_MODEL)))
    with pytest.raises(SpecError, match="lacks b_enc"):
        load_dictionary(study, SaeSpec(HOOK, str(tmp_path / "gemma")), D_MODEL, "cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="it needs cfg.json"):
        load_dictionary(study, SaeSpec(HOOK, str(tmp_path / "empty")), D_MODEL, "cpu")


def test_an_architecture_whose_latents_depend_on_each_other_stays_whole(study_path: Path, tmp_path: Path) -> None:
    build_sae("matching_pursuit", HOOK).save_model(tmp_path / "sae")
    loaded = load_dictionary(load_study(study_path), SaeSpec(HOOK, str(tmp_path / "sae")), D_MODEL, "cpu", memory=0)
    assert not isinstance(loaded, SlicedDictionary)


def test_the_memory_of_an_sae_can_be_set(study_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(study_path)
    monkeypatch.setenv("DMCORE_SAE_MEMORY_GIB", "0.000001")
    assert isinstance(load_dictionary(study, study.saes[0], D_MODEL, "cpu"), SlicedDictionary)
    monkeypatch.setenv("DMCORE_SAE_MEMORY_GIB", "much")
    with pytest.raises(SpecError, match="give a number of GiB"):
        load_dictionary(study, study.saes[0], D_MODEL, "cpu")


@pytest.mark.parametrize("memory", [None, 0])
def test_an_sae_whose_configuration_says_bfloat16_is_the_same_whole_and_in_slices(
    study_path: Path, tmp_path: Path, memory: int | None, small_slices: None
) -> None:
    sae = build_sae("jumprelu", HOOK)
    sae.save_model(tmp_path / "sae")
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    ours = load_dictionary(load_study(study_path), SaeSpec(HOOK, str(tmp_path / "sae")), D_MODEL, "cpu", memory=memory)
    equal_forward(sae, ours)


def test_weights_in_bfloat16_are_scaled_in_float32(tmp_path: Path) -> None:
    matrix = torch.randn(7, 9).bfloat16()
    save_file({"a": matrix}, tmp_path / "t.safetensors")
    tensor = safetensors_header(tmp_path / "t.safetensors")["a"]
    for latents_first, expected in ((True, matrix), (False, matrix.T)):
        rows = LatentMatrix(tensor, latents_first, 1.7).by_row(0, expected.shape[0])
        torch.testing.assert_close(rows, expected.float() * 1.7, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [([4], [-16, 0]), ([-1, -4], [0, 16]), ([2], [0, 16]), (["x"], [0, 4]), ([2], [0]), ([float("inf")], [0, 4])],
)
def test_a_header_that_contradicts_itself_is_a_sentence(
    shape: list[object], offsets: list[int], tmp_path: Path
) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    (tmp_path / "t.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(SpecError, match="is not a safetensors file of weights"):
        safetensors_header(tmp_path / "t.safetensors")


def test_empty_tensors_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, 0), "b": torch.zeros(0)}, tmp_path / "t.safetensors")
    found = safetensors_header(tmp_path / "t.safetensors")
    assert found["a"].read().shape == (3, 0) and found["b"].read().shape == (0,)
    np.savez(tmp_path / "t.npz", a=np.zeros(3, dtype=np.longdouble))
    with pytest.raises(SpecError, match="is not an npz file of weights"):
        npz_arrays(tmp_path / "t.npz")


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("name", ["W_enc", "b_enc"])
def test_a_weight_that_is_no_number_is_told_and_is_no_dead_latent(
    study_path: Path, tmp_path: Path, name: str, memory: int | None, small_slices: None
) -> None:
    sae = build_sae("jumprelu", HOOK)
    getattr(sae, name).data[..., 25] = torch.nan
    sae.save_model(tmp_path / "sae")
    with pytest.raises(SpecError, match=f"{name} of the SAE holds NaN"):
        load_dictionary(
            load_study(study_path), SaeSpec(HOOK, str(tmp_path / "sae")), D_MODEL, "cpu", memory=memory
        ).encode(X)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is asked of the hub, which gives the files below `tmp_path`."""
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    found: list[tuple[str, str]] = []

    def download(repo_id: str, filename: str, **_: object) -> str:
        found.append((repo_id, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return found


def test_an_sae_of_a_gemma_scope_release_is_downloaded_and_read_as_a_folder(
    tmp_path: Path, study_path: Path, asked: list[tuple[str, str]]
) -> None:
    sae_id = "layer_12/width_16k/average_l0_82"
    hand_made = build_sae("jumprelu", HOOK, apply_b_dec_to_input=False)
    folder = gemma_folder(tmp_path / sae_id, hand_made)
    sae = SaeSpec("blocks.12.hook_resid_post", release="gemma-scope-2b-pt-res", id=sae_id)
    equal_forward(hand_made, load_dictionary(load_study(study_path), sae, D_MODEL, "cpu"))
    assert asked == [("google/gemma-scope-2b-pt-res", f"{sae_id}/params.npz")]
    # What is in the hub's cache is not asked for.
    cached = tmp_path / "hub" / "models--google--gemma-scope-2b-pt-res" / "snapshots" / ("0" * 40) / sae_id
    cached.parent.mkdir(parents=True)
    folder.rename(cached)
    assert release_folder(sae) == cached
    assert len(asked) == 1


def test_an_sae_of_gemma_scope_2_is_read_as_a_folder(
    tmp_path: Path, study_path: Path, asked: list[tuple[str, str]]
) -> None:
    row = find_saes(read_catalogue(), [("gemma-scope-2-1b-pt-res", "layer_13_width_16k_l0_big")]).row(0, named=True)
    hand_made = build_sae("jumprelu", HOOK, apply_b_dec_to_input=False)
    folder = gemma_2_folder(tmp_path / row["path"], hand_made)
    sae = SaeSpec(row["hook"], release=row["release"], id=row["id"])
    assert release_folder(sae) == folder
    equal_forward(hand_made, load_dictionary(load_study(study_path), sae, D_MODEL, "cpu"))
    assert asked[0] == ("google/gemma-scope-2-1b-pt", f"{row['path']}/params.safetensors")


def test_an_sae_of_a_llama_scope_release_is_read_as_a_folder(
    tmp_path: Path, study_path: Path, asked: list[tuple[str, str]]
) -> None:
    folder = llama_folder(tmp_path / "Llama3_1-8B-Base-L12R-8x", sparsity_include_decoder_norm=True)
    sae = SaeSpec("blocks.12.hook_resid_post", release="llama_scope_lxr_8x", id="l12r_8x")
    assert release_folder(sae) == folder
    loaded = load_dictionary(load_study(study_path), sae, D_MODEL, "cpu")
    local = load_dictionary(load_study(study_path), SaeSpec(HOOK, str(folder)), D_MODEL, "cpu")
    assert torch.equal(loaded.encode(X).values, local.encode(X).values)
    key = content_key({"release": sae.release, "id": sae.id, "reader": 2})
    assert sae_fingerprint(load_study(study_path), sae) == key
    names = {"hyperparams.json", "checkpoints/final.safetensors"}
    assert set(asked) == {("fnlp/Llama3_1-8B-Base-LXR-8x", f"{folder.name}/{name}") for name in names}
    # Files of two commits are no SAE: both are asked for again, of one commit.
    asked.clear()
    for commit, name in zip("ab", sorted(names), strict=True):
        part = (
            tmp_path
            / "hub"
            / "models--fnlp--Llama3_1-8B-Base-LXR-8x"
            / "snapshots"
            / (commit * 40)
            / folder.name
            / name
        )
        part.parent.mkdir(parents=True)
        part.write_bytes((folder / name).read_bytes())
    assert release_folder(sae) == folder and len(asked) == 2


def test_a_study_of_releases_is_swept(tmp_path: Path, study_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from dmcore.run.pipeline import Pipeline
    from dmcore.sources.catalogue import filter_catalogue, read_catalogue
    from dmcore.store.store import Store

    ids = filter_catalogue(read_catalogue(tmp_path), "gemma-scope-2b-pt-res", layer=1)["id"].to_list()[:2]
    for seed, sae_id in enumerate(ids):
        gemma_folder(tmp_path / sae_id, build_sae("jumprelu", HOOK, seed=seed, apply_b_dec_to_input=False))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, filename, **_: str(tmp_path / filename))
    saes = tuple(SaeSpec(HOOK, release="gemma-scope-2b-pt-res", id=sae_id, check=False) for sae_id in ids)
    study = dataclasses.replace(load_study(study_path), saes=saes)
    outcome = Pipeline(Store(tmp_path / "cache")).sweep(study)
    assert outcome.failures == {}
    assert [record["sae"] for record in outcome.records] == [f"gemma-scope-2b-pt-res/{sae_id}" for sae_id in ids]
    assert outcome.records[0]["fvu"] != outcome.records[1]["fvu"]


def test_a_release_is_compared_with_the_study_before_anything_is_downloaded(study_path: Path) -> None:
    study = load_study(study_path)
    with pytest.raises(
        SpecError, match=r"There is no release 'gemma-scope-2b-res': did you mean gemma-scope-2b-pt-res"
    ):
        read_config(study, SaeSpec(HOOK, release="gemma-scope-2b-res", id="x"))
    with pytest.raises(
        SpecError,
        match=r"has no SAE 'layer_12/width_16k/average_l0_83': did you mean .*layer_12/width_16k/average_l0_82\?",
    ):
        read_config(study, SaeSpec(HOOK, release="gemma-scope-2b-pt-res", id="layer_12/width_16k/average_l0_83"))
    listed = {"release": "gemma-scope-2b-pt-res", "id": "layer_12/width_16k/average_l0_82"}
    with pytest.raises(SpecError, match=r"was trained at blocks.12.hook_resid_post"):
        read_config(study, SaeSpec(HOOK, **listed))
    other = dataclasses.replace(study, model=ModelSpec(id="google/gemma-2-9b"))
    with pytest.raises(SpecError, match=r"was trained on google/gemma-2-2b"):
        read_config(other, SaeSpec("blocks.12.hook_resid_post", **listed))
    found = read_config(study, SaeSpec("blocks.12.hook_resid_post", **listed))
    assert (found.architecture, found.d_in, found.d_sae) == ("jumprelu", 2304, 16384)
    bare = dataclasses.replace(study, model=ModelSpec(id="gpt2"))
    asks = SaeSpec("blocks.3.hook_resid_pre", release="gpt2-small-res-jb", id="blocks.3.hook_resid_pre")
    with pytest.raises(SpecError, match=r"write processing = \['center_writing_weights'\]"):
        read_config(bare, asks)
    read_config(dataclasses.replace(study, model=ModelSpec(id="gpt2", processing=("center_writing_weights",))), asks)


def test_a_release_that_cannot_be_downloaded_is_a_sentence(study_path: Path) -> None:
    sae = SaeSpec("blocks.12.hook_resid_post", release="gemma-scope-2b-pt-res", id="layer_12/width_16k/average_l0_82")
    with pytest.raises(SpecError, match=r"is not in the local cache and the hub cannot be reached"):
        load_dictionary(load_study(study_path), sae, D_MODEL, "cpu")
    jb = SaeSpec("blocks.3.hook_resid_pre", release="gpt2-small-res-jb", id="blocks.3.hook_resid_pre")
    with pytest.raises(SpecError) as caught:
        load_dictionary(load_study(study_path), jb, D_MODEL, "cpu")
    assert "\n" not in str(caught.value)
