"""An index of cells: a folder that answers searches by itself, wherever it is moved.

::

    index.json       what the cells are of, the scenes, and the size of each file
    vectors.f32      float32 (cells, features), each of length 1, scene after scene, cells without a value left out
    cells.bin        row and column of each cell in its scene, longitude and latitude of its centre (CELL)
    components.npz   mean and axes of the components, where the embeddings hold components
    lists.faiss      inverted lists for approximate search, where there are many cells

The files of numbers are mapped into memory, so opening an index reads next to nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from eo_backbones.errors import UserError
from eo_backbones.files import JsonFields, read_json
from eo_backbones.scenes.grid import CellGrid

INDEX_FILE, VECTORS_FILE, CELLS_FILE = "index.json", "vectors.f32", "cells.bin"
COMPONENTS_FILE, LISTS_FILE = "components.npz", "lists.faiss"
KIND = "eo-backbones search index"
FORMAT = 1
CELL = np.dtype([("row", "<i4"), ("col", "<i4"), ("lon", "<f8"), ("lat", "<f8")])
"""A cell; longitude and latitude are NaN where its scene has no coordinate system."""


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Return vectors ``(n, features)`` divided by their lengths, float32; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedScene(CellGrid):
    """A scene of an index.

    Attributes:
        id: its name.
        datetime: when the image was taken, RFC 3339 in UTC; ``None`` where nothing says so.
        cloud_cover: percent of the scene; ``None`` where nothing says so.
        first: number of its first cell in the index.
        cells: how many it has there.
        facts: what its embedding is of.
    """

    id: str
    datetime: str | None
    cloud_cover: float | None
    first: int
    cells: int
    facts: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "id": self.id,
            "datetime": self.datetime,
            "cloud_cover": self.cloud_cover,
            "first": self.first,
            "cells": self.cells,
            "grid": {
                "crs": None if self.crs is None else self.crs.to_wkt(),
                "transform": list(self.transform[:6]),
                "rows": self.rows,
                "cols": self.cols,
            },
            "facts": dict(self.facts),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_dict` gave."""
        grid = data["grid"]
        return cls(
            **{name: data[name] for name in ("id", "datetime", "cloud_cover", "first", "cells", "facts")},
            crs=None if grid["crs"] is None else CRS.from_wkt(grid["crs"]),
            transform=Affine(*grid["transform"]),
            rows=grid["rows"],
            cols=grid["cols"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """How the inverted lists are asked.

    Attributes:
        lists: how many there are.
        probes: how many of them, the nearest ones, a query looks into.
        recall: share of the ten nearest cells that this finds, measured when the index was built.
    """

    lists: int
    probes: int
    recall: float


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class SearchIndex:
    """An open index.

    Attributes:
        folder: where it is.
        facts: what all cells have in common: ``model``, ``weights_sha256``, ``bands``, ``fuse``, ``size``, ...
        scenes: in the order of their cells.
        vectors: float32 ``(cells, features)`` of length 1.
        cells: :data:`CELL` ``(cells,)``.
        lists: how to ask the inverted lists; ``None`` without them.
    """

    folder: Path
    facts: Mapping[str, Any]
    scenes: tuple[IndexedScene, ...]
    vectors: np.ndarray
    cells: np.ndarray
    lists: Lists | None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open an index for reading.

        Raises:
            UserError: there is none, it is damaged, or a later version made it.
        """
        if not folder.is_dir():
            raise UserError(f"no index {folder}; make one with eo-backbones index FOLDER --out {folder}")
        content = read_json(folder / INDEX_FILE, kind="index of eo-backbones index")
        if content.get("kind") != KIND:
            raise UserError(f"{folder} is not an index; make one with eo-backbones index FOLDER --out {folder}")
        remedy = f"make the index again with eo-backbones index FOLDER --out {folder} --overwrite"
        fields = JsonFields(content, str(folder / INDEX_FILE), remedy)
        if fields.integer("format", 1) > FORMAT:
            raise UserError(f"{folder} was made by a later version of eo-backbones; upgrade, or {remedy}")
        for name, size in fields.mapping("files").items():
            found = (folder / name).stat().st_size if (folder / name).is_file() else None
            if found != size:
                seen = "is missing" if found is None else f"has {found:,} bytes, not {size:,}"
                raise UserError(f"{folder} is damaged: {name} {seen}; copy it again, or {remedy}")
        try:
            scenes = tuple(map(IndexedScene.from_dict, fields.value("scenes")))
            lists = None if content["lists"] is None else Lists(**content["lists"])
            shape = (fields.integer("cells", 1), fields.integer("features", 1))
            vectors = np.memmap(folder / VECTORS_FILE, np.float32, "r", shape=shape)
            cells = np.memmap(folder / CELLS_FILE, CELL, "r", shape=shape[:1])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / INDEX_FILE} is damaged ({error}); {remedy}") from error
        return cls(
            folder=folder,
            facts=fields.mapping("facts"),
            scenes=scenes,
            vectors=vectors,
            cells=cells,
            lists=lists,
        )

    @property
    def lists_file(self) -> Path:
        """The inverted lists."""
        return self.folder / LISTS_FILE

    def scene_of(self, numbers: np.ndarray) -> np.ndarray:
        """Return the position in ``scenes`` of the scenes of cells."""
        firsts = np.array([scene.first for scene in self.scenes])
        return np.searchsorted(firsts, numbers, side="right") - 1

    def numbers(self, scene: IndexedScene, inside: np.ndarray) -> np.ndarray:
        """Return the numbers of the cells of a scene that lie in a mask, bool ``(rows, cols)``, and have a value."""
        cells = self.cells[scene.first : scene.first + scene.cells]
        return scene.first + np.flatnonzero(inside[cells["row"], cells["col"]])

    def window_side_m(self) -> float | None:
        """Return the side of a window on the ground in metres, median of the scenes; ``None`` without coordinates."""
        sides = [
            float(np.sqrt(area)) * 1000 * self.facts["size"] / scene.facts["stride"]
            for scene in self.scenes
            if (area := scene.cell_km2) is not None
        ]
        return float(np.median(sides)) if sides else None
