"""A study of ids and releases, downloaded for real from a hub on this machine: the numbers of the same files in folders."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from dmcore.progress import Reporter
from dmcore.run.engines import Engine, open_pipeline
from dmcore.specs import load_study
from tests.builders import build_sae
from tests.fake_hub import Hub, serve_hub
from tests.model_builders import save_model
from tests.sources.test_sliced_saes import gemma_folder

ROOT = Path(__file__).parents[2]
HOOK = "blocks.1.hook_resid_post"
MODEL, TEXTS, SCOPE, TRAINED = (
    "google/gemma-2-2b",
    "monology/pile-uncopyrighted",
    "google/gemma-scope-2b-pt-res",
    "chanind/gemma-2-2b-batch-topk-matryoshka-saes-w-32k-l0-40",
)
SCOPE_ID = "layer_1/width_16k/average_l0_102"
SETTINGS = {"n_contexts": 12, "context_length": 24, "skip": 2}


def write_files(root: Path) -> None:
    """The repositories: a model in shards, texts as the Pile's are, an SAE of Gemma Scope, one of SAELens."""
    from transformers import AutoModelForCausalLM

    folder = save_model("gemma2", root / "models" / MODEL)
    whole = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    whole.save_pretrained(folder, max_shard_size="6KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    generator = np.random.default_rng(0)
    rows = [
        {"text": " ".join(f"w{i}" for i in generator.integers(7, 60, 40)), "meta": {"pile_set_name": f"set {n % 3}"}}
        for n in range(60)
    ]
    texts = root / "datasets" / TEXTS
    (texts / "train").mkdir(parents=True)
    for part in range(2):
        lines = "".join(json.dumps(row) + "\n" for row in rows[part * 30 : part * 30 + 30])
        (texts / "train" / f"{part:02}.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    gemma_folder(root / "models" / SCOPE / SCOPE_ID, build_sae("jumprelu", HOOK, apply_b_dec_to_input=False, seed=1))
    build_sae("jumprelu", HOOK, seed=2).save_model(root / "models" / trained_place())


def trained_place() -> str:
    """Where the registry says that an SAE of SAELens is."""
    from dmcore.sources.catalogue import find_saes, read_catalogue

    row = find_saes(read_catalogue(), [("gemma-2-2b-res-matryoshka-dc", HOOK)]).row(0, named=True)
    return f"{row['repo_id']}/{row['path']}"


def write_study(path: Path, model: str, texts: str, saes: list[str]) -> Path:
    """A study file."""
    tables = "".join(f'[[saes]]\nhook = "{HOOK}"\ncheck = false\n{sae}\n' for sae in saes)
    path.write_text(
        f'schema = 1\nname = "{path.stem}"\nseed = 0\n[model]\n{model}\n[texts]\n{texts}\ndomain = "meta.pile_set_name"\n'
        f"n_contexts = {SETTINGS['n_contexts']}\ncontext_length = {SETTINGS['context_length']}\n"
        f"[settings]\nskip_positions = {SETTINGS['skip']}\n{tables}"
    )
    return path


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    write_files(root)
    with serve_hub(root) as hub:
        hub.gated.add(MODEL)
        yield hub


@pytest.fixture(scope="module")
def steps(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a program of its own saw at each step, by name."""
    home = tmp_path_factory.mktemp("home")
    saes = [
        f'release = "gemma-scope-2b-pt-res"\nid = "{SCOPE_ID}"',
        f'release = "gemma-2-2b-res-matryoshka-dc"\nid = "{HOOK}"',
    ]
    study = write_study(home / "ids.toml", f'id = "{MODEL}"', f'dataset = "{TEXTS}"\nshuffle_buffer = 0', saes)
    # Nothing of the real hub's: its cache is not to hold what is downloaded here.
    others = ("HF_", "HUGGING", "TRANSFORMERS_", "DMCORE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    environment = {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "*",
    }
    program = [sys.executable, "-m", "tests.sources.hub_sweeps", str(study), str(home / "cache"), hub.token]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    found = {line["step"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, done.stderr[-3000:]
    assert hub.token not in done.stdout + done.stderr
    return found


def numbers(step: dict[str, Any]) -> str:
    """All of its records but the time."""
    return json.dumps([{k: v for k, v in record.items() if k != "computed"} for record in step["records"]])


def test_a_gated_model_without_a_token_is_a_sentence(steps: dict[str, dict[str, Any]]) -> None:
    assert steps["gated"]["error"] == (
        f"The model {MODEL} is gated: accept its licence on its page (huggingface.co/{MODEL}), then set HF_TOKEN in the "
        "environment."
    )


def test_downloads_that_are_cut_off_are_sentences_and_lose_nothing(steps: dict[str, dict[str, Any]]) -> None:
    assert steps["cut"]["error"] == (
        f"The download of the model {MODEL} broke off: run it again, what has come whole is kept."
    )
    assert len(steps["up"]["records"]) == 2 and not steps["up"]["failures"]


def test_numbers_are_those_of_the_same_files_in_folders(
    hub: Hub, steps: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    places = [hub.root / "models" / SCOPE / SCOPE_ID, hub.root / "models" / trained_place()]
    study = write_study(
        tmp_path / "folders.toml",
        f'path = "{hub.root / "models" / MODEL}"',
        f'files = "{hub.root / "datasets" / TEXTS / "train"}"\nshuffle_buffer = 0',
        [f'path = "{place}"' for place in places],
    )
    outcome = open_pipeline(Engine(), "cpu", Reporter(), root=tmp_path / "cache").sweep(load_study(study))
    assert not outcome.failures
    for ours, theirs in zip(outcome.records, steps["up"]["records"], strict=True):
        assert (ours["site"], ours["d_sae"]) == (theirs["site"], theirs["d_sae"])
        for name, value in theirs.items():
            if isinstance(value, float) and not math.isnan(value):
                assert ours[name] == value, name


@pytest.mark.parametrize("state", ["up", "silent", "busy"])
def test_what_is_in_the_hubs_cache_needs_no_hub(steps: dict[str, dict[str, Any]], state: str) -> None:
    again = steps[f"again {state}"]
    assert not again.get("error") and not again["failures"]
    assert numbers(again) == numbers(steps["up"])


@pytest.mark.parametrize("state", ["silent", "busy"])
def test_a_hub_that_does_not_answer_is_not_asked_for_every_file(
    hub: Hub, steps: dict[str, dict[str, Any]], state: str
) -> None:
    assert {asked for when, asked in hub.requests if when == state} == {"HEAD /"}


def test_what_is_not_there_and_cannot_be_had_is_a_sentence(steps: dict[str, dict[str, Any]]) -> None:
    assert steps["new silent"]["error"] == (
        f"The data set {TEXTS} is not in the local cache and the hub cannot be reached: check the network (and that "
        "HF_HUB_OFFLINE is not set), or give a local path."
    )
