"""The views of the page Synthetic: errors planted in the selected SAE, and activations of known features."""

from __future__ import annotations

from collections.abc import Callable
from shlex import quote

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.charts.known_features import agreement_chart, agreement_table, components_chart, components_table
from dmcore.charts.planted import correlation_chart, correlation_table, miss_chart, truth_chart, truth_table
from dmcore.results.agreement import less_price
from dmcore.results.synthetic import ABLATED, DEFAULTS, INGREDIENTS, NOISES, GroundTruth, Planted
from dmcore.store.synthetic import find_ground_truth, find_planted
from dmcore.ui.figure import Figure, draw
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option
from dmcore.words.synthetic import (
    CELL_NAMES,
    INGREDIENT_NAMES,
    known_finding,
    known_sample,
    level_text,
    levels_texts,
    planted_finding,
    planted_sample,
    regimes,
    setting_sentence,
)

View = Callable[[Selection, DeltaGenerator], None]
"""Draws a view; its finding goes to the container."""
HELP = {
    "density": "Mean number of sparse features that are active at a token; frequencies follow a power law.",
    "absent": "Share of the features, the rarest, that the dictionary does not have.",
    "dense": "Variance of a dense Gaussian part of six dimensions, over that of the sparse features.",
    "circles": "Variance of points on circles, over that of the sparse features; the SAE has 8 directions for each.",
    "introduced": "Mean square of features that the SAE adds though they are not there, over the variance of the true ones.",
    "shrinkage": "Share of each value that the SAE loses.",
    "tokens": "Tokens that the estimate is made of, over the dimensions of x.",
}


HOW_KNOWN = """
x = sparse features + dense part + circles. A sparse feature has a unit direction, a frequency by a power law and exponential
values of mean 1; features of a group come together, at a token and over a context. The SAE reads the true values, so that its
error x − Sae(x) is known, piece by piece:

- *absent features*: those that it lacks, the rarest, whole;
- *dense part*: it has none of it;
- *shrinkage*: the share that it loses of every value that it finds; *missed weak values*: values below 0.5, whole;
- *between the arcs of circles*: what is left of a point on a circle by the nearest of 8 directions;
- *introduced error*: features that it adds though they are not there. They do not depend on x.

*Truth*: the best affine map of x, by least squares over the tokens of the truth, is the sum of the best maps of the pieces; what
it predicts is linear, the rest is not. Absent features are therefore partly nonlinear, and shrinkage partly linear: x holds other
features in the same directions. *Estimate*: `dmcore.decompose`'s numbers on fewer tokens.
"""


def planted_view(selection: Selection, top: DeltaGenerator) -> None:
    """The paper's experiment on the selected SAE."""
    key = selection.record["summary_key"]
    found = find_planted(selection.published.store, key)
    if found is None:
        command = f"synthetic {selection.published.file} {quote(selection.record['sae'])}"
        draw_missing("The experiment on this SAE has", command)
        draw_look_button(
            selection.study_id,
            selection.record["sae"],
            lambda published: find_planted(published.store, key) is not None,
            "synthetic",
        )
        return
    with st.container(horizontal=True, gap="large"):
        noise = option("noise", "What is added", list(NOISES), [_capital(n) for n in NOISES.values()], "gaussian",
                       kind=st.segmented_control)  # fmt: skip
        shares = [f"{share:g}" for share in ABLATED]
        texts = [level_text("ablated", share) for share in ABLATED]
        out = option(
            "ablated", "Latents taken out, the least used", shares, texts, shares[0], kind=st.select_slider, width=260
        )
        less = cost_option()
    with top:
        _draw_finding(*planted_finding(found, noise))
    draw_cells(found, noise, float(out), less)
    draw_correlations(found, noise, float(out))
    with st.expander("Where is the estimate off?"):
        _draw_regimes(less(found["cells"]), CELL_NAMES)
    with st.expander("How is this made?"):
        st.markdown(
            "x' = Sae(x) stands for the true activation, which the SAE reconstructs exactly. Taking out its least used latents "
            "makes *absent features*; noise *a* on x' is a part of the activation that no latent has; noise *b* on the "
            "reconstruction is *introduced error*. The estimate sees x' + a and the error alone. The truth is the best affine "
            "map of x' + a: noise is independent of x', so its covariance is known; the moments of x' are of all tokens. Levels "
            "are mean squares, over that of the SAE's own error."
        )


