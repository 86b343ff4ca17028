"""A region and labelled points to a map: :func:`map_region`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eo_backbones.errors import UserError
from eo_backbones.files import write_atomically, write_json
from eo_backbones.mapping import conformal, report
from eo_backbones.mapping.accuracy import measure
from eo_backbones.mapping.blocks import MEASURED_FOLDS, Blocks, choose_blocks, folds, metres
from eo_backbones.mapping.cells import LabelledCells, find_cells, write_left_out
from eo_backbones.mapping.conformal import ConformalClassifier
from eo_backbones.mapping.picture import Legend, draw_map
from eo_backbones.mapping.points import Points, read_points
from eo_backbones.mapping.rasters import remove_rasters
from eo_backbones.mapping.request import MAP_FILE, MapRequest, digest_of
from eo_backbones.mapping.scene_map import SceneTotals, finished_totals, map_scene, row_areas_km2
from eo_backbones.mapping.source import MapRegion, MapScene, open_cells
from eo_backbones.progress import SILENT, Progress

LEFT_OUT_FILE, PICTURE_FILE = "left_out.csv", "map.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """What was written.

    Attributes:
        out: the folder.
        scenes: in the map, those of an earlier run included.
        kept: scenes of an earlier run.
        points: with a cell; ``left_out``: without.
        left_out: points without a cell.
        classes: their names.
        cells: of each class.
        km2: of each class; ``None`` without a coordinate system.
        f1: weighted F1 of held-out points, with the ends of its interval.
        coverage: share of held-out points whose set holds their class, with the ends of its interval.
        error_rate: that was asked for.
        one_class: share of the cells of the map whose set holds exactly one class.
        block_m: side of the blocks that were held out.
    """

    out: str
    scenes: int
    kept: int
    points: int
    left_out: int
    classes: tuple[str, ...]
    cells: tuple[int, ...]
    km2: tuple[float, ...] | None
    f1: tuple[float, float, float]
    coverage: tuple[float, float, float]
    error_rate: float
    one_class: float
    block_m: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)


def map_region(request: MapRequest, *, progress: Progress = SILENT) -> Mapped:
    """Classify every cell of a region by what labelled points look like.

    The folder gets for each scene ``ID/ID_classes.tif``, ``ID/ID_probability.tif`` and ``ID/ID_sets.tif`` (see
    :mod:`eo_backbones.mapping.rasters`), and ``map.png``, ``report.md``, ``report.json``, ``map.json`` (what the map is
    made from) and, if points have no cell, ``left_out.csv``. Scenes that an interrupted run of the same request
    finished are kept.

    Args:
        request: what to map.
        progress: where progress is reported.

    Raises:
        UserError: anything about the request, the files or the points that the caller can correct.
    """
    request.check()
    points = read_points(request.points, request.class_field)
    region = open_cells(request.region)
    facts = request.facts(region)
    earlier = request.earlier(facts)
    cells = find_cells(region, points)
    blocks = _blocks(request, region, points, cells)
    stage = progress.stage("learn and measure", 1 + MEASURED_FOLDS)
    with conformal.few_threads(cells.features), stage as tick:
        classifier = conformal.fit(
            cells.features,
            cells.labels,
            len(points.classes),
            folds(blocks, cells.labels, np.arange(len(cells.labels))),
            error_rate=request.error_rate,
        )
        tick(1)
        measured = measure(
            cells.features, cells.labels, len(points.classes), blocks, error_rate=request.error_rate, tick=tick
        )
    request.out.mkdir(parents=True, exist_ok=True)
    _claim(request, facts, earlier)
    digest = digest_of(facts)
    totals, kept = _map_scenes(request, region, points, classifier, facts, progress)
    made = report.MapResult(
        region=region,
        points=points,
        cells=cells,
        blocks=blocks,
        classifier=classifier,
        measured=measured,
        totals=totals,
        facts=facts,
        digest=digest,
    )
    return _finish(request, made, kept)


def _blocks(request: MapRequest, region: MapRegion, points: Points, cells: LabelledCells) -> Blocks:
    """Return the blocks of the labelled cells.

    Raises:
        UserError: the points are too few; says how many have no cell, too.
    """
    if not len(cells.labels):
        raise UserError(
            f"none of the {len(points)} points in {points.path} is on a cell of {region.folder} with a value: "
            f"{cells.reasons()}; check their coordinates (longitude first)"
        )
    placed = [scene for scene in region.scenes if scene.crs is not None]
    sides = [_cell_side_m(scene) for scene in placed]
    windows = [
        side * float(scene.facts["size"]) / float(scene.facts["stride"])
        for side, scene in zip(sides, placed, strict=True)
    ]
    try:
        return choose_blocks(
            metres(cells.lon, cells.lat),
            cells.labels,
            points.classes,
            window_m=max(windows),
            cell_m=max(sides),
            error_rate=request.error_rate,
            side_m=request.block_m,
        )
    except UserError as error:
        if not cells.left_out:
            raise
        left_out = f"{len(cells.left_out)} of the {len(points)} points have no cell: {cells.reasons()}"
        raise UserError(f"{error} ({left_out})") from error


def _cell_side_m(scene: MapScene) -> float:
    """Return the side of a square as large as a cell in the middle of a scene, in metres."""
    return float(np.sqrt(row_areas_km2(scene)[scene.rows // 2]) * 1000)


def _claim(request: MapRequest, facts: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> None:
    """Say in the folder what its map is made from; a map that is replaced goes first."""
    if earlier is not None and request.overwrite:
        for scene in earlier.get("scenes", {}):
            remove_rasters(request.out, scene)
        for name in (*report.REPORT_FILES, LEFT_OUT_FILE, PICTURE_FILE):
            (request.out / name).unlink(missing_ok=True)
    write_json(request.out / MAP_FILE, facts)


def _map_scenes(
    request: MapRequest,
    region: MapRegion,
    points: Points,
    classifier: ConformalClassifier,
    facts: Mapping[str, Any],
    progress: Progress,
) -> tuple[list[SceneTotals], int]:
    """Write the rasters that are not there yet; return the totals of all scenes, and how many were there."""
    digest = digest_of(facts)
    found = {scene.id: finished_totals(request.out, scene, digest) for scene in region.scenes}
    done = {name: totals for name, totals in found.items() if totals is not None}
    recorded = {
        "map": digest,
        "version": facts["version"],
        "points_sha256": facts["points_sha256"],
        "class_field": request.class_field,
        "error_rate": request.error_rate,
        "region": dict(region.facts),
    }
    size = {scene.id: scene.rows * scene.cols for scene in region.scenes}
    kept = len(done)
    with progress.stage("map", sum(size.values()), sum(size[name] for name in done)) as tick:
        for scene in region.scenes:
            if scene.id not in done:
                done[scene.id] = map_scene(
                    scene,
                    classifier,
                    request.out,
                    classes=points.classes,
                    values=points.values,
                    facts=recorded,
                    tick=tick,
                )
    return [done[scene.id] for scene in region.scenes], kept


def _finish(request: MapRequest, made: report.MapResult, kept: int) -> Mapped:
    """Write picture and report; return what the command prints."""
    written = report.as_json(made)
    sizes = written["set_sizes"]["map"]
    if made.cells.left_out:
        write_left_out(request.out / LEFT_OUT_FILE, made.cells.left_out)
    draw_map(
        request.out / PICTURE_FILE,
        request.out,
        made.region.scenes,
        made.cells,
        made.points.values,
        _legend(request, made, written),
    )
    markdown, as_json = report.REPORT_FILES
    write_atomically(request.out / markdown, report.as_markdown(written))
    write_json(request.out / as_json, written)
    f1, coverage, km2 = made.measured.f1(), made.measured.coverage(), made.mapped_km2()
    assert coverage.value is not None and coverage.low is not None and coverage.high is not None, "there are points"
    return Mapped(
        out=str(request.out),
        scenes=len(made.totals),
        kept=kept,
        points=made.cells.points,
        left_out=len(made.cells.left_out),
        classes=made.points.classes,
        cells=tuple(np.sum([totals.cells for totals in made.totals], axis=0).tolist()),
        km2=None if km2 is None else tuple(km2.tolist()),
        f1=(f1.value, f1.low, f1.high),
        coverage=(coverage.value, coverage.low, coverage.high),
        error_rate=request.error_rate,
        one_class=sizes[1] / max(sum(sizes), 1),
        block_m=made.blocks.side_m,
    )


def _legend(request: MapRequest, made: report.MapResult, written: Mapping[str, Any]) -> Legend:
    entries: Sequence[Mapping[str, Any]] = written["classes"]
    scenes = len(made.totals)
    return Legend(
        title=f"{request.class_field}, from {made.cells.points} points in {scenes} scene{'s' if scenes > 1 else ''}",
        labels=[
            entry["class"] if entry["km2_mapped"] is None else f"{entry['class']}  {entry['km2_mapped']:,.3g} km²"
            for entry in entries
        ],
        pale=f"pale: not one class at\nan error rate of {request.error_rate:g}",
    )
