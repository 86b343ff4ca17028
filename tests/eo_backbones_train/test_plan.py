"""The plan as a pure function: permutations, shares, uniform draws, literal values."""

from pathlib import Path

import numpy as np
import pytest

from eo_backbones.datasets.synthetic_files import write_pairs
from eo_backbones.errors import UserError
from eo_backbones_train.data.plan import Plan, choices_of_step, epoch_order, scenes_of_step, splitmix64, steps_per_epoch
from eo_backbones_train.store.prepare import prepare
from eo_backbones_train.store.store import Store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twelve scenes; the last four have fewer bands, the last two of those no VV and no B04."""
    folder = tmp_path_factory.mktemp("plan")
    prepare("pairs", write_pairs(folder / "a", count=8, sizes=(16,)), folder / "store", workers=1)
    few = write_pairs(folder / "b", count=2, sizes=(16,), s2_bands=("B04", "B03"), s1_bands=("VV",))
    none = write_pairs(folder / "c", count=2, sizes=(16,), s2_bands=("B03",), s1_bands=("VH",))
    prepare("pairs", few, folder / "store", workers=1)
    prepare("pairs", none, folder / "store", workers=1)
    return Store.open(folder / "store")


def test_hash_is_splitmix64() -> None:
    """The published generator's first outputs for seed 0 are the finaliser at multiples of its increment."""
    increment = 0x9E3779B97F4A7C15
    states = np.array([0, increment, (2 * increment) % 2**64], np.uint64)
    assert [hex(value) for value in splitmix64(states).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


def test_draws_never_change() -> None:
    """Literal values: another draw would change every published run."""
    assert epoch_order(0, 0, 8).tolist() == [3, 1, 6, 2, 4, 7, 0, 5]
    assert choices_of_step(seed=0, step=0, options=np.full(8, 10), sensor="s2").tolist() == [5, 9, 0, 5, 1, 4, 1, 6]


def test_an_epoch_visits_scenes_once_and_drops_the_rest() -> None:
    seen = [scenes_of_step(seed=1, step=step, scenes=11, global_batch=4) for step in range(4)]
    first, second = np.concatenate(seen[:2]), np.concatenate(seen[2:])
    assert len(set(first.tolist())) == len(set(second.tolist())) == 8
    assert first.tolist() != second.tolist()
    assert scenes_of_step(seed=2, step=0, scenes=11, global_batch=4).tolist() != seen[0].tolist()


def test_every_scene_is_as_likely_everywhere() -> None:
    """Position of scene 0 over 4,000 epochs of 10 scenes: chi-square with 9 degrees of freedom below its 99.9 %."""
    positions = [int(np.flatnonzero(epoch_order(0, epoch, 10) == 0)[0]) for epoch in range(4000)]
    counts = np.bincount(positions, minlength=10)
    assert ((counts - 400) ** 2 / 400).sum() < 27.9


def test_choices_are_uniform_and_sensors_independent() -> None:
    options = np.full(20_000, 10)
    s2 = choices_of_step(seed=0, step=5, options=options, sensor="s2")
    s1 = choices_of_step(seed=0, step=5, options=np.full(20_000, 2), sensor="s1")
    counts = np.histogram2d(s2, s1, bins=(10, 2))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # 99.9 % of chi-square with 19 degrees of freedom
    assert (choices_of_step(seed=0, step=6, options=options, sensor="s2") != s2).mean() > 0.8


def test_a_batch_larger_than_the_store_is_refused() -> None:
    with pytest.raises(UserError, match=r"global batch of 16 exceeds the 12 .*global_batch=8"):
        steps_per_epoch(12, 16)


def test_shares_put_together_are_the_whole_step(store: Store) -> None:
    plan = Plan(store, s2_bands=("B04", "B8A"), s1_bands=("VV", "VH"), seed=3, global_batch=8)
    for step in (0, 1, 7):
        whole = plan.step(step)
        for world_size in (1, 2, 4):
            shares = [plan.share(step, rank=rank, world_size=world_size) for rank in range(world_size)]
            for column in range(3):
                assert np.array_equal(np.concatenate([share[column] for share in shares]), whole[column])


def test_bands_are_drawn_among_those_that_a_scene_has(store: Store) -> None:
    plan = Plan(store, s2_bands=("B04", "B8A"), s1_bands=("VV", "VH"), seed=0, global_batch=10)
    assert plan.usable.tolist() == list(range(10))
    drawn: dict[int, set[tuple[str, str]]] = {}
    for step in range(200):
        for scene, s2, s1 in zip(*plan.step(step)[:3], strict=True):
            bands = store.groups[store.scene_group[scene]].bands
            drawn.setdefault(int(scene), set()).add((bands[s2], bands[s1]))
    both = {(s2, s1) for s2 in ("B04", "B8A") for s1 in ("VV", "VH")}
    assert all(drawn[scene] == both for scene in range(8))
    assert all(drawn[scene] == {("B04", "VV")} for scene in (8, 9))


def test_a_share_of_the_pairs_holds_two_different_optical_bands(store: Store) -> None:
    """Half of the pairs: the second band is any other one, equally likely; scenes of one band keep their radar."""
    wanted = ("B03", "B04", "B8A")
    plan = Plan(store, s2_bands=wanted, s1_bands=("VV",), seed=0, global_batch=10, s2_s2_share=0.5)
    drawn: dict[int, list[tuple[str, str]]] = {}
    for step in range(600):
        for scene, first, second in zip(*plan.step(step)[:3], strict=True):
            bands = store.groups[store.scene_group[scene]].bands
            drawn.setdefault(int(scene), []).append((bands[first], bands[second]))
    of_three = [pair for scene in range(8) for pair in drawn[scene]]
    optical = [pair for pair in of_three if pair[1] != "VV"]
    assert len(optical) / len(of_three) == pytest.approx(0.5, abs=0.03)
    counts = {(a, b): sum(pair == (a, b) for pair in optical) / len(optical) for a in wanted for b in wanted}
    assert all(share == pytest.approx(0 if a == b else 1 / 6, abs=0.02) for (a, b), share in counts.items())


def test_scenes_of_many_bands_are_drawn_several_times_an_epoch(store: Store) -> None:
    ten = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    plan = Plan(store, s2_bands=ten, s1_bands=("VV", "VH"), seed=0, global_batch=7, many_band_repeats=3)
    assert plan.steps_per_epoch == 4
    epoch = np.concatenate([plan.step(step).scene for step in range(4)])
    assert np.bincount(epoch).tolist() == [3] * 8 + [1] * 4
    few = Plan(store, s2_bands=ten[:4], s1_bands=("VV", "VH"), seed=0, global_batch=7, many_band_repeats=3)
    assert few.usable.tolist() == list(range(12))


def test_scenes_with_one_optical_band_always_have_radar_as_second_view(store: Store) -> None:
    plan = Plan(store, s2_bands=("B04", "B8A"), s1_bands=("VV",), seed=0, global_batch=10, s2_s2_share=1.0)
    for step in range(5):
        for scene, _, second in zip(*plan.step(step)[:3], strict=True):
            bands = store.groups[store.scene_group[scene]].bands
            assert (bands[second] == "VV") == (scene >= 8)


def test_the_share_leaves_the_other_draws_alone(store: Store) -> None:
    without, half = (
        Plan(store, s2_bands=("B03", "B04"), s1_bands=("VV", "VH"), seed=0, global_batch=8, s2_s2_share=share)
        for share in (0.0, 0.5)
    )
    for step in range(20):
        plain, mixed = without.step(step), half.step(step)
        assert np.array_equal(plain.scene, mixed.scene)
        assert np.array_equal(plain.first_band, mixed.first_band)
        names = [store.groups[group].bands for group in store.scene_group[mixed.scene]]
        radar = np.array(
            [bands[second].startswith("V") for bands, second in zip(names, mixed.second_band, strict=True)]
        )
        assert np.array_equal(plain.second_band[radar], mixed.second_band[radar])


def test_a_plan_without_scenes_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="its bands"):
        Plan(store, s2_bands=("B01",), s1_bands=("VV",), seed=0, global_batch=2)


