"""The input contract: right values pass and convert exactly; wrong units are refused with the way out.

The numbered tests are mistakes that users of similar libraries reported; each names the thread.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eo_backbones.contract import InputSpec, declared_units, default_unit, parse_unit, standardized, unit_range
from eo_backbones.errors import UserError
from eo_backbones.inputs import InputTransform, UnitError, as_options
from eo_backbones.weights import WEIGHTS

UNIT_RANGE = unit_range()
STANDARDIZED = standardized()


def transform(band: str, unit: str, spec: InputSpec = UNIT_RANGE, **options: object) -> InputTransform:
    return InputTransform(spec, band=band, unit=unit, **options)  # type: ignore[arg-type]


def dn(shape: tuple[int, ...] = (2, 1, 8, 8), seed: int = 0) -> torch.Tensor:
    return torch.randint(200, 3000, shape, generator=torch.Generator().manual_seed(seed)).to(torch.float32)


# --- values -----------------------------------------------------------------------------------------------------


def test_optical_units_agree() -> None:
    """The same scene as digital numbers, reflectance and uint16 gives the same input."""
    values = dn()
    expected = values / 10_000
    for x, unit in ((values, "dn"), (values.to(torch.uint16), "dn"), (values / 10_000, "reflectance")):
        torch.testing.assert_close(transform("B04", unit)(x), expected)


def test_radar_units_agree() -> None:
    decibel = -5 - 15 * torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = (decibel + 25) / 25
    torch.testing.assert_close(transform("VV", "db")(decibel), expected)
    torch.testing.assert_close(transform("VV", "linear")(10 ** (decibel / 10)), expected, rtol=1e-5, atol=1e-5)


def test_standardized_contract_uses_the_figures_of_the_band() -> None:
    """DFC2020: B04 has mean 810.86 and deviation 476.77 digital numbers."""
    out = transform("B04", "dn", STANDARDIZED)(np.full((4, 4), 810.86 + 476.77))
    torch.testing.assert_close(out, torch.ones(1, 4, 4), rtol=0, atol=1e-5)


def test_display_values_follow_eurosat_rgb() -> None:
    """Grey level x 10.78 is about the digital number (255 stands for 2750)."""
    grey = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    torch.testing.assert_close(transform("B03", "uint8")(grey), torch.tensor([[[0.0, 0.055, 0.275]]]))
    stretched = transform("B03", "uint8", display=(0.0, 0.51))(grey)
    torch.testing.assert_close(stretched, torch.tensor([[[0.0, 0.102, 0.51]]]))


def test_each_band_in_8_bits_has_its_own_display_range() -> None:
    grey = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    both = InputTransform(UNIT_RANGE, band=["B04", "VV"], unit="uint8", display=[(0, 0.3), (-20, -5)])
    torch.testing.assert_close(both(grey)[:, 0, 0], torch.tensor([0.3, 0.8]))
    mixed = InputTransform(UNIT_RANGE, band=["B04", "VV"], unit=["dn", "uint8"], display=(-20, -5), check="off")
    torch.testing.assert_close(mixed(grey)[:, 0, 0], torch.tensor([0.0255, 0.8]))


@pytest.mark.parametrize(
    ("display", "message"),
    [
        ((0, 0.3), "1 display ranges for 2 bands in 8 bits"),
        ([(0, 0.3)], "1 display ranges for 2 bands"),
        ([(0, 0.3), (0, -25)], r"\(0, -25\) is not a pair"),
        ([(0, 0.3), (0,)], "is not a pair"),
        ([(0, 0.3), ("a", "b")], "is not a pair"),
        ([(0, 0.3), (0, float("nan"))], "is not a pair"),
        (0.3, "1 display ranges for 2"),
    ],
)
def test_display_ranges_that_fit_no_band_are_refused(display: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        InputTransform(UNIT_RANGE, band=["B04", "VV"], unit="uint8", display=display)  # type: ignore[arg-type]


def test_values_are_clipped_at_the_ends_of_the_contract() -> None:
    out = transform("B02", "dn")(torch.tensor([[-200.0, 28_000.0]]))
    torch.testing.assert_close(out, torch.tensor([[[0.0, 1.0]]]))


@pytest.mark.parametrize("hole", [float("nan"), float("inf"), float("-inf")])
def test_missing_values_become_the_mean_of_the_valid_ones(hole: float) -> None:
    """Of their own image and band, after clipping: -100 dB counts as -25, the end of the clip range."""
    images = torch.tensor([[[[hole, -12.5, -100.0]]], [[[-5.0, -10.0, -15.0]]]])
    out = transform("VH", "db", check="off")(images)
    torch.testing.assert_close(out, torch.tensor([[[[0.25, 0.5, 0.0]]], [[[0.8, 0.6, 0.4]]]]))


@pytest.mark.parametrize("dark", [0.0, -1e-4])
def test_linear_backscatter_of_0_or_less_is_missing(dark: float) -> None:
    torch.testing.assert_close(transform("VV", "linear")(torch.tensor([[dark, 0.1]])), torch.tensor([[[0.6, 0.6]]]))


def test_an_image_without_a_valid_pixel_is_the_mean_of_the_contract() -> None:
    out = transform("B04", "dn", STANDARDIZED, check="off")(torch.full((2, 1, 3, 3), float("nan")))
    assert not out.any()


def test_an_image_standardised_by_itself_takes_the_statistics_of_its_valid_pixels() -> None:
    spec = InputSpec(bands=UNIT_RANGE.bands, normalization="image")
    values = dn((1, 16, 16))
    holes = values.clone()
    holes[:, :5] = float("nan")
    out = transform("B08", "dn", spec)(holes)
    valid = values[:, 5:] / 10_000
    expected = (valid - valid.mean()) / valid.std(correction=0)
    torch.testing.assert_close(out[:, 5:], expected, rtol=1e-4, atol=1e-5)
    assert out[:, :5].abs().max() < 1e-4


@pytest.mark.parametrize("normalization", ["band", "image"])
def test_missing_pixels_are_filled_alike_when_exported(normalization: str) -> None:
    spec = InputSpec(bands=STANDARDIZED.bands, normalization=normalization)  # type: ignore[arg-type]
    module = transform("B04", "dn", spec)
    program = torch.export.export(module, (dn(),)).module()
    complete, holes = dn(seed=1), dn(seed=1)
    holes[0, :, :3] = float("nan")
    for values in (complete, holes):
        torch.testing.assert_close(program(values), module(values))


def test_image_normalisation_standardises_each_image() -> None:
    spec = InputSpec(bands=UNIT_RANGE.bands, normalization="image")
    out = transform("B08", "dn", spec)(dn() * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
    torch.testing.assert_close(out.mean(dim=(1, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(dim=(1, 2, 3), correction=0), torch.ones(2))


def test_shapes() -> None:
    one = transform("B04", "dn")
    assert one(np.full((5, 6), 500, np.uint16)).shape == (1, 5, 6)
    assert one(torch.full((1, 5, 6), 500.0)).shape == (1, 5, 6)
    assert one(torch.full((3, 1, 5, 6), 500.0)).shape == (3, 1, 5, 6)


def test_arrays_of_every_kind_give_the_same() -> None:
    plain = np.arange(200, 3200, 25, dtype=np.float64).reshape(10, 12)
    expected = transform("B04", "dn")(plain)
    read_only = plain.copy()
    read_only.flags.writeable = False

    class ArrayLike:
        """As an ``xarray.DataArray`` is one."""

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return plain

    for same in (
        plain.tolist(),
        read_only,
        ArrayLike(),
        np.asfortranarray(plain),
        plain[::-1, ::-1].copy()[::-1, ::-1],
        plain.astype(">f4"),
        plain.astype(">i2"),
        plain.astype(">u2"),
        plain.astype(np.uint16),
        plain.astype(np.uint32),
        plain.astype(np.uint64),
        plain.astype(np.longdouble),
        np.ma.masked_array(plain, mask=False),
        torch.from_numpy(plain.astype(np.uint16)),
        torch.from_numpy(plain.astype(np.uint32)),
    ):
        torch.testing.assert_close(transform("B04", "dn")(same), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_masked_pixels_are_missing(dtype: type) -> None:
    values = np.ma.masked_equal(np.array([[10, 200, 20, 30]], dtype), 200)
    unit = "uint8" if dtype == np.uint8 else "dn"
    out = transform("B04", unit, check="off")(values)
    assert float(out[0, 0, 1]) == pytest.approx(float(out[0, 0, 2]), rel=1e-5), "the mean of 10, 20 and 30"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((4, 4), np.complex64), "complex values are no backscatter"),
        (torch.ones(4, 4, dtype=torch.complex64), "complex values are no backscatter"),
        (np.ones((4, 4), bool), "true and false are no values of a band"),
        (np.ma.masked_array(np.ones((4, 4), bool), mask=True), "true and false are no values"),
        (np.full((4, 4), "a"), "holds no numbers"),
        ([[1, 2], [3]], "list is no array of numbers|holds no numbers"),
        (None, "NoneType of type object holds no numbers"),
        ("B04", "str of type <U3 holds no numbers"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(values: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        transform("VV", "db")(values)
    assert "\n" not in str(refused.value)


def test_several_bands_each_by_its_own_entry() -> None:
    both = InputTransform(STANDARDIZED, band=["B04", "VV"], unit=["dn", "db"])
    x = torch.stack([torch.full((4, 4), 900.0), torch.full((4, 4), -9.0)])
    single = [transform(b, u, STANDARDIZED)(x[i]) for i, (b, u) in enumerate([("B04", "dn"), ("VV", "db")])]
    torch.testing.assert_close(both(x), torch.cat(single))


# --- reported mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_1_every_row_has_a_transform_that_runs(name: str) -> None:
    """torchgeo#1042, PR#1166: weights without normalisation, then transforms that did not run."""
    for entry in WEIGHTS[name].input.bands:
        x = dn() if entry.unit == "reflectance" else -dn() / 200
        out = transform(entry.band, "dn" if entry.unit == "reflectance" else "db", WEIGHTS[name].input)(x)
        assert out.dtype == torch.float32
        assert torch.isfinite(out).all()


