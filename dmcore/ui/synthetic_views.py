"""The views of the page Synthetic: errors planted in the selected SAE, and activations of known features."""

from __future__ import annotations

from collections.abc import Callable
from shlex import quote

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dmcore.figures.synthetic import (
    COSTS,
    agreement_figure,
    components_figure,
    components_of,
    correlations_figure,
    known_figure,
    less_cost,
    missed_figure,
    planted_figure,
    trained_figure,
)
from dmcore.results.synthetic import ABLATED, DEFAULTS, INGREDIENTS, NOISES
from dmcore.store.synthetic import find_ground_truth, find_planted
from dmcore.ui.figure import draw
from dmcore.ui.look_job import draw_look_button
from dmcore.ui.missing import draw_missing
from dmcore.ui.sections import finding
from dmcore.ui.selection import Selection, option
from dmcore.words.synthetic import (
    CELL_NAMES,
    INGREDIENT_NAMES,
    OFF_WORDS,
    known_finding,
    level_text,
    planted_finding,
    regimes,
    setting_sentence,
    unsure_sentence,
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
        cost = cost_option()
    with top:
        _draw_finding(*planted_finding(found, noise))
    left, right = st.columns(2, gap="large")
    with left:
        draw(planted_figure(found, noise, float(out), cost))
    with right:
        draw(missed_figure(found, noise, float(out), cost))
    draw(correlations_figure(found, noise, float(out)))
    with st.expander("Where is the estimate off?"):
        _draw_regimes(less_cost(cost)(found["cells"]), CELL_NAMES)
    with st.expander("How is this made?"):
        st.markdown(
            "x' = Sae(x) stands for the true activation, which the SAE reconstructs exactly. Taking out its least used latents "
            "makes *absent features*; noise *a* on x' is a part of the activation that no latent has; noise *b* on the "
            "reconstruction is *introduced error*. The estimate sees x' + a and the error alone. The truth is the best affine "
            "map of x' + a: noise is independent of x', so its covariance is known; the moments of x' are of all tokens. Levels "
            "are mean squares, over that of the SAE's own error."
        )


def cost_option() -> str:
    """What estimates are drawn as: as they are, or with the cost of the fit taken off; of `COSTS`."""
    help_ = (
        "Held-out least squares pays for the map that it fits: with n tokens and d dimensions it finds about d / (n − d − 1) too "
        "much nonlinear error. The amount is known, so it can be taken off."
    )
    return option("price", "Cost of the fit", list(COSTS), list(COSTS.values()), "in",
                  kind=st.segmented_control, help=help_)  # fmt: skip


def known_view(selection: Selection, top: DeltaGenerator) -> None:
    """Activations of known features."""
    found = find_ground_truth(selection.published.store)
    if found is None:
        draw_missing("The activations of known features have", "synthetic --ground-truth")
        return
    with top:
        _draw_finding(*known_finding(found))
    levels = choose_levels()
    cost = cost_option()
    setting = found.setting(**levels)
    if setting is None:
        st.info("This setting has not been made: choose another.", icon=":material/inbox:")
        return
    row = less_cost(cost)(found["settings"].filter(setting=setting["setting"])).row(0, named=True)
    st.markdown(f"**{setting_sentence(row, components_of(found, levels)).replace(' %', chr(160) + '%')}**")
    left, right = st.columns(2, gap="large")
    with left:
        draw(known_figure(found, levels, setting["setting"], cost))
    with right:
        draw(components_figure(found, levels, setting["setting"], cost))
    draw(agreement_figure(found, cost))
    with st.expander("Where is the estimate off?"):
        _draw_regimes(less_cost(cost)(found["settings"]), INGREDIENT_NAMES)
    if len(found["trained"]):
        draw(trained_figure(found, cost))
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


def _draw_regimes(table: pl.DataFrame, names: dict[str, str]) -> None:
    said = regimes(table, names)
    if not said:
        st.markdown("Nowhere on this grid beyond doubt, by any single ingredient.")
    for text in said:
        st.markdown(f"- {_capital(text)}.")
    if unsure := unsure_sentence(table, names):
        st.markdown(unsure.replace(" %", "\xa0%"))
    st.caption(OFF_WORDS)


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
