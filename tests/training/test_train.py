"""Training a study's grid: stored, measured, resumed, refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from dmcore.errors import Cancelled, DataError, SpecError, StoreError
from dmcore.progress import Progress, Reporter
from dmcore.run.pipeline import Pipeline
from dmcore.sources.models import load_model
from dmcore.sources.saes import load_dictionary
from dmcore.specs import TRAINABLE, Study, load_study
from dmcore.store.store import Store
from dmcore.training import train_study
from dmcore.training.readers import LiveReader
from dmcore.training.texts import training_texts
from tests.training.studies import build_train_study

HOOK = "blocks.1.hook_resid_post"
HOOKS = (HOOK, "blocks.0.attn.hook_z", "blocks.2.hook_mlp_out")


def weights(study: Study) -> dict[str, bytes]:
    return {str(p.relative_to(study.folder)): p.read_bytes() for p in sorted(study.folder.rglob("sae_weights*"))}


def train(study: Study, reporter: Reporter | None = None, **changes):
    if changes:
        study = replace(study, train=replace(study.train, **changes))
    return train_study(study, "cpu", reporter or Reporter(), Store(study.folder / "cache"))


class Interruption:
    """Asks to stop once, after some calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, list]:
    """Every architecture at one site, TopK at two more, trained."""
    study = build_train_study(tmp_path_factory.mktemp("grid"), hooks=HOOKS, architectures=TRAINABLE)
    return study, train(study)


def test_every_sae_of_the_grid_is_stored_under_the_studys_own_path(grid) -> None:
    study, trained = grid
    assert [one.sae for one in trained] == list(study.saes)
    assert all(one.folder == study.resolve(one.sae.path) and one.trained for one in trained)
    assert not (study.folder / "saes" / ".checkpoint").exists()
    for one in trained:
        config = json.loads((one.folder / "cfg.json").read_text())
        assert config["metadata"]["hook_name"] == one.sae.hook
        assert config["device"] == "cpu"


def test_the_logged_numbers_are_those_of_the_stored_sae_on_held_out_contexts(grid) -> None:
    study, trained = grid
    texts = training_texts(study, 1000, Store(study.folder / "cache"), Reporter())
    acts = LiveReader(load_model(study, "cpu"), texts.contexts.tokens, 4).read(texts.held_out, HOOKS)
    for one in trained:
        x = acts[one.sae.hook]
        assert len(x) == 8 * 20
        dictionary = load_dictionary(study, one.sae, x.shape[1], "cpu")
        codes = dictionary.encode(x)
        error = x - dictionary.decode(codes, x)
        fvu = float(error.square().sum() / (x - x.mean(0)).square().sum())
        assert one.fvu == pytest.approx(fvu, rel=1e-4)
        assert one.l0 == pytest.approx(float(codes.l0.float().mean()), rel=1e-4)


def test_the_curve_falls_and_says_what_was_seen(grid) -> None:
    for one in grid[1]:
        log = json.loads((one.folder / "train.json").read_text())
        curve = log["curve"]
        assert len(curve) >= 10
        assert curve[-1]["fvu"] < curve[0]["fvu"]
        assert curve[-1]["tokens"] == log["tokens"] == one.tokens >= 6000
        assert log["held_out_contexts"] == 8
        assert log["settings"]["architecture"] == one.sae.label


def test_a_sweep_decomposes_what_was_trained(grid) -> None:
    study, trained = grid
    outcome = Pipeline(Store(study.folder / "cache"), "cpu").sweep(study)
    assert not outcome.failures
    assert [record["sae"] for record in outcome.records] == [one.sae.path for one in trained]
    assert {record["label"] for record in outcome.records} == set(TRAINABLE)
    for record, one in zip(outcome.records, trained, strict=True):
        assert record["fvu"] == pytest.approx(one.fvu, rel=0.25), "the contexts are others"


def test_what_is_there_is_not_trained_again_and_other_settings_train_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = build_train_study(tmp_path, tokens=1500)
    train(study)
    before = weights(study)
    again = train(study)
    assert weights(study) == before
    assert [one.trained for one in again] == [False]
    changed = build_train_study(tmp_path, tokens=1500, seed=1)
    assert [one.trained for one in train(changed)] == [True]
    (place, old), now = next(iter(before.items())), weights(study)
    assert now[place] != old
    assert old in now.values(), "the SAE of the other settings is kept beside it"
    assert "is trained anew: seed was 0, is 1" in caplog.text
    assert "is kept as" in caplog.text


def test_a_folder_that_training_did_not_make_is_not_overwritten(tmp_path: Path) -> None:
    study = build_train_study(tmp_path)
    folder = study.resolve(study.saes[0].path)
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text("{}")
    with pytest.raises(SpecError, match="train-saes did not make"):
        train(study)
    assert (folder / "cfg.json").read_text() == "{}"


