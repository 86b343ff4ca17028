"""``--config FILE.yaml``: options from a file, and the file of a run from which it can be repeated."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from eo_backbones_train.cli import main
from eo_backbones_train.pretraining.loop import train
from support.own_images import write_encoder, write_fields
from support.tiny_run import build_tiny, write_store
from support.typed_command import Ended

Trainer = Callable[..., Ended]


@pytest.fixture
def trainer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """``eo-train`` as a user types it, in this process, with an encoder of two convolutions in `pretrain`."""
    assert train.__kwdefaults__ is not None
    monkeypatch.setitem(train.__kwdefaults__, "build", build_tiny)

    def run(*arguments: object) -> Ended:
        with pytest.raises(SystemExit) as end:
            main.main(list(map(str, arguments)))
        return Ended(int(end.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data"))


def written(path: Path, **options: Any) -> Path:
    path.write_text(yaml.safe_dump(options))
    return path


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def test_a_pretraining_is_repeated_from_its_own_file(store: Path, tmp_path: Path, trainer: Trainer) -> None:
    typed = ["--set", "optim.base_lr=0.002", "--set", "seed=3", "--epochs", 2, "--smoke", "--device", "cpu"]
    more = ["--precision", "fp32", "--threads", 1, "--no-tensorboard", "--json"]
    first = trainer("pretrain", "simsiam-mini", "--store", store, "--out", tmp_path / "one", *typed, *more)
    assert first.status == 0, first.err
    kept = tmp_path / "one" / "config.yaml"
    assert read(kept) == {
        "recipe": "simsiam-mini", "store": str(store), "out": str(tmp_path / "one"), "epochs": 2,
        "set": ["optim.base_lr=0.002", "seed=3"], "smoke": True, "device": "cpu", "data-device": "auto",
        "precision": "fp32", "deterministic": True, "threads": 1, "checkpoint-every": "10min", "log-every": 20,
        "monitor-every": 100, "stop-on-collapse": True, "compress-gradients": False, "tensorboard": False,
        "probe-every": 1,
    }  # fmt: skip
    again = trainer("pretrain", "--config", kept, "--out", tmp_path / "two", "--json")
    assert again.status == 0, again.err
    one, two = json.loads(first.out), json.loads(again.out)
    assert one["weights_digest"] == two["weights_digest"]
    assert one["recipe_digest"] == two["recipe_digest"]
    assert read(tmp_path / "two" / "config.yaml") == read(kept) | {"out": str(tmp_path / "two")}
    other = trainer("pretrain", "--config", kept, "--out", tmp_path / "three", "--set", "seed=4", "--json")
    assert json.loads(other.out)["weights_digest"] != one["weights_digest"]
    assert read(tmp_path / "three" / "config.yaml")["set"] == ["seed=4"], "what is typed replaces the list of the file"
    occupied = trainer("pretrain", "--config", kept)
    assert (occupied.status, occupied.err.count("\n")) == (2, 1)
    assert "add --resume" in occupied.err
    resumed = trainer("pretrain", "--config", kept, "--resume", "--json")
    assert json.loads(resumed.out) == one


def test_a_fine_tuning_is_repeated_from_its_own_file(tmp_path: Path, trainer: Trainer) -> None:
    fields, encoder = write_fields(tmp_path / "fields"), write_encoder(tmp_path / "encoder")
    path = written(
        tmp_path / "first.yaml", data=str(fields), model=f"local-dir:{encoder}", bands=["B02", "B04"], mode="partial",
        epochs=2, device="cpu", tensorboard=False, lr="2e-3", fuse="mean", offset=-100, class_weights="balanced",
    )  # fmt: skip
    first = trainer("finetune", "--config", path, "--out", tmp_path / "one", "--json")
    assert first.status == 0, first.err
    kept = tmp_path / "one" / ".finetuning" / "config.yaml"
    content = read(kept)
    assert content["lr"] == 0.002  # which YAML 1.1 takes for a text without a dot
    assert (content["offset"], content["bands"], content["class-weights"]) == (["-100"], ["B02", "B04"], "balanced")
    assert "resume" not in content
    again = trainer("finetune", "--config", kept, "--out", tmp_path / "two", "--json")
    assert again.status == 0, again.err
    one, two = json.loads(first.out), json.loads(again.out)
    assert one["weights_sha256"] == two["weights_sha256"]
    assert one["recipe"] == two["recipe"]
    assert one["recipe"]["learning_rate"] == 0.002
    other = trainer("finetune", "--config", kept, "--out", tmp_path / "three", "--seed", 1, "--bands", "B03", "--json")
    assert "--fuse has no effect here" in other.err, "the file's value is another than the default"


def test_an_idle_option_is_refused_in_a_file_as_it_is_typed(tmp_path: Path, trainer: Trainer) -> None:
    fields, encoder = write_fields(tmp_path / "fields"), write_encoder(tmp_path / "encoder")
    options = {"data": str(fields), "model": f"local-dir:{encoder}", "bands": "B03", "out": str(tmp_path / "out")}
    done = trainer("finetune", "--config", written(tmp_path / "a.yaml", **options, stages=2))
    assert (done.status, done.err) == (
        2, "error: --stages has no effect here: it is for --mode partial; pass that, or leave it out\n"
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: many", "a.yaml: epochs is many, not a whole number"),
        ("epochs: 1.5", "a.yaml: epochs is 1.5, not a whole number"),
        ("epochs: [1, 2]", "a.yaml: epochs is [1, 2], not a whole number"),
        ("log_every: true", "a.yaml: log_every is true, not a whole number"),
        ("smoke: 1", "a.yaml: smoke is 1, not true or false"),
        ("smoke: 'yes'", "a.yaml: smoke is 'yes', not true or false"),
        ("device: {cpu: 1}", "a.yaml: device is {cpu: 1}, not a text"),
        ("device: true", "a.yaml: device is true, not a text"),
        ("set: [{a: 1}]", "a.yaml: set is {a: 1}, not a text"),
        ("out: [a, b]", "a.yaml: out is [a, b], not a text"),
        ("epoch: 3", "a.yaml: unknown option 'epoch'; did you mean epochs"),
        ("config: b.yaml", "a.yaml: unknown option 'config'"),
        ("log_every: 3\nlog-every: 4", "a.yaml: log-every is there twice; keep one"),
        ("- epochs", "a.yaml holds no options by name; write one a line, say epochs: 50"),
        ("epochs", "a.yaml holds no options by name"),
        ("1: 2", "a.yaml holds no options by name"),
        ("epochs: [1", "a.yaml, line 2 is not YAML"),
        ("a: 1\n---\nb: 2", "is not YAML"),
        ("{epochs: !!python/object:os.system {}}", "is not YAML"),
        ("device: tpu", "unknown device 'tpu'"),
    ],
)
def test_a_wrong_file_is_one_line_and_status_2(
    text: str, said: str, store: Path, tmp_path: Path, trainer: Trainer
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"{text}\n")
    done = trainer("pretrain", "byol-mini", "--store", store, "--out", tmp_path / "run", "--config", path)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert done.err.startswith("error: ")
    assert said in done.err
    assert not (tmp_path / "run").exists()


def test_files_that_cannot_be_read(tmp_path: Path, trainer: Trainer) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"epochs: \xff\xfe")
    for name, said in (("gone.yaml", "No such file"), (".", "Is a directory"), ("binary.yaml", "not text in UTF-8")):
        done = trainer("pretrain", "byol-mini", "--store", "x", "--out", "y", "--config", tmp_path / name)
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert said in done.err


def test_an_empty_file_and_values_left_empty_change_nothing(store: Path, tmp_path: Path, trainer: Trainer) -> None:
    (tmp_path / "a.yaml").write_text("# nothing yet\nepochs:\ninit: null\n")
    typed = ["--smoke", "--epochs", 1, "--device", "cpu", "--no-tensorboard", "--json"]
    done = trainer("pretrain", "byol-mini", "--store", store, "--out", tmp_path / "r", *typed, "--config",
                   tmp_path / "a.yaml")  # fmt: skip
    assert done.status == 0, done.err
    assert json.loads(done.out)["steps"] == 2
