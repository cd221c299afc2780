"""Whatever happens to a file of the cache, it is found before anything is read of it, and the rest stays as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dmcore.errors import StoreError
from dmcore.run.cli import main
from dmcore.run.jobs.queue import Queue
from dmcore.store.fingerprint import content_key
from dmcore.store.manifest import MANIFEST, read_manifest
from dmcore.store.store import Store
from tests.store.corruption import WAYS, entry_of, hurt_queue, write_cache


def outcome(sound: Path, root: Path, number: int) -> tuple[str, str]:
    """Hurt one file of a copy of the cache, and look: `found`, `left` (nothing could be hurt), or what went wrong."""
    rng = np.random.default_rng(number)
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(sound, root / "cache")
    files = sorted(path for path in (root / "cache" / "stage").rglob("*") if path.is_file())
    file, way = files[int(rng.integers(len(files)))], WAYS[number % len(WAYS)]
    hurt, others = entry_of(file), [p for p in sorted((root / "cache" / "stage").iterdir()) if p != entry_of(file)]
    if not way(file, rng):
        return way.__name__, "left"
    store = Store(root / "cache")
    if store.find("stage", hurt.name) is not None:
        return way.__name__, f"not found: {file.name}"
    if hurt.exists():
        return way.__name__, "still in its place"
    if any(store.find("stage", other.name) is None for other in others):
        return way.__name__, "another entry was taken for damaged"
    return way.__name__, "found"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    write_cache(root)
    return root


def test_all_harm_is_found_and_nothing_else_is_suspected(sound: Path, tmp_path: Path) -> None:
    seen = [outcome(sound, tmp_path, number) for number in range(10 * len(WAYS))]
    wrong = [one for one in seen if one[1] not in ("found", "left")]
    assert not wrong
    assert {way for way, what in seen if what == "found"} == {way.__name__ for way in WAYS}


def test_the_command_verify_finds_it_too(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sound, tmp_path / "cache")
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path / "cache"))
    files = sorted((tmp_path / "cache" / "stage").glob("*/acts.npy"))
    WAYS[0](files[0], np.random.default_rng(0))
    assert main(["cache", "verify", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["sound"], [one["key"] for one in said["damaged"]]) == (len(files) - 1, [files[0].parent.name])
    assert main(["cache", "verify"]) == 0


@pytest.mark.parametrize(
    "forge",
    [
        lambda body: body["files"].update({"../../outside": {"bytes": 1, "sha256": "0" * 64}}),
        lambda body: body["files"].update({"/etc/hostname": {"bytes": 1, "sha256": "0" * 64}}),
        lambda body: body["spec"].update({"n": 99}),
        lambda body: body.update({"files": [1]}),
        lambda body: body["files"].update({"acts.npy": 5}),
        lambda body: body.update({"created": 5}),
        lambda body: body.update({"more": 5}),
    ],
    ids=["climbs out", "absolute", "another spec", "no files", "no file", "no time", "unknown key"],
)
def test_a_manifest_with_a_fitting_checksum_is_not_believed_for_that(
    sound: Path, tmp_path: Path, forge: object
) -> None:
    shutil.copytree(sound, tmp_path / "cache")
    folder = next((tmp_path / "cache" / "stage").iterdir())
    body = json.loads((folder / MANIFEST).read_text())
    del body["checksum"]
    forge(body)
    (folder / MANIFEST).write_text(json.dumps({**body, "checksum": content_key(body)}))
    with pytest.raises(StoreError):
        read_manifest(folder)
    assert Store(tmp_path / "cache").find("stage", folder.name) is None


def test_a_hurt_queue_of_jobs_is_a_sentence_or_a_new_queue(tmp_path: Path) -> None:
    from tests.run.jobs.test_queue import write_study

    study = write_study(tmp_path, "study")
    Queue(tmp_path / "cache").submit("sweep", study, "cpu")
    kept = (tmp_path / "cache" / "jobs" / "queue.sqlite").read_bytes()
    for number in range(30):
        queue = Queue(tmp_path / f"cache-{number}")
        queue.folder.mkdir(parents=True)
        queue.file.write_bytes(kept)
        hurt_queue(queue.file, np.random.default_rng(number))
        try:
            jobs = queue.jobs()
        except StoreError as error:
            assert "queue of jobs" in str(error) or "another version" in str(error)
            continue
        assert {job.study for job in jobs} <= {"study"}
