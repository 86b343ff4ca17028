"""Codings against plain formulas in float64."""

import numpy as np
import pytest

from eo_backbones.errors import UserError
from eo_backbones_train.store.codings import CODINGS, coding, coding_of, default_display

OPTICAL, RADAR = (0.0, 0.275), (-25.0, 0.0)


def test_reflectance_is_coded_by_its_square_root() -> None:
    """Digital number 10000 q ** 2 has code 255 q: literal values, and clipping at reflectance 1."""
    values = np.array([0, 1, 100, 2500, 10000, 65535], np.uint16)
    assert CODINGS["sqrt-reflectance"].encode(values, "dn").tolist() == [0, 3, 26, 128, 255, 255]


def test_reflectance_error_stays_below_the_step() -> None:
    """Half a step of the square-root curve is at most 0.004 (docs/decisions/0009), and far less for dark pixels."""
    values = np.arange(1, 10001, dtype=np.uint16)
    one = CODINGS["sqrt-reflectance"]
    error = np.abs(one.decode(one.encode(values, "dn"), OPTICAL) - values / 1e4)
    assert error.max() < 0.004
    assert error[values < 500].max() < 0.001


@pytest.mark.parametrize("name", ["sqrt-reflectance", "exact-dn"])
def test_every_unit_of_reflectance_gives_the_same_codes(name: str) -> None:
    values = np.arange(0, 12000, 7, dtype=np.uint16)
    one = CODINGS[name]
    expected = one.encode(values, "dn")
    assert np.array_equal(one.encode(values.astype(np.float64) / 1e4, "reflectance"), expected)
    assert np.array_equal(one.encode(values.astype(np.int32), "dn"), expected)


def test_decibel_is_coded_linearly_and_missing_is_zero() -> None:
    values = np.array([np.nan, -np.inf, -41.4, -40.0, -15.0, 10.0, 12.0], np.float32)
    assert CODINGS["linear-db"].encode(values, "db").tolist() == [0, 0, 1, 1, 128, 255, 255]


def test_decibel_error_stays_below_half_a_step() -> None:
    values = np.linspace(-40, 10, 5001).astype(np.float32)
    one = CODINGS["linear-db"]
    assert np.abs(one.decode(one.encode(values, "db"), RADAR) - values).max() <= 50 / 254 / 2 + 1e-5


@pytest.mark.parametrize("name", ["linear-db", "exact-centidb"])
def test_linear_backscatter_is_coded_as_its_decibels(name: str) -> None:
    linear = np.array([0.0, 0.001, 0.1, 1.0], np.float32)
    decibel = np.array([-np.inf, -30.0, -10.0, 0.0], np.float32)
    one = CODINGS[name]
    assert np.array_equal(one.encode(linear, "linear"), one.encode(decibel, "db"))


def test_exact_codings_keep_the_values() -> None:
    """Digital numbers exactly; dB to half a hundredth, also 0 dB, which must not become "missing"."""
    numbers = np.array([0, 1, 2750, 65535], np.uint16)
    decoded = CODINGS["exact-dn"].decode(CODINGS["exact-dn"].encode(numbers, "dn"), OPTICAL)
    assert np.isnan(decoded[0])
    assert np.allclose(decoded[1:] * 1e4, [1, 2750, 65535], rtol=1e-6)
    decibel = np.array([-36.123, -0.004, 0.0, 9.95, np.nan], np.float32)
    decoded = CODINGS["exact-centidb"].decode(CODINGS["exact-centidb"].encode(decibel, "db"), RADAR)
    assert np.abs(decoded[:4] - decibel[:4]).max() <= 0.005 + 1e-5
    assert np.isnan(decoded[4])


def test_display_values_are_kept_and_zero_is_a_value() -> None:
    values = np.array([0, 1, 128, 255], np.uint8)
    one = CODINGS["display"]
    assert np.array_equal(one.encode(values, "uint8"), values)
    assert np.allclose(one.decode(values, OPTICAL), [0, 0.275 / 255, 0.275 * 128 / 255, 0.275])
    assert np.allclose(one.decode(values, RADAR)[[0, 3]], [-25, 0])


def test_display_values_with_a_range_of_their_own_ignore_the_contracts() -> None:
    values = np.array([0, 51, 255], np.uint8)
    one = coding_of("B03", "uint8", exact=False, display=(0.0, 1.0))
    assert one.name == "display:0:1"
    assert np.array_equal(one.encode(values, "uint8"), values)
    assert np.allclose(one.decode(values, OPTICAL), [0, 0.2, 1])
    assert coding("display:-30:5.5").coefficients(RADAR) == (-30.0, 35.5 / 255, 0.0)


@pytest.mark.parametrize(
    ("band", "unit", "exact", "name"),
    [
        ("B04", "dn", False, "sqrt-reflectance"),
        ("B04", "reflectance", True, "exact-dn"),
        ("VH", "linear", False, "linear-db"),
        ("VV", "db", True, "exact-centidb"),
        ("VV", "uint8", True, "display"),
    ],
)
def test_coding_follows_sensor_unit_and_precision(band: str, unit: str, exact: bool, name: str) -> None:
    assert coding_of(band, unit, exact=exact).name == name


def test_unknown_coding_names_the_nearest() -> None:
    with pytest.raises(UserError, match="linear-db"):
        coding("linear-dB2")
    assert default_display("B02") == OPTICAL
    assert default_display("VH") == RADAR
