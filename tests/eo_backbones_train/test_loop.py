"""The training loop: what it computes, what it writes, and when it stops."""

import json
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from eo_backbones.errors import UserError
from eo_backbones.networks.state import state_digest
from eo_backbones_train.data.loader import Loader
from eo_backbones_train.data.views import draw_view_params, make_views
from eo_backbones_train.methods.modules import StepOutput
from eo_backbones_train.optim import peak_learning_rate
from eo_backbones_train.pretraining import monitors
from eo_backbones_train.pretraining.checkpoint import checkpoints, read_checkpoint
from eo_backbones_train.pretraining.loop import train
from eo_backbones_train.pretraining.runlog import read_records
from eo_backbones_train.pretraining.stops import RunStopped
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.store.store import Store
from support.tiny_run import STEPS_PER_EPOCH, build_tiny, tiny_options, tiny_recipe, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data"))


def built_by_hand(recipe: Recipe, store: Path) -> tuple[nn.Module, list[float]]:
    """The same training written out with torch's plain AdamW and the schedules' formulas."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)
    method = build_tiny(recipe)
    matrices = [p for p in method.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in method.parameters() if p.requires_grad and p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.optim.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=1.0,
    )
    loader = Loader(Store.open(store), recipe, device=torch.device("cpu"), data_device="cpu")
    steps, warm = recipe.epochs * STEPS_PER_EPOCH, recipe.optim.warmup_epochs * STEPS_PER_EPOCH
    pi = torch.pi
    losses = []
    for step in range(steps):
        batch = loader.batch(step)
        params = draw_view_params(recipe.views, seed=recipe.seed, step=step, global_batch=recipe.global_batch)
        views = make_views(batch.codes, batch.extent, batch.decode, params, recipe.views.size_px)
        output = method(views)
        optimizer.zero_grad()
        output.loss.backward()
        cosine = 0.5 * (1 + torch.cos(torch.tensor(pi * (step - warm) / (steps - warm))).item())
        for group in optimizer.param_groups:
            group["lr"] = peak_learning_rate(recipe) * ((step + 1) / warm if step < warm else cosine)
        optimizer.step()
        if recipe.target is not None:
            decay = 1 - (1 - recipe.target.decay) * (torch.cos(torch.tensor(pi * step / steps)).item() + 1) / 2
            with torch.no_grad():
                state = method.state_dict()
                for name in [name for name in state if name.startswith("target_") and state[name].is_floating_point()]:
                    fast = state[name.removeprefix("target_")]
                    state[name].copy_(decay * state[name] + (1 - decay) * fast)
        losses.append(output.loss.item())
    loader.close()
    return method, losses


@pytest.mark.parametrize("name", ["byol-mini", "simsiam-mini"])
def test_a_run_computes_what_plain_torch_computes(name: str, store: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(name)
    if name == "simsiam-mini":  # the fixed rate of its predictor would need a third group above
        recipe = replace(recipe, optim=replace(recipe.optim, fixed_predictor_lr=False))
    expected, losses = built_by_hand(recipe, store)
    run = train(recipe, tiny_options(store, tmp_path / "run"), build=build_tiny)
    trained = read_checkpoint(checkpoints(run / "checkpoints")[-1])["method"]
    for key, value in expected.state_dict().items():
        # In the heads a BatchNorm cancels some gradients down to rounding, which Adam then scales up: not compared.
        if key.startswith(("encoder.", "target_encoder.")):
            torch.testing.assert_close(trained[key], value, rtol=1e-4, atol=1e-5, msg=key)
    records = read_records(run / "metrics.jsonl")
    pairs = [sum(losses[i : i + 2]) / 2 for i in range(0, len(losses), 2)]
    assert [record["loss"] for record in records] == pytest.approx(pairs, rel=1e-3)


def test_a_finished_run_holds_the_files_that_the_readme_lists(store: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=2)
    run = train(recipe, tiny_options(store, tmp_path / "run", tensorboard=True), build=build_tiny)
    assert {path.name for path in run.iterdir()} == {
        *("recipe.json", "run.json", "result.json", "checkpoints", "metrics.jsonl", "tensorboard", "loss.png"),
    }
    result, started = (json.loads((run / name).read_text()) for name in ("result.json", "run.json"))
    last = read_checkpoint(checkpoints(run / "checkpoints")[-1])
    encoder = build_tiny(recipe).encoder
    encoder.load_state_dict(
        {key.removeprefix("encoder."): value for key, value in last["method"].items() if key.startswith("encoder.")}
    )
    assert result["weights_digest"] == state_digest(encoder)
    assert result["steps"] == last["step"] == 2 * STEPS_PER_EPOCH
    assert result["loss"] == read_records(run / "metrics.jsonl")[-1]["loss"]
    assert result["store_digest"] == last["store_digest"] == Store.open(store).digest
    assert started["machine"]["precision"] == "fp32"
    assert started["machine"]["torch"] == torch.__version__


def test_records_tell_rate_decay_speed_and_embeddings(store: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=5)
    run = train(recipe, tiny_options(store, tmp_path / "run"), build=build_tiny)
    records = read_records(run / "metrics.jsonl")
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10]
    assert records[0]["learning_rate"] == pytest.approx(peak_learning_rate(recipe))
    assert recipe.target is not None
    assert recipe.target.decay < records[0]["target_decay"] < records[-1]["target_decay"] < 1
    assert all(record["pairs_per_s"] > 0 for record in records)
    # Eight steps of eight pairs fill the monitor; of the sixteen scenes each is counted once.
    assert [record.get("monitored_scenes") for record in records] == [None, None, None, 16, 16]
    assert 0 < records[-1]["std_s2"] < 1


def test_bf16_trains_to_nearly_the_same_weights(store: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=2)
    results = []
    for precision in ("fp32", "bf16"):
        options = tiny_options(store, tmp_path / precision, precision=precision, log_steps=1)
        run = train(recipe, options, build=build_tiny)
        results.append(json.loads((run / "result.json").read_text()))
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=0.05)
    assert results[0]["weights_digest"] != results[1]["weights_digest"]
    losses = [record["loss"] for record in read_records(tmp_path / "bf16" / "metrics.jsonl")]
    assert losses != torch.tensor(losses).bfloat16().tolist(), "the loss itself must be computed in fp32"


class NotFiniteAt(nn.Module):
    """Counts its calls and returns no number at one of them."""

    def __init__(self, method: nn.Module, call: int) -> None:
        super().__init__()
        self.encoder, self.method, self.calls, self.bad = method.encoder, method, 0, call

    def forward(self, views: Tensor) -> StepOutput:
        self.calls += 1
        output = self.method(views)
        return output._replace(loss=output.loss * float("nan")) if self.calls == self.bad else output


def test_a_loss_that_is_no_number_stops_with_step_and_last_good_checkpoint(store: Path, tmp_path: Path) -> None:
    options = tiny_options(store, tmp_path / "run", checkpoint_steps=2)
    with pytest.raises(RunStopped, match=r"the loss is nan at step 5; .*step-000000004\.pt") as stop:
        train(tiny_recipe(), options, build=lambda recipe: NotFiniteAt(build_tiny(recipe), 5))
    assert stop.value.exit_status == 4
    assert not (tmp_path / "run" / "result.json").exists()


def test_no_checkpoint_is_taken_of_weights_that_are_no_numbers(store: Path, tmp_path: Path) -> None:
    options = tiny_options(store, tmp_path / "run", checkpoint_steps=3, log_steps=100)
    with pytest.raises(RunStopped, match="at step 2; the last good checkpoint is none yet"):
        train(tiny_recipe(), options, build=lambda recipe: NotFiniteAt(build_tiny(recipe), 2))
    assert not checkpoints(tmp_path / "run" / "checkpoints")


class SameForAll(nn.Module):
    """A method whose embeddings do not depend on the images."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.encoder, self.method = method.encoder, method

    def forward(self, views: Tensor) -> StepOutput:
        output = self.method(views)
        return output._replace(embeddings=torch.ones_like(output.embeddings))


