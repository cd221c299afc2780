"""The charts of the page Synthetic: errors planted in an SAE, and activations of known features."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from dmcore.charts.known_features import agreement_chart, agreement_table, components_chart, components_table
from dmcore.charts.planted import correlation_chart, correlation_table, miss_chart, truth_chart, truth_table
from dmcore.figures.figure import Figure
from dmcore.results.agreement import less_price, n_samples
from dmcore.results.synthetic import DEFAULTS, INGREDIENTS, NOISES, GroundTruth, Planted
from dmcore.words.synthetic import INGREDIENT_NAMES, known_sample, level_text, levels_texts, planted_sample

COSTS: dict[str, str] = {"in": "As estimated", "off": "Taken off"}
"""What estimates are drawn as, by the name in a link: with the cost of the fit in them, or with it taken off."""
COST_WORDS = {"in": "", "off": "The known cost of the fit is taken off. "}
TRUTH_WORDS = "Dashed: the estimate is the truth. Hollow: the truth is outside the interval. Shares of Σ|x − mean x|². "


def less_cost(cost: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """What a table of estimates is drawn as; `cost` is of `COSTS`."""
    return less_price if cost == "off" else lambda table: table


def planted_figure(found: Planted, noise: str, share: float, cost: str) -> Figure:
    """Truth against estimate of every cell of a noise and an ablation."""
    rows = _cells(found, noise, share, cost)
    return Figure(
        name=f"synthetic_planted_{noise}_{_percent(share)}_{cost}",
        key=(found.folder.name, noise, f"{share:g}", cost),
        question="Does the estimate find what was planted?",
        caption=f"{COST_WORDS[cost]}{len(rows)} cells: {NOISES[noise]} of 0 to 2 times the SAE's squared error on x and on "
        f"Sae(x), {level_text('ablated', share)} of the latents taken out. {TRUTH_WORDS}{planted_sample(found)}",
        chart=lambda: truth_chart(rows),
        data=lambda: truth_table(rows),
    )


def missed_figure(found: Planted, noise: str, share: float, cost: str) -> Figure:
    """The same, less the truth."""
    rows = _cells(found, noise, share, cost)
    return Figure(
        name=f"synthetic_missed_{noise}_{_percent(share)}_{cost}",
        key=(found.folder.name, noise, f"{share:g}", cost),
        question="By how much is it off?",
        caption=f"{COST_WORDS[cost]}{NOISES[noise][:1].upper()}{NOISES[noise][1:]}, {level_text('ablated', share)} of the "
        "latents taken out: estimates less the truth, in percentage points of the variance of x. An interval that reaches the "
        f"dashed line holds the truth. {planted_sample(found)}",
        chart=lambda: miss_chart(rows),
        data=lambda: truth_table(rows),
    )


def _cells(found: Planted, noise: str, share: float, cost: str) -> pl.DataFrame:
    cells = found["cells"].filter((pl.col("noise") == noise) & (pl.col("ablated") == share))
    return less_cost(cost)(cells).with_columns(
        what=pl.format("noise on x {} ×, on Sae(x) {} ×", pl.col("on_acts"), pl.col("on_recon"))
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def correlations_figure(found: Planted, noise: str, share: float) -> Figure:
    """The paper's two by two table."""
    table = found["correlations"].filter((pl.col("noise") == noise) & (pl.col("ablated") == share))
    return Figure(
        name=f"synthetic_correlations_{noise}_{_percent(share)}",
        key=(found.folder.name, noise, f"{share:g}"),
        question="Which planted noise goes with which part?",
        caption=f"{NOISES[noise][:1].upper()}{NOISES[noise][1:]}, {level_text('ablated', share)} of the latents taken out: "
        "Pearson correlation over the cells of what was planted (its share of the variance of x) with what was found; 95 % "
        f"intervals over contexts. {planted_sample(found)}",
        chart=lambda: correlation_chart(table),
        data=lambda: correlation_table(table),
    )


def known_figure(found: GroundTruth, levels: dict[str, float], number: int, cost: str) -> Figure:
    """Truth against estimate of the setting with these levels, which has this number, and of those about it."""
    rows = less_cost(cost)(neighbours(found, levels))
    return Figure(
        name=f"synthetic_known_{cost}",
        key=(found.folder.name, str(number), cost),
        question="Does the estimate find the truth?",
        caption=f"{COST_WORDS[cost]}Ringed: {setting_words(levels)}; the others differ from it in one ingredient. {TRUTH_WORDS}"
        f"{known_sample(found)}",
        chart=lambda: truth_chart(rows),
        data=lambda: truth_table(rows),
    )


