"""A folder of embeddings reads back what was written, in every format, and refuses cells that cannot be compared."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch
from affine import Affine

from eo_backbones.errors import UserError
from eo_backbones.regions import EmbeddedScene, open_region
from eo_backbones.scenes import EmbedRequest, embed_scene, find_similar
from support.synthetic_scene import numbers, write_scene
from support.tiny_encoders import write_tiny_encoder

CELLS = Affine(160, 0, 500_080, 0, -160, 4_999_920)
"""Of windows of 32 pixels at stride 16: they begin half a stride inside the scene."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 x 9 windows, the first and the whole fourth row of which are missing."""
    values = (numbers(2, 128, 160) * np.linspace(0.2, 1, 160)).astype(np.uint16)
    values[:, :32, :32] = values[:, 48:80] = 0
    return write_scene(tmp_path_factory.mktemp("scene") / "a.tif", values, names=("B04", "B08"), nodata=0)


def embed(scene: Path, model: str, out: Path, **options: Any) -> Path:
    given = {"scene": (str(scene),), "model": model, "bands": ("B04",), "out": out, "size": 32, "stride": 16}
    embed_scene(EmbedRequest(**{**given, **options}), device=torch.device("cpu"), dtype=torch.float32)
    return out


def whole(scene: EmbeddedScene, cells: int | None = None) -> np.ndarray:
    """All blocks put together, after checking that they follow each other."""
    parts, expected = [], 0
    for first, block in scene.blocks(cells):
        assert first == expected
        assert block.dtype == np.float32
        parts.append(block)
        expected += len(block)
    return np.concatenate(parts)


def stored(path: Path) -> np.ndarray:
    """What rasterio reads, ``(rows, cols, features)``, decoded."""
    with rasterio.open(path) as source:
        values = source.read(masked=True).astype(np.float64)
        decoded = values * np.array(source.scales)[:, None, None] + np.array(source.offsets)[:, None, None]
        return np.moveaxis(decoded.filled(np.nan), 0, -1)


@pytest.mark.parametrize("cells", [None, 1, 20])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("cog/a.tif", "float32"),
        ("cog/a.tif", "int8"),
        ("a.tif", "float32"),
        ("a.tif", "float16"),
        ("a.tif", "int8"),
        ("a.parquet", "float32"),
        ("a.parquet", "float16"),
        ("a.zarr", "float32"),
        ("a.zarr", "float16"),
    ],
)
def test_blocks_are_the_values_that_were_written(
    scene: Path, model: str, tmp_path: Path, name: str, dtype: str, cells: int | None
) -> None:
    embed(scene, model, tmp_path / "reference.tif", dtype=dtype)
    expected = stored(tmp_path / "reference.tif")
    (tmp_path / "region" / name).parent.mkdir(parents=True)
    embed(scene, model, tmp_path / "region" / name, dtype=dtype, format="cog" if "cog" in name else None)
    (found,) = open_region(tmp_path / "region").scenes
    assert (found.id, found.rows, found.cols, found.features) == ("a", 7, 9, expected.shape[-1])
    assert np.isnan(expected[0, 0]).all()
    step = 1e-3 if dtype == "float16" else 1e-6  # GDAL cuts the last bit off, numpy rounds it
    np.testing.assert_allclose(whole(found, cells), expected, rtol=step)
    np.testing.assert_allclose(found.read(5, 2), expected[5:], rtol=step)
    assert found.transform.almost_equals(CELLS, precision=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("interleave", ["BAND", "PIXEL"])
def test_a_tiled_file_reads_alike(scene: Path, model: str, tmp_path: Path, dtype: str, interleave: str) -> None:
    plain = embed(scene, model, tmp_path / "plain.tif", dtype=dtype, components=4)
    (tmp_path / "region").mkdir()
    tiled = tmp_path / "region" / "a.tif"
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "interleave": interleave}
    rasterio.shutil.copy(plain, tiled, driver="GTiff", **options)
    (found,) = open_region(tmp_path / "region").scenes
    np.testing.assert_allclose(whole(found, 1), stored(plain), rtol=1e-6)
    with rasterio.open(tiled) as source:
        assert source.block_shapes[0] == (16, 16)


def test_places_and_cells_agree(scene: Path, model: str, tmp_path: Path) -> None:
    embed(scene, model, tmp_path / "a.parquet")
    (found,) = open_region(tmp_path / "a.parquet").scenes
    rows, cols = np.divmod(np.arange(63), 9)
    longitude, latitude = found.centres(rows, cols)
    cells = [found.cell_at(*place) for place in zip(longitude, latitude, strict=True)]
    assert cells == list(zip(rows.tolist(), cols.tolist(), strict=True))
    assert found.cell_at(45, 9) is None
    outline = found.corners()
    cell = found.corners(np.array([0, 6]), np.array([0, 8]))
    assert (outline[0][0], outline[1][0]) == (cell[0][0, 0], cell[1][0, 0])
    np.testing.assert_allclose((outline[0][2], outline[1][2]), (cell[0][2, 1], cell[1][2, 1]), rtol=1e-12)


@pytest.mark.parametrize("shape", [(32, 96), (96, 32)])
def test_a_table_of_one_row_or_column_has_square_cells(model: str, tmp_path: Path, shape: tuple[int, int]) -> None:
    scene = write_scene(tmp_path / "strip.tif", numbers(1, *shape), names=("B04",))
    embed(scene, model, tmp_path / "out.parquet")
    (found,) = open_region(tmp_path / "out.parquet").scenes
    assert found.transform.almost_equals(CELLS, precision=1e-6)


