"""The cache: manifests, indexes and tables hurt, some with checksums that fit the hurt, and names of entries and jobs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import strategies as st

from dmcore.run.jobs.queue import Queue
from dmcore.store.fingerprint import content_key, file_sha256
from dmcore.store.manifest import MANIFEST
from dmcore.store.published import list_studies, open_published
from dmcore.store.store import Store
from tests.fuzz.oracle import Sandbox, heard
from tests.fuzz.values import changed_nests, hurt_bytes, json_values, texts


@st.composite
def hurts(draw: st.DrawFn, sound: Path) -> tuple[str, str, Any, bool]:
    """(entry, file, new content, whether the manifest is made to fit) for some file of the sound cache in `sound`."""
    files = sorted(path.relative_to(sound) for path in sound.glob("*/*/*") if path.is_file())
    file = draw(st.sampled_from(files))
    content = (sound / file).read_bytes()
    if file.suffix == ".json" and draw(st.booleans()):
        new: Any = json.dumps(draw(changed_nests(json.loads(content), json_values))).encode("utf-8", "replace")
    elif file.suffix == ".parquet" and draw(st.booleans()):
        new = (
            "table",
            draw(st.sampled_from(["no rows", "nulls", "lacks a column", "other types", "one column"])),
            draw(st.integers(0, 30)),
        )
    else:
        new = draw(hurt_bytes(content))
    return str(file.parent), file.name, new, draw(st.booleans())


def read_hurt(sound: Path, hurt: tuple[str, str, Any, bool], sandbox: Sandbox) -> None:
    """Put a hurt file into a copy of the cache, and read all that pages read of it."""
    entry, name, new, fitting = hurt
    for folder in list(sandbox.cache.iterdir()):
        # A process that a case has started may still write its heartbeat.
        shutil.rmtree(folder, ignore_errors=True) if folder.is_dir() else folder.unlink()
    shutil.copytree(sound, sandbox.cache, dirs_exist_ok=True)
    file = sandbox.cache / entry / name
    if isinstance(new, tuple):
        _hurt_table(pl.read_parquet(file), *new[1:]).write_parquet(file)
    else:
        file.write_bytes(new)
    if fitting:
        refit(file.parent)
    store = Store(sandbox.cache)
    for study in list_studies(store):
        found = open_published(study, store)
        found.records.to_dicts()
        found.bases()
        for key in found.records["summary_key"].to_list()[:3]:
            summary = found.summary(key)
            summary.record, summary.variants, summary.baselines, summary.ridge, summary.positions, summary.replicates
            found.reduction(key), found.downstream(key), found.controls(key), found.parts(key)
    for entry_or_folder in store.entries():
        if not isinstance(entry_or_folder, Path):
            entry_or_folder.manifest.size


def refit(folder: Path) -> None:
    """Make the manifest fit the files, as somebody does who wants to deceive; leave one that is none."""
    try:
        body = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        body.pop("checksum", None)
        for name in body["files"]:
            path = folder / name
            body["files"][name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        (folder / MANIFEST).write_text(json.dumps({**body, "checksum": content_key(body)}), encoding="utf-8")
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return


def _hurt_table(table: pl.DataFrame, how: str, seed: int) -> pl.DataFrame:
    column = table.columns[seed % max(table.width, 1)] if table.width else None
    if how == "no rows" or column is None:
        return table.head(0)
    if how == "nulls":
        return table.with_columns(pl.lit(None).cast(table.schema[column]).alias(column))
    if how == "lacks a column":
        return table.drop(column)
    if how == "other types":
        return table.with_columns(pl.lit("x").alias(column))
    return table.select(column)


names = st.tuples(texts, texts)


def look_up(given: tuple[str, str], sandbox: Sandbox) -> None:
    """Names of stages, keys, studies and jobs, as a link or a command may give them."""
    stage, key = given
    store, queue = Store(sandbox.cache), Queue(sandbox.cache)
    for ask in (
        lambda: store.find(stage, key),
        lambda: store.find("summary", key),
        lambda: open_published(stage, store),
        lambda: queue.job(key),
        lambda: queue.cancel(key),
        lambda: queue.log_path(key).exists(),
    ):
        verdict = heard(ask)
        if verdict.failure is not None:
            raise verdict.failure
