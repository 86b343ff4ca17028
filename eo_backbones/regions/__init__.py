"""Embeddings of many scenes: a folder that holds one embedding for each of them, made with the same settings.

* :func:`open_region` reads such a folder, scene by scene, and refuses scenes that cannot be compared.

Needs rasterio; ``import eo_backbones`` does not load this package.
"""

from eo_backbones.regions.folder import EmbeddedRegion, EmbeddedScene, open_region

__all__ = ["EmbeddedRegion", "EmbeddedScene", "open_region"]
