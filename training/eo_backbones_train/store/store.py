"""Reading a store: scenes by number, tiles by scene and band, values in native units.

``np.load(path, mmap_mode="r")`` alone reads the tiles; this module adds the lists, the checks, and which shard and row
a scene lies in. Opening looks at names and sizes only; :meth:`Store.verify` reads everything.
"""

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eo_backbones.bands import BANDS, band
from eo_backbones.errors import UserError
from eo_backbones_train.store.codings import Array, Coding, coding, default_display
from eo_backbones_train.store.format import SCENES_FILE, GroupKey, manifest_digest, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of tiles: its path, scenes in it, size in bytes, sha256 of the array's bytes."""

    path: Path
    scenes: int
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """Scenes that share tile size, bands and codings.

    Attributes:
        name: as in the file names.
        height, width: tile size in pixels.
        bands: canonical names, Sentinel-2 first.
        codings: one per band.
        shards: in order; a scene's row counts through all of them.
    """

    name: str
    height: int
    width: int
    bands: tuple[str, ...]
    codings: tuple[Coding, ...]
    shards: tuple[Shard, ...]

    @property
    def count(self) -> int:
        """Number of scenes."""
        return sum(shard.scenes for shard in self.shards)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the codes: uint8, or uint16 if any band's coding needs it."""
        return np.result_type(*(one.dtype for one in self.codings))

    @cached_property
    def first_rows(self) -> Array:
        """First row of each shard, int64."""
        return np.cumsum([0, *(shard.scenes for shard in self.shards[:-1])])

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """Memory maps of the shards, ``(scenes, bands, height, width)`` each."""
        return tuple(np.load(shard.path, mmap_mode="r") for shard in self.shards)


class Store:
    """A store, or some of its scenes.

    Attributes:
        folder: where it is.
        groups: all groups of the store.
        digest: manifest digest of the store; of a subset, the digest of that and the choice.
        scene_group, scene_row: group and row of each scene, int64 of length ``len(store)``.
        names, sources, rois: of each scene.
    """

    def __init__(
        self,
        folder: Path,
        groups: tuple[Group, ...],
        digest: str,
        scenes: tuple[Array, Array],
        labels: Sequence[tuple[str, str, str]],
    ) -> None:
        """Hold what :meth:`open` or :meth:`subset` found; call one of those instead."""
        self.folder = folder
        self.groups = groups
        self.digest = digest
        self.scene_group, self.scene_row = scenes
        self._labels = labels

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open a store.

        Raises:
            UserError: there is no store, it is unfinished, damaged or of another version, or a file is missing or has
                the wrong size.
        """
        manifest = read_manifest(folder)
        try:
            groups = tuple(_group(folder, entry) for entry in manifest["groups"])
            scenes_csv = (folder / SCENES_FILE).read_bytes()[: manifest["scenes"]["bytes"]]
            if hashlib.sha256(scenes_csv).hexdigest() != manifest["scenes"]["sha256"]:
                raise UserError(f"{folder / SCENES_FILE} was changed after the store was made; prepare it again")
            rows = list(csv.reader(io.StringIO(scenes_csv.decode())))[1:]
            digest = manifest["digest"]
        except (KeyError, TypeError, OSError) as error:
            raise UserError(f"the store {folder} is damaged ({error!r}); prepare it again") from error
        if manifest_digest(manifest["groups"], rows) != digest:
            raise UserError(f"store.json in {folder} was changed after the store was made; prepare the store again")
        _check_sizes(groups)
        group_index = {group.name: index for index, group in enumerate(groups)}
        first_row = {
            shard.path.name: int(first)
            for group in groups
            for shard, first in zip(group.shards, group.first_rows, strict=True)
        }
        scene_group = np.array([group_index[row[3]] for row in rows], np.int64)
        scene_row = np.array([first_row[row[4]] + int(row[5]) for row in rows], np.int64)
        return cls(folder, groups, digest, (scene_group, scene_row), [(row[0], row[1], row[2]) for row in rows])

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.scene_group)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each scene."""
        return tuple(label[0] for label in self._labels)

    @property
    def sources(self) -> tuple[str, ...]:
        """Source of each scene."""
        return tuple(label[1] for label in self._labels)

    @property
    def rois(self) -> tuple[str, ...]:
        """Region of each scene."""
        return tuple(label[2] for label in self._labels)

    def subset(self, indices: Sequence[int] | Array) -> "Store":
        """Return a view of some scenes, in the given order."""
        chosen = np.asarray(indices, np.int64)
        labels = [self._labels[index] for index in chosen]
        choice = hashlib.sha256("\n".join(label[0] for label in labels).encode()).hexdigest()
        digest = hashlib.sha256(f"{self.digest} {choice}".encode()).hexdigest()
        return Store(self.folder, self.groups, digest, (self.scene_group[chosen], self.scene_row[chosen]), labels)

    def tile(self, scene: int, name: str) -> Array:
        """Return the codes of one band of one scene, ``(height, width)``, as stored.

        Raises:
            UserError: the scene has no such band.
        """
        group = self.groups[self.scene_group[scene]]
        canonical = band(name).name
        if canonical not in group.bands:
            raise UserError(f"scene {self._labels[scene][0]} has no band {canonical}; it has {', '.join(group.bands)}")
        row = int(self.scene_row[scene])
        shard = int(np.searchsorted(group.first_rows, row, side="right")) - 1
        tile: Array = group.arrays[shard][row - int(group.first_rows[shard]), group.bands.index(canonical)]
        return tile

    def decode(self, codes: Array, name: str, group: Group, display: tuple[float, float] | None = None) -> Array:
        """Return float32 values in the band's native unit (reflectance, or dB), NaN where missing.

        Args:
            codes: codes of one band.
            name: the band.
            group: the group that the codes are from.
            display: native values that display values 0 and 255 stand for; default: the contracts' own.
        """
        canonical = band(name).name
        return group.codings[group.bands.index(canonical)].decode(codes, display or default_display(canonical))

    def verify(self) -> None:
        """Read all tiles and compare their digests.

        Raises:
            UserError: a file differs from the one that was written; the message names it.
        """
        for group in self.groups:
            for shard, array in zip(group.shards, group.arrays, strict=True):
                sha256 = hashlib.sha256()
                for scene in array:
                    sha256.update(np.ascontiguousarray(scene).data)
                if sha256.hexdigest() != shard.sha256:
                    raise UserError(f"{shard.path} is not what was written (sha256 differs); prepare the store again")


