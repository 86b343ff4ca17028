"""From a file on disk to features: the named band, in its unit, through the transform into a model."""

from pathlib import Path

import numpy as np
import pytest
import torch

import eo_backbones
from eo_backbones.bands import BANDS, S2_BANDS, band_index
from eo_backbones.datasets.eurosat import eurosat_ms
from eo_backbones.datasets.synthetic_files import write_sen12ms
from eo_backbones.rasters.reader import read_bands
from support.synthetic_layouts import write_eurosat_ms

NAME = "eo_resnet50.byol_s1s2_mini"

# Means of whole patches, taken by position: B8A is the last of EuroSAT's 13 bands, the ninth of SEN12MS's.
REAL = {
    "eurosat_ms/Forest/Forest_1.tif": ("eurosat-ms", {"B8A": 3114.87, "B08": 2612.36, "B04": 410.17}),
    "sen12ms_layout/ROIs2017_winter/s2_112/ROIs2017_winter_s2_112_p797.tif": (
        "sen12ms-s2",
        {"B8A": 2578.88, "B04": 814.79, "B12": 1014.23},
    ),
    "sen12ms_layout/ROIs2017_winter/s1_112/ROIs2017_winter_s1_112_p797.tif": (
        "sen12ms-s1",
        {"VV": -9.66, "VH": -16.57},
    ),
}


@pytest.mark.parametrize("file", REAL)
def test_real_patches(shared_data: Path, file: str) -> None:
    """The mean that reaches the model is that of the named band, converted by the contract."""
    layout, means = REAL[file]
    model = eo_backbones.create_model(NAME, pretrained=False).eval()
    for band, mean in means.items():
        unit = "db" if band in {"VV", "VH"} else "dn"
        raw = read_bands(shared_data / file, [band], layout=layout)
        to_input = eo_backbones.create_transform(NAME, band=band, unit=unit)
        x = to_input(raw)
        low, high = (-40, 10) if unit == "db" else (0, 10_000)
        expected = _standardised(band, np.clip(raw[0], low, high))
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)
        assert float(raw.mean()) == pytest.approx(mean, abs=0.006)
        with torch.inference_mode():
            features = model(x[None])
        assert features.shape == (1, 2048)
        assert torch.isfinite(features).all()


def test_synthetic_patches(tmp_path: Path) -> None:
    """Two layouts in which B8A stands at different places give the band that was named."""
    data = eurosat_ms(write_eurosat_ms(tmp_path / "eurosat", per_class=1))
    everything = read_bands(data.paths[0], data.bands, layout="eurosat-ms")
    to_input = eo_backbones.create_transform(NAME, band="narrow NIR", unit="dn")
    torch.testing.assert_close(
        to_input(data.read(0, ["B8A"])), _standardised("B8A", everything[12]), rtol=1e-4, atol=1e-5
    )

    root = write_sen12ms(tmp_path / "sen12ms", scenes=("ROIs1158_spring/1",), patches=1, size=64)
    path = next((root / "ROIs1158_spring" / "s2_1").glob("*.tif"))
    ninth = read_bands(path, S2_BANDS, layout="sen12ms-s2")[band_index("sen12ms-s2", "B8A")]
    torch.testing.assert_close(
        to_input(read_bands(path, ["B8A"], layout="sen12ms-s2")),
        _standardised("B8A", ninth),
        rtol=1e-4,
        atol=1e-5,
    )


def _standardised(band: str, digital_numbers: np.ndarray) -> torch.Tensor:
    """What the contract of the mini rows says, by hand: the statistics of DFC2020."""
    values = (digital_numbers.astype(np.float64) - BANDS[band].mean) / BANDS[band].std
    return torch.from_numpy(values.astype(np.float32))[None]