def cost_option() -> Callable[[pl.DataFrame], pl.DataFrame]:
    """What the estimates of a table are drawn as: as they are, or with the cost of the fit taken off."""
    help_ = (
        "Held-out least squares pays for the map that it fits: with n tokens and d dimensions it finds about d / (n − d − 1) too "
        "much nonlinear error. The amount is known, so it can be taken off."
    )
    chosen = option("price", "Cost of the fit", ["in", "off"], ["As estimated", "Taken off"], "in",
                    kind=st.segmented_control, help=help_)  # fmt: skip
    return less_price if chosen == "off" else lambda table: table


def draw_cells(found: Planted, noise: str, share: float, less: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Truth against estimate of every cell of a noise and an ablation."""
    cells = found["cells"].filter((pl.col("noise") == noise) & (pl.col("ablated") == share))
    rows = less(cells).with_columns(
        what=pl.format("noise on x {} ×, on Sae(x) {} ×", pl.col("on_acts"), pl.col("on_recon"))
    )
    key = (found.folder.name, noise, f"{share:g}", str(less is less_price))
    left, right = st.columns(2, gap="large")
    with left:
        draw(
            Figure(
                name="synthetic_planted",
                key=key,
                question="Does the estimate find what was planted?",
                caption=f"{len(rows)} cells: {NOISES[noise]} of 0 to 2 times the SAE's squared error on x and on Sae(x), "
                f"{level_text('ablated', share)} of the latents taken out. Dashed: the estimate is the truth. Hollow: the truth "
                f"is outside the interval. Shares of Σ|x − mean x|². {planted_sample(found)}",
                chart=lambda: truth_chart(rows),
                data=lambda: truth_table(rows),
            )
        )
    with right:
        draw(
            Figure(
                name="synthetic_missed",
                key=key,
                question="By how much is it off?",
                caption="The same, less the truth, in percentage points of the variance of x. An interval that reaches the "
                f"dashed line holds the truth. {planted_sample(found)}",
                chart=lambda: miss_chart(rows),
                data=lambda: truth_table(rows),
            )
        )


def draw_correlations(found: Planted, noise: str, share: float) -> None:
    """The paper's two by two table."""
    table = found["correlations"].filter((pl.col("noise") == noise) & (pl.col("ablated") == share))
    draw(
        Figure(
            name="synthetic_correlations",
            key=(found.folder.name, noise, f"{share:g}"),
            question="Which planted noise goes with which part?",
            caption="Pearson correlation over the cells of what was planted (its share of the variance of x) with what was "
            f"found; 95 % intervals over contexts. {planted_sample(found)}",
            chart=lambda: correlation_chart(table),
            data=lambda: correlation_table(table),
        )
    )


def known_view(selection: Selection, top: DeltaGenerator) -> None:
    """Activations of known features."""
    found = find_ground_truth(selection.published.store)
    if found is None:
        draw_missing("The activations of known features have", "synthetic --ground-truth")
        return
    with top:
        _draw_finding(*known_finding(found))
    levels = choose_levels()
    less = cost_option()
    setting = found.setting(**levels)
    if setting is None:
        st.info("This setting has not been made: choose another.", icon=":material/inbox:")
        return
    setting = less(pl.DataFrame([setting], infer_schema_length=None)).row(0, named=True)
    same = found.setting(**levels | {"tokens": DEFAULTS["tokens"]}) or setting
    components = found["components"].filter(pl.col("setting") == same["setting"])
    st.markdown(f"**{setting_sentence(setting, components).replace(' %', chr(160) + '%')}**")
    key = (found.folder.name, str(setting["setting"]), str(less is less_price))
    left, right = st.columns(2, gap="large")
    rows = less(neighbours(found, levels))
    with left:
        draw(
            Figure(
                name="synthetic_known",
                key=key,
                question="Does the estimate find the truth?",
                caption="Ringed: the chosen setting; the others differ from it in one ingredient. Dashed: the estimate is the "
                f"truth. Hollow: the truth is outside the interval. Shares of Σ|x − mean x|². {known_sample(found)}",
                chart=lambda: truth_chart(rows),
                data=lambda: truth_table(rows),
            )
        )
    with right:
        draw(
            Figure(
                name="synthetic_components",
                key=key,
                question="What is each part made of?",
                caption="Of component c: Σ⟨linear part of c, linear error⟩ and Σ⟨rest of c, nonlinear error⟩, over "
                "Σ|x − mean x|², by the best affine map: each column adds up to the truth. Below 0: it cancels others. "
                f"{known_sample(found)}",
                chart=lambda: components_chart(setting, components),
                data=lambda: components_table(setting, components),
            )
        )
    draw_agreement(found, less)
    draw_trained(found, less)
    with st.expander("How is this made?"):
        st.markdown(HOW_KNOWN)


def choose_levels() -> dict[str, float]:
    """A slider an ingredient; the chosen level of each."""
    levels, columns = {}, st.columns(4, gap="medium")
    for k, (name, values) in enumerate(INGREDIENTS.items()):
        keys, texts = [f"{v:g}" for v in values], [level_text(name, v) for v in values]
        with columns[k % 4]:
            chosen = option(name, INGREDIENT_NAMES[name], keys, texts, f"{DEFAULTS[name]:g}",
                            kind=st.select_slider, help=HELP[name])  # fmt: skip
        levels[name] = values[keys.index(chosen)]
    return levels


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


def draw_agreement(found: GroundTruth, less: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """In what share of the settings the interval holds the truth, by ingredient."""
    settings = less(found["settings"])
    table = agreement_table(settings, INGREDIENT_NAMES, levels_texts(settings, list(INGREDIENT_NAMES)))
    draw(
        Figure(
            name="synthetic_agreement",
            key=(found.folder.name, str(less is less_price)),
            question="Where can the interval be trusted?",
            caption=f"All {len(settings):,} settings of the grid, by the level of one ingredient at a time; dashed: 95 %. "
            "Settings of one density, dense part, circles and number of tokens share their tokens, so they are not independent. "
            f"{known_sample(found)}",
            chart=lambda: agreement_chart(table),
            data=lambda: table,
        )
    )
    with st.expander("Where is the estimate off?"):
        _draw_regimes(settings, INGREDIENT_NAMES)


def draw_trained(found: GroundTruth, less: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """SAEs that were trained on known features."""
    trained = found["trained"]
    if trained.is_empty():
        return
    rows = less(trained).with_columns(
        what=pl.format(
            "density {}, circles {}, {} tokens a dimension",
            *(pl.col(c).cast(pl.Int32) for c in ("density", "circles", "tokens")),
        )
    )
    saes = trained.select("density", "circles", "l0", "found").unique(["density", "circles"], maintain_order=True)
    least, most = (f"{100 * float(v):.0f}" for v in trained["found"].sort().gather([0, -1]))
    about = found.about
    draw(
        Figure(
            name="synthetic_trained",
            key=(found.folder.name, str(less is less_price)),
            question="And with SAEs that were trained?",
            caption=f"{len(saes)} TopK SAEs of {trained['d_sae'][0]:,} latents, trained on {about['training_tokens']:,} tokens "
            "of each density, without circles and with as much of them as of sparse features; each at "
            f"{trained['tokens'].n_unique()} numbers of tokens. {least} to {most} % of the true features have a decoder row of "
            f"cosine 0.9. Truth: the best affine map of {about['trained_truth_tokens']:,} other tokens. Bars: 95 % intervals "
            "over contexts.",
            chart=lambda: truth_chart(rows),
            data=lambda: truth_table(rows),
        )
    )


def _draw_regimes(table: pl.DataFrame, names: dict[str, str]) -> None:
    said = regimes(table, names)
    if not said:
        st.markdown("Nowhere on this grid, by any single ingredient.")
    for text in said:
        st.markdown(f"- {_capital(text)}.")


def _draw_finding(first: str, more: str) -> None:
    finding(first)
    if more:
        st.markdown(more.replace(" %", "\xa0%"))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


VIEWS: dict[str, tuple[str, View]] = {
    "planted": ("Planted in a real SAE", planted_view),
    "known": ("Known features", known_view),
}
"""Title and view, by the name in the link."""
