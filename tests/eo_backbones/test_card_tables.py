"""Results as Markdown tables: what stands in which cell, against values worked out by hand."""

from eo_backbones.cards.tables import summary_tables
from eo_backbones.results import Result
from support.result_rows import result


def rows(*changes: dict[str, object]) -> list[Result]:
    return [result(**change) for change in changes]


def test_a_summary_has_a_line_for_each_budget_protocol_and_band() -> None:
    few: dict[str, object] = {"fraction": "8-shot", "n_train": 8}
    text = summary_tables(
        rows(
            {"model": "ours", "protocol": "knn", **few, "f1_weighted": 0.3, "f1_low": 0.2, "f1_high": 0.4},
            {"model": "ours", "seed": 0, "f1_weighted": 0.7, "f1_low": 0.6, "f1_high": 0.8},
            {"model": "ours", "seed": 1, "f1_weighted": 0.8, "f1_low": 0.7, "f1_high": 0.9},
            {"model": "stats", "f1_weighted": 0.6, "f1_low": 0.5, "f1_high": 0.65},
            {"model": "ours", "protocol": "paper"},
            {"model": "ours", "protocol": "knn-20"},
        ),
        ("paper", "logistic", "knn"),
    )
    assert text == "\n".join(
        [
            "`eurosat-rgb`, split `seeded`, 20 test images, 64 px, 2 seeds:",
            "",
            "| labelled images | protocol | band | ours | stats |",
            "| --- | --- | --- | --- | --- |",
            "| 80 | `paper` | B04 | **0.500 [0.400, 0.600]** |  |",
            "| 80 | `logistic` | B04 | **0.750 [0.650, 0.850]** | 0.600 [0.500, 0.650] |",
            "| 8 | `knn` | B04 | **0.300 [0.200, 0.400]** |  |",
        ]
    )


def test_a_summary_keeps_data_sets_and_sizes_apart() -> None:
    text = summary_tables(rows({}, {"size": 224}, {"dataset": "dfc2020"}), ("logistic",))
    assert text.count("| labelled images |") == 3
    assert "224 px, 1 seed:" in text
    assert "`dfc2020`" in text
