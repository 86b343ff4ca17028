"""Embeddings in the formats of others: checked with their tools, values to the bit or to half a step."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import rioxarray  # noqa: F401 - adds the accessor .rio
import xarray
from affine import Affine
from rasterio.crs import CRS
from rio_cogeo.cogeo import cog_validate

from eo_backbones.errors import UserError
from eo_backbones.scenes.embedding_file import open_embedding
from eo_backbones.scenes.grid import Grid
from eo_backbones.scenes.outputs import write_embedding
from eo_backbones.scenes.similar import find_similar
from support.synthetic_scene import UTM

FACTS = {"model": "local-dir:x & <y>", "bands": ["B04"], "scene": ["größe"]}
ROTATED = Affine(17.3, 5.4, 300_000.0, 10.1, -8.2, 6_000_000.0)


def grid_of(rows: int, cols: int, *, transform: Affine = UTM, crs: CRS | None = CRS.from_epsg(32632)) -> Grid:
    """Cells of 16 pixels, half as large as their windows."""
    return Grid(height=16 * (rows + 1), width=16 * (cols + 1), size=32, stride=16, scene_transform=transform, crs=crs)


def cells(rows: int, cols: int, numbers: int) -> np.ndarray:
    """Values that differ in range from number to number; a corner and a whole row are missing."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, cols, numbers)).astype(np.float32) * np.linspace(0.1, 30, numbers, dtype=np.float32)
    values[: rows // 3, : cols // 3] = np.nan
    values[rows // 2] = np.nan
    return values


def write(path: Path, values: np.ndarray, grid: Grid, **options: Any) -> Path:
    def rows() -> Iterator[np.ndarray]:
        return iter(values)

    options = {"format": "cog", "dtype": "float32", "facts": FACTS, **options}
    write_embedding(path, rows, grid=grid, numbers=values.shape[-1], **options)
    return path


def averaged(values: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 cells that are not missing, in double precision."""
    rows, cols, numbers = values.shape
    even = np.full((rows + rows % 2, cols + cols % 2, numbers), np.nan)
    even[:rows, :cols] = values
    blocks = even.reshape(len(even) // 2, 2, even.shape[1] // 2, 2, numbers)
    known = (~np.isnan(blocks)).sum(axis=(1, 3))
    return np.where(known > 0, np.nansum(blocks, axis=(1, 3)) / np.maximum(known, 1), np.nan)


@pytest.mark.parametrize(
    ("rows", "cols", "numbers", "tile"),
    [(20, 30, 1, 512), (300, 517, 3, 256), (37, 41, 40, 64), (33, 70, 600, 16), (1, 1, 5, 128)],
)
def test_a_cog_is_valid_and_holds_the_values_of_the_cells(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: int, cols: int, numbers: int, tile: int
) -> None:
    values = cells(rows, cols, numbers)
    names = [f"component {number}" for number in range(1, numbers + 1)]
    grid = grid_of(rows, cols, transform=ROTATED)
    path = write(tmp_path / "out.tif", values, grid, names=names)
    assert not caplog.records  # GDAL has nothing to say about small tiles
    valid, problems, warnings = cog_validate(path, quiet=True)
    assert (valid, problems, warnings) == (True, [], [])
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(np.moveaxis(source.read(), 0, -1), values)
        assert (source.crs, source.descriptions) == (CRS.from_epsg(32632), tuple(names))
        np.testing.assert_allclose(source.transform, grid.transform, rtol=1e-12)
        assert np.isnan(source.nodata)
        assert source.block_shapes[0] == (tile, tile)
        assert json.loads(source.tags()["EO_BACKBONES"]) == FACTS
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert [child.name for child in tmp_path.iterdir()] == ["out.tif"]


def test_overviews_of_a_cog_are_means_of_the_cells_that_have_a_value(tmp_path: Path) -> None:
    values = cells(300, 1031, 2)
    path = write(tmp_path / "out.tif", values, grid_of(300, 1031))
    expected = values
    with rasterio.open(path) as source:
        assert source.overviews(1) == [2, 4, 8]
    for level in range(3):
        expected = averaged(expected)
        with rasterio.open(path, overview_level=level) as source:
            np.testing.assert_allclose(np.moveaxis(source.read(), 0, -1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("numbers", [3, 300])
def test_int8_in_a_cog_is_within_half_a_step(tmp_path: Path, numbers: int) -> None:
    values = cells(40, 50, numbers)
    path = write(tmp_path / "out.tif", values, grid_of(40, 50), dtype="int8")
    assert cog_validate(path, quiet=True)[0]
    with rasterio.open(path) as source:
        codes = np.moveaxis(source.read(), 0, -1)
        scales, offsets = np.array(source.scales), np.array(source.offsets)
        assert (source.dtypes[0], source.nodata) == ("int8", -128)
    np.testing.assert_array_equal(codes == -128, np.isnan(values))
    np.testing.assert_allclose(scales, (np.nanmax(values, (0, 1)) - np.nanmin(values, (0, 1))) / 254, rtol=1e-5)
    known = ~np.isnan(values[..., 0])
    assert (np.abs(codes[known] * scales + offsets - values[known]) <= 0.501 * scales).all()


def test_float16_in_a_cog_is_rounded_to_half_precision_and_smaller(tmp_path: Path) -> None:
    values = cells(300, 310, 8)
    values[200, 200] = 1e6  # beyond half precision
    half = write(tmp_path / "half.tif", values, grid_of(300, 310), dtype="float16")
    again = write(tmp_path / "again.tif", values, grid_of(300, 310), dtype="float16")
    full = write(tmp_path / "full.tif", values, grid_of(300, 310))
    assert cog_validate(half, quiet=True)[0]
    with rasterio.open(half) as source:
        found = np.moveaxis(source.read(), 0, -1)
    np.testing.assert_array_equal(found, values.clip(-65504, 65504).astype(np.float16))
    assert half.read_bytes() == again.read_bytes()
    assert half.stat().st_size < 0.75 * full.stat().st_size


def test_a_cog_without_coordinates(tmp_path: Path) -> None:
    values = cells(9, 12, 4)
    path = write(tmp_path / "out.tif", values, grid_of(9, 12, transform=Affine.identity(), crs=None))
    with rasterio.open(path) as source:
        assert source.crs is None
        np.testing.assert_array_equal(np.moveaxis(source.read(), 0, -1), values)


def test_an_overview_of_many_bands_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "out.tif", cells(2, 300, 513), grid_of(2, 300))
    with rasterio.open(path) as source:
        assert source.overviews(1) == []
    assert cog_validate(path, quiet=True)[0]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_cog_is_searched_and_read_like_a_plain_geotiff(tmp_path: Path, dtype: str) -> None:
    values = cells(21, 34, 50)
    for kind in ("geotiff", "cog"):
        write(tmp_path / f"{kind}.tif", values, grid_of(21, 34), format=kind, dtype=dtype)
        find_similar(tmp_path / f"{kind}.tif", cell=(15, 20))
    plain, tiled = (open_embedding(tmp_path / f"{kind}.tif") for kind in ("geotiff", "cog"))
    for (first, block), (other, same) in zip(plain.blocks(100), tiled.blocks(100), strict=False):
        assert first == other
        np.testing.assert_array_equal(block[: len(same)], same[: len(block)])
    with rasterio.open(tmp_path / "geotiff_similar.tif") as one, rasterio.open(tmp_path / "cog_similar.tif") as two:
        np.testing.assert_array_equal(one.read(), two.read())


def test_what_a_killed_process_left_is_replaced_and_an_error_leaves_the_earlier_file(tmp_path: Path) -> None:
    values = cells(9, 12, 4)
    left = tmp_path / ".unfinished-out.tif.bands"
    left.mkdir()
    (left / "level0.bil").write_bytes(b"half")
    path = write(tmp_path / "out.tif", values, grid_of(9, 12))
    before = path.read_bytes()

    def broken() -> Iterator[np.ndarray]:
        yield values[0]
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        write_embedding(path, broken, format="cog", grid=grid_of(9, 12), numbers=4, dtype="float32", facts=FACTS)
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["out.tif"]


def test_more_bands_than_a_tiff_can_have(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at most 65,535 bands; pass --components"):
        write(tmp_path / "out.tif", np.zeros((1, 1, 65_536), np.float32), grid_of(1, 1))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_xarray_opens_a_zarr_store_with_coordinates(tmp_path: Path, dtype: str) -> None:
    values, grid = cells(150, 70, 20), grid_of(150, 70)
    names = [f"component {number}" for number in range(1, 21)]
    path = write(tmp_path / "out.zarr", values, grid, format="zarr", dtype=dtype, names=names)
    with xarray.open_zarr(path) as opened:
        found = opened["embedding"]
        np.testing.assert_array_equal(found.values, values.astype(dtype))
        assert (found.dims, found.dtype) == (("y", "x", "feature"), dtype)
        assert np.isnan(found.encoding["_FillValue"])
        assert found.encoding["chunks"] == (64, 64, 20)
        assert found["feature"].values.tolist() == names
        assert json.loads(opened.attrs["EO_BACKBONES"]) == FACTS
        assert found.rio.crs == CRS.from_epsg(32632)
        np.testing.assert_allclose(found.rio.transform(), grid.transform)
        np.testing.assert_allclose(found["x"].values, 500_000 + 10 * (np.arange(70) * 16 + 16))
        np.testing.assert_allclose(found["y"].values, 5_000_000 - 10 * (np.arange(150) * 16 + 16))
        nearest = found.sel(x=500_000 + 10 * 16 * 31.2, y=5_000_000 - 10 * 16 * 141.2, method="nearest")
        np.testing.assert_array_equal(nearest.values, found.values[140, 30])
    assert [child.name for child in tmp_path.iterdir()] == ["out.zarr"]


def test_zarr_of_rotated_cells_and_without_coordinates(tmp_path: Path) -> None:
    values, grid = cells(6, 5, 3), grid_of(6, 5, transform=ROTATED)
    with xarray.open_zarr(write(tmp_path / "rotated.zarr", values, grid, format="zarr")) as opened:
        x, y = opened["xc"].values, opened["yc"].values
        for row, col in ((0, 0), (5, 2), (3, 4)):
            np.testing.assert_allclose([x[row, col], y[row, col]], [part[col] for part in grid.centres(row)])
        assert opened.rio.crs == CRS.from_epsg(32632)
        assert opened["feature"].values.tolist() == [0, 1, 2]
    plain = grid_of(6, 5, transform=Affine.identity(), crs=None)
    with xarray.open_zarr(write(tmp_path / "plain.zarr", values, plain, format="zarr")) as opened:
        assert opened["x"].values.tolist() == [16, 32, 48, 64, 80]
        assert opened.rio.crs is None
        np.testing.assert_array_equal(opened["embedding"].values, values)


def test_a_zarr_store_in_degrees_says_which_axis_is_which(tmp_path: Path) -> None:
    grid = grid_of(3, 4, transform=Affine(0.001, 0, 9, 0, -0.001, 45), crs=CRS.from_epsg(4326))
    with xarray.open_zarr(write(tmp_path / "out.zarr", cells(3, 4, 2), grid, format="zarr")) as opened:
        assert opened["x"].attrs["standard_name"] == "longitude"
        assert opened["y"].attrs["units"] == "degrees_north"


def test_a_zarr_store_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    first, second, grid = cells(6, 5, 3), cells(6, 5, 3) + 1, grid_of(6, 5)
    path = write(tmp_path / "out.zarr", first, grid, format="zarr")

    def broken() -> Iterator[np.ndarray]:
        yield second[0]
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        write_embedding(path, broken, format="zarr", grid=grid, numbers=3, dtype="float32", facts=FACTS)
    with xarray.open_zarr(path) as opened:
        np.testing.assert_array_equal(opened["embedding"].values, first)
    write(path, second, grid, format="zarr")
    with xarray.open_zarr(path) as opened:
        np.testing.assert_array_equal(opened["embedding"].values, second)
    assert [child.name for child in tmp_path.iterdir()] == ["out.zarr"]


READ_WITH_OTHERS = """
import json, sys
import duckdb, geopandas
frame = geopandas.read_parquet(sys.argv[1])
shapes = frame.geometry
print(json.dumps({
    "crs": frame.crs and frame.crs.to_authority(),
    "kinds": sorted(set(shapes.geom_type)),
    "valid": bool(shapes.is_valid.all()),
    "centres": shapes.centroid.get_coordinates().values.tolist(),
    "areas": shapes.area.tolist(),
    "rows": frame["row"].tolist(),
    "embedding": [list(map(float, one)) for one in frame["embedding"]],
    "duckdb": duckdb.sql(f"select count(*), min(x), max(y), avg(embedding[2]) from '{sys.argv[1]}'").fetchall()[0],
}))
"""


def read_with_others(path: Path) -> dict[str, Any]:
    """What geopandas and DuckDB, in an environment of their own, find in a table."""
    if shutil.which("uv") is None:
        pytest.skip("geopandas and DuckDB are installed by uv, which is not here")
    packages = [part for name in ("geopandas", "pyarrow", "duckdb") for part in ("--with", name)]
    command = ["uv", "run", "--quiet", "--no-project", "--isolated", *packages, "python", "-c", READ_WITH_OTHERS, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    if done.returncode and "import" not in done.stderr and "Traceback" not in done.stderr:
        pytest.skip(f"geopandas or DuckDB cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["point", "polygon"])
def test_geopandas_and_duckdb_read_a_table(tmp_path: Path, shape: str) -> None:
    values, grid = cells(9, 12, 4), grid_of(9, 12, transform=ROTATED)
    path = write(tmp_path / "out.parquet", values, grid, format="parquet", geometry=shape)
    found = read_with_others(path)
    row, col = np.nonzero(~np.isnan(values[..., 0]))
    centres = np.array([[part[c] for part in grid.centres(r)] for r, c in zip(row, col, strict=True)])
    assert (found["crs"], found["kinds"], found["valid"]) == (["EPSG", "32632"], [shape.title()], True)
    np.testing.assert_allclose(found["centres"], centres, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["areas"], abs(grid.transform.determinant) if shape == "polygon" else 0, rtol=1e-9)
    assert found["rows"] == row.tolist()
    np.testing.assert_array_equal(np.float32(found["embedding"]), values[row, col])
    expected = [len(row), centres[:, 0].min(), centres[:, 1].max(), values[row, col, 1].mean(dtype=np.float64)]
    np.testing.assert_allclose(found["duckdb"], expected)


@pytest.mark.parametrize(("shape", "length"), [("point", 21), ("polygon", 93)])
def test_a_table_says_what_its_geometry_is(tmp_path: Path, shape: str, length: int) -> None:
    grid = grid_of(9, 12)
    table = pq.read_table(write(tmp_path / "out.parquet", cells(9, 12, 4), grid, format="parquet", geometry=shape))
    geo = json.loads(table.schema.metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    assert (geo["version"], column["encoding"], column["geometry_types"]) == ("1.1.0", "WKB", [shape.title()])
    assert (column["crs"]["type"], column["crs"]["id"]) == ("ProjectedCRS", {"authority": "EPSG", "code": 32632})
    left, top = 500_000 + 80, 5_000_000 - 80  # half a cell of 16 pixels inside the scene
    np.testing.assert_allclose(column["bbox"], [left, top - 9 * 160, left + 12 * 160, top])
    assert table.column_names == ["row", "col", "x", "y", "lon", "lat", "embedding", "geometry"]
    assert {len(shape) for shape in table["geometry"].to_pylist()} == {length}


def test_a_table_without_coordinates_does_not_claim_degrees(tmp_path: Path) -> None:
    """A table without the field has degrees; with null nothing is known."""
    grid = grid_of(9, 12, transform=Affine.identity(), crs=None)
    path = write(tmp_path / "out.parquet", cells(9, 12, 4), grid, format="parquet")
    column = json.loads(pq.read_schema(path).metadata[b"geo"])["columns"]["geometry"]
    assert column["crs"] is None


def test_a_table_is_read_back_whole(tmp_path: Path) -> None:
    values = cells(40, 30, 4)
    path = write(tmp_path / "out.parquet", values, grid_of(40, 30), format="parquet")
    opened = open_embedding(path)
    assert (opened.rows, opened.cols, opened.features) == (40, 30, 4)
    np.testing.assert_array_equal(np.concatenate([block for _, block in opened.blocks(100)]), values)
    np.testing.assert_array_equal(opened.read(17, 5), values[17:22])
