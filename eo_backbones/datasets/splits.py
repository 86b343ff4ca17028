"""Which images train, validate and test: seeded, the published lists, and small labelled subsets.

Everything here works on labels and indices and is a pure function of them and the seed.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.errors import UserError, unknown_name

logger = logging.getLogger(__name__)

PARTS = ("train", "val", "test")

_VALIDATING = 0.2  # of an official training part without validation images; chosen by this project

# Lists of 16,200/5,400/5,400 file names: at random (arXiv 1911.06721) and by longitude (torchgeo/datasets/eurosat.py).
STANDARD_LISTS = {"standard": "eurosat-{part}.txt", "spatial": "eurosat-spatial-{part}.txt"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """Disjoint indices into a data set, each part in ascending order (int64)."""

    name: str
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def seeded_split(
    labels: np.ndarray,
    *,
    seed: int,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    classes: Sequence[str] = (),
) -> Split:
    """Split every class by itself, so that all parts have the same mix.

    Every class has at least one image in every part; beyond that, validation and test get their fraction of the
    class, rounded, and training the rest.

    Args:
        labels: class of each image, int64 ``(n,)``.
        seed: another seed gives another split.
        fractions: shares of train, validation and test; positive, summing to 1.
        classes: class names for the error message.

    Raises:
        UserError: a class has fewer than three images, or the fractions are none.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"split fractions {fractions} must be three positive numbers that sum to 1, e.g. 0.6 0.2 0.2")
    present, counts = np.unique(labels, return_counts=True)
    if len(present) == 0 or counts.min() < len(PARTS):
        raise _too_small(labels, classes)
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    for label, count in zip(present, counts.tolist(), strict=True):
        members = rng.permutation(np.flatnonzero(labels == label))
        num_val = max(1, round(fractions[1] * count))
        num_test = max(1, round(fractions[2] * count))
        while num_val + num_test >= count:  # rounding may leave nothing to train on
            num_val, num_test = (num_val - 1, num_test) if num_val >= num_test else (num_val, num_test - 1)
        for part, chosen in zip(PARTS[::-1], np.split(members, [num_test, num_test + num_val]), strict=True):
            parts[part].append(chosen)
    return Split(name="seeded", **{part: np.sort(np.concatenate(chosen)) for part, chosen in parts.items()})


def standard_split(data: LabelledImages, folder: Path, *, name: str = "standard", allow_missing: bool = False) -> Split:
    """Split EuroSAT by its published lists.

    The lists name ``.jpg`` files; images are matched by name without suffix, so they serve both forms of EuroSAT.
    Images that no list names are left out.

    Args:
        data: EuroSAT, either form.
        folder: holds ``eurosat-train.txt``, ``eurosat-val.txt`` and ``eurosat-test.txt`` (or ``eurosat-spatial-…``).
        name: ``"standard"`` or ``"spatial"``.
        allow_missing: go on with the images that are there if lists name others.

    Raises:
        UserError: a list is missing, names images that are not there, names one twice, or leaves a part empty.
    """
    if name not in STANDARD_LISTS:
        raise unknown_name("split", name, STANDARD_LISTS)
    position = {path.stem: index for index, path in enumerate(data.paths)}
    parts: dict[str, np.ndarray] = {}
    listed: set[str] = set()
    missing: list[str] = []
    for part in PARTS:
        names = _read_list(Path(folder) / STANDARD_LISTS[name].format(part=part))
        for entry in names:
            if entry in listed:
                raise UserError(f"the {name} split lists name {entry} twice; get the original lists")
            listed.add(entry)
        missing += [entry for entry in names if entry not in position]
        parts[part] = np.array(sorted(position[entry] for entry in names if entry in position), dtype=np.int64)
    if missing and not allow_missing:
        raise UserError(
            f"{len(missing)} of the {len(listed)} images in the {name} split lists are not in {data.name}, e.g. "
            f"{missing[0]}; get the whole data set, or allow missing images"
        )
    if missing:
        logger.warning("%d of %d images in the %s split lists are not there", len(missing), len(listed), name)
    for part, indices in parts.items():
        if len(indices) == 0:
            raise UserError(f"no image of the {name} split's {part} list is in {data.name}; use the seeded split")
    return Split(name=name, **parts)