@pytest.fixture(scope="module")
def large_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many scenes as a reading of the embeddings needs before it can show a collapse."""
    return write_store(tmp_path_factory.mktemp("large"), scenes=monitors.SCENES)


# A step that holds every scene, so that each reading sees all of them.
COLLAPSING = replace(tiny_recipe(epochs=106), global_batch=monitors.SCENES)


def test_collapse_stops_the_run(large_store: Path, tmp_path: Path) -> None:
    """At the third reading after the first hundred steps."""
    options = tiny_options(large_store, tmp_path / "run", monitor_steps=2)
    with pytest.raises(RunStopped, match=r"have collapsed: at step 106, .*std is 0\.0000") as stop:
        train(COLLAPSING, options, build=lambda recipe: SameForAll(build_tiny(recipe)))
    assert stop.value.exit_status == 3


def test_collapse_is_only_reported_when_asked(
    large_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = tiny_options(large_store, tmp_path / "run", monitor_steps=2, stop_on_collapse=False)
    with caplog.at_level(logging.WARNING):
        run = train(COLLAPSING, options, build=lambda recipe: SameForAll(build_tiny(recipe)))
    assert (run / "result.json").is_file()
    assert "have collapsed: at step 106" in caplog.text


class SignalAt(nn.Module):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, method: nn.Module, call: int, number: int) -> None:
        super().__init__()
        self.encoder, self.method, self.calls, self.when, self.number = method.encoder, method, 0, call, number

    def forward(self, views: Tensor) -> StepOutput:
        self.calls += 1
        if self.calls == self.when:
            os.kill(os.getpid(), self.number)
        return self.method(views)

    def update_target(self, decay: Tensor) -> None:
        self.method.update_target(decay)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_saves(number: int, status: int, store: Path, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    with pytest.raises(RunStopped, match=r"interrupted after step 3 of 12 .*step-000000003\.pt.*--resume") as stop:
        train(
            tiny_recipe(),
            tiny_options(store, tmp_path / "run"),
            build=lambda recipe: SignalAt(build_tiny(recipe), 3, number),
        )
    assert stop.value.exit_status == status
    assert read_checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[-1])["step"] == 3
    assert signal.getsignal(number) == before


def test_a_log_that_cannot_be_written_ends_the_run_with_one_line(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "events")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    with pytest.raises(UserError, match=r"No space left on device: events; fix this.*--resume"):
        train(tiny_recipe(), tiny_options(store, tmp_path / "run", tensorboard=True), build=build_tiny)


def test_a_full_disk_ends_the_run_with_one_line(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: object, stream: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"could not write the checkpoint .* No space left"):
        train(tiny_recipe(), tiny_options(store, tmp_path / "run"), build=build_tiny)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for CUDA where there is none")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": True}, "--graph records a CUDA graph, and this run is on the CPU"),
        ({"data_device": "cuda"}, "--data-device cuda needs a run on CUDA"),
        ({"device": "cuda"}, "no CUDA device that torch can use; pass --device cpu"),
        ({"compress_gradients": True}, "--compress-gradients works between several CUDA processes"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused_before_anything_is_written(
    changes: dict[str, object], message: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny_recipe(), tiny_options(store, tmp_path / "run", **changes), build=build_tiny)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"device": "gpu"}, {"precision": "fp16"}, {"log_steps": 0}, {"threads": -1}])
def test_options_outside_their_range_are_refused(changes: dict[str, object], store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown|above 0"):
        tiny_options(store, tmp_path / "run", **changes)


def test_bands_that_the_store_lacks_are_refused_before_anything_is_written(store: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    with pytest.raises(UserError, match="B12"):
        train(
            replace(recipe, data=replace(recipe.data, s2_bands=("B12",))),
            tiny_options(store, tmp_path / "run"),
            build=build_tiny,
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["byol-mini", "simsiam-mini"])
def test_a_graph_computes_what_the_eager_step_computes(name: str, store: Path, tmp_path: Path) -> None:
    """20 steps under warm-up, cosine rate and cosine decay; only the order of additions may differ."""
    states, losses = [], []
    for graph in (False, True):
        options = replace(tiny_options(store, tmp_path / str(graph)), device="cuda", graph=graph, log_steps=1)
        run = train(tiny_recipe(name, epochs=10), options, build=build_tiny)
        states.append(read_checkpoint(checkpoints(run / "checkpoints")[-1])["method"])
        losses.append([record["loss"] for record in read_records(run / "metrics.jsonl")])
    assert len(losses[0]) == 20
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-4, atol=1e-5, msg=key)
