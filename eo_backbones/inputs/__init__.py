"""From raw values to the input of a model: checked, converted, clipped, normalised."""

from eo_backbones.inputs.graph_check import possible_in_unit
from eo_backbones.inputs.transform import (
    TINY,
    UNITS_OF,
    Check,
    Display,
    InputTransform,
    PerBand,
    refuse_other_channels,
    to_native,
)
from eo_backbones.inputs.unit_check import Finding, UnitError, as_options, check_batch, check_values

__all__ = [
    "TINY",
    "UNITS_OF",
    "Check",
    "Display",
    "Finding",
    "InputTransform",
    "PerBand",
    "UnitError",
    "as_options",
    "check_batch",
    "check_values",
    "possible_in_unit",
    "refuse_other_channels",
    "to_native",
]
