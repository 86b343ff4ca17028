"""Maps from a few labelled points: a class for every cell of a region, and how sure it is.

Needs rasterio; ``import eo_backbones`` does not load this package.
"""

from eo_backbones.mapping.request import MapRequest
from eo_backbones.mapping.run import Mapped, map_region

__all__ = ["MapRequest", "Mapped", "map_region"]
