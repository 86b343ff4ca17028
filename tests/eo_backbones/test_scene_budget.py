"""``--budget``: what is chosen is what was measured, and the files fit."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS

from eo_backbones.errors import UserError
from eo_backbones.scenes.budget import MEASURED, SOURCE, choose
from eo_backbones.scenes.grid import Grid
from eo_backbones.scenes.outputs import Format, write_embedding
from support.synthetic_scene import UTM, numbers, write_scene
from support.tiny_encoders import write_tiny_encoder
from support.typed_command import Ended, command

__all__ = ["command"]  # the fixture
REPOSITORY = Path(__file__).parents[2]


def test_the_table_in_the_code_is_that_of_the_benchmark() -> None:
    rows = []
    for line in (REPOSITORY / SOURCE).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 9 and cells[1] in {"float32", "float16", "int8"}:
            optical, radar = (float(re.findall(r"[-+][\d.]+", cells[column])[0]) for column in (6, 8))
            rows.append((None if cells[0] == "all" else int(cells[0]), cells[1], optical, radar))
    assert rows == [(row.components, row.dtype, row.optical_points, row.radar_points) for row in MEASURED]
    assert rows[0][:2] == (None, "float32")


def test_the_most_accurate_setting_that_fits_is_chosen() -> None:
    cells, features = 117_649, 1280
    ample = choose(cells, features, 1e6, "cog")
    assert ample.components is None
    assert ample.optical_points == max(row.optical_points for row in MEASURED)
    chosen = [choose(cells, features, megabytes, "cog") for megabytes in (1000, 200, 60, 30, 12, 4)]
    assert all(choice.megabytes <= limit for choice, limit in zip(chosen, (1000, 200, 60, 30, 12, 4), strict=True))
    points = [choice.optical_points for choice in chosen]
    assert points == sorted(points, reverse=True)
    with pytest.raises(UserError, match=r"need 2.51 MB at least, 16 components in int8; pass --budget 2.51 or more"):
        choose(cells, features, 1, "cog")
    with pytest.raises(UserError, match="pass a number above 0"):
        choose(cells, features, -1, "cog")


def test_no_more_components_than_features_or_cells_and_int8_where_it_has_a_place() -> None:
    assert choose(10**6, 20, 30, "cog").components in {None, 16}
    assert choose(15, 1280, 1, "cog").components is None
    assert choose(10**6, 1280, 200, "parquet").dtype == "float16"
    with pytest.raises(UserError, match=r"16 components in float16"):
        choose(10**6, 1280, 10, "zarr")


@pytest.mark.parametrize("file_format", get_args(Format))
@pytest.mark.parametrize("megabytes", [0.5, 1.5, 4.0, 40.0])
def test_files_are_no_larger_than_the_budget(tmp_path: Path, file_format: Format, megabytes: float) -> None:
    side = 96
    grid = Grid(height=side * 16, width=side * 16, size=16, stride=16, scene_transform=UTM, crs=CRS.from_epsg(32632))
    try:
        choice = choose(side**2, 600, megabytes, file_format)
    except UserError:
        assert file_format in {"parquet", "zarr"}  # without int8
        return
    count = choice.components or 600
    values = np.random.default_rng(0).normal(size=(side, side, count)).astype(np.float32)  # nothing compresses it

    def rows() -> Iterator[np.ndarray]:
        return iter(values)

    path = tmp_path / f"out.{file_format}"
    write_embedding(path, rows, format=file_format, grid=grid, numbers=count, dtype=choice.dtype, facts={})
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) / 1e6 <= choice.megabytes + 0.1  # metadata


def test_embed_with_a_budget(tmp_path: Path, command: Callable[..., Ended]) -> None:
    scene = write_scene(tmp_path / "scene.tif", numbers(1, 400, 400), names=("B04",))
    model = write_tiny_encoder(tmp_path / "model")
    shared = ["embed", scene, "--model", model, "--bands", "B04", "--size", 32, "--stride", 16, "--device", "cpu"]
    ended = command(*shared, "--out", tmp_path / "out.tif", "--format", "cog", "--budget", "0.02", "--json")
    assert ended.status == 0, ended.err
    said = json.loads(ended.out)
    assert said["budget"]["source"] == SOURCE
    assert said["budget"]["megabytes"] <= 0.02
    assert "weighted F1" in ended.err
    with rasterio.open(tmp_path / "out.tif") as source:
        assert source.count == said["numbers"] == said["budget"]["components"]
        assert source.dtypes[0] == said["budget"]["dtype"]
    many = command(*shared, "--out", tmp_path / "region", "--budget", "0.02", "--json")
    assert many.status == 0, many.err
    assert json.loads(many.out)["budget"] == said["budget"]


@pytest.mark.parametrize("option", ["--components 4", "--dtype float32", "--components-from x.npz"])
def test_a_budget_and_what_it_chooses_cannot_be_given_together(
    tmp_path: Path, command: Callable[..., Ended], option: str
) -> None:
    ended = command(
        "embed",
        "scene.tif",
        "--model",
        "x",
        "--bands",
        "B04",
        "--budget",
        5,
        *option.split(),
        "--out",
        tmp_path / "o.tif",
    )
    assert ended.status == 2
    assert ended.err.strip().endswith(f"leave it out, or {option.split(maxsplit=1)[0]}")


def test_a_budget_that_nothing_fits_is_refused_before_any_work(tmp_path: Path, command: Callable[..., Ended]) -> None:
    scene = write_scene(tmp_path / "scene.tif", numbers(1, 400, 400), names=("B04",))
    model = write_tiny_encoder(tmp_path / "model")
    shared = ["embed", scene, "--model", model, "--bands", "B04", "--size", 32, "--stride", 16, "--budget", "0.001"]
    for out in ("out.tif", "region"):
        ended = command(*shared, "--out", tmp_path / out)
        assert ended.status == 2
        assert re.search(r"error: --budget 0.001: 576 cells need .* MB at least, 16 components in int8", ended.err)
        assert not (tmp_path / out).exists()


def test_outlines_of_cells_are_for_tables(tmp_path: Path, command: Callable[..., Ended]) -> None:
    ended = command(
        "embed", "scene.tif", "--model", "x", "--bands", "B04", "--geometry", "polygon", "--out", tmp_path / "o.tif"
    )
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "--geometry polygon is for tables, not for geotiff" in ended.err
