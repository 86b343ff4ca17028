"""What tells the files of very large data sets apart, without reading them whole: names, sizes and beginnings.

SEN12MS has 510 GB and BigEarthNet seven million files: reading them all before every evaluation would take longer than
the evaluation. The beginning of an uncompressed GeoTIFF holds its header and its first pixels.
"""

from collections.abc import Iterable
from pathlib import Path

from eo_backbones.errors import UserError

HEAD_BYTES = 4096


def heads(paths: Iterable[Path]) -> bytes:
    """Return name, size and the first :data:`HEAD_BYTES` of every file, one after the other.

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
            raise UserError(f"cannot read {path} ({error.strerror}); restore it, or take its image out") from error
        parts.append(f"{path.name}\0{size}\0".encode() + head)
    return b"".join(parts)
