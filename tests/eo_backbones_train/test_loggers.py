"""Curves in TensorBoard, Weights & Biases (offline) and MLflow (a local folder), read back with their own readers.

The last two bring many packages and are no dependency of the tests: ``uv sync --group loggers`` installs them.
"""

import importlib.util
import json
import logging
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from eo_backbones.errors import UserError
from eo_backbones_train.cli import main
from eo_backbones_train.pretraining.loop import train
from eo_backbones_train.pretraining.runlog import METRICS_FILE, RunLog, read_records
from eo_backbones_train.pretraining.stops import RunStopped
from eo_backbones_train.tracking.logger import IDS_FILE, Tracking, choose_loggers
from support.own_images import write_encoder, write_fields
from support.tiny_run import build_tiny, tiny_options, tiny_recipe, write_store

Curves = Mapping[str, list[tuple[int, float]]]

needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is not installed: uv sync --group loggers"
)
needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed: uv sync --group loggers"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both write below the test's folder and ask nobody."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for name in ("WANDB_PROJECT", "WANDB_DIR", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def tensorboard_curves(run: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def wandb_records(path: Path) -> Iterator[bytes]:
    """Records of an offline file: blocks of 32 KiB of fragments (checksum, length, kind), as LevelDB's logs."""
    data, block, header = path.read_bytes(), 32 * 1024, 7
    position, parts = header, b""  # the file begins with a mark of its own
    while position + header <= len(data):
        if block - position % block < header:
            position += block - position % block  # padding
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        parts += data[position + header : position + header + length]
        position += header + length
        if kind in (1, 4):  # whole, or the last fragment
            yield parts
            parts = b""


def wandb_curves(run: Path) -> tuple[set[str], Curves, Mapping[str, Any]]:
    """Ids of the runs, the values at each of our steps, and the configuration, from the files of an offline run."""
    from wandb.proto import wandb_internal_pb2

    ids: set[str] = set()
    curves: dict[str, dict[int, float]] = {}
    config: dict[str, Any] = {}
    for path in sorted((run / "wandb").glob("offline-run-*/run-*.wandb")):
        for data in wandb_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.run.run_id:
                ids.add(record.run.run_id)
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            row = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            if row:
                step = json.loads(row["step"])
                for name, value in row.items():
                    if not name.startswith("_") and name != "step":
                        curves.setdefault(name, {})[step] = json.loads(value)
    return ids, {name: sorted(points.items()) for name, points in curves.items()}, config


def mlflow_runs() -> list[tuple[str, str, Mapping[str, str], Curves]]:
    """Id, status, parameters and curves of every run; of a step that was sent twice, the last value."""
    from mlflow import MlflowClient

    client = MlflowClient()
    (experiment,) = [one for one in client.search_experiments() if one.name == "eo-backbones"]
    runs = client.search_runs([experiment.experiment_id])
    return [
        (
            run.info.run_id,
            run.info.status,
            run.data.params,
            {
                name: sorted({m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}.items())
                for name in run.data.metrics
            },
        )
        for run in runs
    ]


def written(run: Path) -> Curves:
    """The same from `metrics.jsonl`."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in read_records(run / METRICS_FILE):
        for name, value in record.items():
            if name != "step":
                curves.setdefault(name, []).append((record["step"], value))
    return curves


def close(curves: Curves, expected: Curves) -> None:
    """Equal in names and steps, and in values as precisely as float32 keeps them."""
    assert curves.keys() == expected.keys()
    for name, points in expected.items():
        assert [step for step, _ in curves[name]] == [step for step, _ in points], name
        assert [value for _, value in curves[name]] == pytest.approx([value for _, value in points], rel=1e-6), name


class Crash(BaseException):
    """Stands for a kill."""


def train_in_two(store: Path, out: Path, monkeypatch: pytest.MonkeyPatch, logger: str) -> Path:
    """A run that dies after step 8, of which 6 are saved, and is resumed."""
    options = tiny_options(store, out, loggers=(logger,), checkpoint_steps=3, resume=True)
    whole, seen = RunLog.write, []

    def dies(self: RunLog, record: Mapping[str, Any]) -> None:
        whole(self, record)
        seen.append(record["step"])
        if record["step"] == 8:
            raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(RunLog, "write", dies)
        train(tiny_recipe(), options, build=build_tiny)
    assert seen == [2, 4, 6, 8]
    return train(tiny_recipe(), options, build=build_tiny)


def test_tensorboard_gets_every_number_of_a_resumed_run(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_in_two(store, tmp_path / "run", monkeypatch, "tensorboard")
    expected = written(run)
    assert [step for step, _ in expected["loss"]] == [2, 4, 6, 8, 10, 12]
    close(tensorboard_curves(run), expected)
    assert not (run / IDS_FILE).exists()


@needs_wandb
def test_wandb_gets_every_number_of_a_resumed_run_as_one_run(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_in_two(store, tmp_path / "run", monkeypatch, "wandb")
    ids, curves, config = wandb_curves(run)
    assert ids == {json.loads((run / IDS_FILE).read_text())["wandb"]}
    expected = written(run)
    times = {"seconds", "pairs_per_s"}  # of the repeated steps the clock is another one
    close({n: c for n, c in curves.items() if n not in times}, {n: c for n, c in expected.items() if n not in times})
    assert curves.keys() == expected.keys()
    assert config["recipe"]["name"] == "byol-mini+smoke"
    assert config["recipe"]["optim"]["base_lr"] == 5e-4


@needs_mlflow
def test_mlflow_gets_every_number_of_a_resumed_run_as_one_run(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_in_two(store, tmp_path / "run", monkeypatch, "mlflow")
    ((run_id, status, params, curves),) = mlflow_runs()
    assert run_id == json.loads((run / IDS_FILE).read_text())["mlflow"]
    assert status == "FINISHED"
    expected = written(run)
    assert [step for step, _ in expected["loss"]] == [2, 4, 6, 8, 10, 12]
    times = {"seconds", "pairs_per_s"}
    close({n: c for n, c in curves.items() if n not in times}, {n: c for n, c in expected.items() if n not in times})
    assert (params["recipe.optim.base_lr"], params["recipe.global_batch"]) == ("0.0005", "8")


@needs_mlflow
def test_mlflow_is_told_how_a_run_ended(tmp_path: Path) -> None:
    tracking = Tracking(loggers=("mlflow",), name="run")
    statuses = []
    for error in (RunStopped("Ctrl-C", exit_status=130), RunStopped("collapsed", exit_status=3), ValueError()):
        with pytest.raises(type(error)), RunLog(tmp_path, step=0, tracking=tracking):
            assert mlflow_runs()[0][1] == "RUNNING"
            raise error
        statuses += [run[1] for run in mlflow_runs()]
    assert statuses == ["KILLED", "FAILED", "FAILED"]


@needs_mlflow
def test_an_mlflow_that_stops_answering_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    def refuses(*_: object, **__: object) -> None:
        raise ConnectionError("the server is gone")

    with RunLog(tmp_path, step=0, tracking=Tracking(loggers=("mlflow",), name="run")) as log:
        log.write({"step": 1, "loss": 2.0})
        monkeypatch.setattr(MlflowClient, "log_batch", refuses)
        log.write({"step": 2, "loss": 1.5})
        log.write({"step": 3, "loss": 1.0})
    assert [record["step"] for record in read_records(tmp_path / METRICS_FILE)] == [1, 2, 3]
    assert [record.getMessage() for record in caplog.records] == [
        "MLflow takes no more values (the server is gone); the run goes on without it, metrics.jsonl holds them all"
    ]


@needs_mlflow
def test_an_mlflow_that_cannot_be_reached_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"^MLflow cannot be used \(.+\); correct MLFLOW_TRACKING_URI"):
        RunLog(tmp_path, step=0, tracking=Tracking(loggers=("mlflow",), name="run"))


def all_three(tmp_path: Path, *more: str) -> list[str]:
    fields, encoder = write_fields(tmp_path / "fields"), write_encoder(tmp_path / "encoder")
    words = ["eo-train", "finetune", "--data", fields, "--model", f"local-dir:{encoder}", "--bands", "B03"]
    return [*map(str, words), "--epochs", "2", "--device", "cpu", "--out", str(tmp_path / "out"), *more]


def run_main(monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]) -> int:
    monkeypatch.setattr(sys, "argv", list(arguments))
    with pytest.raises(SystemExit) as end:
        main.main()
    return int(end.value.code or 0)


@needs_wandb
@needs_mlflow
def test_finetune_writes_to_all_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loggers = ["--logger", "tensorboard", "wandb", "--logger", "mlflow"]
    assert run_main(monkeypatch, all_three(tmp_path, *loggers, "--json")) == 0
    json.loads(capsys.readouterr().out)  # and nothing else
    run = tmp_path / "out" / ".finetuning"
    expected = written(run)
    assert [step for step, _ in expected["val_f1"]] == [1, 2]
    close(tensorboard_curves(run), expected)
    close(wandb_curves(run)[1], expected)
    ((_, status, params, curves),) = mlflow_runs()
    close(curves, expected)
    assert (status, params["settings.mode"], params["bands"]) == ("FINISHED", "linear", "['B03']")


# Without any of them


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make packages look as if they were not installed, to `import` and to `find_spec`."""
    for name in names:
        for module in [known for known in sys.modules if known.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def test_finetune_runs_after_a_plain_install_and_says_how_to_get_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "tensorboard", "wandb", "mlflow")
    monkeypatch.setenv("COLUMNS", "400")
    assert run_main(monkeypatch, all_three(tmp_path)) == 0
    run = tmp_path / "out" / ".finetuning"
    assert len(read_records(run / METRICS_FILE)) == 2
    assert (tmp_path / "out" / "loss.png").is_file()
    assert not (run / "tensorboard").exists()
    lines = [line for line in capsys.readouterr().err.splitlines() if "TensorBoard" in line]
    assert len(lines) == 1
    assert 'pip install "eo-backbones[train]"' in lines[0]


def test_pretrain_runs_after_a_plain_install_and_says_how_to_get_curves(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without(monkeypatch, "tensorboard", "wandb", "mlflow")
    with caplog.at_level(logging.INFO, "eo_backbones_train"):
        run = train(tiny_recipe(epochs=1), tiny_options(store, tmp_path / "run", tensorboard=True), build=build_tiny)
    assert (run / "result.json").is_file()
    assert (run / "loss.png").is_file()
    assert not (run / "tensorboard").exists()
    (said,) = [record.getMessage() for record in caplog.records if "TensorBoard" in record.getMessage()]
    assert 'pip install "eo-backbones[train]"' in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--logger", "tensorboard"], 'TensorBoard is not installed; run pip install "eo-backbones[train]"'),
        (["--tensorboard"], 'TensorBoard is not installed; run pip install "eo-backbones[train]"'),
        (["--logger", "wandb"], 'Weights & Biases is not installed; run pip install "eo-backbones[wandb]"'),
        (["--logger", "mlflow"], 'MLflow is not installed; run pip install "eo-backbones[mlflow]"'),
        (["--logger", "tensorbord"], "unknown --logger 'tensorbord'; did you mean tensorboard?"),
        (["--logger", "none", "mlflow"], "--logger none contradicts the other --logger"),
        (["--no-tensorboard", "--logger", "wandb"], "both say where curves go; pass --logger alone"),
    ],
)
def test_loggers_that_cannot_be_used(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "tensorboard", "wandb", "mlflow")
    assert run_main(monkeypatch, all_three(tmp_path, *words)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert said in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "tensorboard", "chosen"),
    [
        (None, True, ("tensorboard",)),
        (None, False, ()),
        (["none"], True, ()),
        (["tensorboard", "tensorboard"], False, ("tensorboard",)),
    ],
)
def test_which_loggers_a_run_uses(names: list[str] | None, tensorboard: bool, chosen: Sequence[str]) -> None:
    assert tuple(choose_loggers(names, tensorboard=tensorboard)) == chosen
