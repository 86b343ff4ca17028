"""Copies among a user's images: byte-identical files, which would be tested on what they were trained on."""

import logging
from functools import partial

import numpy as np

from eo_backbones.datasets.image_files import identical_files
from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.datasets.splits import PARTS
from eo_backbones.errors import UserError

logger = logging.getLogger(__name__)

_NAMED = 5  # pairs in a message, at most


def without_copies(data: LabelledImages) -> LabelledImages:
    """Return the data set with each image once, so that no image can train and test.

    Of files with the same bytes and the same label, or class map, one is kept: one that trains if there is one, else
    one that validates, else the first. A line says how many are left out.

    Args:
        data: images that are each a file of its own.

    Raises:
        UserError: files with the same bytes have different labels or class maps.
    """
    groups = [sorted(group, key=partial(_rank, data)) for group in identical_files(data.paths)]
    if not groups:
        return data
    pairs = [(first, other) for first, *others in groups for other in others]
    wrong = [pair for pair in pairs if not _same_label(data, *pair)]
    if wrong:
        named = "; ".join(f"{_described(data, first)} and {_described(data, other)}" for first, other in wrong[:_NAMED])
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        kinds = "masks" if data.maps else "labels"
        raise UserError(f"one image, byte for byte, has two {kinds}: {named}{more}; keep it with the right one only")
    kept, copy = (data.paths[row] for row in pairs[0])
    logger.warning(
        "%d of %d images are copies of others, byte for byte, such as %s of %s; each image is used once%s",
        len(pairs),
        len(data),
        copy,
        kept,
        ": where it trains, if a copy does, else where it validates" if data.official else "",
    )
    return data.take(np.setdiff1d(np.arange(len(data)), [other for _, other in pairs]))


def _rank(data: LabelledImages, row: int) -> int:
    """Return the place of an image's part: training first, in no part last."""
    parts = (*PARTS, "")
    return parts.index(str(data.official.parts[row])) if data.official else 0


def _same_label(data: LabelledImages, first: int, second: int) -> bool:
    if data.maps is None:
        return bool(data.labels[first] == data.labels[second])
    return np.array_equal(data.maps.reader(data.paths[first]), data.maps.reader(data.paths[second]))


def _described(data: LabelledImages, row: int) -> str:
    return str(data.paths[row]) + ("" if data.maps else f" ({data.classes[data.labels[row]]})")
