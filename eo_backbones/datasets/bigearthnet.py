"""BigEarthNet with Sentinel-1: 120 x 120 pixels at 10 m, any of 19 labels each; version 2, and version 1's label files.

Clasen et al., "reBEN: Refined BigEarthNet Dataset for Remote Sensing Image Analysis" (2024), CDLA-Permissive-1.0.
Layout after torchgeo/datasets/bigearthnet.py: ``BigEarthNet-S2/<product>/<patch>/<patch>_B02.tif``, one file a band, 12
bands of **Level 2A** (no B10), 120, 60 or 20 pixels a side; ``BigEarthNet-S1/<product>/<name>/<name>_VV.tif``, dB.
Version 1 lacks the product folders. Coarser bands are enlarged to 120 pixels by repeating pixels. Labels:
:mod:`eo_backbones.datasets.bigearthnet_labels`.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from eo_backbones.bands import BANDS, LAYOUTS, S1_BANDS
from eo_backbones.datasets.bigearthnet_labels import (
    BIGEARTHNET_CLASSES,
    PatchLabels,
    find_table,
    read_label_file,
    read_table,
)
from eo_backbones.datasets.file_heads import heads
from eo_backbones.datasets.labelled import LabelledImages, OfficialSplit
from eo_backbones.datasets.raster import read_bands
from eo_backbones.errors import UserError

logger = logging.getLogger(__name__)

BIGEARTHNET_SIZE_PX = 120

_PATCH = re.compile(r"S([12])[ABC]_\w+_\d+_\d+")  # products end in a tile or a time
_LEVELS = 3  # archive folder, product folder, patch folder


def bigearthnet(root: Path) -> LabelledImages:
    """Open BigEarthNet: digital numbers of 12 bands and, where every patch has its Sentinel-1 twin, VV and VH in dB.

    With the Sentinel-1 folder alone, its two bands. Patches without any of the 19 labels are left out, as their
    makers do.

    Args:
        root: folder that holds the archive folders, and ``metadata.parquet`` or ``metadata.csv`` of version 2.

    Raises:
        UserError: no patches, or no labels.
    """
    root = Path(root)
    found = _patch_folders(root)
    optical, radar = found["2"], found["1"]
    if not optical and not radar:
        raise UserError(f"no BigEarthNet patches found in {root}; pass the folder that holds BigEarthNet-S2 and -S1")
    table = find_table(root)
    if table is None:
        labels, twins = _from_label_files(optical, radar)
    else:
        labels, twins = _from_table(read_table(table), optical, radar)
    folders = list((optical or radar).values())
    labelled = [folder for folder in folders if folder.name in labels]
    if not labelled:
        seen = f"{table} names none of them" if table else "there is neither metadata.parquet nor a label file"
        raise UserError(f"{root} holds {len(folders):,} BigEarthNet patches, but no labels: {seen}")
    kept = [folder for folder in labelled if labels[folder.name].numbers]
    without_twin = [folder for folder in kept if folder not in twins] if optical and twins else []
    kept = [folder for folder in kept if folder not in set(without_twin)]
    for count, reason in (
        (len(folders) - len(labelled), "without labels"),
        (len(labelled) - len(kept) - len(without_twin), "without any of the 19 labels"),
        (len(without_twin), "without a Sentinel-1 patch"),
    ):
        if count:
            logger.warning("%s: %d of %d patches %s are left out", root, count, len(folders), reason)
    if not kept:
        raise UserError(f"{root} holds no BigEarthNet patch with any of the 19 labels; check the labels")
    matrix = np.zeros((len(kept), len(BIGEARTHNET_CLASSES)), dtype=bool)
    for row, folder in enumerate(kept):
        matrix[row, list(labels[folder.name].numbers)] = True
    optical_bands = LAYOUTS["bigearthnet-s2"] if optical else ()
    radar_bands = LAYOUTS["bigearthnet-s1"] if twins or not optical else ()
    parts = np.array([labels[folder.name].part for folder in kept])
    bands = (*optical_bands, *radar_bands)
    return LabelledImages(
        name="bigearthnet",
        classes=BIGEARTHNET_CLASSES,
        paths=tuple(kept),
        labels=matrix,
        bands=bands,
        units=tuple(BANDS[name].unit for name in bands),
        reader=partial(_read, twins),
        load_bytes=partial(_heads, bands, twins),
        official=OfficialSplit(parts=parts, source=f"column split of {table.name}") if table and any(parts) else None,
    )


def _patch_folders(root: Path) -> dict[str, dict[str, Path]]:
    """Return the patch folders of each sensor (``"1"``, ``"2"``), name -> folder, sorted by name."""
    if not root.is_dir():
        raise UserError(f"no folder {root}; pass the folder that holds BigEarthNet-S2 and -S1")
    found: dict[str, dict[str, Path]] = {"1": {}, "2": {}}
    level = [root]
    for _ in range(_LEVELS):
        below: list[Path] = []
        for entry in (entry for parent in level for entry in parent.iterdir()):
            if match := _PATCH.fullmatch(entry.name):
                found[match[1]][entry.name] = entry
            elif not entry.suffix and entry.is_dir():
                below.append(entry)
        level = below
    return {sensor: dict(sorted(folders.items())) for sensor, folders in found.items()}


def _from_label_files(
    optical: Mapping[str, Path], radar: Mapping[str, Path]
) -> tuple[dict[str, PatchLabels], dict[Path, Path]]:
    """Return labels by patch name, and Sentinel-2 folder -> Sentinel-1 folder."""
    own = {name: read_label_file(folder) for name, folder in (optical or radar).items()}
    labels = {name: found for name, found in own.items() if found is not None}
    twins: dict[Path, Path] = {}
    for folder in radar.values() if optical else ():
        described = read_label_file(folder)
        if described is not None and described.twin in optical:
            twins[optical[described.twin]] = folder
    return labels, twins


def _from_table(
    table: Mapping[str, PatchLabels], optical: Mapping[str, Path], radar: Mapping[str, Path]
) -> tuple[dict[str, PatchLabels], dict[Path, Path]]:
    """As :func:`_from_label_files`."""
    if not optical:
        return {entry.twin: entry for entry in table.values()}, {}
    twins = {
        optical[name]: radar[entry.twin] for name, entry in table.items() if name in optical and entry.twin in radar
    }
    return dict(table), twins


def _file(path: Path, twins: Mapping[Path, Path], band: str) -> Path:
    folder = twins.get(path, path) if band in S1_BANDS else path
    return folder / f"{folder.name}_{band}.tif"


def _read(twins: Mapping[Path, Path], path: Path, bands: Sequence[str]) -> np.ndarray:
    images = []
    for band in bands:
        file = _file(path, twins, band)
        values = read_bands(file, [f"{band}=1"])[0]
        side = values.shape[0]
        if values.shape[0] != values.shape[1] or BIGEARTHNET_SIZE_PX % side:
            raise UserError(
                f"{file} has {values.shape[1]} x {side} pixels; BigEarthNet bands have 120, 60 or 20 a side: restore it"
            )
        times = BIGEARTHNET_SIZE_PX // side
        images.append(values.repeat(times, axis=0).repeat(times, axis=1))
    return np.stack(images)


def _heads(bands: Sequence[str], twins: Mapping[Path, Path], path: Path) -> bytes:
    return heads(_file(path, twins, band) for band in bands)
