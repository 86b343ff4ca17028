"""BigEarthNet with Sentinel-1: 120 x 120 pixels at 10 m, any of 19 labels each; version 2, and version 1's label files.

Clasen et al., "reBEN: Refined BigEarthNet Dataset for Remote Sensing Image Analysis" (2024), CDLA-Permissive-1.0.
Layout after torchgeo/datasets/bigearthnet.py: ``BigEarthNet-S2/<product>/<patch>/<patch>_B02.tif``, one file a band, 12
bands of **Level 2A** (no B10), 120, 60 or 20 pixels a side; ``BigEarthNet-S1/<product>/<name>/<name>_VV.tif``, dB.
Version 1 lacks the product folders. Coarser bands are enlarged to 120 pixels by repeating pixels.

Labels: version 2's ``metadata.parquet`` has the columns ``patch_id``, ``labels`` (19 names), ``split`` (train,
validation, test) and ``s1_name``; reading it needs pyarrow, the extra ``eval``. The same columns as ``metadata.csv``
need nothing. Version 1 has ``<patch>_labels_metadata.json`` in every patch folder (43 names). Names and the mapping of
43 to 19 labels: torchgeo/datasets/bigearthnet.py, after label_indices.json of the data set's makers (TU Berlin).
"""

import csv
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eo_backbones.bands import BANDS, LAYOUTS, S1_BANDS
from eo_backbones.datasets.labelled import LabelledImages, OfficialSplit, heads
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.rasters.reader import read_bands

logger = logging.getLogger(__name__)

BIGEARTHNET_SIZE_PX = 120

BIGEARTHNET_CLASSES = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)
"""The 19 labels, in the order of the data set."""

# Names of CORINE Land Cover that differ from the 19; None: dropped there.
_OTHER_NAMES: dict[str, str | None] = {
    "Continuous urban fabric": "Urban fabric",
    "Discontinuous urban fabric": "Urban fabric",
    "Road and rail networks and associated land": None,
    "Port areas": None,
    "Airports": None,
    "Mineral extraction sites": None,
    "Dump sites": None,
    "Construction sites": None,
    "Green urban areas": None,
    "Sport and leisure facilities": None,
    "Non-irrigated arable land": "Arable land",
    "Permanently irrigated land": "Arable land",
    "Rice fields": "Arable land",
    "Vineyards": "Permanent crops",
    "Fruit trees and berry plantations": "Permanent crops",
    "Olive groves": "Permanent crops",
    "Annual crops associated with permanent crops": "Permanent crops",
    "Natural grassland": "Natural grassland and sparsely vegetated areas",
    "Sparsely vegetated areas": "Natural grassland and sparsely vegetated areas",
    "Moors and heathland": "Moors, heathland and sclerophyllous vegetation",
    "Sclerophyllous vegetation": "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland/shrub": "Transitional woodland, shrub",
    "Bare rock": None,
    "Burnt areas": None,
    "Inland marshes": "Inland wetlands",
    "Peatbogs": "Inland wetlands",
    "Salt marshes": "Coastal wetlands",
    "Salines": "Coastal wetlands",
    "Intertidal flats": None,
    "Water courses": "Inland waters",
    "Water bodies": "Inland waters",
    "Coastal lagoons": "Marine waters",
    "Estuaries": "Marine waters",
    "Sea and ocean": "Marine waters",
}
_PARTS = {"train": "train", "validation": "val", "val": "val", "test": "test", "": ""}
_TABLES = ("metadata.parquet", "metadata.csv")
_QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"")
_PATCH = re.compile(r"S([12])[ABC]_\w+_\d+_\d+")  # products end in a tile or a time
_LEVELS = 3  # archive folder, product folder, patch folder


@dataclass(frozen=True, slots=True)
class PatchLabels:
    """What is known about a patch.

    Attributes:
        numbers: positions in :data:`BIGEARTHNET_CLASSES`; none where the 43 names have no counterpart.
        part: ``"train"``, ``"val"``, ``"test"`` or ``""``.
        twin: name of the Sentinel-1 patch of the same place, or (in its own label file) of the Sentinel-2 patch.
    """

    numbers: frozenset[int]
    part: str = ""
    twin: str = ""


