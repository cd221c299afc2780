"""What is kept of the runs of a downstream analysis: sums over bootstrap units, and the tokens of some contexts.

Its size depends on neither the number of tokens nor that of contexts (past 2,000), so that it can be written beside the work
every few seconds, and a run that was cut off goes on from there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from dmcore.results.downstream import KIND_VARIANTS, TOKEN_VARIANTS

STATE, DONE = "state.safetensors", "state.json"
NORMS = ("error_sq", "linear_sq", "nonlinear_sq", "error", "linear", "nonlinear")
"""Sums over tokens of squared norms, then of norms."""
COLUMNS = ("n_tokens", "ce", "kl", "top1", "correct")
TOKEN_COLUMNS = ("ce", *(f"delta_{v}" for v in TOKEN_VARIANTS), *(f"kl_{v}" for v in TOKEN_VARIANTS))


@dataclass(frozen=True)
class Scores:
    """What one variant predicts at the scored positions of one context."""

    loss: np.ndarray
    """(n_scored,) nats."""
    kl: np.ndarray
    """(n_scored,) nats, from the clean prediction."""
    top: np.ndarray
    """(n_scored,) ids."""


@dataclass(frozen=True)
class ContextRuns:
    """All that was run on one context."""

    context: int
    scores: dict[str, Scores]
    """By variant, `clean` among them."""
    targets: np.ndarray
    """(n_scored,) ids that were to be predicted."""
    kinds: np.ndarray
    """(n_scored,) number of each target's kind."""
    norms: np.ndarray
    """(6,) sums over the scored tokens of `NORMS`."""
    in_doses: bool
    """Whether it is one of the contexts of the doses."""


class DownstreamSums:
    """Sums of the runs, context by context.

    Args:
        variants: of all contexts, `clean` first.
        dose_variants: of the contexts of the doses; those of all contexts among them are counted twice.
        units: (n_contexts,) bootstrap unit of each context.
        n_kinds: of targets.
        listed: contexts whose tokens are kept.
        n_scored: positions of each.
    """

    def __init__(
        self,
        variants: tuple[str, ...],
        dose_variants: tuple[str, ...],
        units: np.ndarray,
        n_kinds: int,
        listed: list[int],
        n_scored: int,
    ) -> None:
        n_units = int(units.max()) + 1
        self.names = {"all": variants, "doses": dose_variants}
        self.units, self.listed = units, listed
        self.arrays = {
            "all": np.zeros((len(variants), len(COLUMNS), n_units)),
            "doses": np.zeros((len(dose_variants), len(COLUMNS), n_units)),
            "kinds": np.zeros((len(KIND_VARIANTS), 3, n_units, n_kinds)),
            "norms": np.zeros((len(NORMS), n_units)),
            "tokens": np.zeros((len(listed), n_scored, len(TOKEN_COLUMNS)), dtype=np.float32),
            "exact_gap": np.zeros(1),
        }
        self._row = {context: row for row, context in enumerate(listed)}

    def add(self, runs: ContextRuns) -> None:
        """Add a context."""
        unit, clean = self.units[runs.context], runs.scores["clean"]
        for panel in ("all", "doses") if runs.in_doses else ("all",):
            for row, name in enumerate(self.names[panel]):
                self.arrays[panel][row, :, unit] += _sums(runs.scores[name], clean, runs.targets)
        if runs.in_doses:
            gap = np.abs(runs.scores["exact"].loss - clean.loss).max()
            self.arrays["exact_gap"] = np.maximum(self.arrays["exact_gap"], gap)
        n_kinds = self.arrays["kinds"].shape[3]
        for row, name in enumerate(KIND_VARIANTS):
            one = runs.scores[name]
            for column, values in enumerate((None, one.loss.astype(np.float64), one.top == runs.targets)):
                counted = np.bincount(runs.kinds, weights=values, minlength=n_kinds)
                self.arrays["kinds"][row, column, unit] += counted
        self.arrays["norms"][:, unit] += runs.norms
        if runs.context in self._row:
            self.arrays["tokens"][self._row[runs.context]] = _token_columns(runs)

    def sums(self, panel: str, variant: str) -> dict[str, np.ndarray]:
        """(n_units,) of each of `COLUMNS`."""
        return dict(zip(COLUMNS, self.arrays[panel][self.names[panel].index(variant)], strict=True))

    def norms(self) -> dict[str, np.ndarray]:
        """(n_units,) of each of `NORMS`."""
        return dict(zip(NORMS, self.arrays["norms"], strict=True))

    def save(self, folder: Path, chunks_done: int) -> None:
        """Write everything, then note how far it is; a run that is cut off in between starts over."""
        (folder / DONE).unlink(missing_ok=True)
        save_file({name: np.ascontiguousarray(array) for name, array in self.arrays.items()}, folder / STATE)
        (folder / DONE).write_text(json.dumps({"chunks_done": chunks_done}), encoding="utf-8")

    def load(self, folder: Path) -> int:
        """Take up what `save` wrote; returns how many chunks are done, 0 where there is nothing that fits."""
        try:
            done = int(json.loads((folder / DONE).read_text(encoding="utf-8"))["chunks_done"])
            arrays = load_file(folder / STATE)
        except Exception:  # of any kind: what cannot be read is made again
            return 0
        if {name: array.shape for name, array in arrays.items()} != {k: v.shape for k, v in self.arrays.items()}:
            return 0
        self.arrays = arrays
        return done

    @staticmethod
    def forget(folder: Path) -> None:
        """Delete what `save` wrote: the result takes its place."""
        for name in (STATE, DONE):
            (folder / name).unlink(missing_ok=True)


def _sums(one: Scores, clean: Scores, targets: np.ndarray) -> list[float]:
    agree, correct = (one.top == clean.top).sum(), (one.top == targets).sum()
    return [len(targets), one.loss.sum(dtype=np.float64), one.kl.sum(dtype=np.float64), agree, correct]


def _token_columns(runs: ContextRuns) -> np.ndarray:
    clean = runs.scores["clean"].loss
    columns = [clean]
    small = [runs.scores[v].loss - clean for v in TOKEN_VARIANTS] + [runs.scores[v].kl for v in TOKEN_VARIANTS]
    columns += [np.clip(v, -6e4, 6e4).astype(np.float16).astype(np.float32) for v in small]
    return np.stack(columns, axis=1)
