"""Embeddings as a GeoParquet table: one row for each cell that has a value.

Columns: ``row``, ``col`` (of the grid), ``x``, ``y`` (its centre in the scene's coordinate system), ``lon``, ``lat``
(WGS 84; null where the scene has no coordinate system), ``embedding`` (a list of fixed length), and ``geometry``, the
centre or the outline of the cell as WKB. What the embedding is of stands in the schema's metadata, and ``geo``, as
GeoParquet 1.1 wants it (https://geoparquet.org/releases/v1.1.0/). Row groups hold neighbouring rows of cells; the
statistics of ``x`` and ``y`` say which.
"""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file
from eo_backbones.scenes.encoding import TAG, Rows, blocks_of
from eo_backbones.scenes.grid import Grid, at, to_degrees

Geometry = Literal["point", "polygon"]
_GROUP_BYTES = 32 * 2**20  # of the values of a row group
_CORNERS = ((0, 0), (0, 1), (1, 1), (1, 0), (0, 0))  # (col, row): anticlockwise on a grid with north up
_LITTLE_ENDIAN, _POINT, _POLYGON = 1, 1, 3  # of WKB (OGC 06-103r4, section 8.2)


def load_pyarrow() -> tuple[Any, Any]:
    """Return the modules ``pyarrow`` and ``pyarrow.parquet``, which come with an extra.

    Raises:
        UserError: they are missing.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError("--format parquet needs pyarrow: pip install 'eo-backbones[parquet]'") from error


def write_parquet(
    path: Path,
    rows: Rows,
    *,
    grid: Grid,
    features: int,
    dtype: str,
    facts: Mapping[str, Any],
    geometry: Geometry = "point",
) -> None:
    """Write the table; it appears when it is whole.

    Args:
        path: the file.
        rows: the values.
        grid: where the cells lie.
        features: values per cell.
        dtype: ``"float32"`` or ``"float16"``.
        facts: what the embedding is of, as JSON types.
        geometry: whether a cell is its centre or its outline.
    """
    pa, pq = load_pyarrow()
    value = pa.float16() if dtype == "float16" else pa.float32()
    indices = [(name, pa.int32()) for name in ("row", "col")]
    coordinates = [(name, pa.float64()) for name in ("x", "y", "lon", "lat")]
    whole = {"rows": grid.rows, "cols": grid.cols, "transform": list(grid.transform[:6])}
    schema = pa.schema(
        [*indices, *coordinates, ("embedding", pa.list_(value, features)), ("geometry", pa.binary())],
        metadata={
            TAG: json.dumps({"grid": whole, **facts}),
            "crs": grid.crs.to_wkt() if grid.crs else "",
            "geo": json.dumps(_geo(grid, geometry)),
        },
    )
    step = max(_GROUP_BYTES // (4 * features * grid.cols), 1)
    with atomic_file(path) as unfinished, pq.ParquetWriter(unfinished, schema) as writer:
        for number, values in enumerate(blocks_of(rows(), step)):
            row, col = np.nonzero(~np.isnan(values[..., 0]))
            if not len(row):
                continue
            known, row = values[row, col], row + number * step
            x, y = at(grid.transform, col + 0.5, row + 0.5)
            degrees = to_degrees(grid.crs, x, y) if grid.crs else (None, None)
            lon, lat = (pa.nulls(len(row), pa.float64()) if part is None else pa.array(part) for part in degrees)
            columns = [
                pa.array(row, pa.int32()),
                pa.array(col, pa.int32()),
                *(pa.array(part) for part in (x, y)),
                lon,
                lat,
                pa.FixedSizeListArray.from_arrays(pa.array(known.astype(dtype).ravel(), value), features),
                _binary(pa, _points(x, y) if geometry == "point" else _polygons(grid, row, col)),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def _geo(grid: Grid, geometry: Geometry) -> dict[str, Any]:
    """Return the metadata of GeoParquet; its box is that of the whole grid."""
    x, y = at(grid.transform, np.array([0, 0, grid.cols, grid.cols]), np.array([0, grid.rows, 0, grid.rows]))
    column = {
        "encoding": "WKB",
        "geometry_types": ["Point" if geometry == "point" else "Polygon"],
        "crs": None if grid.crs is None else grid.crs.to_dict(projjson=True),  # left out, it would be WGS 84
        "edges": "planar",
        "bbox": [float(value) for value in (x.min(), y.min(), x.max(), y.max())],
    }
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _points(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return points as WKB, bytes ``(n, 21)``."""
    points = np.empty(len(x), np.dtype([("order", "u1"), ("type", "<u4"), ("x", "<f8"), ("y", "<f8")]))
    points["order"], points["type"], points["x"], points["y"] = _LITTLE_ENDIAN, _POINT, x, y
    return points.view(np.uint8).reshape(len(x), -1)


def _polygons(grid: Grid, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Return the outlines of cells as WKB, bytes ``(n, 93)``."""
    head = [("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("count", "<u4")]
    polygons = np.empty(len(row), np.dtype([*head, ("corners", "<f8", (len(_CORNERS), 2))]))
    polygons["order"], polygons["type"] = _LITTLE_ENDIAN, _POLYGON
    polygons["rings"], polygons["count"] = 1, len(_CORNERS)
    for number, (right, below) in enumerate(_CORNERS):
        x, y = at(grid.transform, col + right, row + below)
        polygons["corners"][:, number, 0], polygons["corners"][:, number, 1] = x, y
    return polygons.view(np.uint8).reshape(len(row), -1)


def _binary(pa: Any, values: np.ndarray) -> Any:
    """Return bytes ``(n, length)`` as an array of ``n`` binary values."""
    count, length = values.shape
    offsets = np.arange(count + 1, dtype=np.int32) * length
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(values.tobytes())])
