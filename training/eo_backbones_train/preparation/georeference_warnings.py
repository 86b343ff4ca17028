"""Training tiles need no coordinates, so rasterio need not warn that a file has none."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rasterio.errors import NotGeoreferencedWarning


@contextmanager
def without_georeference_warnings() -> Iterator[None]:
    """Silence rasterio about files without coordinates. Not for use in several threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
