"""What an entry of the SAE registry says of itself: site, layer, width, L0, architecture.

SAELens learns most of this from a configuration that it downloads; here it is read from the names alone, by the rules of
each family's publisher, which are those of SAELens's own readers (`sae_lens.loading.pretrained_sae_loaders`). Where names do
not say, the answer is None: nothing is guessed.
"""

from __future__ import annotations

import re
from typing import Any

from dmcore.sources.catalogue_models import listed_model
from dmcore.specs.hooks import SITES

WIDTHS = {
    "4k": 2**12, "8k": 2**13, "16k": 2**14, "32k": 2**15, "64k": 2**16, "65k": 2**16, "128k": 2**17, "131k": 2**17,
    "262k": 2**18, "524k": 2**19, "1m": 2**20,
}  # fmt: skip
"""Latents, by what publishers call them."""
ARCHITECTURES = {
    "gemma_2": "jumprelu",
    "gemma_3": "jumprelu",
    "llama_scope": "jumprelu",
    "llama_scope_r1_distill": "jumprelu",
    "goodfire": "standard",
    "deepseek_r1": "standard",
    "connor_rob_hook_z": "standard",
    "qwen_scope": "topk",
    "temporal": "temporal",
    "gemma_2_transcoder": "jumprelu_transcoder",
    "mwhanna_transcoder": "transcoder",
    "mntss_clt_layer_transcoder": "transcoder",
}
"""By the reader that SAELens has for the family."""
NAMED_ARCHITECTURES = (
    (r"matryoshka", "matryoshka"),
    (r"(^|[_-])topk([_-]|$)", "topk"),
    (r"(^|[_-])(vanilla|standard|panneal)([_-]|$)", "standard"),
    (r"(^|[_-])gated([_-]|$)", "gated"),
    (r"gpt2-small-.*-v5-(32k|128k)$", "topk"),  # OpenAI's version 5 is TopK throughout
    (r"gpt2-small-res-jb", "standard"),
)
"""Patterns of a release or path, for the readers that learn the architecture from a download."""
KNOWN_WIDTHS = {"gpt2-small-res-jb": 24_576, "goodfire-llama-3.3-70b-instruct": 2**16,
                "goodfire-llama-3.1-8b-instruct": 2**16, "deepseek-r1-distill-llama-8b-qresearch": 2**16}  # fmt: skip
"""Releases of one width, which their names do not say but their publishers and SAELens do."""
LLAMA_SITES = {"r": "hook_resid_post", "m": "hook_mlp_out", "a": "hook_attn_out"}
FOLDER_SITES = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out", "attn_out": "attn.hook_z"}
"""First part of a Gemma Scope 2 folder; its attention SAEs read the heads' output, whatever the folder is called."""
NAMED_SITE = re.compile(r"blocks\.(\d+)\.(" + "|".join([*map(re.escape, SITES), "hook_z"]) + r")(?![a-z])")


def facts(release: str, entry: dict[str, Any], sae: dict[str, Any]) -> dict[str, Any]:
    """One row of the catalogue (without `on_disk`).

    Args:
        release: the release's name.
        entry: its entry in the registry.
        sae: the SAE's item of `entry["saes"]`.
    """
    loader = entry.get("conversion_func") or "sae_lens"
    model = listed_model(str(entry["model"]), str(entry["repo_id"]))
    key, path = str(sae["id"]), str(sae["path"])
    kind = _kind(loader, release, path)
    layer, site = _place(loader, release, key, path)
    if kind != "sae":
        site = None
    return {
        "release": release,
        "id": key,
        "model": model.id,
        "model_name": str(entry["model"]),
        "hook": f"blocks.{layer}.{site}" if layer is not None and site else None,
        "layer": layer,
        "site": site,
        "stream": SITES[site] if site else None,
        "d_in": model.d_heads if site == "attn.hook_z" else model.d_model,
        "d_sae": _width(release, entry, key, path, str(sae.get("neuronpedia") or "")),
        "l0": _l0(path, sae),
        "architecture": _architecture(loader, kind, release, path),
        "processing": _processing(entry),
        "conversion_func": loader,
        "repo_id": str(entry["repo_id"]),
        "path": path,
        "neuronpedia_id": sae.get("neuronpedia"),
        "kind": kind,
    }


