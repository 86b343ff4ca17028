"""Hits as GeoJSON and as GeoParquet: the outline of each cell in WGS 84, with rank, score, scene, date, row and column.

GeoJSON is RFC 7946. GeoParquet is version 1.1 of its specification, geometries as well-known binary.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from eo_backbones.files import atomic_file, write_atomically
from eo_backbones.scenes.parquet import load_pyarrow
from eo_backbones.search.hits import Hit
from eo_backbones.search.index import SearchIndex

_DIGITS = 7  # of a degree: a centimetre, as RFC 7946 recommends at most


def write_geojson(path: Path, index: SearchIndex, hits: Sequence[Hit], *, query: str) -> None:
    """Write hits as a collection of features; it appears when it is whole.

    Args:
        path: the file.
        index: that they were found in.
        hits: best first.
        query: what was searched for, in words.
    """
    features = [
        {
            "type": "Feature",
            "id": hit.rank,
            "geometry": None if ring is None else {"type": "Polygon", "coordinates": [ring]},
            "properties": hit.to_dict(),
        }
        for hit, ring in zip(hits, _rings(index, hits), strict=True)
    ]
    facts = {name: index.facts[name] for name in ("model", "weights_sha256", "bands") if name in index.facts}
    content = {"type": "FeatureCollection", "query": query, **facts, "features": features}
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def write_geoparquet(path: Path, index: SearchIndex, hits: Sequence[Hit], *, query: str) -> None:
    """Write hits as a table, see :func:`write_geojson`.

    Raises:
        UserError: pyarrow is missing.
    """
    pa, pq = load_pyarrow()
    rings = _rings(index, hits)
    corners = [corner for ring in rings if ring is not None for corner in ring]
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Polygon"]}
    if corners:
        column["bbox"] = [*np.min(corners, axis=0).tolist(), *np.max(corners, axis=0).tolist()]
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    types = {int: pa.int32(), float: pa.float64(), str: pa.string()}
    kinds = {"rank": int, "row": int, "col": int, "scene": str, "datetime": str}
    names = [field.name for field in fields(Hit)]
    schema = pa.schema(
        [*((name, types[kinds.get(name, float)]) for name in names), ("geometry", pa.binary())],
        metadata={"geo": json.dumps(geo), "query": query},
    )
    rows = [hit.to_dict() | {"geometry": None if ring is None else _wkb(ring)}
            for hit, ring in zip(hits, rings, strict=True)]  # fmt: skip
    with atomic_file(path) as unfinished:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), unfinished)


def _rings(index: SearchIndex, hits: Sequence[Hit]) -> list[list[list[float]] | None]:
    """Return the outlines of cells as closed rings, anticlockwise; ``None`` without a coordinate system."""
    scenes = {scene.id: scene for scene in index.scenes}
    rings: list[list[list[float]] | None] = []
    for hit in hits:
        lon, lat = scenes[hit.scene].corners(hit.row, hit.col)
        if np.isnan(lon).any():
            rings.append(None)
            continue
        ring = np.round(np.stack([lon, lat], axis=1), _DIGITS)
        ahead = np.roll(ring, -1, axis=0)
        clockwise = float((ring[:, 0] * ahead[:, 1] - ahead[:, 0] * ring[:, 1]).sum()) < 0
        ordered = ring[::-1] if clockwise else ring
        rings.append([*ordered.tolist(), ordered[0].tolist()])
    return rings


def _wkb(ring: Sequence[Sequence[float]]) -> bytes:
    """Return a polygon of one ring as little-endian well-known binary."""
    return struct.pack("<BIII", 1, 3, 1, len(ring)) + np.asarray(ring, "<f8").tobytes()
