"""What a layout tells about a folder: the files of each scene, and what it had to leave out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterFile:
    """One GeoTIFF of a scene.

    Attributes:
        path: relative to the root, with forward slashes.
        sensor: ``"s1"`` or ``"s2"``.
        band: its only band, where the layout has one file a band.
    """

    path: str
    sensor: str
    band: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneFiles:
    """A co-registered pair of a Sentinel-2 and a Sentinel-1 image.

    Attributes:
        scene: name, unique within the source.
        roi: the region or product it was cut from; subsets are drawn proportionally from these.
        files: Sentinel-2 first.
    """

    scene: str
    roi: str
    files: tuple[RasterFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Contents of a root folder.

    Attributes:
        scenes: in a fixed order that depends on names only.
        skipped: ``(scene, reason)`` of what cannot be used.
        held_out: number of scenes left out because they belong to an official test set.
    """

    scenes: tuple[SceneFiles, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    held_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One folder structure.

    Attributes:
        name: value of ``--layout``.
        scan: ``scan(root, include_hold_out)``.
        s2_order, s1_order: keys of :data:`eo_backbones.bands.LAYOUTS` with the band order of every file; ``None`` where
            files say it themselves.
        replicate: files of one scene may differ in size by whole factors; the smaller are enlarged by repeating
            pixels, which invents no value.
        has_hold_out: the data set has official test scenes, which pretraining leaves out unless told otherwise.
    """

    name: str
    scan: Callable[[Path, bool], Scan]
    s2_order: str | None = None
    s1_order: str | None = None
    replicate: bool = False
    has_hold_out: bool = False
