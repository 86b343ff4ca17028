"""One source's word about the stored values of a band."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one source says about the stored values of one band; ``None`` where it says nothing.

    Attributes:
        source: in words, such as ``"MTD_MSIL2A.xml"`` or ``"GDAL scale and offset"``.
        of_product: it describes the integers of the product that the file is or comes from; a file of other numbers
            made from it (reflectance as floats, 8-bit pictures) is not what it speaks of.
        nominal: scale and offset are those of the baseline in general, not those that the metadata list for the band.
        scale: ``value = stored * scale + offset``, in reflectance (Sentinel-2) or in ``unit`` (Sentinel-1).
        offset: see ``scale``.
        offset_removed: whether the provider says that the offset of baseline 04.00 was already removed.
        unit: of the values, where it is said.
        nodata: stored value that means "missing".
        level: ``"L1C"`` or ``"L2A"``.
        baseline: processing baseline of a Sentinel-2 product, such as ``"04.00"``.
        refusal: why values of this product cannot be used as they are.
    """

    source: str
    of_product: bool = False
    nominal: bool = False
    scale: float | None = None
    offset: float | None = None
    offset_removed: bool | None = None
    unit: str | None = None
    nodata: float | None = None
    level: str | None = None
    baseline: str | None = None
    refusal: str | None = None