def official_split(data: LabelledImages, *, seed: int) -> Split:
    """Split a data set by the parts that its makers gave it.

    Where these have no validation part, a fifth of every group of training images validates, drawn with the seed.

    Raises:
        UserError: no image of this data set is in the training or test part.
    """
    assert data.official is not None, "this data set has no official split"
    train, val, test = (np.flatnonzero(data.official.parts == part) for part in PARTS)
    for part, rows in (("train", train), ("test", test)):
        if len(rows) == 0:
            raise UserError(
                f"none of these {data.name} images is in the official {part} part ({data.official.source}); "
                "use the seeded split"
            )
    if len(val) == 0:
        train, val = with_validation(data.strata, train, seed=seed)
    return Split(name="standard", train=train, val=val, test=test)


def with_validation(strata: np.ndarray, train: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide a training part: a fifth of every group of its images validates, drawn with the seed.

    Args:
        strata: group of each image of the whole data set.
        train: the images of the training part.
        seed: another seed draws others.

    Returns:
        The images that train and those that validate, both ascending.

    Raises:
        UserError: they are too few.
    """
    rng = np.random.default_rng(seed)
    groups = (rng.permutation(train[strata[train] == group]) for group in np.unique(strata[train]))
    val = np.sort(np.concatenate([group[: round(_VALIDATING * len(group))] for group in groups]))
    if len(val) == 0:
        raise UserError(f"{len(train)} training images are too few to validate with; use the seeded split")
    return np.setdiff1d(train, val), val


def subset_of(
    labels: np.ndarray, indices: np.ndarray, *, fraction: float | None = None, shots: int | None = None, seed: int
) -> np.ndarray:
    """Return a stratified subset of ``indices``, in ascending order.

    Subsets of one seed are nested: the images of a smaller fraction are among those of a larger one.

    Args:
        labels: class of each image of the whole data set.
        indices: the images to choose from.
        fraction: share of each class to keep, at least one image of each.
        shots: images of each class to keep; give either this or ``fraction``.
        seed: another seed chooses other images.

    Raises:
        UserError: the fraction is not in (0, 1], or a class has fewer images than shots.
    """
    if (fraction is None) == (shots is None):
        raise UserError("give either a label fraction or a number of shots, not both")
    if fraction is not None and not 0 < fraction <= 1:
        raise UserError(f"label fraction {fraction} is not between 0 and 1; 0.1 keeps a tenth of the labels")
    if shots is not None and shots < 1:
        raise UserError(f"{shots} shots leave nothing to learn from; use 1 or more")

    def number_kept(available: int) -> int:
        return max(1, round(fraction * available)) if fraction is not None else int(shots or 0)

    rng = np.random.default_rng(seed)
    kept = []
    for label in np.unique(labels[indices]):
        members = rng.permutation(indices[labels[indices] == label])
        count = number_kept(len(members))
        if count > len(members):
            raise UserError(f"{count} shots asked for, but a class has only {len(members)} images to train on")
        kept.append(members[:count])
    return np.sort(np.concatenate(kept))


def _read_list(path: Path) -> list[str]:
    """Return the names in a split list, without suffix."""
    if not path.is_file():
        raise UserError(f"no split list {path}; put the published EuroSAT lists there or use the seeded split")
    return [Path(line.strip()).stem for line in path.read_text().splitlines() if line.strip()]


def _too_small(labels: np.ndarray, classes: Sequence[str]) -> UserError:
    present, counts = np.unique(labels, return_counts=True)
    if len(present) == 0:
        return UserError("the set is too small to split: it has no image")
    rarest = int(present[counts.argmin()])
    name = classes[rarest] if rarest < len(classes) else f"number {rarest}"
    return UserError(
        f"the set is too small to split: of its {len(labels)} images in {len(present)} classes, class {name} has "
        f"{counts.min()}; train, val and test need at least {len(PARTS)} images of every class"
    )
