"""Sentinel-2 products under their true folder and file names, with metadata in the schema of either level."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

IDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
FOLDERS = {10: ("B02", "B03", "B04", "B08"), 20: ("B02", "B03", "B04", "B05", "B06", "B8A", "B11", "B12")}
PIXELS = 128  # of 10 m

_NAMESPACES = {
    ("L2A", False): "https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd",
    ("L2A", True): "https://psd-12.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd",
    ("L1C", False): "https://psd-15.sentinel2.eo.esa.int/PSD/User_Product_Level-1C.xsd",
    ("L1C", True): "https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-1C.xsd",
}


def product_xml(
    level: str, baseline: str, offsets: Mapping[int, int] | None = None, quantification: int = 10000
) -> str:
    """The product metadata; ``offsets`` by ESA's number of the band, none for baselines before 04.00."""
    root = "Level-2A_User_Product" if level == "L2A" else "Level-1C_User_Product"
    if level == "L2A":
        values = (
            "<QUANTIFICATION_VALUES_LIST>"
            f'<BOA_QUANTIFICATION_VALUE unit="none">{quantification}</BOA_QUANTIFICATION_VALUE>'
            '<AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>'
        )
        kind, group = "BOA_ADD_OFFSET", "BOA_ADD_OFFSET_VALUES_LIST"
    else:
        values = f'<QUANTIFICATION_VALUE unit="none">{quantification}</QUANTIFICATION_VALUE>'
        kind, group = "RADIO_ADD_OFFSET", "Radiometric_Offset_List"
    listed = "".join(f'<{kind} band_id="{number}">{value}</{kind}>' for number, value in (offsets or {}).items())
    bands = "".join(
        f'<Spectral_Information bandId="{number}" physicalBand="{name}"><RESOLUTION>10</RESOLUTION>'
        "</Spectral_Information>"
        for number, name in enumerate(IDS)
    )
    special = "".join(
        f"<Special_Values><SPECIAL_VALUE_TEXT>{text}</SPECIAL_VALUE_TEXT>"
        f"<SPECIAL_VALUE_INDEX>{value}</SPECIAL_VALUE_INDEX></Special_Values>"
        for text, value in (("NODATA", 0), ("SATURATED", 65535))
    )
    return (
        '<?xml version="1.0" encoding="UTF-8" standalone="no"?>'
        f'<n1:{root} xmlns:n1="{_NAMESPACES[level, not offsets]}"><n1:General_Info>'
        f"<Product_Info><PROCESSING_LEVEL>Level-{level[1:]}</PROCESSING_LEVEL>"
        f"<PRODUCT_TYPE>S2MSI{level[1:]}</PRODUCT_TYPE><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>"
        "</Product_Info><Product_Image_Characteristics>"
        f"{special}{values}{f'<{group}>{listed}</{group}>' if listed else ''}"
        f"<Spectral_Information_List>{bands}</Spectral_Information_List>"
        f"</Product_Image_Characteristics></n1:General_Info></n1:{root}>"
    )


def tile_xml(level: str, baseline: str) -> str:
    """The metadata of the tile, as far as GDAL needs it."""
    root = f"Level-{level[1:]}_Tile_ID"
    sizes = "".join(
        f'<Size resolution="{metres}"><NROWS>{PIXELS * 10 // metres}</NROWS>'
        f"<NCOLS>{PIXELS * 10 // metres}</NCOLS></Size>"
        f'<Geoposition resolution="{metres}"><ULX>600000</ULX><ULY>5000000</ULY><XDIM>{metres}</XDIM>'
        f"<YDIM>-{metres}</YDIM></Geoposition>"
        for metres in (10, 20, 60)
    )
    return (
        f'<?xml version="1.0"?><n1:{root} xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI.xsd">'
        f"<n1:General_Info><TILE_ID>S2A_OPER_MSI_{level}_TL_ATOS_20220601T141505_A036260_T32TQM_N{baseline}</TILE_ID>"
        "</n1:General_Info><n1:Geometric_Info><Tile_Geocoding>"
        "<HORIZONTAL_CS_NAME>WGS84 / UTM zone 32N</HORIZONTAL_CS_NAME>"
        f"<HORIZONTAL_CS_CODE>EPSG:32632</HORIZONTAL_CS_CODE>{sizes}</Tile_Geocoding></n1:Geometric_Info></n1:{root}>"
    )