def usable_scenes(store: Store, s2_bands: Sequence[str], s1_bands: Sequence[str]) -> Array:
    """Return the scenes that have at least one of the Sentinel-2 and one of the Sentinel-1 bands, int64, ascending.

    Raises:
        UserError: there are none; the message says which bands the store has.
    """
    fits = np.array(
        [any(b in group.bands for b in s2_bands) and any(b in group.bands for b in s1_bands) for group in store.groups]
    )
    usable: Array = np.flatnonzero(fits[store.scene_group])
    if not len(usable):
        present = [name for name in BANDS if any(name in group.bands for group in store.groups)]
        raise UserError(
            f"the recipe needs one of {', '.join(s2_bands)} and one of {', '.join(s1_bands)}; no scene of the store "
            f"{store.folder} has both; its bands: {', '.join(present)}; prepare a store with them (--bands), or pass "
            "--set data.s2_bands=... data.s1_bands=..."
        )
    return usable


def _group(folder: Path, entry: dict[str, Any]) -> Group:
    key = GroupKey.from_dict(entry)
    return Group(
        name=entry["name"],
        height=key.height,
        width=key.width,
        bands=key.bands,
        codings=tuple(coding(name) for name in key.codings),
        shards=tuple(
            Shard(path=folder / one["file"], scenes=one["scenes"], size=one["bytes"], sha256=one["sha256"])
            for one in entry["shards"]
        ),
    )


def _check_sizes(groups: Sequence[Group]) -> None:
    for shard in (shard for group in groups for shard in group.shards):
        if not shard.path.is_file():
            raise UserError(f"{shard.path} is missing; copy the store again, or prepare it again")
        size = shard.path.stat().st_size
        if size != shard.size:
            raise UserError(
                f"{shard.path} has {size:,} bytes instead of {shard.size:,}; copy the store again, or prepare it again"
            )
