"""Opening a store: what is in it, and every way in which it can be wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from eo_backbones.datasets.synthetic_files import write_pairs
from eo_backbones.errors import UserError
from eo_backbones_train.store.convert import ShardWriter
from eo_backbones_train.store.format import STORE_FILE
from eo_backbones_train.store.prepare import prepare
from eo_backbones_train.store.store import Store, usable_scenes


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sizes, then a source with other bands; do not change it."""
    folder = tmp_path_factory.mktemp("store_test")
    both = write_pairs(folder / "both", count=4, sizes=(32, 16))
    few = write_pairs(folder / "few", count=2, sizes=(16,), s2_bands=("B10", "B04"), s1_bands=("VH",))
    prepare("pairs", both, folder / "store", workers=1)
    prepare("pairs", few, folder / "store", workers=1)
    return folder / "store"


@pytest.fixture
def store(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original, tmp_path / "copy"))


def test_scenes_know_their_group_and_row(original: Path) -> None:
    store = Store.open(original)
    assert len(store) == 6
    assert store.names == tuple(f"synthetic_{i:04d}" for i in (0, 1, 2, 3, 0, 1))
    assert [store.groups[g].height for g in store.scene_group] == [32, 16, 32, 16, 16, 16]
    assert store.scene_row.tolist() == [0, 0, 1, 1, 0, 1]
    assert [group.count for group in store.groups] == [2, 2, 2]
    assert store.tile(4, "vh").shape == (16, 16)
    with pytest.raises(UserError, match="has no band VV"):
        store.tile(4, "VV")


def test_rows_count_through_the_shards(tmp_path: Path) -> None:
    """A group in several files, cut by size within a block, gives the same tiles as one in a single file."""
    root = write_pairs(tmp_path / "pairs", count=5, sizes=(16,))
    prepare("pairs", root, tmp_path / "one", workers=1)
    prepare("pairs", root, tmp_path / "three", workers=1, shard_bytes=2 * 12 * 16 * 16)
    one, three = Store.open(tmp_path / "one"), Store.open(tmp_path / "three")
    assert len(three.groups[0].shards) == 3
    assert all(np.array_equal(one.tile(i, "B8A"), three.tile(i, "B8A")) for i in range(5))
    assert len({three.tile(i, "B8A").tobytes() for i in range(5)}) == 5
    three.verify()


def test_a_subset_is_a_view_with_its_own_digest(original: Path) -> None:
    store = Store.open(original)
    some = store.subset([5, 0])
    assert some.names == ("synthetic_0001", "synthetic_0000")
    assert np.array_equal(some.tile(0, "B04"), store.tile(5, "B04"))
    assert some.digest not in {store.digest, store.subset([0, 5]).digest}


def test_missing_values_decode_to_nan(original: Path) -> None:
    store = Store.open(original)
    decoded = store.decode(np.array([[0, 255]], np.uint8), "VH", store.groups[store.scene_group[0]])
    assert np.isnan(decoded[0, 0])
    assert decoded[0, 1] == pytest.approx(10.0)


def test_tiles_begin_at_a_memory_page(tmp_path: Path) -> None:
    """So that a tile of 256 pixels is 16 pages and not 17."""
    tile = np.arange(2 * 4 * 4, dtype=np.uint16).reshape(2, 4, 4)
    writer = ShardWriter(tmp_path, "tiles.npy", "group", tile)
    rows = [writer.append(tile + i) for i in range(3)]
    record = writer.close()
    loaded = np.load(tmp_path / "tiles.npy", mmap_mode="r")
    assert rows == [0, 1, 2]
    assert loaded.offset == 4096
    assert np.array_equal(loaded, np.stack([tile, tile + 1, tile + 2]))
    assert record.size == (tmp_path / "tiles.npy").stat().st_size


def test_usable_scenes_have_a_band_of_each_sensor(original: Path) -> None:
    store = Store.open(original)
    assert usable_scenes(store, ("B02", "B03"), ("VV", "VH")).tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"its bands: B02, .*VV, VH"):
        usable_scenes(store, ("B01",), ("VV",))


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a store"):
        Store.open(tmp_path)


def test_another_version(store: Path) -> None:
    manifest = json.loads((store / STORE_FILE).read_text())
    (store / STORE_FILE).write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(UserError, match="version 99"):
        Store.open(store)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "eo_backbones tile store", "version": 1}'])
def test_damaged_manifest(store: Path, text: str) -> None:
    (store / STORE_FILE).write_text(text)
    with pytest.raises(UserError, match="damaged"):
        Store.open(store)


def test_changed_manifest(store: Path) -> None:
    text = (store / STORE_FILE).read_text().replace("sqrt-reflectance", "exact-dn")
    (store / STORE_FILE).write_text(text)
    with pytest.raises(UserError, match="was changed"):
        Store.open(store)


def test_changed_list_of_scenes(store: Path) -> None:
    path = store / "scenes.csv"
    path.write_text(path.read_text().replace("synthetic_0001", "synthetic_0009"))
    with pytest.raises(UserError, match=r"scenes\.csv was changed"):
        Store.open(store)


def test_missing_and_short_files(store: Path) -> None:
    shard = next(store.glob("tiles-*.npy"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{shard.name} has {len(content) - 1:,} bytes instead of {len(content):,}"):
        Store.open(store)
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} is missing"):
        Store.open(store)


def test_a_changed_pixel_is_found_by_verify(store: Path) -> None:
    Store.open(store).verify()
    shard = sorted(store.glob("tiles-*.npy"))[-1]
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=shard.name):
        Store.open(store).verify()
