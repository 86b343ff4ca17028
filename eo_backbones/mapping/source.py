"""Where the cells of a map come from: a folder of embeddings, or a search index of one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from eo_backbones.regions.folder import open_region
from eo_backbones.scenes.grid import CellGrid
from eo_backbones.search.index import INDEX_FILE, VECTORS_FILE, SearchIndex

_BLOCK_CELLS = 2**17


class MapScene(Protocol):
    """A scene whose cells can be mapped; an :class:`eo_backbones.regions.EmbeddedScene` is one."""

    @property
    def id(self) -> str:
        """Its name in the region."""
        ...

    @property
    def path(self) -> Path:
        """File that holds the cells."""
        ...

    @property
    def datetime(self) -> str | None:
        """When the image was taken."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the embedding is of; ``size`` and ``stride`` of the windows are needed."""
        ...

    @property
    def features(self) -> int:
        """Values per cell."""
        ...

    @property
    def crs(self) -> CRS | None:
        """Of the cells."""
        ...

    @property
    def transform(self) -> Affine:
        """Cell ``(col, row)`` -> coordinates."""
        ...

    @property
    def rows(self) -> int:
        """Of cells."""
        ...

    @property
    def cols(self) -> int:
        """Of cells."""
        ...

    def blocks(self, cells: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield first row and values of blocks of rows, float32 ``(n, cols, features)``, NaN where there is none."""
        ...

    def read(self, first: int, count: int = 1) -> np.ndarray:
        """Return rows of cells, float32 ``(count, cols, features)``."""
        ...

    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """Return longitudes and latitudes of the four corners."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRegion:
    """The scenes of a map, and what they have in common.

    Attributes:
        folder: where they are from.
        scenes: by their name.
        facts: model, digest of its weights, bands, ...; ``unit_length`` where the cells are those of an index.
        features: values per cell.
    """

    folder: Path
    scenes: tuple[MapScene, ...]
    facts: Mapping[str, Any]
    features: int


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class IndexedCells(CellGrid):
    """A scene of a search index. Its cells have length 1; those without a value are not in it.

    Attributes: see :class:`MapScene`;
        vectors: of its cells, float32 ``(n, features)``.
        places: row and column of each, int64 ``(n, 2)``, in the order of rows.
    """

    id: str
    path: Path
    datetime: str | None
    facts: Mapping[str, Any]
    features: int
    vectors: np.ndarray
    places: np.ndarray

    def blocks(self, cells: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rows in blocks, as :meth:`MapScene.blocks`."""
        step = max((cells or _BLOCK_CELLS) // self.cols, 1)
        for first in range(0, self.rows, step):
            yield first, self.read(first, min(step, self.rows - first))

    def read(self, first: int, count: int = 1) -> np.ndarray:
        """Return rows of cells, as :meth:`MapScene.read`."""
        values = np.full((count, self.cols, self.features), np.nan, np.float32)
        low, high = np.searchsorted(self.places[:, 0], [first, first + count])
        row, col = self.places[low:high].T
        values[row - first, col] = self.vectors[low:high]
        return values


def open_cells(path: Path) -> MapRegion:
    """Open a folder of embeddings, or an index of ``eo-backbones index``.

    Raises:
        UserError: it is neither, is damaged, or holds embeddings that cannot be compared.
    """
    if not (path / INDEX_FILE).is_file():
        region = open_region(path)
        return MapRegion(folder=path, scenes=region.scenes, facts=region.facts, features=region.features)
    index = SearchIndex.open(path)
    features = index.vectors.shape[1]
    scenes = []
    for scene in index.scenes:
        cells = slice(scene.first, scene.first + scene.cells)
        found = index.cells[cells]
        scenes.append(
            IndexedCells(
                id=scene.id,
                path=path / VECTORS_FILE,
                datetime=scene.datetime,
                facts={**index.facts, **scene.facts},
                features=features,
                vectors=index.vectors[cells],
                places=np.stack([found["row"], found["col"]], axis=1).astype(np.int64),
                crs=scene.crs,
                transform=scene.transform,
                rows=scene.rows,
                cols=scene.cols,
            )
        )
    return MapRegion(folder=path, scenes=tuple(scenes), facts={**index.facts, "unit_length": True}, features=features)
