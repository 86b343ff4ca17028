"""The report says what the rows say, how they were made, and what is missing."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from eo_backbones.datasets import LabelledImages, open_dataset
from eo_backbones.evaluation import plots, predictions, report
from eo_backbones.evaluation.predictions import Predictions
from eo_backbones.results import Result, sections
from support.result_rows import result
from support.synthetic_data import eurosat_rgb_folder  # noqa: F401  fixture

IMAGENET_COMMAND = "eo-backbones evaluate --models imagenet"


@pytest.fixture
def data(eurosat_rgb_folder: Path) -> LabelledImages:  # noqa: F811
    return open_dataset("eurosat-rgb", eurosat_rgb_folder)


def rows_of_two_models() -> list[Result]:
    return [
        result(model=model, band=band, seed=seed, f1_weighted=f1, f1_low=f1 - 0.02, f1_high=f1 + 0.03)
        for model, start in (("stats", 0.4), ("local-dir:X", 0.7))
        for band in ("B04", "B03")
        for seed, f1 in ((0, start), (1, start + 0.02))
    ]


def imagenet_command(_: object) -> str:
    return IMAGENET_COMMAND


def text(data: LabelledImages, rows: list[Result], out: Path = Path("nowhere")) -> str:
    gathered = report.gather_report(
        out, data, rows, commands=["eo-backbones evaluate ..."], imagenet_command=lambda _: IMAGENET_COMMAND
    )
    return report.markdown_report(gathered)


def test_cells_are_means_over_seeds() -> None:
    (section,) = sections(rows_of_two_models())
    cell = section.cells["stats", "B03"]
    assert (cell.value, cell.low, cell.high) == pytest.approx((0.41, 0.39, 0.44))
    assert cell.spread == pytest.approx(np.std([0.4, 0.42], ddof=1))
    assert section.seeds == 2
    assert section.models == ("stats", "local-dir:X")
    assert section.bands == ("B04", "B03")


def test_what_may_not_be_compared_stands_in_two_tables() -> None:
    rows = [result(), result(protocol="paper"), result(fraction="0.1"), result(split="standard")]
    assert len(sections(rows)) == 4


def test_settings_of_a_model_are_lines_of_their_own() -> None:
    rows = [
        result(model="imagenet", size=size, input_scaling=scaling)
        for size in (64, 224)
        for scaling in ("div10000", "standardised")
    ] + [result(model="a", size=64), result(model="a", size=224), result(model="stats", size=64)]
    (section,) = sections(rows)
    assert section.models == (
        "imagenet (64 px, div10000)",
        "imagenet (64 px, standardised)",
        "imagenet (224 px, div10000)",
        "imagenet (224 px, standardised)",
        "a (64 px)",
        "a (224 px)",
        "stats",
    )


def test_long_names_do_not_squeeze_the_bars(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Folders of any depth: the names go below each other, and each panel keeps most of the picture's width."""
    rows = [result(model=f"local-dir:/{'deep/' * depth}{end}") for depth in (8, 30) for end in ("byol", "simsiam")]
    plots.write_band_chart(tmp_path / "bands.png", rows)
    assert not [str(warning.message) for warning in recwarn if "constrained_layout" in str(warning.message)]
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    plots.draw_section(axes, sections(rows)[0])
    figure.draw_without_rendering()
    assert axes.get_position().width > 0.7
    assert [text.get_text()[-7:] for text in axes.get_legend().get_texts()] == ["ep/byol", "simsiam"] * 2


@pytest.mark.parametrize(
    ("models", "shown"),
    [
        (("local-dir:/a/byol", "imagenet=local-dir:/b/lite0"), ["local-dir:byol", "imagenet=local-dir:lite0"]),
        (("local-dir:/a/byol", "local-dir:/b/byol"), ["local-dir:/a/byol", "local-dir:/b/byol"]),
    ],
)
def test_folders_are_called_by_their_last_part_where_it_tells_them_apart(
    models: tuple[str, ...], shown: list[str]
) -> None:
    axes = Figure().subplots()
    plots.draw_section(axes, sections([result(model=model) for model in models])[0])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == shown


def test_panels_of_the_same_models_share_one_legend() -> None:
    """Below the last panel; panels of other models have their own."""
    for second, expected in (("stats", [False, True]), ("raw", [True, True])):
        figure = plots.band_chart([result(model="stats"), result(model=second, protocol="knn")])
        assert [axes.get_legend() is not None for axes in figure.axes] == expected


