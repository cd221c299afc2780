"""Detection scores of random latents of an SAE: of one that the study names, or of those on the parts of its base's error.

1. The SAE's codes, made where they are missing (a clone may hold summaries alone), and windows drawn from them.
2. Scores by patterns of the text (`explain.offline`), or by a language model (`explain.score`), whose answers and outcomes are
   kept beside the store's entries as they come, so that what is stopped goes on.
3. An entry that a page finds by the key of the SAE's summary. One of a language model that owed answers is made anew by the
   next run, which asks for those alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from dmcore.explain.cost import CallPlan, Prices, plan_calls
from dmcore.explain.draw import DrawSettings
from dmcore.explain.endpoint import ANSWERS, OpenAIEndpoint
from dmcore.explain.examples import FeatureExamples
from dmcore.explain.from_codes import examples_of_codes
from dmcore.explain.language_model import LanguageModelExplainer, LanguageModelScorer
from dmcore.explain.offline import score_offline
from dmcore.explain.score import score_features, unanswered
from dmcore.explain.score_table import summarise
from dmcore.progress import Reporter
from dmcore.results.detection import (
    DETECTION,
    DETECTION_TABLES,
    MEASURES,
    N_LATENTS,
    OFFLINE,
    PATTERNS,
    Detection,
    detection_spec,
)
from dmcore.run.looks.features import Whose
from dmcore.run.plan import Plan
from dmcore.run.scale import vocabulary_of
from dmcore.store.fingerprint import content_key
from dmcore.store.store import Store

OFFLINE_IDENTITY = {PATTERNS: 1}
"""Raised when the scores by patterns change."""


@dataclass(frozen=True)
class Codes:
    """The codes of an SAE over all tokens of the study."""

    folder: Path
    d_sae: int


class Asked:
    """A language model that explains and scores, by one endpoint."""

    def __init__(self, endpoint: OpenAIEndpoint) -> None:
        self.endpoint = endpoint
        self.explainer, self.scorer = LanguageModelExplainer(endpoint), LanguageModelScorer(endpoint)

    @property
    def identity(self) -> dict[str, Any]:
        """All that its scores depend on besides the windows."""
        return {"explainer": self.explainer.identity, "scorer": self.scorer.identity}


class Detector:
    """Scores the latents of one SAE, or says what that would take.

    Args:
        store: where results and answers are kept.
        plan: of the study.
        whose: latents.
        codes: gives the SAE's codes, made where they are missing.
        asked: the language model; None scores by patterns.
        n_latents: how many are drawn.
        reporter: told of progress; may cancel.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        whose: Whose,
        codes: Callable[[], Codes],
        *,
        asked: Asked | None = None,
        n_latents: int = N_LATENTS,
        reporter: Reporter | None = None,
    ) -> None:
        self.store, self.plan, self.whose, self.asked = store, plan, whose, asked
        self.n_latents, self.reporter = n_latents, reporter or Reporter()
        self._codes = codes
        self.windows = DrawSettings(skip_positions=plan.study.settings.skip_positions, seed=plan.study.seed)

    @property
    def name(self) -> str:
        """The SAE, in words."""
        part = self.whose.part
        return self.whose.sae.sae.name if part is None else f"the SAE on {part.sae.part}, seed {part.sae.seed}"

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The spec of the entry."""
        part = content_key(self.whose.part.spec) if self.whose.part else None
        identity = OFFLINE_IDENTITY if self.asked is None else self.asked.identity
        return detection_spec(self.whose.sae.summary_key, part, identity, self.n_latents, asdict(self.windows))

    def find(self) -> Detection | None:
        """The result, if it is there and no answers are owed to it."""
        entry = self.store.find(DETECTION, content_key(self.spec))
        found = None if entry is None else Detection.read(entry.path)
        return None if found is None or found.about["n_unanswered"] else found

    def calls(self, prices: Prices | None = None) -> CallPlan:
        """What `make` would ask of the language model; asks nothing.

        Raises:
            As `make`, but for what comes of asking.
        """
        assert self.asked is not None, "patterns ask nobody"
        features = [] if self.find() is not None else self._examples()
        return plan_calls(features, self.asked.explainer, self.asked.scorer, seed=self.windows.seed, prices=prices)

    def make(self) -> Detection:
        """The result, made where it is not there.

        Raises:
            EndpointError: no latent can succeed; what is done is kept.
            Cancelled: the user asked to stop; what a language model has answered is kept.
            DataError: the codes cannot be read, or do not fit.
            StoreError: the cache cannot be written.
        """
        if (found := self.find()) is not None:
            return found
        if self.asked is None:

            def make(folder: Path) -> None:
                self._write(folder, score_offline(self._examples(folder), self.reporter), 0)

            return Detection.read(self.store.get_or_make(DETECTION, self.spec, make).path)
        return self._make_by_asking(self.asked)

    def _make_by_asking(self, asked: Asked) -> Detection:
        features, folder, seed = self._examples(), self.store.root / ANSWERS, self.windows.seed
        scores = score_features(
            features,
            asked.explainer,
            asked.scorer,
            folder=folder,
            seed=seed,
            n_workers=asked.endpoint.settings.concurrency,
            reporter=self.reporter,
        )
        owed = unanswered(features, asked.explainer, asked.scorer, folder, seed)
        empty = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in OFFLINE.items() if name not in scores.columns]
        table = scores.with_columns(empty)
        entry = self.store.replace(DETECTION, self.spec, lambda draft: self._write(draft, table, owed))
        return Detection.read(entry.path)

    def _examples(self, folder: Path | None = None) -> list[FeatureExamples]:
        """The windows; `folder`: for a temporary file."""
        if folder is None:
            with self.store.writing():
                self.store.root.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=self.store.root, prefix=".windows-") as made:
                    return self._examples(Path(made))
        codes = self._codes()
        return examples_of_codes(
            codes.folder,
            codes.d_sae,
            self.plan.contexts,
            folder,
            vocabulary=vocabulary_of(self.plan.study),
            n_latents=self.n_latents,
            settings=self.windows,
            reporter=self.reporter,
        )

    def _write(self, folder: Path, scores: pl.DataFrame, owed: int) -> None:
        summary = summary_table(scores, self.windows.seed)
        Detection.write(folder, self._about(scores, owed), {"scores": scores, "summary": summary})

    def _about(self, scores: pl.DataFrame, owed: int) -> dict[str, Any]:
        base, part, windows = self.whose.sae, self.whose.part, self.windows
        n_failed = len(scores) - scores["failure"].null_count()
        return {
            "sae": base.sae.name if part is None else part.sae.path,
            "site": base.sae.hook,
            "summary": base.summary_key,
            "part": self.spec["part"],
            "part_name": None if part is None else part.sae.part,
            "train_seed": None if part is None else part.sae.seed,
            "scorer": PATTERNS if self.asked is None else self.asked.endpoint.settings.model,
            "identity": self.spec["scorer"],
            "n_asked": self.n_latents,
            "n_scored": len(scores) - n_failed,
            "n_failed": n_failed,
            "n_unanswered": owed,
            "windows": asdict(windows),
            "seed": windows.seed,
            "n_contexts": self.plan.contexts.n_contexts,
            "protocol": f"{windows.n_per_decile} test windows of each decile of a latent's activation and {windows.n_silent} "
            f"silent ones, of other contexts than those it is explained by; at most {windows.n_before} tokens before the peak "
            f"and {windows.n_after} after it",
        }


def summary_table(scores: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The table `summary` of a table `scores`; `seed`: of the bootstrap over latents."""
    found = summarise(scores, seed)
    scored = scores.filter(pl.col("failure").is_null())
    rows = []
    for measure in MEASURES:
        deciles = measure == "decile_accuracy"
        for place, value in enumerate(found.deciles if deciles else [getattr(found, measure)]):
            column = scored[measure].list.get(place, null_on_oob=True) if deciles else scored[measure]
            ends = {"value": value.value, "value_low": value.low, "value_high": value.high}
            n = len(column) - column.null_count()
            rows.append({"measure": measure, "decile": place if deciles else None, "n": n, **ends})
    return pl.DataFrame(rows, schema=DETECTION_TABLES["summary"]).with_columns(pl.col(pl.Float64).fill_nan(None))
