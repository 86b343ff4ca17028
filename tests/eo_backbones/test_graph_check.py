"""The check that goes into exported graphs: right values pass, and what it calls impossible Python refuses too."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from eo_backbones.contract import Unit, unit_range
from eo_backbones.datasets.synthetic import scene
from eo_backbones.inputs import check_values, possible_in_unit

CLASSES = ("AnnualCrop", "Forest", "Highway", "Residential", "River", "SeaLake")
SPEC = unit_range(["B04", "B10", "VV"])


def native(band: str, count: int = 12) -> Tensor:
    """Digital numbers or dB ``(B, 64, 64)`` of different ground."""
    made = [
        scene(1, CLASSES[i % len(CLASSES)], 64, index=i, bands=("B04" if band == "B10" else band,))
        for i in range(count)
    ]
    return torch.from_numpy(
        np.stack([np.asarray(one.s1["VV"] if band == "VV" else one.s2["B04"], np.float32) for one in made])
    )


def display(dn: Tensor) -> Tensor:
    return (dn / 2750 * 255).clamp(0, 255).round()


RIGHT: Mapping[tuple[str, Unit], Callable[[Tensor], Tensor]] = {
    ("B04", "dn"): lambda dn: dn,
    ("B04", "reflectance"): lambda dn: dn / 10_000,
    ("B04", "uint8"): display,
    ("B10", "dn"): lambda dn: (dn / 100).round(),
    ("VV", "db"): lambda db: db,
    ("VV", "linear"): lambda db: 10 ** (db / 10),
    ("VV", "uint8"): lambda db: ((db + 25) / 25 * 255).clamp(0, 255).round(),
}
STORED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda x: x,
    "fractions": lambda x: x / 10_000,
    "percent": lambda x: x / 100,
    "times 10,000": lambda x: x * 10_000,
    "linear": lambda x: 10 ** (x.clamp(-60, 40) / 10),
    "amplitude": lambda x: (10 ** (x.clamp(-60, 40) / 20) * 1000).round(),
    "standardised": lambda x: (x - x.mean()) / x.std(),
    "below zero": lambda x: x - 5000,
    "missing": lambda x: torch.full_like(x, torch.nan),
    "negative": lambda x: -x.abs(),
}


@pytest.mark.parametrize(("band", "unit"), RIGHT)
def test_values_in_their_unit_are_possible(band: str, unit: Unit) -> None:
    values = RIGHT[band, unit](native(band))
    values[:, :2] = torch.nan
    assert possible_in_unit(values, SPEC.for_band(band), unit).tolist() == [True] * len(values)


@pytest.mark.parametrize(("band", "unit"), RIGHT)
def test_what_is_impossible_is_refused_by_the_check_in_python(band: str, unit: Unit) -> None:
    entry, refused = SPEC.for_band(band), set()
    for name, stored in STORED.items():
        for values in (stored(RIGHT[band, unit](native(band))), stored(native(band))):
            for image, possible in zip(values, possible_in_unit(values, entry, unit).tolist(), strict=True):
                if not possible:
                    finding = check_values(image, entry, unit)
                    assert finding is not None and finding.certain, name
                    refused.add(name)
    assert {"missing"} < refused


@pytest.mark.parametrize(
    ("band", "unit", "stored"),
    [
        ("B04", "dn", lambda dn: dn / 10_000),
        ("B04", "dn", lambda dn: (dn - dn.mean()) / dn.std()),
        ("B04", "reflectance", lambda dn: dn),
        ("B04", "uint8", lambda dn: dn),
        ("VV", "db", lambda db: 10 ** (db / 10)),
        ("VV", "linear", lambda db: db),
        ("VV", "linear", lambda db: (10 ** (db / 20) * 1000).round()),
        ("VV", "uint8", lambda db: db),
    ],
)
def test_another_unit_is_impossible(band: str, unit: Unit, stored: Callable[[Tensor], Tensor]) -> None:
    assert not possible_in_unit(stored(native(band)), SPEC.for_band(band), unit).any()
