"""SAEs on the parts of an SAE's error: trained on what the reader makes of x, resumed, refused; planted directions found."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dmcore.errors import Cancelled, SpecError, StoreError
from dmcore.math.linear_map import AffineMap
from dmcore.progress import Reporter
from dmcore.run.cli import main
from dmcore.run.jobs.child import _train as train_job
from dmcore.run.jobs.job import DONE
from dmcore.run.jobs.queue import Queue
from dmcore.run.looks.inspect import Inspector
from dmcore.run.parts import train_all
from dmcore.run.pipeline import Pipeline
from dmcore.sources.models import load_model
from dmcore.sources.saes import load_dictionary
from dmcore.sources.study_file import study_toml
from dmcore.specs import PARTS, PartsSpec, SaeSpec, Study, TrainSpec, load_study
from dmcore.store.published import open_published
from dmcore.store.store import Store
from dmcore.training.parts import PartsBase, PartsReader
from dmcore.training.readers import LiveReader
from dmcore.training.target import PartTarget
from dmcore.training.texts import training_texts
from tests.builders import HOOKS
from tests.training.part_studies import BASE, build_parts_study
from tests.training.planted import (
    HOOK,
    N_HIDDEN,
    HeldReader,
    KnownSae,
    claimed,
    error_map,
    noise_like,
    planted,
    trained_on,
)


def train(study: Study, reporter: Reporter | None = None, *, parts_only: bool = False) -> tuple[list, str]:
    return train_all(study, "cpu", reporter or Reporter(), Store(study.folder / "cache"), parts_only=parts_only)


def sweep(study: Study):
    return Pipeline(Store(study.folder / "cache"), "cpu").sweep(study)


def weights(study: Study) -> dict[str, bytes]:
    folder = study.folder / "parts"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("sae_weights*"))}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with results, whose parts nothing has been trained on."""
    study = build_parts_study(tmp_path_factory.mktemp("parts"), engine="lean")
    assert not sweep(study).failures
    return study


@pytest.fixture(scope="module")
def trained(swept: Study) -> tuple[Study, list]:
    """The same, trained."""
    return swept, train(swept)[0]


def test_before_a_sweep_there_is_no_map_and_that_is_said(tmp_path: Path) -> None:
    study = build_parts_study(tmp_path)
    with pytest.raises(StoreError, match=r"has no result yet.*sweep the study, then run train-saes with --parts"):
        train(study)
    assert not (tmp_path / "parts").exists()


def test_every_sae_is_where_the_study_says_and_knows_its_part(trained: tuple[Study, list]) -> None:
    study, saes = trained
    assert study.parts is not None
    wanted = [study.resolve(sae.path) for sae in study.parts.saes()]
    assert sorted(one.folder for one in saes) == sorted(wanted)
    assert len(wanted) == 8
    for sae in study.parts.saes():
        config = json.loads((study.resolve(sae.path) / "cfg.json").read_text())
        log = json.loads((study.resolve(sae.path) / "train.json").read_text())
        assert config["metadata"]["part"] == log["settings"]["part"] == sae.part
        assert config["metadata"]["base"] == BASE
        assert log["settings"]["seed"] == sae.seed
        assert log["curve"][-1]["fvu"] < log["curve"][0]["fvu"]


def test_the_logged_numbers_are_those_of_the_stored_sae_on_held_out_parts(trained: tuple[Study, list]) -> None:
    """In the part's own units, the parts made here from the map as it is published."""
    study, saes = trained
    store = Store(study.folder / "cache")
    key = open_published(study.name, store).records.filter(sae=BASE)["summary_key"][0]
    tensors = load_file(store.folder("summary", key) / "map.safetensors")
    texts = training_texts(replace(study, train=study.parts.training(study.base.hook, 0)), 3000, store, Reporter())
    x = LiveReader(load_model(study, "cpu"), texts.contexts.tokens, 4).read(texts.held_out, [study.base.hook])
    x = x[study.base.hook]
    base = load_dictionary(study, study.base, x.shape[1], "cpu")
    error = x - base.decode(base.encode(x), x)
    linear = x @ tensors["weight"][:, :-1] + tensors["bias"][:-1]
    parts = {"x": x, "error": error, "linear": linear, "nonlinear": error - linear}
    for one in saes:
        part = one.folder.parent.name
        v = parts[part]
        sae = load_dictionary(study, SaeSpec(study.base.hook, one.sae.path, check=False), x.shape[1], "cpu")
        missed = v - sae.decode(sae.encode(v), v)
        assert one.fvu == pytest.approx(float(missed.square().sum() / (v - v.mean(0)).square().sum()), rel=1e-4)
        assert one.fvu < 0.5, "it has learned something, on a scale that is not the activations'"


