"""Embeddings as a Zarr store that xarray opens with coordinates: ``xarray.open_zarr(path)``.

Variable ``embedding``, dimensions ``y``, ``x`` and ``feature``; NaN (its fill value) where a cell has no value. Chunks
hold all values of up to 1 MiB of neighbouring cells. Coordinates: ``y`` and ``x``, the centres of the cells, or ``yc``
and ``xc`` of two dimensions where the grid is rotated or sheared; ``feature``, names or numbers from 0; and where the
scene has a coordinate system ``spatial_ref``, which holds it and the transform as CF and rioxarray expect them. What
the embedding is of stands in the attribute ``EO_BACKBONES``, as JSON. Zarr version 2 with consolidated metadata, which
GDAL and earlier readers know.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from eo_backbones.errors import UserError
from eo_backbones.files import unfinished_path
from eo_backbones.scenes.encoding import TAG, Rows, blocks_of, to_half
from eo_backbones.scenes.grid import Grid, at

_CHUNK_BYTES = 2**20
_SIDES = (256, 128, 64, 32, 16)  # of a chunk in cells


def load_zarr() -> Any:
    """Return the module ``zarr``, which comes with an extra.

    Raises:
        UserError: it is missing.
    """
    try:
        return import_module("zarr")
    except ImportError as error:
        raise UserError("--format zarr needs zarr: pip install 'eo-backbones[zarr]'") from error


def write_zarr(
    path: Path,
    rows: Rows,
    *,
    grid: Grid,
    numbers: int,
    dtype: str,
    facts: Mapping[str, Any],
    names: Sequence[str] = (),
) -> None:
    """Write the store, a folder; it appears when it is whole.

    Args:
        path: the folder; one that is there is replaced.
        rows: the values.
        grid: where the cells lie.
        numbers: values per cell.
        dtype: ``"float32"`` or ``"float16"``.
        facts: what the embedding is of, as JSON types.
        names: of the values, if they have any.
    """
    zarr = load_zarr()
    side = next((side for side in _SIDES if side**2 * numbers * 4 <= _CHUNK_BYTES), _SIDES[-1])
    with _atomic_folder(path) as unfinished:
        store = zarr.open_group(unfinished, mode="w", zarr_format=2)
        store.attrs.update({TAG: json.dumps(facts), "Conventions": "CF-1.11"})
        coordinates = _write_coordinates(store, grid)
        _write(store, "feature", ("feature",), np.array(names or range(numbers), None if names else np.int32))
        values = store.create_array(
            "embedding",
            shape=(grid.rows, grid.cols, numbers),
            chunks=(min(side, grid.rows), min(side, grid.cols), numbers),
            dtype=dtype,
            fill_value=np.nan,
            attributes={"_ARRAY_DIMENSIONS": ["y", "x", "feature"], **coordinates},
        )
        for number, block in enumerate(blocks_of(rows(), side)):
            stored = to_half(block) if dtype == "float16" else block
            below = slice(number * side, number * side + len(block))
            for left in range(0, grid.cols, side):  # chunk by chunk: a failed write leaves none that goes on behind it
                values[below, left : left + side] = stored[:, left : left + side]
        zarr.consolidate_metadata(store.store)


def _write_coordinates(store: Any, grid: Grid) -> dict[str, str]:
    """Write where the cells lie; return the attributes of the values that say so."""
    transform = grid.transform
    x_attributes, y_attributes = _axes(grid)
    named = []
    if transform.b == transform.d == 0:
        x, _ = at(transform, np.arange(grid.cols) + 0.5, 0.5)
        _, y = at(transform, 0.5, np.arange(grid.rows) + 0.5)
        _write(store, "x", ("x",), x, **x_attributes)
        _write(store, "y", ("y",), y, **y_attributes)
    else:
        x, y = at(transform, np.arange(grid.cols) + 0.5, np.arange(grid.rows)[:, None] + 0.5)
        _write(store, "xc", ("y", "x"), x, **x_attributes)
        _write(store, "yc", ("y", "x"), y, **y_attributes)
        named = ["xc", "yc"]
    if grid.crs is None:
        return {"coordinates": " ".join(named)} if named else {}
    wkt = grid.crs.to_wkt()
    where = {"crs_wkt": wkt, "spatial_ref": wkt, "GeoTransform": " ".join(map(repr, transform.to_gdal()))}
    _write(store, "spatial_ref", (), np.array(0, np.int32), **where)
    return {"coordinates": " ".join(["spatial_ref", *named]), "grid_mapping": "spatial_ref"}


def _axes(grid: Grid) -> tuple[dict[str, str], dict[str, str]]:
    """Return the CF attributes of x and of y."""
    if grid.crs is None:
        return {}, {}
    if grid.crs.is_geographic:
        return (
            {"axis": "X", "standard_name": "longitude", "units": "degrees_east"},
            {"axis": "Y", "standard_name": "latitude", "units": "degrees_north"},
        )
    unit = grid.crs.linear_units
    return (
        {"axis": "X", "standard_name": "projection_x_coordinate", "units": unit},
        {"axis": "Y", "standard_name": "projection_y_coordinate", "units": unit},
    )


def _write(store: Any, name: str, dimensions: tuple[str, ...], values: np.ndarray, **attributes: str) -> None:
    array = store.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        fill_value=None,  # or xarray takes 0 for missing
        attributes={"_ARRAY_DIMENSIONS": list(dimensions), **attributes},
    )
    array[...] = values


@contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    """Give a folder beside ``path`` to write into, and rename it to ``path`` when the block ends without an error."""
    temporary = unfinished_path(path)
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
