"""The unit check as tensor operations, for a network that is exported together with its preprocessing.

The check in Python (:mod:`eo_backbones.inputs.unit_check`) sorts a sample and says what to pass instead; a graph can
only say yes or no. So it holds those of its rules that need no more than shares of the values. What is impossible here
is refused there, but for images at a threshold; the other way round it is not so (repeated values that stand for
missing pixels, reflectance that was divided by 255, dB that were standardised or scaled).
"""

import torch
from torch import Tensor

from eo_backbones.contract import BandInput, Unit
from eo_backbones.inputs.unit_check import DB_RANGE, FEW, HIGHEST_DN


def possible_in_unit(values: Tensor, entry: BandInput, unit: Unit) -> Tensor:
    """Return whether the values of each image could be in their unit.

    Args:
        values: of one band, float ``(B, H, W)``, after scale and offset; non-finite ones count as missing.
        entry: the band's contract.
        unit: declared unit.

    Returns:
        bool ``(B,)``; false also for an image without a finite value.
    """
    known = values.isfinite()
    x = torch.where(known, values, 0.0)
    count = known.sum(dim=(-2, -1)).clamp_min(1)

    def share(chosen: Tensor) -> Tensor:
        return (chosen & known).sum(dim=(-2, -1)) / count

    others = known & (x != 0)
    fractions = ((x - x.round()).abs() > 1e-5 * x.abs()) & others
    fractional = fractions.sum(dim=(-2, -1)) / others.sum(dim=(-2, -1)).clamp_min(1)
    bulk = 1 - FEW
    standardised = (fractional > 0.5) & (share(x < -0.2) >= FEW) & (share(x.abs() <= 10) >= bulk)
    if unit == "dn":
        wrong = standardised | (fractional > 0.5) & (share((x >= -0.2) & (x <= 5)) >= bulk)
        wrong |= (share(x < -1000) >= FEW) | (share(x > HIGHEST_DN) >= FEW)
        wrong |= (share(x < -100) > 0.5) | (share(x > 20_000) > 0.5)
        if entry.band != "B10":  # cirrus is as dark as percent
            percent = (fractional > 0.5) & (share(x > -1) > bulk) & (share(x <= 120) > bulk)
            wrong |= percent & (share(x <= 20) > 0.5)
    elif unit == "reflectance":
        wrong = standardised | (share(x > 1.6) > 0.5) | (share(x > 2) >= 0.1)
        wrong |= (share(x < -0.2) >= FEW) | (share(x < -0.01) > 0.5)
    elif unit == "db":
        lowest, highest = DB_RANGE
        wrong = (share(x < -0.2) < FEW) & (share(x >= 0) > 0.5) & (share(x > 0) > FEW / 2 + 0.01)
        wrong |= (share(x < lowest) >= FEW) | (share(x > highest) >= FEW)
    elif unit == "linear":
        positive = share(x > 0)
        wrong = (share(x < -0.03) >= FEW) | (share(x > 3) > 0.5 * positive) & (positive > 0)
    else:
        wrong = standardised | (share(x > 255) >= FEW) | (share(x < 0) >= FEW)
        wrong |= (fractional > 0.5) & (share(x <= 2) > bulk)
    return ~wrong & (known.sum(dim=(-2, -1)) > 0)