def test_the_reader_gives_parts_that_add_up_in_the_order_of_the_tokens() -> None:
    acts, known, _ = planted(0)
    sae = KnownSae(known, 0.5)
    reader = PartsReader(HeldReader(acts), HOOK, PartsBase(sae, error_map(acts, sae), "", ""), "cpu")
    rows = np.arange(3, 303, 2)  # more tokens than are taken apart at once
    parts = reader.read(rows, PARTS)
    x = acts[torch.from_numpy(rows)].flatten(0, 1)
    assert torch.equal(parts["x"], x)
    torch.testing.assert_close(parts["error"], x - sae.decode(sae.encode(x), x))
    torch.testing.assert_close(parts["linear"] + parts["nonlinear"], parts["error"])
    assert torch.equal(reader.read(rows, ["nonlinear"])["nonlinear"], parts["nonlinear"])
    # Least squares on all tokens: what is left is at right angles to x.
    whole = reader.read(np.arange(len(acts)), ["nonlinear", "x"])
    covariance = whole["x"].double().T @ whole["nonlinear"].double() / len(whole["x"])
    assert float(covariance.abs().max()) < 1e-6


def test_parts_of_a_seed_start_alike_and_seeds_do_not() -> None:
    one, other = (PartTarget(HOOK, "topk", 8, 2, "parts", part, 0) for part in ("x", "linear"))
    assert one.seed(0) == other.seed(0)
    assert one.seed(0) != replace(one, number=1).seed(1)


def test_seeds_and_parts_give_other_saes(trained: tuple[Study, list]) -> None:
    assert len(set(weights(trained[0]).values())) == 8


def test_what_is_there_is_kept_and_another_map_trains_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = build_parts_study(tmp_path, engine="lean", on=["x", "linear"], seeds=[5], tokens=1000)
    sweep(study)
    assert [one.trained for one in train(study)[0]] == [True] * 2
    assert [one.trained for one in train(study)[0]] == [False] * 2
    file = tmp_path / "study.toml"
    file.write_text(file.read_text().replace("skip_positions = 4", "skip_positions = 4\nridge = 50.0"))
    changed = load_study(file)
    sweep(changed)
    assert (
        "2 of the 2 SAEs on parts of saes/blocks.1.hook_resid_post/topk were trained with other settings" in caplog.text
    )
    assert [one.trained for one in train(changed)[0]] == [True] * 2
    assert "is trained anew: another linear map" in caplog.text
    assert not sweep(changed).parts


