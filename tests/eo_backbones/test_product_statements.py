"""What a product says about its values, and what follows from it: sources that agree, sources that do not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from eo_backbones.errors import UserError
from eo_backbones.rasters.metadata import statements_of
from eo_backbones.rasters.scaling import BandReading, DeclaredReading, parse_reading, resolve_reading
from support.sentinel2_product import product_xml, tile_xml, write_safe

NEW = "S2B_MSIL2A_20230710T101609_N0509_R065_T32TQM_20230710T150000"
OLD = "S2A_MSIL2A_20200813T054639_N0214_R048_T43RCP_20200813T083230"


def tif(
    path: Path,
    dtype: str = "uint16",
    *,
    scale: float | None = None,
    offset: float | None = None,
    tags: dict[str, str] | None = None,
    band_tags: dict[str, str] | None = None,
    unit: str | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", height=8, width=8, count=1, dtype=dtype, crs="EPSG:32632",
        transform=from_origin(0, 0, 10, 10),
    ) as file:  # fmt: skip
        file.write(np.full((1, 8, 8), 2, dtype))
        if scale is not None:
            file.scales = (scale,)
        if offset is not None:
            file.offsets = (offset,)
        if unit is not None:
            file.units = (unit,)
        file.update_tags(**(tags or {}))
        file.update_tags(1, **(band_tags or {}))
    return path


def read(path: Path | str, band: str = "B04", index: int = 1, **declared: Any) -> BandReading:
    options = {"units": (), "scales": (), "offsets": (), "nodata": ()} | declared
    with rasterio.open(path) as dataset:
        statements = statements_of(str(path), dataset, index, band)
        parsed = parse_reading(**options, bands=[band])
        return resolve_reading(band, dataset.dtypes[index - 1], statements, parsed, path=str(path))


def numbers(reading: BandReading) -> tuple[str, float, float]:
    return reading.unit, reading.scale, reading.offset


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_new_product_is_shifted_back(tmp_path: Path, level: str) -> None:
    safe = write_safe(tmp_path, level=level)
    band = next(safe.glob("GRANULE/*/IMG_DATA/**/*_B04*.jp2"))
    reading = read(band)
    assert numbers(reading) == ("dn", 1.0, -1000.0)
    assert (reading.nodata, reading.level, reading.known) == (0.0, level, True)
    assert reading.source == f"digital numbers - 1000 (baseline 04.00: MTD_MSI{level}.xml, product name)"


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_old_product_has_no_offset(tmp_path: Path, level: str) -> None:
    safe = write_safe(tmp_path, level=level, baseline="02.14")
    reading = read(next(safe.glob("GRANULE/*/IMG_DATA/**/*_B08*.jp2")), "B08")
    assert numbers(reading) == ("dn", 1.0, 0.0)
    assert reading.known
    assert reading.level == level


def test_each_band_has_its_own_offset(tmp_path: Path) -> None:
    offsets = {number: -1000 - number for number in range(13)}
    safe = write_safe(tmp_path, offsets=offsets, bands={20: ("B04", "B8A", "B12")})
    found = {}
    for band in ("B04", "B8A", "B12"):
        found[band] = read(next(safe.glob(f"GRANULE/*/IMG_DATA/R20m/*_{band}_20m.jp2")), band).offset
    assert found == {"B04": -1003.0, "B8A": -1008.0, "B12": -1012.0}  # ESA counts B8A as 8, B12 as 12


def test_gdal_reads_the_same_numbers_from_the_product(tmp_path: Path) -> None:
    safe = write_safe(tmp_path)
    xml = (safe / "MTD_MSIL2A.xml").read_text()
    images = "".join(
        f"<IMAGE_FILE>{path.relative_to(safe).with_suffix('')}</IMAGE_FILE>"
        for path in safe.glob("GRANULE/*/IMG*/*/*_B*")
    )
    listing = (
        '<Query_Options completeSingleTile="true"><PRODUCT_FORMAT>SAFE_COMPACT</PRODUCT_FORMAT></Query_Options>'
        '<Product_Organisation><Granule_List><Granule granuleIdentifier="S2A_OPER_MSI_L2A_TL_ATOS_20220601T141505_'
        f'A036260_T32TQM_N04.00" imageFormat="JPEG2000">{images}</Granule></Granule_List></Product_Organisation>'
        f"<PRODUCT_URI>{safe.name}</PRODUCT_URI></Product_Info>"
    )
    (safe / "MTD_MSIL2A.xml").write_text(xml.replace("</Product_Info>", listing))
    name = f"SENTINEL2_L2A:{safe}/MTD_MSIL2A.xml:10m:EPSG_32632"
    with rasterio.open(name) as dataset:
        tags, of_file = dataset.tags(1), dataset.tags()
        assert dataset.descriptions[0].startswith("B4")
        expected = float(tags["BOA_ADD_OFFSET"]) / float(of_file["BOA_QUANTIFICATION_VALUE"])
    through_gdal, direct = read(name), read(next(safe.glob("GRANULE/*/IMG_DATA/R10m/*_B04_10m.jp2")))
    assert numbers(through_gdal) == numbers(direct)
    assert direct.offset / 10_000 == expected
    assert through_gdal.level == "L2A"


def test_a_tile_alone_says_its_baseline(tmp_path: Path) -> None:
    tile = tmp_path / "L2A_T32TQM_A036260_20220601T102558"
    path = tif(tile / "IMG_DATA" / "R10m" / "T32TQM_20220601T102031_B04_10m.tif")
    (tile / "MTD_TL.xml").write_text(tile_xml("L2A", "04.00"))
    reading = read(path)
    assert (reading.offset, reading.level, reading.source) == (
        -1000.0, "L2A", "digital numbers - 1000 (baseline 04.00: MTD_TL.xml)",
    )  # fmt: skip


def test_metadata_of_another_folder_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "MTD_MSIL2A.xml").write_text(product_xml("L2A", "04.00", {3: -1000}))
    assert not read(tif(tmp_path / "mine" / "B04.tif")).known
    assert read(tif(tmp_path / "B04.tif")).offset == -1000.0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("<n1:Level-2A_User_Product", "is damaged"),
        ("", "is damaged"),
        ('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "b">]><a>&b;</a>', "declares entities"),
        (product_xml("L2A", "04.00", {3: -1000}).replace("10000", "zero"), "is damaged"),
        (product_xml("L2A", "04.00", {3: -1000}).replace("10000", "0"), "is damaged"),
        (product_xml("L2A", "04.00", {77: -1000}), "is damaged"),
    ],
)
def test_damaged_metadata_is_one_line(tmp_path: Path, content: str, problem: str) -> None:
    path = tif(tmp_path / "B04.tif")
    (tmp_path / "MTD_MSIL2A.xml").write_text(content)
    with pytest.raises(UserError, match=problem) as caught:
        read(path)
    assert "--offset -1000" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read(path, offsets=["-1000"]).offset == -1000.0


@pytest.mark.parametrize(
    ("name", "offset", "level"),
    [
        (f"{NEW}.tif", -1000.0, "L2A"),
        (f"{NEW}/B04.tif", -1000.0, "L2A"),
        (f"{OLD}/B04.tif", 0.0, "L2A"),
        ("S2C_MSIL1C_20250301T101609_N0511_R065_T32TQM_20250301T150000.SAFE/x/B04.tif", -1000.0, "L1C"),
        ("S2A_OPER_MSI_L1C_TL_SGS__20160101T120000_A002745_T32TQM_N02.01/B04.tif", 0.0, "L1C"),
        ("S2A_MSIL2A_20170613T101031_87_48_B04.tif", None, "L2A"),  # BigEarthNet: no baseline
        ("benv2_s2a_msil2a_20170613t101031_n9999_r022_t33uup_37_88.tif", None, "L2A"),
        ("plain/B04.tif", None, None),
        ("x_N0509_y.tif", None, None),
    ],
)
def test_names(tmp_path: Path, name: str, offset: float | None, level: str | None) -> None:
    reading = read(tif(tmp_path / name))
    assert (reading.offset if reading.known else None, reading.level) == (offset, level)
    assert reading.unit == "dn"


@pytest.mark.parametrize(
    ("dtype", "band", "scale", "offset", "expected"),
    [
        ("uint16", "B04", 1e-4, -0.1, ("dn", 1.0, -1000.0)),
        ("uint16", "B04", 1e-4, 0.0, ("dn", 1.0, 0.0)),
        ("uint16", "B04", 1.0, -1000.0, ("dn", 1.0, -1000.0)),
        ("uint16", "B04", 2.75e-5, -0.2, ("reflectance", 2.75e-5, -0.2)),
        ("uint8", "B04", 0.004, 0.0, ("reflectance", 0.004, 0.0)),
        ("int16", "VV", 0.01, 0.0, ("db", 0.01, 0.0)),
        ("uint8", "VV", 0.2, -40.0, ("db", 0.2, -40.0)),
        ("uint16", "VV", 1e-3, 0.0, ("linear", 1e-3, 0.0)),
    ],
)
def test_scale_and_offset_of_the_file(
    tmp_path: Path, dtype: str, band: str, scale: float, offset: float, expected: tuple[str, float, float]
) -> None:
    reading = read(tif(tmp_path / "a.tif", dtype, scale=scale, offset=offset), band)
    assert numbers(reading) == pytest.approx(expected)
    assert "GDAL scale and offset" in reading.source
    assert reading.known


@pytest.mark.parametrize(
    ("tags", "band_tags", "expected"),
    [
        ({"scale_factor": "0.0001", "add_offset": "-0.1"}, {}, -1000.0),
        ({}, {"scale_factor": "0.0001", "add_offset": "-0.1"}, -1000.0),
        ({}, {"BOA_ADD_OFFSET": "-1000"}, -1000.0),
        ({"BOA_ADD_OFFSET_B04": "-1000"}, {}, -1000.0),
        ({"RADIO_ADD_OFFSET": "-1000", "QUANTIFICATION_VALUE": "10000"}, {}, -1000.0),
        ({"PROCESSING_BASELINE": "05.10"}, {}, -1000.0),
        ({"PROCESSING_BASELINE": "02.09"}, {}, 0.0),
        ({"PRODUCT_URI": f"{NEW}.SAFE"}, {}, -1000.0),
    ],
)
def test_tags(tmp_path: Path, tags: dict[str, str], band_tags: dict[str, str], expected: float) -> None:
    assert numbers(read(tif(tmp_path / "a.tif", tags=tags, band_tags=band_tags))) == ("dn", 1.0, expected)


def item(properties: dict[str, Any], href: str, asset: dict[str, Any] | None = None) -> str:
    return json.dumps(
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": "x",
            "properties": {"platform": "sentinel-2a", **properties},
            "assets": {"red": {"href": href, **(asset or {})}, "nir": {"href": "B08.tif"}},
        }
    )


BANDS_1_0 = {"raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]}
BANDS_1_1 = {"bands": [{"name": "red", "raster:scale": 0.0001, "raster:offset": -0.1, "nodata": 0}]}


@pytest.mark.parametrize(
    ("properties", "asset", "offset"),
    [
        ({"s2:processing_baseline": "05.09"}, {}, -1000.0),
        ({"processing:version": "05.11", "product:type": "S2MSI2A"}, {}, -1000.0),
        ({"s2:processing_baseline": "02.14"}, {}, 0.0),
        ({"s2:processing_baseline": "05.09"}, BANDS_1_0, -1000.0),
        ({"s2:processing_baseline": "05.09"}, BANDS_1_1, -1000.0),
        ({}, BANDS_1_0, -1000.0),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, {}, 0.0),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False}, BANDS_1_0, -1000.0),
        ({"s2:product_uri": f"{NEW}.SAFE"}, {}, -1000.0),
    ],
)
@pytest.mark.parametrize("href", ["./B04.tif", "https://example.com/a/B04.tif?x=1"])
def test_stac_items(
    tmp_path: Path, properties: dict[str, Any], asset: dict[str, Any], offset: float, href: str
) -> None:
    path = tif(tmp_path / "B04.tif")
    (tmp_path / "item.json").write_text(item(properties, href, asset))
    reading = read(path)
    assert numbers(reading) == ("dn", 1.0, offset)
    assert "item.json" in reading.source
    assert reading.nodata == (0.0 if offset else None)


def test_item_named_as_the_file_or_in_the_folder_above(tmp_path: Path) -> None:
    path = tif(tmp_path / "scene.tif")
    (tmp_path / "scene.json").write_text(item({"s2:processing_baseline": "04.00", "processing:level": "L2A"}, "x.jp2"))
    assert (read(path).offset, read(path).level) == (-1000.0, "L2A")
    below = tif(tmp_path / "R10m" / "B04.tif")
    (tmp_path / "other.json").write_text(item({"s2:processing_baseline": "04.00"}, "R10m/B04.tif"))
    assert read(below).offset == -1000.0
    assert not read(tif(tmp_path / "unrelated.tif")).known


@pytest.mark.parametrize("content", ["{", "[]", '{"stac_version": 1, "type": "Feature", "properties": 3}', "x" * 10])
def test_other_json_files_say_nothing(tmp_path: Path, content: str) -> None:
    path = tif(tmp_path / "B04.tif")
    (tmp_path / "B04.json").write_text(content)
    assert not read(path).known


def test_a_changed_item_is_read_anew(tmp_path: Path) -> None:
    path = tif(tmp_path / "B04.tif")
    (tmp_path / "B04.json").write_text(item({"s2:processing_baseline": "04.00"}, "B04.tif"))
    assert read(path).offset == -1000.0
    (tmp_path / "B04.json").write_text(item({"s2:processing_baseline": "03.01", "changed": True}, "B04.tif"))
    assert read(path).offset == 0.0


def test_declared_nodata_is_added_to_the_products(tmp_path: Path) -> None:
    reading = read(tif(tmp_path / f"{NEW}.tif"), nodata=["65535"])
    assert set(reading.missing_values) == {0.0, 65535.0}
    assert BandReading.from_dict(reading.to_dict()) == reading


def test_landsat_surface_reflectance(tmp_path: Path) -> None:
    reading = read(tif(tmp_path / "LC08_L2SP_192023_20210724_20210730_02_T1_SR_B4.TIF"))
    assert numbers(reading) == ("reflectance", 2.75e-5, -0.2)
    assert reading.nodata == 0.0


def test_virtual_raster_speaks_for_its_sources(tmp_path: Path) -> None:
    from rasterio.shutil import copy

    source = tif(tmp_path / f"{NEW}_B04.tif")
    copy(source, tmp_path / "s.vrt", driver="VRT")
    assert read(tmp_path / "s.vrt").offset == -1000.0


CONTRADICTIONS = [
    # name of the file, scale, offset, tags, both options
    (f"{NEW}.tif", 1e-4, 0.0, {}, ("--offset 0", "--offset -1000")),
    (f"{OLD}.tif", 1e-4, -0.1, {}, ("--offset 0", "--offset -1000")),
    (f"{NEW}.tif", None, None, {"BOA_ADD_OFFSET": "0"}, ("--offset 0", "--offset -1000")),
    ("a.tif", None, None, {"PROCESSING_BASELINE": "05.10", "BOA_ADD_OFFSET": "0"}, ("--offset 0", "--offset -1000")),
    ("a.tif", None, None, {"PROCESSING_BASELINE": "04.00", "BOA_ADD_OFFSET": "1000"}, ("--offset 0", "--offset -1000")),
    (
        f"{NEW}.tif", 2.75e-5, -0.2, {},
        ("--scale 2.75e-05 --offset -0.2 --unit reflectance", "--offset -1000"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "scale", "offset", "tags", "options"), CONTRADICTIONS)
def test_contradictions_stop_and_name_both_ways(
    tmp_path: Path, name: str, scale: float, offset: float, tags: dict[str, str], options: tuple[str, str]
) -> None:
    path = tif(tmp_path / name, scale=scale, offset=offset, tags=tags)
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert all(option in message for option in options)
    assert path.name in message
    assert "\n" not in message
    assert read(path, offsets=["0"]).offset == 0.0
    assert read(path, offsets=["B04=-1000"]).offset == -1000.0


def test_item_that_contradicts_itself(tmp_path: Path) -> None:
    path = tif(tmp_path / "B04.tif")
    properties = {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}
    (tmp_path / "i.json").write_text(item(properties, "B04.tif", BANDS_1_0))
    with pytest.raises(UserError, match=r"boa_offset_applied.*raster:bands.*--offset 0, or --offset -1000"):
        read(path)


def test_declared_unit_against_the_tag(tmp_path: Path) -> None:
    landsat = tif(tmp_path / "a.tif", scale=2.75e-5, offset=-0.2)
    with pytest.raises(UserError, match=r"--unit dn.*--unit reflectance, or --unit dn --scale 1 --offset 0"):
        read(landsat, units=["dn"])
    assert numbers(read(landsat, units=["dn"], scales=[1], offsets=[0])) == ("dn", 1.0, 0.0)
    assert numbers(read(landsat, units=["reflectance"])) == ("reflectance", 2.75e-5, -0.2)
    sentinel = tif(tmp_path / "b.tif", scale=1e-4, offset=-0.1)
    assert numbers(read(sentinel, units=["dn"])) == ("dn", 1.0, -1000.0)
    assert numbers(read(sentinel, units=["reflectance"])) == ("reflectance", 1e-4, -0.1)


def test_floats_and_pictures_of_a_new_product_are_not_shifted(tmp_path: Path) -> None:
    floats = read(tif(tmp_path / f"{NEW}_b.tif", "float32"))
    assert (floats.offset, floats.known, floats.level) == (0.0, False, "L2A")
    assert "baseline 05.09" in floats.hint
    assert numbers(read(tif(tmp_path / f"{NEW}_a.tif", "uint8"))) == ("uint8", 1.0, 0.0)


@pytest.mark.parametrize("name", ["S1A_IW_GRDH_1SDV_20200607T010800_a.tif", "s1a-iw-grd-vv-20200607t010800-001.tiff"])
def test_uncalibrated_radar_is_refused(tmp_path: Path, name: str) -> None:
    path = tif(tmp_path / name)
    with pytest.raises(UserError, match="uncalibrated amplitudes; calibrate"):
        read(path, "VV")
    assert numbers(read(path, "VV", units=["linear"], scales=[0.001])) == ("linear", 0.001, 0.0)
    assert numbers(read(tif(tmp_path / "S1A_IW_GRDH_1SDV_b.tif", "float32"), "VV")) == ("db", 1.0, 0.0)
    calibrated = tif(tmp_path / "S1A_IW_GRDH_1SDV_c.tif", "int16", scale=0.01)
    assert numbers(read(calibrated, "VV")) == ("db", 0.01, 0.0)


def test_unit_of_a_radar_band(tmp_path: Path) -> None:
    assert read(tif(tmp_path / "a.tif", "float32", unit="linear"), "VV").unit == "linear"
    assert read(tif(tmp_path / "a.tif", "float32", unit="dB"), "VV").unit == "db"


def test_declared_numbers() -> None:
    declared = parse_reading(["VV=db"], ["0.01", "B04=1"], [-0.2], ["B04=0", "VV=nan"], ["B04", "VV"])
    assert declared.scales == {"B04": 1.0, "VV": 0.01}
    assert declared.offsets == {"B04": -0.2, "VV": -0.2}
    assert declared.nodata["B04"] == 0.0
    assert np.isnan(declared.nodata["VV"])
    assert declared.units == {"VV": "db"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ["B05=1"]}, "there is no band B05 here"),
        ({"scales": ["x"]}, "is no number"),
        ({"scales": ["0"]}, "makes every value the same"),
        ({"scales": ["nan"]}, "finite"),
        ({"offsets": ["1", "2"]}, "more than once for all bands"),
        ({"offsets": ["B04=1", "B04=2"]}, "more than once for band B04"),
    ],
)
def test_wrong_numbers_are_refused(options: dict[str, list[str]], message: str) -> None:
    nothing: dict[str, list[str]] = {"units": [], "scales": [], "offsets": [], "nodata": []}
    with pytest.raises(UserError, match=message):
        parse_reading(**(nothing | options), bands=["B04"])


def test_readings_survive_json() -> None:
    reading = resolve_reading("B04", "uint16", declared=DeclaredReading(scales={"B04": 2.75e-5}, offsets={"B04": -0.2}))
    assert reading.unit == "reflectance"
    assert BandReading.from_dict(json.loads(json.dumps(reading.to_dict()))) == reading
    for wrong in ({"band": "B04"}, {"band": "B04", "unit": "miles"}, {"band": "B04", "unit": "dn", "scale": None}):
        with pytest.raises(UserError):
            BandReading.from_dict(wrong)
