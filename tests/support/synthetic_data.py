"""Synthetic data sets on disk, made once for a test session.

Import the fixtures by name where they are used: ``from support.synthetic_data import eurosat_ms_folder``.
"""

from pathlib import Path

import pytest

from eo_backbones.datasets.synthetic_files import write_eurosat_rgb, write_sen12ms
from support.synthetic_layouts import write_eurosat_ms

PER_CLASS = 4


@pytest.fixture(scope="session")
def eurosat_ms_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EuroSAT MS layout, ten classes of four synthetic patches; do not change it."""
    return write_eurosat_ms(tmp_path_factory.mktemp("eurosat_ms"), per_class=PER_CLASS)


@pytest.fixture(scope="session")
def eurosat_rgb_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EuroSAT RGB layout with the same scenes as ``eurosat_ms_folder``; do not change it."""
    return write_eurosat_rgb(tmp_path_factory.mktemp("eurosat_rgb"), per_class=PER_CLASS)


@pytest.fixture(scope="session")
def sen12ms_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SEN12MS layout, two scenes of two synthetic patches of 64 pixels; do not change it."""
    return write_sen12ms(tmp_path_factory.mktemp("sen12ms"), patches=2, size=64)
