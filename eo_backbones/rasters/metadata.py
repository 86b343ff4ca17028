"""What a product says about its own values: scale, offset, nodata, processing level; each with its source in words.

Read are GDAL's scale and offset, tags of the file and the band, metadata files and names of Sentinel-2 products, STAC
items, and names of Sentinel-1 and Landsat products. Of a virtual raster (``.vrt``), the files it is made of.
:mod:`eo_backbones.rasters.scaling` decides what follows.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from eo_backbones.bands import BANDS
from eo_backbones.contract import DN_PER_REFLECTANCE
from eo_backbones.rasters.sentinel2_products import (
    by_baseline,
    name_statement,
    parse_baseline,
    parse_level,
    xml_statements,
)
from eo_backbones.rasters.stac_items import stac_statements
from eo_backbones.rasters.statements import Statement

_GRD_NAME = re.compile(r"S1[A-D]_(IW|EW|S\d|WV)_(GRD|SLC)|s1[a-d]-(iw|ew|s\d|wv)\d?-(grd|slc)-", re.IGNORECASE)
# USGS, Landsat 4-9 Collection 2 Level 2 Science Product Guides: surface reflectance = DN x 2.75e-5 - 0.2, 0 is fill.
_LANDSAT_SR_NAME = re.compile(r"L[COTEM]0[4-9]_L2S[PR]_\d{6}_\d{8}_\d{8}_02_\w\w_SR_B\d+", re.IGNORECASE)
_LANDSAT_SR = (2.75e-5, -0.2)

# Tags in lower case, as GDAL's SENTINEL2 driver, netCDF and CF tools (xarray, rioxarray) and others write them.
_QUANTIFICATIONS = ("boa_quantification_value", "l2a_boa_quantification_value", "quantification_value")
_OFFSETS = ("boa_add_offset", "radio_add_offset")
_SCALE_TAGS = (("scale_factor", "add_offset"), ("scale", "offset"))
_MOST_VRT_BYTES = 16 << 20


def statements_of(
    path: str, dataset: Any, index: int, band: str, further: Iterable[Statement] = ()
) -> tuple[Statement, ...]:
    """Return what is said about one band of an open file.

    Args:
        path: as the user typed it; anything that GDAL opens.
        dataset: the open rasterio dataset.
        index: 1-based index of the band in it.
        band: its canonical name.
        further: what is said elsewhere than in and beside the file; what is also found beside it counts once.
    """
    said = [*_gdal_statements(dataset, index), *_tag_statements(dataset, index, band)]
    dtype = dataset.dtypes[index - 1]
    local = (
        path if "://" in path or path.startswith("/vsi") or Path(path).is_file() else next(iter(dataset.files), path)
    )
    if not Path(local).is_file():
        said += _name_statements(path, band, dtype)
    elif local.lower().endswith(".vrt"):
        for source in _sources_of_vrt(Path(local), index):
            said += _file_statements(source, 1, band, dtype)
    else:
        said += _file_statements(Path(local), index, band, dtype)
    return tuple(dict.fromkeys([*said, *further]))


def _file_statements(path: Path, index: int, band: str, dtype: str) -> Iterator[Statement]:
    """Yield what surrounds a file on this machine says: metadata files, STAC items, and its name."""
    absolute = path.absolute()
    places = dict.fromkeys((absolute, path.resolve()) if path.is_symlink() else (absolute,))
    for place in places:
        if BANDS[band].sensor == "s2":
            yield from xml_statements(place, band)
        yield from stac_statements(place, index)
        yield from _name_statements(str(place), band, dtype)


def _name_statements(path: str, band: str, dtype: str) -> Iterator[Statement]:
    name = Path(path).name
    if BANDS[band].sensor == "s2":
        if _LANDSAT_SR_NAME.match(name) and dtype == "uint16":
            scale, offset = _LANDSAT_SR
            yield Statement(source="product name", of_product=True, scale=scale, offset=offset, nodata=0.0)
        elif (named := name_statement(path)) is not None:
            yield named
    elif dtype == "uint16" and (product := _GRD_NAME.search(path)) is not None:
        kind = (product[2] or product[4]).upper()
        yield Statement(
            source="product name",
            of_product=True,
            refusal=(
                f"{name} belongs to a Sentinel-1 {kind} product, whose {dtype} values are uncalibrated amplitudes; "
                "calibrate it to sigma nought first (SNAP, or a product with radiometric terrain correction)"
            ),
        )


def _gdal_statements(dataset: Any, index: int) -> Iterator[Statement]:
    scale, offset = float(dataset.scales[index - 1]), float(dataset.offsets[index - 1])
    unit = _unit(dataset.units[index - 1])
    if (scale, offset) != (1.0, 0.0):
        yield Statement(source="GDAL scale and offset", scale=scale, offset=offset, unit=unit)
    elif unit is not None:
        yield Statement(source="the band's unit", unit=unit)


def _unit(text: str | None) -> str | None:
    """Return our name of a unit in a file, ``None`` for others and for ``1``, which says nothing."""
    known = {
        "db": ("db", "decibel", "decibels"),
        "linear": ("linear", "power", "natural"),
        "reflectance": ("reflectance",),
        "dn": ("dn", "digital number", "digital numbers"),
    }
    typed = (text or "").strip().lower()
    return next((unit for unit, spellings in known.items() if typed in spellings), None)


def _tag_statements(dataset: Any, index: int, band: str) -> Iterator[Statement]:
    of_file = {key.lower(): value for key, value in dataset.tags().items()}
    of_band = {key.lower(): value for key, value in dataset.tags(index).items()}
    tags = of_file | of_band
    for scale_key, offset_key in _SCALE_TAGS:
        holder = of_band if scale_key in of_band or offset_key in of_band else of_file
        scale, offset = _number(holder, scale_key), _number(holder, offset_key)
        if scale is not None or (offset is not None and scale_key == "scale_factor"):
            yield Statement(
                source=f"tags {scale_key} and {offset_key}" if offset is not None else f"tag {scale_key}",
                scale=1.0 if scale is None else scale,
                offset=offset,
            )
    if BANDS[band].sensor == "s2":
        yield from _sentinel2_tags(tags, band)


def _sentinel2_tags(tags: Mapping[str, str], band: str) -> Iterator[Statement]:
    level = next(
        (known for key in ("processing_level", "product_type") if (known := _sentinel2_level(tags.get(key)))), None
    )
    quantification = next((said for key in _QUANTIFICATIONS if (said := _number(tags, key))), DN_PER_REFLECTANCE)
    nodata = _number(tags, "special_value_nodata")
    for key in _OFFSETS:
        offset = _number(tags, f"{key}_{band.lower()}")
        offset = _number(tags, key) if offset is None else offset
        if offset is None:
            continue
        refusal = None
        if offset > 0:
            refusal = f"the tag {key.upper()} is {offset:g}, although the offset of Sentinel-2 is negative"
        yield Statement(
            source=f"tag {key.upper()}",
            of_product=True,
            scale=1 / quantification,
            offset=offset / quantification,
            nodata=nodata,
            level=level,
            refusal=refusal,
        )
    baseline = parse_baseline(tags.get("processing_baseline", ""))
    if baseline is not None:
        yield by_baseline(baseline, "tag PROCESSING_BASELINE", level)
    elif level is not None:
        yield Statement(source="tag PROCESSING_LEVEL", of_product=True, level=level)
    named = name_statement(tags.get("product_uri", ""), "tag PRODUCT_URI")
    if named is not None:
        yield named


def _sentinel2_level(text: str | None) -> str | None:
    """Return the level if a tag names one of Sentinel-2: ``Level-2A``, ``S2MSI2A``, ``L1C``."""
    return parse_level(text) if text and re.fullmatch(r"(Level-|L|S2MSI)(1C|2A)p?", text, re.IGNORECASE) else None


def _number(tags: Mapping[str, str], key: str) -> float | None:
    try:
        number = float(tags[key])
    except (KeyError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _sources_of_vrt(path: Path, index: int) -> list[Path]:
    """Return the files that a band of a virtual raster shows unchanged: none where it computes new values."""
    try:
        if path.stat().st_size > _MOST_VRT_BYTES:
            return []
        root = ET.parse(path).getroot()
    except (OSError, ET.ParseError):
        return []
    bands = [element for element in root.iter("VRTRasterBand") if element.get("band", "1") == str(index)]
    if any(band.find(f".//{tag}") is not None for band in bands for tag in ("ScaleRatio", "LUT", "PixelFunctionType")):
        return []
    names = [name for band in bands for name in band.iter("SourceFilename")] or list(root.iter("SourceDataset"))
    files = [
        path.parent / (name.text or "") if name.get("relativeToVRT") == "1" else Path(name.text or "") for name in names
    ]
    return [file for file in dict.fromkeys(files) if file.is_file()]
