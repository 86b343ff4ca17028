"""The section of a card that says which values the model takes, band by band."""

from eo_backbones.contract import BandInput, InputSpec
from eo_backbones.result_tables import markdown_table


def input_section(contract: InputSpec, *, together: bool = False) -> str:
    """Describe clip, normalisation and display range; figures in the unit of each band.

    Args:
        contract: of the model.
        together: whether the model takes all bands at once, instead of any one of them.
    """
    channels = "One channel"
    if together and len(contract.bands) > 1:
        channels = f"{len(contract.bands)} channels, the bands in the order of the table"
    how = (
        "Values are clipped, then the model sees `(value - mean) / std`."
        if contract.normalization == "band"
        else "Values are clipped, then each image is standardised by its own mean and deviation."
    )
    by_band = contract.normalization == "band"
    header = ["band", "wavelength", "GSD", "unit", "clip", *(["mean", "std"] if by_band else []), "8-bit 0 … 255 means"]
    rows = [
        [
            entry.band,
            _wavelength(entry),
            f"{entry.gsd_m} m",
            "dB" if entry.unit == "db" else entry.unit,
            _range(entry.clip),
            *([f"{entry.mean:g}", f"{entry.std:g}"] if by_band else []),
            _range(entry.display),
        ]
        for entry in contract.bands
    ]
    return "\n".join(
        [
            "## Input",
            "",
            f"{channels}, float32, any height and width. {how} Reflectance is the digital number divided by 10,000 "
            "(add -1,000 first for Sentinel-2 products of processing baseline 04.00 and later); dB is "
            "10 log10 of the backscatter. Missing values become the low end of the clip range.",
            "",
            markdown_table(header, rows),
            "",
            "GSD is the ground sampling distance of the sensor.",
        ]
    )


def _wavelength(entry: BandInput) -> str:
    nm = entry.wavelength_nm
    return f"{nm / 1e7:.1f} cm" if nm > 1e7 else f"{nm:g} nm"


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} … {bounds[1]:g}"
