"""Where an image is read, and which part of each prediction is kept.

An image that is not larger than one window is read whole. A larger one is covered by cores that touch each other; each
is read with a margin on the sides where the image goes on, so that predictions near the core's edge have seen what
lies beyond. Cores and margins are multiples of the network's largest stride, so every window's feature maps lie on the
grid of those of the whole image.

The prediction for a pixel depends on a neighbourhood only (convolutions, BatchNorm in eval mode, nearest-neighbour
enlargement). Where that is wider than the margin, as in theory that of a ResNet50 is, predictions along a seam may
differ from those of the whole image by what such far pixels contribute. Measured with a decoder on the embedded
ResNet50, on a synthetic scene of 1280 x 1216 pixels: no pixel differed with this margin, 0.03 % with half of it, 1.6 %
without.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowSize:
    """Sizes in pixels, multiples of 32.

    With two margins a window has 1024 pixels a side: 0.7 GB of memory for a ResNet50 on one band, 1.2 GB on three.

    Attributes:
        core: side of what is kept of a window.
        margin: what is read around the core.
    """

    core: int = 768
    margin: int = 128


WINDOW_SIZE = WindowSize()


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one side: kept from ``start`` to before ``stop``, read from ``first`` to before ``last``."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def kept(self) -> slice:
        """What is kept, counted from ``first``."""
        return slice(self.start - self.first, self.stop - self.first)


def spans(length: int, size: WindowSize = WINDOW_SIZE) -> list[Span]:
    """Return the stretches that cover a side of ``length`` pixels."""
    core, margin = size.core, size.margin
    if length <= core + 2 * margin:
        return [Span(0, length, 0, length)]
    stops = [(start, min(start + core, length)) for start in range(0, length, core)]
    return [Span(start, stop, max(start - margin, 0), min(stop + margin, length)) for start, stop in stops]


def windows(height: int, width: int, size: WindowSize = WINDOW_SIZE) -> Iterator[tuple[Span, Span]]:
    """Yield rows and columns of each window of an image."""
    for rows in spans(height, size):
        for columns in spans(width, size):
            yield rows, columns


def count_windows(height: int, width: int, size: WindowSize = WINDOW_SIZE) -> int:
    """Return how many windows an image has."""
    return len(spans(height, size)) * len(spans(width, size))
