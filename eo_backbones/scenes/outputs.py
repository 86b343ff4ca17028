"""The file formats of embeddings, one function for all of them.

``geotiff`` (:mod:`eo_backbones.scenes.geotiff`), ``cog`` (:mod:`eo_backbones.scenes.cog`), ``parquet``
(:mod:`eo_backbones.scenes.parquet`) and ``zarr`` (:mod:`eo_backbones.scenes.zarr_store`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from eo_backbones.errors import UserError
from eo_backbones.scenes.cog import write_cog
from eo_backbones.scenes.encoding import EmbeddingDtype, Rows
from eo_backbones.scenes.geotiff import write_geotiff
from eo_backbones.scenes.grid import Grid
from eo_backbones.scenes.parquet import Geometry, load_pyarrow, write_parquet
from eo_backbones.scenes.zarr_store import load_zarr, write_zarr

FORMATS_OF_INT8 = ("geotiff", "cog")
"""Formats with a place for scale and offset of each value."""
Format = Literal["geotiff", "cog", "parquet", "zarr"]


def check_format(format: Format, dtype: EmbeddingDtype) -> None:  # noqa: A002 - as the option is called
    """Check, before any work, that a format can be written with a number format.

    Raises:
        UserError: a package is missing, or the format has no place for the scales of int8.
    """
    if format == "parquet":
        load_pyarrow()
    if format == "zarr":
        load_zarr()
    if dtype == "int8" and format not in FORMATS_OF_INT8:
        raise UserError("--dtype int8 needs the scales that a GeoTIFF has; pass float16, or --format cog")


def write_embedding(
    path: Path,
    rows: Rows,
    *,
    format: Format,  # noqa: A002 - as the option is called
    grid: Grid,
    numbers: int,
    dtype: EmbeddingDtype,
    facts: Mapping[str, Any],
    names: Sequence[str] = (),
    geometry: Geometry = "point",
) -> None:
    """Write embeddings; the file appears when it is whole.

    Args:
        path: the file.
        rows: the values.
        format: of the file.
        grid: where the cells lie.
        numbers: values per cell: features, or components.
        dtype: of the values.
        facts: what the embedding is of, as JSON types.
        names: of the values, if they have any; a table has no place for them.
        geometry: of a cell in a table; the other formats are grids.

    Raises:
        UserError: the format cannot hold so many values, a package is missing, or the file cannot be written.
    """
    if format == "parquet":
        write_parquet(path, rows, grid=grid, features=numbers, dtype=dtype, facts=facts, geometry=geometry)
    elif format == "zarr":
        write_zarr(path, rows, grid=grid, numbers=numbers, dtype=dtype, facts=facts, names=names)
    else:
        write = write_cog if format == "cog" else write_geotiff
        write(path, rows, grid=grid, bands=numbers, dtype=dtype, facts=facts, names=names)
