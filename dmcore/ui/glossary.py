"""The words that the pages use, each in a sentence or two, as popovers and as help on a card."""

from __future__ import annotations

import streamlit as st

TERMS: dict[str, str] = {
    "SAE": "A sparse autoencoder rewrites an activation $x$ as a sum of a few learned features out of many: "
    "$\\mathrm{Sae}(x)$. The number of features it can choose from is its *width* (its latents).",
    "dark matter": "What an SAE misses: the error $e(x) = x - \\mathrm{Sae}(x)$. Named after the part of the universe that "
    "is known only by what is missing.",
    "FVU": "Fraction of variance unexplained: "
    "$\\sum |x - \\mathrm{Sae}(x)|^2 \\,/\\, \\sum |x - \\bar x|^2$, pooled over tokens and dimensions. "
    "0 is a perfect reconstruction, 1 is no better than the mean.",
    "linear error": "The part of the error that a linear map of $x$ predicts, on contexts that the map was not fitted on.",
    "nonlinear error": "The rest of the error: what no linear map of $x$ predicts.",
    "nonlinear FVU": "The FVU that remains when the linear error is added back to the reconstruction: "
    "$\\sum |e - \\hat e|^2 \\,/\\, \\sum |x - \\bar x|^2$.",
    "L0": "How many features the SAE uses for a token, on average. Fewer is sparser.",
    "R²": "Share of the variance of a quantity that a prediction explains, on held-out contexts. 1 is perfect, 0 is no better "
    "than the mean, below 0 is worse.",
    "pooled, mean over dimensions": "Two ways to make one R² of a vector. *Pooled* adds up the squares of all dimensions first, "
    "so dimensions with more error count for more. *Mean over dimensions* counts every dimension the same; it is what the "
    "paper reports.",
    "held out by context": "The contexts (texts) are cut into folds. Each fold's tokens are predicted by a map fitted on the "
    "other folds only, so no text is on both sides.",
    "interval": "95 % interval from a bootstrap over contexts: how much the number would move with other texts of the same "
    "kind, and with the maps fitted on them. Kinds of tokens, ways to reduce the error, and what it costs take the maps as they "
    "are. Two SAEs are compared on the same draws of contexts.",
    "power law": "$\\mathrm{FVU}(W) = c + a\\,W^{-m}$: each doubling of the width $W$ takes away the same share of what is above "
    "the floor $c$.",
    "floor": "$c$ of the power law: what would be left however wide the dictionary is, if the law held.",
    "absent features": "Error above the floor: what a wider dictionary would still remove, so features that this one is too "
    "narrow to hold.",
    "scatter": "How far the SAEs lie from the law, each in its own direction. It says how far the law would be moved by "
    "other SAEs of the same widths; the interval over contexts says how far other texts would move it.",
    "AIC": "Akaike's criterion, $n\\ln(\\mathrm{rss}/n) + 2k$ with $k$ parameters: of two laws of the same points, that with the "
    "smaller one describes them better, its parameters counted against it.",
    "Spearman": "Correlation of the ranks of two quantities: 1 where one always grows with the other, whatever the shape.",
    "probe": "A linear map with one output, fitted to tell one number of a vector.",
    "encoder error": "What a better encoder would recover with the same dictionary and the same L0.",
    "ridge": "A penalty on the size of the linear map. 0 is plain least squares.",
    "loss increase": "How much worse the model predicts the next token: its cross-entropy, in nats a token, with "
    "something else in "
    "the place of an activation, less that of the model as it is.",
    "loss recovered": "1 − the loss increase, over that of putting 0 (or the mean of $x$, or $\\mathrm{Sae}(x)$) there: "
    "100 % is the model as it is.",
    "KL": "Kullback-Leibler divergence: how far the predictions are from the model's own, in nats a token. It sees changes "
    "that leave the loss as it is.",
    "attention sink": "A position, usually the first, to which attention heads go when they have nothing to look at. Its "
    "activations are very unlike the others.",
}


def glossary(*terms: str) -> None:
    """One quiet row of terms, each opening its explanation."""
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.caption("Words used here", width="content")
        for term in terms:
            with st.popover(term, type="tertiary"):
                st.markdown(f"**{term}**  \n{TERMS[term]}")
