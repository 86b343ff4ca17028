"""Which band of the file is read under which name: by name as it should be, or in the paper's suspected order."""

from collections.abc import Sequence
from dataclasses import dataclass

from eo_backbones.bands import LAYOUTS, PAPER_BANDS, band_index
from eo_backbones.datasets import LabelledImages
from eo_backbones.errors import UserError

PAPER = "paper"
PAPER_ORDER = "paper-order"
_PAPER_ORDER_DATA, _PAPER_ORDER_LAYOUT = "eurosat-ms", "sen12ms-s2"


@dataclass(frozen=True, slots=True)
class BandChoice:
    """One column of the table.

    Attributes:
        label: the band in results and reports.
        source: canonical name of the band that is read.
        treated_as: canonical name of the band whose normalisation is applied.
    """

    label: str
    source: str
    treated_as: str


def choose_bands(data: LabelledImages, typed: Sequence[str]) -> tuple[BandChoice, ...]:
    """Return the bands that typed names stand for, in order.

    Args:
        data: the images; they must have the bands.
        typed: names or aliases; or ``paper``, the paper's ten; or ``paper-order``, the same ten read from EuroSAT by
            their place in SEN12MS, as the paper's odd figures for B8A suggest was done (docs/decisions). Empty: those
            of the paper's bands that the data has.

    Raises:
        UserError: unknown band, not in the data, named twice, or ``paper-order`` on other data than EuroSAT MS.
    """
    if not typed:
        return tuple(BandChoice(name, name, name) for name in PAPER_BANDS if name in data.bands)
    choices: list[BandChoice] = []
    for name in typed:
        if name == PAPER_ORDER:
            choices += _paper_order(data)
        else:
            names = data.check_bands(PAPER_BANDS if name == PAPER else [name])
            choices += [BandChoice(canonical, canonical, canonical) for canonical in names]
    labels = [choice.label for choice in choices]
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise UserError(f"band {', '.join(repeated)} is named more than once; name each band once")
    return tuple(choices)


def source_of(data: LabelledImages, label: str) -> str:
    """Return the band of the file that a label of the results stands for."""
    typed = PAPER_ORDER if label.startswith(f"{PAPER_ORDER}:") else label
    return next(choice.source for choice in choose_bands(data, [typed]) if choice.label == label)


def _paper_order(data: LabelledImages) -> list[BandChoice]:
    if data.name != _PAPER_ORDER_DATA:
        raise UserError(f"{PAPER_ORDER} is a reading of {_PAPER_ORDER_DATA}; {data.name} has no such question")
    in_file = LAYOUTS[_PAPER_ORDER_DATA]
    return [
        BandChoice(f"{PAPER_ORDER}:{name}", in_file[band_index(_PAPER_ORDER_LAYOUT, name)], name)
        for name in PAPER_BANDS
    ]
