"""Embeddings of many scenes: a folder that holds one embedding for each of them, made with the same settings.

* :func:`find_scenes` says which scenes are meant by files, folders, lists, STAC items and catalogues.
* :func:`fit_region_budget` chooses components and number format by the size that all may take.
* :func:`embed_region` writes such a folder, on one process, several, or the workers of a Dask scheduler.
* :func:`open_region` reads one.
* :func:`write_catalog` describes one as a STAC catalogue.

Needs rasterio; ``import eo_backbones`` does not load this package.
"""

from eo_backbones.regions.budget import fit_region_budget
from eo_backbones.regions.catalog import write_catalog
from eo_backbones.regions.folder import EmbeddedRegion, EmbeddedScene, open_region
from eo_backbones.regions.request import RegionRequest
from eo_backbones.regions.run import RegionSummary, embed_region
from eo_backbones.regions.sources import SceneSource, find_scenes

__all__ = [
    "EmbeddedRegion",
    "EmbeddedScene",
    "RegionRequest",
    "RegionSummary",
    "SceneSource",
    "embed_region",
    "find_scenes",
    "fit_region_budget",
    "open_region",
    "write_catalog",
]
