"""Synthetic scenes on disk, under the true folder and file names of the data sets that this project reads.

Files are of the kind that the data sets ship: dtype, band order, interleave, missing band descriptions, map
projection. Sources of the layouts: schmitt-muc/SEN12MS README (SEN12MS); lukasliebel/dfc2020_baseline
``code/datasets.py`` (DFC2020); PatrickTUM/UnCRtainTS data loader (SEN12MS-CR); phelber/EuroSAT (EuroSAT);
torchgeo/datasets/bigearthnet.py (BigEarthNet v2). The map positions are made up.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from PIL import Image

from eo_backbones.bands import BANDS, LAYOUTS, S1_BANDS, S2_BANDS
from eo_backbones.contract import DN_PER_REFLECTANCE, OPTICAL_DISPLAY, RADAR_DISPLAY
from eo_backbones.datasets.eurosat import EUROSAT_CLASSES, EUROSAT_SIZE_PX
from eo_backbones.datasets.labelled import IGNORED
from eo_backbones.datasets.land_cover import LAND_COVER_CLASSES
from eo_backbones.datasets.synthetic import SyntheticScene, scene

_PATCH_PX = 256  # SEN12MS, SEN12MS-CR and DFC2020
_BIGEARTHNET_PX = 120
_MASKED = ("River", "Residential", "Forest", "Pasture")
_UTM_EPSG = 32632
_UTM_ORIGIN_M = (600_000.0, 5_400_000.0)
_JPEG_QUALITY = 95

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
            _write(root / name / f"{name}_{index + 1}.tif", _optical(made, LAYOUTS["eurosat-ms"]), place=index)
    return root


def write_eurosat_rgb(
    root: Path, *, per_class: int = 6, seed: int = 0, classes: Sequence[str] = EUROSAT_CLASSES
) -> Path:
    """Write ``<Class>/<Class>_<n>.jpg`` of the same scenes as :func:`write_eurosat_ms`; return ``root``."""
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            made = scene(seed, name, EUROSAT_SIZE_PX, index=index, bands=LAYOUTS["eurosat-rgb"])
            image = Image.fromarray(_display(made, LAYOUTS["eurosat-rgb"]).transpose(1, 2, 0))
            image.save(root / name / f"{name}_{index + 1}.jpg", quality=_JPEG_QUALITY)
    return root


def write_sen12ms(
    root: Path,
    *,
    scenes: Sequence[str] = ("ROIs1158_spring/1", "ROIs2017_winter/2"),
    patches: int = 4,
    size: int = _PATCH_PX,
    seed: int = 0,
    maps: bool = False,
) -> Path:
    """Write ``ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p1.tif`` and its ``s1`` twin; return ``root``.

    Args:
        root: folder to write to.
        scenes: ``"<season folder>/<scene number>"``.
        patches: patches of each scene; their classes take turns.
        size: side of a patch; 256 in the real data set.
        seed: of the scenes.
        maps: also write ``lc``: four bands, uint16, the first an IGBP class of each pixel, the others zero.
    """
    made = _patches(seed, size)
    for place in scenes:
        season, number = place.split("/")
        for patch in range(1, patches + 1):
            shown, name = made(), f"{season}_{{sensor}}_{number}_p{patch}.tif"
            _write_both(root / season, name, f"{{sensor}}_{number}", shown)
            if maps:
                cover = np.zeros((4, size, size), np.uint16)
                cover[0] = _IGBP_OF_DFC[shown.classmap]
                _write(root / season / f"lc_{number}" / name.format(sensor="lc"), cover)
    return root


def write_sen12mscr(root: Path, *, patches: int = 4, size: int = _PATCH_PX, seed: int = 0) -> Path:
    """Write ``ROIs1158_spring_s2/s2_1/ROIs1158_spring_s2_1_p1.tif``, ``s1`` and ``s2_cloudy``; return ``root``."""
    made = _patches(seed, size)
    for patch in range(1, patches + 1):
        shown = made()
        clear = _optical(shown, S2_BANDS)
        cloud = np.linspace(0.2, 0.9, size) * np.ones((size, 1))
        images = {
            "s1": _radar(shown),
            "s2": clear,
            "s2_cloudy": np.rint(clear * (1 - cloud) + 6000 * cloud).astype(np.uint16),
        }
        for sensor, values in images.items():
            folder = root / f"ROIs1158_spring_{sensor}" / f"{sensor}_1"
            _write(folder / f"ROIs1158_spring_{sensor}_1_p{patch}.tif", values, place=patch)
    return root


def write_dfc2020(root: Path, *, validation: int = 4, test: int = 4, size: int = _PATCH_PX, seed: int = 0) -> Path:
    """Write ``ROIs0000_validation/s2_validation/ROIs0000_validation_s2_0_p0.tif``, ``s1`` and ``dfc``, and the same of
    ``ROIs0000_test/s2_0``; return ``root``.

    ``dfc`` holds the DFC2020 class of each pixel, one band, uint16.
    """  # noqa: D205 -- two file names
    made = _patches(seed, size)
    for part, count, suffix in (("validation", validation, "validation"), ("test", test, "0")):
        for patch in range(count):
            shown = made()
            folder, name = root / f"ROIs0000_{part}", f"ROIs0000_{part}_{{sensor}}_0_p{patch}.tif"
            _write_both(folder, name, f"{{sensor}}_{suffix}", shown)
            _write(folder / f"dfc_{suffix}" / name.format(sensor="dfc"), shown.classmap[None].astype(np.uint16))
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
            _write(path, _optical(made, (band_name,)), place=index, gsd_m=BANDS[band_name].gsd_m)
        for band_name in S1_BANDS:
            path = root / "BigEarthNet-S1" / s1_product / s1_name / f"{s1_name}_{band_name}.tif"
            _write(path, made.s1[band_name][None], place=index)
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
        from pyarrow import parquet  # noqa: PLC0415 -- an extra
        from pyarrow.lib import Table  # noqa: PLC0415

        parquet.write_table(Table.from_pylist(rows), root / "metadata.parquet")
    return root


def write_class_folders(
    root: Path,
    *,
    classes: Sequence[str] = EUROSAT_CLASSES[:3],
    per_class: int = 4,
    bands: Sequence[str] = ("B02", "B03", "B04", "B08"),
    size: int = 32,
    seed: int = 0,
    named: bool = True,
    suffix: str = ".tif",
) -> Path:
    """Write ``<class>/image_0.tif`` and so on, as a user's own images; return ``root``.

    Args:
        root: folder to write to.
        classes: EuroSAT class names.
        per_class: images of each.
        bands: canonical names, in file order.
        size: side in pixels.
        seed: of the scenes.
        named: whether the files describe their bands.
        suffix: ``.tif``: digital numbers and dB; ``.png`` or ``.jpg``: 8-bit display values of three bands.
    """
    for name in classes:
        for index in range(per_class):
            made = scene(seed, name, size, index=index, bands=bands)
            path = root / name / f"image_{index}{suffix}"
            if suffix == ".tif":
                planes = [made.s2[band] if band in made.s2 else made.s1[band] for band in bands]
                optical = set(bands) <= set(S2_BANDS)
                values = np.stack(planes).astype(np.uint16 if optical else np.float32)
                _write(path, values, place=index, descriptions=bands if named else ())
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(_display(made, bands).transpose(1, 2, 0)).save(path)
    return root


def write_masked_images(
    root: Path,
    *,
    count: int = 12,
    bands: Sequence[str] = ("B02", "B03", "B04", "B08"),
    size: int = 96,
    seed: int = 0,
) -> Path:
    """Write ``images/image_0.tif``, ``masks/image_0.tif`` and so on, and ``classes.csv``; return ``root``.

    Masks hold the codes of DFC2020; where a scene has less than 2 % of a class, its pixels have none (255).

    Args:
        root: folder to write to.
        count: number of images: rivers, residential areas, forests and pastures in turn.
        bands: canonical names of Sentinel-2 bands, in file order.
        size: side in pixels.
        seed: of the scenes.
    """
    codes: set[int] = set()
    for index in range(count):
        made = scene(seed, _MASKED[index % len(_MASKED)], size, index=index, bands=bands)
        shares = np.bincount(made.classmap.ravel(), minlength=len(LAND_COVER_CLASSES) + 1) / made.classmap.size
        mask = np.where(shares[made.classmap] < 0.02, IGNORED, made.classmap).astype(np.uint8)
        codes |= set(np.unique(mask).tolist()) - {IGNORED}
        _write(root / "images" / f"image_{index}.tif", _optical(made, bands), place=index, descriptions=bands)
        _write(root / "masks" / f"image_{index}.tif", mask[None], place=index)
    rows = [f"{code},{LAND_COVER_CLASSES[code - 1]}" for code in sorted(codes)]
    (root / "classes.csv").write_text("\n".join(["value,name", *rows, ""]), encoding="utf-8")
    return root


def write_pairs(
    root: Path,
    *,
    count: int = 8,
    seed: int = 0,
    sizes: Sequence[int] = (64,),
    s2_bands: Sequence[str] = S2_BANDS,
    s1_bands: Sequence[str] = S1_BANDS,
    display: bool = False,
) -> Path:
    """Write ``s2/synthetic_0000.tif`` and ``s1/synthetic_0000.tif`` with band descriptions; return ``root``.

    Args:
        root: folder to write to.
        count: number of pairs; their classes take turns.
        seed: of the scenes.
        sizes: sides in pixels; the pairs take turns.
        s2_bands: canonical names of the Sentinel-2 bands to write, in this order.
        s1_bands: the same of Sentinel-1.
        display: write 8-bit display values (0...2750 digital numbers, -25...0 dB) instead of uint16 digital numbers
            and float32 dB.
    """
    for index in range(count):
        name = EUROSAT_CLASSES[index % len(EUROSAT_CLASSES)]
        made = scene(seed, name, sizes[index % len(sizes)], index=index, bands=(*s2_bands, *s1_bands))
        for sensor, names in (("s2", s2_bands), ("s1", s1_bands)):
            if display:
                values = _display(made, names)
            else:
                values = _optical(made, names) if sensor == "s2" else _radar(made, names)
            _write(root / sensor / f"synthetic_{index:04d}.tif", values, place=index, descriptions=names)
    return root


class _patches:  # noqa: N801 -- called like a function
    """Makes one patch after the other, of each class in turn."""

    def __init__(self, seed: int, size: int) -> None:
        self._seed, self._size, self._next = seed, size, 0

    def __call__(self) -> SyntheticScene:
        index, self._next = self._next, self._next + 1
        return scene(self._seed, EUROSAT_CLASSES[index % len(EUROSAT_CLASSES)], self._size, index=index)


def _write_both(folder: Path, name: str, subfolder: str, made: SyntheticScene) -> None:
    for sensor, values in (("s2", _optical(made, S2_BANDS)), ("s1", _radar(made))):
        _write(folder / subfolder.format(sensor=sensor) / name.format(sensor=sensor), values)


def _optical(made: SyntheticScene, names: Sequence[str]) -> np.ndarray:
    return np.stack([made.s2[name] for name in names]).astype(np.uint16)


def _radar(made: SyntheticScene, names: Sequence[str] = S1_BANDS) -> np.ndarray:
    return np.stack([made.s1[name] for name in names])


def _display(made: SyntheticScene, names: Sequence[str]) -> np.ndarray:
    """Return 8-bit display values by the stretches of :mod:`eo_backbones.contract`."""
    levels = []
    for name in names:
        if BANDS[name].sensor == "s2":
            low, high = (bound * DN_PER_REFLECTANCE for bound in OPTICAL_DISPLAY)
            values = made.s2[name]
        else:
            (low, high), values = RADAR_DISPLAY, made.s1[name]
        levels.append(np.rint((values - low) / (high - low) * 255).clip(0, 255).astype(np.uint8))
    return np.stack(levels)


def _write(
    path: Path, values: np.ndarray, *, place: int = 0, gsd_m: int = 10, descriptions: Sequence[str] = ()
) -> None:
    """Write ``(bands, height, width)`` as an uncompressed, pixel-interleaved GeoTIFF in UTM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    east, north = _UTM_ORIGIN_M
    east += place * width * gsd_m
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=count,
        dtype=values.dtype,
        crs=f"EPSG:{_UTM_EPSG}",
        transform=(gsd_m, 0, east, 0, -gsd_m, north),
        interleave="pixel",
    ) as target:
        target.write(values)
        if descriptions:
            target.descriptions = tuple(descriptions)
