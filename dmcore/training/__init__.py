"""Training of SAEs: a grid of widths, sparsities and architectures on one stream of activations.

`train_study` trains what a study's [train] table asks for; `dmcore.training.loop` is the loop under it, which the builder
of the demo uses too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmcore.training.records import TrainedSae as TrainedSae
    from dmcore.training.train import train_study as train_study

__all__ = ["TrainedSae", "train_study"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: both bring torch, which a parser of a command line should not wait for.
    if name == "train_study":
        from dmcore.training.train import train_study

        return train_study
    if name == "TrainedSae":
        from dmcore.training.records import TrainedSae

        return TrainedSae
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
