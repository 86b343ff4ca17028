"""Labelled images, how to split them, and synthetic scenes.

:func:`open_dataset` is the entry by name that the commands use.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from eo_backbones.datasets.bigearthnet import bigearthnet
from eo_backbones.datasets.class_folders import class_folders
from eo_backbones.datasets.eurosat import eurosat_ms, eurosat_rgb
from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.datasets.land_cover import dfc2020, sen12ms, without_labels
from eo_backbones.datasets.pairs import sensor_pairs
from eo_backbones.datasets.ssl4eo import ssl4eo_s12
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.rasters.options import AS_FILES_SAY, ReadingOptions

__all__ = ["DATASETS", "FOLDER", "WITHOUT_LABELS", "LabelledImages", "open_dataset", "open_unlabelled"]

FOLDER = "folder"
"""The kind whose bands and units the user may declare."""

DATASETS: Mapping[str, Callable[[Path], LabelledImages]] = MappingProxyType(
    {
        "eurosat-ms": eurosat_ms,
        "eurosat-rgb": eurosat_rgb,
        "bigearthnet": bigearthnet,
        "dfc2020": dfc2020,
        "sen12ms": sen12ms,
        FOLDER: class_folders,
    }
)
"""Kind of data set, as ``evaluate --dataset`` takes it -> function that opens a folder or archive."""

WITHOUT_LABELS: Mapping[str, Callable[[Path], LabelledImages]] = MappingProxyType(
    {
        "pairs": sensor_pairs,
        "ssl4eo-s12": ssl4eo_s12,
        "dfc2020": partial(without_labels, "dfc2020"),
        "sen12ms": partial(without_labels, "sen12ms"),
    }
)
"""Kinds whose images can be opened without labels, for what needs none."""


def open_dataset(
    kind: str, root: Path, *, positions: Mapping[str, int] | None = None, reading: ReadingOptions = AS_FILES_SAY
) -> LabelledImages:
    """Open a labelled data set by its kind.

    Args:
        kind: key of :data:`DATASETS`.
        root: its folder or archive.
        positions: see :func:`eo_backbones.datasets.class_folders.class_folders`; only for ``folder``.
        reading: what the user says about the stored values; likewise.

    Raises:
        UserError: the kind is unknown, ``root`` does not hold such a data set, or an option that it does not take.
    """
    if kind not in DATASETS:
        raise unknown_name("data set", kind, DATASETS)
    if kind == FOLDER:
        return class_folders(Path(root), positions=positions, reading=reading)
    _refuse_declarations(kind, positions, reading)
    return DATASETS[kind](Path(root))


def open_unlabelled(
    kind: str, root: Path, *, positions: Mapping[str, int] | None = None, reading: ReadingOptions = AS_FILES_SAY
) -> LabelledImages:
    """Open images for what needs no labels: any kind of :func:`open_dataset`, and those of :data:`WITHOUT_LABELS`.

    Raises:
        UserError: as :func:`open_dataset`.
    """
    if kind not in (*DATASETS, *WITHOUT_LABELS):
        raise unknown_name("data set", kind, dict.fromkeys([*DATASETS, *WITHOUT_LABELS]))
    if kind not in WITHOUT_LABELS:
        return open_dataset(kind, root, positions=positions, reading=reading)
    _refuse_declarations(kind, positions, reading)
    return WITHOUT_LABELS[kind](Path(root))


def _refuse_declarations(kind: str, positions: Mapping[str, int] | None, reading: ReadingOptions) -> None:
    if positions:
        name, position = next(iter(positions.items()))
        raise UserError(f"the bands of {kind} are at known positions; write {name} instead of {name}={position}")
    if typed := [word for word in reading.words() if word.startswith("--")]:
        raise UserError(
            f"the values of {kind} have known units; leave {' and '.join(typed)} out (for --dataset folder only)"
        )
