"""Embeddings of a region whose classes are known: patches of ground, each class with features of its own."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from eo_backbones.scenes.grid import Grid, at, to_degrees
from eo_backbones.scenes.outputs import write_geotiff

CLASSES = ("field", "forest", "water")
FACTS = {
    "model": "test", "weights_sha256": "0" * 64, "bands": ["B04"], "units": ["dn"], "fuse": "concat", "size": 64,
    "stride": 32,
}  # fmt: skip
CELL_M = 320


@dataclass(frozen=True, eq=False)
class Scene:
    """One scene: where its cells lie and the class of each ``(rows, cols)``, -1 where it has no value."""

    name: str
    grid: Grid
    truth: np.ndarray


def write_region(
    folder: Path,
    *,
    crs: Sequence[str] = ("EPSG:32632", "EPSG:32632"),
    rows: int = 40,
    cols: int = 50,
    features: int = 8,
    noise: float = 1.0,
    missing: bool = False,
    shift_m: float | None = None,
) -> list[Scene]:
    """Write embeddings of scenes side by side from west to east; returns them.

    Args:
        folder: the region.
        crs: of each scene.
        rows: of cells.
        cols: likewise.
        features: values per cell.
        noise: deviation of the features around those of the class; these are about 1 apart per feature.
        missing: the first scene's first five rows have no value.
        shift_m: from the left edge of one scene to that of the next; default: their width.
    """
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(len(CLASSES), features))
    step = cols * CELL_M if shift_m is None else shift_m
    made = []
    for number, system in enumerate(crs):
        left = 500_000 + number * step if system != "EPSG:4326" else 9 + number * step / 78_800
        pixel = 10 if system != "EPSG:4326" else 1e-4
        top = 5_000_000 if system != "EPSG:4326" else 45.15
        grid = Grid(
            height=(rows - 1) * 32 + 64,
            width=(cols - 1) * 32 + 64,
            size=64,
            stride=32,
            scene_transform=Affine(pixel, 0, left, 0, -pixel, top),
            crs=CRS.from_string(system),
        )
        truth = patches(rows, cols, seed=number)
        values = (centres[truth] + noise * rng.normal(size=(rows, cols, features))).astype(np.float32)
        if missing and number == 0:
            values[:5], truth[:5] = np.nan, -1
        name = f"scene_{number}"
        (folder / name).mkdir(parents=True)

        def lines(values: np.ndarray = values) -> Iterator[np.ndarray]:
            return iter(values)

        facts = {**FACTS, "scene_id": name, "datetime": f"2024-07-0{number + 1}T10:00:00Z"}
        write_geotiff(folder / name / f"{name}.tif", lines, grid=grid, bands=features, dtype="float32", facts=facts)
        made.append(Scene(name, grid, truth))
    return made


def patches(rows: int, cols: int, *, seed: int) -> np.ndarray:
    """Classes in patches of some ten cells, int64 ``(rows, cols)``."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, 1, (rows * cols // 60 + 3, 2)) * (rows, cols)
    classes = np.arange(len(seeds)) % len(CLASSES)
    place = np.stack(np.mgrid[:rows, :cols], axis=-1)[:, :, None]
    return classes[((place - seeds) ** 2).sum(axis=3).argmin(axis=2)]


def draw_places(scenes: Sequence[Scene], count: int, *, seed: int = 0) -> list[tuple[float, float, str]]:
    """Longitude, latitude and class of random cells that have a value."""
    rng = np.random.default_rng(seed)
    places = []
    for scene in (scenes[number] for number in rng.integers(0, len(scenes), count)):
        row, col = rng.choice(np.argwhere(scene.truth >= 0))
        x, y = at(scene.grid.transform, col + rng.uniform(0.1, 0.9), row + rng.uniform(0.1, 0.9))
        assert scene.grid.crs is not None
        lon, lat = to_degrees(scene.grid.crs, np.array([x]), np.array([y]))
        places.append((float(lon[0]), float(lat[0]), CLASSES[scene.truth[row, col]]))
    return places


def write_points(path: Path, places: Sequence[tuple[float, float, object]], field: str = "land") -> Path:
    """Write labelled points as GeoJSON."""
    features = [
        {"type": "Feature", "properties": {field: name}, "geometry": {"type": "Point", "coordinates": [lon, lat]}}
        for lon, lat, name in places
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path
