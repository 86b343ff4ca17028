"""BigEarthNet's labels: from version 2's metadata table, or from version 1's label files.

Names and the mapping of 43 to 19 labels: torchgeo/datasets/bigearthnet.py, after label_indices.json of the data set's
makers (TU Berlin). Version 2's ``metadata.parquet`` has the columns ``patch_id``, ``labels`` (19 names), ``split``
(train, validation, test) and ``s1_name``; reading it needs pyarrow, the extra ``eval``. The same columns as
``metadata.csv`` need nothing. Version 1 has ``<patch>_labels_metadata.json`` in every patch folder (43 names).
"""

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eo_backbones.errors import UserError, unknown_name

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
"""The 19 labels, in their makers' order."""

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


def label_numbers(names: Iterable[str], path: Path) -> frozenset[int]:
    """Return the positions among the 19 labels of names of either nomenclature.

    Raises:
        UserError: an unknown name; the message names ``path``.
    """
    numbers = set()
    for name in names:
        own = name if name in BIGEARTHNET_CLASSES else _OTHER_NAMES.get(name, "")
        if own == "":
            raise UserError(f"{path}: {unknown_name('BigEarthNet label', name, (*BIGEARTHNET_CLASSES, *_OTHER_NAMES))}")
        if own is not None:
            numbers.add(BIGEARTHNET_CLASSES.index(own))
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
        raise UserError(f"{path} is no BigEarthNet label file ({error!r}); restore it from the archive") from error


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
