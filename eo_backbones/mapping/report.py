"""The report of a map, as JSON and as Markdown: how often it is right, how often its sets are, and areas."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eo_backbones.mapping.accuracy import Measured, estimated_areas
from eo_backbones.mapping.blocks import Blocks
from eo_backbones.mapping.cells import LabelledCells
from eo_backbones.mapping.conformal import ConformalClassifier
from eo_backbones.mapping.points import Points
from eo_backbones.mapping.scene_map import SceneTotals
from eo_backbones.mapping.source import MapRegion, MapScene

REPORT_FILES = ("report.md", "report.json")
_OVERLAP = 0.01  # of the smaller box: below, scenes only touch

ASSUMPTIONS = (
    "The points stand for the region only as far as they were placed at random. Points chosen by eye lie where a class "
    "is plain to see; then accuracy and coverage of the whole map are lower, and the corrected areas are not to be "
    "trusted.",
    "Coverage is that of sets over all classes together. A class with few points can have a lower one: see its row.",
    "Held-out points were predicted by classifiers that had learned from fewer points than the one of the map.",
    "Intervals of shares count each block of neighbouring points as one observation.",
    "Corrected areas take the predicted class of each held-out point as the class of the map there.",
)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class MapResult:
    """All that a report is written from."""

    region: MapRegion
    points: Points
    cells: LabelledCells
    blocks: Blocks
    classifier: ConformalClassifier
    measured: Measured
    totals: Sequence[SceneTotals]
    facts: Mapping[str, Any]
    digest: str

    def mapped_km2(self) -> np.ndarray | None:
        """Return the area of each class in the map; ``None`` where no scene has a coordinate system."""
        areas = [totals.km2 for totals in self.totals if totals.km2 is not None]
        return np.sum(areas, axis=0) if areas else None


def as_json(made: MapResult) -> dict[str, Any]:
    """Return the report as JSON types."""
    measured, classifier = made.measured, made.classifier
    mapped = made.mapped_km2()
    corrected = None if mapped is None else estimated_areas(measured.confusion, mapped)
    cells = np.sum([totals.cells for totals in made.totals], axis=0)
    sizes = np.sum([totals.set_sizes for totals in made.totals], axis=0)
    f1 = measured.f1()
    classes = []
    for number, (name, value) in enumerate(zip(made.points.classes, made.points.values, strict=True)):
        of_class = made.cells.labels == number
        classes.append(
            {
                "class": name,
                "value": value,
                "points": len(np.unique(made.cells.point[of_class])),
                "coverage": asdict(measured.coverage(number)),
                "cells": int(cells[number]),
                "km2_mapped": None if mapped is None else float(mapped[number]),
                "km2_corrected": None if corrected is None else _estimate(corrected[number]),
            }
        )
    return {
        "map": made.digest,
        "version": made.facts["version"],
        "region": {"folder": str(made.region.folder), "scenes": len(made.region.scenes), **made.region.facts},
        "points": {
            "file": str(made.points.path),
            "sha256": made.facts["points_sha256"],
            "class_field": made.facts["class_field"],
            "listed": len(made.points),
            "used": made.cells.points,
            "cells": len(made.cells.labels),
            "left_out": made.cells.reasons(),
        },
        "classifier": {"strength": classifier.strength, "temperature": classifier.temperature},
        "blocks": {
            "side_m": made.blocks.side_m,
            "window_m": made.blocks.window_m,
            "number": made.blocks.number,
        },
        "error_rate": classifier.error_rate,
        "coverage": asdict(measured.coverage()),
        "accuracy": asdict(measured.accuracy()),
        "f1_weighted": _estimate(f1),
        "probability_of_held_out": float(measured.predicted.probability.mean()),
        "confusion": measured.confusion.tolist(),
        "set_sizes": {"held_out": measured.set_sizes().tolist(), "map": sizes.tolist()},
        "classes": classes,
        "overlapping_scenes": overlapping(made.region.scenes),
        "scenes": [asdict(totals) for totals in made.totals],
        "assumptions": list(ASSUMPTIONS),
    }


def _estimate(estimate: Any) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def overlapping(scenes: Sequence[MapScene]) -> int:
    """Return how many pairs of scenes show the same ground, by their boxes of longitude and latitude."""
    placed = [scene.corners() for scene in scenes if scene.crs is not None]
    boxes = np.array([[lon.min(), lat.min(), lon.max(), lat.max()] for lon, lat in placed])
    pairs = 0
    for number, box in enumerate(boxes):
        later = boxes[number + 1 :]
        shared = (np.minimum(box[2:], later[:, 2:]) - np.maximum(box[:2], later[:, :2])).clip(0).prod(axis=1)
        smaller = np.minimum(np.prod(box[2:] - box[:2]), (later[:, 2:] - later[:, :2]).prod(axis=1))
        pairs += int((shared > _OVERLAP * smaller).sum())
    return pairs


def as_markdown(report: Mapping[str, Any]) -> str:
    """Return the report for people, from :func:`as_json`."""
    points, blocks, rate = report["points"], report["blocks"], report["error_rate"]
    names = [entry["class"] for entry in report["classes"]]
    left_out = f"; left out (`left_out.csv`): {points['left_out']}" if points["left_out"] else ""
    held = report["set_sizes"]["held_out"]
    lines = [
        f"# Map of {_md(points['class_field'])}",
        "",
        f"{points['used']} of {points['listed']} points in `{points['file']}`, {points['cells']} cells in "
        f"{report['region']['scenes']} scenes of `{report['region']['folder']}`{left_out}.",
        "",
        f"Model `{report['region'].get('model', '?')}`, bands {', '.join(report['region'].get('bands', []))}. "
        f"Held out together: points in squares of {blocks['side_m']:,.0f} m ({blocks['number']} blocks); points nearer "
        f"than {blocks['window_m']:,.0f} m to a held-out one were not learned from meanwhile.",
        "",
        "![map](map.png)",
        "",
        "## On held-out points",
        "",
        "| | value [95 % interval] |",
        "| --- | --- |",
        f"| weighted F1 | {_interval(report['f1_weighted'])} |",
        f"| accuracy | {_interval(report['accuracy'])} |",
        f"| mean probability of the mapped class | {report['probability_of_held_out']:.3f} |",
        f"| coverage of the sets (asked for: at least {1 - rate:g}) | {_interval(report['coverage'])} |",
        f"| sets of one class / of several / empty | {held[1]} / {sum(held[2:])} / {held[0]} |",
        "",
        "## Classes",
        "",
        "| class | value | points | coverage | cells | km² mapped | km² corrected |",
        f"| --- |{' ---: |' * 6}",
        *map(_class_row, report["classes"]),
        "",
        *_area_notes(report),
        "## Confusion of held-out points",
        "",
        f"| is, mapped as | {' | '.join(map(_md, names))} |",
        f"| --- |{' ---: |' * len(names)}",
        *(
            f"| {_md(name)} | {' | '.join(map(str, row))} |"
            for name, row in zip(names, report["confusion"], strict=True)
        ),
        "",
        "## What this rests on",
        "",
        *(f"- {text}" for text in report["assumptions"]),
        "",
        f"Map `{report['map'][:16]}`, points `{points['sha256'][:16]}`, weights "
        f"`{str(report['region'].get('weights_sha256', '?'))[:16]}`, eo-backbones {report['version']}.",
        "",
    ]
    return "\n".join(lines)


def _class_row(entry: Mapping[str, Any]) -> str:
    mapped, corrected = entry["km2_mapped"], entry["km2_corrected"]
    areas = "" if mapped is None else f"{mapped:,.4g}"
    right = (
        "" if corrected is None else f"{corrected['value']:,.4g} [{corrected['low']:,.4g}, {corrected['high']:,.4g}]"
    )
    return (
        f"| {_md(entry['class'])} | {entry['value']} | {entry['points']} | {_interval(entry['coverage'])} | "
        f"{entry['cells']:,} | {areas} | {right} |"
    )


def _area_notes(report: Mapping[str, Any]) -> list[str]:
    notes = []
    if all(entry["km2_corrected"] is None for entry in report["classes"]):
        notes += ["No corrected areas: they need two held-out points that are mapped as each class of the map.", ""]
    else:
        notes += ["Corrected: the map's areas, corrected by the confusion below (Olofsson et al. 2014).", ""]
    if report["overlapping_scenes"]:
        notes += [
            f"{report['overlapping_scenes']} pairs of scenes overlap: ground that several scenes show counts once for "
            "each.",
            "",
        ]
    return notes


def _interval(value: Mapping[str, Any]) -> str:
    if value["value"] is None:
        return "no points"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _md(text: str) -> str:
    """Return text that is safe in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "\\`")
