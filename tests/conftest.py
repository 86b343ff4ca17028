"""Fixtures that every test may use; the larger test doubles live in ``tests/support``."""

import os
from pathlib import Path

import pytest

# Test processes share the cores: one thread each, and threads that wait sleep. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

pytest_plugins = ["support.hub_fixtures", "support.typed_command"]

REPOSITORY = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that the test processes end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real imagery; tests that need it are skipped, saying so, where it is absent."""
    folder = Path(os.environ.get("EO_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real imagery not found at {folder}; set EO_SHARED_DATA to its folder")
    return folder
