"""Pretrained encoders for satellite images that take one band of any sensor.

>>> import eo_backbones
>>> model = eo_backbones.create_model("eo_efficientnet_lite0.distill_s1s2_mini").eval()
>>> prepare = eo_backbones.create_transform(model, band="B04", unit="dn")
>>> features = model(prepare(red).unsqueeze(0))  # red: (1, H, W) digital numbers -> (1, 1280)

Importing registers the names of the declared weights in timm, and does nothing else.
"""

from typing import TYPE_CHECKING, Any

from eo_backbones import temporary as _temporary  # noqa: F401  before torchvision is imported
from eo_backbones import timm_bridge as _timm_bridge  # noqa: F401  registers our names
from eo_backbones.contract import InputSpec
from eo_backbones.errors import UserError
from eo_backbones.models import create_model, create_transform
from eo_backbones.networks.multi_band import MultiBand
from eo_backbones.weights import get_weights, list_models

if TYPE_CHECKING:
    from eo_backbones.scenes.arrays import embed

__version__ = "0.1.0"
"""Version of this package."""

__all__ = [
    "InputSpec",
    "MultiBand",
    "UserError",
    "__version__",
    "create_model",
    "create_transform",
    "embed",
    "get_weights",
    "list_models",
]


def __getattr__(name: str) -> Any:
    if name == "embed":  # needs rasterio, which importing this package does not load
        from eo_backbones.scenes.arrays import embed  # noqa: PLC0415

        return embed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
