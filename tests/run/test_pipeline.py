"""The pipeline: numbers equal the plain way's, damage and death change nothing, and failures are sentences."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import dmcore
from dmcore.analysis import encode
from dmcore.analysis.activations import Activations, chunks_of
from dmcore.errors import StoreError
from dmcore.results import METRICS, RECORD, TABLES
from dmcore.run.pipeline import Pipeline
from dmcore.run.plan import make_plan
from dmcore.sources.saes import load_dictionary
from dmcore.specs import load_study
from dmcore.store.fingerprint import content_key
from dmcore.store.published import list_studies, open_published
from dmcore.store.store import Entry, Store
from tests.builders import HOOKS, LENGTH, N_CONTEXTS, build_sae, build_study

SKIP = 4


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def swept(study_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[dict[str, Any]]]:
    store = Store(tmp_path_factory.mktemp("cache"))
    outcome = Pipeline(store).sweep(load_study(study_path))
    assert outcome.failures == {}
    return store, outcome.records


def numbers(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without the time at which they were made."""
    return [{k: v for k, v in record.items() if k != "computed"} for record in records]


def plain(study_path: Path, store: Store, index: int) -> tuple[dmcore.Split, Any, torch.Tensor, torch.Tensor]:
    """One SAE, the plain way: everything in memory, `decompose` on the kept tokens."""
    study = load_study(study_path)
    plan = make_plan(study, store)
    sae = study.saes[index]
    from dmcore.store.fingerprint import content_key

    acts = Activations(store.find("activations", content_key(plan.sites[sae.hook])).path)
    x = torch.cat([acts.read(chunk, torch.device("cpu")) for chunk in chunks_of(N_CONTEXTS, LENGTH)])
    dictionary = load_dictionary(study, sae, x.shape[1], "cpu")
    with torch.no_grad():
        recon = dictionary._sae.decode(dictionary._sae.encode(x))
    kept = torch.arange(LENGTH).repeat(N_CONTEXTS) >= SKIP
    groups = torch.arange(N_CONTEXTS).repeat_interleave(LENGTH)[kept]
    split = dmcore.decompose(x[kept], recon[kept], groups=groups)
    return split, dictionary, x[kept], recon[kept]


@pytest.mark.parametrize("index", [0, 2, 4, 6, 13])
def test_records_equal_decompose_on_the_stacked_tokens(
    index: int, study_path: Path, swept: tuple[Store, list[dict[str, Any]]]
) -> None:
    store, records = swept
    split, *_ = plain(study_path, store, index)
    for metric in METRICS:
        estimate = getattr(split, metric)
        for end, value in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high)):
            assert records[index][f"{metric}{end}"] == pytest.approx(value, rel=2e-4, abs=2e-5)
    dims = open_published("tiny", store).summary(records[index]["summary_key"]).dims
    np.testing.assert_allclose(dims["r2"].to_numpy(), split.r2_dims, atol=1e-4)


def test_records_and_tables_have_their_schemas_and_facts(
    study_path: Path, swept: tuple[Store, list[dict[str, Any]]]
) -> None:
    store, records = swept
    assert len(records) == 15
    published = open_published("tiny", store)
    assert dict(published.records.schema) == {name: dtype() for name, dtype in RECORD.items()}
    assert list_studies(store) == {"tiny": "A tiny study"}
    topk = records[0]
    assert (topk["site"], topk["stream"], topk["layer"], topk["architecture"]) == (HOOKS[0], "residual", 1, "topk")
    assert topk["n_tokens"] == N_CONTEXTS * (LENGTH - SKIP)
    _, dictionary, x, _ = plain(study_path, store, 0)
    active = dictionary._sae.encode(x) > 0
    assert topk["l0"] == pytest.approx(float(active.sum(1).float().mean()), abs=1e-9)
    assert topk["dead_share"] == pytest.approx(float((~active.any(0)).float().mean()), abs=1e-9)
    summary = published.summary(topk["summary_key"])
    for name, schema in TABLES.items():
        assert dict(getattr(summary, name).schema) == {column: dtype() for column, dtype in schema.items()}
    assert summary.density.filter(pl.col("panel") == "norm_sq")["count"].sum() == topk["n_tokens"]
    assert set(summary.baselines["predictor"]) == {"x", "token", "loss", "entropy", "position", "l0", "norm"}


