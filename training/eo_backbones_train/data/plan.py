"""Which scene and which bands each position of a step's batch holds: pure functions of (seed, step, position).

The numbers come from a hash of those three, not from a generator with a state. So a run can start at any step, every
process can compute its own slice, and neither the number of processes nor the version of a library changes a draw.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from eo_backbones.bands import BANDS
from eo_backbones.errors import UserError
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.store.store import Store, usable_scenes

Array = np.ndarray[Any, Any]

_ORDER, _S2, _S1, _SECOND_S2, _OTHER_S2, _COLOUR = 1, 2, 3, 4, 5, 6  # streams of random numbers
_FEW_BANDS = 4  # the most that colours and near infrared make
_TRUE_COLOUR = ("B04", "B03", "B02")


def hashed(stream: int, seed: int, number: int, positions: Array) -> Array:
    """Return one random 64-bit number per position.

    Each input goes through the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), whose output is spread
    evenly over all 64-bit numbers.

    Args:
        stream: what the numbers are for; streams are independent.
        seed: the recipe's seed.
        number: step or epoch.
        positions: any non-negative integers.

    Returns:
        uint64 of the shape of ``positions``.
    """
    state = np.zeros(1, np.uint64)
    for word in (stream, seed, number):
        state = splitmix64(state ^ np.uint64(word))
    return splitmix64(state ^ positions.astype(np.uint64))


def splitmix64(x: Array) -> Array:
    """Return the outputs of the SplitMix64 generator for the states ``x``, uint64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)  # wraps around, as it should
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = x ^ (x >> np.uint64(31))
    return mixed


def pairs_per_process(global_batch: int, world_size: int) -> int:
    """Return the pairs of one process in one step.

    Raises:
        UserError: the global batch, which belongs to the recipe, cannot be split evenly.
    """
    if global_batch % world_size:
        divisors = [count for count in range(1, global_batch + 1) if global_batch % count == 0]
        raise UserError(
            f"a global batch of {global_batch} cannot be split over {world_size} processes; start "
            f"{', '.join(map(str, divisors))}, or change the recipe with --set global_batch=N"
        )
    return global_batch // world_size


def steps_per_epoch(scenes: int, global_batch: int) -> int:
    """Return the number of full batches in an epoch; the remainder is dropped, another one in each epoch.

    Raises:
        UserError: there are fewer scenes than one batch.
    """
    if global_batch > scenes:
        raise UserError(
            f"the global batch of {global_batch} exceeds the {scenes} usable scenes of the store; "
            f"pass --set global_batch={1 << (scenes.bit_length() - 1)} or less, or add scenes"
        )
    return scenes // global_batch


@lru_cache(maxsize=2)  # the prefetch thread is up to two steps ahead, perhaps in the next epoch
def epoch_order(seed: int, epoch: int, scenes: int) -> Array:
    """Return the order of scenes in an epoch: a permutation of ``0...scenes - 1``, int64, read-only."""
    order = np.argsort(hashed(_ORDER, seed, epoch, np.arange(scenes)), kind="stable")
    order.flags.writeable = False
    return order


def scenes_of_step(*, seed: int, step: int, scenes: int, global_batch: int) -> Array:
    """Return the scene at each position of the global batch, int64 ``(global_batch,)``, all different."""
    epoch, within = divmod(step, steps_per_epoch(scenes, global_batch))
    return epoch_order(seed, epoch, scenes)[within * global_batch : (within + 1) * global_batch]


def choices_of_step(*, seed: int, step: int, options: Array, sensor: str) -> Array:
    """Return a draw from the bands that each scene has.

    Args:
        seed: the recipe's seed.
        step: the step.
        options: number of bands to choose from at each position of the global batch.
        sensor: ``"s2"`` or ``"s1"``; the two draws are independent.

    Returns:
        int64 in ``[0, options)``.
    """
    return _choices(_S2 if sensor == "s2" else _S1, seed, step, options)


