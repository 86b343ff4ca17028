"""Results as Markdown tables: what stands in which cell, against values worked out by hand."""

from eo_backbones.cards.tables import baseline_comparison, missed_aims, summary_tables
from eo_backbones.results import Result
from support.result_rows import result


def rows(*changes: dict[str, object]) -> list[Result]:
    return [result(**change) for change in changes]


def test_a_summary_has_a_line_for_each_model_and_a_column_for_each_band() -> None:
    few: dict[str, object] = {"fraction": "8-shot", "n_train": 8}
    text = summary_tables(
        rows(
            {"model": "ours", "f1_weighted": 0.9},
            {"model": "ours", **few, "seed": 0, "f1_weighted": 0.7, "f1_low": 0.6, "f1_high": 0.8},
            {"model": "ours", **few, "seed": 1, "f1_weighted": 0.8, "f1_low": 0.7, "f1_high": 0.9},
            {
                "model": "imagenet",
                **few,
                "input_scaling": "div10000",
                "f1_weighted": 0.6,
                "f1_low": 0.5,
                "f1_high": 0.65,
            },
            {"model": "ours", "dataset": "folder", "band": "VV"},
            {"model": "ours", **few, "protocol": "paper"},
        ),
        "logistic",
    )
    assert text == "\n".join(
        [
            "64 px, protocol `logistic`. `eurosat-rgb`: 8 labelled and 20 test images, 1 to 2 seeds; "
            "`folder`: 80 labelled and 20 test images, 1 seed:",
            "",
            "| model | B04, `eurosat-rgb` | VV, `folder` |",
            "| --- | --- | --- |",
            "| ours | **0.750 [0.650, 0.850]** | **0.500 [0.400, 0.600]** |",
            "| imagenet, div10000 | 0.600 [0.500, 0.650] |  |",
        ]
    )


def test_a_summary_has_a_table_for_each_size() -> None:
    text = summary_tables(rows({}, {"size": 224}, {"dataset": "dfc2020"}), "logistic")
    assert text.count("| model |") == 2
    assert "224 px, protocol `logistic`. `eurosat-rgb`" in text


def test_weights_are_compared_with_the_best_baseline_of_the_same_size() -> None:
    """Radar has to gain three points and optical bands one; ImageNet at another size or scaling is another baseline."""
    measured = rows(
        {"model": "ours", "f1_weighted": 0.85},
        {"model": "ours", "band": "VV", "f1_weighted": 0.62},
        {"model": "imagenet", "input_scaling": "div10000", "f1_weighted": 0.75},
        {"model": "imagenet", "input_scaling": "standardised", "f1_weighted": 0.83},
        {"model": "imagenet", "input_scaling": "standardised", "size": 128, "f1_weighted": 0.95},
        {"model": "imagenet", "band": "VV", "input_scaling": "div10000", "f1_weighted": 0.55},
        {"model": "stats", "band": "VV", "f1_weighted": 0.6},
    )
    text = baseline_comparison(measured[:2], measured)
    assert "It is **not met** for VV at 64 px (`logistic`)." in text
    assert "| B04 | 0.850 [0.400, 0.600] | imagenet, standardised 0.830 [0.400, 0.600] | +2.0 | yes |" in text
    assert "| VV | 0.620 [0.400, 0.600] | stats 0.600 [0.400, 0.600] | +2.0 | no |" in text
    assert missed_aims(measured[:2], measured) == (
        "VV at 64 px, protocol `logistic`: 0.620, +2.0 points against the best baseline (stats, 0.600), where 3 were "
        "the aim."
    )
    assert missed_aims(measured[:1], measured) == ""
