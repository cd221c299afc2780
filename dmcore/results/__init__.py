"""What a study's computation leaves behind for pages and people. Nothing here imports torch: pages read these."""

from dmcore.results.compare import comparable_label, log_distance, nearest_l0_each, over_layers, over_widths
from dmcore.results.parts import PARTS_STAGE, Parts, read_parts
from dmcore.results.sae import METRICS, RECORD, TABLES, Summary, read_record, read_summary, write_summary
from dmcore.results.scaling import SCALING, Scaling, read_scaling, scaling_spec, write_scaling

__all__ = [
    "METRICS",
    "PARTS_STAGE",
    "RECORD",
    "SCALING",
    "TABLES",
    "Parts",
    "Scaling",
    "Summary",
    "comparable_label",
    "log_distance",
    "nearest_l0_each",
    "over_layers",
    "over_widths",
    "read_parts",
    "read_record",
    "read_scaling",
    "read_summary",
    "scaling_spec",
    "write_scaling",
    "write_summary",
]
