"""Batches against the store's tiles, and decoded codes against the input contract in float64."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor

from eo_backbones.contract import unit_range
from eo_backbones.datasets.synthetic_files import write_pairs
from eo_backbones.errors import UserError
from eo_backbones.inputs import InputTransform
from eo_backbones_train.data.loader import Batch, Loader, decode_table
from eo_backbones_train.data.tiles import MappedTiles, ResidentTiles, resident_bytes
from eo_backbones_train.recipes.published import get_recipe, input_spec
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.store.codings import CODINGS
from eo_backbones_train.store.prepare import prepare
from eo_backbones_train.store.store import Store

Folders = dict[str, Path]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Three sources: digital numbers at 32 and 24 pixels with missing radar values, display values; do not change."""
    folder = tmp_path_factory.mktemp("loader")
    sources = {
        "numbers": write_pairs(folder / "numbers", count=6, sizes=(32, 24)),
        "display": write_pairs(
            folder / "display", count=4, sizes=(32,), s2_bands=("B03", "B08"), s1_bands=("VV",), display=True
        ),
    }
    path = sources["numbers"] / "s1" / "synthetic_0000.tif"
    with rasterio.open(path) as source:
        values, profile = source.read(), source.profile
        descriptions = source.descriptions
    values[:, 2:5] = np.nan
    with rasterio.open(path, "w", **profile) as target:
        target.write(values)
        target.descriptions = descriptions
    return sources


def make(folders: Folders, out: Path, *, exact: bool = False) -> Store:
    prepare("pairs", folders["numbers"], out, exact=exact, workers=1)
    prepare("pairs", folders["display"], out, exact=exact, units=["uint8"], workers=1)
    return Store.open(out)


