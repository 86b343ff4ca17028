"""Subsets of a source: a number of scenes drawn proportionally from its regions, the same ones on every machine."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eo_backbones.errors import UserError

# Half of SEN12MS's 180,662 patches (the paper says only "50 %"), drawn outside the hold-out scenes (DESIGN 3.8).
NAMED_SUBSETS = {"90k": 90_331}
SEED = 0


class Subset(NamedTuple):
    """A parsed ``--subset``: its name and number of scenes."""

    name: str
    total: int


def parse_subset(text: str | None) -> Subset | None:
    """Read the value of ``--subset``: ``90k`` or a number of scenes.

    Raises:
        UserError: it is neither.
    """
    if text is None:
        return None
    if text in NAMED_SUBSETS:
        return Subset(text, NAMED_SUBSETS[text])
    if text.isdecimal() and int(text) > 0:
        return Subset(text, int(text))
    raise UserError(f"unknown subset {text!r}; pass {', '.join(NAMED_SUBSETS)} or a number of scenes")


def draw_proportional(scene_ids_by_roi: Mapping[str, Sequence[str]], total: int, seed: int) -> dict[str, list[str]]:
    """Draw ``total`` scenes so that every region keeps its share.

    Shares are rounded by the largest remainder (ties: alphabetical order). Within a region the scenes with the smallest
    sha256 of ``seed/scene`` are taken, which depends neither on the order of files nor on a random generator.

    Args:
        scene_ids_by_roi: region -> its scenes; scene names are unique over all regions.
        total: number of scenes to draw.
        seed: another seed gives another draw.

    Returns:
        Region -> drawn scenes, in the order given.

    Raises:
        UserError: there are fewer scenes than ``total``.
    """
    available = sum(len(scenes) for scenes in scene_ids_by_roi.values())
    if total > available:
        raise UserError(
            f"the subset asks for {total:,} scenes, the source has {available:,}; ask for at most that many"
        )
    quota = {roi: len(scenes) * total // available for roi, scenes in scene_ids_by_roi.items()}
    remainder = {roi: len(scenes) * total % available for roi, scenes in scene_ids_by_roi.items()}
    short = total - sum(quota.values())
    for roi in sorted(remainder, key=lambda roi: (-remainder[roi], roi))[:short]:
        quota[roi] += 1
    drawn: dict[str, list[str]] = {}
    for roi, scenes in scene_ids_by_roi.items():
        ranked = sorted(scenes, key=lambda scene: hashlib.sha256(f"{seed}/{scene}".encode()).digest())
        taken = set(ranked[: quota[roi]])
        drawn[roi] = [scene for scene in scenes if scene in taken]
    return drawn
