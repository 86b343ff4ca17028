"""Labelled images, how to split them, and synthetic scenes.

:func:`open_dataset` is the entry by name that the commands use.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from eo_backbones.datasets.eurosat import eurosat_ms, eurosat_rgb
from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.errors import unknown_name

__all__ = ["DATASETS", "LabelledImages", "open_dataset"]

DATASETS: Mapping[str, Callable[[Path], LabelledImages]] = MappingProxyType(
    {"eurosat-ms": eurosat_ms, "eurosat-rgb": eurosat_rgb}
)
"""Kind of data set, as ``evaluate --dataset`` takes it -> function that opens a folder or archive."""


def open_dataset(kind: str, root: Path) -> LabelledImages:
    """Open a labelled data set by its kind.

    Raises:
        UserError: the kind is unknown, or ``root`` does not hold such a data set.
    """
    if kind not in DATASETS:
        raise unknown_name("data set", kind, DATASETS)
    return DATASETS[kind](Path(root))
