"""Hook names: where in a model an activation is read, e.g. `blocks.2.hook_resid_post`.

A decoder-only model or an encoder has one stack, `blocks`; an encoder-decoder has two, `encoder` and `decoder`, as in
transformer-lens's `HookedEncoderDecoder`.
"""

from __future__ import annotations

import difflib
import re

from dmcore.errors import SpecError

SITES = {
    "hook_resid_pre": "residual",
    "hook_resid_mid": "residual",
    "hook_resid_post": "residual",
    "hook_mlp_out": "mlp",
    "hook_attn_out": "attention",
    "attn.hook_z": "attention",
}
"""The sites of a layer, and the stream to which each belongs."""
CROSS_SITES = {
    "hook_resid_mid_cross": "residual",
    "hook_cross_attn_out": "attention",
    "cross_attn.hook_z": "attention",
}
"""The sites that a layer of an encoder-decoder's decoder has besides."""
STACKS = ("blocks", "encoder", "decoder")
HOOK = re.compile(r"(blocks|encoder|decoder)\.(\d{1,4})\.(.+)")


def sites_of(stack: str) -> dict[str, str]:
    """The sites of a layer of a stack, with their streams."""
    return {**SITES, **CROSS_SITES} if stack == "decoder" else SITES


def parse_hook(hook: str) -> tuple[int, str]:
    """Layer and site of a hook name: `blocks.2.hook_resid_post` -> `(2, "hook_resid_post")`.

    Raises:
        SpecError: it is not the name of a site; names the nearest ones.
    """
    found = HOOK.fullmatch(hook)
    if found and found[3] in sites_of(found[1]):
        return int(found[2]), found[3]
    if found:
        stack, layer = found[1], int(found[2])
    else:  # `encoder_blocks.3.hook_resid_post` means the encoder's
        stack = next((name for name in STACKS if hook.startswith(name)), "blocks")
        layer = int(next(iter(re.findall(r"\.(\d{1,4})\.", hook)), 0))
    raise SpecError(f"There is no hook {hook!r}: did you mean {' or '.join(nearest_hooks(hook, stack, layer))}?")


def nearest_hooks(hook: str, stack: str, layer: int) -> list[str]:
    """The names of a layer's sites that look most like `hook`; all of them where none does."""
    names = [f"{stack}.{layer}.{site}" for site in sites_of(stack)]
    return difflib.get_close_matches(hook, names, n=2, cutoff=0.3) or names


def stack_of(hook: str) -> str:
    """`blocks`, `encoder` or `decoder`."""
    parse_hook(hook)
    return hook.split(".", 1)[0]


def stream_of(hook: str) -> str:
    """`residual`, `mlp` or `attention`; with the stack before it in an encoder-decoder: `decoder residual`."""
    _, site = parse_hook(hook)
    stack = stack_of(hook)
    stream = sites_of(stack)[site]
    return stream if stack == "blocks" else f"{stack} {stream}"
