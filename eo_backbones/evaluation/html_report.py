"""``report.html``: the same report as one file that opens anywhere, with pictures of what the models did."""

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from eo_backbones.evaluation import contents as said
from eo_backbones.evaluation import encoders, map_pictures, pictures, predictions
from eo_backbones.evaluation.band_choice import sources_of
from eo_backbones.evaluation.contents import Contents, Grid
from eo_backbones.evaluation.results import Result
from eo_backbones.evaluation.summary import Section

HTML_FILE = "report.html"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2430; max-width: 1120px; margin: 2.5rem auto; padding: 0 1.2rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem }
h2 { font-size: 1.2rem; margin-top: 2.4rem; border-top: 1px solid #e6e8ec; padding-top: 1.2rem }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem }
p.note { color: #596273; margin: .3rem 0 .8rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .7rem; text-align: left; border-bottom: 1px solid #e6e8ec; white-space: nowrap }
table.facts td { white-space: normal; vertical-align: top }
th { font-weight: 600 }
td small { color: #596273 }
td.missing { color: #8a93a1; font-style: italic }
pre { background: #f5f6f8; padding: .7rem .9rem; overflow-x: auto; border-radius: 6px; font-size: .82rem }
img { max-width: 100%; height: auto }
summary { cursor: pointer; font-weight: 600; margin: .8rem 0 }
"""


def page(contents: Contents, out: Path, bars: bytes) -> str:
    """Return the whole page.

    Args:
        contents: what it says.
        out: folder of the results, for the predictions behind them.
        bars: the content of ``bands.png``.
    """
    body = [f"<h1>{escape(contents.title)}</h1>", _note(said.INTRODUCTION), _picture(bars, "weighted F1 per band")]
    for section, comparisons in contents.tables:
        body += [f"<h2>{escape(said.heading(section))}</h2>", _note(said.counts(section)), _figures(section)]
        if not said.has_imagenet(section):
            body.append(_note(f"{encoders.IMAGENET} is {said.NOT_MEASURED}; this measures it:"))
            body.append(_code([contents.imagenet_command(section)]))
        if further := said.further_table(section):
            body += [_note(said.FURTHER_NOTE), _grid(further)]
        if comparisons:
            body += [_note(said.COMPARISON_NOTE), _grid(said.comparison_table(section, comparisons))]
        if paper := said.paper_table(section):
            body += [_note(said.PAPER_NOTE), _grid(paper)]
    section, _ = contents.tables[0]
    body.append(f"<h2>A closer look: {escape(said.heading(section))}</h2>")
    body.append(_note("Each model on the band that suits it best, first seed."))
    body += _closer_looks(contents, section, out)
    body += ["<h2>Setup</h2>", _grid(said.setup(contents), facts=True)]
    body += ["<h2>What the names mean</h2>", _grid(said.definitions(contents.rows), facts=True)]
    body += ["<h2>Commands</h2>", _code(contents.commands)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(contents.title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _closer_looks(contents: Contents, section: Section, out: Path) -> Iterator[str]:
    for number, (model, rows) in enumerate(section.rows.items()):
        best = max(section.bands, key=lambda band, model=model: _f1(section, model, band))  # type: ignore[misc]
        row = min((row for row in rows if row.band == best), key=lambda row: row.seed)
        looked = _closer_look(contents, row, out)
        if looked:
            opened = " open" if number == 0 else ""
            title = f"{model} on {best}: weighted F1 {row.f1_weighted:.3f}, accuracy {row.accuracy:.3f}"
            yield f"<details{opened}><summary>{escape(title)}</summary>{looked}</details>"


def _closer_look(contents: Contents, row: Result, out: Path) -> str:
    kept = predictions.read(out, row.key)
    if kept is None:
        return ""
    maps = contents.data.maps
    if kept.predicted.ndim == 3 and maps is not None:
        (band, *_) = sources_of(contents.data, row.band)
        return _picture(map_pictures.confusion(maps, kept), "confusion matrix of pixels") + _picture(
            map_pictures.examples(contents.data, maps, band, kept), "class maps of test images"
        )
    shown = pictures.samples(contents.data, sources_of(contents.data, row.band), kept)
    return _picture(pictures.confusion_and_projection(contents.data, kept), "confusion matrix") + _picture(
        shown, "test images that were right and wrong"
    )


def _f1(section: Section, model: str, band: str) -> float:
    cell = section.cells.get((model, band))
    return -1.0 if cell is None else cell.f1


def _figures(section: Section) -> str:
    """Return the main table: the figure large, its interval small, the better the bluer."""
    header, *lines = said.table(section)
    rows = [_row("th", header)]
    for line in lines:
        cells = [f"<td><code>{escape(line[0])}</code></td>"]
        for band, text in zip(section.bands, line[1:], strict=True):
            cell = section.cells.get((line[0], band))
            if cell is None:
                cells.append(f'<td class="missing">{escape(text)}</td>')
                continue
            figure, _, rest = text.partition(" ")
            shade = f"background: rgba(0, 114, 178, {0.45 * cell.f1**2:.3f})"
            cells.append(f'<td style="{shade}"><b>{figure}</b> <small>{escape(rest)}</small></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _grid(grid: Grid, *, facts: bool = False) -> str:
    header, *lines = grid
    rows = ([_row("th", header)] if any(header) else []) + [_row("td", line) for line in lines]
    return f'<div class="scroll"><table class="{"facts" if facts else "plain"}">{"".join(rows)}</table></div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _code(lines: Sequence[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _picture(content: bytes, alt: str) -> str:
    return f'<p><img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(content).decode()}"></p>'
