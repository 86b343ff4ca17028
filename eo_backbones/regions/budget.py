"""Which components and number format all scenes of a region can afford together."""

from collections.abc import Sequence
from dataclasses import replace

from eo_backbones.errors import UserError
from eo_backbones.regions.request import RegionRequest
from eo_backbones.regions.sources import SceneSource, find_scenes
from eo_backbones.scenes.budget import Choice, choose
from eo_backbones.scenes.embed import scene_grid
from eo_backbones.scenes.request import load_network
from eo_backbones.scenes.scene import Scene


def fit_region_budget(
    request: RegionRequest, megabytes: float, sources: Sequence[SceneSource] | None = None
) -> tuple[RegionRequest, Choice]:
    """Return a request whose components and dtype fit a budget, and what was chosen.

    Args:
        request: what to embed.
        megabytes: that the embeddings of all scenes may take together, 10^6 bytes each. Scenes that cannot be read do
            not count.
        sources: of :func:`eo_backbones.regions.find_scenes`; default: they are looked for.

    Raises:
        UserError: nothing fits, no scenes are found, or the model cannot be loaded.
    """
    file_format, _ = request.checked()
    network, _, _ = load_network(request.model, request.band_names, request.fuse)
    cells = 0
    for source in find_scenes(request.scenes, request.bands) if sources is None else sources:
        try:
            if source.problem is None:
                with Scene(source.bands(), request.reading.for_bands(list(request.band_names))) as scene:
                    grid = scene_grid(scene, size=request.size, stride=request.stride)
                cells += grid.rows * grid.cols
        except UserError:
            continue  # the run itself lists it, with its reason
    choice = choose(cells, network.num_features, megabytes, file_format)
    return replace(request, components=choice.components, dtype=choice.dtype), choice
