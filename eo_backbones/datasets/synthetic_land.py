"""Synthetic land: which material lies where, for each of the ten EuroSAT classes.

Nothing here is an image of a real place. Fields, blocks, rows, roads and rivers are drawn with a few generic
patterns (warped grids, curves, fractal noise); :mod:`eo_backbones.datasets.synthetic` turns the materials into
Sentinel-1 and Sentinel-2 values. Every patch is a pure function of its random generator. Lengths are in pixels of
10 m.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from eo_backbones.datasets.eurosat import EUROSAT_CLASSES

MATERIALS = (
    "green crop",
    "dry soil",
    "dark soil",
    "stubble",
    "forest",
    "grass",
    "shrub",
    "bare ground",
    "orchard",
    "asphalt",
    "red roof",
    "bright roof",
    "concrete",
    "clear water",
    "turbid water",
    "sand",
)
CODE: Mapping[str, int] = MappingProxyType({name: code for code, name in enumerate(MATERIALS)})
"""Material -> its value in :attr:`Land.material`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Land:
    """What lies on the ground.

    Attributes:
        material: uint8 ``(size, size)``, positions in :data:`MATERIALS`.
        tone: float32 ``(size, size)``, relative brightness minus 1 in every optical band, about -0.5...1.
        roughness: float32 ``(size, size)``, radar backscatter relative to the material's mean, in dB.
    """

    material: np.ndarray
    tone: np.ndarray
    roughness: np.ndarray


class _Ground:
    """A square of ground with the pattern primitives; holds the generator and the coordinates."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size = rng, size
        self.y, self.x = np.mgrid[0:size, 0:size].astype(np.float64)
        fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
        self._frequency = np.sqrt(fy**2 + fx**2)

    def noise(self, scale: float, slope: float = 1.5) -> np.ndarray:
        """Fractal noise of about zero mean and unit deviation whose largest features have ``scale`` pixels."""
        white = np.fft.rfft2(self.rng.standard_normal((self.size, self.size)))
        amplitude = (self._frequency**2 + (1 / scale) ** 2) ** (-slope / 2)
        field = np.fft.irfft2(white * amplitude, s=(self.size, self.size))
        field -= field.mean()
        field /= field.std()
        return field

    def rotated(self, warp: float) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates along and across a random direction, bent by up to about ``warp`` pixels."""
        angle = self.rng.uniform(0, np.pi)
        shift_x, shift_y = self.rng.uniform(0, 1000, 2)
        bend = warp * self.noise(max(self.size / 2, 32), 3.0) if warp else 0.0
        along = np.cos(angle) * self.x + np.sin(angle) * self.y + shift_x
        across = -np.sin(angle) * self.x + np.cos(angle) * self.y + shift_y + bend
        return along, across

    def cells(self, width: float, height: float, warp: float = 2.0) -> "_Cells":
        """Cells of a brick-like grid: rows of ``height``, each row cut into pieces of about ``width``."""
        along, across = self.rotated(warp)
        row = np.floor(across / height).astype(np.int64)
        rows, place = np.unique(row, return_inverse=True)
        row_width = (width * self.rng.uniform(0.6, 1.6, len(rows)))[place].reshape(row.shape)
        row_shift = self.rng.uniform(0, 1, len(rows))[place].reshape(row.shape)
        position = along / row_width + row_shift
        column = np.floor(position).astype(np.int64)
        _, index = np.unique(row * 1_000_003 + column, return_inverse=True)
        to_side = np.abs(position - column - 0.5) * row_width
        to_row = np.abs(across / height - row - 0.5) * height
        border = np.minimum(row_width / 2 - to_side, height / 2 - to_row)
        return _Cells(index=index.reshape(row.shape), border=border, along=along, across=across)

    def per_cell(self, cells: "_Cells") -> np.ndarray:
        """One uniform random number for each cell, spread over its pixels."""
        spread: np.ndarray = self.rng.uniform(0, 1, int(cells.index.max()) + 1)[cells.index]
        return spread

    def distance_to_curve(self, amplitude: float) -> np.ndarray:
        """Distance in pixels to a winding line through the middle part of the square."""
        angle = self.rng.uniform(0, 2 * np.pi)
        centre = (self.size - 1) / 2
        along = np.cos(angle) * (self.x - centre) + np.sin(angle) * (self.y - centre)
        across = -np.sin(angle) * (self.x - centre) + np.cos(angle) * (self.y - centre)
        wavelength = self.rng.uniform(60, 140)
        phase = self.rng.uniform(0, 2 * np.pi)
        line = amplitude * np.sin(2 * np.pi * along / wavelength + phase) + self.rng.uniform(-0.2, 0.2) * self.size
        distance: np.ndarray = np.abs(across - line)
        return distance

    def choose(self, uniform: np.ndarray, shares: Mapping[str, float]) -> np.ndarray:
        """Turn uniform numbers in [0, 1) into materials with the given shares (normalised here)."""
        edges = np.cumsum(list(shares.values()))
        codes = np.array([CODE[name] for name in shares], dtype=np.uint8)
        chosen: np.ndarray = codes[np.searchsorted(edges / edges[-1], uniform, side="right").clip(max=len(codes) - 1)]
        return chosen


