"""What was measured as a table: for the terminal, and for the dated files in ``benchmarks/``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from eo_backbones.files import write_atomically

NOT_MEASURED = "not measured"
_SIGN = {"at least": ">=", "at most": "<="}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: in words; ``{...}`` is filled with other fields.
        field: name of the value in the JSON object.
        form: how it is written.
        bound: whether the aim is the least or the most that is wanted.
        aim: the value aimed at; None for values that are shown beside others.
    """

    what: str
    field: str
    form: str
    bound: Literal["at least", "at most"] = "at least"
    aim: float | None = None

    def reached(self, found: Mapping[str, Any]) -> bool | None:
        """Whether the aim was reached; None without an aim or a measurement that counts."""
        value = found[self.field]
        if self.aim is None or value is None or found["quick"]:
            return None
        return bool(value >= self.aim if self.bound == "at least" else value <= self.aim)

    def cells(self, found: Mapping[str, Any]) -> tuple[str, str, str, str]:
        """Return what, measured value, aim, verdict."""
        value = found[self.field]
        verdict = {True: "reached", False: "missed", None: ""}[self.reached(found)]
        return (
            self.what.format(**found),
            NOT_MEASURED if value is None else self.form.format(value),
            "" if self.aim is None else f"{_SIGN[self.bound]} {self.form.format(self.aim)}",
            verdict,
        )


_TIMES, _SPEED, _COUNT, _MS, _KIB = "{:.3g}x", "{:,.0f} pairs/s", "{:,}", "{:.0f} ms", "{:,.0f} KiB"

SECTIONS: Mapping[str, tuple[Row, ...]] = {
    "Loading": (
        Row("our loader, batches of {loader_batch}", "loader_pairs_per_s", _SPEED),
        Row("rasterio, default (all bands)", "rasterio_pairs_per_s", _SPEED),
        Row("rasterio, tuned (one band each)", "rasterio_tuned_pairs_per_s", _SPEED),
        Row("ours over default", "loader_ratio", _TIMES, aim=250),
        Row("ours over tuned", "loader_ratio_tuned", _TIMES, aim=80),
        Row("copied for a pair", "kib_per_pair", _KIB, "at most", 130),
        Row("read from the disk for a pair, cold", "kib_per_pair_from_disk", _KIB, "at most", 130),
        Row("the two files of a pair", "rasterio_kib_per_pair", _KIB),
        Row("prepare, one process", "prepare_scenes_per_s", "{:,.0f} scenes/s", aim=60),
    ),
    "Views ({views_size_px} px, one thread)": (
        Row("ours, batched", "views_us", "{:,.0f} us"),
        Row("torchvision, image by image", "views_torchvision_us", "{:,.0f} us"),
        Row("ours over torchvision", "views_ratio", _TIMES, aim=3),
        Row("the same with the paper's views", "views_ratio_paper", _TIMES),
        Row("over torchvision that crops first", "views_ratio_crop_first", _TIMES),
    ),
    "Step ({step_size_px} px, {step_batch} pairs, {threads} threads)": (
        Row("BYOL symmetric, joint, operations launched", "step_ops", _COUNT, "at most", 900),
        Row("BYOL one-directional, operations launched", "step_ops_one_directional", _COUNT, "at most", 900),
        Row("BYOL symmetric, separate, operations launched", "step_ops_separate", _COUNT),
        Row("SimSiam symmetric, joint, operations launched", "step_ops_simsiam", _COUNT),
        Row("lightly's, symmetric, operations launched", "step_ops_lightly", _COUNT),
        Row("BYOL symmetric, joint", "step_ms", _MS),
        Row("BYOL one-directional", "step_ms_one_directional", _MS),
        Row("BYOL symmetric, separate", "step_ms_separate", _MS),
        Row("SimSiam symmetric, joint", "step_ms_simsiam", _MS),
        Row("lightly's parts, symmetric", "step_ms_lightly", _MS),
        Row("lightly's parts, one-directional", "step_ms_lightly_one_directional", _MS),
        Row("symmetric, joint, over lightly's", "step_ratio", _TIMES, aim=1.8),
        Row("one-directional over lightly's likewise", "step_ratio_one_directional", _TIMES, aim=1.8),
        Row("one-directional over lightly's symmetric", "step_ratio_one_directional_to_symmetric", _TIMES),
        Row("symmetric, separate, over lightly's", "step_ratio_separate", _TIMES),
        Row("BYOL's time over SimSiam's (paper: about 2)", "byol_over_simsiam", _TIMES),
    ),
    "One GPU (112 px)": (
        Row("BYOL symmetric, joint, 256 pairs", "gpu_pairs_per_s", _SPEED, aim=6500),
        Row("the same with --no-deterministic", "gpu_pairs_per_s_fastest", _SPEED),
        Row("BYOL symmetric, separate, 256 pairs", "gpu_pairs_per_s_separate", _SPEED),
        Row("BYOL symmetric, 32 pairs, graph", "gpu_graph_ms", "{:.2f} ms", "at most", 4),
        Row("the paper's step, 32 pairs, graph", "gpu_graph_ms_paper", "{:.2f} ms", "at most", 4),
        Row("loading and views over the step", "gpu_input_share", "{:.1%}", "at most", 0.03),
        Row("200 epochs of SEN12MS, projected", "gpu_hours", "{:.2f} h", "at most", 1.6),
    ),
}
_HEADER = ("", "measured", "aim", "")


def to_table(found: Mapping[str, Any]) -> Table:
    """Return the table for the terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for position, title in enumerate(_HEADER):
        table.add_column(title, justify="right" if position == 1 else "left", no_wrap=position > 0)
    for title, rows in SECTIONS.items():
        table.add_row(title.format(**found), style="bold")
        for row in rows:
            what, *rest = row.cells(found)
            table.add_row(f"  {what}", *rest, style="red" if row.reached(found) is False else None)
    return table


def to_markdown(found: Mapping[str, Any], command: str) -> str:
    """Return the report with machine, date, command, table and JSON object."""
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    lines = [
        f"# eo-train bench, {found['date']}, {found['device']}",
        "",
        f"- Command: `{command}`",
        f"- Machine: {found['device_name']}, {found['threads']} threads, {found['precision']}",
        f"- Versions: {versions}; commit {found['commit'] or 'unknown'}",
        *(f"- Note: {note}" for note in found["notes"]),
    ]
    for title, rows in SECTIONS.items():
        lines += ["", f"| {title.format(**found)} | measured | aim | |", "| --- | ---: | --- | --- |"]
        lines += [f"| {' | '.join(row.cells(found))} |" for row in rows]
    return "\n".join([*lines, "", "```json", json.dumps(found, indent=2), "```", ""])


def write_markdown(found: Mapping[str, Any], folder: Path, command: str) -> Path:
    """Write ``<date>-<device>.md`` to a folder and return its path; an earlier report of that day is replaced."""
    path = folder / f"{found['date']}-{found['device']}{'-quick' if found['quick'] else ''}.md"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_markdown(found, command))
    return path