def test_variants_equal_sweeps_with_those_settings(
    study_path: Path, swept: tuple[Store, list[dict[str, Any]]], tmp_path: Path
) -> None:
    import dataclasses

    store, records = swept
    study = load_study(study_path)
    variants = open_published("tiny", store).summary(records[0]["summary_key"]).variants
    assert len(variants) == 6
    for skip, bias in ((0, True), (1, False)):
        settings = dataclasses.replace(study.settings, skip_positions=skip, fit_bias=bias, compare_skips=(4,))
        other = dataclasses.replace(study, settings=settings, saes=study.saes[:1])
        expected = Pipeline(Store(tmp_path / f"{skip}{bias}")).sweep(other).records[0]
        row = variants.filter((pl.col("skip_positions") == skip) & (pl.col("fit_bias") == bias)).to_dicts()[0]
        assert row["n_tokens"] == expected["n_tokens"]
        for metric in METRICS:
            assert row[metric] == pytest.approx(expected[metric], rel=1e-6, abs=1e-9)
            assert row[f"{metric}_low"] == pytest.approx(expected[f"{metric}_low"], rel=1e-6, abs=1e-9)


def test_the_ridge_path_starts_at_the_split_and_falls_to_the_mean(swept: tuple[Store, list[dict[str, Any]]]) -> None:
    store, records = swept
    ridge = open_published("tiny", store).summary(records[0]["summary_key"]).ridge
    at_zero = ridge.filter(pl.col("ridge") == 0)["r2_error"].mean()
    assert at_zero == pytest.approx(records[0]["r2_error"], abs=0.03)
    strongest = ridge.filter(pl.col("ridge") == ridge["ridge"].max())["r2_error"].mean()
    assert strongest < at_zero


def test_nothing_is_computed_twice_and_a_missing_capture_is_not_missed(
    study_path: Path, swept: tuple[Store, list[dict[str, Any]]]
) -> None:
    store, records = swept
    index = [e.manifest for e in store.entries() if isinstance(e, Entry) and e.manifest.stage == "index"]
    outcome = Pipeline(Store(store.root)).sweep(load_study(study_path))
    assert outcome.computed == 0
    assert outcome.records == records
    assert [e.manifest for e in store.entries() if isinstance(e, Entry) and e.manifest.stage == "index"] == index


