"""Where a scene looks like a given place: cosine similarity of every cell with one of them.

It is computed from the features in the file. A network's features are all positive, so even different places reach high
values; components are centred on the scene's mean, which spreads the values over -1 to 1.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eo_backbones.errors import UserError
from eo_backbones.files import refuse_unwritable
from eo_backbones.scenes.embedding_file import EmbeddingFile, cosine, open_embedding
from eo_backbones.scenes.geotiff import write_similarity_map
from eo_backbones.scenes.pictures import write_similarity_picture


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
        embedding: a file of :func:`eo_backbones.scenes.embed_scene`, GeoTIFF, Parquet or Zarr.
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
    source = open_embedding(embedding)
    row, col = _cell_at(source, at) if cell is None and at is not None else cell or (0, 0)
    if not (0 <= row < source.rows and 0 <= col < source.cols):
        raise UserError(f"cell {row},{col} is outside: {embedding} has {source.rows} rows, {source.cols} columns")
    reference = source.read(row)[0, col]
    if np.isnan(reference[0]):
        raise UserError(f"the cell at row {row}, column {col} of {embedding} has no value (nodata); pass another")
    values = np.concatenate([cosine(block, reference) for _, block in source.blocks()])
    facts = {**source.facts, "cosine_with_cell": [row, col]}
    crs, transform = source.crs, source.transform
    write_similarity_map(target, values, crs=crs, transform=transform, facts=facts)
    preview = target.with_suffix(".png")
    where = f"{at[0]:g}, {at[1]:g}" if at else f"row {row}, column {col}"
    write_similarity_picture(preview, values, cell=(row, col), title=f"{embedding.name}: like the cell at {where}")
    return Similar(out=str(target), preview=str(preview), cell=(row, col), median=float(np.nanmedian(values)))


def _cell_at(source: EmbeddingFile, at: tuple[float, float]) -> tuple[int, int]:
    """Return row and column of the cell at a longitude and latitude."""
    if source.crs is None:
        raise UserError(
            f"{source.path} has no coordinate system (its scene had none), so --at cannot be found; pass --cell ROW,COL"
        )
    found = source.cell_at(*at)
    if found is None:
        lon, lat = source.corners()
        raise UserError(
            f"longitude {at[0]:g}, latitude {at[1]:g} is outside {source.path}: {lon.min():.4f} to {lon.max():.4f} and "
            f"{lat.min():.4f} to {lat.max():.4f}; longitude comes first"
        )
    return found
