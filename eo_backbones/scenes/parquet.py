"""Embeddings as a Parquet table: one row for each cell that has a value.

Columns: ``row``, ``col`` (of the grid), ``x``, ``y`` (its centre in the scene's coordinate system), ``lon``, ``lat``
(WGS 84; null where the scene has no coordinate system), ``embedding`` (a list of fixed length). What the embedding is
of stands in the schema's metadata.
"""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file
from eo_backbones.scenes.encoding import TAG, Rows
from eo_backbones.scenes.grid import Grid, to_degrees


def load_pyarrow() -> tuple[Any, Any]:
    """Return the modules ``pyarrow`` and ``pyarrow.parquet``, which come with an extra.

    Raises:
        UserError: they are missing.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError("--format parquet needs pyarrow: pip install 'eo-backbones[parquet]'") from error


def write_parquet(path: Path, rows: Rows, *, grid: Grid, features: int, dtype: str, facts: Mapping[str, Any]) -> None:
    """Write the table; it appears when it is whole.

    Args:
        path: the file.
        rows: the values.
        grid: where the cells lie.
        features: values per cell.
        dtype: ``"float32"`` or ``"float16"``.
        facts: what the embedding is of, as JSON types.
    """
    pa, pq = load_pyarrow()
    value = pa.float16() if dtype == "float16" else pa.float32()
    indices = [(name, pa.int32()) for name in ("row", "col")]
    coordinates = [(name, pa.float64()) for name in ("x", "y", "lon", "lat")]
    crs = grid.crs.to_wkt() if grid.crs else ""
    schema = pa.schema(
        [*indices, *coordinates, ("embedding", pa.list_(value, features))],
        metadata={TAG: json.dumps(facts), "crs": crs},
    )
    with atomic_file(path) as unfinished, pq.ParquetWriter(unfinished, schema) as writer:
        for number, values in enumerate(rows()):
            known = np.flatnonzero(~np.isnan(values[:, 0]))
            if not len(known):
                continue
            x, y = (centre[known] for centre in grid.centres(number))
            degrees = to_degrees(grid.crs, x, y) if grid.crs else (None, None)
            lon, lat = (pa.nulls(len(known), pa.float64()) if part is None else pa.array(part) for part in degrees)
            flat = pa.array(values[known].astype(dtype).ravel(), value)
            columns = [
                pa.array(np.full(len(known), number), pa.int32()),
                pa.array(known, pa.int32()),
                *(pa.array(part) for part in (x, y)),
                lon,
                lat,
                pa.FixedSizeListArray.from_arrays(flat, features),
            ]
            writer.write_table(pa.table(columns, schema=schema))