@pytest.mark.parametrize("source", ["live", "captured"])
def test_an_interrupted_training_ends_as_an_undisturbed_one(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmcore.training.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("dmcore.training.loop._CHECKPOINT_SHARE", 1e9)
    choice = {"engine": "lean", "source": source, "on": ["x", "nonlinear"], "architecture": "jumprelu"}
    whole, broken = (build_parts_study(tmp_path / name, **choice) for name in ("whole", "broken"))
    for study in (whole, broken):
        sweep(study)
    train(whole)
    calls, stops = 30, []
    while len(stops) < 12:
        left = iter(range(calls))
        reporter = Reporter(should_cancel=lambda left=left: next(left, None) is None)
        try:
            train(broken, reporter)
        except Cancelled:
            state = next(broken.folder.glob("parts/*/.checkpoint/state.json"), None)
            stops.append((len(weights(broken)), json.loads(state.read_text())["index"] if state else 0))
        else:
            break
    assert len(set(stops)) >= 3, "it was stopped at several places, and went on from them"
    assert stops == sorted(stops)
    assert weights(broken) == weights(whole)
    assert len(weights(whole)) == 4


KILLED = """
import sys
from pathlib import Path
import torch
from dmcore.progress import Reporter
from dmcore.run.parts import train_all
from dmcore.specs import load_study
from dmcore.store.store import Store
from dmcore.training import loop
torch.set_num_threads(1)
loop.CHECKPOINT_SECONDS, loop._CHECKPOINT_SHARE = 0.0, 1e9
study = load_study(Path(sys.argv[1]))
train_all(study, "cpu", Reporter(), Store(study.folder / "cache"))
"""


def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    choice = {"engine": "lean", "tokens": 20_000, "on": ["error", "linear"]}
    whole, broken = (build_parts_study(tmp_path / name, **choice) for name in ("whole", "broken"))
    for study in (whole, broken):
        sweep(study)
    train(whole)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(broken.folder / "study.toml")])
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if next(broken.folder.glob("parts/*/.checkpoint/state.json"), None) is not None:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "it was killed halfway"
    assert len(weights(broken)) < 4
    train(broken)
    assert weights(broken) == weights(whole)


