"""A labelled set of images on disk, read one image at a time: what evaluation needs to know of any data set."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from eo_backbones.bands import band_names
from eo_backbones.contract import Unit
from eo_backbones.errors import UserError

IGNORED = 255
"""Value of pixels without a class in :class:`ClassMaps`."""
UNLABELLED = "unlabelled"
"""The only class of images without labels."""
SMALLEST_GROUP = 3
"""Images of a group that a split needs: one each for training, validation and test."""
HEAD_BYTES = 4096
"""Bytes of a file that :func:`heads` reads: the header and the first pixels of an uncompressed GeoTIFF."""
_DIGEST_BYTES = 8


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class OfficialSplit:
    """The split that a data set was published with.

    Attributes:
        parts: ``"train"``, ``"val"``, ``"test"`` or ``""`` (in none) for each image ``(n,)``.
        source: where it is published, for reports.
        movable: whether the user may have moved images from part to part; their parts then belong to the digest.
    """

    parts: np.ndarray
    source: str
    movable: bool = False


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class ClassMaps:
    """A class for every pixel.

    Attributes:
        classes: class names; a pixel's value is a position in it, or :data:`IGNORED`.
        reader: returns the map that belongs to an image's path, int64 ``(height, width)``.
    """

    classes: tuple[str, ...]
    reader: Callable[[Path], np.ndarray]


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledImages:
    """Images with one class each, or with any number of labels each.

    Attributes:
        name: name of the data set, e.g. ``"eurosat-ms"``.
        classes: class names; a label is a position in it.
        paths: one path for each image; in an archive, the archive's path followed by the member's; the folder of an
            image whose bands are files of their own.
        labels: class numbers, int64 ``(n,)``; or, where an image may have several labels, bool ``(n, classes)``.
        bands: canonical names of the bands that the images have, in file order.
        units: unit of the values that :meth:`read` returns, one for each band.
        reader: returns the named bands of a path, ``(bands, height, width)``, as stored.
        load_bytes: returns what distinguishes an image from others, for the digest: the file's bytes, or for data sets
            of hundreds of gigabytes a part of them (:func:`heads`).
        reading: how files are read where the user may choose; part of the digest.
        levels: processing levels of the Sentinel-2 images, where that of every file is known.
        official: the published split, if the files say it.
        maps: class maps, if the data set has them.
    """

    name: str
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray
    bands: tuple[str, ...]
    units: tuple[Unit, ...]
    reader: Callable[[Path, Sequence[str]], np.ndarray]
    load_bytes: Callable[[Path], bytes]
    reading: str = ""
    levels: tuple[str, ...] = ()
    official: OfficialSplit | None = None
    maps: ClassMaps | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    @cached_property
    def strata(self) -> np.ndarray:
        """Group of each image, int64 ``(n,)``, that splits are stratified by: its class, or one of its labels."""
        return strata_of(self.labels) if self.multilabel else self.labels

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """``"<class>/<file name without suffix>"`` of each image; the labels' numbers where there may be several."""
        if self.multilabel:
            named = ("+".join(map(str, np.flatnonzero(row))) for row in self.labels)
        else:
            named = (self.classes[label] for label in self.labels.tolist())
        return tuple(f"{label}/{path.stem}" for path, label in zip(self.paths, named, strict=True))

    @cached_property
    def digest(self) -> str:
        """16 hex digits of label, name and content of every image, and of parts that are folders; reads all files.

        The same files give the same digest wherever they lie, in a folder or in an archive.
        """
        total = hashlib.blake2b(self.reading.encode(), digest_size=_DIGEST_BYTES)
        if self.official and self.official.movable:
            total.update("\0".join(self.official.parts.tolist()).encode())
        for identity, path in zip(self.ids, self.paths, strict=True):
            content = self.load_bytes(path)
            total.update(f"{identity}{path.suffix}\0{len(content)}\0".encode())
            total.update(content)
        return total.hexdigest()

    def take(self, rows: np.ndarray) -> "LabelledImages":
        """Return the data set with these images only."""
        official = self.official and replace(self.official, parts=self.official.parts[rows])
        paths = tuple(self.paths[row] for row in rows)
        return replace(self, paths=paths, labels=self.labels[rows], official=official)

    def unit_of(self, band: str) -> Unit:
        """Return the unit of a band, by its canonical name."""
        return self.units[self.bands.index(band)]

    def check_bands(self, bands: Sequence[str]) -> tuple[str, ...]:
        """Return the canonical names of bands, in the given order.

        Raises:
            UserError: a band is unknown, named twice, or not in this data set.
        """
        canonical = band_names(bands)
        for name in canonical:
            if name not in self.bands:
                raise UserError(f"{self.name} has no band {name}; it has {', '.join(self.bands)}")
        return canonical

    def read(self, index: int, bands: Sequence[str]) -> np.ndarray:
        """Return bands of one image as ``(len(bands), height, width)``, raw values in their unit, dtype of the file.

        Raises:
            UserError: a band is not in this data set, or the file is missing, damaged or of another kind.
        """
        return self.reader(self.paths[index], self.check_bands(bands))


def heads(paths: Iterable[Path]) -> bytes:
    """Return name, size and the first :data:`HEAD_BYTES` of every file, one after the other.

    For the digest of very large data sets: SEN12MS has 510 GB and BigEarthNet seven million files, so reading them
    whole would take longer than the evaluation.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    parts = []
    for path in paths:
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
                size = path.stat().st_size
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror}); restore it, or remove its image") from error
        parts.append(f"{path.name}\0{size}\0".encode() + head)
    return b"".join(parts)


def strata_of(labels: np.ndarray) -> np.ndarray:
    """Return the group of each image, int64 ``(n,)``, by which images with several labels are split.

    The group of an image is its rarest label, so that rare labels reach every part, as long as the group is not too
    small: from the rarest label to the commonest, each takes the images that have it and no group yet, if these are at
    least :data:`SMALLEST_GROUP`. The remaining images form one more group, or join the largest if they are too few.

    Args:
        labels: bool ``(n, labels)``.
    """
    strata = np.full(len(labels), -1, dtype=np.int64)
    for label in np.argsort(labels.sum(axis=0), kind="stable"):
        free = labels[:, label] & (strata < 0)
        if free.sum() >= SMALLEST_GROUP:
            strata[free] = label
    left = strata < 0
    if left.any():
        groups, sizes = np.unique(strata[~left], return_counts=True)
        few = left.sum() < SMALLEST_GROUP and len(groups) > 0
        strata[left] = groups[sizes.argmax()] if few else labels.shape[1]
    return strata
