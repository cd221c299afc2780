"""What passes a place in a model, seen or replaced while it runs; layers that are not run, but give what is known already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from dmcore.sources.hooked import Site


def first_of(output: Any) -> Tensor:
    """What a module gives, or the first of it where that is a tuple."""
    return output[0] if isinstance(output, tuple) else output


def with_first(output: Any, value: Tensor) -> Any:
    """The same with another value there."""
    return (value, *output[1:]) if isinstance(output, tuple) else value


@contextmanager
def at_site(site: Site, see: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """What passes a site goes through `see`, and is what that returns; as it was where it returns None."""

    def after(_module: nn.Module, _given: Any, output: Any) -> Any:
        value = see(first_of(output))
        return None if value is None else with_first(output, value)

    def before(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        value = see(given[0] if given else named["hidden_states"])
        if value is None:
            return None
        return ((value, *given[1:]), named) if given else (given, {**named, "hidden_states": value})

    if site.side == "output":
        handle = site.module.register_forward_hook(after)
    else:
        handle = site.module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def giving(blocks: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Layers that are not run, but give `output`."""
    own = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            # Past the bridge's own attributes, which would hand it to the layer that it wraps.
            object.__setattr__(block, "forward", lambda *_args, **_named: output)
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                block.__dict__.pop("forward", None)
            else:
                object.__setattr__(block, "forward", forward)