def test_damaged_entries_of_every_stage_are_made_again_to_the_same_numbers(study_path: Path, tmp_path: Path) -> None:
    study = load_study(study_path)
    first = Pipeline(Store(tmp_path)).sweep(study).records
    entries = {e.manifest.stage: e for e in Store(tmp_path).entries() if isinstance(e, Entry)}
    made_of = {"losses", "activations", "inputs", "codes", "targets", "split", "norms"}
    assert {*made_of, "summary", "scaling", "index"} == set(entries)
    for stage, entry in entries.items():
        # What is made last goes, so that the damaged entry is asked for.
        for last in [e for e in Store(tmp_path).entries() if isinstance(e, Entry)]:
            if last.manifest.stage in {"summary", "scaling"}:
                Store(tmp_path).remove(last)
        largest = max(entry.manifest.files, key=lambda name: entry.manifest.files[name]["bytes"])
        if (entry.path / largest).exists():
            data = bytearray((entry.path / largest).read_bytes())
            data[len(data) // 2] ^= 255
            (entry.path / largest).write_bytes(data)
        again = Pipeline(Store(tmp_path)).sweep(study)
        assert again.failures == {}, stage
        for old, new in zip(numbers(first), numbers(again.records), strict=True):
            assert old == new, stage
    assert {path.name.split("-")[0] for path in (tmp_path / "damaged").iterdir()} >= made_of


def command(study_path: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "dmcore", "sweep", str(study_path), *more]


def test_kill_9_at_any_point_loses_nothing_and_changes_nothing(
    study_path: Path, swept: tuple[Store, list[dict[str, Any]]], tmp_path: Path
) -> None:
    environment = {**os.environ, "DMCORE_CACHE": str(tmp_path)}
    chance = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(command(study_path), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started = time.monotonic()
        while not (tmp_path / "locks").exists() and process.poll() is None and time.monotonic() - started < 60:
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, 3.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    records = Pipeline(Store(tmp_path)).sweep(load_study(study_path)).records
    assert numbers(records) == numbers(swept[1])
    assert list((tmp_path / "partial").iterdir()) == []


def test_two_processes_on_one_study_share_the_work(
    study_path: Path, swept: tuple[Store, list[dict[str, Any]]], tmp_path: Path
) -> None:
    environment = {**os.environ, "DMCORE_CACHE": str(tmp_path)}
    both = [
        subprocess.Popen(command(study_path, "--json"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    for out, _ in said:
        assert numbers(json.loads(out)) == numbers(swept[1])
    assert not (tmp_path / "damaged").exists()
    made = [e.manifest.stage for e in Store(tmp_path).entries() if isinstance(e, Entry)]
    assert made.count("activations") == len(HOOKS)
    assert made.count("summary") == len(swept[1])


def test_one_bad_sae_does_not_cost_the_others(study_path: Path, tmp_path: Path) -> None:
    folder = study_path.parent
    build_sae("topk", d_in=7).save_model(folder / "saes" / "narrow")
    text = study_path.read_text().replace('"tiny"', '"mixed"')
    mixed = folder / "mixed.toml"
    mixed.write_text(text + f'[[saes]]\nhook = "{HOOKS[0]}"\npath = "saes/narrow"\n')
    outcome = Pipeline(Store(tmp_path)).sweep(load_study(mixed))
    assert list(outcome.failures) == ["saes/narrow"]
    assert "reads 7 dimensions" in outcome.failures["saes/narrow"]
    assert len(outcome.records) == 15
    assert open_published("mixed", Store(tmp_path)).n_missing == 1


def test_fewer_tokens_than_dimensions_is_a_sentence_and_a_ridge_mends_it(study_path: Path, tmp_path: Path) -> None:
    import dataclasses

    study = load_study(study_path)
    few = dataclasses.replace(study.settings, skip_positions=LENGTH - 1, n_folds=2)
    starved = dataclasses.replace(study, name="few", settings=few, saes=study.saes[:1])
    outcome = Pipeline(Store(tmp_path)).sweep(starved)
    assert "15 of the 30 tokens for 17 weights" in outcome.failures[study.saes[0].name]
    mended = dataclasses.replace(starved, settings=dataclasses.replace(few, ridge=10.0))
    assert Pipeline(Store(tmp_path)).sweep(mended).failures == {}


def test_memory_for_a_token_is_six_bytes_an_active_latent_and_less_than_64(
    swept: tuple[Store, list[dict[str, Any]]],
) -> None:
    store, records = swept
    per_sae = [e for e in store.entries() if isinstance(e, Entry) and e.manifest.stage in {"codes", "split"}]
    tokens = N_CONTEXTS * LENGTH
    growing = 0
    for entry in per_sae:
        names = ("latents.npy", "values.npy", "counts.npy") if entry.manifest.stage == "codes" else ("tokens.parquet",)
        growing += sum(entry.manifest.files[name]["bytes"] for name in names)
    active = sum(record["l0"] for record in records) * tokens * 1.1  # skipped tokens have codes as well
    assert growing <= 6 * active + 64 * tokens * len(records)


def test_large_moments_go_when_they_have_served_and_come_back_when_they_are_needed(
    study_path: Path,
    swept: tuple[Store, list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dmcore.run.sae_stages.KEPT_MOMENTS", 0)
    study = load_study(study_path)
    store = Store(tmp_path)
    found = Pipeline(store).sweep(study)
    assert numbers(found.records) == numbers(swept[1])
    assert list((tmp_path / "targets").iterdir()) == []
    assert Pipeline(Store(tmp_path)).sweep(study).computed == 0
    ridged = dataclasses.replace(study, settings=dataclasses.replace(study.settings, ridge=1.0))
    codes = {p: p.stat().st_mtime_ns for p in (tmp_path / "codes").glob("*/manifest.json")}
    again = Pipeline(Store(tmp_path)).sweep(ridged)
    assert again.computed == len(study.saes)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "codes").glob("*/manifest.json")} == codes, "not encoded again"
    monkeypatch.undo()
    plain = Pipeline(swept[0]).sweep(ridged)
    assert numbers(again.records) == numbers(plain.records)


def test_moments_that_another_sweep_deletes_before_they_are_read_are_made_again(
    study_path: Path,
    swept: tuple[Store, list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, deleted = Store(tmp_path), []

    def load(folder: Path, device: torch.device) -> Any:
        if folder not in deleted:
            deleted.append(folder)
            store.remove(store.find("targets", folder.name))
        return encode.load_targets(folder, device)

    monkeypatch.setattr("dmcore.run.sae_stages.load_targets", load)
    found = Pipeline(store).sweep(load_study(study_path))
    assert len(deleted) == len(found.records) and not found.failures
    assert numbers(found.records) == numbers(swept[1])
    monkeypatch.setattr("dmcore.run.sae_stages.ATTEMPTS", 0)
    (entry,) = [e for e in store.entries() if isinstance(e, Entry) and e.key == found.records[0]["summary_key"]]
    store.remove(entry)
    assert "deleted again and again" in next(iter(Pipeline(store).sweep(load_study(study_path)).failures.values()))


def test_codes_are_written_even_if_another_process_makes_the_moments_first(
    study_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(study_path)
    study = dataclasses.replace(study, saes=study.saes[:1])
    store = Store(tmp_path)
    Pipeline(store).sweep(study)
    plan = make_plan(study, store)
    for stage, spec in (("codes", plan.saes[0].codes), ("summary", plan.saes[0].summary)):
        store.remove(store.find(stage, content_key(spec)))
    # The moments appear only when they are asked for to be made, as if another process had just committed them.
    find, hidden = Store.find, []

    def late(self: Store, stage: str, key: str, **more: Any) -> Entry | None:
        if stage == "targets" and not hidden:
            hidden.append(key)
            return None
        return find(self, stage, key, **more)

    monkeypatch.setattr(Store, "find", late)
    assert not Pipeline(store).sweep(study).failures
    monkeypatch.undo()
    codes = store.find("codes", content_key(plan.saes[0].codes))
    assert codes is not None and "counts.npy" in codes.manifest.files


def test_a_disk_too_small_for_the_activations_is_told_before_the_model_runs(
    study_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="The disk of .* is full .*: free space .* and run again"):
        Pipeline(Store(tmp_path)).sweep(load_study(study_path))
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no")))
    assert not Pipeline(Store(tmp_path)).sweep(load_study(study_path)).failures


def test_an_index_never_lacks_what_another_process_finished_while_it_was_written(
    study_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, store = load_study(study_path), Store(tmp_path)
    pipeline = Pipeline(store)
    records = pipeline.sweep(study).records
    seen = iter([records[:3], records, records])
    monkeypatch.setattr("dmcore.run.pipeline.finished_records", lambda *_: next(seen))
    assert pipeline.publish(make_plan(study, store)) == records
    assert len(open_published(study.name, store).records) == len(records)


def test_the_sae_before_is_gone_from_memory_when_the_next_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmcore.run.device_room.LARGE", 1)
    study = load_study(build_study(tmp_path / "study", architectures=("topk", "gated")))
    loaded: list[weakref.ref[Any]] = []
    still_there: list[int] = []

    def watched(*arguments: Any, **more: Any) -> Any:
        still_there.append(sum(one() is not None for one in loaded))
        found = load_dictionary(*arguments, **more)
        found._sae.itself = [found._sae]  # as those do whose methods are put into them
        loaded.append(weakref.ref(found._sae))
        return found

    monkeypatch.setattr("dmcore.run.pipeline.load_dictionary", watched)
    Pipeline(Store(tmp_path / "cache")).sweep(study, only=lambda index: index < 3)
    assert still_there == [0, 0, 0]
