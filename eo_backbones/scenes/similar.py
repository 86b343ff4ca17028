"""Where a scene looks like a given place: cosine similarity of every cell with one of them.

It is computed from the features in the file. A network's features are all positive, so even different places reach high
values; components are centred on the scene's mean, which spreads the values over -1 to 1.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.errors import RasterioError
from rasterio.windows import Window

from eo_backbones.errors import UserError
from eo_backbones.files import refuse_unwritable
from eo_backbones.rasters.reader import opened, unreadable
from eo_backbones.scenes.grid import at as position
from eo_backbones.scenes.grid import from_degrees, to_degrees
from eo_backbones.scenes.outputs import TAG, write_similarity_map, write_similarity_picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """What was written.

    Attributes:
        out: the map, one band, float32, NaN where a cell has no value.
        preview: the picture.
        cell: row and column of the cell that all cells are compared with.
        median: of the map.
    """

    out: str
    preview: str
    cell: tuple[int, int]
    median: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)


def find_similar(
    embedding: Path,
    *,
    at: tuple[float, float] | None = None,
    cell: tuple[int, int] | None = None,
    out: Path | None = None,
) -> Similar:
    """Write a map of cosine similarity, and a picture of it beside.

    Args:
        embedding: a GeoTIFF of :func:`eo_backbones.scenes.embed_scene`.
        at: longitude and latitude of the place to compare with, WGS 84 ...
        cell: ... or row and column of its cell, counted from 0.
        out: default: ``<embedding>_similar.tif`` beside it.

    Raises:
        UserError: not such a file; a place outside, without a value, or given in degrees where the file has no
            coordinate system.
    """
    target = out or embedding.with_name(f"{embedding.stem}_similar.tif")
    if target.resolve() == embedding.resolve():
        raise UserError(f"--out {target} is the embedding itself; pass another name")
    if target.suffix.lower() == ".png":
        raise UserError(
            f"--out {target} names a GeoTIFF, and its picture gets the same name with .png; pass {target.stem}.tif"
        )
    refuse_unwritable(target)
    if (at is None) == (cell is None):
        raise UserError("say which place to compare with: either --at LON,LAT or --cell ROW,COL")
    with opened(str(embedding)) as source:
        if TAG not in source.tags():
            raise UserError(
                f"{embedding} is not an embedding; make one with eo-backbones embed SCENE --out {embedding}"
            )
        row, col = _cell_at(source, embedding, at) if cell is None and at is not None else cell or (0, 0)
        if not (0 <= row < source.height and 0 <= col < source.width):
            raise UserError(
                f"cell {row},{col} is outside: {embedding} has {source.height} rows, {source.width} columns"
            )
        reference = _row(source, row)[col]
        if np.isnan(reference[0]):
            raise UserError(f"the cell at row {row}, column {col} of {embedding} has no value (nodata); pass another")
        values = np.stack([_cosine(_row(source, number), reference) for number in range(source.height)])
        facts = json.loads(source.tags()[TAG]) | {"cosine_with_cell": [row, col]}
        crs, transform = source.crs, source.transform
    write_similarity_map(target, values, crs=crs, transform=transform, facts=facts)
    preview = target.with_suffix(".png")
    where = f"{at[0]:g}, {at[1]:g}" if at else f"row {row}, column {col}"
    write_similarity_picture(preview, values, cell=(row, col), title=f"{embedding.name}: like the cell at {where}")
    return Similar(out=str(target), preview=str(preview), cell=(row, col), median=float(np.nanmedian(values)))


def _cell_at(source: Any, path: Path, at: tuple[float, float]) -> tuple[int, int]:
    """Return row and column of the cell at a longitude and latitude."""
    if source.crs is None:
        raise UserError(
            f"{path} has no coordinate system (its scene had none), so --at cannot be found; pass --cell ROW,COL"
        )
    col, row = position(~source.transform, *from_degrees(source.crs, *at))
    if not (0 <= row < source.height and 0 <= col < source.width):
        right, bottom = source.width, source.height
        x, y = position(source.transform, np.array([0, right, 0, right]), np.array([0, 0, bottom, bottom]))
        lon, lat = to_degrees(source.crs, x, y)
        raise UserError(
            f"longitude {at[0]:g}, latitude {at[1]:g} is outside {path}: {lon.min():.4f} to {lon.max():.4f} and "
            f"{lat.min():.4f} to {lat.max():.4f}; longitude comes first"
        )
    return int(row), int(col)


def _row(source: Any, number: int) -> np.ndarray:
    """Return the features of a row of cells, float32 ``(cols, features)``, decoded, NaN where there is no value."""
    try:
        values = source.read(window=Window(0, number, source.width, 1))[:, 0].T
    except RasterioError as error:
        raise unreadable(source.name, error) from error
    if source.dtypes[0] != "int8":
        return np.asarray(values, np.float32)
    decoded: np.ndarray = (values * np.asarray(source.scales) + np.asarray(source.offsets)).astype(np.float32)
    decoded[values == source.nodata] = np.nan
    return decoded


def _cosine(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(reference)
    cosine: np.ndarray = features @ reference / np.maximum(lengths, np.finfo(np.float32).tiny)
    return cosine