def test_2_the_contract_survives_its_json_form() -> None:
    """seasonal-contrast#19: four normalisations in one code base. There is one, and it is data."""
    assert InputSpec.from_dict(STANDARDIZED.to_dict()) == STANDARDIZED


def test_processing_levels_are_written_where_they_are_known_and_change_nothing_else() -> None:
    assert "processing_levels" not in UNIT_RANGE.to_dict()
    known = replace(UNIT_RANGE, processing_levels=("L1C", "L2A"))
    assert known == UNIT_RANGE
    assert known.to_dict()["processing_levels"] == ["L1C", "L2A"]
    assert known.to_dict(with_levels=False) == UNIT_RANGE.to_dict()
    assert InputSpec.from_dict(known.to_dict()).processing_levels == ("L1C", "L2A")


def test_2_a_damaged_contract_is_refused() -> None:
    data = UNIT_RANGE.to_dict()
    del data["bands"][0]["std"]
    with pytest.raises(UserError, match=r"input contract in config.json: band B02 is damaged: std is missing"):
        InputSpec.from_dict(data)


WRONG = {
    "3 linear given as dB": ("VV", "db", torch.rand(4, 4) * 0.3 + 0.01, "pass unit='linear'"),
    "3 dB given as linear": ("VV", "linear", -torch.rand(4, 4) * 20, "pass unit='db'"),
    "3 amplitude given as linear": ("VV", "linear", torch.full((4, 4), 4321.0), "calibrate"),
    "3 amplitude given as dB": ("VH", "db", torch.tensor([[-5.0, 300.0]]), "exceed -100 to 50 dB"),
    "4 reflectance given as digital numbers": ("B04", "dn", torch.rand(4, 4) * 2, "pass unit='reflectance'"),
    "4 digital numbers given as reflectance": ("B04", "reflectance", dn((4, 4)), "pass unit='dn'"),
    "4 display values given as digital numbers": (
        "B04", "dn", torch.full((4, 4), 90, dtype=torch.uint8), "pass unit='uint8'",
    ),
    "4 display values given as dB": ("VV", "db", torch.full((4, 4), 90, dtype=torch.uint8), "pass unit='uint8'"),
    "4 digital numbers given as display values": ("B04", "uint8", dn((4, 4)), "pass unit='dn'"),
    "4 display values divided by 255": ("B04", "uint8", torch.rand(4, 4), "multiply by 255"),
    "5 digital numbers beyond 16 bits": ("B04", "dn", torch.full((4, 4), 7e4), "exceed 65535"),
    "5 nodata left in": ("B04", "dn", torch.tensor([[-9999.0, 400.0]]), "pass nodata=-9999"),
    "5 nothing but missing values": ("VV", "db", torch.full((4, 4), float("nan")), "no finite value"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_units_are_refused_with_the_way_out(case: str) -> None:
    """SSL4EO-S12#17, torchgeo-bench#312, torchgeo#4061: unit mismatches silently halved accuracies."""
    band, unit, values, way_out = WRONG[case]
    with pytest.raises(UnitError, match=way_out) as refused:
        transform(band, unit)(values)
    assert str(refused.value).startswith(f"band {band}")
    assert "\n" not in str(refused.value)


def test_5_bright_scenes_pass() -> None:
    """torchgeo-bench PR#40: EuroSAT holds values up to about 28,000."""
    assert transform("B04", "dn")(torch.tensor([[300.0, 28_000.0]])).max() == 1


def test_6_processing_baseline_0400() -> None:
    """torchgeo#3224: since baseline 04.00 products carry +1000; offset=-1000 takes it off."""
    old = dn()
    torch.testing.assert_close(transform("B04", "dn", offset=-1000)(old + 1000), transform("B04", "dn")(old))


def test_6_an_offset_without_digital_numbers_is_refused() -> None:
    with pytest.raises(UserError, match="offset=-1000 applies to digital numbers only"):
        transform("B04", "reflectance", offset=-1000)


def test_scale_and_offset_give_the_value_in_its_unit() -> None:
    """Landsat Collection 2 surface reflectance: 2.75e-5 x stored - 0.2 (USGS); Sentinel-1 as int16 hundredths of dB."""
    stored = np.array([[7273, 20_000]], np.uint16)
    out = transform("B04", "reflectance", scale=2.75e-5, offset=-0.2)(stored)
    torch.testing.assert_close(out, torch.tensor([[[2.75e-5 * 7273 - 0.2, 0.35]]]), rtol=0, atol=1e-6)
    hundredths = np.array([[-1250, -500]], np.int16)
    torch.testing.assert_close(transform("VV", "db", scale=0.01)(hundredths), torch.tensor([[[0.5, 0.8]]]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_nodata_is_compared_with_the_stored_value(dtype: type) -> None:
    """0 is missing, although it would be -1000 after the offset; 1000 becomes 0, which is a value."""
    stored = np.array([[0, 100, 200]]).astype(dtype)
    out = transform("B04", "dn", offset=-100, nodata=0, check="off")(stored)
    torch.testing.assert_close(out[0, 0, 1:], torch.tensor([0.0, 0.01]))
    without = transform("B04", "dn", offset=-100, nodata=-9999, check="off")(stored)
    torch.testing.assert_close(without[0, 0, 1:], out[0, 0, 1:])


def test_numbers_for_each_band() -> None:
    both = InputTransform(
        UNIT_RANGE, band=["B04", "VV"], unit=["dn", "db"], offset=[-1000, 0], scale=[1, 0.1], nodata=[0, None]
    )
    out = both(torch.tensor([[[3000.0, 1500.0]], [[-125.0, -200.0]]]))
    torch.testing.assert_close(out, torch.tensor([[[0.2, 0.05]], [[0.5, 0.2]]]))
    assert "scale=1, 0.1, offset=-1000, 0, nodata=0, none" in repr(both)


def test_one_offset_beside_radar_is_that_of_the_digital_numbers() -> None:
    both = InputTransform(UNIT_RANGE, band=["B04", "VV"], unit=["dn", "db"], offset=-1000)
    torch.testing.assert_close(both(torch.tensor([[[3000.0]], [[-12.5]]])), torch.tensor([[[0.2]], [[0.5]]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale=0 makes every value the same"),
        ({"scale": float("nan")}, "scale=nan is not a finite number"),
        ({"offset": "100"}, "is not a finite number"),
        ({"offset": [1.0, 2.0, 3.0]}, "3 values of offset for 2 bands"),
        ({"nodata": [0]}, "1 values of nodata for 2 bands"),
        ({"nodata": "none"}, "nodata='none' is not a number"),
        ({"scale": 0.1}, "scale=0.1 for bands in different units"),
        ({"offset": [0, -1000]}, "offset=-1000 applies to digital numbers only"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        InputTransform(UNIT_RANGE, band=["B04", "VV"], unit=["dn", "db"], **options)  # type: ignore[arg-type]


def test_messages_as_options_of_the_command_line() -> None:
    message = "band VV: values 0 to 1; pass unit='db', or nodata=-9999 with offset=-1000 and scale=2.75e-05"
    assert as_options(message) == (
        "band VV: values 0 to 1; pass --unit db, or --nodata -9999 with --offset -1000 and --scale 2.75e-05"
    )
    assert "--unit VV=db, or --nodata VV=-9999" in as_options(message, "VV")


def test_7_sixteen_bits_are_kept() -> None:
    """SSL4EO-S12#18: no detour through 8 bits; neighbouring digital numbers stay apart."""
    out = transform("B04", "dn")(np.array([[1000, 1001]], np.uint16))
    assert float(out[0, 0, 1] - out[0, 0, 0]) == pytest.approx(1e-4, rel=1e-3)


def test_9_the_number_of_channels_must_match_the_named_bands() -> None:
    """torchgeo#693, #799: "which 10 channels are these?"."""
    with pytest.raises(UserError, match=r"shape \(13, 4, 4\) for 1 band\(s\) \(B04\)"):
        transform("B04", "dn")(torch.full((13, 4, 4), 500.0))
    with pytest.raises(UserError, match="2 units for 3 bands"):
        InputTransform(UNIT_RANGE, band=["B02", "B03", "B04"], unit=["dn", "dn"])


def test_10_any_spelling_of_a_band() -> None:
    """torchgeo#1635, terratorch#928: "B1" against "B01" was a KeyError."""
    torch.testing.assert_close(transform("B4", "dn")(dn()), transform("red", "dn")(dn()))
    with pytest.raises(UserError, match="unknown band 'B4O'; did you mean B04"):
        transform("B4O", "dn")


def test_a_band_the_model_was_not_trained_on_is_refused() -> None:
    with pytest.raises(UserError, match="no input statistics for band B09; it takes B02"):
        transform("B09", "dn")


def test_a_unit_the_band_cannot_have_is_refused() -> None:
    with pytest.raises(UserError, match="band VV cannot be in unit 'dn'; pass one of db, linear, uint8"):
        transform("VV", "dn")


# --- check levels -----------------------------------------------------------------------------------------------


def test_warn_and_off() -> None:
    fractions = torch.full((4, 4), 0.25)
    with pytest.warns(UserWarning, match="pass unit='reflectance'"):
        warned = transform("B04", "dn", check="warn")(fractions)
    torch.testing.assert_close(warned, torch.full((1, 4, 4), 0.25e-4))
    torch.testing.assert_close(transform("B04", "dn", check="off")(fractions), warned)


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(UserError, match="check='maybe' is unknown; pass one of error, warn, off"):
        transform("B04", "dn", check="maybe")


def test_an_all_zero_band_passes_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="band B04 holds only zeros"):
        assert not transform("B04", "dn")(torch.zeros(4, 4)).any()


def test_the_check_is_skipped_under_export_and_the_program_is_equal() -> None:
    module = transform("B04", "dn", STANDARDIZED)
    program = torch.export.export(module, (dn(),)).module()
    torch.testing.assert_close(program(dn(seed=1)), module(dn(seed=1)))
    fractions = torch.full((2, 1, 8, 8), 0.25)
    assert torch.isfinite(program(fractions)).all()


# --- units as typed ---------------------------------------------------------------------------------------------


def test_a_unit_as_typed() -> None:
    assert parse_unit("dn") == (None, "dn")
    assert parse_unit("nir= Reflectance") == ("B08", "reflectance")
    with pytest.raises(UserError, match="unknown unit 'reflectence'; did you mean reflectance"):
        parse_unit("B04=reflectence")
    with pytest.raises(UserError, match="unknown band 'B99'"):
        parse_unit("B99=dn")


@pytest.mark.parametrize(
    ("options", "units"),
    [
        ([], {}),
        (["dn"], {"B04": "dn", "VV": "dn"}),
        (["dn", "linear"], {"B04": "dn", "VV": "linear"}),
        (["VV=linear"], {"VV": "linear"}),
        (["red=reflectance", "uint8"], {"B04": "reflectance", "VV": "uint8"}),
    ],
)
def test_units_are_for_all_bands_one_per_band_or_by_name(options: list[str], units: dict[str, str]) -> None:
    assert declared_units(options, ["B04", "VV"]) == units


def test_units_that_fit_no_band_are_refused() -> None:
    with pytest.raises(UserError, match="2 units for 3 bands; pass one unit for all, or one per band"):
        declared_units(["dn", "db"], ["B04", "B08", "VV"])
    with pytest.raises(UserError, match="--unit VH=db: there is no band VH here; the bands are B04, VV"):
        declared_units(["VH=db"], ["B04", "VV"])


def test_the_unit_that_is_taken_unless_declared() -> None:
    assert [default_unit("B04", "uint16"), default_unit("VV", "float32"), default_unit("VV", "uint8")] == [
        "dn",
        "db",
        "uint8",
    ]