@pytest.fixture(scope="session")
def store(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(folders, tmp_path_factory.mktemp("loader_store") / "store")


@pytest.fixture(scope="session")
def exact_store(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(folders, tmp_path_factory.mktemp("loader_exact") / "store", exact=True)


def recipe(input_: str = "unit-range", **changes: object) -> Recipe:
    base = get_recipe("byol-full")
    bands = {"s2_bands": ("B03", "B08", "B11"), "s1_bands": ("VV", "VH")}
    return replace(base, data=replace(base.data, input=input_, **bands), **({"global_batch": 4, "seed": 5} | changes))


def copied(batch: Batch) -> Batch:
    return Batch(*(tensor.clone() for tensor in batch))


def same(a: Batch, b: Batch) -> bool:
    """Equal to the last bit; "no missing value" is a NaN on both sides."""
    return all(torch.equal(x.nan_to_num(99), y.nan_to_num(99)) for x, y in zip(a, b, strict=True))


def decoded(batch: Batch) -> Tensor:
    """What the views make of the codes, in float64."""
    q0, q1, q2, low, high, missing = batch.decode.double()[..., None, None].unbind(2)
    codes = batch.codes.double()
    values = (q0 + q1 * codes + q2 * codes**2).maximum(low).minimum(high)
    return torch.where((codes == 0) & ~missing.isnan(), missing, values)


@pytest.mark.parametrize("input_", ["unit-range", "standardized"])
@pytest.mark.parametrize("kind", ["store", "exact_store"])
def test_decoded_batches_are_what_the_input_contract_promises(
    kind: str, input_: str, folders: Folders, request: pytest.FixtureRequest
) -> None:
    """Against the library's transform of the raw files, for every coding, within half a step of the coding."""
    store = request.getfixturevalue(kind)
    asked = recipe(input_)
    contract = input_spec(asked)
    tolerance = {
        "sqrt-reflectance": 0.004,
        "linear-db": 0.0985,
        "exact-dn": 1e-6,
        "exact-centidb": 0.0051,
        "display": 1e-6,
    }
    loader = Loader(store, asked, device="cpu")
    used = set()
    for step in range(24):
        batch = copied(loader.batch(step))
        share = loader.plan.share(step, rank=0, world_size=1)
        values = decoded(batch)
        for position, scene in enumerate(batch.scene.tolist()):
            group = store.groups[store.scene_group[scene]]
            height, width = group.height, group.width
            assert batch.extent[:, position].tolist() == [[height, width]] * 2
            for view, index in enumerate((share.first_band[position], share.second_band[position])):
                name, coding = group.bands[index], group.codings[index]
                used.add(coding.name)
                with rasterio.open(
                    folders[store.sources[scene]] / f"s{2 - view}" / f"{store.names[scene]}.tif"
                ) as file:
                    raw = file.read(file.descriptions.index(name) + 1)
                unit = "uint8" if coding.name == "display" else ("dn", "db")[view]
                expected = InputTransform(contract, band=name, unit=unit, check="off")(raw)[0].double()
                entry = contract.for_band(name)
                # published recipes were trained with missing pixels at the lower end of the clip range
                expected[torch.as_tensor(~np.isfinite(raw))] = (entry.clip[0] - entry.mean) / entry.std
                step_size = tolerance[coding.name] / entry.std
                found = values[view, position, :height, :width]
                assert (found - expected).abs().max() <= step_size + 1e-6, (name, coding.name)
    loader.close()
    kept = {"store": {"sqrt-reflectance", "linear-db"}, "exact_store": {"exact-dn", "exact-centidb"}}[kind]
    assert used == kept | {"display"}


def test_missing_values_are_the_low_end_and_display_zero_is_a_value(store: Store) -> None:
    table = decode_table(store, input_spec(recipe()))
    rows = table.reshape(-1, 6)
    ours = rows[~np.isnan(rows[:, 5])]
    assert (ours[:, 5] == ours[:, 3]).all()
    display = next(index for index, group in enumerate(store.groups) if group.codings[0] is CODINGS["display"])
    assert np.isnan(table[display, :3, 5]).all()


def test_codes_are_the_stored_tiles(store: Store) -> None:
    loader = Loader(store, recipe(), device="cpu")
    batch = loader.batch(3)
    assert batch.codes.shape == (2, 4, 32, 32)
    assert batch.codes.dtype == torch.uint8
    plan = loader.plan.step(3)
    assert batch.scene.tolist() == plan.scene.tolist()
    for position, scene in enumerate(plan.scene.tolist()):
        group = store.groups[store.scene_group[scene]]
        for view, index in enumerate((plan.first_band[position], plan.second_band[position])):
            tile = store.tile(scene, group.bands[index])
            assert np.array_equal(batch.codes[view, position, : group.height, : group.width].numpy(), tile)
    loader.close()


def test_any_step_can_be_asked_for(store: Store) -> None:
    """In order, backwards, after a jump: the same batches, so that resuming needs no state."""
    loader = Loader(store, recipe(), device="cpu")
    forward = [copied(loader.batch(step)) for step in range(8)]
    for step in (7, 2, 3, 4, 0, 6, 5, 1):
        assert same(loader.batch(step), forward[step]), step
    assert loader.steps_per_epoch == 2
    loader.close()


def test_processes_share_the_batch_of_one(store: Store) -> None:
    whole = Loader(store, recipe(), device="cpu")
    parts = [Loader(store, recipe(), device="cpu", rank=rank, world_size=2) for rank in range(2)]
    for step in range(4):
        expected = copied(whole.batch(step))
        shares = [copied(part.batch(step)) for part in parts]
        joined = Batch(
            *(
                torch.cat([share[i] for share in shares], 0 if i == Batch._fields.index("scene") else 1)
                for i in range(4)
            )
        )
        assert same(joined, expected)
    for loader in (whole, *parts):
        loader.close()


@pytest.mark.parametrize("kind", ["store", "exact_store"])
def test_tiles_kept_on_a_device_are_those_of_the_files(kind: str, request: pytest.FixtureRequest) -> None:
    """The copy for the GPU, here made on the CPU, gathers what the memory maps gather; also of a subset of scenes."""
    store: Store = request.getfixturevalue(kind)
    store = store.subset([9, 0, 3, 8, 1, 4, 2])
    loader = Loader(store, recipe(), device="cpu")
    bands = ("B03", "B08", "B11", "VV", "VH")
    usable = loader.plan.usable
    resident = ResidentTiles(store, usable, bands, torch.device("cpu"))
    assert resident.nbytes == resident_bytes(store, usable, bands)
    for step in range(6):
        batch = copied(loader.batch(step))
        plan = loader.plan.step(step)
        for view, band in enumerate((plan.first_band, plan.second_band)):
            out = torch.full_like(batch.codes[view], 77)
            resident.gather(plan.scene, band, out)
            assert torch.equal(out, batch.codes[view])
    loader.close()


def test_tiles_of_one_size_are_gathered_straight_into_the_buffer(store: Store) -> None:
    """The path without a temporary copy, taken where all tiles of a batch are of one group."""
    only = store.subset([0, 2, 4])
    resident = ResidentTiles(only, np.arange(3), ("B03", "VV"), torch.device("cpu"))
    group = only.groups[only.scene_group[0]]
    out = torch.zeros((3, 32, 32), dtype=torch.uint8)
    resident.gather(np.array([2, 0, 1]), np.full(3, group.bands.index("VV")), out)
    assert all(np.array_equal(out[i].numpy(), only.tile(scene, "VV")) for i, scene in enumerate((2, 0, 1)))


def test_announcing_tiles_reads_the_right_ones(store: Store) -> None:
    """Once per tile where the store fits memory, each time where it does not; and never out of a file's range."""
    sizes = [array.nbytes for group in store.groups for array in group.arrays]
    scenes, bands = np.arange(len(store)), np.full(len(store), 1)
    tiles = MappedTiles(store)
    announced = tiles.announce(scenes, bands)
    assert len(announced) == len(store)
    assert all(start % 4096 == 0 and start + length <= sizes[shard] for shard, start, length in announced)
    assert tiles.announce(scenes, bands) == []
    beyond_memory = MappedTiles(store, memory_bytes=1000)
    assert [beyond_memory.announce(scenes, bands) for _ in range(2)] == [announced] * 2


def test_an_error_in_the_thread_reaches_the_caller(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(store, recipe(), device="cpu")
    first = copied(loader.batch(0))

    def broken(*_: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(MappedTiles, "gather", broken)
        with pytest.raises(OSError, match="the disk is gone"):
            loader.batch(50)
    assert torch.equal(loader.batch(0).scene, first.scene)
    loader.close()


def test_wrong_options_are_refused(store: Store) -> None:
    with pytest.raises(UserError, match="4 cannot be split over 3 processes; start 1, 2, 4"):
        Loader(store, recipe(), device="cpu", world_size=3)
    with pytest.raises(UserError, match="needs --device cuda"):
        Loader(store, recipe(), device="cpu", data_device="cuda")
    with pytest.raises(UserError, match="unknown data device"):
        Loader(store, recipe(), device="cpu", data_device="gpu")
    with pytest.raises(UserError, match="exceeds the 10 usable scenes"):
        Loader(store, recipe(global_batch=16), device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["store", "exact_store"])
@pytest.mark.parametrize("data_device", ["cpu", "cuda"])
def test_batches_on_a_gpu_are_those_on_the_cpu(data_device: str, kind: str, request: pytest.FixtureRequest) -> None:
    """While the consumer's stream is busy, so that a buffer that is reused too early shows."""
    store = request.getfixturevalue(kind)
    host = Loader(store, recipe(), device="cpu")
    loader = Loader(store, recipe(), device="cuda", data_device=data_device)
    assert loader.data_device == data_device
    work = torch.randn(2048, 2048, device="cuda")
    for step in (*range(20), 3, 4, 40):
        expected, batch = copied(host.batch(step)), loader.batch(step)
        for _ in range(5):
            work = (work @ work).clamp(-1, 1)
        assert same(Batch(*(tensor.clone().cpu() for tensor in batch)), expected)
    host.close()
    loader.close()


def test_the_contract_of_the_test_recipe_is_the_fields(store: Store) -> None:
    assert input_spec(recipe()) == unit_range(("B03", "B08", "B11", "VV", "VH"))


def test_what_a_teacher_sees_lies_behind_the_pair(store: Store) -> None:
    """Views 2 to 4 are the planned bands of the same scenes; the pair itself is as without a teacher."""
    asked = get_recipe("distill-mini")
    bands = {"s2_bands": ("B03", "B08", "B11"), "s1_bands": ("VV", "VH")}
    teachers = {sees: replace(asked.teacher, sees=sees) for sees in ("view", "colour")}  # type: ignore[type-var]
    plain, colour = (
        Loader(
            store,
            replace(asked, data=replace(asked.data, **bands), teacher=teacher, global_batch=4),  # type: ignore[arg-type]
            device="cpu",
        )
        for teacher in teachers.values()
    )
    assert plain.geometry == (0, 1)
    assert colour.geometry == (0, 1, 0, 0, 0)
    for step in range(3):
        pair, batch = copied(plain.batch(step)), copied(colour.batch(step))
        assert same(Batch(batch.codes[:2], batch.extent[:2], batch.decode[:2], batch.scene), pair)
        colours = colour.plan.share(step, rank=0, world_size=1).colour_bands
        for place, scene in enumerate(batch.scene.tolist()):
            for view in range(3):
                tile = store.tile(scene, store.groups[store.scene_group[scene]].bands[colours[place, view]])
                height, width = tile.shape
                assert np.array_equal(batch.codes[2 + view, place, :height, :width].numpy(), tile)
