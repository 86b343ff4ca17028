"""The folder layouts that ``eo-train prepare`` reads: where the pairs are, and which band lies where."""

from collections.abc import Mapping
from types import MappingProxyType

from eo_backbones.errors import unknown_name
from eo_backbones_train.preparation.layouts.bigearthnet import BIGEARTHNET
from eo_backbones_train.preparation.layouts.dfc2020 import DFC2020
from eo_backbones_train.preparation.layouts.pairs import PAIRS
from eo_backbones_train.preparation.layouts.scene_files import Layout
from eo_backbones_train.preparation.layouts.sen12ms import SEN12MS, SEN12MSCR

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {layout.name: layout for layout in (SEN12MS, DFC2020, SEN12MSCR, BIGEARTHNET, PAIRS)}
)
"""Value of ``--layout`` -> layout."""


def get_layout(name: str) -> Layout:
    """Return the layout of a name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in LAYOUTS:
        raise unknown_name("layout", name, LAYOUTS)
    return LAYOUTS[name]