@dataclass(frozen=True, eq=False, kw_only=True)
class _Cells:
    index: np.ndarray
    border: np.ndarray  # distance to the nearest border of the cell, pixels
    along: np.ndarray
    across: np.ndarray


def _countryside(ground: _Ground) -> np.ndarray:
    """Mixed fields, as background of roads, rivers and the rims of towns."""
    rng = ground.rng
    cells = ground.cells(rng.uniform(20, 40), rng.uniform(14, 28))
    shares = dict(
        zip(
            ("green crop", "grass", "forest", "dry soil", "stubble", "shrub"),
            rng.dirichlet((1.2, 1.4, 1.0, 0.6, 0.6, 0.6)).tolist(),
            strict=True,
        )
    )
    return ground.choose(ground.per_cell(cells), shares)


def _annual_crop(ground: _Ground) -> Land:
    rng = ground.rng
    cells = ground.cells(rng.uniform(35, 70), rng.uniform(18, 45))
    green = rng.beta(0.8, 1.2)
    dark = rng.uniform(0, 0.5)
    material = ground.choose(
        ground.per_cell(cells),
        {"green crop": green, "dry soil": (1 - green) * 0.6, "dark soil": (1 - green) * dark, "stubble": 0.35},
    )
    if rng.random() < 0.4:
        material[cells.border < rng.uniform(0.5, 1.2)] = CODE[str(rng.choice(["grass", "forest", "bare ground"]))]
    furrows = np.sin(2 * np.pi * cells.across / rng.uniform(3, 6))
    tone = 0.30 * (ground.per_cell(cells) - 0.5) + 0.06 * ground.noise(24) + 0.02 * furrows
    return Land(material=material, tone=tone, roughness=2.0 * (ground.per_cell(cells) - 0.5))


def _forest(ground: _Ground) -> Land:
    rng = ground.rng
    material = np.full((ground.size, ground.size), CODE["forest"], np.uint8)
    if rng.random() < 0.3:
        material[ground.noise(30, 2.5) > rng.uniform(1.6, 2.6)] = CODE[str(rng.choice(["grass", "shrub"]))]
    crowns = rng.standard_normal(material.shape)
    tone = rng.uniform(0.04, 0.10) * crowns + rng.uniform(0.02, 0.10) * ground.noise(40, 2.0)
    return Land(material=material, tone=tone, roughness=0.5 * crowns)


