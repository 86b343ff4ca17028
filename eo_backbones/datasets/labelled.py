"""A labelled set of images on disk, read one image at a time: what evaluation needs to know of any data set."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from eo_backbones.bands import band_names
from eo_backbones.contract import Unit
from eo_backbones.errors import UserError

_DIGEST_BYTES = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledImages:
    """Images with one class each.

    Attributes:
        name: name of the data set, e.g. ``"eurosat-ms"``.
        classes: class names; a label is a position in it.
        paths: one path an image; in an archive, the archive's path followed by the member's.
        labels: int64 ``(n,)``.
        bands: canonical names of the bands that the images have, in file order.
        unit: unit of the values that :meth:`read` returns.
        reader: returns the named bands of a path, ``(bands, height, width)``, as stored.
        load_bytes: returns the bytes of a path, for the digest.
    """

    name: str
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray
    bands: tuple[str, ...]
    unit: Unit
    reader: Callable[[Path, Sequence[str]], np.ndarray]
    load_bytes: Callable[[Path], bytes]

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """``"<class>/<file name without suffix>"`` of each image."""
        return tuple(
            f"{self.classes[label]}/{path.stem}" for path, label in zip(self.paths, self.labels.tolist(), strict=True)
        )

    @cached_property
    def digest(self) -> str:
        """16 hex digits of class, name and content of every image; reads all files once.

        The same files give the same digest wherever they lie, in a folder or in an archive.
        """
        total = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for identity, path in zip(self.ids, self.paths, strict=True):
            content = self.load_bytes(path)
            total.update(f"{identity}{path.suffix}\0{len(content)}\0".encode())
            total.update(content)
        return total.hexdigest()

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
        """Return bands of one image as ``(len(bands), height, width)``, raw values in ``unit``, dtype of the file.

        Raises:
            UserError: a band is not in this data set, or the file is missing, damaged or of another kind.
        """
        return self.reader(self.paths[index], self.check_bands(bands))
