"""Embeddings of whole rasters: windows of a scene through an encoder, on a regular grid.

* :func:`embed_scene` turns a scene into a file of embeddings, one cell per window.
* :func:`fit_budget` chooses components and number format by the size that the file may take.
* :func:`find_similar` maps how similar every cell is to one of them.

Needs rasterio; ``import eo_backbones`` does not load this package.
"""

from eo_backbones.scenes.budget import Choice, fit_budget
from eo_backbones.scenes.embed import Embedded, embed_scene
from eo_backbones.scenes.request import EmbedRequest
from eo_backbones.scenes.similar import Similar, find_similar

__all__ = ["Choice", "EmbedRequest", "Embedded", "Similar", "embed_scene", "find_similar", "fit_budget"]
