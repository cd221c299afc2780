"""What reduces one SAE's error, and by how much: methods on equal terms.

1. Moments of x and of what SAEs make of earlier components, with the error (`reduction_passes.joint_moments`).
2. Methods that add something affine, fitted from them (`reduction_methods`); their errors summed over contexts.
3. Coding methods, one after the other, on a sample of contexts (`coded_errors`, `context_sample`).
4. The model's loss with what each method makes, on some of those (`reduction_loss`).
5. The table (`reduction_tables`): every number held out by context, shares of the SAE's own error paired.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from dmcore.analysis.coded_errors import CodedErrors, coded_errors, coding_runs, encoder_seconds
from dmcore.analysis.coding_methods import OWN, CodingMethod, coding_method
from dmcore.analysis.context_sample import ContextSample, at_steps, sample_of
from dmcore.analysis.reduction_loss import LossInputs, LossSums, method_losses, run_methods
from dmcore.analysis.reduction_methods import Fitted, fit_methods
from dmcore.analysis.reduction_passes import ReductionSums, TokenSources, joint_moments, linear_sums
from dmcore.analysis.reduction_tables import CodedMethod, Found, reduction_rows
from dmcore.analysis.token_kinds import unnamed_vocabulary
from dmcore.errors import DataError, SpecError
from dmcore.math.moments import InputMoments
from dmcore.math.split import check_determined
from dmcore.progress import Reporter
from dmcore.results.reduction import REDUCTION_TABLES, Reduction, ReductionSettings, reduction_table
from dmcore.sources.contexts import Contexts
from dmcore.sources.models import LanguageModel
from dmcore.specs import Settings


@dataclass(frozen=True)
class Spliced:
    """What the model's loss takes."""

    contexts: Contexts
    model: Callable[[], LanguageModel]
    """Loads the model."""
    hook: str
    vocabulary: Callable[[Iterable[int]], pl.DataFrame] = unnamed_vocabulary
    """Names tokens."""


@dataclass(frozen=True)
class ReductionInputs:
    """What the reduction works from."""

    sources: TokenSources
    """The SAE, and those of earlier components."""
    inputs: InputMoments
    """Gram matrices of the site."""
    settings: Settings
    seed: int
    methods: tuple[CodingMethod, ...]
    components: tuple[dict[str, Any], ...]
    """Rows of the table `components`, in the order of `sources.earlier`."""
    l0: float
    """Of the SAE."""
    remarks: tuple[str, ...] = ()
    """Sentences about earlier components that the study does not have."""
    asked: ReductionSettings = ReductionSettings(coding_contexts=0, loss_contexts=0)  # noqa: RUF009
    """On how many contexts what is slow is run."""
    spliced: Spliced | None = None
    """For the loss; without it, there are no losses."""


@dataclass(frozen=True)
class _Coding:
    """What the coding methods gave."""

    coded: list[CodedMethod]
    own: CodedErrors | None
    """The encoder's own on the sample; None where that is all contexts."""
    seconds: float | None
    """What the encoder takes for 1,000 tokens."""
    why: list[str]
    """Sentences about methods that could not be run, and about the sample."""