def bigearthnet(root: Path) -> LabelledImages:
    """Open BigEarthNet: digital numbers of 12 bands and, where every patch has its Sentinel-1 twin, VV and VH in dB.

    With the Sentinel-1 folder alone, its two bands. Patches without any of the 19 labels are left out, as the
    makers of the data set do.

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
    by_patch = {name: read_label_file(folder) for name, folder in (optical or radar).items()}
    labels = {name: known for name, known in by_patch.items() if known is not None}
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


# Labels: from version 2's metadata table, or from version 1's label files.


def label_numbers(names: Iterable[str], path: Path) -> frozenset[int]:
    """Return the positions among the 19 labels of names of either nomenclature.

    Raises:
        UserError: an unknown name; the message names ``path``.
    """
    numbers = set()
    for name in names:
        label = name if name in BIGEARTHNET_CLASSES else _OTHER_NAMES.get(name, "")
        if label == "":
            raise UserError(f"{path}: {unknown_name('BigEarthNet label', name, (*BIGEARTHNET_CLASSES, *_OTHER_NAMES))}")
        if label is not None:
            numbers.add(BIGEARTHNET_CLASSES.index(label))
    return frozenset(numbers)


def find_table(root: Path) -> Path | None:
    """Return the metadata table in a folder or directly below, or ``None``."""
    return next((path for name in _TABLES for path in sorted((*root.glob(name), *root.glob(f"*/{name}")))), None)


def read_table(path: Path) -> dict[str, PatchLabels]:
    """Return Sentinel-2 patch name -> labels of a metadata table.

    Raises:
        UserError: damaged, columns missing, an unknown label or part, or pyarrow is needed and not there.
    """
    columns = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    wanted = ("patch_id", "labels", "split", "s1_name")
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; get the table of BigEarthNet version 2")
    known: dict[str, PatchLabels] = {}
    for patch, labels, part, twin in zip(*(columns[name] for name in wanted), strict=True):
        if part not in _PARTS:
            raise UserError(f"{path}: {unknown_name('split', str(part), _PARTS)}")
        names = _listed(labels) if isinstance(labels, str) else labels
        known[patch] = PatchLabels(label_numbers(names, path), _PARTS[part], twin or "")
    return known


def read_label_file(folder: Path) -> PatchLabels | None:
    """Return the labels of a patch folder of version 1, or ``None`` if it has no label file.

    Raises:
        UserError: the file is damaged or names an unknown label.
    """
    path = folder / f"{folder.name}_labels_metadata.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return PatchLabels(label_numbers(content["labels"], path), twin=content.get("corresponding_s2_patch", ""))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a BigEarthNet label file ({error!r}); restore it from the archive") from error


def _parquet(path: Path) -> Mapping[str, list[Any]]:
    try:
        from pyarrow import parquet  # noqa: PLC0415 -- an extra
        from pyarrow.lib import ArrowException  # noqa: PLC0415
    except ImportError as error:
        raise UserError(
            f"reading {path} needs pyarrow; type: pip install 'eo-backbones[eval]', or save the table as metadata.csv"
        ) from error
    try:
        table = parquet.read_table(path)
        columns: Mapping[str, list[Any]] = {
            name: table[name].to_pylist()
            for name in ("patch_id", "labels", "split", "s1_name")
            if name in table.schema.names
        }
    except (ArrowException, OSError) as error:
        raise UserError(f"cannot read {path} ({str(error).splitlines()[0]}); download it again") from error
    return columns


def _csv(path: Path) -> Mapping[str, list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns: dict[str, list[str]] = {name: [] for name in reader.fieldnames or ()}
            for line in reader:
                for name, values in columns.items():
                    values.append(line[name] or "")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} ({error}); save the table again") from error
    return columns


def _listed(text: str) -> list[str]:
    """Return the names in a cell: quoted, as Python and numpy print lists, or separated by ``;``."""
    quoted = [one or other for one, other in _QUOTED.findall(text)]
    return quoted or [name.strip() for name in text.split(";") if name.strip()]
