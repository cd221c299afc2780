"""`cache`: list, check and delete what has been computed."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Set
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
    from dmcore.store.mirror import MirroredStore

    store = MirroredStore(Store().root, arguments.storage) if arguments.storage else Store()
    here = {(e.manifest.stage, e.key): e for e in store.entries() if isinstance(e, Entry)}
    names = here.keys() | (store.names_there() if isinstance(store, MirroredStore) else set())
    chosen: set[tuple[str, str]] = set()
    for what in arguments.what:
        chosen |= _named(what, names)
    entries = [here[name] for name in sorted(chosen & here.keys())]
    shipped = sum(is_shipped(store, entry) for entry in entries)
    for stage, key in sorted(chosen):
        store.drop(stage, key)
    if "damaged" in arguments.what:
        shutil.rmtree(store.root / "damaged", ignore_errors=True)
    freed, away = sum(entry.manifest.size for entry in entries), len(chosen) - len(entries)
    if arguments.json:
        say(json.dumps({"removed": len(chosen), "only_in_storage": away, "shipped": shipped, "bytes": freed}))
    else:
        kept = os.environ.get(STORAGE_VARIABLE, "") if chosen and not arguments.storage else ""
        there = (
            " The storage that nodes share keeps its copies: give --storage to delete them there too." if kept else ""
        )
        back = f" {shipped} of them came with the program: `git checkout cache` brings them back." if shipped else ""
        only = f" {away} of them were in the storage alone." if away else ""
        say(f"{len(chosen)} entries removed, {freed / 2**20:.1f} MiB freed here.{only}{back}{there}")
    return 0


def _named(what: str, names: Set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Stage and key of the entries that somebody means.

    Raises:
        StoreError: there is none, or the first digits of a key are those of several.
    """
    found = {name for name in names if name[0] == what}
    if found or what == "damaged":
        return found
    found = {name for name in names if what and name[1].startswith(what)}
    if not found:
        raise StoreError(
            f"No entry has the stage or key {what!r}, so nothing was deleted: `python -m dmcore cache ls` lists them."
        )
    if len({key for _, key in found}) > 1:
        raise StoreError(f"{len(found)} keys begin with {what!r}, so nothing was deleted: give more of the digits.")
    return found
