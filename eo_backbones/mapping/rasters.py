"""The rasters of a map: class, probability and set of classes of every cell, one Cloud-Optimised GeoTIFF each.

* ``ID_classes.tif``: value of the most probable class, uint8, 255: no value. Colour table; names in the tags
  ``CLASS_1=...`` of the band, and for GDAL and QGIS as category names in ``ID_classes.tif.aux.xml`` beside it.
* ``ID_probability.tif``: calibrated probability of that class, float32, NaN: no value.
* ``ID_sets.tif``: the conformal set, uint8, 255: no value. Band 1: how many classes it holds; band 1 + k: whether it
  holds class k (1) or not (0).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window

from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file, write_atomically, write_problem
from eo_backbones.mapping.conformal import Predicted
from eo_backbones.mapping.source import MapScene
from eo_backbones.prediction.mask_file import class_colours
from eo_backbones.rasters.reader import GdalError, without_georeference_warnings

NODATA = 255
MAP_TAG = "EO_BACKBONES_MAP"
"""Metadata item that holds, as JSON, what a map is made from."""
_TILE = 256
KINDS = ("classes", "probability", "sets")
_OVERVIEWS: Mapping[str, str] = {"classes": "MODE", "probability": "AVERAGE", "sets": "NEAREST"}


def raster_path(folder: Path, scene: str, kind: str) -> Path:
    """Return where a raster of a scene is kept; ``kind``: one of :data:`KINDS`."""
    return folder / scene / f"{scene}_{kind}.tif"


class SceneRasters:
    """The three rasters of a scene while they are written; see :func:`new_rasters`."""

    def __init__(self, datasets: Mapping[str, Any], values: Sequence[int], cols: int) -> None:
        self._datasets = datasets
        self._values = np.array(values, np.uint8)
        self._cols = cols

    def write(self, first: int, known: np.ndarray, predicted: Predicted) -> None:
        """Write rows of cells.

        Args:
            first: their first row.
            known: which cells have a value, bool ``(rows, cols)``.
            predicted: about those cells.
        """
        rows, num_classes = len(known), predicted.members.shape[1]
        window = Window(0, first, self._cols, rows)
        classes = np.full(known.shape, NODATA, np.uint8)
        classes[known] = self._values[predicted.classes]
        self._datasets["classes"].write(classes, 1, window=window)
        probability = np.full(known.shape, np.nan, np.float32)
        probability[known] = predicted.probability
        self._datasets["probability"].write(probability, 1, window=window)
        sets = np.full((1 + num_classes, *known.shape), NODATA, np.uint8)
        sets[0, known] = predicted.members.sum(axis=1)
        sets[1:, known] = predicted.members.T
        self._datasets["sets"].write(sets, window=window)


@contextmanager
def new_rasters(
    folder: Path, scene: MapScene, classes: Sequence[str], values: Sequence[int], facts: Mapping[str, Any]
) -> Iterator[SceneRasters]:
    """Make the rasters of a scene; they appear under their names when the block ends without an error.

    Args:
        folder: of the map.
        scene: whose cells they are of.
        classes: names.
        values: of the classes in the raster.
        facts: what they are made from; may be filled in the block.

    Raises:
        UserError: they cannot be written.
    """
    shape = {"height": scene.rows, "width": scene.cols, "crs": scene.crs, "transform": scene.transform}
    byte = {"dtype": "uint8", "nodata": NODATA}
    bands = {
        "classes": {**byte, "count": 1},
        "probability": {"dtype": "float32", "nodata": np.nan, "count": 1},
        "sets": {**byte, "count": 1 + len(classes)},
    }
    try:
        (folder / scene.id).mkdir(parents=True, exist_ok=True)
        with (
            ExitStack() as finished,
            rasterio.Env(GDAL_PAM_ENABLED="NO"),
            without_georeference_warnings(),
        ):
            paths = {kind: raster_path(folder, scene.id, kind) for kind in KINDS}
            cogs = {kind: finished.enter_context(atomic_file(path)) for kind, path in paths.items()}
            plain = {kind: cog.with_suffix(".rows.tif") for kind, cog in cogs.items()}
            for path in plain.values():
                finished.callback(path.unlink, missing_ok=True)
            with ExitStack() as opened:
                datasets = {
                    kind: opened.enter_context(rasterio.open(plain[kind], "w", **_profile(shape, bands[kind])))
                    for kind in KINDS
                }
                yield SceneRasters(datasets, values, scene.cols)
                _describe(datasets, classes, values, json.dumps(facts))
            for kind in KINDS:
                copy_raster(plain[kind], cogs[kind], driver="COG", **_cog_options(kind))
            write_atomically(
                paths["classes"].with_name(f"{paths['classes'].name}.aux.xml"), category_names(classes, values)
            )
    except (RasterioError, GdalError, SystemError, OSError) as error:
        raise UserError(
            f"cannot write the map of {scene.id} into {folder} ({write_problem(error)}); make room, or name "
            "another folder with --out"
        ) from error


def _profile(shape: Mapping[str, Any], bands: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "driver": "GTiff",
        "compress": "deflate",
        "bigtiff": "if_safer",
        "tiled": True,
        "blockxsize": _TILE,
        "blockysize": _TILE,
        "interleave": "band",
        **shape,
        **bands,
    }


def _cog_options(kind: str) -> dict[str, Any]:
    return {
        "COMPRESS": "DEFLATE",
        "PREDICTOR": "YES" if kind == "probability" else "NO",
        "BLOCKSIZE": _TILE,
        "OVERVIEW_RESAMPLING": _OVERVIEWS[kind],
        "BIGTIFF": "IF_SAFER",
    }


def _describe(datasets: Mapping[str, Any], classes: Sequence[str], values: Sequence[int], facts: str) -> None:
    """Write colours, names and facts."""
    for dataset in datasets.values():
        dataset.update_tags(**{MAP_TAG: facts})
    mapped, probability, sets = (datasets[kind] for kind in KINDS)
    mapped.write_colormap(1, dict(zip(values, class_colours(len(values)), strict=True)))
    mapped.set_band_description(1, "class")
    mapped.update_tags(1, **{f"CLASS_{value}": name for value, name in zip(values, classes, strict=True)})
    probability.set_band_description(1, "probability of the class")
    sets.set_band_description(1, "classes in the set")
    for number, name in enumerate(classes):
        sets.set_band_description(2 + number, f"set holds {name}")


def category_names(classes: Sequence[str], values: Sequence[int]) -> str:
    """Return the names of the classes as GDAL keeps them beside a file, XML."""
    named = dict(zip(values, classes, strict=True))
    root = ET.Element("PAMDataset")
    names = ET.SubElement(ET.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for value in range(max(values) + 1):
        ET.SubElement(names, "Category").text = named.get(value, "")
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def facts_of(folder: Path, scene: str) -> dict[str, Any] | None:
    """Return what the finished rasters of a scene are made from; ``None`` if one of them is not there."""
    if not all(raster_path(folder, scene, kind).is_file() for kind in KINDS):  # the classes come last
        return None
    try:
        with without_georeference_warnings(), rasterio.open(raster_path(folder, scene, KINDS[0])) as dataset:
            facts: dict[str, Any] = json.loads(dataset.tags().get(MAP_TAG, "{}"))
    except (RasterioError, ValueError):
        return None
    return facts


def remove_rasters(folder: Path, scene: str) -> None:
    """Remove the rasters of a scene, and its folder if nothing else is in it."""
    for kind in KINDS:
        path = raster_path(folder, scene, kind)
        for file in (path, path.with_name(f"{path.name}.aux.xml")):
            file.unlink(missing_ok=True)
    above = folder / scene
    if above.is_dir() and not any(above.iterdir()):
        above.rmdir()