def components_figure(found: GroundTruth, levels: dict[str, float], number: int, cost: str) -> Figure:
    """What the parts of a setting's error are made of."""
    rows = less_cost(cost)(found["settings"].filter(setting=number))
    setting = rows.row(0, named=True)
    components = components_of(found, levels)
    return Figure(
        name=f"synthetic_components_{cost}",
        key=(found.folder.name, str(number), cost),
        question="What is each part made of?",
        caption=f"{COST_WORDS[cost]}Of component c: Σ⟨linear part of c, linear error⟩ and Σ⟨rest of c, nonlinear error⟩, over "
        "Σ|x − mean x|², by the best affine map: each column adds up to the truth. Below 0: it cancels others. "
        f"{known_sample(found)}",
        chart=lambda: components_chart(setting, components),
        data=lambda: components_table(setting, components),
    )


def components_of(found: GroundTruth, levels: dict[str, float]) -> pl.DataFrame:
    """The components of a setting: those of one number of tokens stand for all."""
    same = found.setting(**levels | {"tokens": DEFAULTS["tokens"]}) or found.setting(**levels)
    return found["components"].filter(pl.col("setting") == (-1 if same is None else same["setting"]))


def setting_words(levels: dict[str, float]) -> str:
    """A setting in words: `active features a token 8, dense part 25 %`."""
    said = (f"{INGREDIENT_NAMES[name][:1].lower()}{INGREDIENT_NAMES[name][1:]} {level_text(name, levels[name])}"
            for name in INGREDIENTS)  # fmt: skip
    return ", ".join(said)


def neighbours(found: GroundTruth, levels: dict[str, float]) -> pl.DataFrame:
    """The settings that differ in at most one ingredient, in words; that with none is the chosen one."""
    differs = pl.sum_horizontal((pl.col(name) != level).cast(pl.Int32) for name, level in levels.items())
    rows = found["settings"].with_columns(n_other=differs).filter(pl.col("n_other") <= 1)
    words = []
    for row in rows.to_dicts():
        other = next((name for name, level in levels.items() if row[name] != level), None)
        words.append(
            "the chosen one" if other is None else f"{INGREDIENT_NAMES[other]}: {level_text(other, row[other])}"
        )
    return rows.with_columns(pl.Series("what", words, dtype=pl.String), chosen=pl.col("n_other") == 0).drop("n_other")


def agreement_figure(found: GroundTruth, cost: str) -> Figure:
    """In what share of the settings the interval holds the truth, by ingredient."""
    settings = less_cost(cost)(found["settings"])
    table = agreement_table(settings, INGREDIENT_NAMES, levels_texts(settings, list(INGREDIENT_NAMES)))
    least, most = table["samples"].min(), table["samples"].max()
    return Figure(
        name=f"synthetic_agreement_{cost}",
        key=(found.folder.name, cost),
        question="Where can the interval be trusted?",
        caption=f"{COST_WORDS[cost]}All {len(settings):,} settings of the grid, by the level of one ingredient at a time; "
        "dashed: 95 %. Settings of one density, dense part, circles and number of tokens are on the same tokens: n is "
        f"{n_samples(settings)} distinct samples, {least} to {most} a level. {known_sample(found)}",
        chart=lambda: agreement_chart(table),
        data=lambda: table,
    )


def trained_figure(found: GroundTruth, cost: str) -> Figure:
    """SAEs that were trained on known features; there must be some."""
    trained, about = found["trained"], found.about
    rows = less_cost(cost)(trained).with_columns(
        what=pl.format(
            "density {}, circles {}, {} tokens a dimension",
            *(pl.col(c).cast(pl.Int32) for c in ("density", "circles", "tokens")),
        )
    )
    saes = trained.select("density", "circles", "l0", "found").unique(["density", "circles"], maintain_order=True)
    least, most = (f"{100 * float(v):.0f}" for v in trained["found"].sort().gather([0, -1]))
    return Figure(
        name=f"synthetic_trained_{cost}",
        key=(found.folder.name, cost),
        question="And with SAEs that were trained?",
        caption=f"{COST_WORDS[cost]}{len(saes)} TopK SAEs of {trained['d_sae'][0]:,} latents, trained on "
        f"{about['training_tokens']:,} tokens of each density, without circles and with as much of them as of sparse features; "
        f"each at {trained['tokens'].n_unique()} numbers of tokens. {least} to {most} % of the true features have a decoder row "
        f"of cosine 0.9. Truth: the best affine map of {about['trained_truth_tokens']:,} other tokens. Bars: 95 % intervals "
        "over contexts.",
        chart=lambda: truth_chart(rows),
        data=lambda: truth_table(rows),
    )
