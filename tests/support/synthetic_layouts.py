"""Synthetic scenes on disk under the folder and file names of data sets that only tests write.

Files are of the kind that the data sets ship, as in :mod:`eo_backbones.datasets.synthetic_files`. Sources of the
layouts: phelber/EuroSAT (EuroSAT); schmitt-muc/SEN12MS README (SEN12MS); PatrickTUM/UnCRtainTS data loader
(SEN12MS-CR); lukasliebel/dfc2020_baseline ``code/datasets.py`` (DFC2020); torchgeo/datasets/bigearthnet.py (BigEarthNet
v2).
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from eo_backbones.bands import BANDS, LAYOUTS, S1_BANDS, S2_BANDS
from eo_backbones.datasets.eurosat import EUROSAT_CLASSES, EUROSAT_SIZE_PX
from eo_backbones.datasets.synthetic import scene
from eo_backbones.datasets.synthetic_files import (
    PATCH_PX,
    optical_values,
    radar_values,
    scenes_in_turn,
    write_both_sensors,
    write_geotiff,
    write_sen12ms,
)

_BIGEARTHNET_PX = 120

# One IGBP class for each DFC2020 code (position), and a BigEarthNet label for each code that synthetic scenes have.
_IGBP_OF_DFC = np.array((0, 4, 7, 9, 10, 11, 12, 13, 15, 16, 17), np.uint16)
_BIGEARTHNET_OF_DFC = {
    1: "Mixed forest",
    2: "Transitional woodland, shrub",
    4: "Pastures",
    6: "Arable land",
    7: "Urban fabric",
    9: "Beaches, dunes, sands",
    10: "Inland waters",
}


def write_eurosat_ms(
    root: Path, *, per_class: int = 6, seed: int = 0, classes: Sequence[str] = EUROSAT_CLASSES
) -> Path:
    """Write ``<Class>/<Class>_<n>.tif``: 13 bands, uint16 digital numbers, B8A last, no band names; return ``root``."""
    for name in classes:
        for index in range(per_class):
            made = scene(seed, name, EUROSAT_SIZE_PX, index=index, bands=S2_BANDS)
            write_geotiff(
                root / name / f"{name}_{index + 1}.tif", optical_values(made, LAYOUTS["eurosat-ms"]), position=index
            )
    return root


def write_sen12ms_with_maps(
    root: Path, *, scenes: Sequence[str], patches: int, size: int = PATCH_PX, seed: int = 0
) -> Path:
    """Write SEN12MS and its ``lc`` files: four bands, uint16, the first the pixels' IGBP classes, the others zero."""
    write_sen12ms(root, scenes=scenes, patches=patches, size=size, seed=seed)
    made = scenes_in_turn(seed, size)
    for place in scenes:
        season, number = place.split("/")
        for patch in range(1, patches + 1):
            cover = np.zeros((4, size, size), np.uint16)
            cover[0] = _IGBP_OF_DFC[next(made).classmap]
            write_geotiff(root / season / f"lc_{number}" / f"{season}_lc_{number}_p{patch}.tif", cover)
    return root


def write_sen12mscr(root: Path, *, patches: int = 4, size: int = PATCH_PX, seed: int = 0) -> Path:
    """Write ``ROIs1158_spring_s2/s2_1/ROIs1158_spring_s2_1_p1.tif``, ``s1`` and ``s2_cloudy``; return ``root``."""
    made = scenes_in_turn(seed, size)
    for patch in range(1, patches + 1):
        shown = next(made)
        clear = optical_values(shown, S2_BANDS)
        cloud = np.linspace(0.2, 0.9, size) * np.ones((size, 1))
        images = {
            "s1": radar_values(shown),
            "s2": clear,
            "s2_cloudy": np.rint(clear * (1 - cloud) + 6000 * cloud).astype(np.uint16),
        }
        for sensor, values in images.items():
            folder = root / f"ROIs1158_spring_{sensor}" / f"{sensor}_1"
            write_geotiff(folder / f"ROIs1158_spring_{sensor}_1_p{patch}.tif", values, position=patch)
    return root