def _herbaceous_vegetation(ground: _Ground) -> Land:
    rng = ground.rng
    shares = rng.dirichlet((1.8, 1.2, 0.9))
    cover = ground.noise(rng.uniform(10, 30), 1.8)
    uniform = np.argsort(np.argsort(cover, axis=None)).reshape(cover.shape) / cover.size
    material = ground.choose(uniform, dict(zip(("shrub", "grass", "bare ground"), shares.tolist(), strict=True)))
    if rng.random() < 0.5:
        material[ground.distance_to_curve(rng.uniform(0, 15)) < 0.7] = CODE["bare ground"]
    relief = ground.noise(16, 1.6)
    return Land(material=material, tone=rng.uniform(0.05, 0.14) * relief, roughness=0.8 * relief)


def _highway(ground: _Ground) -> Land:
    rng = ground.rng
    material = _countryside(ground)
    for _ in range(1 + int(rng.random() < 0.4)):
        distance = ground.distance_to_curve(rng.uniform(0, 10))
        width = rng.uniform(1.2, 2.6)
        material[distance < width + 1.2] = CODE["grass"]
        material[distance < width] = CODE[str(rng.choice(["asphalt", "concrete"], p=[0.7, 0.3]))]
        if width > 1.8:
            material[distance < 0.5] = CODE["grass"]  # the strip between two carriageways
    return Land(material=material, tone=0.08 * ground.noise(14), roughness=0.8 * ground.noise(14))


def _industrial(ground: _Ground) -> Land:
    rng = ground.rng
    cells = ground.cells(rng.uniform(7, 16), rng.uniform(6, 12), warp=0.5)
    bright = rng.uniform(0.15, 0.5)
    material = ground.choose(
        ground.per_cell(cells),
        {"bright roof": bright, "concrete": 0.3, "asphalt": 0.2, "red roof": 0.1, "grass": 0.1, "dark soil": 0.06},
    )
    material[cells.border < rng.uniform(0.7, 1.5)] = CODE["asphalt"]
    material[ground.noise(12) > 1.9] = CODE["forest"]
    height = ground.per_cell(cells)
    tone = 0.5 * (height - 0.4) + 0.08 * rng.standard_normal(material.shape)
    return Land(material=material, tone=tone, roughness=5.0 * (height - 0.5) + 2.0 * rng.standard_normal(tone.shape))


def _pasture(ground: _Ground) -> Land:
    rng = ground.rng
    cells = ground.cells(rng.uniform(14, 30), rng.uniform(12, 24), warp=3.0)
    material = ground.choose(
        ground.per_cell(cells), {"grass": rng.uniform(2, 8), "green crop": 0.8, "shrub": 0.4, "stubble": 0.2}
    )
    hedge = (cells.border < rng.uniform(0.4, 1.1)) & (ground.noise(8) > rng.uniform(-1.5, 0.8))
    material[hedge] = CODE["forest"]
    tone = 0.22 * (ground.per_cell(cells) - 0.5) + 0.05 * ground.noise(12)
    return Land(material=material, tone=tone, roughness=1.2 * (ground.per_cell(cells) - 0.5))


def _permanent_crop(ground: _Ground) -> Land:
    rng = ground.rng
    cells = ground.cells(rng.uniform(12, 24), rng.uniform(8, 16))
    material = ground.choose(
        ground.per_cell(cells),
        {"orchard": rng.uniform(1, 4), "dry soil": 0.6, "bare ground": 0.5, "stubble": 0.4, "grass": 0.4},
    )
    rows = np.sin(2 * np.pi * cells.across / rng.uniform(2.4, 3.6))
    planted = material == CODE["orchard"]
    material[planted & (rows > 0.75)] = CODE["dry soil"]
    material[cells.border < 0.5] = CODE["bare ground"]
    tone = 0.25 * (ground.per_cell(cells) - 0.5) + 0.06 * rng.standard_normal(rows.shape) + 0.05 * planted * rows
    return Land(material=material, tone=tone, roughness=1.0 * planted * rows + ground.per_cell(cells))


