"""Embeddings of many scenes: a folder that holds one embedding for each of them, made with the same settings.

* :func:`embed_region` writes such a folder, on one process, several, or the workers of a Dask scheduler.
* :func:`open_region` reads one.

Needs rasterio; ``import eo_backbones`` does not load this package.
"""

from eo_backbones.regions.folder import EmbeddedRegion, EmbeddedScene, open_region
from eo_backbones.regions.request import RegionRequest
from eo_backbones.regions.run import RegionSummary, embed_region

__all__ = ["EmbeddedRegion", "EmbeddedScene", "RegionRequest", "RegionSummary", "embed_region", "open_region"]
