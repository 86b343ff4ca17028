"""Features on disk, one file for each (model, band) and way of feeding it.

The name of a file is the digest of everything that decides its content: weights, images, band, scaling, size, number
format. So nothing in it can be stale, and any file may be deleted at any time. A file appears under its name only
when it is whole.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FORMAT = 1
"""Part of every key: changed when features of the same name would come out differently."""
CACHE_VARIABLE = "EO_BACKBONES_CACHE"


def default_folder() -> Path:
    """Return ``$EO_BACKBONES_CACHE``, else ``eo_backbones`` below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "eo_backbones"


class FeatureFile:
    """Features ``(n, d)`` of one key: an ordinary ``.npy`` file; bfloat16 is kept as the uint16 of the same bits."""

    def __init__(self, folder: Path, key: Mapping[str, object], dtype: torch.dtype) -> None:
        text = json.dumps({"format": FORMAT, "dtype": str(dtype), **key}, sort_keys=True)
        self.path = folder / "features" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"
        self.dtype = dtype
        self._description = text

    def exists(self) -> bool:
        """Return whether the features are there, whole."""
        return self.path.is_file()

    def read(self) -> Tensor:
        """Return the features, in memory."""
        stored = torch.from_numpy(np.load(self.path))
        return stored.view(self.dtype) if self.dtype == torch.bfloat16 else stored

    @contextmanager
    def writing(self, rows: int) -> Iterator["FeatureWriter"]:
        """Give a writer; when the block ends well the file is there, otherwise nothing is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        writer = FeatureWriter(self.path.with_suffix(f".{os.getpid()}.part"), rows, self.dtype)
        try:
            yield writer
            writer.close()
            self.path.with_suffix(".json").write_text(self._description + "\n")  # for people who look into the folder
            writer.path.replace(self.path)
        finally:
            writer.path.unlink(missing_ok=True)


class FeatureWriter:
    """Writes features batch by batch to disk, so that memory holds one batch only."""

    def __init__(self, path: Path, rows: int, dtype: torch.dtype) -> None:
        self.path = path
        self._rows = rows
        self._dtype = dtype
        self._file: np.memmap | None = None

    def put(self, start: int, features: Tensor) -> None:
        """Store features ``(batch, d)`` as the rows from ``start`` on."""
        values = features.to(self._dtype).cpu().contiguous()
        stored = values.view(torch.uint16) if self._dtype == torch.bfloat16 else values
        if self._file is None:  # the width is known with the first batch
            shape = (self._rows, values.shape[1])
            dtype = stored.numpy().dtype
            self._file = np.lib.format.open_memmap(self.path, mode="w+", dtype=dtype, shape=shape)
        self._file[start : start + len(values)] = stored.numpy()

    def close(self) -> None:
        """Bring everything to disk."""
        assert self._file is not None, "nothing was written"
        self._file.flush()
        self._file = None
