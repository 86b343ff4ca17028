"""One scene of a map: cells in blocks through the classifier, into rasters, and the totals of its classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.warp import transform as between_crs

from eo_backbones.errors import UserError
from eo_backbones.mapping.conformal import ConformalClassifier
from eo_backbones.mapping.rasters import facts_of, new_rasters
from eo_backbones.mapping.source import MapScene
from eo_backbones.rasters.reader import GdalError
from eo_backbones.scenes.grid import at

_BLOCK_VALUES = 2**22  # probabilities or features at once: 32 MiB each
_EQUAL_AREA = CRS.from_epsg(6933)  # cylindrical, metres, WGS 84


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneTotals:
    """What the map of a scene adds up to.

    Attributes:
        scene: its name.
        datetime: when it was taken; ``None`` where nothing says so.
        cells: of each class.
        km2: of each class; ``None`` without a coordinate system.
        set_sizes: cells whose set holds 0, 1, 2, ... classes.
    """

    scene: str
    datetime: str | None
    cells: tuple[int, ...]
    km2: tuple[float, ...] | None
    set_sizes: tuple[int, ...]


def finished_totals(folder: Path, scene: MapScene, digest: str) -> SceneTotals | None:
    """Return the totals of a scene that this map already has; ``None`` if it has to be made.

    Args:
        folder: of the map.
        scene: the scene.
        digest: of everything that decides the map.
    """
    facts = facts_of(folder, scene.id)
    if facts is None or facts.get("map") != digest:
        return None
    totals = facts["totals"]
    return SceneTotals(
        scene=scene.id,
        datetime=totals["datetime"],
        cells=tuple(totals["cells"]),
        km2=None if totals["km2"] is None else tuple(totals["km2"]),
        set_sizes=tuple(totals["set_sizes"]),
    )


def map_scene(
    scene: MapScene,
    classifier: ConformalClassifier,
    folder: Path,
    *,
    classes: Sequence[str],
    values: Sequence[int],
    facts: Mapping[str, Any],
    tick: Callable[[int], None],
) -> SceneTotals:
    """Write the rasters of a scene.

    Args:
        scene: its embeddings.
        classifier: of the cells.
        folder: of the map.
        classes: names.
        values: of the classes in the rasters.
        facts: what the map is made from.
        tick: called with the number of cells that are done.

    Raises:
        UserError: a damaged embedding, or a disk that cannot be written.
    """
    cells = np.zeros(len(classes), np.int64)
    km2 = np.zeros(len(classes))
    sizes = np.zeros(len(classes) + 1, np.int64)
    areas = None if scene.crs is None else row_areas_km2(scene)
    recorded: dict[str, Any] = dict(facts)
    with new_rasters(folder, scene, classes, values, recorded) as rasters:
        for first, block in scene.blocks(max(_BLOCK_VALUES // max(len(classes), scene.features), 1)):
            known = ~np.isnan(block[..., 0])
            predicted = classifier.predict(block[known])
            rasters.write(first, known, predicted)
            of_row = np.zeros((len(block), len(classes)), np.int64)
            np.add.at(of_row, (np.nonzero(known)[0], predicted.classes), 1)
            cells += of_row.sum(axis=0)
            if areas is not None:
                km2 += areas[first : first + len(block)] @ of_row
            sizes += np.bincount(predicted.members.sum(axis=1), minlength=len(sizes))
            tick(known.size)
        totals = SceneTotals(
            scene=scene.id,
            datetime=scene.datetime,
            cells=tuple(cells.tolist()),
            km2=None if areas is None else tuple(km2.tolist()),
            set_sizes=tuple(sizes.tolist()),
        )
        recorded["totals"] = asdict(totals)
    return totals


def row_areas_km2(scene: MapScene) -> np.ndarray:
    """Return the area of a cell in the middle of each row, on an equal-area projection, ``(rows,)``.

    Raises:
        UserError: the scene reaches beyond the globe.
    """
    rows = np.arange(scene.rows)
    middle = scene.cols // 2
    corners = [at(scene.transform, middle + right, rows + down) for right, down in ((0, 0), (0, 1), (1, 1), (1, 0))]
    flat = (np.concatenate([np.broadcast_to(corner[axis], rows.shape) for corner in corners]) for axis in (0, 1))
    try:
        there = between_crs(scene.crs, _EQUAL_AREA, *(part.tolist() for part in flat))
    except GdalError as error:
        raise UserError(f"{scene.path} reaches beyond the globe, so its cells have no area; crop the scene") from error
    x, y = (np.asarray(part).reshape(4, -1) for part in there)
    x, y = x - x[0], y - y[0]
    twice = sum(x[corner - 1] * y[corner] - x[corner] * y[corner - 1] for corner in range(4))
    areas: np.ndarray = np.abs(twice) / 2 / 1e6
    return areas
