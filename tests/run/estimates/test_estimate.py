"""Estimates: against what a sweep leaves on disk, against hand counts, and for every way in which an SAE is named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dmcore.errors import SpecError
from dmcore.run.cli import main
from dmcore.run.estimates.estimate import Machine, StudyEstimate, describe, estimate_study
from dmcore.run.estimates.machine import gpu_here, machine_of_gpu
from dmcore.run.estimates.words import bytes_text, count_text, flops_text, seconds_text
from dmcore.specs import ModelSpec, PartsSpec, SaeSpec, Settings, Study, TextsSpec, TrainSpec, load_study
from dmcore.store.store import Entry, Store
from tests.builders import build_study

ROOT = Path(__file__).parents[3]
GIB = 2**30


def gemma_study(*saes: SaeSpec, **more: object) -> Study:
    chosen = saes or (
        SaeSpec("blocks.20.hook_resid_post", release="gemma-scope-9b-pt-res", id="layer_20/width_16k/average_l0_68"),
    )
    given = {
        "model": ModelSpec(id="google/gemma-2-9b", dtype="bfloat16"),
        "texts": TextsSpec(dataset="owner/texts"),
        "settings": Settings(skip_positions=200),
        "train": None,
        **more,
    }
    return Study("s", "S", 0, given["model"], given["texts"], given["settings"], chosen, train=given["train"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("cache"))


def test_bytes_are_those_that_a_sweep_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build_study(tmp_path / "study", architectures=("topk",))
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    expected = estimate_study(load_study(path))
    assert main(["sweep", str(path), "--device", "cpu"]) == 0
    found: dict[str, int] = {}
    for entry in Store().entries():
        assert isinstance(entry, Entry)
        for name in entry.path.iterdir():
            if name.suffix in {".npy", ".safetensors"} or name.name == "tokens.parquet":
                found[entry.manifest.stage] = found.get(entry.manifest.stage, 0) + name.stat().st_size
    assert expected.activation_bytes == pytest.approx(found["activations"], rel=0.1)
    assert expected.code_bytes == pytest.approx(found["codes"], rel=0.1)
    moments = sum(found[stage] for stage in ("inputs", "targets", "split", "summary", "losses", "scaling"))
    # The files' headers are a large part of so small a study.
    assert expected.moment_bytes == pytest.approx(moments, rel=0.35)


def test_the_demos_estimate_is_that_of_its_cache() -> None:
    """Measured on the demo's own sweep: 238 MiB of activations, and codes of 268 MiB whose L0 is not exactly the target."""
    found = estimate_study(load_study(ROOT / "dmcore/demo/artifacts/study.toml"))
    assert found.activation_bytes == 7 * found.n_tokens * 128 * 4
    assert (found.device, found.fits, found.download_bytes) == ("cpu", True, 0)
    assert all(sae.l0_known and sae.width_known and sae.source == "disk" for sae in found.saes)
    assert {sae.l0 for sae in found.saes} == {4, 8, 16, 32}


def test_the_hand_count_of_one_gemma_sae(store: Store) -> None:
    found = estimate_study(gemma_study(), store)
    n, d, width = 300 * 1024, 3584, 16_384
    assert (found.parameters, found.parameter_bytes) == (9_241_705_984, 2 * 9_241_705_984)
    assert found.n_tokens == n
    assert found.activation_bytes == n * d * 2
    assert found.code_bytes == pytest.approx(n * (6 * 68 + 2), rel=1e-4)
    assert found.largest_sae_bytes == found.sae_download_bytes == 4 * (2 * d * width + 2 * width + d)
    assert found.operations.encode == 2 * n * d * (width + 2 * 68)
    assert found.operations.moments == 2 * (2 * n * (d + 1) ** 2)
    # Two d x d products of all tokens in float64 and two in float32, and a little that is solved.
    assert 8 * n * d**2 < found.operations.norms < 1.3 * 8 * n * d**2
    assert found.operations.model == pytest.approx(2 * n * (9.24e9 + 42 * 2 * 4096 * 1024), rel=0.01)
    # 5 folds x 3 ranges of positions (0, 1, 200), in float64, once for the site and once for the SAE.
    assert 2 * 15 * 8 * (d + 1) ** 2 < found.moment_bytes < 2.5 * 15 * 8 * (d + 1) ** 2
    assert found.model_download_bytes == found.parameter_bytes
    assert found.seconds_by_stage["encode"] == pytest.approx(found.operations.encode / (0.4 * 67e12))
    assert found.seconds_by_stage["model"] == pytest.approx(found.operations.model / (0.4 * 989e12))
    assert found.seconds == sum(found.seconds_by_stage.values())


