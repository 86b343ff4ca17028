"""What a column of the table reads: one band by name, one in the paper's suspected order, or several bands fused."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eo_backbones.bands import LAYOUTS, PAPER_BANDS, band_index
from eo_backbones.datasets import LabelledImages
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.rasters.reader import split_request

PAPER = "paper"
PAPER_ORDER = "paper-order"
_PAPER_ORDER_DATA, _PAPER_ORDER_LAYOUT = "eurosat-ms", "sen12ms-s2"

PLUS = "+"
"""Between the bands of a column that takes several at once."""
FUSES = {
    "concat": "the features of each band side by side, as MultiBand(..., fuse='concat') gives them",
    "mean": "the average of the features of each band, as MultiBand(..., fuse='mean') gives it",
}


@dataclass(frozen=True, slots=True)
class BandChoice:
    """A column of one band.

    Attributes:
        label: the band in results and reports.
        source: canonical name of the band that is read.
        treated_as: canonical name of the band whose normalisation is applied.
    """

    label: str
    source: str
    treated_as: str

    @property
    def parts(self) -> "tuple[BandChoice, ...]":
        """The bands of this column."""
        return (self,)

    def join(self, features: Sequence[Tensor]) -> Tensor:
        """Return the features of the column: those of its band."""
        (of_band,) = features
        return of_band


@dataclass(frozen=True, slots=True)
class FusedBands:
    """A column of several bands: the features of each are taken on their own, then fused.

    Attributes:
        parts: the bands.
        fuse: one of :data:`FUSES`.
    """

    parts: tuple[BandChoice, ...]
    fuse: str

    @property
    def label(self) -> str:
        """The bands in results and reports: ``"B02+B03+B04 (mean)"``."""
        return f"{PLUS.join(part.label for part in self.parts)} ({self.fuse})"

    def join(self, features: Sequence[Tensor]) -> Tensor:
        """Return the features of the column from those of its bands, ``(n, d)`` each; an average in float32."""
        if self.fuse == "concat":
            return torch.cat(list(features), dim=1)
        total = features[0].float()
        for of_band in features[1:]:
            total = total + of_band
        return total / len(features)


Column = BandChoice | FusedBands


def choose_columns(data: LabelledImages, typed: Sequence[str], fuses: Sequence[str] = ()) -> tuple[Column, ...]:
    """Return the columns that typed names stand for, in order.

    Args:
        data: the images; they must have the bands.
        typed: names or aliases; or ``paper``, the paper's ten; or ``paper-order``, the same ten read from EuroSAT by
            their index in SEN12MS, as the paper's odd results for B8A suggest was done (docs/decisions); or several
            names joined by ``+``, used at once. Empty: those of the paper's bands that the data has, else all it has.
        fuses: of :data:`FUSES`; a column of several bands is made for each. Empty: ``concat``.

    Raises:
        UserError: unknown band, not in the data, named twice, ``paper-order`` on other data than EuroSAT MS, an unknown
            way to fuse or one without bands to fuse.
    """
    for fuse in fuses:
        if fuse not in FUSES:
            raise unknown_name("way to fuse bands", fuse, FUSES)
    if fuses and not any(PLUS in name for name in typed):
        raise UserError("--fuse says how several bands become one column; name them as in --bands B02+B03+B04")
    if not typed:
        return tuple(_single(name) for name in PAPER_BANDS if name in data.bands) or tuple(map(_single, data.bands))
    columns: list[Column] = []
    for name in typed:
        if name == PAPER_ORDER:
            columns += _paper_order(data)
        elif PLUS in name:
            parts = tuple(_single(part) for part in data.check_bands(name.split(PLUS)))
            columns += [FusedBands(parts, fuse) for fuse in dict.fromkeys(fuses or ("concat",))]
        else:
            columns += [_single(part) for part in data.check_bands(PAPER_BANDS if name == PAPER else [name])]
    labels = [column.label for column in columns]
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise UserError(f"band {', '.join(repeated)} is named more than once; name each band once")
    return tuple(columns)


def named_positions(typed: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return typed bands without their index in the file, and the indices: ``B04=4`` -> ``B04``, ``{"B04": 4}``.

    Raises:
        UserError: an index is not a number from 1, or one band has two.
    """
    positions: dict[str, int] = {}
    names = []
    for item in typed:
        parts = item.split(PLUS)
        for number, part in enumerate(parts):
            if "=" in part:
                name, index = split_request(part)
                if index is not None and positions.setdefault(name, index) != index:
                    raise UserError(
                        f"{name}={positions[name]} and {name}={index}: a band has only one index in the file"
                    )
                parts[number] = name
        names.append(PLUS.join(parts))
    return tuple(names), positions


def sources_of(data: LabelledImages, label: str) -> tuple[str, ...]:
    """Return the bands of the file that a label of the results stands for."""
    names, _, fuse = label.removesuffix(")").partition(" (")
    typed = PAPER_ORDER if label.startswith(f"{PAPER_ORDER}:") else names
    columns = choose_columns(data, [typed], [fuse] if fuse else ())
    return next(tuple(part.source for part in column.parts) for column in columns if column.label == label)


def _single(name: str) -> BandChoice:
    return BandChoice(name, name, name)


def _paper_order(data: LabelledImages) -> list[BandChoice]:
    if data.name != _PAPER_ORDER_DATA:
        raise UserError(f"{PAPER_ORDER} is a reading of {_PAPER_ORDER_DATA}; it means nothing for {data.name}")
    in_file = LAYOUTS[_PAPER_ORDER_DATA]
    return [
        BandChoice(f"{PAPER_ORDER}:{name}", in_file[band_index(_PAPER_ORDER_LAYOUT, name)], name)
        for name in PAPER_BANDS
    ]
