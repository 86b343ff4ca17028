"""Every cell of an embedded scene holds the features of the window around its centre, also after a kill."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.crs import CRS

from eo_backbones.rasters.band_files import BandFile
from eo_backbones.scenes import Embedded, EmbedRequest, embed_scene
from eo_backbones.scenes.compute import CELLS_PER_BLOCK
from eo_backbones.scenes.grid import Grid
from eo_backbones.scenes.scene import Scene, cell_rows
from support.recorded_progress import Killed, RecordedProgress
from support.synthetic_scene import UTM, numbers, reference, write_scene
from support.tiny_encoders import write_tiny_encoder

ROTATED = Affine(17.3, 5.4, 300_000.0, 10.1, -8.2, 6_000_000.0)
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny"))


def run(scene: Path, model: str, out: Path, *, cells_per_block: int = CELLS_PER_BLOCK, **options: Any) -> Embedded:
    request = EmbedRequest(**{"scene": (str(scene),), "model": model, "bands": ("B04",), "out": out, **options})
    return embed_scene(request, device=torch.device("cpu"), dtype=torch.float32, cells_per_block=cells_per_block)


def read(path: Path) -> np.ndarray:
    """Cells as stored, ``(rows, cols, numbers)``."""
    with rasterio.open(path) as source:
        return np.moveaxis(source.read(), 0, -1)


@pytest.mark.parametrize(
    ("size", "stride", "fuse"), [(32, 16, "concat"), (32, 16, "mean"), (33, 16, "concat"), (16, 40, "concat")]
)
def test_a_cell_holds_the_features_of_its_window(tmp_path: Path, model: str, size: int, stride: int, fuse: str) -> None:
    values = numbers(2, 90, 131)
    scene = write_scene(tmp_path / "scene.tif", values, names=("nir", "red"))
    made = run(scene, model, tmp_path / "out.tif", bands=("B04", "B08"), size=size, stride=stride, fuse=fuse)
    expected = reference(model, values[::-1], ["B04", "B08"], ["dn", "dn"], size=size, stride=stride, fuse=fuse)
    found = read(tmp_path / "out.tif")
    assert found.shape == expected.shape == (made.rows, made.cols, made.numbers)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
    assert made.unused_px == (131 - size - (made.cols - 1) * stride, 90 - size - (made.rows - 1) * stride)


def coordinates(transform: Affine, col: float, row: float) -> tuple[float, float]:
    a, b, c, d, e, f = transform[:6]
    return a * col + b * row + c, d * col + e * row + f


@pytest.mark.parametrize("transform", [UTM, ROTATED])
@pytest.mark.parametrize(("size", "stride"), [(32, 16), (33, 16), (16, 40)])
def test_the_centre_of_a_cell_is_the_centre_of_its_window(
    tmp_path: Path, model: str, transform: Affine, size: int, stride: int
) -> None:
    scene = write_scene(tmp_path / "scene.tif", numbers(1, 70, 110), names=("B04",), transform=transform)
    run(scene, model, tmp_path / "out.tif", size=size, stride=stride)
    with rasterio.open(tmp_path / "out.tif") as source:
        assert source.crs == CRS.from_epsg(32632)
        for row in range(source.height):
            for col in range(source.width):
                middle = coordinates(transform, col * stride + size / 2, row * stride + size / 2)
                np.testing.assert_allclose(source.xy(row, col), middle, rtol=0, atol=1e-6)
        sides = np.array([source.transform[:2], source.transform[3:5]])
    np.testing.assert_allclose(sides, stride * np.array([transform[:2], transform[3:5]]))


def test_every_row_of_pixels_is_read_once(tmp_path: Path) -> None:
    read_rows: list[int] = []

    class Recording(Scene):
        def read(self, out: np.ndarray, *, top: int, left: int = 0) -> None:
            read_rows.extend(range(top, top + out.shape[1]))
            super().read(out, top=top, left=left)

    values = numbers(1, 90, 70)
    path = write_scene(tmp_path / "scene.tif", values)
    with Recording([BandFile("B04", str(path), 1)]) as scene:
        grid = Grid(height=90, width=70, size=32, stride=12, scene_transform=UTM, crs=None)
        for row, pixels in cell_rows(scene, grid, 0, grid.rows):
            np.testing.assert_array_equal(pixels, values[:, row * 12 : row * 12 + 32, : grid.columns_px])
    assert read_rows == list(range((grid.rows - 1) * 12 + 32))


@pytest.mark.parametrize("declared", ["in the file", "by the user", "as NaN"])
def test_windows_with_too_many_missing_pixels_have_no_value(tmp_path: Path, model: str, declared: str) -> None:
    values = numbers(2, 64, 96).astype(np.float32)
    missing = np.zeros((2, 64, 96), bool)
    missing[0, :, 70:] = True  # windows at column 48 hold 10 of 32 columns of them, those at 64 all but 6
    missing[1, :3, :16] = True  # 3 of 64 rows of the first window, in the other band
    values[missing] = np.nan if declared == "as NaN" else -9999
    scene = write_scene(
        tmp_path / "scene.tif", values, names=("B04", "B08"), nodata=-9999 if declared == "in the file" else None
    )
    made = run(
        scene,
        model,
        tmp_path / "out.tif",
        bands=("B04", "B08"),
        size=32,
        stride=16,
        max_nodata=10 / 32,
        nodata=-9999 if declared == "by the user" else None,
    )
    found = read(tmp_path / "out.tif")
    expected = reference(model, np.where(missing, np.nan, values), ["B04", "B08"], ["dn", "dn"], size=32, stride=16)
    assert np.isnan(found[:, 4]).all()
    assert made.nodata_cells == made.rows
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=TOLERANCE, rtol=TOLERANCE)


def test_small_batches_and_blocks_change_nothing(tmp_path: Path, model: str) -> None:
    values = numbers(1, 90, 131).astype(np.float32)
    values[0, 20:40, 30:50] = np.nan
    scene = write_scene(tmp_path / "scene.tif", values, names=("B04",))
    run(scene, model, tmp_path / "one.tif", size=16, stride=8)
    request = EmbedRequest(
        scene=(str(scene),), model=model, bands=("B04",), out=tmp_path / "many.tif", size=16, stride=8
    )
    embed_scene(
        request,
        device=torch.device("cpu"),
        dtype=torch.float32,
        cells_per_block=40,  # three rows of 15 cells
        pixels_per_batch=7 * 16 * 16,  # neither a row nor a block is whole batches
    )
    expected = read(tmp_path / "one.tif")
    assert 0 < np.isnan(expected[..., 0]).sum() < expected[..., 0].size / 2
    np.testing.assert_allclose(read(tmp_path / "many.tif"), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_scene_in_an_archive_is_read_by_gdal(tmp_path: Path, model: str) -> None:
    values = numbers(1, 64, 64)
    scene = write_scene(tmp_path / "scene_B04.tif", values)
    with zipfile.ZipFile(tmp_path / "scene.zip", "w") as archive:
        archive.write(scene, scene.name)
    scene.unlink()
    inside = f"/vsizip/{tmp_path / 'scene.zip'}/scene_B04.tif"
    request = EmbedRequest(scene=(inside,), model=model, bands=("B04",), out=tmp_path / "out.tif", size=32)
    embed_scene(request, device=torch.device("cpu"), dtype=torch.float32)
    expected = reference(model, values, ["B04"], ["dn"], size=32, stride=32)
    np.testing.assert_allclose(read(tmp_path / "out.tif"), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, model: str) -> None:
    scene = write_scene(tmp_path / "scene.tif", numbers(1, 112, 112), names=("B04",))
    run(scene, model, tmp_path / "whole.tif", size=32, stride=16, cells_per_block=12)  # two rows of six cells
    out = tmp_path / "out.tif"
    request = EmbedRequest(scene=(str(scene),), model=model, bands=("B04",), out=out, size=32, stride=16)
    options: Any = {"device": torch.device("cpu"), "dtype": torch.float32, "cells_per_block": 12}
    with pytest.raises(Killed):
        embed_scene(request, **options, progress=RecordedProgress(kill_at=24))
    assert not out.exists()
    with (tmp_path / "out.tif.part" / "features.f32").open("ab") as file:
        file.write(b"half a row that was being written")
    made = embed_scene(request, **options)
    assert (made.computed_cells, made.rows * made.cols) == (12, 36)
    np.testing.assert_array_equal(read(out), read(tmp_path / "whole.tif"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.tif", "scene.tif", "whole.tif"]


def test_an_unfinished_run_of_other_settings_is_not_continued(tmp_path: Path, model: str) -> None:
    scene = write_scene(tmp_path / "scene.tif", numbers(1, 64, 64), names=("B04",))
    request = EmbedRequest(scene=(str(scene),), model=model, bands=("B04",), out=tmp_path / "out.tif", size=32)
    with pytest.raises(Killed):
        embed_scene(request, device=torch.device("cpu"), dtype=torch.float32, progress=RecordedProgress(kill_at=1))
    with pytest.raises(ValueError, match=r"out\.tif\.part holds the unfinished embedding of another scene"):
        run(scene, model, tmp_path / "out.tif", size=16)
    write_scene(scene, numbers(1, 64, 64, seed=1), names=("B04",))
    with pytest.raises(ValueError, match="unfinished embedding of another scene"):
        run(scene, model, tmp_path / "out.tif", size=32)


def test_the_file_says_what_it_is_of(tmp_path: Path, model: str) -> None:
    scene = write_scene(tmp_path / "scene.tif", numbers(2, 64, 64), names=("B04", "B08"))
    run(scene, model, tmp_path / "out.tif", bands=("B08", "red"), units=("dn",), size=32)
    with rasterio.open(tmp_path / "out.tif") as source:
        facts = json.loads(source.tags()["EO_BACKBONES"])
    said = {key: facts[key] for key in ("model", "bands", "units", "size", "stride", "scene")}
    assert said == {
        "model": model,
        "bands": ["B08", "B04"],
        "units": ["dn", "dn"],
        "size": 32,
        "stride": 32,
        "scene": [str(scene)],
    }
    weights = (Path(model.removeprefix("local-dir:")) / "model.safetensors").read_bytes()
    assert facts["weights_sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize(
    ("crs", "transform", "km2"),
    [
        ("EPSG:32632", UTM, 0.32**2),
        ("EPSG:2263", Affine(100, 0, 0, 0, -100, 0), (32 * 100 * 1200 / 3937 / 1000) ** 2),  # US survey feet
        ("EPSG:4326", Affine(1e-4, 0, 10, 0, -1e-4, 60), (32e-4 * 111.32) ** 2 * 0.5),  # half as wide at 60 degrees
        (None, UTM, None),
    ],
)
def test_the_area_of_a_cell(crs: str | None, transform: Affine, km2: float | None) -> None:
    grid = Grid(
        height=64, width=64, size=64, stride=32, scene_transform=transform, crs=CRS.from_string(crs) if crs else None
    )
    assert grid.cell_km2 == (None if km2 is None else pytest.approx(km2, rel=1e-3))


def test_real_scenes_of_three_layouts(shared_data: Path, tmp_path: Path, model: str) -> None:
    patch = "ROIs2017_winter_{0}_112_p797.tif"
    sen12ms = [shared_data / "sen12ms_layout/ROIs2017_winter" / f"{s}_112" / patch.format(s) for s in ("s1", "s2")]
    ssl4eo = shared_data / "ssl4eo_s12_sample/s2a/0000200/20200813T054639_20200813T054952_T43RCP"
    ben = shared_data / "bigearthnet_sample/BigEarthNet-S1-Example/S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48"
    cases: list[tuple[list[Path], list[str], list[str], list[tuple[Path, int]]]] = [
        (sen12ms, ["VV", "B04"], ["db", "dn"], [(sen12ms[0], 1), (sen12ms[1], 4)]),
        ([ssl4eo], ["B02", "B08"], ["dn", "dn"], [(ssl4eo / "B2.tif", 1), (ssl4eo / "B8.tif", 1)]),
        ([ben], ["VH"], ["db"], [(ben / f"{ben.name}_VH.tif", 1)]),
    ]
    for number, (paths, bands, units, sources) in enumerate(cases):
        out = tmp_path / f"{number}.tif"
        request = EmbedRequest(
            scene=tuple(map(str, paths)), model=model, bands=tuple(bands), out=out, size=48, stride=36, preview=True
        )
        made = embed_scene(request, device=torch.device("cpu"), dtype=torch.float32)
        values = []
        for path, index in sources:
            with rasterio.open(path) as source:
                values.append(source.read(index))
                middle = source.xy(36 + 23.5, 24 - 0.5)  # window (1, 0): from row 36 on, 48 px; 23.5 is its centre
                crs = source.crs
        with rasterio.open(out) as source:
            assert source.crs == crs
            np.testing.assert_allclose(source.xy(1, 0), middle, rtol=1e-9)
        expected = reference(model, np.array(values, np.float64), bands, units, size=48, stride=36)
        np.testing.assert_allclose(read(out), expected, atol=TOLERANCE, rtol=TOLERANCE)
        assert made.preview is not None
        assert Path(made.preview).stat().st_size > 100