def test_table_and_setup(data: LabelledImages) -> None:
    written = text(data, rows_of_two_models())
    assert "| `stats` | 0.410 [0.390, 0.440] ± 0.014 | 0.410 [0.390, 0.440] ± 0.014 |" in written
    assert f"40 images, 10 classes, digest {data.digest}" in written
    assert "80 labelled images (train + validation), 20 test images, 2 seeds" in written
    assert "| weights of stats | " + "w" * 12 + " |" in written
    assert result().versions in written
    assert "percentile 95" in written  # what stats means
    assert "eo-backbones evaluate ..." in written


def test_imagenet_is_never_left_out(data: LabelledImages) -> None:
    """Its line says what it is, beside the command that measures it, until it is measured (docs/decisions/0013)."""
    written = text(data, rows_of_two_models())
    assert "| `imagenet` | not measured here | not measured here |" in written
    assert IMAGENET_COMMAND in written
    measured = text(data, [*rows_of_two_models(), result(model="imagenet", input_scaling="div10000")])
    assert "not measured here" not in measured


def test_no_path_of_this_machine_gets_into_a_report(data: LabelledImages) -> None:
    assert not re.search(r"/(?:tmp|home|root|work|var|Users)\b", text(data, rows_of_two_models()))


def test_bars_have_the_heights_of_the_table(tmp_path: Path) -> None:
    (section,) = sections(rows_of_two_models())
    axes = Figure().subplots()
    plots.draw_section(axes, section)
    heights = sorted(round(patch.get_height(), 6) for patch in axes.patches)
    assert heights == [0.41, 0.41, 0.71, 0.71]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["B04", "B03"]
    path = tmp_path / "bands.png"
    plots.write_band_chart(path, rows_of_two_models())
    with Image.open(path) as picture:
        assert picture.width > 1000
        assert np.asarray(picture.convert("L")).std() > 10


def test_baselines_are_grey_and_encoders_are_not() -> None:
    chosen = plots.line_colours(
        ["stats", "imagenet (64 px, div10000)", "imagenet=local-dir:X (64 px, div10000)", "local-dir:X"]
    )
    assert list(chosen.values()) == [*plots.GREYS[:3], plots.COLOURS[0]]


def with_predictions(out: Path, data: LabelledImages) -> list[Result]:
    """Rows whose predictions are on disk; the encoder is right more often."""
    rng = np.random.default_rng(0)
    rows = rows_of_two_models()
    for row in rows:
        true = data.labels
        right = 0.9 if row.model == "local-dir:X" else 0.3
        predicted = np.where(rng.random(len(true)) < right, true, rng.integers(0, 10, len(true)))
        projection = rng.normal(size=(len(true), 2)).astype(np.float32)
        predictions.write_predictions(out, row.key, Predictions(np.arange(len(true)), predicted, projection))
    return rows


def test_comparisons_are_statements(data: LabelledImages, tmp_path: Path) -> None:
    written = text(data, with_predictions(tmp_path, data), tmp_path)
    (line,) = [line for line in written.splitlines() if line.startswith("| local-dir:X - stats |")]
    assert re.fullmatch(r"\| local-dir:X - stats (\| \+0\.\d{3} \[\+0\.\d{3}, \+0\.\d{3}\]\* ){2}\|", line)


def test_the_papers_own_results_are_marked_as_such(data: LabelledImages) -> None:
    rows = [result(protocol="paper", band=band) for band in ("B04", "B02")]
    written = text(data, rows)
    assert "| BYOL-90K | 0.86 | 0.87 |" in written
    assert "The paper's own results (Jain et al., IGARSS 2021, Table I)" in written
    assert "BYOL-90K" not in text(data, rows_of_two_models())  # another protocol


def test_the_page_is_whole_and_stands_alone(data: LabelledImages, tmp_path: Path) -> None:
    rows = with_predictions(tmp_path, data)
    gathered = report.gather_report(tmp_path, data, rows, commands=["a <b>"], imagenet_command=imagenet_command)
    page = report.html_report(gathered, tmp_path, b"bars")
    parser = Structure()
    parser.feed(page)
    assert parser.open == []
    sources = [value for name, value in parser.attributes if name == "src"]
    assert len(sources) == 1 + 2 * 2  # bars, then for both models confusion and samples
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not [value for name, value in parser.attributes if name in {"href", "link"}]
    assert "a &lt;b&gt;" in page
    assert "0.710" in page and "not measured here" in page and IMAGENET_COMMAND in page
    for source in sources[1:]:
        with Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
            assert picture.width > 500


def test_a_page_without_predictions_is_still_a_page(data: LabelledImages, tmp_path: Path) -> None:
    gathered = report.gather_report(
        tmp_path, data, rows_of_two_models(), commands=["c"], imagenet_command=lambda _: IMAGENET_COMMAND
    )
    assert report.html_report(gathered, tmp_path, b"").count("<img") == 1


class Structure(HTMLParser):
    """Collects attributes and the tags that were not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
