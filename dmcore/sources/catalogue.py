"""The catalogue: every SAE of SAELens's registry with its model, site, width and L0, read offline and without torch.

1. `read_catalogue` finds the registry in the installed package without importing it (that would load torch), reads each entry
   by the rules of `catalogue_facts.py`, and keeps the table as parquet, because parsing the registry takes seconds.
2. What is already on this machine is looked up each time.
3. `filter_catalogue` and `nearest_releases` serve the command and the page.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from dmcore.errors import SpecError
from dmcore.sources import catalogue_facts, catalogue_models
from dmcore.sources.hub_cache import cached_weights, hub_folder
from dmcore.store.store import default_root

log = logging.getLogger(__name__)

CATALOGUE: dict[str, Any] = {
    "release": pl.String,
    "id": pl.String,
    "model": pl.String,
    "model_name": pl.String,
    "hook": pl.String,
    "layer": pl.Int64,
    "site": pl.String,
    "stream": pl.String,
    "d_in": pl.Int64,
    "d_sae": pl.Int64,
    "l0": pl.Float64,
    "architecture": pl.String,
    "processing": pl.String,
    "conversion_func": pl.String,
    "repo_id": pl.String,
    "path": pl.String,
    "neuronpedia_id": pl.String,
    "kind": pl.String,
    "on_disk": pl.Boolean,
}
"""Columns. `model` is a Hugging Face id, `model_name` the registry's name; `hook` is null for what has no site here
(transcoders, embeddings); `d_sae` and `l0` (active latents a token) are null where nobody has said; `processing` is
comma-joined; `kind` is `sae`, `transcoder` or `cross-layer transcoder`."""
REGISTRY = "pretrained_saes.yaml"


def registry_path() -> Path:
    """The registry in the installed SAELens.

    Raises:
        SpecError: SAELens is not installed, or has no registry.
    """
    found = importlib.util.find_spec("sae_lens")  # does not import it
    path = Path(found.origin).parent / REGISTRY if found and found.origin else None
    if path is None or not path.is_file():
        raise SpecError("The registry of SAELens is not there: install sae-lens as requirements.txt pins it.")
    return path


def read_catalogue(cache_root: Path | None = None) -> pl.DataFrame:
    """Every SAE of the registry, columns `CATALOGUE`, in the registry's order.

    Args:
        cache_root: cache folder; the default one if None. One that cannot be written only makes this slower.

    Raises:
        SpecError: the registry is not installed or cannot be read.
    """
    registry = registry_path()
    content = registry.read_bytes()
    stored = (cache_root or default_root()) / "catalogue" / f"{_version(content)}.parquet"
    columns = {name: kind for name, kind in CATALOGUE.items() if name != "on_disk"}
    table = _read_stored(stored, columns)
    if table is None:
        table = pl.DataFrame(_parse(content), schema=columns)
        _write_stored(stored, table)
    return table.with_columns(on_disk=_on_disk(table))


def _version(content: bytes) -> str:
    """Name of the stored table: it changes with SAELens, the registry, and the rules that read it."""
    digest = hashlib.sha256(content)
    for module in (catalogue_facts, catalogue_models):
        digest.update(Path(str(module.__file__)).read_bytes())
    return f"sae-lens-{importlib.metadata.version('sae-lens')}-{digest.hexdigest()[:16]}"


def _read_stored(path: Path, columns: dict[str, Any]) -> pl.DataFrame | None:
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError):
        return None
    return table if dict(table.schema) == columns else None


def _write_stored(path: Path, table: pl.DataFrame) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.write_parquet(draft)
        draft.replace(path)
    except OSError as error:
        log.info("The catalogue could not be kept in %s: %s", path.parent, error)
        with contextlib.suppress(OSError):
            draft.unlink()


def _parse(content: bytes) -> list[dict[str, Any]]:
    import yaml

    try:
        # The C parser is five times faster, but PyYAML can be built without it.
        registry = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return [
            catalogue_facts.facts(release, entry, sae) for release, entry in registry.items() for sae in entry["saes"]
        ]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(
            f"The registry of SAELens cannot be read ({error}): install sae-lens as requirements.txt pins it."
        ) from error


def _on_disk(table: pl.DataFrame) -> pl.Series:
    """Whether each SAE's weights are in the local Hugging Face cache."""
    there = [repo for repo in table["repo_id"].unique() if hub_folder().joinpath(_folder(repo)).is_dir()]
    known = pl.DataFrame(
        [(repo, path) for repo in there for path in cached_weights(repo)],
        schema={"repo_id": pl.String, "path": pl.String},
        orient="row",
    ).with_columns(on_disk=pl.lit(True))
    joined = table.select("repo_id", "path").join(known, on=["repo_id", "path"], how="left", maintain_order="left")
    return joined["on_disk"].fill_null(value=False)


def _folder(repo_id: str) -> str:
    return f"models--{repo_id.replace('/', '--')}"


