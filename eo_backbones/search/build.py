"""A region to an index: cells with a value, normalised, in one file, read block by block; then the inverted lists."""

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eo_backbones.errors import UserError
from eo_backbones.files import atomic_folder, refuse_unwritable, write_json
from eo_backbones.progress import SILENT, Progress
from eo_backbones.regions.folder import EmbeddedRegion, EmbeddedScene, open_region
from eo_backbones.scenes.components import Components, components_file
from eo_backbones.search.index import (
    CELL,
    CELLS_FILE,
    COMPONENTS_FILE,
    FORMAT,
    INDEX_FILE,
    KIND,
    LISTS_FILE,
    VECTORS_FILE,
    IndexedScene,
    Lists,
    unit_length,
)
from eo_backbones.search.lists import CELLS_FROM, build_lists, load_faiss

logger = logging.getLogger(__name__)

_OF_A_SCENE = ("scene", "units", "scale", "offset", "nodata", "stride", "max_nodata", "number_format")
"""Facts that scenes of a region may differ in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What was written.

    Attributes:
        out: the index.
        scenes: how many.
        cells: with a value, of all scenes.
        missing: cells without a value, which are left out.
        features: values per cell.
        bytes: of all files.
        lists: inverted lists for approximate search; 0: every search is an exact scan.
        recall: share of the ten nearest cells that approximate search finds; ``None`` without it.
    """

    out: str
    scenes: int
    cells: int
    missing: int
    features: int
    bytes: int
    lists: int
    recall: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)


def build_index(
    folder: Path, out: Path, *, overwrite: bool = False, lists_from: int = CELLS_FROM, progress: Progress = SILENT
) -> Indexed:
    """Write an index of all cells in a folder of embeddings. It appears when it is whole.

    Args:
        folder: see :func:`eo_backbones.regions.open_region`.
        out: the index, a folder.
        overwrite: replace an index that is there.
        lists_from: make inverted lists for approximate search if there are at least so many cells, and faiss.
        progress: where progress is reported.

    Raises:
        UserError: the folder holds no embeddings, or some that cannot be compared; no cell has a value; something is in
            the way of the index.
    """
    refuse_unwritable(out, folder=True)
    if out.resolve() in {folder.resolve(), *folder.resolve().parents}:
        raise UserError(
            f"--out {out} is the folder of the embeddings or above it; pass a new folder, such as {out}.index"
        )
    if out.exists() and any(out.iterdir()):
        if not (out / INDEX_FILE).is_file():
            raise UserError(f"{out} is not empty and does not hold an index; name a new folder with --out")
        if not overwrite:
            raise UserError(f"{out} is there already; pass --overwrite to replace it, or another --out")
    region = open_region(folder)
    if region.unfinished:
        logger.warning("%s is not finished, so scenes may be missing; repeat its embed command, then this one", folder)
    _refuse_full_disk(out, region)
    with atomic_folder(out, overwrite=True) as unfinished:
        made = _fill(region, unfinished, lists_from, progress)
    return Indexed(out=str(out), bytes=sum(path.stat().st_size for path in out.iterdir()), **made)


def _fill(region: EmbeddedRegion, folder: Path, lists_from: int, progress: Progress) -> dict[str, Any]:
    """Write all files of an index, the one that makes it an index last; return what to report."""
    scenes, total = [], sum(scene.rows * scene.cols for scene in region.scenes)
    with (
        (folder / VECTORS_FILE).open("wb") as vectors,
        (folder / CELLS_FILE).open("wb") as cells,
        progress.stage(f"read {len(region.scenes)} scenes", total) as tick,
    ):
        count = 0
        for scene in region.scenes:
            first = count
            for top, block in scene.blocks():
                row, col = np.nonzero(~np.isnan(block[..., 0]))
                vectors.write(unit_length(block[row, col]).data)
                cells.write(_cells(scene, row + top, col).data)
                count += len(row)
                tick(block.shape[0] * block.shape[1])
            scenes.append(_indexed(scene, first, count - first))
    if count == 0:
        raise UserError(f"{region.folder}: no cell of any scene has a value, so there is nothing to find")
    _copy_components(region, folder)
    stored = np.memmap(folder / VECTORS_FILE, np.float32, "r", shape=(count, region.features))
    lists = _lists(stored, folder, lists_from, progress)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    content = {
        "kind": KIND,
        "format": FORMAT,
        "cells": count,
        "features": region.features,
        "facts": dict(region.facts),
        "lists": None if lists is None else asdict(lists),
        "files": files,
        "scenes": [scene.to_dict() for scene in scenes],
    }
    write_json(folder / INDEX_FILE, content)
    return {
        "scenes": len(scenes),
        "cells": count,
        "missing": total - count,
        "features": region.features,
        "lists": 0 if lists is None else lists.lists,
        "recall": None if lists is None else lists.recall,
    }


def _cells(scene: EmbeddedScene, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    cells = np.empty(len(row), CELL)
    cells["row"], cells["col"] = row, col
    cells["lon"], cells["lat"] = scene.centres(row, col)
    return cells


def _indexed(scene: EmbeddedScene, first: int, cells: int) -> IndexedScene:
    return IndexedScene(
        id=scene.id,
        datetime=scene.datetime,
        cloud_cover=scene.cloud_cover,
        first=first,
        cells=cells,
        crs=scene.crs,
        transform=scene.transform,
        rows=scene.rows,
        cols=scene.cols,
        facts={name: scene.facts[name] for name in _OF_A_SCENE if name in scene.facts},
    )


def _copy_components(region: EmbeddedRegion, folder: Path) -> None:
    """Keep mean and axes with the index, so that an image can be compared with it."""
    if "components" not in region.facts:
        return
    beside = [components_file(scene.path) for scene in region.scenes]
    found = next((path for path in [region.folder / COMPONENTS_FILE, *beside] if path.is_file()), None)
    if found is None:
        logger.warning("no components.npz beside the embeddings: --image cannot be searched for in this index")
        return
    components = Components.load(found)
    if components.explained.tolist() != region.facts.get("explained", components.explained.tolist()):
        logger.warning("%s is not what the embeddings were made with: --image cannot be searched for", found)
        return
    components.save(folder / COMPONENTS_FILE)


def _lists(vectors: np.ndarray, folder: Path, lists_from: int, progress: Progress) -> Lists | None:
    if len(vectors) < lists_from:
        return None
    if load_faiss() is None:
        logger.warning(
            "faiss is missing, so every search will scan all %s cells; for approximate search: pip install "
            "'eo-backbones[search]', and make the index again",
            f"{len(vectors):,}",
        )
        return None
    return build_lists(vectors, folder / LISTS_FILE, progress)


def _refuse_full_disk(out: Path, region: EmbeddedRegion) -> None:
    cells = sum(scene.rows * scene.cols for scene in region.scenes)
    needed = cells * (region.features * 6 + CELL.itemsize + 8)  # float32, in the lists float16 with a number
    above = next(path for path in out.absolute().parents if path.exists())
    free = shutil.disk_usage(above).free
    if needed > free:
        raise UserError(
            f"an index of {cells:,} cells needs {needed / 1e9:.1f} GB, and {above} has {free / 1e9:.1f} GB free; name "
            "another place with --out, or embed with --components 64"
        )
