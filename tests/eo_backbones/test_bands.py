"""Bands are found by any of their names, and every data set's order is right."""

import pytest

from eo_backbones import bands
from eo_backbones.errors import UserError


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("B2", "B02"), ("b02", "B02"), ("Blue", "B02"), ("red", "B04"), ("B8a", "B8A"), ("B08A", "B8A"),
     ("narrow NIR", "B8A"), ("red_edge-1", "B05"), ("NIR", "B08"),
     ("swir-1", "B11"), ("vv", "VV"), ("Sigma0_VH", "VH")],
)  # fmt: skip
def test_aliases(spelling: str, name: str) -> None:
    assert bands.band(spelling).name == name


def test_unknown_band_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown band 'B13'; did you mean B12"):
        bands.band("B13")


def test_no_alias_means_two_bands() -> None:
    spellings = [alias for row in bands.BANDS.values() for alias in {row.name.lower(), *row.aliases}]
    assert len(spellings) == len(set(spellings))


def test_eurosat_stores_b8a_last() -> None:
    """phelber/EuroSAT#7: reading position 8 as B8A gives water vapour (B09)."""
    assert bands.band_index("eurosat-ms", "B8A") == 12
    assert bands.band_index("sen12ms-s2", "B8A") == 8
    assert bands.LAYOUTS["eurosat-ms"][8] == "B09"


def test_layouts_hold_known_bands_once() -> None:
    sizes = {name: len(layout) for name, layout in bands.LAYOUTS.items()}
    assert sizes == {
        "sen12ms-s2": 13, "sen12ms-s1": 2, "dfc2020-s2": 13, "dfc2020-s1": 2,
        "eurosat-ms": 13, "eurosat-rgb": 3, "bigearthnet-s2": 12, "bigearthnet-s1": 2,
        "ssl4eo-s2c": 13, "ssl4eo-s2a": 12,
    }  # fmt: skip
    for layout in bands.LAYOUTS.values():
        assert bands.band_names(layout) == layout


def test_bands_missing_from_a_layout_are_refused() -> None:
    with pytest.raises(UserError, match="bigearthnet-s2 has no band B10; it has B01"):
        bands.band_index("bigearthnet-s2", "cirrus")


def test_a_band_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="band B04 is named more than once"):
        bands.band_names(["B4", "red"])


def test_paper_bands_leave_out_the_60_m_bands() -> None:
    assert set(bands.S2_BANDS) - set(bands.PAPER_BANDS) == {n for n in bands.S2_BANDS if bands.BANDS[n].gsd_m == 60}


def test_radar_wavelength_is_c_band() -> None:
    """5.405 GHz is 5.547 cm."""
    assert bands.BANDS["VV"].wavelength_nm == pytest.approx(5.5466e7, rel=1e-4)
