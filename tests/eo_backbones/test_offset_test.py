"""Values against how they are read: +1000 by the darkest pixels, tags that were applied already; real scenes pass."""

import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from eo_backbones.bands import BANDS, LAYOUTS
from eo_backbones.contract import standardized
from eo_backbones.inputs import Finding, InputTransform, UnitError
from eo_backbones.rasters.offset_test import refuse_shifted, shifted_finding
from eo_backbones.rasters.scaling import BandReading

RGB = ("B04", "B03", "B02")


def dn(*bands: str, level: str | None = None) -> list[BandReading]:
    return [BandReading(band=band, unit="dn", level=level) for band in bands]


def land(seed: int, bands: int = 3, size: int = 128) -> np.ndarray:
    """Digital numbers of an old baseline: fields, with water or shadow in a corner."""
    rng = np.random.default_rng(seed)
    values = rng.normal(1500, 250, (bands, size, size)).clip(500, None)
    values[:, : size // 6, : size // 2] = rng.normal(300, 40, (bands, size // 6, size // 2)).clip(20, None)
    return values.round().astype(np.float32)


def certain(finding: Finding | None) -> bool | None:
    return None if finding is None else finding.certain


def test_many_images_are_certain_one_is_a_doubt_and_old_ones_pass() -> None:
    old = [land(seed) for seed in range(8)]
    new = [values + 1000 for values in old]
    assert shifted_finding(old, dn(*RGB)) is None
    assert certain(shifted_finding(new, dn(*RGB))) is True
    assert certain(shifted_finding(new[:1], dn(*RGB))) is False
    assert shifted_finding([new[0][:1]], dn("B04")) is None  # one band of one image proves nothing
    finding = shifted_finding(new, dn(*RGB))
    assert finding is not None
    assert "pass offset=-1000 or offset=0" in finding.message


def test_arrays_in_python_are_judged_unless_the_offset_is_stated() -> None:
    spec = standardized(BANDS)
    old = torch.from_numpy(np.stack([land(seed) for seed in range(8)]))
    unstated = InputTransform(spec, band=RGB, unit="dn")
    expected = unstated(old)
    with pytest.raises(UnitError, match=r"looks like \+1000 .*; pass offset=-1000 or offset=0"):
        unstated(old + 1000)
    with pytest.warns(UserWarning, match="pass offset=-1000 or offset=0"):
        unstated(old[0] + 1000)
    with pytest.warns(UserWarning, match="pass offset=-1000 or offset=0"):
        InputTransform(spec, band=RGB, unit="dn", check="warn")(old + 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        removed = InputTransform(spec, band=RGB, unit="dn", offset=-1000)(old + 1000)
        InputTransform(spec, band=RGB, unit="dn", offset=0)(old + 1000)
        InputTransform(spec, band="B04", unit="dn")(old[:1, :1] + 1000)  # one band of one image proves nothing
        InputTransform(spec, band="B04", unit="reflectance")(old[:, :1] / 10_000)
    np.testing.assert_allclose(removed.numpy(), expected.numpy(), atol=1e-6)


def test_a_large_scene_counts_as_many_images() -> None:
    scene = np.tile(land(0, 1), (1, 6, 6))
    assert scene.shape == (1, 768, 768)
    assert certain(shifted_finding([scene + 1000], dn("B04"))) is True
    assert shifted_finding([scene], dn("B04")) is None


def test_blue_tells_at_level_2a_only() -> None:
    new = [land(seed, 1) + 1000 for seed in range(8)]
    assert shifted_finding(new, dn("B02")) is None  # haze at level 1C
    assert certain(shifted_finding(new, dn("B02", level="L2A"))) is True


def test_cirrus_band_tells_by_itself() -> None:
    values = np.random.default_rng(0).integers(5, 20, (1, 64, 64)).astype(np.float32)
    assert shifted_finding([values], dn("B10")) is None
    assert certain(shifted_finding([values + 1000], dn("B10"))) is False
    assert certain(shifted_finding([values + 1000] * 8, dn("B10"))) is True


@pytest.mark.parametrize("level", [3000, 6000, 15000])
def test_snow_cloud_and_desert_pass(level: int) -> None:
    rng = np.random.default_rng(level)
    bright = [rng.normal(level, 200, (3, 64, 64)).astype(np.float32) for _ in range(16)]
    assert shifted_finding(bright, dn(*RGB)) is None


def test_constant_images_pass() -> None:
    assert shifted_finding([np.full((3, 64, 64), 1200, np.float32)] * 16, dn(*RGB)) is None


def test_missing_pixels_and_zeros_do_not_count() -> None:
    new = [land(seed) + 1000 for seed in range(8)]
    for values in new:
        values[:, 60:90] = np.nan
        values[:, 90:100] = 0
    assert certain(shifted_finding(new, dn(*RGB))) is True
    assert shifted_finding([np.full((3, 8, 8), np.nan, np.float32)], dn(*RGB)) is None


@pytest.mark.parametrize("reading", [{"known": True}, {"known": True, "declared": True}])
def test_what_is_known_is_not_doubted(reading: dict[str, bool]) -> None:
    new = [land(seed) + 1000 for seed in range(8)]
    assert shifted_finding(new, [BandReading(band=band, unit="dn", **reading) for band in RGB]) is None


def test_offset_that_is_gone_already() -> None:
    shifted = BandReading(band="B04", unit="dn", offset=-1000.0, known=True, source="digital numbers - 1000 (a tag)")
    old = [land(seed, 1) for seed in range(2)]
    finding = shifted_finding([values - 1000 for values in old], [shifted])  # as read
    assert finding is not None
    assert finding.certain
    assert "although the file says digital numbers - 1000 (a tag)" in finding.message
    assert "offset=0 or offset=-1000" in finding.message
    assert shifted_finding(old, [shifted]) is None  # it was there


def test_reflectance_that_is_there_already() -> None:
    tag = BandReading(band="B04", unit="dn", offset=-1000.0, known=True, source="digital numbers - 1000 (GDAL)")
    stored = land(0, 1) / 10_000
    finding = shifted_finding([stored - 1000], [tag])
    assert finding is not None
    assert "look like reflectance already" in finding.message
    assert "scale=1 offset=0 unit='reflectance'" in finding.message
    landsat = BandReading(band="B04", unit="reflectance", scale=2.75e-5, offset=-0.2, known=True, source="GDAL")
    finding = shifted_finding([stored * 2.75e-5 - 0.2], [landsat])
    assert finding is not None
    assert finding.certain
    radar = BandReading(band="VV", unit="db", scale=0.01, known=True, source="GDAL")
    decibel = np.random.default_rng(0).normal(-12, 3, (1, 64, 64))
    finding = shifted_finding([decibel * 0.01], [radar])
    assert finding is not None
    assert "look like db already" in finding.message
    assert shifted_finding([(decibel * 100).round() * 0.01], [radar]) is None


def test_message_names_the_optical_bands_beside_radar() -> None:
    readings = [*dn("B04"), BandReading(band="VV", unit="db")]
    images = [(np.concatenate([land(seed, 1) + 1000, -land(seed, 1) / 100]), readings) for seed in range(8)]
    with pytest.raises(UnitError, match="pass --offset B04=-1000 or --offset B04=0"):
        refuse_shifted(images, "x.tif")


def real_scenes(shared_data: Path, folder: Path) -> dict[tuple[str, str], tuple[tuple[str, ...], np.ndarray]]:
    """Every optical scene of 16 bits as (source, name) -> bands; single-band files are scenes of one band."""
    with tarfile.open(shared_data / "multiband_pairs.tar") as archive:
        archive.extractall(folder, filter="data")
    paths = {
        "pairs": sorted(folder.glob("multiband_pairs/s2/*.tif")),
        "eurosat": sorted(shared_data.glob("eurosat_ms/*/*.tif")),
        "sen12ms": sorted(shared_data.glob("sen12ms_layout/*/s2*/*.tif")),
    }
    names = {"eurosat": LAYOUTS["eurosat-ms"], "sen12ms": LAYOUTS["sen12ms-s2"]}
    scenes = {}
    for source, files in paths.items():
        for path in files:
            with rasterio.open(path) as file:
                scenes[source, path.stem] = (names.get(source) or file.descriptions, file.read().astype(np.float32))
    return scenes


LIFTED = {"terramesh_282d_485l_3_3", "terramesh_433d_629l_3_1"}  # band 10 at 1004 to 1016: baseline 04.00 or later


def test_no_false_alarm_on_real_scenes(shared_data: Path, tmp_path: Path) -> None:
    scenes = real_scenes(shared_data, tmp_path)
    assert len(scenes) > 75
    choices = (RGB, ("B02", "B03", "B04", "B08"), ("B08",), ("B04",), ("B12",))
    for (source, name), (bands, values) in scenes.items():
        for chosen in (*choices, tuple(bands)):
            picked = values[[bands.index(band) for band in chosen]]
            finding = shifted_finding([picked], dn(*chosen))
            if name in LIFTED:
                assert (finding is not None) == (len(chosen) >= 3), (name, chosen)
            else:
                assert finding is None, (source, name, chosen)
    old = [(bands, values) for (_, name), (bands, values) in scenes.items() if name not in LIFTED]
    for chosen in choices:
        images = [values[[bands.index(band) for band in chosen]] for bands, values in old]
        assert shifted_finding(images, dn(*chosen)) is None
        if "B04" in chosen:
            assert certain(shifted_finding([values + 1000 for values in images], dn(*chosen))) is True