def write_dfc2020(root: Path, *, validation: int = 4, test: int = 4, size: int = PATCH_PX, seed: int = 0) -> Path:
    """Write ``ROIs0000_validation/s2_validation/ROIs0000_validation_s2_0_p0.tif``, ``s1`` and ``dfc``, and the same of
    ``ROIs0000_test/s2_0``; return ``root``.

    ``dfc`` holds the DFC2020 class of each pixel, one band, uint16.
    """
    made = scenes_in_turn(seed, size)
    for part, count, suffix in (("validation", validation, "validation"), ("test", test, "0")):
        for patch in range(count):
            shown = next(made)
            folder, name = root / f"ROIs0000_{part}", f"ROIs0000_{part}_{{sensor}}_0_p{patch}.tif"
            write_both_sensors(folder, f"{{sensor}}_{suffix}", name, shown)
            write_geotiff(folder / f"dfc_{suffix}" / name.format(sensor="dfc"), shown.classmap[None].astype(np.uint16))
    return root


def write_bigearthnet(
    root: Path, *, patches: int = 4, seed: int = 0, labels: Literal["csv", "parquet", "json"] | None = "csv"
) -> Path:
    """Write BigEarthNet v2: one file a band at its native sampling, Level 2A, and the Sentinel-1 twins.

    ``BigEarthNet-S2/<product>/<patch>/<patch>_B02.tif`` has 120, 60 or 20 pixels a side by the band's sampling;
    ``BigEarthNet-S1/<product>/<patch>/<patch>_VV.tif`` 120. The two names share tile, column and row.
    Labels are the materials that cover a twentieth of the patch or more. Returns ``root``.

    Args:
        root: folder to write to.
        patches: how many; their classes take turns.
        seed: of the scenes.
        labels: as version 2's ``metadata.parquet`` (needs pyarrow), the same table as ``metadata.csv``, or version 1's
            label files; its split column names each part in turn.
    """
    rows: list[dict[str, object]] = []
    s2_product = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
    s1_product = "S1A_IW_GRDH_1SDV_20170613T165043"
    for index in range(patches):
        name = EUROSAT_CLASSES[index % len(EUROSAT_CLASSES)]
        made = scene(seed, name, _BIGEARTHNET_PX, index=index, level="L2A", native=True)
        place = f"{26 + index // 10}_{57 + index % 10}"
        s2_name, s1_name = f"{s2_product}_{place}", f"{s1_product}_33UUP_{place}"
        for band_name in LAYOUTS["bigearthnet-s2"]:
            path = root / "BigEarthNet-S2" / s2_product / s2_name / f"{s2_name}_{band_name}.tif"
            write_geotiff(path, optical_values(made, (band_name,)), position=index, gsd_m=BANDS[band_name].gsd_m)
        for band_name in S1_BANDS:
            path = root / "BigEarthNet-S1" / s1_product / s1_name / f"{s1_name}_{band_name}.tif"
            write_geotiff(path, made.s1[band_name][None], position=index)
        shares = np.bincount(made.classmap.ravel()) / made.classmap.size
        names = [name for code, name in _BIGEARTHNET_OF_DFC.items() if code < len(shares) and shares[code] >= 0.05]
        part = ("train", "validation", "test")[index % 3]
        rows.append({"patch_id": s2_name, "labels": names, "split": part, "s1_name": s1_name})
        if labels == "json":
            text = json.dumps({"labels": names, "corresponding_s2_patch": s2_name})
            for folder, own in (("BigEarthNet-S2", s2_name), ("BigEarthNet-S1", s1_name)):
                product = s2_product if own == s2_name else s1_product
                (root / folder / product / own / f"{own}_labels_metadata.json").write_text(text)
    if labels == "csv":
        with (root / "metadata.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif labels == "parquet":
        from pyarrow import parquet
        from pyarrow.lib import Table

        parquet.write_table(Table.from_pylist(rows), root / "metadata.parquet")
    return root
