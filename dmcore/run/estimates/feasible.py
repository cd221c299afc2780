"""What would stop a study as soon as it starts, of what can be told at once: no network, no weights, no texts are read."""

from __future__ import annotations

from dmcore.errors import SpecError
from dmcore.run.estimates.estimate import texts_size
from dmcore.sources.contexts import check_length
from dmcore.sources.model_files import check_layers
from dmcore.sources.model_shape import model_shape
from dmcore.sources.texts_files import COMPRESSIONS, list_files
from dmcore.specs import Study, parse_hook, stack_of

LEAST_BYTES = 0.5
"""Of a token; it has one or more, but for those at the ends of documents."""
PACKED = (*COMPRESSIONS, ".parquet")


def check_feasible(study: Study) -> None:
    """Compare a study with its model's configuration and with the sizes of its files.

    Raises:
        SpecError: a layer, position or file is not there, or the texts are too short; says what to change.
    """
    n_contexts, length = texts_size(study)
    skip = study.settings.skip_positions
    if skip >= length:
        raise SpecError(f"skip_positions is {skip}, but contexts have {length} tokens: lower it.")
    if study.model.path:
        check_layers(study)
        check_length(study, study.texts, length)
    else:
        _check_depth(study)
    if study.texts.files:
        _check_files(study, n_contexts, length)


def _check_depth(study: Study) -> None:
    """By the shape that comes with the program: the hub is not asked."""
    try:
        shape = model_shape(study.model, study.folder)
    except SpecError:  # nothing is known of it before it is downloaded: that stops no study
        return
    for hook in study.hooks:
        if stack_of(hook) == "blocks" and parse_hook(hook)[0] >= shape.n_layers > 0:
            raise SpecError(f"The model has layers 0 to {shape.n_layers - 1}, so there is no {hook}: mend the hook.")


def _check_files(study: Study, n_contexts: int, length: int) -> None:
    path = study.resolve(study.texts.files)
    folder, names = list_files(path)
    if any(name.lower().endswith(PACKED) for name in names):
        return
    size = sum((folder / name).stat().st_size for name in names)
    if n_contexts * length * LEAST_BYTES > size:
        raise SpecError(
            f"{path} holds {size:,} bytes, too few for {n_contexts:,} contexts of {length:,} tokens: lower n_contexts or "
            "context_length, or give more texts."
        )
