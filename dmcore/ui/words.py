"""How pages name their controls, and the names of everything else, which the report shares."""

from __future__ import annotations

from dmcore.words.names import ago_text, architecture_name, distinct, l0_text, listed, plain, sae_phrase, stops_text

__all__ = [
    "FIELD_NAMES",
    "ago_text",
    "architecture_name",
    "distinct",
    "l0_text",
    "listed",
    "plain",
    "sae_phrase",
    "stops_text",
]

FIELD_NAMES = {
    "study": "study",
    "stream": "stream",
    "layer": "layer",
    "width": "width",
    "l0": "L0",
    "arch": "architecture",
    "skip": "number of skipped positions",
    "bias": "bias setting",
    "part": "part of the page",
    "view": "view",
    "metric": "metric",
    "space": "kind of least squares",
    "surface": "metric",
    "over": "metric",
    "value": "statistic",
    "of": "part of the error",
    "by": "grouping",
    "context": "context",
    "look": "view",
    "whose": "SAE",
    "sort": "order",
    "latent": "latent",
    "scorer": "scorer",
    "told": "SAE",
    "token": "token",
    "clusters": "part of the error",
    "cluster": "cluster",
    "reduce": "view",
    "method": "method",
    "left": "error",
    "cost": "view",
    "trust": "view",
    "against": "measure of size",
    "gained": "measure of cost",
    "spliced": "variant",
    "read": "context",
    "at": "token",
}
"""Controls and link parameters, as a sentence says them."""