def _kind(loader: str, release: str, path: str) -> str:
    if loader.startswith("mntss_clt") or re.search(r"(^|[/_-])clt([/_-]|$)", f"{release}/{path}"):
        return "cross-layer transcoder"
    if "transcoder" in loader or "transcoder" in release or path.startswith("transcoder"):
        return "transcoder"
    return "sae"


def _place(loader: str, release: str, key: str, path: str) -> tuple[int | None, str | None]:
    """Layer and site."""
    if loader == "gemma_2":
        found = re.search(r"layer_(\d+)/", path)
        sites = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
        part = re.search(r"-(res|mlp|att)(-|$)", release)
        return (int(found[1]), sites[part[1]]) if found and part else (None, None)
    if loader in {"llama_scope", "llama_scope_r1_distill"}:
        found = re.match(r"l(\d+)([rma])_", key)
        return (int(found[1]), LLAMA_SITES[found[2]]) if found else (None, None)
    found = NAMED_SITE.match(key)
    if found:
        return int(found[1]), "attn.hook_z" if found[2] == "hook_z" else found[2]
    layer = re.search(r"(?:^|[/_])layer_?(\d+)", f"{path}/{key}")
    if loader == "gemma_3":
        site = next((site for folder, site in FOLDER_SITES.items() if path.startswith(folder)), None)
    elif path.startswith("resid_post_layer_") or loader in {"goodfire", "deepseek_r1", "qwen_scope"}:
        site = "hook_resid_post"  # the only site that these readers know
    else:
        site = None
    return int(layer[1]) if layer else None, site


def _width(release: str, entry: dict[str, Any], key: str, path: str, neuronpedia: str) -> int | None:
    if release in KNOWN_WIDTHS:
        return KNOWN_WIDTHS[release]
    repo = str(entry["repo_id"])
    power = re.search(r"width-2pow(\d+)", release)
    if power:
        return 2 ** int(power[1])
    named = re.search(r"width_(\d+[km])(?=[/_]|$)", path) or re.search(r"-[wW]-?(\d+[kK])(?=-|$)", repo)
    if named is None and re.search(r"gpt2-small-.*-v5-", release):
        named = re.search(r"-v5-(\d+k)$", release)
    if named is None:  # Neuronpedia's name of it: 4-sae_bench-topk-res-4k__trainer_0, 3-llamascope-slimpj-res-32k
        named = re.search(r"(?:sae_bench|llamascope)-.*-(\d+k)(?:__|$)", neuronpedia)
    if named:
        text = named[1].lower()
        # 80k is no power of two: a publisher who counts so means 1,024 to the k.
        return WIDTHS.get(text) or (int(text[:-1]) * 1024 if text.endswith("k") else None)
    factor = re.search(r"_(\d+)x$", key)
    if factor and release.startswith("llama_scope"):
        return 4096 * int(factor[1])
    number = re.search(r"hook_resid_pre_(\d+)$", key) or re.search(r"(?:_ds|hook_\w+_)(\d{4,6})(?=[_:]|$)", path)
    return int(number[1]) if number else None


def _l0(path: str, sae: dict[str, Any]) -> float | None:
    """What the path says, or what the registry expects; an expected 0 means that nobody has said."""
    named = re.search(r"average_l0_(\d+)", path)
    return float(named[1]) if named else float(sae.get("l0") or 0) or None


def _architecture(loader: str, kind: str, release: str, path: str) -> str | None:
    if loader == "gemma_3" and kind != "sae":
        return "jumprelu_skip_transcoder" if path.endswith("_affine") else "jumprelu_transcoder"
    if loader in ARCHITECTURES:
        return ARCHITECTURES[loader]
    for pattern, name in NAMED_ARCHITECTURES:
        if any(re.search(pattern, text, re.IGNORECASE) for text in (release, path)):
            return name
    return None


def _processing(entry: dict[str, Any]) -> str:
    """Changes to the model's raw weights that the registry asks for, comma-joined; empty for none."""
    asked = (entry.get("config_overrides") or {}).get("model_from_pretrained_kwargs") or {}
    return ",".join(sorted(step for step, wanted in asked.items() if wanted is True))