def test_a_wide_sae_has_two_bytes_a_token_for_every_slab(store: Store) -> None:
    wide = SaeSpec("blocks.20.hook_resid_post", release="gemma-scope-9b-pt-res", id="layer_20/width_1m/average_l0_101")
    found = estimate_study(gemma_study(wide), store)
    assert found.code_bytes == pytest.approx(found.n_tokens * (6 * 101 + 2 * 16), rel=1e-4)


def test_memory_falls_with_devices_and_says_whether_it_fits(store: Store) -> None:
    study = gemma_study(model=ModelSpec(id="meta-llama/Llama-2-70b-hf", dtype="bfloat16"), train=None)
    own = SaeSpec("blocks.40.hook_resid_post", custom="mine")
    study = replace(study, saes=(own,))
    one, four = (estimate_study(study, store, Machine(devices=n)) for n in (1, 4))
    assert not one.fits
    assert four.fits
    assert one.model_memory_bytes - four.model_memory_bytes == one.parameter_bytes - one.parameter_bytes // 4
    assert one.devices_needed == four.devices_needed
    enough = one.devices_needed or 0
    assert estimate_study(study, store, Machine(devices=enough)).fits
    assert not estimate_study(study, store, Machine(devices=enough - 1)).fits
    assert estimate_study(study, store, Machine(memory_gib=500.0)).fits
    assert one.seconds == four.seconds
    assert "does not fit in 80 GiB; 2 devices would do" in dict(describe(one))["Memory per device"]


def test_a_given_rate_takes_the_place_of_the_devices_own(store: Store) -> None:
    slow, fast = (estimate_study(gemma_study(), store, Machine(tflops=t)) for t in (10.0, 100.0))
    for stage in ("model", "encode", "moments", "split", "norms"):
        assert slow.seconds_by_stage[stage] == pytest.approx(10 * fast.seconds_by_stage[stage])
    with pytest.raises(SpecError, match="give one of H200, H100, A100, .* cpu"):
        estimate_study(gemma_study(), store, Machine("abacus"))


def test_what_is_not_known_is_assumed_and_said(store: Store) -> None:
    study = gemma_study(
        SaeSpec("blocks.2.hook_resid_pre", release="gpt2-small-res_scl-ajt", id="blocks.2.hook_resid_pre"),
        model=ModelSpec(id="gpt2"),
    )
    found = estimate_study(study, store)
    assert (found.saes[0].l0, found.saes[0].l0_known) == (100, False)
    assert (found.saes[0].d_sae, found.saes[0].width_known) == (16 * 768, False)
    said = " ".join(found.assumptions)
    assert "1 of 1 SAEs do not say their L0: 100" in said
    assert "do not say their width" in said