def _residential(ground: _Ground) -> Land:
    rng = ground.rng
    houses = ground.cells(rng.uniform(2.4, 4.0), rng.uniform(2.2, 3.4), warp=1.0)
    blocks = ground.cells(rng.uniform(14, 30), rng.uniform(8, 16), warp=1.0)
    material = ground.choose(
        ground.per_cell(houses),
        {"red roof": rng.uniform(0.3, 0.7), "concrete": 0.25, "asphalt": 0.15, "grass": 0.25, "forest": 0.25},
    )
    material[blocks.border < rng.uniform(0.5, 0.9)] = CODE["asphalt"]
    garden = rng.uniform(0.0, 0.25)
    green = ground.per_cell(blocks) < garden
    material[green] = CODE[str(rng.choice(["grass", "forest"]))]
    facing = ground.per_cell(houses)
    tone = 0.45 * (facing - 0.5) + 0.10 * rng.standard_normal(material.shape)
    return Land(material=material, tone=tone, roughness=4.0 * (facing - 0.5) + 2.0 * rng.standard_normal(tone.shape))


def _river(ground: _Ground) -> Land:
    rng = ground.rng
    material = _countryside(ground)
    distance = ground.distance_to_curve(rng.uniform(4, 18)) + 1.5 * ground.noise(20, 2.0)
    width = rng.uniform(3.5, 13)
    bank = width + rng.uniform(0.3, 3.5)
    material[distance < bank] = CODE[str(rng.choice(["sand", "grass", "forest"], p=[0.25, 0.25, 0.5]))]
    material[distance < width] = CODE[str(rng.choice(["clear water", "turbid water"], p=[0.4, 0.6]))]
    return Land(material=material, tone=0.06 * ground.noise(12), roughness=0.8 * ground.noise(12))


def _sea_lake(ground: _Ground) -> Land:
    rng = ground.rng
    name = str(rng.choice(["clear water", "turbid water"], p=[0.8, 0.2]))
    material = np.full((ground.size, ground.size), CODE[name], np.uint8)
    if rng.random() < 0.12:
        shore = ground.noise(ground.size, 3.0) > rng.uniform(1.2, 2.2)
        material[shore] = CODE[str(rng.choice(["sand", "forest", "bare ground"]))]
    waves = ground.noise(4, 1.0)
    tone = rng.uniform(0.0, 0.06) * ground.noise(60, 3.0) + 0.005 * waves
    return Land(material=material, tone=tone, roughness=0.6 * waves)


_BUILDERS: Mapping[str, Callable[[_Ground], Land]] = MappingProxyType(
    dict(
        zip(
            EUROSAT_CLASSES,
            (
                _annual_crop,
                _forest,
                _herbaceous_vegetation,
                _highway,
                _industrial,
                _pasture,
                _permanent_crop,
                _residential,
                _river,
                _sea_lake,
            ),
            strict=True,
        )
    )
)


def build_land(rng: np.random.Generator, name: str, size: int) -> Land:
    """Draw a patch of one class.

    About a third of the patches have a rim of other land, as a grid of patches laid over a real landscape has.

    Args:
        rng: where all randomness comes from.
        name: one of the ten EuroSAT class names.
        size: side in pixels of 10 m.
    """
    ground = _Ground(rng, size)
    land = _BUILDERS[name](ground)
    material, tone, roughness = land.material, land.tone, land.roughness
    if rng.random() < 0.35:
        rim = ground.noise(size, 3.5) > rng.uniform(0.6, 2.0)
        material = np.where(rim, _countryside(ground), material)
        tone, roughness = np.where(rim, 0.06 * ground.noise(10), tone), np.where(rim, 0.0, roughness)
    return Land(
        material=material,
        tone=tone.clip(-0.6, 1.5).astype(np.float32),
        roughness=roughness.clip(-8, 12).astype(np.float32),
    )
