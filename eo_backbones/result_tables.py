"""Rows of ``results.csv`` as Markdown tables and as the Hub's ``model-index`` entries.

Columns: DESIGN 3.5. Rows of several seeds with equal settings become one figure, the mean; so do their intervals.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from eo_backbones.errors import UserError
from eo_backbones.weights import Score

RESULTS_FILE = "results.csv"

Row = Mapping[str, Any]
"""One row of ``results.csv``: column -> text or number."""

COLUMNS = (
    *("model", "dataset", "band", "protocol", "split", "fraction", "size", "seed", "n_train", "n_test"),
    *("f1_weighted", "accuracy", "f1_low", "f1_high", "weights_digest"),
)
"""Columns that are read here; a file may have more."""

SETTING = ("dataset", "protocol", "split", "fraction", "size")
"""Columns that must agree for two figures to stand in one table."""

_TASK = "image-classification"


def read_rows(path: Path) -> list[Row]:
    """Read a ``results.csv``, or the one inside a folder.

    Raises:
        UserError: no such file, no rows, or a column that is missing.
    """
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); name the --out of 'eo-backbones evaluate'") from error
    missing = [column for column in COLUMNS if not rows or rows[0].get(column) is None]
    if missing:
        raise UserError(f"{path} holds no results with the columns {', '.join(missing)}; measure them again")
    return list(rows)


def csv_text(rows: Sequence[Row]) -> str:
    """Return rows as the text of a ``results.csv``."""
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def scores(rows: Iterable[Row]) -> list[Score]:
    """Return one figure per band and setting from the rows of one model: the mean over the seeds."""
    return [
        Score(
            dataset=dataset,
            band=band,
            protocol=protocol,
            split=split,
            fraction=fraction,
            size=int(size),
            seeds=len({str(row["seed"]) for row in group}),
            n_train=int(group[0]["n_train"]),
            n_test=int(group[0]["n_test"]),
            f1=round(_mean(group, "f1_weighted"), 4),
            f1_low=round(_mean(group, "f1_low"), 4),
            f1_high=round(_mean(group, "f1_high"), 4),
            accuracy=round(_mean(group, "accuracy"), 4),
        )
        for (band, dataset, protocol, split, fraction, size), group in _grouped(rows, ("band", *SETTING)).items()
    ]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def result_sections(rows: Sequence[Row]) -> str:
    """Return one section per setting, each with a table of bands by models, in the order of the rows."""
    sections = []
    for (dataset, protocol, split, fraction, size), group in _grouped(rows, SETTING).items():
        seeds = len({str(row["seed"]) for row in group})
        sections.append(
            f"### {dataset}, protocol `{protocol}`, split `{split}`\n\n"
            f"Fraction {fraction} of the training part ({group[0]['n_train']} images), {group[0]['n_test']} test "
            f"images, {size} px, {seeds} seed{'s' if seeds > 1 else ''}.\n\n{_bands_by_models(group)}"
        )
    return "\n\n".join(sections)


def summary_tables(rows: Sequence[Row], protocols: Sequence[str]) -> str:
    """Return one table per data set, split and size: a line per label budget, protocol and band, a column per model.

    Figures as in :func:`result_sections`; the largest of a line is bold. Models stand in the order of the rows.

    Args:
        rows: of any number of models.
        protocols: those to show, in this order.
    """
    tables = []
    for (dataset, split, size), group in _grouped(rows, ("dataset", "split", "size")).items():
        lined = [{**row, "model": _line(row)} for row in group]
        models = list(dict.fromkeys(row["model"] for row in lined))
        lines = []
        for (_, protocol, band), alike in sorted(
            _grouped((row for row in lined if row["protocol"] in protocols), ("fraction", "protocol", "band")).items(),
            key=lambda item: (-int(item[1][0]["n_train"]), protocols.index(item[0][1])),
        ):
            found = {model: own for (model,), own in _grouped(alike, ("model",)).items()}
            best = max(found, key=lambda model: _mean(found[model], "f1_weighted"))
            shown = {model: _cell(own) for model, own in found.items()}
            shown[best] = f"**{shown[best]}**"
            cells = [shown.get(model, "") for model in models]
            lines.append([f"{int(alike[0]['n_train']):,}", f"`{protocol}`", band, *cells])
        seeds = len({str(row["seed"]) for row in group})
        tables.append(
            f"`{dataset}`, split `{split}`, {int(group[0]['n_test']):,} test images, {size} px, {seeds} "
            f"seed{'s' if seeds > 1 else ''}:\n\n"
            + markdown_table(["labelled images", "protocol", "band", *models], lines)
        )
    return "\n\n".join(tables)


def evaluation_commands(rows: Sequence[Row]) -> list[str]:
    """Return the commands that measure these rows again, one per data set, split, fraction and size."""
    commands = []
    for (dataset, split, fraction, size), group in _grouped(rows, ("dataset", "split", "fraction", "size")).items():
        models, bands, protocols, seeds = (
            list(dict.fromkeys(str(row[column]) for row in group)) for column in ("model", "band", "protocol", "seed")
        )
        protocols = list(dict.fromkeys("knn" if name.startswith("knn") else name for name in protocols))
        shots = re.fullmatch(r"(\d+)-shot", fraction)
        labels = f"--shots {shots[1]}" if shots else f"--fraction {fraction}"
        commands.append(
            f"eo-backbones evaluate --dataset {dataset} --root DIR --models {' '.join(models)} "
            f"--bands {' '.join(bands)} --protocol {' '.join(protocols)} --split {split} {labels} "
            f"--seeds {len(seeds)} --size {size} --out RESULTS"
        )
    return commands


def imagenet_note(rows: Iterable[Row]) -> str:
    """Return what a table without ImageNet's weights must say about them, or ``""``."""
    if any(str(row["model"]).startswith("imagenet") for row in rows):
        return ""
    return (
        "ImageNet weights (the channel copied to three): not measured here, they could not be reached; add `imagenet` "
        "to `--models` to measure them."
    )


