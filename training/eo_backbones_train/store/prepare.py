"""``eo-train prepare``: GeoTIFF pairs of one source into a new or existing store.

The source's scenes are cut into blocks of fixed length; processes turn blocks into shards; a journal lists the blocks
that are done. Killing the job at any moment loses at most the blocks in progress, and neither the number of processes
nor the order in which they finish changes a byte of the result.
"""

import errno
import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from eo_backbones.bands import BANDS
from eo_backbones.errors import UserError
from eo_backbones.files import refuse_unwritable
from eo_backbones.progress import SILENT, Progress, Speed
from eo_backbones.rasters.options import Numbers, ReadingOptions
from eo_backbones.rasters.scaling import DeclaredReading
from eo_backbones_train.store.convert import (
    SHARD_BYTES,
    Block,
    BlockResult,
    check_declarations,
    convert_block,
    end_with_parent,
)
from eo_backbones_train.store.format import digest_of
from eo_backbones_train.store.layouts import Scan, SceneFiles, get_layout
from eo_backbones_train.store.read_scene import DEFAULT_BANDS, DeclarationProblem, ReadOptions, parse_bands, parse_units
from eo_backbones_train.store.writer import Journal, add_source, journal_file, manifest_to_extend, remove_leftovers

BLOCK_SCENES = 512  # 384 MiB of twelve 256-pixel tiles; 353 files for all of SEN12MS, below the usual 1,024 open files

# Half of SEN12MS's 180,662 patches (the paper says only "50 %"), drawn outside the hold-out scenes; docs/decisions/0013
NAMED_SUBSETS = {"90k": 90_331}
SUBSET_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSummary:
    """What ``prepare`` did.

    Attributes:
        store: the folder.
        source: the source's name in the store.
        found: scenes that the layout found, complete pairs only.
        stored: scenes of this source in the store.
        skipped: scenes left out because something is wrong with them.
        reasons: up to ten most frequent reasons (without file names), with counts.
        held_out: scenes left out because they belong to an official test set.
        notes: what was guessed about the files.
        already_there: the source was complete before; nothing was done.
        seconds: wall time.
        store_scenes, store_bytes: the whole store.
        digest: the store's manifest digest.
    """

    store: Path
    source: str
    found: int
    stored: int
    skipped: int
    reasons: dict[str, int]
    held_out: int
    notes: tuple[str, ...]
    already_there: bool
    seconds: float
    store_scenes: int
    store_bytes: int
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self) | {"store": str(self.store), "notes": list(self.notes)}


