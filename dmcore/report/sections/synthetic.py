"""Whether the estimates find errors that were put in, where the truth is known."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from dmcore.figures import synthetic as figures
from dmcore.report.blocks import Block, Numbers, Section, choices, not_made, part, said
from dmcore.report.sections.tables import estimates, texts
from dmcore.report.subject import Subject
from dmcore.results.agreement import with_agreement
from dmcore.results.synthetic import DEFAULTS, NOISES, SPLIT, GroundTruth, Planted
from dmcore.store.synthetic import find_ground_truth, find_planted
from dmcore.words import synthetic as words

VALUES = {"truth_linear": "Linear, truth", "linear": "Linear, estimate", "truth_nonlinear": "Nonlinear, truth",
          "nonlinear": "Nonlinear, estimate"}  # fmt: skip


def section(subject: Subject) -> Section:
    """Make the section."""
    published = subject.published
    planted = published.noted(find_planted(published.store, subject.key))
    known = published.noted(find_ground_truth(published.store))
    command = f"synthetic {published.file} {subject.sae}"
    blocks = [
        *part("Planted in this SAE", [not_made("The experiment on this SAE has", command)]
              if planted is None else _planted(planted)),
        *part("Known features", [not_made("The activations of known features have", "synthetic --ground-truth")]
              if known is None else _known(known)),
    ]  # fmt: skip
    return Section("synthetic", "Do the estimates find what was put in?", tuple(blocks))


def _planted(found: Planted) -> list[Block]:
    cells = found["cells"]
    pairs = cells.select("noise", "ablated").unique(maintain_order=True).rows()
    shown = sorted(pairs, key=lambda pair: (list(NOISES).index(pair[0]), pair[1]))
    each = [(noise, share, cost) for cost in figures.COSTS for noise, share in shown]
    first, more = words.planted_finding(found, next(iter(NOISES)))
    others = [
        f"With {NOISES[noise]}: {text}" for noise in list(NOISES)[1:] if (text := words.noise_sentence(found, noise))
    ]
    caption = (
        "Shares of the variance of x'; levels are mean squares, over that of the SAE's own error. 95 % intervals over contexts. "
        f"{words.planted_sample(found)}"
    )
    about = {"noise": "Noise", "ablated": "Latents out", "on_acts": "On x", "on_recon": "On Sae(x)"}
    table = _with_truth(cells.with_columns(pl.col("noise").replace(NOISES)), about)
    return [
        *said(first, finding=True),
        *said(more, *others),
        *choices(figures.planted_figure(found, *one) for one in each),
        *choices(figures.missed_figure(found, *one) for one in each),
        *choices(figures.correlations_figure(found, *pair) for pair in shown),
        *_regimes("planted errors", cells, words.CELL_NAMES),
        Numbers("synthetic_planted", "Every planted error", table, caption, cells),
    ]


def _known(found: GroundTruth) -> list[Block]:
    settings, levels = found["settings"], dict(DEFAULTS)
    first, more = words.known_finding(found)
    blocks: list[Block] = [*said(first, finding=True), *said(more)]
    setting = found.setting(**levels)
    if setting is not None:
        blocks += said(words.setting_sentence(setting, figures.components_of(found, levels)))
        number = setting["setting"]
        blocks += choices(figures.known_figure(found, levels, number, cost) for cost in figures.COSTS)
        blocks += choices(figures.components_figure(found, levels, number, cost) for cost in figures.COSTS)
    blocks += choices(figures.agreement_figure(found, cost) for cost in figures.COSTS)
    blocks += _regimes("settings", settings, words.INGREDIENT_NAMES)
    if len(found["trained"]):
        blocks += choices(figures.trained_figure(found, cost) for cost in figures.COSTS)
        about = {"density": "Active features", "circles": "Circles", "tokens": "Tokens a dimension", "l0": "L0"}
        table = _with_truth(found["trained"], about)
        caption = (
            "Shares of the variance of x; truth: the best affine map of other tokens. 95 % intervals over contexts."
        )
        blocks.append(Numbers("synthetic_trained", "SAEs trained on known features", table, caption, found["trained"]))
    near = figures.neighbours(found, levels)
    caption = f"The archive of the report's tables has all {len(settings):,} settings. {words.known_sample(found)}"
    blocks.append(
        Numbers("synthetic_settings", "Settings that differ in one ingredient", _with_truth(near, {"what": "Setting"}), caption,
                settings)
    )  # fmt: skip
    return blocks


def _with_truth(table: pl.DataFrame, about: Mapping[str, str]) -> pl.DataFrame:
    """Truth, estimate and whether the one is in the interval of the other, as texts."""
    judged = with_agreement(table).with_columns(
        pl.col(f"{name}_inside").replace_strict({True: "inside", False: "outside"}, default="", return_dtype=pl.String)
        for name in SPLIT
    )
    judged = judged.with_columns(pl.col(column).round(4) for column in about if judged[column].dtype == pl.Float64)
    empty = {f"truth_{name}{end}": pl.lit(None, dtype=pl.Float64) for name in SPLIT for end in ("_low", "_high")}
    heads = dict(about) | {f"{name}_inside": f"Truth of {name}" for name in SPLIT}
    return estimates(judged.with_columns(**empty), heads, VALUES)


def _regimes(what: str, table: pl.DataFrame, names: Mapping[str, str]) -> list[Block]:
    found = words.regimes(table, names)
    rows = texts({"Where": f"{text[:1].upper()}{text[1:]}"} for text in found)
    unsure = words.unsure_sentence(table, names)
    if not found:
        return said(
            f"Nowhere on the grid of {what} is the estimate off beyond doubt, by any single ingredient.", unsure
        )
    block = Numbers(f"synthetic_off_{what.split()[0]}", "Where is the estimate off?", rows, words.OFF_WORDS)
    return [block, *said(unsure)]
