"""Many scenes into one folder: the same values as one by one, whatever happens to a run or to some of the scenes."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from eo_backbones.device import fast_dtype
from eo_backbones.errors import UserError
from eo_backbones.regions import open_region
from eo_backbones.scenes.components import Components
from support.recorded_progress import Killed, RecordedProgress
from support.region_scenes import cells_by_scene, cells_of, embed, embed_alone, files_of, write_scenes
from support.synthetic_scene import numbers, write_scene
from support.tiny_encoders import write_tiny_encoder

DTYPE = fast_dtype(torch.device("cpu"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny"))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_cell_holds_what_the_command_for_one_scene_gives_it(tmp_path: Path, model: str) -> None:
    scenes = write_scenes(tmp_path / "in")
    made = embed([tmp_path / "in"], model, tmp_path / "out")
    found = cells_by_scene(tmp_path / "out")
    assert len(found) == made.embedded == 3
    for path in scenes:
        alone = embed_alone(path, model, tmp_path / f"{path.stem}.tif", dtype=DTYPE)
        np.testing.assert_array_equal(found[path.stem], alone)
    assert made.nodata_cells == sum(np.isnan(cells[..., 0]).sum() for cells in found.values()) > 0
    assert made.cells == sum(cells[..., 0].size for cells in found.values())
    assert made.km2 == pytest.approx(made.cells * 0.16**2)
    facts = {scene.id: scene.facts for scene in open_region(tmp_path / "out").scenes}
    first = facts["s_20220601T102031"]
    assert (first["scene_id"], first["datetime"][:10]) == ("s_20220601T102031", "2022-06-01")
    assert not names_in(tmp_path / "out") & {".parts", ".lock", "failed.csv", "components.npz"}


@pytest.mark.parametrize("file_format", ["cog", "parquet", "zarr"])
def test_all_scenes_share_components_of_a_sample(tmp_path: Path, model: str, file_format: str) -> None:
    scenes = write_scenes(tmp_path / "in")
    made = embed([tmp_path / "in"], model, tmp_path / "out", components=4, format=file_format)
    assert made.components_file == str(tmp_path / "out" / "components.npz")
    shared = tmp_path / "out" / "components.npz"
    found = cells_by_scene(tmp_path / "out")
    for path in scenes:
        out = tmp_path / f"{path.stem}.tif"
        np.testing.assert_array_equal(
            found[path.stem], embed_alone(path, model, out, dtype=DTYPE, components_from=shared)
        )
    # fewer cells than the smallest sample: all of them are in it
    features = np.concatenate(
        [embed_alone(path, model, tmp_path / "f.tif", dtype=DTYPE, overwrite=True).reshape(-1, 192) for path in scenes]
    )
    features = features[~np.isnan(features[:, 0])].astype(np.float64)
    _, lengths, axes = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    components = Components.load(shared)
    np.testing.assert_allclose(np.abs((components.axes @ axes[:4].T).diagonal()), 1, atol=1e-3)
    np.testing.assert_allclose(components.explained, lengths[:4] ** 2 / (lengths**2).sum(), rtol=1e-3)
    assert made.explained == pytest.approx(components.explained.sum())


def test_scenes_without_a_coordinate_system_are_said_once(
    tmp_path: Path, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    scenes = [
        write_scene(tmp_path / f"{name}.tif", numbers(2, 96, 112), names=("B04", "B08"), crs=None, transform=None)
        for name in "abc"
    ]
    embed(scenes, model, tmp_path / "out")
    said = [message for message in caplog.messages if "coordinate system" in message]
    assert said == [f"{scenes[0]} and 2 more have no coordinate system, so the embeddings have none either"]


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path, model: str) -> None:
    write_scenes(tmp_path / "in")
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(UserError, match=r"another command is writing into .*out; wait until it has ended"),
    ):
        embed([tmp_path / "in"], model, tmp_path / "out")
    assert embed([tmp_path / "in"], model, tmp_path / "out").embedded == 3


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, model: str) -> None:
    write_scenes(tmp_path / "in")
    embed([tmp_path / "in"], model, tmp_path / "whole", components=3)
    out, before = tmp_path / "out", 0
    for stage, kill_at in (("look", 2), ("sample", 40), ("embed", 12), ("embed", 54), ("embed", 90)):
        with pytest.raises(Killed):
            progress = RecordedProgress(kill_in=stage, kill_at=kill_at)
            embed([tmp_path / "in"], model, out, components=3, progress=progress)
        assert len(files_of(out)) >= before
        before = len(files_of(out))
    with (out / "journal.jsonl").open("ab") as file:
        file.write(b'{"scene": "s_20220602T1')  # a line that a kill cut off
    again = RecordedProgress()
    made = embed([tmp_path / "in"], model, out, components=3, progress=again)
    (counts,) = (again.counts[stage] for stage in again.counts if stage.startswith("embed"))
    assert counts[0] >= 84
    assert made.computed_cells == made.cells - counts[0] == counts[-1] - counts[0]
    assert files_of(out) == files_of(tmp_path / "whole")
    assert not names_in(out) & {".parts", ".lock"}


def test_a_finished_run_is_not_repeated_but_lost_and_changed_scenes_are(tmp_path: Path, model: str) -> None:
    scenes = write_scenes(tmp_path / "in")
    out = tmp_path / "out"
    embed([tmp_path / "in"], model, out)
    before = files_of(out)
    made = embed([tmp_path / "in"], model, out)
    assert (made.embedded, made.earlier, made.computed_cells) == (0, 3, 0)
    (out / scenes[0].stem / scenes[0].name).unlink()
    write_scene(scenes[1], numbers(2, 96, 112, seed=9), names=("B04", "B08"))
    write_scenes(tmp_path / "more", 4)
    shutil.move(tmp_path / "more" / "s_20220604T102031.tif", tmp_path / "in")  # a scene that is new
    told = RecordedProgress()
    made = embed([tmp_path / "in"], model, out, progress=told)
    assert (made.embedded, made.earlier) == (3, 1)
    assert ["is missing or was changed" in note or "has changed since" in note for note in told.notes] == [True, True]
    after = files_of(out)
    first, second = (f"{path.stem}/{path.name}" for path in scenes[:2])
    assert after[first] == before[first]
    np.testing.assert_array_equal(
        cells_of(out / second), embed_alone(scenes[1], model, tmp_path / "one.tif", dtype=DTYPE)
    )


def test_a_bad_scene_is_listed_and_does_not_stop_the_others(tmp_path: Path, model: str) -> None:
    folder = tmp_path / "in"
    good = write_scenes(folder)
    whole = good[0].read_bytes()
    (folder / "cut.tif").write_bytes(whole[: len(whole) // 2])  # the header is at the end or the pixels are missing
    write_scene(folder / "other.tif", numbers(2, 96, 112), names=("B02", "B03"))
    write_scene(folder / "small.tif", numbers(2, 20, 20), names=("B04", "B08"))
    write_scene(folder / "share.tif", numbers(2, 96, 112) / np.float32(1e4), names=("B04", "B08"))
    write_scene(folder / "empty.tif", np.zeros((2, 96, 112), np.uint16), names=("B04", "B08"), nodata=0)
    named = [folder, tmp_path / "nothing.tif"]
    made = embed(named, model, tmp_path / "out", components=3)
    with (tmp_path / "out" / "failed.csv").open(newline="") as file:
        failed = {row["scene"]: row for row in csv.DictReader(file)}
    assert set(failed) == {"cut", "other", "small", "share", "empty", "nothing"} == {f["scene"] for f in made.failed}
    for scene, reason in (
        ("other", "no band B04"),
        ("small", "fewer than a window of 32"),
        ("share", "--unit"),
        ("empty", "missing pixels"),
        ("nothing", "no file"),
    ):
        assert reason in failed[scene]["reason"], failed[scene]
        assert scene in failed[scene]["path"]
    assert set(cells_by_scene(tmp_path / "out")) == {path.stem for path in good}
    assert made.embedded == 3
    (folder / "cut.tif").write_bytes(whole)
    for scene in ("other", "small", "share", "empty"):
        (folder / f"{scene}.tif").unlink()
    made = embed([folder], model, tmp_path / "out", components=3)
    assert (made.embedded, made.earlier, made.failed_file) == (1, 3, None)
    assert not (tmp_path / "out" / "failed.csv").exists()
    found = cells_by_scene(tmp_path / "out")
    np.testing.assert_array_equal(found["cut"], found[good[0].stem])


def test_scenes_without_a_coordinate_system_are_embedded(tmp_path: Path, model: str) -> None:
    scenes = write_scenes(tmp_path / "in", 2)
    write_scene(tmp_path / "in" / "plain.tif", numbers(2, 96, 112), names=("B04", "B08"), crs=None, transform=None)
    made = embed([tmp_path / "in"], model, tmp_path / "out", preview=True)
    assert made.embedded == len(scenes) + 1
    assert made.km2 == pytest.approx((made.cells - 30) * 0.16**2)


def test_one_scene_named_twice_is_embedded_once(tmp_path: Path, model: str) -> None:
    scenes = write_scenes(tmp_path / "in", 2)
    made = embed([*scenes, scenes[0], tmp_path / "in" / ".." / "in" / scenes[1].name], model, tmp_path / "out")
    assert (made.scenes, made.embedded) == (2, 2)


def test_other_settings_are_refused_and_named(tmp_path: Path, model: str) -> None:
    write_scenes(tmp_path / "in", 2)
    out = tmp_path / "out"
    embed([tmp_path / "in"], model, out)
    before = files_of(out)
    with pytest.raises(UserError, match=r"--size \(32 there, 48 now\), --components \(none there, 3 now\)"):
        embed([tmp_path / "in"], model, out, size=48, components=3)
    other = write_tiny_encoder(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"other settings: --model"):
        embed([tmp_path / "in"], other, out)
    assert files_of(out) == before
    embed([tmp_path / "in"], model, out, components=3, overwrite=True)
    assert {cells.shape[-1] for cells in cells_by_scene(out).values()} == {3}
    assert not files_of(out).items() & before.items()


def test_overwriting_goes_on_after_a_kill(tmp_path: Path, model: str) -> None:
    write_scenes(tmp_path / "in")
    out = tmp_path / "out"
    embed([tmp_path / "in"], model, out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(Killed):
        progress = RecordedProgress(kill_in="embed", kill_at=20)
        embed([tmp_path / "in"], model, out, stride=32, overwrite=True, progress=progress)
    done = len(files_of(out))
    assert 0 < done < 3
    made = embed([tmp_path / "in"], model, out, stride=32, overwrite=True)
    assert (made.earlier, made.embedded) == (done, 3 - done)
    assert (out / "notes.txt").read_text() == "mine"
    made = embed([tmp_path / "in"], model, out, stride=32, overwrite=True)  # a run that has ended is replaced
    assert (made.earlier, made.embedded) == (0, 3)


def test_components_that_were_replaced_are_refused(tmp_path: Path, model: str) -> None:
    scenes = write_scenes(tmp_path / "in", 2)
    out = tmp_path / "out"
    embed([scenes[0]], model, out, components=3)
    shutil.move(out / "components.npz", tmp_path)
    with pytest.raises(UserError, match=r"components\.npz is missing or was changed, and 1 finished scenes"):
        embed(scenes, model, out, components=3)
    shutil.move(tmp_path / "components.npz", out)
    assert embed(scenes, model, out, components=3).embedded == 1


def test_what_is_no_region_is_not_written_into(tmp_path: Path, model: str) -> None:
    scenes = write_scenes(tmp_path / "in", 2)
    with pytest.raises(UserError, match="is not empty and does not hold a region"):
        embed(scenes, model, tmp_path / "in")
    inside = tmp_path / "in" / "region"
    assert embed([tmp_path / "in"], model, inside).scenes == 2
    assert embed([tmp_path / "in"], model, inside).earlier == 2  # its own embeddings are no scenes
    bands = tmp_path / "bands"  # one scene, a file for each band, and the region beside them
    bands.mkdir()
    for name, values in zip(("B04", "B08"), numbers(2, 96, 112), strict=True):
        write_scene(bands / f"{name}.tif", values[None])
    assert embed([bands], model, bands / "region").embedded == 1
    assert embed([bands], model, bands / "region").earlier == 1
    with pytest.raises(UserError, match="is in the folder of --out"):
        embed([*inside.glob("*/*.tif")], model, inside)


def test_a_file_that_nobody_can_write_ends_the_run_in_one_line(tmp_path: Path, model: str) -> None:
    scenes = write_scenes(tmp_path / "in", 2)
    out = tmp_path / "out"
    embed(scenes[:1], model, out)
    (out / scenes[1].stem).write_text("in the way")
    with pytest.raises(UserError, match="cannot"):
        embed(scenes, model, out)
    assert json.loads((out / "region.json").read_text())["whole"] is False
    (out / scenes[1].stem).unlink()
    assert embed(scenes, model, out).embedded == 1
