"""The command eo-train: results on standard output, one line for a mistake, help that teaches."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eo_backbones.datasets.synthetic_files import write_pairs
from eo_backbones.errors import UserError
from eo_backbones_train.cli import main
from eo_backbones_train.pretraining.loop import train
from eo_backbones_train.recipes.published import RECIPES, get_recipe
from eo_backbones_train.recipes.serialise import to_dict
from support.tiny_run import build_tiny

TINY = ["--smoke", "--device", "cpu", "--precision", "fp32", "--threads", "1", "--no-tensorboard"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs", count=16, sizes=(48,), s2_bands=("B03", "B08"))


@pytest.fixture(scope="module")
def store(pairs: Path) -> Path:
    result = CliRunner().invoke(
        main.app, ["prepare", "--layout", "pairs", "--root", str(pairs), "--out", str(pairs.parent / "store")]
    )
    assert result.exit_code == 0, result.output
    return pairs.parent / "store"


@pytest.fixture
def tiny_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train.__kwdefaults__ is not None
    monkeypatch.setitem(train.__kwdefaults__, "build", build_tiny)


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command as the shell does; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["eo-train", *arguments])
    with pytest.raises(SystemExit) as end:
        main.main()
    return int(end.value.code or 0)


def test_prepare_prints_one_json_object(pairs: Path, tmp_path: Path) -> None:
    arguments = ["prepare", "--layout", "pairs", "--root", str(pairs), "--out", str(tmp_path / "store"), "--json"]
    first, again = (json.loads(CliRunner().invoke(main.app, arguments).stdout) for _ in range(2))
    assert (first["stored"], first["skipped"], first["already_there"]) == (16, 0, False)
    assert again["already_there"]
    assert again["digest"] == first["digest"]


def test_recipes_lists_all_and_shows_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    listed = CliRunner().invoke(main.app, ["recipes"]).stdout
    assert [line.split()[0] for line in listed.splitlines()[1:] if line[:1].strip()] == list(RECIPES)
    shown = CliRunner().invoke(main.app, ["recipes", "byol-full"]).stdout
    fields = dict(line.split(None, 1) for line in shown.splitlines()[1:])
    assert fields["global_batch"].strip() == str(get_recipe("byol-full").global_batch)
    assert "optim.base_lr" in fields


def test_recipes_json_is_what_a_recipe_is_read_back_from() -> None:
    one = json.loads(CliRunner().invoke(main.app, ["recipes", "simsiam-mini", "--json"]).stdout)
    assert one == to_dict(get_recipe("simsiam-mini"))
    assert set(json.loads(CliRunner().invoke(main.app, ["recipes", "--json"]).stdout)) == set(RECIPES)


@pytest.mark.usefixtures("tiny_encoder")
def test_pretrain_trains_resumes_and_reports(store: Path, tmp_path: Path) -> None:
    arguments = ["pretrain", "byol-mini", "--store", str(store), "--out", str(tmp_path / "run"), *TINY]
    changed = [*arguments, "--epochs", "2", "--set", "optim.base_lr=0.002", "--json"]
    result = json.loads(CliRunner().invoke(main.app, changed).stdout)
    assert result["recipe"] == "byol-mini+smoke+modified"
    assert result["steps"] == 4
    saved = json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]
    assert (saved["epochs"], saved["optim"]["base_lr"]) == (2, 0.002)
    again = CliRunner().invoke(main.app, [*changed, "--resume"])
    assert again.exit_code == 0
    assert json.loads(again.stdout) == result


@pytest.mark.usefixtures("tiny_encoder")
def test_pretrain_without_json_says_where_it_went(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = CliRunner().invoke(main.app, ["pretrain", "simsiam-mini", "--store", str(store), "--out", str(run), *TINY])
    assert done.exit_code == 0, done.output
    digest = json.loads((run / "result.json").read_text())["weights_digest"]
    assert done.stdout.startswith(f"{run}: 2 steps, loss ")
    assert done.stdout.endswith(f"encoder {digest}\n")


@pytest.mark.slow
def test_the_real_encoder_trains_through_the_command(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["pretrain", "byol-mini", "--store", str(store), "--out", str(run), "--smoke", "--json"]
    result = json.loads(CliRunner().invoke(main.app, arguments).stdout)
    assert result["steps"] == 2
    assert 0 < result["loss"] < 8  # 2 * (2 - 2 cos)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recipes", "byol-fool"], "unknown recipe 'byol-fool'; did you mean byol-full"),
        (["pretrain", "byol-mini", "--store", "STORE", "--set", "optim.lr=1"], "unknown recipe field 'optim.lr'"),
        (["pretrain", "byol-mini", "--store", "STORE", "--epochs", "0"], "epochs is 0; it must be at least 1"),
        (["pretrain", "byol-mini", "--store", "nowhere"], "nowhere"),
        (["pretrain", "byol-mini", "--store", "STORE", "--precision", "fp8"], "unknown precision 'fp8'"),
        (["pretrain", "byol-mini", "--store", "STORE", "--checkpoint-every", "often"], "write 10min or 500steps"),
        (["pretrain", "byol-mini", "--store", "STORE", "--set", "global_batch=999"], "global batch of 999 exceeds"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "pretrain" in arguments:
        arguments = [*arguments, "--out", str(tmp_path / "run")]
    status = run_main(monkeypatch, *(str(store) if argument == "STORE" else argument for argument in arguments))
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "run").exists()


def test_an_unknown_option_ends_with_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main(monkeypatch, "pretrain", "byol-mini", "--stoer", "x") == 2


@pytest.mark.parametrize("command", ["prepare", "recipes", "pretrain"])
def test_help_shows_an_example_of_each_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(main.app, [command, "--help"]).output
    assert f"eo-train {command} " in shown.partition("Examples:")[2]


@pytest.mark.parametrize(
    ("text", "interval"), [("10min", (10.0, None)), ("2.5 min", (2.5, None)), ("500steps", (None, 500))]
)
def test_intervals(text: str, interval: Any) -> None:
    assert main.parse_interval(text) == interval


@pytest.mark.parametrize("text", ["", "10", "min", "1.5steps", "10 hours"])
def test_other_intervals_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="write 10min or 500steps"):
        main.parse_interval(text)
