"""Components, number formats, tables and pictures keep the values of the features they stand for."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from PIL import Image

from eo_backbones.errors import UserError
from eo_backbones.scenes import Embedded, EmbedRequest, embed_scene, find_similar
from eo_backbones.scenes.components import Components, principal_components
from eo_backbones.scenes.pictures import write_components_picture
from support.synthetic_scene import numbers, write_scene
from support.tiny_encoders import write_tiny_encoder

HOLE = (slice(None), slice(0, 32), slice(0, 32))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 9 x 9 windows whose first corner is missing, brighter towards the right."""
    values = (numbers(1, 160, 160) * np.linspace(0.2, 1, 160)).astype(np.uint16)
    values[HOLE] = 0
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", values, names=("B04",), nodata=0)


@pytest.fixture(scope="module")
def features(scene: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """All features, ``(9, 9, features)``."""
    out = tmp_path_factory.mktemp("features") / "features.tif"
    run(scene, model, out)
    return read(out)


def run(scene: Path, model: str, out: Path, **options: Any) -> Embedded:
    request = EmbedRequest(
        **{"scene": (str(scene),), "model": model, "bands": ("B04",), "out": out, "size": 32, "stride": 16, **options}
    )
    return embed_scene(request, device=torch.device("cpu"), dtype=torch.float32)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return np.moveaxis(source.read(), 0, -1)


def test_components_are_those_of_a_singular_value_decomposition(
    scene: Path, model: str, features: np.ndarray, tmp_path: Path
) -> None:
    made = run(scene, model, tmp_path / "out.tif", components=5)
    known = features[~np.isnan(features[..., 0])].astype(np.float64)
    left, singular, _ = np.linalg.svd(known - known.mean(axis=0), full_matrices=False)
    found = read(tmp_path / "out.tif")
    assert np.isnan(found[0, 0]).all()
    projected = found[~np.isnan(found[..., 0])]
    expected = left[:, :5] * singular[:5]
    signs = np.sign((projected * expected).sum(axis=0))
    np.testing.assert_allclose(projected, expected * signs, atol=1e-3 * singular[0] / len(known) ** 0.5)
    assert made.explained == pytest.approx((singular[:5] ** 2).sum() / (singular**2).sum(), rel=1e-4)
    with rasterio.open(tmp_path / "out.tif") as source:
        assert source.descriptions[:2] == ("component 1", "component 2")


@pytest.mark.parametrize(("cells", "width"), [(200, 12), (12, 200)])
def test_components_of_many_and_of_few_cells(cells: int, width: int) -> None:
    sample = np.random.default_rng(0).normal(size=(cells, width)).astype(np.float32) * np.linspace(1, 3, width)
    found = principal_components([sample.astype(np.float32)], np.ones((1, cells), bool), 4, belongs_to="x")
    _, singular, right = np.linalg.svd(sample - sample.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs((found.axes * right[:4]).sum(axis=1)), 1, atol=1e-3)
    np.testing.assert_allclose(found.explained, singular[:4] ** 2 / (singular**2).sum(), rtol=1e-3)
    assert (np.take_along_axis(found.axes, np.abs(found.axes).argmax(axis=1)[:, None], axis=1) > 0).all()


def test_a_sample_of_cells_gives_nearly_the_components_of_all() -> None:
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(40, 100, 6)).astype(np.float32) * np.array([9, 3, 1, 0.3, 0.1, 0.1], np.float32)
    valid = rng.random((40, 100)) > 0.3
    cells[~valid] = np.nan
    whole = principal_components(list(cells), valid, 2, belongs_to="x")
    sampled = principal_components(list(cells), valid, 2, belongs_to="x", sample_bytes=500 * 6 * 4)
    assert not np.array_equal(sampled.axes, whole.axes)
    np.testing.assert_allclose(np.abs((sampled.axes * whole.axes).sum(axis=1)), 1, atol=0.01)