def filter_catalogue(
    frame: pl.DataFrame,
    release: str | None = None,
    model: str | None = None,
    layer: int | None = None,
    width: int | None = None,
    site: str | None = None,
    architecture: str | None = None,
    text: str | None = None,
    *,
    on_disk: bool = False,
    l0: tuple[float, float] | None = None,
) -> pl.DataFrame:
    """The rows that match all that is given.

    Args:
        frame: columns `CATALOGUE`.
        release: a release's whole name.
        model: Hugging Face id, the id without its owner, or the registry's name; upper and lower case are the same.
        layer, width: numbers, width in latents.
        site: a site (`hook_mlp_out`) or a stream (`mlp`).
        architecture: as the catalogue names it.
        text: parts that release, id, path or model must hold, all of them, in any order and case.
        on_disk: only what is on this machine.
        l0: lowest and highest, both included; leaves out what is unknown.
    """
    tests: list[pl.Expr] = []
    if release is not None:
        tests.append(pl.col("release") == release)
    if model is not None:
        wanted, name = model.lower(), pl.col("model").str.to_lowercase()
        if wanted in catalogue_models.MODELS:
            wanted = catalogue_models.MODELS[wanted].id.lower()
        tests.append((name == wanted) | (name.str.split("/").list.last() == wanted))
    for column, value in (("layer", layer), ("d_sae", width), ("architecture", architecture)):
        if value is not None:
            tests.append(pl.col(column) == value)
    if site is not None:
        tests.append((pl.col("site") == site) | (pl.col("stream") == site))
    if text:
        whole = pl.concat_str("release", "id", "path", "model", separator="\n").str.to_lowercase()
        tests += [whole.str.contains(part, literal=True) for part in text.lower().split()]
    if on_disk:
        tests.append(pl.col("on_disk"))
    if l0 is not None:
        tests.append(pl.col("l0").is_between(*l0))
    return frame.filter(tests) if tests else frame


def nearest_releases(frame: pl.DataFrame, name: str, n: int = 3) -> list[str]:
    """The releases whose names look most like `name`."""
    names = frame["release"].unique(maintain_order=True).to_list()
    close = difflib.get_close_matches(name, names, n=n, cutoff=0.5)
    return close or [other for other in names if name.lower() in other.lower()][:n]


def nearest_ids(frame: pl.DataFrame, release: str, name: str, n: int = 3) -> list[str]:
    """The SAEs of a release whose ids look most like `name`; its first ones where none does."""
    ids = frame.filter(pl.col("release") == release)["id"].to_list()
    return difflib.get_close_matches(name, ids, n=n, cutoff=0.5) or ids[:n]


def check_release(frame: pl.DataFrame, name: str) -> None:
    """Raise a `SpecError` with the nearest names if there is no such release."""
    if not len(frame.filter(pl.col("release") == name)):
        near = nearest_releases(frame, name)
        hint = f"did you mean {' or '.join(near)}?" if near else "`python -m dmcore catalogue --releases` lists them."
        raise SpecError(f"There is no release {name!r}: {hint}")


def check_names(frame: pl.DataFrame, *, model: str | None, site: str | None, architecture: str | None) -> None:
    """Raise a `SpecError` with the nearest names if nothing in the catalogue is called so."""
    for kind, name, columns in (
        ("model", model, ("model", "model_name")),
        ("site or stream", site, ("site", "stream")),
        ("architecture", architecture, ("architecture",)),
    ):
        if name is None or filter_catalogue(frame, **{kind.split()[0]: name}).height:  # type: ignore[arg-type]
            continue
        known = [other for column in columns for other in frame[column].drop_nulls().unique(maintain_order=True)]
        short = {other.rsplit("/", 1)[-1].lower(): other for other in known}
        near = difflib.get_close_matches(name.rsplit("/", 1)[-1].lower(), short, n=3, cutoff=0.5)
        if near:
            hint = f"did you mean {' or '.join(short[other] for other in near)}?"
        else:
            hint = f"there are {', '.join(known)}." if len(known) <= 20 else "--releases lists them with their models."
        raise SpecError(f"Nothing in the catalogue has the {kind} {name!r}: {hint}")


def find_saes(frame: pl.DataFrame, names: Sequence[tuple[str, str]]) -> pl.DataFrame:
    """The rows of some (release, id), in their order; those that are not there are left out."""
    wanted = pl.DataFrame(names, schema={"release": pl.String, "id": pl.String}, orient="row")
    return wanted.join(frame, on=["release", "id"], how="inner", maintain_order="left")


def why_unusable(row: dict[str, Any]) -> str:
    """Why an SAE of the catalogue cannot be put in a study; empty if it can."""
    if row["architecture"] == "temporal":
        return "It encodes a token by what came before it, so no token has an error of its own to split."
    if row["hook"]:
        return ""
    if row["kind"] != "sae":
        return f"It is a {row['kind']}: it predicts another site than it reads, so it has no error to split."
    return "It reads a site that is not captured here, such as the embeddings."