def measured_with(row: Row, sha256: str) -> bool:
    """Return whether a row's ``weights_digest`` (a sha256 or the beginning of one) is that of these weights."""
    digest = str(row["weights_digest"])
    return bool(digest) and sha256.startswith(digest)


def rows_of(rows: Iterable[Row], name: str, sha256: str) -> list[Row]:
    """Return the rows that were measured with these weights, whatever name was typed for them.

    Raises:
        UserError: a row has the model's name, but was measured with other weights.
    """
    own = []
    for row in rows:
        if measured_with(row, sha256):
            own.append(row)
        elif row["model"] == name:
            raise UserError(
                f"results of {name} were measured with weights {row['weights_digest'] or 'without a digest'}, "
                f"not with {sha256[:12]}…; evaluate these weights"
            )
    return own


def renamed(rows: Iterable[Row], name: str, sha256: str) -> list[Row]:
    """Return the rows with one name for these weights, and no path of the machine that measured in other names."""
    return [
        {**row, "model": name if measured_with(row, sha256) else re.sub(r"local-dir:.*/", "local-dir:", row["model"])}
        for row in rows
    ]


def eval_results(rows: Iterable[Row]) -> list[EvalResult]:
    """Return the rows of one model as ``model-index`` entries: one per data set and band, one metric per setting."""
    return [
        EvalResult(
            task_type=_TASK,
            dataset_type=re.sub(r"[^a-z0-9]+", "-", score.dataset.lower()),
            dataset_name=score.dataset,
            dataset_config=score.band,
            dataset_split="test",
            metric_type="f1",
            metric_name=f"weighted F1, {score.protocol}, fraction {score.fraction}",
            metric_value=score.f1,
            metric_args={
                "protocol": score.protocol,
                "split": score.split,
                "fraction": score.fraction,
                "size": str(score.size),
                "interval": [score.f1_low, score.f1_high],
            },
        )
        for score in scores(rows)
    ]


def _bands_by_models(rows: Sequence[Row]) -> str:
    rows = [{**row, "model": _line(row)} for row in rows]
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    bands = list(dict.fromkeys(str(row["band"]) for row in rows))
    cells = {key: _cell(group) for key, group in _grouped(rows, ("band", "model")).items()}
    return markdown_table(
        ["band", *models], [[band, *(cells.get((band, model), "") for model in models)] for band in bands]
    )


def _line(row: Row) -> str:
    """Return the column of a table that a row belongs to: a baseline may be measured with several scalings."""
    scaling = row.get("input_scaling", "contract")
    return str(row["model"]) if scaling == "contract" else f"{row['model']}, {scaling}"


def _cell(rows: Sequence[Row]) -> str:
    value, low, high = (_mean(rows, column) for column in ("f1_weighted", "f1_low", "f1_high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _grouped(rows: Iterable[Row], columns: Sequence[str]) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[column]) for column in columns), []).append(row)
    return groups


def _mean(rows: Sequence[Row], column: str) -> float:
    return sum(float(row[column]) for row in rows) / len(rows)
