"""Rows of ``results.csv`` as Markdown tables and as the Hub's ``model-index`` entries.

Columns: DESIGN 3.5. Rows of several seeds with equal settings become one figure, the mean; so do their intervals.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult

from eo_backbones.errors import UserError

Row = Mapping[str, Any]
"""One row of ``results.csv``: column -> text or number."""

SETTING = ("dataset", "protocol", "split", "fraction", "size")
"""Columns that must agree for two figures to stand in one table."""

_TASK = "image-classification"


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


def evaluation_commands(rows: Sequence[Row]) -> list[str]:
    """Return the commands that measure these rows again, one per data set, split, fraction and size."""
    commands = []
    for (dataset, split, fraction, size), group in _grouped(rows, ("dataset", "split", "fraction", "size")).items():
        models, bands, protocols, seeds = (
            list(dict.fromkeys(str(row[column]) for row in group)) for column in ("model", "band", "protocol", "seed")
        )
        commands.append(
            f"eo-backbones evaluate --dataset {dataset} --root DIR --models {' '.join(models)} "
            f"--bands {' '.join(bands)} --protocol {' '.join(protocols)} --split {split} --fraction {fraction} "
            f"--seeds {len(seeds)} --size {size} --out RESULTS"
        )
    return commands


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
    """Return the rows with one name for these weights, in place of the path they had on the machine that measured."""
    return [{**row, "model": name} if measured_with(row, sha256) else row for row in rows]


def eval_results(rows: Iterable[Row]) -> list[EvalResult]:
    """Return the rows of one model as ``model-index`` entries: one per data set and band, one metric per setting."""
    entries = []
    for (band, *setting), group in _grouped(rows, ("band", *SETTING)).items():
        dataset, protocol, split, fraction, size = setting
        entries.append(
            EvalResult(
                task_type=_TASK,
                dataset_type=re.sub(r"[^a-z0-9]+", "-", dataset.lower()),
                dataset_name=dataset,
                dataset_config=band,
                dataset_split="test",
                metric_type="f1",
                metric_name=f"weighted F1, {protocol}, fraction {fraction}",
                metric_value=round(_mean(group, "f1_weighted"), 4),
                metric_args={
                    "protocol": protocol,
                    "split": split,
                    "fraction": fraction,
                    "size": size,
                    "interval": [round(_mean(group, "f1_low"), 4), round(_mean(group, "f1_high"), 4)],
                },
            )
        )
    return entries


def _bands_by_models(rows: Sequence[Row]) -> str:
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    bands = list(dict.fromkeys(str(row["band"]) for row in rows))
    cells = {key: _cell(group) for key, group in _grouped(rows, ("band", "model")).items()}
    return markdown_table(
        ["band", *models], [[band, *(cells.get((band, model), "") for model in models)] for band in bands]
    )


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
