"""What a study's computation leaves behind for pages and people. Nothing here imports torch: pages read these."""

from dmcore.results.compare import comparable_label, log_distance, nearest_l0_each, over_layers, over_widths
from dmcore.results.controls import CONTROLS, Controls, ControlSettings, controls_spec
from dmcore.results.detection import DETECTION, Detection, detection_spec
from dmcore.results.downstream import DOWNSTREAM, Downstream, DownstreamSettings, downstream_spec
from dmcore.results.features import FEATURES, Features, features_spec, read_features, widest_of
from dmcore.results.learned import LEARNED, Learned, dictionaries_of, learned_spec, read_learned
from dmcore.results.parts import PARTS_STAGE, Parts
from dmcore.results.reduction import REDUCTION, Reduction, ReductionSettings, reduction_spec, wider_rows
from dmcore.results.sae import METRICS, OF_ONE_SAE, RECORD, TABLES, Summary, read_record, read_summary, write_summary
from dmcore.results.scaling import SCALING, Scaling, scaling_spec
from dmcore.results.structure import STRUCTURE, Structure, structure_spec

__all__ = [
    "CONTROLS",
    "DETECTION",
    "DOWNSTREAM",
    "FEATURES",
    "LEARNED",
    "METRICS",
    "OF_ONE_SAE",
    "PARTS_STAGE",
    "RECORD",
    "REDUCTION",
    "SCALING",
    "STRUCTURE",
    "TABLES",
    "ControlSettings",
    "Controls",
    "Detection",
    "Downstream",
    "DownstreamSettings",
    "Features",
    "Learned",
    "Parts",
    "Reduction",
    "ReductionSettings",
    "Scaling",
    "Structure",
    "Summary",
    "comparable_label",
    "controls_spec",
    "detection_spec",
    "dictionaries_of",
    "downstream_spec",
    "features_spec",
    "learned_spec",
    "log_distance",
    "nearest_l0_each",
    "over_layers",
    "over_widths",
    "read_features",
    "read_learned",
    "read_record",
    "read_summary",
    "reduction_spec",
    "scaling_spec",
    "structure_spec",
    "wider_rows",
    "widest_of",
    "write_summary",
]
