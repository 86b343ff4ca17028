"""The demo runs offline, tells the truth in its first line, and makes a picture."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eo_backbones import demo, weights
from eo_backbones.evaluation import encoders
from eo_backbones.files import sha256_of
from eo_backbones.networks.state import state_digest
from eo_backbones.progress import SILENT


@pytest.fixture
def unpublished(declare: Callable[..., None]) -> None:
    declare(replace(weights.DEFAULT, sha256=None))


@pytest.mark.usefixtures("unpublished")
def test_random_weights_are_never_passed_off_as_trained() -> None:
    encoder = demo.load_encoder()
    assert f"weights of {weights.DEFAULT.name} are not published yet" in encoder.note
    assert "say nothing about the method" in encoder.note
    assert encoder.line == "stand-in (random weights)"
    assert encoder.models == (), "there is nothing to type for it"
    assert not encoder.network.training
    assert state_digest(encoder.network) != state_digest(encoders.random_resnet50(0))


def test_published_weights_are_used_as_soon_as_they_are_there(
    weights_folder: Path, declare: Callable[..., None]
) -> None:
    """Only the row and its file change."""
    file = weights_folder / "model.safetensors"
    row = replace(weights.get_weights("eo_resnet50.byol_s1s2_mini"), sha256=sha256_of(file), embedded=str(file))
    declare(row)
    encoder = demo.load_encoder()
    assert encoder.line == row.name
    assert encoder.note == f"Encoder: {row.name}."
    assert encoder.network.eo_digest == row.sha256


@pytest.mark.usefixtures("unpublished")
def test_the_demo_as_a_whole(tmp_path: Path) -> None:
    encoder = demo.load_encoder()
    made = demo.run(encoder, SILENT, per_class=6, size=32)
    assert made.section.bands == demo.DEMO_BANDS
    assert made.section.models == (encoder.line, "random", "stats")
    assert len(made.section.cells) == 12
    assert all(cell.low <= cell.value <= cell.high for cell in made.section.cells.values())
    assert made.section.n_train + made.section.n_test == 60
    path = tmp_path / "new" / "demo.png"
    demo.draw(made, path)
    with Image.open(path) as picture:
        assert picture.width >= 1400
        assert np.asarray(picture.convert("L")).std() > 20
    assert [entry.name for entry in path.parent.iterdir()] == ["demo.png"]
