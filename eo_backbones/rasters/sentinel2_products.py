"""What a Sentinel-2 product says about its bands: its metadata file, the metadata of its tile, and its name.

Digital numbers become reflectance by ``(DN + ADD_OFFSET) / QUANTIFICATION_VALUE``. The offset is -1000 from processing
baseline 04.00 (25 January 2022) on, also in what was reprocessed later (baselines 05.xx), and absent before: ESA,
Sentinel-2 Products Specification Document, version 14.9 and later, and SentiWiki, "S2 Products". Baseline 99.99 marks
reprocessed or test products, of which the number says nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree as ET

from eo_backbones.bands import S2_BANDS, band_named_in
from eo_backbones.contract import DN_PER_REFLECTANCE
from eo_backbones.rasters.side_files import names_in, read_once
from eo_backbones.rasters.statements import Statement

FIRST_BASELINE_WITH_OFFSET = 4.0
BASELINE_OFFSET_DN = -1000.0
_UNKNOWN_BASELINE = 99.0

_PRODUCT_NAME = re.compile(r"S2[A-D]_MSIL(1C|2A)_\d{8}T\d{5,6}(?:_N(\d{2})(\d{2})(?=_|\.|$))?", re.IGNORECASE)
# Products before December 2016, and their granules: S2A_OPER_MSI_L1C_TL_SGS__20160101T..._A002745_T32TQM_N02.01
_OLD_NAME = re.compile(r"S2[A-D]_(?:OPER|USER)_\w+?L(1C|2A)_\w+?_N(\d{2})\.(\d{2})", re.IGNORECASE)
_LEVEL_IN_NAME = re.compile(r"S2[A-D]_(?:OPER|USER)_(?:MSI_|PRD_MSI)?L(1C|2A)_", re.IGNORECASE)
_TILE_FOLDER = re.compile(r"L(1C|2A)_T\d{2}[A-Z]{3}_A\d{6}_", re.IGNORECASE)

# Folders between a band and the metadata of its product; other folders end the way up.
_INSIDE_PRODUCT = re.compile(
    r"R[126]0m|IMG_DATA|QI_DATA|GRANULE|L(1C|2A)_T\w+|S2[A-D]_(OPER|USER)_\w+(_N\d{2}\.\d{2})?", re.IGNORECASE
)
_PRODUCT_METADATA = re.compile(r"MTD_MSIL(1C|2A)\.xml|S2[A-D]_(OPER|USER)_MTD_SAFL(1C|2A)_\w+\.xml", re.IGNORECASE)
_TILE_METADATA = re.compile(r"MTD_TL\.xml|S2[A-D]_(OPER|USER)_MTD_L(1C|2A)_TL_\w+\.xml", re.IGNORECASE)
_MOST_BYTES = 64 << 20  # real ones have 30 kB to 2 MB


@dataclass(frozen=True, slots=True)
class _ProductFacts:
    """What a metadata file says; ``None`` where it says nothing."""

    level: str | None = None
    baseline: float | None = None
    quantification: float | None = None
    offsets: Mapping[str, float] = field(default_factory=dict)
    nodata: float | None = None
    clouds: float | None = None
    problem: str | None = None


def baseline_text(baseline: float) -> str:
    """Return a processing baseline as products write it: ``4.0`` is ``"04.00"``."""
    return f"{baseline:05.2f}"


def parse_baseline(text: object) -> float | None:
    """Return the number of a processing baseline (``"04.00"``, ``"N0510"``), ``None`` where it says nothing."""
    match = re.fullmatch(r"N?(\d{1,2})[.]?(\d{2})?", str(text).strip())
    if match is None:
        return None
    number = float(f"{match[1]}.{match[2] or '0'}")
    return number if number < _UNKNOWN_BASELINE else None


def by_baseline(baseline: float, source: str, level: str | None = None) -> Statement:
    """Return what a processing baseline means for the digital numbers of any band."""
    shifted = baseline >= FIRST_BASELINE_WITH_OFFSET
    return Statement(
        source=source,
        of_product=True,
        nominal=True,
        scale=1 / DN_PER_REFLECTANCE,
        offset=BASELINE_OFFSET_DN / DN_PER_REFLECTANCE if shifted else 0.0,
        nodata=0.0 if shifted else None,  # stored values begin at 1 since then; before, 0 may be a dark pixel
        level=level,
        baseline=baseline_text(baseline),
    )


def parse_level(text: object) -> str | None:
    """Return ``"L1C"`` or ``"L2A"`` from ``Level-2A``, ``L2A``, ``S2MSI2A``, ``S2MSIL1C``..."""
    match = re.search(r"(1C|2A)", str(text), re.IGNORECASE)
    return None if match is None else f"L{match[1].upper()}"


@lru_cache(maxsize=1024)  # asked for each band of a file
def name_statement(path: str, source: str = "product name") -> Statement | None:
    """Return what the nearest product name in a path says, from the file name upwards."""
    level: str | None = None
    for part in reversed(PurePosixPath(path.replace("\\", "/")).parts):
        for pattern in (_PRODUCT_NAME, _OLD_NAME):
            match = pattern.search(part)
            if match is not None and match[2]:
                baseline = parse_baseline(f"{match[2]}.{match[3]}")
                said = f"L{match[1].upper()}"
                if baseline is None:
                    return Statement(source=source, of_product=True, level=said)
                return by_baseline(baseline, source, said)
            if match is not None:
                level = level or f"L{match[1].upper()}"
        inner = _LEVEL_IN_NAME.search(part) or _TILE_FOLDER.match(part)
        if inner is not None:
            level = level or f"L{inner[1].upper()}"
    return None if level is None else Statement(source=source, of_product=True, level=level)


def xml_statements(path: Path, band: str) -> list[Statement]:
    """Return what the metadata files of the product that a file lies in say about a band.

    Args:
        path: absolute, on this machine.
        band: canonical name.
    """
    of_tile: list[Path] = []
    for folder in path.parents:
        names = names_in(folder, (".xml",))
        of_product = [folder / name for name in names if _PRODUCT_METADATA.fullmatch(name)]
        if of_product:
            return [said for found in of_product for said in _statements_in(found, band)]
        of_tile += [folder / name for name in names if _TILE_METADATA.fullmatch(name)]
        if not _INSIDE_PRODUCT.fullmatch(folder.name):
            break
    return [said for found in of_tile for said in _statements_in(found, band)]


def product_clouds(folder: Path) -> float | None:
    """Return the percentage of clouds that the metadata of a product state, ``None`` where they do not.

    Args:
        folder: of the product, or one in it; absolute.
    """
    for place in (folder, *folder.parents):
        for name in names_in(place, (".xml",)):
            if _PRODUCT_METADATA.fullmatch(name):
                facts = read_once(place / name, _read)
                return None if facts is None else facts.clouds
        if not _INSIDE_PRODUCT.fullmatch(place.name):
            return None
    return None


def _statements_in(path: Path, band: str) -> list[Statement]:
    facts = read_once(path, _read)
    if facts is None or facts == _ProductFacts():
        return []
    if facts.problem is not None:
        return [Statement(source=path.name, of_product=True, refusal=f"{path} {facts.problem}")]
    offset = facts.offsets.get(band)
    nominal = offset is None
    scale = None if facts.quantification is None else 1 / facts.quantification
    if offset is not None:
        scale = scale or 1 / DN_PER_REFLECTANCE
        offset *= scale
    elif facts.baseline is not None:
        by_number = by_baseline(facts.baseline, path.name)
        scale, offset = scale or by_number.scale, by_number.offset
    return [
        Statement(
            source=path.name,
            of_product=True,
            nominal=nominal,
            scale=scale,
            offset=offset,
            nodata=facts.nodata,
            level=facts.level,
            baseline=None if facts.baseline is None else baseline_text(facts.baseline),
        )
    ]


def _read(path: Path) -> _ProductFacts:
    """Read a metadata file of a product or tile, whatever the version of its schema."""
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            return _ProductFacts(problem=f"has {size >> 20} MiB, too many for the metadata of a product")
        content = path.read_bytes()
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # entities can expand without end
            return _ProductFacts(problem="declares entities, which the metadata of a product does not")
        return _facts(ET.fromstring(content))
    except OSError as error:
        return _ProductFacts(problem=f"cannot be read ({error.strerror})")
    except (ET.ParseError, LookupError, ValueError) as error:
        return _ProductFacts(problem=f"is damaged ({str(error).splitlines()[0]})")


def _facts(root: ET.Element) -> _ProductFacts:
    """Return what a document says: elements by local name, since each version of the schema has its own namespace."""
    elements: dict[str, list[ET.Element]] = {}
    for element in root.iter():
        if isinstance(element.tag, str):
            elements.setdefault(element.tag.rpartition("}")[2], []).append(element)

    def texts(*tags: str) -> list[str]:
        return [(element.text or "").strip() for tag in tags for element in elements.get(tag, [])]

    named = next((found for text in texts("TILE_ID") if (found := name_statement(text)) is not None), None)
    levels = [parse_level(text) for text in texts("PROCESSING_LEVEL", "PRODUCT_TYPE")]
    baselines = [parse_baseline(text) for text in texts("PROCESSING_BASELINE")]
    if named is not None:
        levels.append(named.level)
        baselines.append(None if named.baseline is None else parse_baseline(named.baseline))
    # L2A has one for the surface and others for aerosol and water vapour, L1C has only QUANTIFICATION_VALUE
    tags = ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE")
    quantification = next((float(text) for text in texts(*tags)), None)
    if quantification is not None and not quantification > 0:
        raise ValueError(f"quantification value {quantification:g}")
    bands = dict(enumerate(S2_BANDS))
    for element in elements.get("Spectral_Information", []):
        name = band_named_in(element.attrib.get("physicalBand"))
        if name is not None:
            bands[int(element.attrib["bandId"])] = name
    offsets = {
        bands[int(element.attrib["band_id"])]: float(element.text or "")
        for tag in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET")
        for element in elements.get(tag, [])
    }
    special = dict(zip(texts("SPECIAL_VALUE_TEXT"), texts("SPECIAL_VALUE_INDEX"), strict=False))
    return _ProductFacts(
        level=next(filter(None, levels), None),
        baseline=next(filter(None, baselines), None),
        quantification=quantification,
        offsets=offsets,
        nodata=float(special["NODATA"]) if "NODATA" in special else None,
        clouds=next(
            (float(text) for text in texts("Cloud_Coverage_Assessment") if re.fullmatch(r"\d+(\.\d+)?", text)), None
        ),
    )