def test_steps_can_be_asked_for_in_any_order(store: Store, tmp_path: Path) -> None:
    plan = Plan(store, s2_bands=("B04",), s1_bands=("VV",), seed=0, global_batch=4)
    forward = [plan.step(step).scene.tolist() for step in range(6)]
    again = Plan(store, s2_bands=("B04",), s1_bands=("VV",), seed=0, global_batch=4)
    assert [again.step(step).scene.tolist() for step in reversed(range(6))] == forward[::-1]


def test_colours_are_three_bands_from_long_to_short_wavelength(tmp_path: Path) -> None:
    """All bands: half of the pictures true colours; three: those; two: the longer one twice."""
    full = ("B02", "B03", "B04", "B08", "B11")
    for name, bands in {"a": full, "b": ("B03", "B08", "B11"), "c": ("B03", "B11"), "d": ("B04",)}.items():
        files = write_pairs(tmp_path / name, count=2, sizes=(16,), s2_bands=bands, s1_bands=("VV",))
        prepare("pairs", files, tmp_path / "store", workers=1)
    store = Store.open(tmp_path / "store")
    plan = Plan(store, s2_bands=full, s1_bands=("VV",), seed=0, global_batch=8, colour=True)
    plain = Plan(store, s2_bands=full, s1_bands=("VV",), seed=0, global_batch=8)
    drawn: dict[int, list[tuple[str, ...]]] = {}
    for step in range(400):
        whole = plan.step(step)
        assert np.array_equal(whole.second_band, plain.step(step).second_band)
        assert plain.step(step).colour_bands.shape == (8, 0)
        for scene, colours in zip(whole.scene, whole.colour_bands, strict=True):
            bands = store.groups[store.scene_group[scene]].bands
            drawn.setdefault(int(scene), []).append(tuple(bands[place] for place in colours))
    true = sum(picture == ("B04", "B03", "B02") for picture in drawn[0]) / len(drawn[0])
    assert true == pytest.approx(0.5, abs=0.08)  # two deviations of 400 draws are 0.05
    assert len(set(drawn[0])) == 10  # all combinations of three out of five
    assert set(drawn[2]) == {("B11", "B08", "B03")}
    assert set(drawn[4]) == {("B11", "B11", "B03")}
    assert set(drawn[6]) == {("B04", "B04", "B04")}
    shares = [plan.share(7, rank=rank, world_size=2).colour_bands for rank in range(2)]
    assert np.array_equal(np.concatenate(shares), plan.step(7).colour_bands)