def test_another_scene_is_projected_alike(scene: Path, model: str, features: np.ndarray, tmp_path: Path) -> None:
    other = write_scene(tmp_path / "other.tif", numbers(1, 96, 96, seed=3), names=("B04",))
    first = run(other, model, tmp_path / "first.tif", components=3)
    assert first.components_file is not None
    run(scene, model, tmp_path / "second.tif", components_from=Path(first.components_file))
    axes = Components.load(Path(first.components_file))
    expected = (features.astype(np.float64) - axes.mean) @ axes.axes.T.astype(np.float64)
    np.testing.assert_allclose(read(tmp_path / "second.tif"), expected, atol=1e-4, rtol=1e-4)
    write_scene(tmp_path / "blue.tif", numbers(1, 96, 96, seed=3), names=("B02",))
    with pytest.raises(UserError, match="belongs to another model, other bands"):
        run(
            tmp_path / "blue.tif",
            model,
            tmp_path / "third.tif",
            bands=("B02",),
            components_from=Path(first.components_file),
        )


def test_int8_is_within_half_a_step_of_each_band(scene: Path, model: str, features: np.ndarray, tmp_path: Path) -> None:
    run(scene, model, tmp_path / "out.tif", dtype="int8")
    with rasterio.open(tmp_path / "out.tif") as source:
        codes, scales, offsets = source.read(), np.array(source.scales), np.array(source.offsets)
        assert (source.dtypes[0], source.nodata) == ("int8", -128)
    codes = np.moveaxis(codes, 0, -1)
    missing = np.isnan(features[..., 0])
    assert missing[0, 0]
    np.testing.assert_array_equal((codes == -128).all(axis=-1), missing)
    known = features[~missing]
    decoded = codes[~missing] * scales + offsets
    assert (np.abs(decoded - known) <= scales * 0.501 + 1e-6).all()
    spans = known.max(axis=0) - known.min(axis=0)
    np.testing.assert_allclose(scales[spans > 0], spans[spans > 0] / 254, rtol=1e-5)