def test_the_command_trains_measures_and_shows(
    swept: Study, trained: tuple[Study, list], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(swept.folder / "cache"))
    file = str(swept.folder / "study.toml")
    assert main(["train-saes", file, "--parts", "--device", "cpu"]) == 0
    assert "0 of 8 SAEs trained, 8 were there." in capsys.readouterr().out
    assert main(["parts", file, "--device", "cpu", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [row["part"] for row in shown["means"]] == list(PARTS)
    assert len(shown["saes"]) == 8
    assert main(["parts", file, "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {part}: " in text for part in PARTS)
    assert main(["train-saes", file, "--parts", "--widths", "8"]) == 1
    assert "leave them out" in capsys.readouterr().err


def test_commands_say_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    study = build_parts_study(tmp_path)
    file = str(tmp_path / "study.toml")
    assert main(["train-saes", file, "--device", "cpu"]) == 1
    assert "sweep the study" in capsys.readouterr().err
    sweep(study)
    assert main(["parts", file, "--device", "cpu"]) == 1
    assert "have not been trained: run `python -m dmcore train-saes --parts`" in capsys.readouterr().err
    text = (tmp_path / "study.toml").read_text()
    (tmp_path / "study.toml").write_text(text[: text.index("[parts]")])
    for command in (["parts", file], ["train-saes", file, "--parts"]):
        assert main([*command, "--device", "cpu"]) == 1
        assert "no [parts] table" in capsys.readouterr().err


def test_a_base_that_the_study_trains_itself_comes_first(tmp_path: Path) -> None:
    """train-saes, sweep, train-saes, sweep: each goes as far as it can, and says what is next."""
    grid = TrainSpec(("blocks.1.hook_resid_post",), (32,), (4,), tokens=2000, batch_tokens=128, engine="lean")
    parts = PartsSpec(grid.saes()[0].path, 24, 4, on=("x", "nonlinear"), seeds=(1,), tokens=1000, batch_tokens=128)
    study = build_parts_study(tmp_path)
    grid = replace(grid, texts=study.parts.texts)  # which the parts take over, having none of their own
    text = study_toml("own", "", study.model, study.texts, study.settings, (), train=grid, parts=parts)
    (tmp_path / "own.toml").write_text(text)
    study = load_study(tmp_path / "own.toml")
    trained, left = train(study)
    assert [one.sae.path for one in trained] == [parts.base]
    assert "sweep the study, then run train-saes with --parts" in left
    assert not sweep(study).failures
    trained, left = train(study)
    assert [one.trained for one in trained] == [False, True, True]
    assert left == ""
    assert not sweep(study).parts
    assert open_published("own", Store(tmp_path / "cache")).parts(sweep(study).records[0]["summary_key"]) is not None


def test_a_job_can_train_the_parts(swept: Study, trained: tuple[Study, list]) -> None:
    job = Queue(swept.folder / "jobs-cache").submit("train-saes", swept.folder / "study.toml", "cpu")
    assert job.kind == "train-saes"
    before = weights(swept)
    for folder in (swept.folder / "parts").glob("*/linear/*_seed1"):
        shutil.rmtree(folder)
    assert len(weights(swept)) == 7
    assert train_job(swept, torch.device("cpu"), Reporter(), Store(swept.folder / "cache")) == (DONE, "")
    assert weights(swept) == before, "alone it is trained to the same as beside the others"


@pytest.mark.parametrize("hook", HOOKS[1:])
def test_parts_of_heads_and_mlps_are_trained_and_measured(hook: str, tmp_path: Path) -> None:
    """Heads are flat where they are read; what is stored must not want them otherwise."""
    study = build_parts_study(tmp_path, base=f"saes/{hook}/topk", on=["nonlinear"], seeds=[0], tokens=1000)
    sweep(study)
    train(study)
    assert not sweep(study).parts
    parts = Inspector(Pipeline(Store(tmp_path / "cache"), "cpu"), study).parts()
    assert parts.about["site"] == hook
    assert parts["saes"]["fvu"][0] == pytest.approx(parts["saes"]["train_fvu"][0], rel=0.3), "the contexts are others"
    assert len(parts["stability"]) == len(parts["differences"]) == 0
    assert parts["means"]["seed_sd"].to_list() == [None]


def test_a_study_without_parts_trains_none(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no \[train\] table"):
        train(replace(build_parts_study(tmp_path), parts=None))


# Planted directions.


@pytest.fixture(scope="module")
def null(tmp_path_factory: pytest.TempPathFactory) -> list[list[torch.Tensor]]:
    """Decoder rows by seed, of SAEs trained on three draws of noise with the moments of the planted error."""
    folder, noises = tmp_path_factory.mktemp("null"), []
    acts, known, _ = planted(0)
    x, sae = acts.flatten(0, 1), KnownSae(known, 0.5)
    error = x - sae.decode(sae.encode(x), x)
    silent = KnownSae(known, 1e9)  # its error is x: the noise
    for draw in range(3):
        noise = noise_like(error, 100 + draw)
        noises.append(trained_on(noise, silent, "error", (0, 1, 2), folder))
    return noises


def test_an_sae_on_the_error_finds_the_directions_that_the_base_lacks(
    null: list[list[torch.Tensor]], tmp_path: Path
) -> None:
    acts, known, hidden = planted(0)
    sae = KnownSae(known, 0.5)
    rows = trained_on(acts, sae, "error", (0, 1, 2), tmp_path)
    assert float((known @ hidden.T).abs().max()) < 0.5, "the base has none of them"
    for found in rows:
        nearest = (hidden @ found.T).max(1).values
        assert int((nearest > 0.9).sum()) >= 0.9 * N_HIDDEN
    stable = claimed(rows, null)
    assert len(stable) >= 0.7 * N_HIDDEN
    assert float((rows[0][stable] @ hidden.T).max(1).values.min()) > 0.99, "nothing is claimed that was not planted"


@pytest.mark.parametrize("draw", [0, 1, 2])
def test_in_noise_nothing_is_claimed(draw: int, null: list[list[torch.Tensor]]) -> None:
    assert claimed(null[draw], [saes for other, saes in enumerate(null) if other != draw]).size == 0


def test_a_map_of_nothing_leaves_the_whole_error_nonlinear() -> None:
    acts, known, _ = planted(0)
    sae = KnownSae(known, 0.5)
    zero = AffineMap(torch.zeros(48, 48), torch.zeros(48, dtype=torch.float64), torch.zeros(48, dtype=torch.float64))
    parts = PartsReader(HeldReader(acts), HOOK, PartsBase(sae, zero, "", ""), "cpu").read(np.arange(4), PARTS)
    assert torch.equal(parts["nonlinear"], parts["error"])
