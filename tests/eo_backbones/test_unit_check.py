"""The unit check: right values pass, whatever a few odd pixels hold; wrong ones are refused with advice that fits."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from eo_backbones.bands import BANDS
from eo_backbones.contract import standardized
from eo_backbones.inputs import Finding, InputTransform, UnitError, check_batch, check_values
from support.real_scenes import OPTICAL_MISTAKES, RADAR_MISTAKES, Mistake, RealImage, mistaken, real_images

SPEC = standardized(BANDS)


def check(values: np.ndarray | torch.Tensor, band: str, unit: str) -> Finding | None:
    return check_values(torch.as_tensor(values), SPEC.for_band(band), unit)  # type: ignore[arg-type]


def land(seed: int = 0, low: float = 300, high: float = 3000) -> np.ndarray:
    """Digital numbers of something like a field: a slope with noise."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(low, high, 64, dtype=np.float32)[None].repeat(64, axis=0)
    return np.rint(slope + rng.normal(0, 0.05 * (high - low), (64, 64))).clip(1).astype(np.float32)


def radar(seed: int = 0, mean: float = -12.0) -> np.ndarray:
    """DB of even ground with the speckle of 4.4 looks, as in an IW GRD product."""
    rng = np.random.default_rng(seed)
    return (mean + 10 * np.log10(rng.gamma(4.4, 1 / 4.4, (64, 64)))).astype(np.float32)


RIGHT = {
    "dn": ("B04", "dn", land()),
    "reflectance": ("B04", "reflectance", land() / 10_000),
    "db": ("VV", "db", radar()),
    "linear": ("VV", "linear", 10 ** (radar() / 10)),
    "uint8": ("B04", "uint8", (land() / 12).clip(0, 255)),
}
WRONG = {
    "reflectance as dn": ("B04", "dn", land() / 10_000, "pass unit='reflectance'"),
    "dn as reflectance": ("B04", "reflectance", land(), "pass unit='dn'"),
    "percent as dn": ("B04", "dn", land() / 100, "pass unit='reflectance' with scale=0.01"),
    "percent as reflectance": ("B04", "reflectance", land() / 100, "pass scale=0.01"),
    "standardised as dn": ("B04", "dn", (land() - 1650) / 800, "look standardised"),
    "standardised as reflectance": ("B04", "reflectance", (land() - 1650) / 800, "look standardised"),
    "linear as db": ("VV", "db", 10 ** (radar() / 10), "pass unit='linear'"),
    "db as linear": ("VV", "linear", radar(), "pass unit='db'"),
    "standardised as db": ("VV", "db", (radar() + 12) / 3, "look standardised"),
    "amplitude numbers as db": ("VV", "db", np.rint(500 * 10 ** (radar() / 20)), "calibrate it to sigma nought"),
    "amplitude numbers as linear": ("VV", "linear", np.rint(500 * 10 ** (radar() / 20)), "calibrate it"),
    "reflectance as uint8": ("B04", "uint8", land() / 10_000, "multiply by 255"),
    "dn as uint8": ("B04", "uint8", land(), "pass unit='dn'"),
}  # fmt: skip
ODD = (5.01, -0.21, -1.0, -1e-4, 0.0, 255.0, 65_535.0, -9999.0, float("nan"), float("inf"), float("-inf"), 1e20)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("case", sorted(RIGHT))
def test_an_odd_pixel_does_not_make_right_values_wrong(case: str, odd: float) -> None:
    band, unit, values = RIGHT[case]
    values = values.copy()
    values[0, 0] = odd
    assert check(values, band, unit) is None


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("case", sorted(WRONG))
def test_an_odd_pixel_does_not_hide_a_wrong_unit(case: str, odd: float) -> None:
    band, unit, values, advice = WRONG[case]
    values = values.copy()
    values[0, 0] = odd
    found = check(values, band, unit)
    assert found is not None
    assert found.certain
    assert advice in found.message
    assert "\n" not in found.message


