"""How the pages tell sites apart: a stream is enough where a study reads it at one site, else the site is named too.

`residual` stays `residual` in a study that reads `hook_resid_post` alone; where it reads `hook_resid_pre` as well, the control
offers `residual pre` and `residual post`. In an encoder-decoder the stack comes first: `decoder residual`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from dmcore.specs import parse_hook, stack_of

SITE_SUFFIXES = {
    "hook_resid_pre": "pre",
    "hook_resid_mid": "mid",
    "hook_resid_post": "post",
    "hook_mlp_out": "out",
    "hook_attn_out": "out",
    "attn.hook_z": "z",
    "hook_resid_mid_cross": "mid cross",
    "hook_cross_attn_out": "cross out",
    "cross_attn.hook_z": "cross z",
}
SITE_PHRASES = {
    "hook_resid_pre": "the residual stream before layer {layer}",
    "hook_resid_mid": "the residual stream between attention and MLP of layer {layer}",
    "hook_resid_post": "the residual stream after layer {layer}",
    "hook_mlp_out": "the MLP output of layer {layer}",
    "hook_attn_out": "the attention output of layer {layer}",
    "attn.hook_z": "the attention output of layer {layer}, head by head (z)",
    "hook_resid_mid_cross": "the residual stream after the cross-attention of layer {layer}",
    "hook_cross_attn_out": "the cross-attention output of layer {layer}",
    "cross_attn.hook_z": "the cross-attention output of layer {layer}, head by head (z)",
}
WORDS = {"mlp": "MLP", "pre": "before", "mid": "middle", "post": "after", "out": "output"}


AGAIN = " #"
"""Between a label and its number, where controls and links could not tell SAEs apart otherwise."""


def told_apart(records: pl.DataFrame) -> pl.DataFrame:
    """Records that links tell apart: `stream` names one site a layer (the site's name is added where a stream has several),
    and `label` one SAE of a site, width and L0."""
    if not len(records):
        return records
    sites = [parse_hook(hook)[1] for hook in records["site"]]
    streams = records["stream"].to_list()
    kinds: dict[str, set[str]] = {}
    for stream, site in zip(streams, sites, strict=True):
        kinds.setdefault(stream, set()).add(site)
    names = [
        f"{stream} {SITE_SUFFIXES[site]}" if len(kinds[stream]) > 1 else stream
        for stream, site in zip(streams, sites, strict=True)
    ]
    return _numbered(records.with_columns(pl.Series("stream", names, dtype=pl.String)))


def _numbered(records: pl.DataFrame) -> pl.DataFrame:
    """Labels of SAEs that agree in all that a link has (seeds of one TopK, say): the second is `topk #2`, and so on."""
    seen: dict[tuple[object, ...], int] = {}
    labels = []
    for row in records.select("site", "d_sae", "label", "l0").iter_rows(named=True):
        which = (row["site"], row["d_sae"], row["label"], f"{row['l0']:.4g}")
        seen[which] = seen.get(which, 0) + 1
        labels.append(row["label"] if seen[which] == 1 else f"{row['label']}{AGAIN}{seen[which]}")
    return records.with_columns(pl.Series("label", labels, dtype=pl.String))


def stream_name(stream: str) -> str:
    """`Residual`, `MLP`, `Residual before`, `Decoder MLP`: the words of a stream on a control."""
    text = " ".join(WORDS.get(word, word) for word in stream.split())
    return text[:1].upper() + text[1:]


def site_phrase(record: Mapping[str, Any]) -> str:
    """`the residual stream after layer 2`; with the stack in an encoder-decoder."""
    layer, site = parse_hook(record["site"])
    stack = stack_of(record["site"])
    phrase = SITE_PHRASES[site].format(layer=layer)
    return phrase if stack == "blocks" else f"{phrase} of the {stack}"
