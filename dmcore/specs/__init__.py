"""Studies: what is asked, as frozen objects read from a TOML file. A study and its seed determine every number."""

from dmcore.specs.hooks import CROSS_SITES, SITES, STACKS, nearest_hooks, parse_hook, sites_of, stack_of, stream_of
from dmcore.specs.inputs import DTYPES, ENGINES, PROCESSING, TRAINABLE, ModelSpec, SaeSpec, TextsSpec, TrainSpec
from dmcore.specs.keys import spec_dict
from dmcore.specs.parts import PARTS, PartSae, PartsSpec
from dmcore.specs.read import SCHEMA, load_study
from dmcore.specs.study import NAME, PRECISIONS, Settings, Study

__all__ = [
    "CROSS_SITES",
    "DTYPES",
    "ENGINES",
    "NAME",
    "PARTS",
    "PRECISIONS",
    "PROCESSING",
    "SCHEMA",
    "SITES",
    "STACKS",
    "TRAINABLE",
    "ModelSpec",
    "PartSae",
    "PartsSpec",
    "SaeSpec",
    "Settings",
    "Study",
    "TextsSpec",
    "TrainSpec",
    "load_study",
    "nearest_hooks",
    "parse_hook",
    "sites_of",
    "spec_dict",
    "stack_of",
    "stream_of",
]
