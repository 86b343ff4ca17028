"""The paper's own figures, to be shown as the paper's only: Table I of Jain et al., IGARSS 2021 (weighted F1).

Its split, input size and normalisation are not stated, so they are no measurement of this project and no target that
could be met exactly.
"""

from collections.abc import Mapping
from types import MappingProxyType

from eo_backbones.bands import PAPER_BANDS

# Columns: B02 B03 B04 B05 B06 B07 B08 B8A B11 B12
_TABLE = {
    "ImageNet": (0.65, 0.62, 0.56, 0.61, 0.51, 0.47, 0.41, 0.44, 0.58, 0.47),
    "SimSiam, baseline": (0.74, 0.77, 0.76, 0.70, 0.68, 0.70, 0.75, 0.50, 0.72, 0.67),
    "BYOL, baseline": (0.67, 0.77, 0.77, 0.72, 0.69, 0.69, 0.74, 0.52, 0.70, 0.68),
    "SimSiam-90K": (0.85, 0.86, 0.85, 0.80, 0.82, 0.81, 0.83, 0.59, 0.77, 0.81),
    "BYOL-90K": (0.87, 0.88, 0.86, 0.80, 0.74, 0.74, 0.79, 0.59, 0.83, 0.73),
}

PAPER_FIGURES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {model: MappingProxyType(dict(zip(PAPER_BANDS, figures, strict=True))) for model, figures in _TABLE.items()}
)
"""Column of the paper -> band -> weighted F1."""