@torch.inference_mode()
def error_reduction(given: ReductionInputs, folder: Path, reporter: Reporter, name: str) -> None:
    """Write what reduces an SAE's error into `folder`; `Reduction` opens it.

    The maps of every method have a bias and the study's ridge if the study's have. Numbers are null, with a sentence in
    `remarks`, where there is nothing to reduce: an error, or a nonlinear error, of 0 up to rounding; losses where the model
    predicts no next token.

    Raises:
        DataError: too few tokens for the map from x, or a method gave NaN.
    """
    settings, sources = given.settings, given.sources
    own, partition = sources.own, sources.partition
    remarks = [("earlier", text) for text in given.remarks]
    kept = own.acts.length - settings.skip_positions
    sample = sample_of(partition, kept, given.asked.coding_contexts, own.acts.d_model + int(settings.fit_bias))
    spliced = at_steps(sample.contexts, given.asked.loss_contexts) if given.spliced is not None else []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fitted, sums, shifts = _linear(given, Path(scratch), reporter, name)
        remarks += [("earlier", text) for text in fitted.left_out]
        coding = _coded(given, sample, spliced, Path(scratch), reporter)
        remarks += [("coding", text) for text in coding.why]
    losses, why = _losses(given, fitted, shifts, coding, spliced, reporter, name)
    remarks += [("loss", text) for text in why]
    n_contexts, d_model = own.acts.n_contexts, own.acts.d_model
    found = Found(
        fitted=fitted,
        sums=sums,
        coded=coding.coded,
        own=coding.own,
        sampled=len(sample.contexts),
        losses=losses,
        encoder_seconds=coding.seconds,
        l0=given.l0,
        components=given.components,
        n_contexts=n_contexts,
        d_model=d_model,
        seed=given.seed,
    )
    tables, more = reduction_rows(found)
    tables["components"] = list(given.components)
    tables["remarks"] = [{"topic": topic, "text": text} for topic, text in [*remarks, *more]]
    about = {
        "d_model": d_model,
        "d_sae": own.sae.d_sae,
        "n_tokens": int(sums.n_tokens.sum()),
        "n_contexts": n_contexts,
        "n_folds": partition.n_folds,
        "skip_positions": settings.skip_positions,
        "seed": given.seed,
        "ridge": settings.ridge,
        "fit_bias": settings.fit_bias,
        "coding_contexts": len(sample.contexts) if given.methods else 0,
        "loss_contexts": len(spliced) if losses is not None else 0,
    }
    Reduction.write(folder, about, {table: reduction_table(table, tables[table]) for table in REDUCTION_TABLES})


def _linear(
    given: ReductionInputs, scratch: Path, reporter: Reporter, name: str
) -> tuple[Fitted, ReductionSums, dict[str, torch.Tensor]]:
    """The affine methods, their sums, and the shifts of their inputs."""
    settings, sources = given.settings, given.sources
    n_tokens = sources.own.acts.n_tokens
    with reporter.stage(f"joint moments of {name}", n_tokens, "tokens") as stage:
        moments = joint_moments(sources, stage)
    per_fold = [int(moments.n_tokens([fold])) for fold in range(moments.n_folds)]
    check_determined(per_fold, sources.own.acts.d_model + int(settings.fit_bias), settings.ridge)
    fitted = fit_methods(moments, ridge=settings.ridge, fit_bias=settings.fit_bias, dtype=sources.dtype)
    with reporter.stage(f"linear methods on {name}", 2 * n_tokens, "tokens") as stage:
        sums = linear_sums(sources, moments, fitted, (settings.ridge, settings.fit_bias), scratch, stage)
    return fitted, sums, moments.shifts


def _coded(
    given: ReductionInputs, sample: ContextSample, keep: list[int], scratch: Path, reporter: Reporter
) -> _Coding:
    """Every coding method that can be run, the encoder's own on the sample, and why others cannot."""
    if not given.methods:
        return _Coding([], None, None, [])
    try:
        target = given.asked.target_l0
        runs = coding_runs(given.sources, given.inputs, given.settings, sample, keep, target, reporter)
    except DataError as error:
        return _Coding([], None, None, [str(error)])

    def run(method: CodingMethod) -> CodedErrors:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            return coded_errors(runs, method, Path(folder), reporter)

    found, why, asked = [], [], given.asked.coding_contexts
    if 0 < asked < len(sample.contexts):
        why.append(
            f"{asked:,} contexts are too few to fit a map from x: other codes were made on {len(sample.contexts):,}."
        )
    own = None if sample.is_whole else run(coding_method(OWN))
    for method in given.methods:
        try:
            found.append((method, run(method)))
        except DataError as error:
            why.append(f"{method.name}: {error}")
    return _Coding(found, own, encoder_seconds(runs), why)


def _losses(
    given: ReductionInputs,
    fitted: Fitted,
    shifts: dict[str, torch.Tensor],
    coding: _Coding,
    chosen: list[int],
    reporter: Reporter,
    name: str,
) -> tuple[LossSums | None, list[str]]:
    """The losses, or why there are none."""
    if given.spliced is None or not chosen:
        return None, []
    texts = given.spliced
    coded = {method.name: found.kept for method, found in coding.coded if method.name != OWN}
    inputs = LossInputs(texts.contexts, texts.model, texts.hook, chosen, texts.vocabulary)
    what = f"loss by {len(run_methods(fitted)) + len(coded)} methods on {name}"
    try:
        with reporter.stage(what, len(chosen), "contexts") as stage:
            return method_losses(given.sources, inputs, fitted, shifts, coded, stage), []
    except SpecError as error:
        return None, [str(error)]