def prepare(
    layout: str,
    root: Path,
    out: Path,
    *,
    units: Sequence[str] = (),
    bands: Sequence[str] = (),
    scale: Numbers = None,
    offset: Numbers = None,
    nodata: Numbers = None,
    subset: str | None = None,
    exact: bool = False,
    hold_out: bool = False,
    workers: int | None = None,
    progress: Progress = SILENT,
    block_scenes: int = BLOCK_SCENES,
    shard_bytes: int = SHARD_BYTES,
) -> PrepareSummary:
    """Add a source to a store, make the store if there is none, or resume where a killed job stopped.

    Args:
        layout: key of :data:`eo_backbones_train.store.layouts.SCENE_LAYOUTS`.
        root: the source's folder.
        out: the store's folder.
        units: values of ``--unit``: ``"uint8"`` or ``"B04=reflectance"``.
        bands: values of ``--bands``: names, or ``"B03=2"``; empty keeps the paper's ten bands, VV and VH.
        scale: factor of the stored values, see :class:`eo_backbones.rasters.options.ReadingOptions`.
        offset: added after it.
        nodata: stored value that means "missing".
        subset: ``"90k"`` or a number of scenes, drawn proportionally per region with seed 0.
        exact: keep 16 bits instead of 8; the same for all sources of a store.
        hold_out: also take the official test scenes of SEN12MS.
        workers: processes; default: one per core.
        progress: where progress is reported, after each block.
        block_scenes: scenes in a block; the same when a killed job is resumed.
        shard_bytes: largest size of a file of tiles.

    Raises:
        UserError: wrong options or folder, nothing usable found, or a full disk (what is done is kept).
    """
    started = time.monotonic()
    chosen = get_layout(layout)
    refuse_unwritable(out, folder=True)
    if not root.is_dir():
        raise UserError(f"no folder {root}; --root is the folder that holds the {layout} files")
    if hold_out and not chosen.has_hold_out:
        raise UserError(f"layout {layout} has no hold-out scenes; leave --hold-out out")
    wanted = parse_bands(bands)
    reading = ReadingOptions.of(scale=scale, offset=offset, nodata=nodata).for_bands([*wanted] or DEFAULT_BANDS)
    options = ReadOptions(layout=chosen, units=parse_units(units), bands=wanted, exact=exact, reading=reading)
    requested = parse_subset(subset)
    if requested and requested.name in NAMED_SUBSETS and (layout != "sen12ms" or hold_out):
        raise UserError(
            f"subset {requested.name} is drawn from --layout sen12ms without its hold-out scenes; pass a number"
        )
    manifest = manifest_to_extend(out, exact=exact)
    scan = chosen.scan(root, hold_out)
    scenes, drawn = _selected(scan, requested)
    identity: dict[str, Any] = {
        "layout": layout,
        "root": root.resolve().name,
        "units": dict(sorted((name, options.units.described(name)) for name in options.bands or DEFAULT_BANDS)),
        "bands": {name: options.bands[name] for name in BANDS if name in options.bands},
        "exact": exact,
        "hold_out": hold_out,
        "subset": drawn,
        "files": digest_of([asdict(scene) for scene in scan.scenes]),
        **{option: numbers for option, numbers in _declared_numbers(reading).items() if numbers},
    }
    source = _already_added(manifest, identity)
    if source is not None:
        remove_leftovers(out, manifest)
        return _summary(out, manifest, source, seconds=time.monotonic() - started, already_there=True)
    if not scenes:
        raise UserError(f"no complete pair in {root}: {_first_reason(scan.skipped)}")
    try:
        check_declarations(root, scenes, options)
    except DeclarationProblem as problem:
        raise UserError(str(problem)) from problem
    with _full_disk_explained(out):
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out, manifest)
        journal = Journal(journal_file(out, len(manifest["sources"])), identity)
        starts = range(0, len(scenes), block_scenes)
        blocks = [
            Block(
                number=number,
                root=root,
                store=out,
                scenes=tuple(scenes[start : start + block_scenes]),
                options=options,
                shard_bytes=shard_bytes,
            )
            for number, start in enumerate(starts, manifest["next_block"])
        ]
        _convert(blocks, journal, workers or _cores(), len(scenes), progress)
        results = [journal.done[block.number] for block in blocks]
        if not any(result.rows for result in results):
            journal.remove()
            if not any(out.iterdir()):
                out.rmdir()
            raise UserError(f"no usable scene in {root}: {_first_reason([s for r in results for s in r.skipped])}")
        name = _unused_name(identity["root"], manifest)
        source = identity | {
            "name": name,
            "found": len(scan.scenes),
            "held_out": scan.held_out,
            "notes": sorted({note for result in results for note in result.notes}),
            **_levels({level for result in results for level in result.levels}),
        }
        manifest = add_source(out, manifest, source, list(scan.skipped), results)
        journal.remove()
    return _summary(out, manifest, manifest["sources"][-1], seconds=time.monotonic() - started, already_there=False)


class Subset(NamedTuple):
    """A parsed ``--subset``: its name and number of scenes; they are drawn proportionally from the regions."""

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


def _selected(scan: Scan, subset: Subset | None) -> tuple[tuple[SceneFiles, ...], dict[str, Any] | None]:
    """The scenes to convert, and what ``store.json`` records about the draw."""
    if subset is None:
        return scan.scenes, None
    by_roi: dict[str, list[str]] = {}
    for scene in scan.scenes:
        by_roi.setdefault(scene.roi, []).append(scene.scene)
    drawn = draw_proportional(by_roi, subset.total, SUBSET_SEED)
    taken = {scene for scenes in drawn.values() for scene in scenes}
    record = {
        "name": subset.name,
        "total": subset.total,
        "of": len(scan.scenes),
        "seed": SUBSET_SEED,
        "per_roi": {roi: len(scenes) for roi, scenes in sorted(drawn.items())},
        "scenes_sha256": hashlib.sha256("\n".join(sorted(taken)).encode()).hexdigest(),
    }
    return tuple(scene for scene in scan.scenes if scene.scene in taken), record