def test_training_counts_the_grid_the_models_runs_and_the_disk(store: Store, tmp_path: Path) -> None:
    def found(source: str) -> StudyEstimate:
        train = TrainSpec(("blocks.20.hook_resid_post",), (1024, 2048), (32,), tokens=10**6, source=source)
        return estimate_study(replace(gemma_study(*train.saes(), train=train), folder=tmp_path), store)

    live, captured = found("live"), found("captured")
    assert [(sae.d_sae, sae.l0, sae.source) for sae in live.saes] == [(1024, 32, "training"), (2048, 32, "training")]
    assert live.operations.training == 12 * 10**6 * 3584 * 3072
    run = -(-(10**6) // 824) * 1024  # the first 200 of 1,024 positions are run, but not trained on
    per_token = live.operations.training_model / run
    assert 21 * 2 * 198e6 < per_token < 0.55 * live.operations.model / live.n_tokens  # 21 of 42 layers, no unembedding
    assert captured.training_bytes - live.training_bytes == run * 3584 * 2
    assert live.training_memory_bytes > captured.training_memory_bytes > 0
    assert live.sae_download_bytes == 0
    assert estimate_study(gemma_study(), store).training_memory_bytes == 0


def test_saes_on_the_parts_are_counted_until_they_are_there(store: Store, tmp_path: Path) -> None:
    plain = gemma_study()
    (tmp_path / "s.toml").write_text("")
    parts = PartsSpec(plain.saes[0].name, 4096, 32, seeds=(0, 1), tokens=10**6)
    live, bare = (replace(plain, parts=p, folder=tmp_path) for p in (parts, None))
    captured = replace(live, parts=replace(parts, source="captured"))
    without, found, kept = (estimate_study(study, store) for study in (bare, live, captured))
    d, base = 3584, 16384
    tokens = 300 * 1024
    assert found.operations.encode - without.operations.encode == 8 * 2 * tokens * d * (4096 + 2 * 32)
    making = 2 * 2 * 10**6 * d * (base + 2 * 68 + d)
    assert found.operations.training == pytest.approx(making + 8 * 12 * 10**6 * d * 4096, rel=1e-12)
    assert found.operations.training_model == 2 * kept.operations.training_model > 0, "live: once for each seed"
    run = -(-(10**6) // 824) * 1024
    weights = 4 * (2 * d * 4096 + 2 * 4096 + d)
    assert (found.training_bytes, kept.training_bytes) == (8 * weights, run * d * 2 + 8 * weights)
    assert found.code_bytes - without.code_bytes == 8 * (tokens * (6 * 32 + 2) + 8 * 301)
    assert found.training_memory_bytes > kept.training_memory_bytes > 4 * 4 * weights
    for sae in parts.saes():
        (tmp_path / sae.path).mkdir(parents=True)
    there = estimate_study(live, store)
    assert (there.operations.training, there.operations.training_model, there.training_bytes) == (0, 0, 0)
    assert there.operations.encode == found.operations.encode
    assert "to be trained" in " ".join(found.assumptions)
    assert "to be trained" not in " ".join(there.assumptions)


def test_folders_are_read_or_known_by_their_names(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cfg.json").write_text(json.dumps({"d_in": 3584, "d_sae": 777, "k": 9}))
    hook = "blocks.20.hook_resid_post"
    saes = (
        SaeSpec(hook, "a"),
        SaeSpec(hook, "b/width_65k/average_l0_55"),
        SaeSpec(hook, "c/topk_512_7"),
        SaeSpec(hook, "d/layer_9_width_262k_l0_big"),
    )
    found = estimate_study(replace(gemma_study(*saes), folder=tmp_path), store).saes
    assert [(s.d_sae, s.l0, s.source) for s in found] == [
        (777, 9, "disk"),
        (65_536, 55, "missing"),
        (512, 7, "missing"),
        (262_144, 100, "missing"),
    ]


@pytest.mark.parametrize(
    ("sae", "says"),
    [
        (SaeSpec("blocks.20.hook_resid_post", release="gemma-scope-9b-res", id="x"), "did you mean gemma-scope-9b-"),
        (
            SaeSpec(
                "blocks.20.hook_resid_post", release="gemma-scope-9b-pt-res", id="layer_20/width_16k/average_l0_69"
            ),
            "did you mean layer_20/width_16k/average_l0_6",
        ),
        (
            SaeSpec(
                "blocks.21.hook_resid_post", release="gemma-scope-9b-pt-res", id="layer_20/width_16k/average_l0_68"
            ),
            r"was trained at blocks\.20",
        ),
        (
            SaeSpec("blocks.2.hook_resid_pre", release="gpt2-small-res-jb", id="blocks.2.hook_resid_pre"),
            "reads 768 dimensions",
        ),
    ],
)
def test_an_sae_that_cannot_be_is_one_sentence(store: Store, sae: SaeSpec, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        estimate_study(gemma_study(sae), store)


def test_words() -> None:
    assert [bytes_text(n) for n in (0, 1023, 1024, 1.5 * GIB, 3000 * GIB)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "1.5 GiB",
        "2.93 TiB",
    ]
    assert bytes_text(1010 * 2**20) == "1,010 MiB"
    assert flops_text(4.2e15) == "4.20 x 10^15 floating-point operations"
    assert [count_text(n) for n in (999, 1.05e6, 9.24e9)] == ["999", "1.05 million", "9.24 billion"]
    assert [seconds_text(n) for n in (0.2, 45, 600, 9000, 2e5)] == ["under 1 s", "45 s", "10 min", "2.5 h", "2.3 days"]


def test_the_command_prints_rows_or_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    assert main(["plan", "demo"]) == 0
    text = capsys.readouterr().out
    assert "1,590,656: 6.07 MiB in float32" in text
    assert "40% of its peak" in text
    assert (
        main(["plan", str(ROOT / "studies/llama-2-70b.toml"), "--devices", "4", "--device-memory", "80", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["parameters"], found["devices"], found["fits"]) == (68_976_648_192, 4, True)
    assert found["operations"]["total"] == pytest.approx(sum(v for k, v in found["operations"].items() if k != "total"))
    assert main(["plan", "demo", "--devices", "0"]) == 1
    assert "--devices is 0" in capsys.readouterr().err
    assert main(["plan", "demo", "--tflops", "-1"]) == 1
    assert "--tflops is -1" in capsys.readouterr().err


def test_estimating_imports_neither_torch_nor_saelens(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dmcore.run.estimates.estimate import estimate_study;"
        "from dmcore.specs import load_study; from dmcore.store.store import Store;"
        f"estimate_study(load_study(Path('studies/gemma-2-9b-layer-20.toml')), Store(Path({str(tmp_path)!r})));"
        "heavy = {'torch', 'sae_lens', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA H200", "H200"), ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"), ("NVIDIA GeForce RTX 4090", "RTX-4090"), ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"), ("NVIDIA A10G", "A10"), ("Tesla T4", "T4"), ("NVIDIA RTX A6000", "A6000"),
        ("Tesla V100-SXM2-32GB", "V100"), ("NVIDIA RTX 4000 Ada Generation", "GPU"), ("", "GPU"),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_what_it_calls_itself(name: str, device: str) -> None:
    found = machine_of_gpu(name, 17.5)
    assert found.device == device
    assert found.peak(1).memory_gib == 17.5
    assert machine_of_gpu(name, None).peak(1).memory_gib > 1


def test_an_unknown_gpu_has_its_own_memory_and_says_that_its_rate_is_assumed(store: Store) -> None:
    found = estimate_study(gemma_study(), store, machine_of_gpu("Some GPU 3", 17.5))
    assert found.device_memory_bytes == int(17.5 * 2**30)
    assert any("The rates of Some GPU 3 are not known" in said and "17.5 GiB" in said for said in found.assumptions)
    known = estimate_study(gemma_study(), store, Machine("H200"))
    assert not any("not known" in said for said in known.assumptions)
    given = estimate_study(gemma_study(), store, Machine("GPU", tflops=10.0))
    assert not any("not known here" in said for said in given.assumptions)


def test_the_driver_is_asked_for_name_and_memory_and_may_be_silent() -> None:
    def answer(text: str) -> Any:
        return lambda *_, **__: subprocess.CompletedProcess([], 0, text, "")

    assert gpu_here(answer("NVIDIA H200, 143771\nNVIDIA H200, 143771\n")) == ("NVIDIA H200", 143771 / 1024)
    for nothing in ("", "no devices were found\n", "NVIDIA GB10, [N/A]\n"):
        assert gpu_here(answer(nothing)) is None
    assert gpu_here(lambda *_, **__: subprocess.run(["/nonexistent/nvidia-smi"])) is None


def test_the_estimate_counts_with_the_numbers_of_the_code_that_it_cannot_import() -> None:
    from dmcore.analysis import activations, capture, codes
    from dmcore.run.estimates import work
    from dmcore.sources import hooked

    assert work.SLAB == codes.SLAB
    assert work.CHUNK_TOKENS == activations.TOKENS_PER_CHUNK
    assert work.CONTEXTS_PER_RUN["cpu"] == capture.CONTEXTS_PER_RUN
    assert work.CONTEXTS_PER_RUN_GPU == capture.CONTEXTS_PER_RUN_CUDA
    assert work.LOGITS_PER_RUN == hooked.LOGITS_PER_RUN