def write_jp2(path: Path, values: np.ndarray, metres: int = 10) -> None:
    """One band, without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values.shape
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", height=height, width=width, count=1, dtype=values.dtype, crs="EPSG:32632",
        transform=from_origin(600_000, 5_000_000, metres, metres), QUALITY=100, REVERSIBLE="YES",
    ) as file:  # fmt: skip
        file.write(values[None])


def band_values(band: str, pixels: int = PIXELS) -> np.ndarray:
    """Digital numbers of baseline 04.00 over land and some water, the same at every call."""
    rng = np.random.default_rng(list(band.encode()))
    values = rng.integers(1100, 4000, (pixels, pixels)).astype(np.uint16)
    values[: pixels // 8] = rng.integers(1010, 1100, (pixels // 8, pixels))
    return values


def write_safe(
    folder: Path,
    *,
    level: str = "L2A",
    baseline: str = "04.00",
    offsets: Mapping[int, int] | None = None,
    bands: Mapping[int, Sequence[str]] | None = None,
    name_baseline: str | None = None,
) -> Path:
    """A product with its bands, metadata, and what lies beside the bands: true colour, classes, aerosol, a preview.

    Args:
        folder: where to write the ``.SAFE`` folder.
        level: ``"L2A"`` (folders by resolution) or ``"L1C"`` (all bands in one folder).
        baseline: in the metadata.
        offsets: in the metadata; default: -1000 for all bands from baseline 04.00 on.
        bands: metres -> bands, for level 2A; those of level 1C are at 10 and 20 m.
        name_baseline: in the name, where it is to differ.

    Returns:
        The ``.SAFE`` folder.
    """
    number = (name_baseline or baseline).replace(".", "")
    safe = folder / f"S2A_MSI{level}_20220601T102031_N{number}_R065_T32TQM_20220601T141505.SAFE"
    tile = safe / "GRANULE" / f"{level}_T32TQM_A036260_20220601T102558"
    if offsets is None and float(baseline) >= 4:
        offsets = dict.fromkeys(range(13), -1000)
    stem = "T32TQM_20220601T102031"
    for metres, names in (bands or FOLDERS).items():
        pixels = PIXELS * 10 // metres
        place = tile / "IMG_DATA" / (f"R{metres}m" if level == "L2A" else "")
        end = f"_{metres}m.jp2" if level == "L2A" else ".jp2"
        for band in names:
            path = place / f"{stem}_{band}{end}"
            if not path.exists():
                write_jp2(path, band_values(band, pixels), metres)
        if level == "L2A":
            for extra in ("AOT", "WVP", *(("SCL",) if metres == 20 else ())):
                write_jp2(place / f"{stem}_{extra}{end}", np.full((pixels, pixels), 4, np.uint8), metres)
        write_jp2(place / f"{stem}_TCI{end}", np.full((pixels, pixels), 99, np.uint8), metres)
    write_jp2(tile / "QI_DATA" / "MSK_CLDPRB_20m.jp2", np.zeros((64, 64), np.uint8), 20)
    write_jp2(tile / "QI_DATA" / f"{stem}_PVI.jp2", np.zeros((64, 64), np.uint8), 320)
    (tile / "MTD_TL.xml").write_text(tile_xml(level, baseline))
    (safe / f"MTD_MSI{level}.xml").write_text(product_xml(level, baseline, offsets))
    (safe / "manifest.safe").write_text("<xfdu/>")
    return safe
