"""Several processes train what one process trains that averages the gradients of the parts."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from eo_backbones.errors import UserError
from eo_backbones_train.data.loader import Loader
from eo_backbones_train.data.plan import pairs_per_process
from eo_backbones_train.data.views import draw_view_params, make_views
from eo_backbones_train.optim import build_optimizer, learning_rates, target_decay
from eo_backbones_train.pretraining.checkpoint import checkpoints, read_checkpoint
from eo_backbones_train.pretraining.distributed import Process, synchronize_batch_norm
from eo_backbones_train.pretraining.run_options import RunOptions, resolve_machine
from eo_backbones_train.pretraining.runlog import read_records
from eo_backbones_train.store.store import Store
from support.tiny_run import STEPS_PER_EPOCH, build_tiny, tiny_recipe, write_store

EPOCHS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data"))


def two_halves(store: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
    """One process with a replica per half: own batch statistics and buffers, common gradients."""
    recipe = tiny_recipe(epochs=EPOCHS)
    assert recipe.target is not None
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)
    first = build_tiny(recipe)
    replicas = [first, deepcopy(first)]
    optimizers = [build_optimizer(replica, recipe, fused=True, capturable=False) for replica in replicas]
    device = torch.device("cpu")
    loaders = [Loader(Store.open(store), recipe, device=device, rank=rank, world_size=2) for rank in (0, 1)]
    half, losses = recipe.global_batch // 2, []
    for step in range(EPOCHS * STEPS_PER_EPOCH):
        params = draw_view_params(recipe.views, seed=recipe.seed, step=step, global_batch=recipe.global_batch)
        outputs = []
        for rank, (replica, loader) in enumerate(zip(replicas, loaders, strict=True)):
            batch, share = loader.batch(step), params[:, rank * half : (rank + 1) * half]
            views = make_views(batch.codes, batch.extent, batch.decode, share, recipe.views.size_px)
            outputs.append(replica(views).loss)
            replica.zero_grad()
            outputs[-1].backward()
        for left, right in zip(*(replica.parameters() for replica in replicas), strict=True):
            if left.grad is not None and right.grad is not None:
                left.grad = right.grad = (left.grad + right.grad) / 2
        decay = target_decay(step, base=recipe.target.decay, schedule="cosine", total_steps=EPOCHS * STEPS_PER_EPOCH)
        for replica, optimizer in zip(replicas, optimizers, strict=True):
            rates = learning_rates(recipe, optimizer.param_groups, step, steps_per_epoch=STEPS_PER_EPOCH)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            optimizer.step()
            replica.update_target(torch.tensor(decay))
        losses.append(sum(output.item() for output in outputs) / 2)
    for loader in loaders:
        loader.close()
    return first.state_dict(), losses


def torchrun(*command: str, repository: Path) -> "subprocess.CompletedProcess[str]":
    """Start two CPU processes."""
    paths = os.pathsep.join(str(repository / name) for name in (".", "training", "tests"))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    return subprocess.run([*launcher, *command], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_two_processes_equal_one_that_averages_the_halves(store: Path, tmp_path: Path, repository: Path) -> None:
    run = tmp_path / "run"
    done = torchrun("support.tiny_run", str(store), str(run), f"epochs={EPOCHS}", repository=repository)
    assert done.returncode == 0, done.stderr
    expected, losses = two_halves(store)
    saved = read_checkpoint(checkpoints(run / "checkpoints")[-1])
    # The heads' biases before a BatchNorm have gradients of rounding alone, which AdamW scales up: not compared.
    for key in (key for key in expected if key.startswith(("encoder.", "target_encoder."))):
        torch.testing.assert_close(saved["method"][key], expected[key], rtol=0, atol=1e-6, msg=key)
    records = read_records(run / "metrics.jsonl")
    pairs = [sum(losses[i : i + 2]) / 2 for i in range(0, len(losses), 2)]
    assert [record["loss"] for record in records] == pytest.approx(pairs, rel=1e-4)
    assert json.loads((run / "run.json").read_text())["machine"]["world_size"] == 2


@pytest.mark.slow
def test_a_mistake_is_told_once_and_nothing_is_written(store: Path, tmp_path: Path, repository: Path) -> None:
    done = torchrun(
        *("eo_backbones_train", "pretrain", "byol-mini", "--store", str(store), "--out", str(tmp_path / "run")),
        *("--set", "global_batch=7"),
        repository=repository,
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "a global batch of 7 cannot be split over 2 processes; start 1, 7" in lines[0]
    assert not (tmp_path / "run").exists()


def test_an_uneven_batch_is_refused_with_the_divisors() -> None:
    assert pairs_per_process(96, 8) == 12
    with pytest.raises(UserError, match="96 cannot be split over 5 processes; start 1, 2, 3, 4, 6, 8, 12, 16, 24"):
        pairs_per_process(96, 5)


def test_synchronised_statistics_need_cuda_between_processes() -> None:
    method = build_tiny(tiny_recipe())
    alone, one_of_two = (Process(rank=0, world_size=count, device=torch.device("cpu")) for count in (1, 2))
    assert synchronize_batch_norm(method, alone) is method
    with pytest.raises(UserError, match=r"sync_batch_norm needs CUDA.*--set model\.sync_batch_norm=false"):
        synchronize_batch_norm(method, one_of_two)


def test_a_graph_is_for_one_process_and_small_batches() -> None:
    cuda = torch.device("cuda")
    options = RunOptions(store=Path("s"), out=Path("o"), graph=True)
    with pytest.raises(UserError, match="--graph works on one GPU"):
        resolve_machine(options, device=cuda, world_size=2, pairs=32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("pairs", "graph"), [(128, True), (129, False)])
def test_the_graph_is_on_by_default_up_to_128_pairs(pairs: int, graph: bool) -> None:
    options = RunOptions(store=Path("s"), out=Path("o"))
    assert resolve_machine(options, device=torch.device("cuda"), world_size=1, pairs=pairs).graph == graph