def _levels(found: Collection[str | None]) -> dict[str, list[str]]:
    """Return what ``store.json`` records about processing levels: nothing unless that of every image is known."""
    known = sorted(level for level in found if level is not None)
    return {"levels": known} if known and None not in found else {}


def _declared_numbers(reading: DeclaredReading) -> dict[str, dict[str, float]]:
    """Return what ``store.json`` records about a source where it was given: band -> number for each option."""
    return {"scale": dict(reading.scales), "offset": dict(reading.offsets), "nodata": dict(reading.nodata)}


def _already_added(manifest: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the entry of this source in the store, if it has one.

    Raises:
        UserError: the same files are in the store with other options.
    """
    source: dict[str, Any]
    for source in manifest["sources"]:
        keys = dict.fromkeys([*identity, *_declared_numbers(DeclaredReading())])
        different = [key for key in keys if source.get(key) != identity.get(key)]
        if not different:
            return source
        if not {"layout", "root", "files"} & set(different):
            raise UserError(
                f"the store already holds {identity['root']} with another choice of {', '.join(different)}; "
                "adding it twice would repeat its scenes; pass another --out"
            )
    return None


def _convert(blocks: list[Block], journal: Journal, workers: int, total: int, progress: Progress) -> None:
    """Convert the blocks that the journal lacks."""
    waiting = [block for block in blocks if block.number not in journal.done]
    skipped = sum(len(result.skipped) for result in journal.done.values())
    done = skipped + sum(len(result.rows) for result in journal.done.values())
    speed = Speed(done)
    with progress.stage("scenes", total, done) as tick:
        for result in _results(waiting, workers):
            journal.add(result)
            scenes = len(result.rows) + len(result.skipped)
            done, skipped = done + scenes, skipped + len(result.skipped)
            tick(scenes, f"{skipped} skipped, {speed.read(done):,.0f}/s")


def _results(blocks: list[Block], workers: int) -> Iterator[BlockResult]:
    """Results in the order in which they are finished."""
    if workers == 1 or len(blocks) <= 1:
        yield from map(convert_block, blocks)
        return
    # Not fork, which breaks threads that the caller may have (torch, GDAL). Not spawn: importing torch and timm takes
    # seconds; the fork server does it once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([convert_block.__module__])
    with ProcessPoolExecutor(min(workers, len(blocks)), context, initializer=end_with_parent) as pool:
        futures = [pool.submit(convert_block, block) for block in blocks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a conversion process was killed, perhaps because memory ran out; what is done is kept: run the same "
                "command again with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _full_disk_explained(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise UserError(
                f"no space left for {out}; what is done is kept: free some space and run the same command again"
            ) from error
        raise


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _unused_name(root: str, manifest: dict[str, Any]) -> str:
    taken = {source["name"] for source in manifest["sources"]}
    candidates = (root if n == 1 else f"{root}-{n}" for n in range(1, len(taken) + 2))
    return next(name for name in candidates if name not in taken)


def _first_reason(skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return "all its scenes are hold-out scenes"
    scene, reason = skipped[0]
    return f"{len(skipped)} were skipped, the first, {scene}, because: {reason}"


def _summary(
    out: Path, manifest: dict[str, Any], source: dict[str, Any], *, seconds: float, already_there: bool
) -> PrepareSummary:
    return PrepareSummary(
        store=out,
        source=source["name"],
        found=source["found"],
        stored=source["stored"],
        skipped=source["skipped"],
        reasons=source["reasons"],
        held_out=source["held_out"],
        notes=tuple(source["notes"]),
        already_there=already_there,
        seconds=round(seconds, 3),
        store_scenes=manifest["scenes"]["count"],
        store_bytes=sum(shard["bytes"] for group in manifest["groups"] for shard in group["shards"]),
        digest=manifest["digest"],
    )
