"""The generated parts of the project's README: the table of weights, and the results of the default row."""

import re
from pathlib import Path

from eo_backbones.errors import UserError
from eo_backbones.result_tables import (
    RESULTS_FILE,
    evaluation_commands,
    imagenet_note,
    markdown_table,
    read_rows,
    summary_tables,
)
from eo_backbones.weights import WEIGHTS, Weights
from eo_backbones_train.publish.row_folders import CARDS_FOLDER, row_folder

README_FILE = "README.md"
WEIGHTS_PART = "weights"
RESULTS_PART = "results"
SHOWN_PROTOCOLS = ("logistic", "paper", "knn")
"""Those in the README; the card has all."""


def weights_part(rows: list[Weights]) -> str:
    """Return the table of weights, with a sentence on how many there are."""
    published = [row.name for row in rows if row.published]
    are = "is" if len(published) == 1 else "are"
    count = f"{len(published)} of the {len(rows)} declared weights {are}" if published else "No declared weights are"
    state = (
        f"{count} published. Asking for one that is not raises an error that names the recipe which makes it; there is "
        "never a silent fallback to random values."
    )
    table = markdown_table(
        ["name", "trained on", "recipe", "licence", "weights"],
        [
            [
                f"[`{row.name}`]({CARDS_FOLDER}/{row.name}/README.md)",
                row.data,
                f"`{row.recipe}`",
                f"`{row.license}`",
                _where(row),
            ]
            for row in rows
        ],
    )
    return f"{state}\n\n{table}"


def _where(row: Weights) -> str:
    if not row.published:
        return "not published"
    assert row.size_bytes is not None
    return f"{'in the package' if row.embedded else 'on the Hub'}, {row.size_bytes / 2**20:.0f} MiB"


def results_part(checkout: Path, row: Weights) -> str | None:
    """Return the results of a row, or ``None`` while it has none."""
    if not row.published:
        return None
    rows = read_rows(row_folder(checkout, row))
    source = f"{CARDS_FOLDER}/{row.name}/{RESULTS_FILE}"
    commands = "\n".join(["```bash", *evaluation_commands(rows), "```"])
    text = (
        f"Weighted F1 of a classifier on frozen features of one band, mean over the seeds with the 95 % bootstrap "
        f"interval of the test images. More in [the card]({CARDS_FOLDER}/{row.name}/README.md#results); every row: "
        f"[{source}]({source})."
    )
    parts = [text, summary_tables(rows, SHOWN_PROTOCOLS), imagenet_note(rows), "Measured by:", commands]
    return "\n\n".join(part for part in parts if part)


def readme_text(checkout: Path) -> str:
    """Return the README with its generated parts made anew.

    Raises:
        UserError: a marker of a part is missing.
    """
    text = (checkout / README_FILE).read_text(encoding="utf-8")
    rows = list(WEIGHTS.values())
    text = _replaced(text, WEIGHTS_PART, weights_part(rows))
    results = results_part(checkout, rows[0])
    return text if results is None else _replaced(text, RESULTS_PART, results)


def _replaced(text: str, part: str, content: str) -> str:
    begin, end = f"<!-- {part}: generated, see CONTRIBUTING.md -->", f"<!-- /{part} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", flags=re.DOTALL)
    if not pattern.search(text):
        raise UserError(f"{README_FILE} lacks the lines {begin} and {end}; put them where the part belongs")
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)