def test_fractions_that_hardly_differ_with_one_odd_row() -> None:
    values = torch.full((64, 64), 0.2)
    values[0] = 0.1
    for odd in (5.01, -0.21, -1.0):
        values[0, 0] = odd
        with pytest.raises(UnitError, match="pass unit='reflectance'"):
            InputTransform(SPEC, band="B04", unit="dn")(values)


@pytest.mark.parametrize("kind", [torch.int16, torch.int32, torch.int64, torch.uint8, torch.float16, torch.float64])
def test_any_type_of_values(kind: torch.dtype) -> None:
    values = torch.as_tensor(land(high=200, low=20)).clamp(0, 255).to(kind)
    unit = "uint8" if kind == torch.uint8 else "dn"
    assert check(values, "B04", unit) is None
    found = check(values, "B04", "reflectance")
    assert found is not None
    assert "'uint8'" in found.message


# --- each image of a batch ---------------------------------------------------------------------------------------


def test_one_wrong_image_in_a_batch_is_named() -> None:
    batch = torch.stack([torch.as_tensor(land(seed)) for seed in range(40)])
    batch[17] /= 10_000
    found = check_batch(batch, SPEC.for_band("B04"), "dn")
    assert found == Finding(
        "band B04, image 17 (from 0) of the batch: " + check(batch[17], "B04", "dn").message.removeprefix("band B04: "),  # type: ignore[union-attr]
        certain=True,
    )
    with pytest.raises(UnitError, match="image 17"):
        InputTransform(SPEC, band=["B04", "VV"], unit=["dn", "db"])(
            torch.stack([batch, torch.as_tensor(radar()).expand(40, 64, 64)], dim=1)
        )


def test_images_of_a_large_batch_are_looked_at_one_by_one() -> None:
    batch = torch.as_tensor(land()).expand(3000, 64, 64).clone()
    assert check_batch(batch, SPEC.for_band("B04"), "dn") is None
    batch[2999] /= 100
    found = check_batch(batch, SPEC.for_band("B04"), "dn")
    assert found is not None
    assert "image 2999" in found.message
    assert "percent" in found.message


def test_a_doubt_does_not_hide_what_is_certain() -> None:
    batch = torch.stack([torch.zeros(64, 64), torch.as_tensor(land() / 10_000)])
    found = check_batch(batch, SPEC.for_band("B04"), "dn")
    assert found is not None
    assert found.certain
    assert "image 1" in found.message


# --- missing pixels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("mark", [-9999.0, -32_768.0, 65_535.0, 1e20, -3.4028235e38])
@pytest.mark.parametrize("case", sorted(RIGHT))
def test_a_repeated_extreme_is_a_mark_for_missing(case: str, mark: float, share: float) -> None:
    band, unit, values = RIGHT[case]
    values = values.copy()
    values.reshape(-1)[: int(share * values.size)] = mark
    found = check(values, band, unit)
    assert found is not None
    assert found.certain
    advice = found.message.rpartition("nodata=")[2]
    assert np.float32(float(advice)) == np.float32(mark)
    assert check(np.where(values == np.float32(mark), np.nan, values), band, unit) is None


@pytest.mark.parametrize("columns", [1, 6, 40])
def test_zeros_at_the_edge_of_a_scene_in_db_are_missing(columns: int) -> None:
    values = radar()
    values[:, :columns] = 0
    with pytest.raises(UnitError, match=r"exactly 0 dB, .*; pass nodata=0 \(check='warn'"):
        InputTransform(SPEC, band="VV", unit="db")(values)
    assert InputTransform(SPEC, band="VV", unit="db", nodata=0)(values).isfinite().all()


def test_zeros_in_linear_backscatter_are_missing_anyway() -> None:
    values = 10 ** (radar() / 10)
    values[:, :20] = 0
    assert check(values, "VV", "linear") is None


