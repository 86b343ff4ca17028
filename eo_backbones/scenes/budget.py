"""Which components and number format an embedding can afford, and what they cost: chosen by measurement.

:data:`MEASURED` holds the table of ``benchmarks/2026-11-26-compression.md``: weighted F1 of a logistic classifier on
the values of a cell, for optical bands and for radar, with the network and data sets named there.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from eo_backbones.errors import UserError
from eo_backbones.rasters.band_files import find_bands
from eo_backbones.scenes.cog import has_overviews
from eo_backbones.scenes.embed import scene_grid
from eo_backbones.scenes.encoding import EmbeddingDtype
from eo_backbones.scenes.outputs import FORMATS_OF_INT8, Format
from eo_backbones.scenes.request import EmbedRequest, load_network
from eo_backbones.scenes.scene import Scene

SOURCE = "benchmarks/2026-11-26-compression.md"
MB = 1e6
_BYTES: dict[str, float] = {"float32": 4, "float16": 2, "int8": 1}
_HALF_IN_COG = 2.5  # bytes of a value: float32 without its last 13 bits, after DEFLATE (same benchmark)
_OVERVIEWS = 4 / 3  # 1 + 1/4 + 1/16 + ...
_COLUMNS_OF_TABLE = 2 * 4 + 4 * 8 + 4 + 93  # row and col; x, y, lon and lat; the longest geometry with its position


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row of the table: change of the weighted F1 in points, compared with all features in float32.

    Attributes:
        components: kept; ``None``: all features.
        dtype: of the values.
        optical_points: on B02, B03 and B04 of EuroSAT RGB, 1,650 labels; the 95 % interval is about 0.8 either way.
        radar_points: on VV, with few test images: the interval is about 6 either way.
    """

    components: int | None
    dtype: EmbeddingDtype
    optical_points: float
    radar_points: float


MEASURED: tuple[Measured, ...] = (
    Measured(components=None, dtype="float32", optical_points=0.0, radar_points=0.0),
    Measured(components=None, dtype="float16", optical_points=0.0, radar_points=0.0),
    Measured(components=None, dtype="int8", optical_points=-0.2, radar_points=0.3),
    Measured(components=256, dtype="float32", optical_points=-1.4, radar_points=-3.3),
    Measured(components=256, dtype="float16", optical_points=-1.4, radar_points=-3.3),
    Measured(components=256, dtype="int8", optical_points=-1.3, radar_points=-4.8),
    Measured(components=64, dtype="float32", optical_points=-2.0, radar_points=-1.3),
    Measured(components=64, dtype="float16", optical_points=-2.0, radar_points=-1.4),
    Measured(components=64, dtype="int8", optical_points=-1.7, radar_points=-1.6),
    Measured(components=32, dtype="float32", optical_points=-2.9, radar_points=-2.9),
    Measured(components=32, dtype="float16", optical_points=-2.9, radar_points=-3.0),
    Measured(components=32, dtype="int8", optical_points=-3.2, radar_points=-1.6),
    Measured(components=16, dtype="float32", optical_points=-5.3, radar_points=-2.4),
    Measured(components=16, dtype="float16", optical_points=-5.3, radar_points=-2.4),
    Measured(components=16, dtype="int8", optical_points=-5.3, radar_points=-2.0),
)
"""What each setting costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A setting that fits a budget.

    Attributes:
        components: to keep; ``None``: all features.
        dtype: of the values.
        megabytes: that all cells take at most.
        optical_points, radar_points: measured change of the weighted F1 in points, compared with all features in
            float32.
        source: where it was measured.
    """

    components: int | None
    dtype: EmbeddingDtype
    megabytes: float
    optical_points: float
    radar_points: float
    source: str = SOURCE

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        """Return what was chosen, and what it costs."""
        kept = "all features" if self.components is None else f"--components {self.components}"
        return (
            f"{kept} --dtype {self.dtype}: at most {self.megabytes:,.1f} MB; weighted F1 {self.optical_points:+.1f} "
            f"points on optical bands, {self.radar_points:+.1f} on VV ({self.source})"
        )


def choose(cells: int, features: int, megabytes: float, file_format: Format) -> Choice:
    """Return the setting with the highest F1 of those that fit, the smaller one of two that are equal.

    The F1 is that of optical bands, to a tenth of a point; that of VV is too uncertain to rank by.

    Args:
        cells: of all scenes together.
        features: of the encoder, all bands together.
        megabytes: that the files may take, 10^6 bytes each.
        file_format: of the files.

    Raises:
        UserError: none fits; it says what the smallest one takes.
    """
    if not megabytes > 0:
        raise UserError(f"--budget {megabytes:g} is in megabytes; pass a number above 0, such as 50")
    choices = list(_choices(cells, features, file_format))
    fitting = [choice for choice in choices if choice.megabytes <= megabytes]
    if not fitting:
        least = min(choices, key=lambda choice: choice.megabytes)
        kept = "all features" if least.components is None else f"{least.components} components"
        raise UserError(
            f"--budget {megabytes:g}: {cells:,} cells need {least.megabytes:.3g} MB at least, {kept} in {least.dtype}; "
            f"pass --budget {_rounded_up(least.megabytes)} or more, or a larger --stride"
        )
    return max(fitting, key=lambda choice: (choice.optical_points, -choice.megabytes))


def _choices(cells: int, features: int, file_format: Format) -> Iterator[Choice]:
    for row in MEASURED:
        if row.components is not None and row.components >= min(features, cells):
            continue
        if row.dtype == "int8" and file_format not in FORMATS_OF_INT8:
            continue
        yield Choice(
            components=row.components,
            dtype=row.dtype,
            megabytes=cells * cell_bytes(row.components or features, row.dtype, file_format) / MB,
            optical_points=row.optical_points,
            radar_points=row.radar_points,
        )


def cell_bytes(numbers: int, dtype: EmbeddingDtype, file_format: Format) -> float:
    """Return the bytes that a cell takes in a file, at most; what does not grow with the cells is not counted."""
    size = numbers * _BYTES[dtype]
    if file_format == "parquet":
        return size + _COLUMNS_OF_TABLE
    if file_format == "cog":
        stored = numbers * _HALF_IN_COG if dtype == "float16" else size
        return stored * _OVERVIEWS if has_overviews(numbers, dtype) else stored
    return size


def fit_budget(request: EmbedRequest, megabytes: float) -> tuple[EmbedRequest, Choice]:
    """Return a request whose components and dtype fit a budget, and what was chosen.

    Args:
        request: what to embed.
        megabytes: that the file may take, 10^6 bytes each.

    Raises:
        UserError: nothing fits, or the scene or the model cannot be read.
    """
    file_format, _ = request.checked()
    bands = find_bands(request.scene, request.bands)
    names = [band.name for band in bands]
    network, _, _ = load_network(request.model, names, request.fuse)
    with Scene(bands, request.reading.for_bands(names)) as scene:
        grid = scene_grid(scene, size=request.size, stride=request.stride)
    choice = choose(grid.rows * grid.cols, network.num_features, megabytes, file_format)
    return replace(request, components=choice.components, dtype=choice.dtype), choice


def _rounded_up(megabytes: float) -> str:
    return f"{-(-megabytes * 100 // 1) / 100:g}" if megabytes < 10 else f"{-(-megabytes // 1):g}"
