"""From GeoTIFFs to a store: values, merging, skipping, resuming, refusing."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio

from eo_backbones.bands import LAYOUTS, PAPER_BANDS
from eo_backbones.datasets.synthetic_files import write_pairs, write_sen12ms
from eo_backbones.errors import UserError
from eo_backbones_train.store.convert import ShardWriter
from eo_backbones_train.store.prepare import prepare
from eo_backbones_train.store.store import Store
from support.recorded_progress import Killed, RecordedProgress
from support.synthetic_layouts import write_bigearthnet

Array = np.ndarray

prepare_in_small_blocks = partial(prepare, block_scenes=2)


def read(path: Path) -> Array:
    with rasterio.open(path) as source:
        return source.read()


def write(path: Path, values: Array) -> None:
    profile = {"driver": "GTiff", "count": values.shape[0], "height": values.shape[1], "width": values.shape[2]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", dtype=values.dtype, **profile) as target:
        target.write(values)


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}


def skipped(store: Path) -> dict[str, str]:
    with (store / "skipped.csv").open() as stream:
        return {row["scene"]: row["reason"] for row in csv.DictReader(stream)}


@pytest.fixture(scope="session")
def sen12ms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patches of 32 pixels; do not change it."""
    return write_sen12ms(
        tmp_path_factory.mktemp("sen12ms"), scenes=("ROIs1158_spring/1", "ROIs2017_winter/2"), patches=3, size=32
    )


def test_stored_values_are_those_of_the_files(sen12ms: Path, tmp_path: Path) -> None:
    """Each band by name, within the error of its coding, read back with numpy alone and through the store."""
    summary = prepare("sen12ms", sen12ms, tmp_path / "store", workers=1)
    assert (summary.stored, summary.skipped, summary.source) == (6, 0, sen12ms.name)
    (shard,) = (tmp_path / "store").glob("tiles-*.npy")
    codes = np.load(shard, mmap_mode="r")
    assert codes.shape == (6, 12, 32, 32)
    assert codes.dtype == np.uint8
    raw = read(sen12ms / "ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p2.tif") / 1e4
    radar = read(sen12ms / "ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p2.tif")
    for position, name in enumerate(PAPER_BANDS):
        expected = raw[LAYOUTS["sen12ms-s2"].index(name)].clip(0, 1)
        assert np.abs((codes[1, position] / 255.0) ** 2 - expected).max() < 0.004, name
    store = Store.open(tmp_path / "store")
    assert store.names[1] == "ROIs1158_spring_1_p2"
    for position, name in enumerate(("VV", "VH")):
        decoded = store.decode(store.tile(1, name), name, store.groups[0])
        assert np.abs(decoded - radar[position].clip(-40, 10)).max() < 0.1


def test_exact_keeps_digital_numbers(sen12ms: Path, tmp_path: Path) -> None:
    prepare("sen12ms", sen12ms, tmp_path / "store", exact=True, workers=1)
    store = Store.open(tmp_path / "store")
    raw = read(sen12ms / "ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p1.tif")
    assert np.array_equal(store.tile(0, "B8A"), raw[LAYOUTS["sen12ms-s2"].index("B8A")])
    with pytest.raises(UserError, match="--exact"):
        prepare("sen12ms", sen12ms, tmp_path / "store", workers=1)