def test_small_negatives_of_radar_without_noise_are_missing() -> None:
    """Subtracting thermal noise leaves about half the values over calm water below 0."""
    rng = np.random.default_rng(0)
    values = rng.gamma(4.4, 0.004 / 4.4, (64, 64)).astype(np.float32) - np.float32(0.004)
    assert (values < 0).mean() > 0.4
    assert check(values, "VH", "linear") is None
    found = check(values, "VH", "db")
    assert found is not None
    assert "pass unit='linear'" in found.message


def test_the_stored_zeros_of_a_product_with_an_offset() -> None:
    """Nodata of Sentinel-2 is 0, which an offset of -1000 makes -1000."""
    stored = land() + 1000
    stored[:, :10] = 0
    with pytest.raises(UnitError, match="16 % of the values are 0, as if that meant missing; pass nodata=0"):
        InputTransform(SPEC, band="B04", unit="dn", offset=-1000)(stored)
    InputTransform(SPEC, band="B04", unit="dn", offset=-1000, nodata=0)(stored)


def test_zeros_beside_bright_ground_are_a_doubt() -> None:
    values = land()
    values[:, :10] = 0
    found = check(values, "B04", "dn")
    assert found is not None
    assert not found.certain
    assert "16 % of the values are exactly 0; if 0 means missing, pass nodata=0" in found.message
    with pytest.warns(UserWarning, match="pass nodata=0"):
        InputTransform(SPEC, band="B04", unit="dn")(values)


# --- no false alarm ----------------------------------------------------------------------------------------------


def _ground() -> Iterator[tuple[str, str, str, np.ndarray]]:
    rng = np.random.default_rng(0)

    def optical(name: str, band: str, mean: float, spread: float) -> Iterator[tuple[str, str, str, np.ndarray]]:
        values = rng.normal(mean, spread, (64, 64)).clip(1)
        yield name, band, "dn", np.rint(values).astype(np.uint16)
        yield name, band, "dn", np.rint(values).astype(np.float32)
        yield name, band, "reflectance", (values / 10_000).astype(np.float32)

    for band, mean in (("B02", 800), ("B03", 520), ("B04", 300), ("B08", 170), ("B11", 44), ("B12", 25), ("B10", 8)):
        yield from optical("water", band, mean, 0.05 * mean)
    yield from optical("water of level 2A", "B08", 2, 1)
    yield from optical("snow", "B04", 9500, 500)
    yield from optical("snow", "B11", 900, 200)
    yield from optical("cloud", "B02", 7000, 2500)
    yield from optical("cloud on a slope", "B02", 14_000, 4000)
    yield from optical("desert", "B04", 4200, 200)
    for name, mean in (("water", -24), ("forest", -8), ("town", -5)):
        yield name, "VV", "db", radar(mean=mean)
        yield name, "VV", "linear", 10 ** (radar(mean=mean) / 10)
    town = 10 * np.log10(rng.gamma(0.7, 0.6, (64, 64)).clip(1e-3)).astype(np.float32)
    yield "town with corners", "VV", "db", town
    yield "town with corners", "VV", "linear", 10 ** (town / 10)
    inner_city = rng.normal(2, 4, (64, 64)).astype(np.float32)
    yield "inner city", "VV", "db", inner_city
    yield "inner city", "VV", "linear", 10 ** (inner_city / 10)
    yield "picture", "B04", "uint8", rng.integers(0, 256, (64, 64), dtype=np.uint8)


@pytest.mark.parametrize(("name", "band", "unit", "values"), list(_ground()))
def test_water_snow_cloud_desert_town(name: str, band: str, unit: str, values: np.ndarray) -> None:
    assert check(values.astype(np.int32) if values.dtype == np.uint16 else values, band, unit) is None, name


@pytest.mark.parametrize("mean", [25.0, 44.0, 80.0])
def test_water_averaged_over_dates_is_at_most_a_doubt(mean: float) -> None:
    water = np.random.default_rng(0).normal(mean, 0.05 * mean, (64, 64)).astype(np.float32)
    found = check(water, "B11", "dn")
    assert found is not None
    assert not found.certain
    assert "may be percent" in found.message


