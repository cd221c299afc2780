"""`cache`: list, check and delete what has been computed."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

from dmcore.errors import StoreError
from dmcore.run.commands.shared import say
from dmcore.run.engines import STORAGE_VARIABLE
from dmcore.store.manifest import damage
from dmcore.store.shipped import is_shipped
from dmcore.store.store import Entry, Store


def register(commands: Any) -> None:
    """Add the command."""
    cache = commands.add_parser("cache", help="list, check or delete what has been computed")
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")
    ls = actions.add_parser("ls", help="list the entries with their sizes")
    verify = actions.add_parser("verify", help="compare every file with its checksum; damaged entries are moved aside")
    remove = actions.add_parser("rm", help="delete entries by key, stage, or all that can be made again")
    remove.add_argument("what", nargs="+", help="keys (or their first digits), stages, or: damaged")
    remove.add_argument(
        "--storage",
        default="",
        metavar="URL",
        help="a storage that the nodes of a cluster share: delete them there too; without, what it holds is fetched again",
    )
    for action, run in ((ls, _cache_ls), (verify, _cache_verify), (remove, _cache_rm)):
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(run=run)


def _cache_ls(arguments: argparse.Namespace) -> int:
    entries = [entry.manifest for entry in Store().entries() if isinstance(entry, Entry)]
    if arguments.json:
        say(
            json.dumps(
                [{"stage": m.stage, "key": m.key, "bytes": m.size, "created": m.created} for m in entries], indent=1
            )
        )
        return 0
    for m in entries:
        say(f"{m.stage:<12} {m.key}  {m.size / 2**20:>10.2f} MiB  {m.created}")
    say(f"{len(entries)} entries, {sum(m.size for m in entries) / 2**20:,.1f} MiB")
    return 0


def _cache_verify(arguments: argparse.Namespace) -> int:
    store = Store()
    sound, damaged = 0, []
    for entry in list(store.entries()):
        folder = entry.path if isinstance(entry, Entry) else entry
        reason = (
            damage(folder, entry.manifest, checksums=True)
            if isinstance(entry, Entry)
            else "the manifest cannot be read"
        )
        if reason is None:
            sound += 1
        else:
            store.find(folder.parent.name, folder.name)  # moves it aside
            damaged.append({"stage": folder.parent.name, "key": folder.name, "reason": reason})
    gone = store.sweep_partial()
    if arguments.json:
        say(json.dumps({"sound": sound, "damaged": damaged, "leftovers_deleted": len(gone)}, indent=1))
    else:
        for one in damaged:
            say(f"damaged: {one['stage']} {one['key']}: {one['reason']} (moved aside; the next sweep makes it again)")
        say(f"{sound} entries are sound, {len(damaged)} damaged, {len(gone)} leftovers of killed processes deleted.")
    return 1 if damaged else 0


def _cache_rm(arguments: argparse.Namespace) -> int:
    store = Store()
    if arguments.storage:
        from dmcore.store.mirror import MirroredStore

        store = MirroredStore(store.root, arguments.storage)
    entries = [entry for entry in store.entries() if isinstance(entry, Entry)]
    chosen: dict[Path, Entry] = {}
    for what in arguments.what:
        found = [e for e in entries if e.manifest.stage == what or e.key.startswith(what)]
        if not found and what != "damaged":
            raise StoreError(
                f"No entry has the stage or key {what!r}, so nothing was deleted: `python -m dmcore cache ls` lists them."
            )
        chosen |= {entry.path: entry for entry in found}
    shipped = sum(is_shipped(store, entry) for entry in chosen.values())
    for entry in chosen.values():
        store.remove(entry)
    if "damaged" in arguments.what:
        shutil.rmtree(store.root / "damaged", ignore_errors=True)
    freed = sum(entry.manifest.size for entry in chosen.values())
    if arguments.json:
        say(json.dumps({"removed": len(chosen), "shipped": shipped, "bytes": freed}))
    else:
        kept = os.environ.get(STORAGE_VARIABLE, "") if chosen and not arguments.storage else ""
        there = (
            " The storage that nodes share keeps its copies: give --storage to delete them there too." if kept else ""
        )
        back = f" {shipped} of them came with the program: `git checkout cache` brings them back." if shipped else ""
        say(f"{len(chosen)} entries removed, {freed / 2**20:.1f} MiB freed.{back}{there}")
    return 0
