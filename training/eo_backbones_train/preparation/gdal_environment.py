"""GDAL settings for reading each of many small files once."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import rasterio
from rasterio.errors import NotGeoreferencedWarning


def gdal_environment() -> rasterio.Env:
    """Return the settings as a context manager; they hold for the thread that enters it."""
    return rasterio.Env(
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",  # else every open lists a folder of hundreds of files
        GDAL_PAM_ENABLED="NO",
        GDAL_CACHEMAX=16,  # MiB; every block is read once
        GTIFF_VIRTUAL_MEM_IO="YES",  # uncompressed files past the block cache: measured twice as fast
    )


@contextmanager
def without_georeference_warnings() -> Iterator[None]:
    """Silence rasterio about files without coordinates: training tiles need none. Not for use in several threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