def test_a_batch_without_images_has_nothing_wrong() -> None:
    assert check_batch(torch.empty(0, 64, 64), SPEC.for_band("B04"), "dn") is None
    assert InputTransform(SPEC, band="B04", unit="dn")(torch.empty(0, 1, 64, 64)).shape == (0, 1, 64, 64)


@pytest.mark.parametrize(
    ("band", "unit", "value"),
    [
        ("B04", "dn", 1.0), ("B04", "dn", 1200.0), ("B11", "dn", 40.0), ("B04", "dn", 10_000.0),
        ("B04", "reflectance", 0.2), ("B04", "reflectance", 1.0), ("B04", "reflectance", 1e-4),
        ("VV", "db", -12.0), ("VV", "db", -30.5), ("VV", "linear", 0.05), ("VV", "uint8", 90.0),
        ("B04", "uint8", 255.0),
    ],
)  # fmt: skip
def test_constant_but_plausible_patches_pass(band: str, unit: str, value: float) -> None:
    assert check(np.full((64, 64), value, np.float32), band, unit) is None


@pytest.fixture(scope="module")
def images(shared_data: Path) -> list[RealImage]:
    """All real images but for the thousands of 8-bit pictures, of which one in 150."""
    return list(real_images(shared_data, every=150))


@pytest.mark.slow
def test_no_real_image_is_refused_in_its_true_unit(images: list[RealImage]) -> None:
    """benchmarks/unit_check.py does the same for every one of them."""
    assert len({image.source for image in images}) == 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for image in images:
            # two scenes of TerraMesh carry the offset of baseline 04.00, which the cirrus band alone shows
            offset = -1000 if image.band == "B10" and np.median(image.values) > 1000 else None
            InputTransform(SPEC, band=image.band, unit=image.unit, offset=offset)(image.values)  # type: ignore[arg-type]
            if image.unit == "dn":
                InputTransform(SPEC, band=image.band, unit="reflectance", scale=1e-4)(image.values)
            if image.unit == "db":
                InputTransform(SPEC, band=image.band, unit="linear")(10 ** (image.values / 10))


# Least share of real images that is refused; where it is far from 1, values of one look like values of the other:
# dark water in percent like reflectance, amplitudes and dB scaled to 0...1 like linear backscatter, 8 bits and Landsat
# numbers like digital numbers (docs/input-contract.md).
NOT_ALWAYS = {
    ("digital numbers", "uint8"): 0.8,
    ("percent", "reflectance"): 0.8,
    ("standardised by band", "reflectance"): 0.8,
    ("standardised by band", "linear"): 0.9,
    ("Landsat numbers, tag not applied", "dn"): 0.05,
    ("offset -1000 taken off an old product", "dn"): 0.3,
    ("8 bits as floats", "dn"): 0.0,
    ("amplitude", "linear"): 0.15,
    ("uncalibrated amplitude", "uint8"): 0.15,
    ("dB scaled to 0...1", "linear"): 0.75,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake", [*OPTICAL_MISTAKES, *RADAR_MISTAKES], ids=lambda one: f"{one.name} as {one.declared}"
)
def test_real_images_in_a_wrong_unit_are_refused(images: list[RealImage], mistake: Mistake) -> None:
    optical = mistake in OPTICAL_MISTAKES
    seen = [image for image in images if image.unit == ("dn" if optical else "db")][:: 3 if optical else 1]
    refused = 0
    for image in seen:
        values = mistaken(image, mistake)
        found = check(values.astype(np.int32) if values.dtype == np.uint16 else values, image.band, mistake.declared)
        refused += found is not None and found.certain
    assert refused / len(seen) >= NOT_ALWAYS.get((mistake.name, mistake.declared), 0.94)