def test_sources_merge_by_size_bands_and_coding(sen12ms: Path, tmp_path: Path) -> None:
    """Display values, digital numbers of two sizes, and one source whose bands join an existing group."""
    store_folder = tmp_path / "store"
    display = write_pairs(
        tmp_path / "display", count=2, sizes=(32,), s2_bands=("B03", "B08"), s1_bands=("VV",), display=True
    )
    pairs = write_pairs(tmp_path / "pairs", count=4, sizes=(32, 24))
    prepare("pairs", display, store_folder, units=["uint8", "B08=uint8:0:1"], workers=1)
    prepare("pairs", pairs, store_folder, workers=1)
    summary = prepare("sen12ms", sen12ms, store_folder, workers=1)
    assert summary.store_scenes == 12
    store = Store.open(store_folder)
    assert sorted((g.height, len(g.bands), g.codings[0].name, g.count) for g in store.groups) == [
        (24, 12, "sqrt-reflectance", 2),
        (32, 3, "display", 2),
        (32, 12, "sqrt-reflectance", 8),
    ]
    assert store.sources == ("display",) * 2 + ("pairs",) * 4 + (sen12ms.name,) * 6
    assert np.array_equal(store.tile(1, "B08"), read(display / "s2" / "synthetic_0001.tif")[1])
    raw = read(pairs / "s2" / "synthetic_0003.tif")[LAYOUTS["sen12ms-s2"].index("B11")]
    assert np.abs((store.tile(5, "B11") / 255.0) ** 2 - raw / 1e4).max() < 0.004
    store.verify()
    with (store_folder / "scenes.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["bands"] == "B03 B08 VV"
    manifest = json.loads((store_folder / "store.json").read_text())
    assert {band: manifest["sources"][0]["units"][band] for band in ("B03", "B08")} == {
        "B03": "uint8",
        "B08": "uint8:0:1",
    }
    assert manifest["codings"]["display:0:1"] == {"q": [0.0, 1 / 255, 0.0], "code_0_is_missing": False}
    group = next(group for group in store.groups if len(group.bands) == 3)
    green, infrared = (store.decode(np.array([[255]], np.uint8), band, group) for band in ("B03", "B08"))
    assert (green.item(), infrared.item()) == (pytest.approx(0.275), pytest.approx(1.0))


def test_smaller_files_of_a_scene_are_enlarged_by_repeating_pixels(tmp_path: Path) -> None:
    root = write_bigearthnet(tmp_path / "ben", patches=1)
    prepare("bigearthnet", root, tmp_path / "store", workers=1, exact=True)
    store = Store.open(tmp_path / "store")
    (path,) = root.rglob("*_B11.tif")
    raw = read(path)[0]
    assert raw.shape == (60, 60)
    assert np.array_equal(store.tile(0, "B11"), np.kron(raw, np.ones((2, 2), raw.dtype)))


def test_broken_scenes_are_skipped_with_their_reason(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=8, sizes=(32,))
    files = {sensor: [root / sensor / f"synthetic_{i:04d}.tif" for i in range(8)] for sensor in ("s1", "s2")}
    files["s2"][0].write_bytes(files["s2"][0].read_bytes()[:9000])
    files["s2"][1].write_text("no image")
    files["s1"][2].unlink()
    write(files["s1"][3], np.random.default_rng(0).normal(-10, 3, (2, 16, 16)).astype(np.float32))
    write(files["s2"][4], np.ones((5, 32, 32), np.uint16))
    write(files["s1"][5], np.full((2, 32, 32), np.nan, np.float32))
    write(files["s2"][6], np.full((13, 32, 32), 500, np.uint16))
    summary = prepare("pairs", root, tmp_path / "store", workers=1)
    reasons = skipped(tmp_path / "store")
    assert summary.stored == 1
    assert Store.open(tmp_path / "store").names == ("synthetic_0007",)
    expected = (
        "unreadable or truncated",
        "unreadable or truncated",
        "missing partner: no s1",
        "size mismatch",
        "has 5 bands without names",
        "no valid value",
        "constant",
    )
    for index, text in enumerate(expected):
        assert text in reasons[f"synthetic_{index:04d}"]
    assert str(tmp_path) not in (tmp_path / "store" / "skipped.csv").read_text()


def test_missing_values_within_a_tile_are_code_zero(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=1, sizes=(32,))
    path = root / "s1" / "synthetic_0000.tif"
    values = read(path)
    values[0, :3] = np.nan
    write(path, values)
    prepare("pairs", root, tmp_path / "store", workers=1)
    tile = Store.open(tmp_path / "store").tile(0, "VV")
    assert not tile[:3].any()
    assert tile[3:].all()


def test_eight_bit_files_need_a_declared_unit(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=1, sizes=(32,), display=True)
    with pytest.raises(UserError, match="--unit uint8"):
        prepare("pairs", root, tmp_path / "store", workers=1)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("unit", ["uint8:0:1", "B03=dn:0:1", "B03=uint8:1:0", "B03=uint8:0", "B03=uint8:a:b"])
def test_a_display_range_that_is_none_is_refused(tmp_path: Path, unit: str) -> None:
    root = write_pairs(tmp_path / "pairs", count=1, sizes=(32,), display=True)
    with pytest.raises(UserError, match="BAND=uint8:LOW:HIGH"):
        prepare("pairs", root, tmp_path / "store", units=[unit], workers=1)
    assert not (tmp_path / "store").exists()


def test_values_in_another_unit_are_refused_with_what_to_type(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=1, sizes=(32,))
    path = root / "s2" / "synthetic_0000.tif"
    write(path, (read(path) / 1e4).astype(np.float32))
    with pytest.raises(UserError, match="--unit B02=reflectance"):
        prepare("pairs", root, tmp_path / "store", workers=1)
    prepare("pairs", root, tmp_path / "store", units=["reflectance"], workers=1)
    assert len(Store.open(tmp_path / "store")) == 1


def test_bands_can_be_given_by_position(tmp_path: Path) -> None:
    root = tmp_path / "pairs"
    values = np.random.default_rng(0).integers(1, 4000, (3, 32, 32)).astype(np.uint16)
    write(root / "s2" / "a.tif", values)
    write(root / "s1" / "a.tif", np.random.default_rng(1).normal(-12, 3, (2, 32, 32)).astype(np.float32))
    with pytest.raises(UserError, match="--bands B03=1"):
        prepare("pairs", root, tmp_path / "store", workers=1)
    prepare("pairs", root, tmp_path / "store", bands=["B08=3", "VV"], exact=True, workers=1)
    store = Store.open(tmp_path / "store")
    assert store.groups[0].bands == ("B08", "VV")
    assert np.array_equal(store.tile(0, "B08"), values[2])


def test_hold_out_and_subset_are_recorded(tmp_path: Path) -> None:
    root = write_sen12ms(tmp_path / "s", scenes=("ROIs1158_spring/63", "ROIs1158_spring/9"), patches=2, size=16)
    assert prepare("sen12ms", root, tmp_path / "a", workers=1).held_out == 2
    assert prepare("sen12ms", root, tmp_path / "b", workers=1, hold_out=True).stored == 4
    prepare("sen12ms", root, tmp_path / "c", workers=1, hold_out=True, subset="2")
    subset = json.loads((tmp_path / "c" / "store.json").read_text())["sources"][0]["subset"]
    assert subset["per_roi"] == {"ROIs1158_spring_63": 1, "ROIs1158_spring_9": 1}
    with pytest.raises(UserError, match="90,331"):
        prepare("sen12ms", root, tmp_path / "d", workers=1, subset="90k")
    with pytest.raises(UserError, match="hold-out"):
        prepare("sen12ms", root, tmp_path / "d", workers=1, subset="90k", hold_out=True)


def test_an_interrupted_job_resumes_to_the_same_bytes(sen12ms: Path, tmp_path: Path) -> None:
    """Stopped after each number of blocks, with a line cut short and a stray unfinished file."""
    prepare_in_small_blocks("sen12ms", sen12ms, tmp_path / "whole", workers=1)
    whole = contents(tmp_path / "whole")
    assert sum(name.startswith("tiles-") for name in whole) == 3
    for stop in (0, 2, 4):
        store = tmp_path / f"stopped-{stop}"
        with pytest.raises(Killed):
            prepare_in_small_blocks("sen12ms", sen12ms, store, workers=1, progress=RecordedProgress(kill_at=stop))
        with pytest.raises(UserError, match="unfinished"):
            Store.open(store)
        with (store / "journal-0.jsonl").open("a") as stream:
            stream.write('{"number":')
        (store / ".unfinished-1-tiles.npy").write_bytes(b"\0" * 10)
        resumed = RecordedProgress()
        prepare_in_small_blocks("sen12ms", sen12ms, store, workers=1, progress=resumed)
        assert resumed.totals == {"scenes": 6}
        assert (resumed.counts["scenes"][0], resumed.counts["scenes"][-1]) == (stop, 6)
        assert contents(store) == whole


def test_a_store_stays_valid_while_a_source_is_added(sen12ms: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    pairs = write_pairs(tmp_path / "pairs", count=3, sizes=(32,))
    prepare_in_small_blocks("pairs", pairs, store, workers=1)
    digest = Store.open(store).digest

    with pytest.raises(Killed):
        prepare_in_small_blocks("sen12ms", sen12ms, store, workers=1, progress=RecordedProgress(kill_at=4))
    opened = Store.open(store)
    assert (len(opened), opened.digest) == (3, digest)
    with pytest.raises(UserError, match=r"unfinished source \(sen12ms"):
        prepare_in_small_blocks("pairs", write_pairs(tmp_path / "others", count=2, sizes=(16,)), store, workers=1)
    prepare_in_small_blocks("sen12ms", sen12ms, store, workers=1)
    assert len(Store.open(store)) == 9


def test_a_full_disk_is_told_and_the_job_can_go_on(
    sen12ms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_in_small_blocks("sen12ms", sen12ms, tmp_path / "whole", workers=1)
    appended = iter(range(100))
    write_tile = ShardWriter.append

    def append(self: ShardWriter, codes: Array) -> int:
        if next(appended) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_tile(self, codes)

    monkeypatch.setattr(ShardWriter, "append", append)
    with pytest.raises(UserError, match="no space left"):
        prepare_in_small_blocks("sen12ms", sen12ms, tmp_path / "store", workers=1)
    assert not list((tmp_path / "store").glob(".unfinished-*"))
    prepare_in_small_blocks("sen12ms", sen12ms, tmp_path / "store", workers=1)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_the_same_source_again_changes_nothing(sen12ms: Path, tmp_path: Path) -> None:
    first = prepare("sen12ms", sen12ms, tmp_path / "store", workers=1)
    before = contents(tmp_path / "store")
    again = prepare("sen12ms", sen12ms, tmp_path / "store", workers=1)
    assert again.already_there
    assert again.digest == first.digest
    assert contents(tmp_path / "store") == before
    with pytest.raises(UserError, match=r"another choice of .*bands"):
        prepare("sen12ms", sen12ms, tmp_path / "store", bands=["B04", "VV"], workers=1)


def test_the_digest_does_not_depend_on_where_the_files_are(sen12ms: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").symlink_to(sen12ms)
    here = prepare("sen12ms", sen12ms, tmp_path / "a", workers=1)
    there = prepare("sen12ms", tmp_path / "moved", tmp_path / "b", workers=1)
    other = prepare("sen12ms", sen12ms, tmp_path / "c", workers=1, bands=["B04", "VV"])
    assert here.digest == there.digest
    assert other.digest != here.digest


def test_nothing_usable_leaves_nothing_behind(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=1, sizes=(16,))
    (root / "s2" / "synthetic_0000.tif").write_text("no image")
    with pytest.raises(UserError, match=r"no usable scene.*unreadable"):
        prepare("pairs", root, tmp_path / "store", workers=1)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": ["VV=dn"]}, "cannot be in dn"),
        ({"units": ["watts"]}, "unknown unit"),
        ({"bands": ["B99"]}, "unknown band"),
        ({"bands": ["B04=0"]}, "counted from 1"),
        ({"subset": "half"}, "unknown subset"),
        ({"hold_out": True}, "no hold-out scenes"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str, tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", count=1, sizes=(16,))
    with pytest.raises(UserError, match=message):
        prepare("pairs", root, tmp_path / "store", workers=1, **options)
    assert not (tmp_path / "store").exists()


def test_a_folder_with_something_else_is_not_written_to(sen12ms: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(UserError, match="is not empty and does not hold a store"):
        prepare("sen12ms", sen12ms, tmp_path, workers=1)
    with pytest.raises(UserError, match="no folder"):
        prepare("sen12ms", tmp_path / "absent", tmp_path / "store", workers=1)


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from eo_backbones.progress import Silent
from eo_backbones_train.store.prepare import prepare

class KilledAfterABlock(Silent):
    @contextmanager
    def stage(self, text, total, done=0):
        yield lambda steps, detail: os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    killed = KilledAfterABlock()
    prepare("sen12ms", Path(sys.argv[1]), Path(sys.argv[2]), workers=2, progress=killed, block_scenes=2)
"""


@pytest.mark.slow
def test_several_processes_killed_and_resumed_give_the_same_bytes(
    sen12ms: Path, tmp_path: Path, repository: Path
) -> None:
    """Two processes, the parent killed with SIGKILL after the first block; then one process finishes."""
    prepare_in_small_blocks("sen12ms", sen12ms, tmp_path / "one", workers=1)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    paths = os.pathsep.join((str(repository), str(repository / "training")))
    killed = subprocess.run(
        [sys.executable, script, sen12ms, tmp_path / "two"],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=200,
    )
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="unfinished"):
        Store.open(tmp_path / "two")
    prepare_in_small_blocks("sen12ms", sen12ms, tmp_path / "two", workers=1)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.slow
def test_real_sources_merge_into_one_store(shared_data: Path, tmp_path: Path) -> None:
    """Some OMBRIA pairs (display values), all multi-band pairs (three sizes) and the SEN12MS sample."""
    with tarfile.open(shared_data / "ombria_pairs.tar") as archive:
        chosen = [m for m in archive.getmembers() if m.name.endswith(".tif") and "_00" in m.name][:400]
        archive.extractall(tmp_path, chosen, filter="data")
    with tarfile.open(shared_data / "multiband_pairs.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    store = tmp_path / "store"
    prepare("pairs", tmp_path / "ombria", store, units=["uint8"], workers=1)
    multiband = prepare("pairs", tmp_path / "multiband_pairs", store, workers=1)
    prepare("sen12ms", shared_data / "sen12ms_layout", store, workers=1)
    assert (multiband.stored, multiband.skipped) == (66, 2)  # two are open water with a constant band
    opened = Store.open(store)
    assert sorted({(group.height, len(group.bands)) for group in opened.groups}) == [
        (120, 12),
        (224, 12),
        (256, 4),
        (256, 12),
    ]
    first = multiband.store_scenes - multiband.stored
    scene = opened.names.index("sen12mscr_316")
    assert scene >= first
    raw = read(tmp_path / "multiband_pairs" / "s2" / "sen12mscr_316.tif")[LAYOUTS["sen12ms-s2"].index("B04")]
    group = opened.groups[opened.scene_group[scene]]
    assert np.abs(opened.decode(opened.tile(scene, "B04"), "B04", group) - raw.clip(1, 10000) / 1e4).max() < 0.004
