"""What to map and how, checked before anything is read; and what identifies a map."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eo_backbones.errors import UserError
from eo_backbones.files import read_json, refuse_occupied, refuse_unwritable, sha256_of
from eo_backbones.mapping.source import MapRegion

MAP_FILE = "map.json"
ERROR_RATE = 0.1
_LARGEST_RATE = 0.5
_FORMAT = 1  # changed when the same request would give other rasters


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRequest:
    """What to map, and how.

    Attributes:
        region: folder of embeddings, or a search index.
        points: labelled points, see :func:`eo_backbones.mapping.points.read_points`.
        class_field: property or column that holds the class.
        out: folder to write.
        error_rate: share of cells whose conformal set may miss their class, above 0 and at most 0.5.
        block_m: points in a square of this side are held out together; ``None``: see
            :func:`eo_backbones.mapping.blocks.choose_blocks`.
        overwrite: replace another map in ``out``.
    """

    region: Path
    points: Path
    class_field: str
    out: Path
    error_rate: float = ERROR_RATE
    block_m: float | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Refuse values that are not allowed, and an output that cannot be written.

        Raises:
            UserError: one of these.
        """
        if not 0 < self.error_rate <= _LARGEST_RATE:
            raise UserError(
                f"--error-rate {self.error_rate:g} is the share of cells whose set may miss their class; pass a number "
                f"above 0 and up to {_LARGEST_RATE:g}, such as {ERROR_RATE:g}"
            )
        if self.block_m is not None and not 0 < self.block_m < float("inf"):
            raise UserError(f"--block {self.block_m:g} is the side of a square in metres; pass a positive number")
        refuse_unwritable(self.out, folder=True)
        if self.out.resolve() == self.region.resolve():
            raise UserError(f"--out {self.out} is the folder of the embeddings; name another one")

    def facts(self, region: MapRegion) -> dict[str, Any]:
        """Return everything that decides the map, as JSON types."""
        return {
            "format": _FORMAT,
            "version": version("eo-backbones"),
            "region": dict(region.facts),
            "scenes": {scene.id: _identity(scene.path) for scene in region.scenes},
            "points": self.points.name,
            "points_sha256": sha256_of(self.points),
            "class_field": self.class_field,
            "error_rate": self.error_rate,
            "block_m": self.block_m,
        }

    def earlier(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what an earlier map in ``out`` was made from, ``None`` if there is none.

        Raises:
            UserError: something else is in the folder, or another map that is not to be replaced.
        """
        recognised = (self.out / MAP_FILE).is_file()
        refuse_occupied(self.out, earlier="a map of eo-backbones", recognised=recognised)
        if not recognised:
            return None
        recorded = read_json(self.out / MAP_FILE, kind="map of eo-backbones map")
        differing = [name for name in facts if recorded.get(name) != facts[name]]
        if differing and not self.overwrite:
            raise UserError(
                f"{self.out} already holds a map made with other {_listed(differing)}; pass --overwrite to replace it, "
                "or name another folder with --out"
            )
        return recorded


_SHOWN: Mapping[str, str] = {
    "format": "format",
    "version": "version of eo-backbones",
    "region": "embeddings",
    "scenes": "scenes",
    "points": "points",
    "points_sha256": "points",
    "class_field": "--class-field",
    "error_rate": "--error-rate",
    "block_m": "--block",
}


def _listed(names: list[str]) -> str:
    return " and ".join(dict.fromkeys(_SHOWN[name] for name in names))


def _identity(path: Path) -> list[int]:
    """Return size and time of change, of a folder those of what it holds."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    states = [file.stat() for file in files]
    return [sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)]


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return the digest of everything that decides a map."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