@pytest.mark.parametrize("engine", ["sae-lens", "lean"])
@pytest.mark.parametrize("source", ["live", "captured"])
def test_an_interrupted_training_ends_as_an_undisturbed_one(
    engine: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmcore.training.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("dmcore.training.loop._CHECKPOINT_SHARE", 1e9)
    choice = {"architectures": ("topk", "batchtopk", "jumprelu"), "tokens": 6000, "source": source}
    whole = build_train_study(tmp_path / "whole", **choice)
    train(whole, engine=engine)
    broken = build_train_study(tmp_path / "broken", **choice)
    stopped_at = []
    for calls in (40, 50, 40):
        with pytest.raises(Cancelled):
            train(broken, Reporter(should_cancel=Interruption(calls)), engine=engine)
        checkpoint = broken.folder / "saes" / ".checkpoint" / "state.json"
        stopped_at.append(json.loads(checkpoint.read_text())["index"] if checkpoint.exists() else 0)
    assert stopped_at == sorted(set(stopped_at)), "each attempt went on from the one before"
    train(broken, engine=engine)
    assert weights(broken) == weights(whole)


def test_activations_from_disk_train_the_same_sae_as_those_of_the_model(tmp_path: Path) -> None:
    live = build_train_study(tmp_path / "live", hooks=HOOKS[:2], tokens=2000)
    disk = build_train_study(tmp_path / "disk", hooks=HOOKS[:2], tokens=2000, source="captured")
    one, two = train(live), train(disk)
    for a, b in zip(one, two, strict=True):
        first, second = (load_file(x.folder / "sae_weights.safetensors") for x in (a, b))
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-3)
    # The settings are the same, so the other source finds them finished.
    assert [x.trained for x in train(build_train_study(tmp_path / "disk", hooks=HOOKS[:2], tokens=2000))] == [False] * 2


KILLED = """
import sys
from pathlib import Path
import torch
from dmcore.progress import Reporter
from dmcore.specs import load_study
from dmcore.store.store import Store
from dmcore.training import loop, train_study
torch.set_num_threads(1)
loop.CHECKPOINT_SECONDS, loop._CHECKPOINT_SHARE = 0.0, 1e9
study = load_study(Path(sys.argv[1]))
train_study(study, "cpu", Reporter(), Store(study.folder / "cache"))
"""


def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    choice = {"architectures": ("topk", "gated"), "tokens": 40_000}
    whole = build_train_study(tmp_path / "whole", **choice)
    train(whole)
    broken = build_train_study(tmp_path / "broken", **choice)
    state = broken.folder / "saes" / ".checkpoint" / "state.json"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(broken.folder / "study.toml")])
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if state.exists():
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert not weights(broken)
    train(broken)
    assert weights(broken) == weights(whole)


def test_a_grid_that_grows_while_it_is_trained_goes_on_with_what_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmcore.training.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("dmcore.training.loop._CHECKPOINT_SHARE", 1e9)
    whole = build_train_study(tmp_path / "whole", widths=(32, 48), tokens=2000)
    train(whole)
    small = build_train_study(tmp_path / "grown", tokens=2000)
    with pytest.raises(Cancelled):
        train(small, Reporter(should_cancel=Interruption(20)))
    grown = build_train_study(tmp_path / "grown", widths=(32, 48), tokens=2000)
    stages: list[Progress] = []
    train(grown, Reporter(stages.append))
    first = next(progress for progress in stages if progress.stage.startswith("train"))
    assert first.stage == "train 1 SAEs"
    assert first.done > 0
    assert weights(grown) == weights(whole)


def test_saes_that_do_not_fit_together_are_trained_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = build_train_study(tmp_path / "together", widths=(32, 48), tokens=1000)
    train(together)
    monkeypatch.setattr("dmcore.training.train.available_memory", lambda device: 1)
    apart = build_train_study(tmp_path / "apart", widths=(32, 48), tokens=1000)
    stages: list[Progress] = []
    train(apart, Reporter(stages.append))
    assert {progress.stage for progress in stages if "SAEs" in progress.stage} == {"train 1 SAEs"}
    assert weights(apart) == weights(together)


def test_a_training_that_diverges_stops_with_the_saes_name(tmp_path: Path) -> None:
    study = build_train_study(tmp_path, learning_rate=1e38, architectures=("standard",))
    with pytest.raises(DataError, match=r"saes/blocks.1.hook_resid_post/standard_32_4 .*lower learning_rate|too high"):
        train(study)
    assert not weights(study)


def test_a_full_disk_is_a_sentence_and_leaves_no_half_sae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = build_train_study(tmp_path, tokens=1000)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dmcore.training.train.write_json", full)
        with pytest.raises(StoreError, match="disk of .* is full"):
            train(study)
    assert not study.resolve(study.saes[0].path).exists()
    assert [one.trained for one in train(study)] == [True]


def test_only_one_process_trains_a_study(tmp_path: Path) -> None:
    study = build_train_study(tmp_path)
    (study.folder / "saes").mkdir()
    with FileLock(study.folder / "saes" / ".training.lock"), pytest.raises(StoreError, match="Another process"):
        train(study)


def test_what_cannot_be_is_refused_before_anything_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = build_train_study(tmp_path)
    monkeypatch.setattr("dmcore.training.train.load_model", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(SpecError, match=r"no \[train\] table"):
        train(replace(study, train=None))
    with pytest.raises(SpecError, match="sae-lens or lean"):
        train(study, engine="fast")
    with pytest.raises(SpecError, match="did you mean"):
        train(build_train_study(tmp_path, hooks=("blocks.7.hook_resid_post",)))
    with pytest.raises(SpecError):
        build_train_study(tmp_path, widths=(2,), l0s=(4,))


def test_the_lean_engine_has_no_matryoshka(tmp_path: Path) -> None:
    study = build_train_study(tmp_path, architectures=("matryoshka",))
    with pytest.raises(SpecError, match="lean engine trains no matryoshka"):
        train(study, engine="lean")


def test_progress_counts_the_tokens_of_all_saes(tmp_path: Path) -> None:
    study = build_train_study(tmp_path, widths=(32, 48), tokens=1000)
    seen: list[Progress] = []
    train(study, Reporter(seen.append))
    last = [progress for progress in seen if progress.stage == "train 2 SAEs"][-1]
    assert last.total == 2000
    assert last.unit == "SAE tokens"
    assert last.done >= 2000
    assert load_study(study.folder / "study.toml") == study
