"""Where in a whole region does it look like this?

* :func:`build_index` makes an index of all cells of a folder of embeddings.
* :func:`search` finds the cells of an index that are nearest to a place, an area or an image.
* :class:`SearchIndex` and :func:`nearest` are the parts for a search of one's own.

Needs rasterio, and faiss (extra ``search``) for approximate search; ``import eo_backbones`` does not load this package.
"""

from eo_backbones.search.build import Indexed, build_index
from eo_backbones.search.filters import Filters
from eo_backbones.search.hits import Hit, find_hits
from eo_backbones.search.index import SearchIndex
from eo_backbones.search.nearest import nearest
from eo_backbones.search.queries import Query
from eo_backbones.search.request import Found, SearchRequest, search

__all__ = [
    "Filters",
    "Found",
    "Hit",
    "Indexed",
    "Query",
    "SearchIndex",
    "SearchRequest",
    "build_index",
    "find_hits",
    "nearest",
    "search",
]