def _choices(stream: int, seed: int, step: int, options: Array) -> Array:
    drawn = hashed(stream, seed, step, np.arange(len(options)))
    return ((drawn >> np.uint64(32)) * options.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


class StepPlan(NamedTuple):
    """One step, or one process's slice of it: int64 arrays, one entry per pair.

    Attributes:
        scene: index of the scene in the store.
        first_band: index of a Sentinel-2 band among the bands of the scene's group.
        second_band: the same of a Sentinel-1 band, or of another Sentinel-2 band (the recipe's ``s2_s2_share``).
        colour_bands: (pairs, 3), indices of the bands that a teacher sees as red, green and blue; (pairs, 0) without.
    """

    scene: Array
    first_band: Array
    second_band: Array
    colour_bands: Array

    @property
    def bands(self) -> tuple[Array, ...]:
        """The band of each view of a batch: the first, the second, then red, green and blue if there are any."""
        return (self.first_band, self.second_band, *self.colour_bands.T)


class Plan:
    """The plan of a run on a store.

    Attributes:
        usable: the scenes of the store that have bands of both sensors, int64; those of many bands several times where
            the recipe says so.
        steps_per_epoch: full global batches in an epoch.
        colour: whether a step also has the three bands that a teacher sees as colours.
    """

    def __init__(
        self,
        store: Store,
        *,
        s2_bands: Sequence[str],
        s1_bands: Sequence[str],
        seed: int,
        global_batch: int,
        s2_s2_share: float = 0.0,
        many_band_repeats: int = 1,
        colour: bool = False,
    ) -> None:
        """Find the usable scenes.

        Args:
            store: the scenes.
            s2_bands: Sentinel-2 bands that are drawn from.
            s1_bands: Sentinel-1 bands that are drawn from.
            seed: of the draws.
            global_batch: pairs in a step.
            s2_s2_share: as in :class:`eo_backbones_train.recipes.recipe.DataPart`.
            many_band_repeats: as there.
            colour: also draw three Sentinel-2 bands of each scene for a teacher.

        Raises:
            UserError: none is usable, or fewer than one global batch.
        """
        self.usable = usable_scenes(store, s2_bands, s1_bands)
        self._s2 = _band_table(store, s2_bands)
        if many_band_repeats > 1:
            has_many = self._s2[1][store.scene_group[self.usable]] > _FEW_BANDS
            self.usable = np.repeat(self.usable, np.where(has_many, many_band_repeats, 1))
        self.steps_per_epoch = steps_per_epoch(len(self.usable), global_batch)
        self._seed, self._global_batch, self._s2_s2_share = seed, global_batch, s2_s2_share
        self._group = store.scene_group[self.usable]
        self._s1 = _band_table(store, s1_bands)
        self.colour = colour
        self._colours = _colour_table(store, s2_bands) if colour else None

    @classmethod
    def for_recipe(cls, store: Store, recipe: Recipe) -> "Plan":
        """Return the plan of training a recipe on a store.

        Raises:
            UserError: no scene is usable, or fewer than one global batch.
        """
        data = recipe.data
        return cls(
            store,
            s2_bands=data.s2_bands,
            s1_bands=data.s1_bands,
            seed=recipe.seed,
            global_batch=recipe.global_batch,
            s2_s2_share=data.s2_s2_share,
            many_band_repeats=data.many_band_repeats,
            colour=recipe.teacher is not None and recipe.teacher.sees == "colour",
        )

    def step(self, step: int) -> StepPlan:
        """Return the plan of a whole step."""
        chosen = scenes_of_step(seed=self._seed, step=step, scenes=len(self.usable), global_batch=self._global_batch)
        group = self._group[chosen]
        (s2, num_s2), (s1, num_s1) = self._s2, self._s1
        first = choices_of_step(seed=self._seed, step=step, options=num_s2[group], sensor="s2")
        second = s1[group, choices_of_step(seed=self._seed, step=step, options=num_s1[group], sensor="s1")]
        if self._s2_s2_share:
            drawn = hashed(_SECOND_S2, self._seed, step, np.arange(len(chosen))) >> np.uint64(32)
            replaced = (drawn < self._s2_s2_share * 2.0**32) & (num_s2[group] > 1)
            # Any of the others, equally likely: 1 to n - 1 bands after the first, modulo n.
            offset = 1 + _choices(_OTHER_S2, self._seed, step, np.maximum(num_s2[group] - 1, 1))
            second = np.where(replaced, s2[group, (first + offset) % num_s2[group]], second)
        return StepPlan(self.usable[chosen], s2[group, first], second, self._colour_bands(step, group))

    def _colour_bands(self, step: int, group: Array) -> Array:
        if self._colours is None:
            return np.zeros((len(group), 0), np.int64)
        triples, number = self._colours
        return triples[group, _choices(_COLOUR, self._seed, step, number[group])]

    def share(self, step: int, *, rank: int, world_size: int) -> StepPlan:
        """Return the contiguous slice of a step that one of ``world_size`` processes trains on."""
        pairs = pairs_per_process(self._global_batch, world_size)
        part = slice(rank * pairs, (rank + 1) * pairs)
        return StepPlan(*(column[part] for column in self.step(step)))


def _band_table(store: Store, wanted: Sequence[str]) -> tuple[Array, Array]:
    """Indices of the wanted bands in each group, ``(groups, max bands)``, and how many there are, ``(groups,)``."""
    indices_by_group = [[group.bands.index(name) for name in wanted if name in group.bands] for group in store.groups]
    table = np.zeros((len(store.groups), max(map(len, indices_by_group))), np.int64)
    for row, indices in zip(table, indices_by_group, strict=True):
        row[: len(indices)] = indices
    return table, np.array([len(indices) for indices in indices_by_group], np.int64)


def _colour_table(store: Store, wanted: Sequence[str]) -> tuple[Array, Array]:
    """Triples of band indices of each group, ``(groups, max triples, 3)``, and how many there are, ``(groups,)``.

    A triple goes from long to short wavelength, as red, green and blue do. Of many bands, half of the triples are the
    true colours; one or two bands are repeated.
    """
    triples_by_group: list[list[tuple[int, ...]]] = []
    for group in store.groups:
        longest_first = sorted(
            (name for name in wanted if name in group.bands), key=lambda name: BANDS[name].wavelength_nm, reverse=True
        )
        triples: list[tuple[str, ...]] = [*combinations(longest_first, 3)]
        if len(longest_first) in (1, 2):
            triples = [tuple(longest_first[index * len(longest_first) // 3] for index in range(3))]
        if set(_TRUE_COLOUR) <= set(longest_first):
            triples += [_TRUE_COLOUR] * (len(triples) - 2)
        triples_by_group.append([tuple(group.bands.index(name) for name in triple) for triple in triples])
    table = np.zeros((len(store.groups), max(map(len, triples_by_group)), 3), np.int64)
    for row, group_triples in zip(table, triples_by_group, strict=True):
        row[: len(group_triples)] = group_triples
    return table, np.array([len(group_triples) for group_triples in triples_by_group], np.int64)
