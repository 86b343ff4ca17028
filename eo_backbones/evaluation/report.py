"""``report.md``: the tables, and everything a reader needs to judge and repeat them."""

from collections.abc import Sequence

from eo_backbones.evaluation import contents as said
from eo_backbones.evaluation import encoders
from eo_backbones.evaluation.contents import Contents, Grid
from eo_backbones.result_tables import markdown_table

REPORT_FILE = "report.md"
FIGURE_FILE = "bands.png"


def text(contents: Contents) -> str:
    """Return the report as Markdown."""
    parts = [f"# {contents.title}", said.INTRODUCTION, f"![weighted F1 per band]({FIGURE_FILE})"]
    for section, comparisons in contents.tables:
        parts += [f"## {said.heading(section)}", said.counts(section), _named(said.table(section))]
        if not said.has_imagenet(section):
            parts.append(
                f"`{encoders.IMAGENET}` is {said.NOT_MEASURED}; this measures it:\n\n"
                f"```\n{contents.imagenet_command(section)}\n```"
            )
        if further := said.further_table(section):
            parts += [said.FURTHER_NOTE, _plain(further)]
        if comparisons:
            parts += [said.COMPARISON_NOTE, _plain(said.comparison_table(section, comparisons))]
        if paper := said.paper_table(section):
            parts += [said.PAPER_NOTE, _plain(paper)]
    parts += ["## Setup", _plain(said.setup(contents))]
    parts += ["## What the names mean", _named(said.definitions(contents.rows))]
    parts += ["## Commands", "```\n" + "\n".join(contents.commands) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _named(grid: Grid) -> str:
    """Return a table whose first column holds names to type."""
    return _plain([grid[0], *([f"`{line[0]}`", *line[1:]] for line in grid[1:])])


def _plain(grid: Sequence[Sequence[str]]) -> str:
    return markdown_table(grid[0], grid[1:])
