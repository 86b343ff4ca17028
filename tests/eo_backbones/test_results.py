"""results.csv: its columns are a contract, its rows survive, and strangers' files are refused."""

from pathlib import Path

import pytest

from eo_backbones.errors import UserError
from eo_backbones.results import COLUMNS, Estimate, ResultsFile, Score, csv_text, read_results, scores
from support.result_rows import result

# the contract in docs/architecture.md, literally; further columns follow
CONTRACT = (
    "model,dataset,band,protocol,split,fraction,size,input_scaling,seed,n_train,n_test,"
    "f1_weighted,accuracy,f1_low,f1_high,weights_digest,data_digest,versions"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "results.csv"


def test_columns_are_the_contract_and_some_more(path: Path) -> None:
    ResultsFile(path, data_digest="d").add([result()])
    header = path.read_text().splitlines()[0]
    assert header == ",".join(COLUMNS) == f"{CONTRACT},f1_micro,map_macro,map_micro,miou,per_class"


def test_a_file_from_before_the_further_columns_is_read_and_completed(path: Path) -> None:
    ResultsFile(path, data_digest="d").add([result()])
    path.write_text(
        "\n".join(
            line.removesuffix(",,,,,").removesuffix(",f1_micro,map_macro,map_micro,miou,per_class")
            for line in path.read_text().splitlines()
        )
    )
    assert path.read_text().splitlines()[0] == CONTRACT
    file = ResultsFile(path, data_digest="d")
    assert file.rows == [result()]
    file.add([result(seed=1, miou=0.25, per_class="IoU: Water 0.2500")])
    assert read_results(path) == [result(), result(seed=1, miou=0.25, per_class="IoU: Water 0.2500")]


def test_rows_come_back_as_they_were(path: Path) -> None:
    rows = [result(), result(band="VV", seed=1, fraction="5-shot", f1_weighted=0.123456)]
    ResultsFile(path, data_digest="d").add(rows)
    assert read_results(path) == rows
    assert [entry.name for entry in path.parent.iterdir()] == ["results.csv"]


def test_a_folder_stands_for_its_file(path: Path) -> None:
    ResultsFile(path, data_digest="d").add([result()])
    assert read_results(path.parent) == [result()]


def test_a_file_for_a_card_may_have_fewer_columns_or_more(path: Path) -> None:
    """A card needs what was measured and with which weights; other columns get defaults, unknown ones are ignored."""
    fewer = [name for name in CONTRACT.split(",") if name not in ("input_scaling", "data_digest", "versions")]
    values = dict(zip(COLUMNS, csv_text([result()]).splitlines()[1].split(","), strict=True))
    path.parent.mkdir()
    path.write_text(f"{','.join(fewer)},note\n{','.join(values[name] for name in fewer)},by hand\n")
    assert read_results(path) == [result(data_digest="", versions="")]
    with pytest.raises(UserError, match="written by another version"):
        ResultsFile(path, data_digest="d")  # an evaluation does not go on in it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,f1\na,0.5\n", "holds no results with the columns dataset, band"),
        (CONTRACT + "\n", "holds no results"),
        (CONTRACT + "\nrandom,eurosat-rgb\n", "line 2: the line has too few columns"),
    ],
)
def test_a_file_without_results_is_refused(path: Path, text: str, message: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_results(path)


def test_seeds_become_their_mean() -> None:
    """Value, both ends and accuracy; the JSON types are flat, as published rows keep them."""
    rows = [
        result(seed=0, f1_weighted=0.5, f1_low=0.4, f1_high=0.6, accuracy=0.55),
        result(seed=1, f1_weighted=0.6, f1_low=0.45, f1_high=0.75, accuracy=0.65),
    ]
    (score,) = scores(rows)
    assert (score.seeds, score.f1, score.accuracy) == (2, Estimate(0.55, 0.425, 0.675), 0.6)
    assert list(score.to_dict().items())[-4:] == [
        ("f1", 0.55),
        ("f1_low", 0.425),
        ("f1_high", 0.675),
        ("accuracy", 0.6),
    ]
    assert Score.from_dict(score.to_dict()) == score
    assert str(score.f1) == "0.550 [0.425, 0.675]"
    assert Estimate.mean(row.f1 for row in rows).spread == pytest.approx(0.1 / 2**0.5)


def test_rows_that_are_there_are_known(path: Path) -> None:
    ResultsFile(path, data_digest="d").add([result()])
    again = ResultsFile(path, data_digest="d")
    assert again.has(result(f1_weighted=0.9).key)
    for change in ({"seed": 1}, {"band": "B03"}, {"size": 224}, {"fraction": "0.1"}, {"weights_digest": "v"}):
        assert not again.has(result(**change).key)


def test_new_weights_of_the_same_name_replace_the_old_row(path: Path) -> None:
    file = ResultsFile(path, data_digest="d")
    file.add([result(), result(seed=1)])
    file.add([result(weights_digest="new", f1_weighted=0.7)])
    assert [(row.seed, row.weights_digest[:3]) for row in read_results(path)] == [(1, "www"), (0, "new")]


def test_another_set_of_images_is_refused(path: Path) -> None:
    ResultsFile(path, data_digest="d").add([result()])
    with pytest.raises(UserError, match=r"results of other images .*pass another --out"):
        ResultsFile(path, data_digest="e")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,f1\na,0.5\n", "written by another version .*columns differ"),
        ("", "columns differ"),
        (CONTRACT + "\n" + "random,eurosat-rgb,B04,logistic,seeded,1,64,contract,0,80,20,half,0,0,0,w,d,v\n", "line 2"),
        (
            CONTRACT
            + "\n"
            + "random,eurosat-rgb,B04,logistic,seeded,1,64,contract,0,80,20,0,0,0,0,w,d,eo-backbones 0.0.0\n",
            "written by 'eo-backbones 0.0.0'",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused_and_kept(path: Path, text: str, message: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        ResultsFile(path, data_digest="d")
    assert path.read_text() == text
