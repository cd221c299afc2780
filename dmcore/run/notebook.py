"""A study from Python: `dmcore.sweep`, `scaling` and `inspect`, the same as the commands, with SAEs that are objects besides."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from dmcore.progress import Reporter, terminal_sink
from dmcore.results import RECORD, Scaling
from dmcore.run.commands.shared import resolve_study
from dmcore.run.engines import Engine, open_pipeline
from dmcore.run.looks.inspect import Inspector
from dmcore.run.pipeline import Pipeline, finished_records
from dmcore.run.plan import make_plan
from dmcore.run.scale import open_sites
from dmcore.sources.custom_saes import CustomSae
from dmcore.specs import Study

log = logging.getLogger(__name__)


def sweep(
    study: Study | Path | str,
    *,
    saes: Mapping[str, CustomSae] | None = None,
    device: str = "auto",
    precision: str | None = None,
    cache: Path | str | None = None,
    progress: bool = True,
    engine: str = "local",
    address: str = "",
    storage: str = "",
) -> pl.DataFrame:
    """Compute what a study asks for and the cache does not hold; the app lists it afterwards.

    Args:
        study: a `Study`, the path of a study file, or `demo`.
        saes: objects with `encode` and `decode`, under the names that the study gives as `custom`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        precision: of the encoders' products: `float32`, `tf32` or `bfloat16`; None for the study's own. Results in another one
            are those of a study of its own, NAME-PRECISION.
        cache: folder of the results; None for `$DMCORE_CACHE`, or `cache/` beside the package.
        progress: whether to draw the progress on stderr.
        engine: `local`, or `ray` for a Ray cluster; results and cache are the same.
        address: of the Ray cluster, `HOST:PORT` or `auto`; empty to start one on this machine.
        storage: URL of a storage that the nodes share where they share no folder, as fsspec writes it.

    Returns:
        one row per SAE, in the order of the study, with the columns of `dmcore.results.RECORD`; SAEs that failed are
        missing, and the reason of each is logged as an error.

    Raises:
        SpecError: an input is missing or wrong; nothing was computed.
    """
    chosen = Engine(engine, address, storage)
    found, pipeline = _opened(study, saes, device, cache, progress, chosen)
    outcome = pipeline.sweep(found.with_precision(precision))
    return pl.DataFrame(outcome.records, schema=RECORD)


def scaling(
    study: Study | Path | str,
    *,
    saes: Mapping[str, CustomSae] | None = None,
    device: str = "auto",
    cache: Path | str | None = None,
    progress: bool = True,
) -> dict[str, Scaling]:
    """Compare the SAEs of each site of a study that has been swept; what the cache holds is not computed again.

    Args:
        study, saes, device, cache, progress: as of `sweep`.

    Returns:
        by hook name; `found[hook]["laws"]` and so on are tables with the columns of `dmcore.results.scaling.TABLES`. Sites
        that failed are missing, and the reason of each is logged as an error.

    Raises:
        SpecError: an input is missing or wrong.
        StoreError: no SAE of the study has a result.
    """
    found, pipeline = _opened(study, saes, device, cache, progress)
    pipeline.scale(found)
    store = pipeline.store
    return open_sites(store, finished_records(make_plan(found, store, pipeline.custom), store), found.hooks)


def inspect(
    study: Study | Path | str,
    *,
    saes: Mapping[str, CustomSae] | None = None,
    device: str = "auto",
    cache: Path | str | None = None,
    progress: bool = True,
) -> Inspector:
    """A closer look at single SAEs of a study that has been swept: what is asked of it is computed then, and kept.

    `inspect("demo").features("topk_1024_4").latents`, `.structure(NAME)["parts"]`, `.detection(NAME)["scores"]`; `.parts()`
    and `.learned()` of the SAEs on the parts of an error.

    Args:
        study, saes, device, cache, progress: as of `sweep`.

    Raises:
        SpecError: the study cannot be read.
    """
    found, pipeline = _opened(study, saes, device, cache, progress)
    return Inspector(pipeline, found)


def _opened(
    study: Study | Path | str,
    saes: Mapping[str, CustomSae] | None,
    device: str,
    cache: Path | str | None,
    progress: bool,
    engine: Engine | None = None,
) -> tuple[Study, Pipeline]:
    found = study if isinstance(study, Study) else resolve_study(str(study))
    reporter = Reporter(terminal_sink()) if progress else Reporter()
    root = Path(cache).absolute() if cache else None
    return found, open_pipeline(engine or Engine(), device, reporter, root=root, custom=saes)