def test_a_region_is_every_embedding_below_a_folder_and_nothing_else(scene: Path, model: str, tmp_path: Path) -> None:
    for name in ("b/b.tif", "a/a.tif", "c.parquet", ".parts/x.tif", "d.tif.part/d.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        embed(scene, model, tmp_path / name, dtype="float32" if "parquet" in name else "int8")
    shutil.copy(scene, tmp_path / "scene.tif")
    find_similar(tmp_path / "a/a.tif", cell=(6, 6))
    region = open_region(tmp_path)
    assert [found.id for found in region.scenes] == ["a", "b", "c"]
    assert region.facts["model"] == model
    assert region.facts["bands"] == ["B04"]
    assert (region.facts["size"], region.features) == (32, region.scenes[0].features)
    assert (region.scenes[0].datetime, region.scenes[0].cloud_cover) == (None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": ("B08",)}, r"a\.tif and .*b\.tif cannot be compared: other bands \(B04 and B08\); keep"),
        ({"bands": ("B04", "B08")}, r"other bands \(B04 and B04, B08\)"),
        ({"size": 16}, r"other --size \(32 and 16\)"),
        ({"components": 3}, r"other components \(none and 3\)"),
    ],
)
def test_other_kinds_are_refused(
    scene: Path, model: str, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    embed(scene, model, tmp_path / "a.tif")
    embed(scene, model, tmp_path / "b.tif", **options)
    with pytest.raises(UserError, match=message):
        open_region(tmp_path)


def test_other_networks_and_other_components_are_refused(scene: Path, model: str, tmp_path: Path) -> None:
    other = write_scene(tmp_path / "other_scene.tif", numbers(1, 128, 128, seed=1), names=("B04",))
    (tmp_path / "region").mkdir()
    one = embed(scene, model, tmp_path / "region/one.tif", components=3)
    own = embed(other, model, tmp_path / "region/own.tif", components=3)
    with pytest.raises(UserError, match=r"one\.tif and .*own\.tif .*each has components of its own"):
        open_region(tmp_path / "region")
    own.unlink()
    embed(other, model, own, components_from=one.with_name("one.components.npz"))
    region = open_region(tmp_path / "region")
    assert (len(region.scenes), region.features, region.facts["components"]) == (2, 3, 3)
    own.unlink()
    embed(other, write_tiny_encoder(tmp_path / "seed1", seed=1), own, components=3)
    with pytest.raises(UserError, match=r"other --model \(local-dir:"):
        open_region(tmp_path / "region")


def test_what_a_file_does_not_state_is_named(scene: Path, model: str, tmp_path: Path) -> None:
    path = embed(scene, model, tmp_path / "a.tif")
    with rasterio.open(path, "r+") as target:
        facts = json.loads(target.tags()["EO_BACKBONES"])
        del facts["stride"]
        target.update_tags(EO_BACKBONES=json.dumps(facts))
    with pytest.raises(UserError, match=r"a\.tif does not say of which stride it is; embed the scene again"):
        open_region(tmp_path)


def test_an_unfinished_region_says_so(scene: Path, model: str, tmp_path: Path) -> None:
    embed(scene, model, tmp_path / "a.tif")
    assert not open_region(tmp_path).unfinished
    (tmp_path / ".parts").mkdir()
    assert open_region(tmp_path).unfinished


def test_a_store_that_lost_its_values_is_refused(scene: Path, model: str, tmp_path: Path) -> None:
    stored = embed(scene, model, tmp_path / "a.zarr", format="zarr")
    for part in (stored / "embedding").glob("0.*"):
        part.write_bytes(part.read_bytes()[:10])
    with pytest.raises(UserError, match=r"cannot read .*a\.zarr: it is incomplete or not a Zarr store"):
        whole(open_region(tmp_path).scenes[0])
    shutil.rmtree(stored / "embedding")
    (stored / ".zmetadata").unlink()
    with pytest.raises(UserError, match=r"cannot read .*a\.zarr: it is incomplete or not a Zarr store"):
        open_region(tmp_path)


def test_what_is_no_region_is_refused_in_one_line(scene: Path, model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no folder .*missing; pass one that eo-backbones embed"):
        open_region(tmp_path / "missing")
    with pytest.raises(UserError, match=r"holds no embeddings; make some with eo-backbones embed"):
        open_region(scene.parent)
    embed(scene, model, tmp_path / "a.tif")
    shutil.copy(tmp_path / "a.tif", tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"holds scene a twice: .*a\.tif and .*a\.tiff"):
        open_region(tmp_path)
    (tmp_path / "a.tiff").unlink()
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"cannot read .*a\.tif: it is truncated"):
        whole(open_region(tmp_path).scenes[0])
    (tmp_path / "a.tif").unlink()
    embed(scene, model, tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"cannot read .*a\.parquet: it is truncated or not a Parquet file"):
        open_region(tmp_path)


def test_a_table_is_compared_with_a_place_as_a_map_is(scene: Path, model: str, tmp_path: Path) -> None:
    for name in ("map.tif", "table.parquet"):
        embed(scene, model, tmp_path / name, components=4)
        find_similar(tmp_path / name, cell=(6, 6), out=tmp_path / f"{name}.tif")
    with rasterio.open(tmp_path / "map.tif.tif") as one, rasterio.open(tmp_path / "table.parquet.tif") as other:
        np.testing.assert_allclose(one.read(1), other.read(1), atol=1e-6)
        assert one.transform.almost_equals(other.transform, precision=1e-6)
