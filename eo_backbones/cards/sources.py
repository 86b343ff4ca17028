"""Where training images come from and under which terms: what cards and licence files say about each source.

A source is known by the name it has in a store of ``eo-train prepare`` (the name of its folder), a planned set of
sources by the field ``data.sources`` of a recipe. Counts of scenes, except in words about subsets, come from records.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTerms:
    """One source of training images.

    Attributes:
        title: how people call it.
        content: what its images are, in plain words.
        origin: where it was published.
        terms: its licence, in words.
    """

    title: str
    content: str
    origin: str
    terms: str


_SEN12MS_ORIGIN = "Schmitt, Hughes, Qiu, Zhu: SEN12MS, ISPRS Annals IV-2/W7, 2019, mediaTUM 1474000"

SOURCES: Mapping[str, SourceTerms] = MappingProxyType(
    {
        "ombria": SourceTerms(
            title="OMBRIA",
            content=(
                "places of floods, each before and after, 256 pixels of 10 m: radar VV, and B03, B08, B11. Both are "
                "8-bit display values: radar stretched for each image by its own extremes, so that absolute "
                "backscatter is lost, and optical bands without their reflectance; compressed as JPEG. Some of the "
                "images after a flood are cloudy or under water"
            ),
            origin="OMBRIA, IEEE JSTARS 2022, github.com/geodrak/OMBRIA",
            terms="its repository states no licence",
        ),
        "multiband_pairs": SourceTerms(
            title="patches of SEN12MS-CR, BigEarthNet and TerraMesh",
            content=(
                "20 patches of SEN12MS-CR (256 pixels, level 1C), 45 of BigEarthNet (120 pixels, level 2A) and 3 of "
                "TerraMesh (224 pixels, level 1C): VV and VH in decibels and all the bands used here as digital numbers"
            ),
            origin=(
                "SEN12MS-CR (Ebel et al., IEEE TGRS 2021), BigEarthNet v2 (Clasen et al., 2024), TerraMesh example "
                "files of github.com/IBM/terramind"
            ),
            terms=(
                "SEN12MS-CR: CC-BY-4.0; BigEarthNet: CDLA-Permissive-1.0; TerraMesh example files: as published with "
                "IBM/terramind"
            ),
        ),
        "multiband_pretrain": SourceTerms(
            title="patches of SEN12MS-CR, BigEarthNet and TerraMesh",
            content=(
                "13 patches of SEN12MS-CR (256 pixels, level 1C), 31 of BigEarthNet (120 pixels, level 2A) and 3 of "
                "TerraMesh (224 pixels, level 1C): VV and VH in decibels and all the bands used here as digital "
                "numbers; the other 20 patches of this collection are kept back for the protocol `retrieval`"
            ),
            origin=(
                "SEN12MS-CR (Ebel et al., IEEE TGRS 2021), BigEarthNet v2 (Clasen et al., 2024), TerraMesh example "
                "files of github.com/IBM/terramind"
            ),
            terms=(
                "SEN12MS-CR: CC-BY-4.0; BigEarthNet: CDLA-Permissive-1.0; TerraMesh example files: as published with "
                "IBM/terramind"
            ),
        ),
        "sen12_five_pretrain": SourceTerms(
            title="a sample of SEN1-2 in grey",
            content=(
                "256 pixels of 10 m of many scenes: radar VV stretched for each image by its own extremes, and a grey "
                "mix of the visible bands, which is no single band and was taken as B03, the nearest; 8-bit display "
                "values, compressed as JPEG. Of 901 images, those are left out that share ground with images that "
                "the evaluation of radar uses"
            ),
            origin="SEN1-2 (Schmitt, Hughes, Zhu, 2018), this sample from github.com/JessieZ96/SAR-to-Optical",
            terms="SEN1-2: CC-BY-4.0; the repository of the sample states no licence for the data",
        ),
        "sen12_rgb_pairs": SourceTerms(
            title="six scenes of SEN1-2 in colour",
            content=(
                "256 pixels of 10 m: VV, and B04, B03, B02, 8-bit display values, compressed as JPEG; neighbours may "
                "overlap by half"
            ),
            origin=(
                "SEN1-2 (Schmitt, Hughes, Zhu, 2018), from github.com/meivelan/SAR-EO-Translation and "
                "github.com/vivekdhankar/sar-optical"
            ),
            terms="SEN1-2: CC-BY-4.0; the repositories: MIT",
        ),
        "sen12ms_layout": SourceTerms(
            title="original patches of SEN12MS-CR",
            content="256 pixels, level 1C, VV and VH in decibels, bands as digital numbers; three of five are open sea",
            origin="SEN12MS-CR (Ebel et al., IEEE TGRS 2021)",
            terms="CC-BY-4.0",
        ),
        "dfc2020": SourceTerms(
            title="DFC2020, validation and test part",
            content="256 pixels of 10 m, level 1C, VV and VH in decibels, 13 bands as digital numbers",
            origin="IEEE GRSS Data Fusion Contest 2020, IEEE DataPort; imagery as in SEN12MS",
            terms="CC-BY-4.0",
        ),
        "sen12ms": SourceTerms(
            title="SEN12MS, half of the patches outside the official hold-out scenes",
            content="256 pixels of 10 m, level 1C, VV and VH in decibels, 13 bands as digital numbers",
            origin=_SEN12MS_ORIGIN,
            terms="CC-BY-4.0",
        ),
    }
)

_PLANNED: Mapping[str, tuple[tuple[str, int], ...]] = MappingProxyType(
    {
        "s1s2-mini": (("ombria", 1650), ("multiband_pairs", 68), ("sen12ms_layout", 5)),
        "s1s2-mini-all": (
            ("ombria", 1650),
            ("sen12_five_pretrain", 327),
            ("sen12_rgb_pairs", 189),
            ("multiband_pretrain", 47),
            ("sen12ms_layout", 5),
        ),
        "dfc2020": (("dfc2020", 6114),),
        "sen12ms-90k": (("sen12ms", 90_331),),
    }
)


def planned_sources(sources: str) -> list[tuple[str, int]]:
    """Return name and number of scenes of what a recipe asks for in ``data.sources``."""
    return list(_PLANNED[sources])