def test_float16_is_half_precision_in_half_the_bytes(
    scene: Path, model: str, features: np.ndarray, tmp_path: Path
) -> None:
    run(scene, model, tmp_path / "out.tif", dtype="float16")
    np.testing.assert_allclose(read(tmp_path / "out.tif"), features.astype(np.float16), rtol=1e-3, atol=1e-7)
    run(scene, model, tmp_path / "full.tif")
    pixels = features.size * 2
    difference = (tmp_path / "full.tif").stat().st_size - (tmp_path / "out.tif").stat().st_size
    assert difference == pytest.approx(pixels, rel=0.1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_table_holds_every_cell_with_its_centre(
    scene: Path, model: str, features: np.ndarray, tmp_path: Path, dtype: str
) -> None:
    run(scene, model, tmp_path / "out.parquet", dtype=dtype)
    table = pq.read_table(tmp_path / "out.parquet")
    columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    rows, cols = np.nonzero(~np.isnan(features[..., 0]))
    np.testing.assert_array_equal(columns["row"], rows)
    np.testing.assert_array_equal(columns["col"], cols)
    np.testing.assert_allclose(columns["x"], 500_000 + 10 * (cols * 16 + 16))
    np.testing.assert_allclose(columns["y"], 5_000_000 - 10 * (rows * 16 + 16))
    # On the central meridian of zone 32 (9 degrees east); a degree of longitude is 78.8 km at 45.15 degrees north.
    np.testing.assert_allclose(columns["lon"], 9 + 10 * (cols * 16 + 16) / 78_700, atol=2e-4)
    np.testing.assert_allclose(columns["lat"], 45.1535 - 10 * (rows * 16 + 16) / 111_130, atol=2e-3)
    np.testing.assert_array_equal(columns["embedding"], features[rows, cols].astype(dtype))


def test_a_table_without_coordinates_leaves_degrees_empty(model: str, tmp_path: Path) -> None:
    plain = write_scene(tmp_path / "plain.tif", numbers(1, 64, 64), names=("B04",), crs=None, transform=None)
    run(plain, model, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["lon"].to_pylist() == [None] * 9
    assert table["x"].to_pylist()[:3] == [16, 32, 48]


def test_the_picture_shows_three_components_and_leaves_holes_open(tmp_path: Path) -> None:
    values = np.zeros((4, 5, 4), np.float32)
    values[..., 0] = np.arange(5)  # red grows to the right
    values[..., 1] = np.arange(4)[:, None]  # green grows downwards
    values[2, 3] = np.nan
    write_components_picture(tmp_path / "picture.png", values)
    pixels = np.asarray(Image.open(tmp_path / "picture.png"))
    times = 512 // 5
    assert pixels.shape == (4 * times, 5 * times, 4)
    cells = pixels[times // 2 :: times, times // 2 :: times]
    assert cells[2, 3, 3] == 0
    assert (cells[..., 3] == 255).sum() == 19
    assert (np.diff(cells[0, :, 0].astype(int)) > 0).all()
    assert (np.diff(cells[:, 0, 1].astype(int)) > 0).all()
    assert cells[0, 0].tolist() == [0, 0, 0, 255]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_similarity_is_the_cosine_with_the_cell_at_a_place(
    scene: Path, model: str, features: np.ndarray, tmp_path: Path, dtype: str
) -> None:
    run(scene, model, tmp_path / "out.tif", dtype=dtype)
    # Row 3, column 5 has its centre 640 m below and 960 m right of the corner; 78.7 km and 111.1 km are a degree.
    made = find_similar(tmp_path / "out.tif", at=(9 + 960 / 78_700, 45.1535 - 640 / 111_130))
    assert made.cell == (3, 5)
    with rasterio.open(made.out) as found, rasterio.open(tmp_path / "out.tif") as source:
        assert (found.crs, found.transform) == (source.crs, source.transform)
        similarity = found.read(1)
    chosen = features[3, 5]
    expected = features @ chosen / np.linalg.norm(features, axis=-1) / np.linalg.norm(chosen)
    np.testing.assert_allclose(similarity, expected, atol=1e-5 if dtype == "float32" else 5e-3)
    assert np.isnan(similarity[0, 0])
    assert Image.open(made.preview).size[0] > 500


def test_places_that_cannot_be_compared_with(scene: Path, model: str, tmp_path: Path) -> None:
    run(scene, model, tmp_path / "out.tif")
    with pytest.raises(UserError, match=r"longitude 45, latitude 9 is outside.*longitude comes first"):
        find_similar(tmp_path / "out.tif", at=(45, 9))
    with pytest.raises(UserError, match=r"row 0, column 0 .* has no value"):
        find_similar(tmp_path / "out.tif", cell=(0, 0))
    with pytest.raises(UserError, match=r"longitude 99, latitude 0 is outside"):  # a quarter of the globe from UTM 32
        find_similar(tmp_path / "out.tif", at=(99, 0))
    with pytest.raises(UserError, match="cell 9,0 is outside"):
        find_similar(tmp_path / "out.tif", cell=(9, 0))
    with pytest.raises(UserError, match="either --at LON,LAT or --cell"):
        find_similar(tmp_path / "out.tif")
    with pytest.raises(UserError, match="is not an embedding"):
        find_similar(scene, cell=(0, 0))
    plain = write_scene(tmp_path / "plain.tif", numbers(1, 64, 64), names=("B04",), crs=None, transform=None)
    run(plain, model, tmp_path / "plain_out.tif")
    with pytest.raises(UserError, match=r"has no coordinate system .* --cell ROW,COL"):
        find_similar(tmp_path / "plain_out.tif", at=(9, 45))
    assert find_similar(tmp_path / "plain_out.tif", cell=(1, 1)).cell == (1, 1)
