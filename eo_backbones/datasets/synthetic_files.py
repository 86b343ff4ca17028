"""Synthetic scenes on disk: for the guides and the benchmarks.

Images with classes, masks or a partner of the other sensor, as a user has them, and two public data sets under their
true folder and file names (EuroSAT RGB: phelber/EuroSAT; SEN12MS: schmitt-muc/SEN12MS README). Files are of the kind
that these data sets ship: dtype, band order, interleave, missing band descriptions, map projection. The map positions
are made up.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.warp import transform

from eo_backbones.bands import BANDS, LAYOUTS, S1_BANDS, S2_BANDS
from eo_backbones.contract import DN_PER_REFLECTANCE, OPTICAL_DISPLAY, RADAR_DISPLAY
from eo_backbones.datasets.eurosat import EUROSAT_CLASSES, EUROSAT_SIZE_PX
from eo_backbones.datasets.labelled import IGNORED
from eo_backbones.datasets.land_cover import LAND_COVER_CLASSES
from eo_backbones.datasets.synthetic import SyntheticScene, scene

PATCH_PX = 256  # SEN12MS, and in the tests SEN12MS-CR and DFC2020
_PATCHWORK = ("SeaLake", "Forest", "AnnualCrop", "Residential")
_MASKED = ("River", "Residential", "Forest", "Pasture")
_UTM_EPSG = 32632
_UTM_ORIGIN_M = (600_000.0, 5_400_000.0)
_JPEG_QUALITY = 95


def write_eurosat_rgb(
    root: Path, *, per_class: int = 6, seed: int = 0, classes: Sequence[str] = EUROSAT_CLASSES
) -> Path:
    """Write ``<Class>/<Class>_<n>.jpg``, RGB of 8 bits; return ``root``."""
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
    size: int = PATCH_PX,
    seed: int = 0,
) -> Path:
    """Write ``ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p1.tif`` and its ``s1`` twin; return ``root``.

    Args:
        root: folder to write to.
        scenes: ``"<season folder>/<scene number>"``.
        patches: patches of each scene; their classes take turns.
        size: side of a patch; 256 in the real data set.
        seed: of the scenes.
    """
    made = scenes_in_turn(seed, size)
    for place in scenes:
        season, number = place.split("/")
        for patch in range(1, patches + 1):
            name = f"{season}_{{sensor}}_{number}_p{patch}.tif"
            write_both_sensors(root / season, f"{{sensor}}_{number}", name, next(made))
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
                write_geotiff(path, values, position=index, descriptions=bands if named else ())
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
        write_geotiff(
            root / "images" / f"image_{index}.tif", optical_values(made, bands), position=index, descriptions=bands
        )
        write_geotiff(root / "masks" / f"image_{index}.tif", mask[None], position=index)
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
                values = optical_values(made, names) if sensor == "s2" else radar_values(made, names)
            write_geotiff(root / sensor / f"synthetic_{index:04d}.tif", values, position=index, descriptions=names)
    return root


def scenes_in_turn(seed: int, size: int) -> Iterator[SyntheticScene]:
    """Yield one scene after the other without end, of each class in turn."""
    for index in itertools.count():
        yield scene(seed, EUROSAT_CLASSES[index % len(EUROSAT_CLASSES)], size, index=index)


def write_both_sensors(folder: Path, subfolder: str, name: str, made: SyntheticScene) -> None:
    """Write a scene's two files; ``{sensor}`` in the names becomes ``s2`` and ``s1``."""
    for sensor, values in (("s2", optical_values(made, S2_BANDS)), ("s1", radar_values(made))):
        write_geotiff(folder / subfolder.format(sensor=sensor) / name.format(sensor=sensor), values)


def optical_values(made: SyntheticScene, names: Sequence[str]) -> np.ndarray:
    """Return Sentinel-2 bands, digital numbers, uint16 ``(bands, size, size)``."""
    return np.stack([made.s2[name] for name in names]).astype(np.uint16)


def radar_values(made: SyntheticScene, names: Sequence[str] = S1_BANDS) -> np.ndarray:
    """Return Sentinel-1 bands, dB, float32 ``(bands, size, size)``."""
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


def write_geotiff(
    path: Path, values: np.ndarray, *, position: int = 0, gsd_m: int = 10, descriptions: Sequence[str] = ()
) -> None:
    """Write ``(bands, height, width)`` as an uncompressed, pixel-interleaved GeoTIFF in UTM.

    ``position`` shifts it east by that many of its own widths.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    east, north = _UTM_ORIGIN_M
    east += position * width * gsd_m
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


def write_region(
    root: Path,
    *,
    scenes: int = 4,
    size: int = 512,
    patch: int = 256,
    bands: Sequence[str] = ("B08",),
    points: int = 48,
    seed: int = 0,
) -> Path:
    """Write ``scenes/scene_0.tif`` and so on, side by side, and ``labels.geojson``; return ``root``.

    A scene is a patchwork of sea, forest, fields and towns. The labels are random points with the property ``land``.

    Args:
        root: folder to write to.
        scenes: how many, from west to east.
        size: side of a scene in pixels of 10 m.
        patch: side of a patch in pixels.
        bands: canonical names of Sentinel-2 bands, in file order.
        points: how many labelled points.
        seed: of patches and points.
    """
    rng = np.random.default_rng(seed)
    side = size // patch
    order = np.array([rng.permutation(np.arange(side * side) % len(_PATCHWORK)) for _ in range(scenes)])
    classes = order.reshape(scenes, side, side)
    for number, grid in enumerate(classes):
        values = np.empty((len(bands), size, size), np.uint16)
        for index, (row, col) in enumerate(itertools.product(range(side), repeat=2)):
            made = scene(seed, _PATCHWORK[grid[row, col]], patch, index=number * side**2 + index, bands=bands)
            place = (slice(row * patch, (row + 1) * patch), slice(col * patch, (col + 1) * patch))
            values[(slice(None), *place)] = optical_values(made, bands)
        write_geotiff(root / "scenes" / f"scene_{number}.tif", values, position=number, descriptions=bands)
    drawn = rng.uniform(0.05, 0.95, (points, 2)) * size
    shown = rng.integers(0, scenes, points)
    east = _UTM_ORIGIN_M[0] + 10 * (drawn[:, 0] + shown * size)
    north = _UTM_ORIGIN_M[1] - 10 * drawn[:, 1]
    places = zip(*transform(f"EPSG:{_UTM_EPSG}", "EPSG:4326", east.tolist(), north.tolist()), strict=True)
    col, row = (drawn // patch).astype(int).T
    features = [
        {
            "type": "Feature",
            "properties": {"land": _PATCHWORK[number]},
            "geometry": {"type": "Point", "coordinates": [round(lon, 6), round(lat, 6)]},
        }
        for number, (lon, lat) in zip(classes[shown, row, col], places, strict=True)
    ]
    (root / "labels.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return root
