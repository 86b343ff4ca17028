"""Cross-band retrieval of places: which encoder finds a place again by another band (protocol ``retrieval``).

    python benchmarks/cross_band_retrieval.py MULTIBAND OUT MODEL... [--size PX]

MULTIBAND holds folders ``s1`` and ``s2`` of GeoTIFF pairs with ten optical bands, VV and VH; used are those that
``retrieval_places.txt`` names, which no training of ours sees. OUT gets ``retrieval.csv``, ``retrieval.md`` (means over
groups of bands) and a picture of all pairs of bands for each length of the list of answers.
"""

import argparse
import csv
from pathlib import Path

from eo_backbones.bands import PAPER_BANDS, S1_BANDS
from eo_backbones.evaluation.encoders import open_model
from eo_backbones.evaluation.retrieval import RANKS, between, features, read_places, recall_matrix, write_matrices
from eo_backbones.result_tables import markdown_table

SIDE_PX = 64
BANDS = (*PAPER_BANDS, *S1_BANDS)
VISIBLE, INFRARED = ("B02", "B03", "B04"), ("B05", "B06", "B07", "B08", "B8A", "B11", "B12")
GROUPS = {
    "visible, visible": (VISIBLE, VISIBLE),
    "visible, infrared": (VISIBLE, INFRARED),
    "infrared, infrared": (INFRARED, INFRARED),
    "optical, radar": (PAPER_BANDS, S1_BANDS),
    "VV, VH": (("VV",), ("VH",)),
}


def main() -> None:
    """Measure all models and write table and pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", metavar="[LABEL:=]MODEL")
    parser.add_argument("--size", type=int, default=SIDE_PX, help="side in pixels that networks get")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = (Path(__file__).parent / "retrieval_places.txt").read_text(encoding="utf-8").split()
    places = read_places(options.root, names, BANDS, side=SIDE_PX)
    found = {}
    for typed in options.models:
        label, _, name = typed.rpartition(":=")
        model = open_model(name, (options.size,))
        for setting in model.settings:
            shown = f"{label or name}, {setting.scaling}" if len(model.settings) > 1 else label or name
            found[shown] = features(model, setting, places)
    number = len(places[BANDS[0]])
    rows, lines = [], []
    for rank in RANKS:
        matrices = {label: recall_matrix(values, rank=rank) for label, values in found.items()}
        write_matrices(options.out / f"recall-at-{rank}.png", matrices, BANDS, rank=rank)
        for label, matrix in matrices.items():
            means = [between(matrix, BANDS, *groups) for groups in GROUPS.values()]
            lines.append([label, f"recall@{rank}", *(f"{value:.3f}" for value in means)])
            rows += [
                [label, number, options.size, rank, asked, other, f"{matrix[row, column]:.4f}"]
                for row, asked in enumerate(BANDS)
                for column, other in enumerate(BANDS)
            ]
    with (options.out / "retrieval.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["model", "places", "size", "rank", "asked", "found", "recall"], *rows])
    table = markdown_table(["model", f"of {number} places", *GROUPS], lines)
    (options.out / "retrieval.md").write_text(f"{table}\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
