"""A pretraining run from start to end: the one place where store, views, method, optimiser and log come together.

What a run writes: ``recipe.json``, ``run.json``, ``checkpoints/``, ``metrics.jsonl``, ``tensorboard/``, ``loss.png``
and, when it is finished, ``result.json`` (training/README.md).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import torch
from torch import nn

from eo_backbones.architectures import architecture
from eo_backbones.errors import UserError
from eo_backbones_train.initial_weights import initial_weights
from eo_backbones_train.loader import Loader
from eo_backbones_train.methods import build_method
from eo_backbones_train.optim import build_optimizer, learning_rates
from eo_backbones_train.recipe import Recipe
from eo_backbones_train.recipe_json import digest, to_dict
from eo_backbones_train.recipes import input_spec
from eo_backbones_train.run.bookkeeping import Bookkeeper
from eo_backbones_train.run.checkpoint import read_checkpoint, state_digest
from eo_backbones_train.run.distributed import average_gradients, joined, pairs_per_process, synchronize_batch_norm
from eo_backbones_train.run.monitors import CollapseJudge, EmbeddingMonitor
from eo_backbones_train.run.probe import Probe
from eo_backbones_train.run.progress import TrainingProgress, duration
from eo_backbones_train.run.run_folder import RESULT_FILE, claim, versions, write_json
from eo_backbones_train.run.run_options import RunOptions, apply, settle
from eo_backbones_train.run.run_state import RunState
from eo_backbones_train.run.runlog import METRICS_FILE, RunLog, read_records, require_tensorboard
from eo_backbones_train.run.step import TrainStep
from eo_backbones_train.run.stops import StopSignals
from eo_backbones_train.schedules import target_decay
from eo_backbones_train.store import Store
from eo_backbones_train.views import draw_view_params

UNJUDGED_STEPS = 100  # at least, before the embeddings are judged: those of a fresh network are all alike

logger = logging.getLogger(__name__)


def train(recipe: Recipe, options: RunOptions, *, build: Callable[[Recipe], nn.Module] | None = None) -> Path:
    """Train a recipe to its end, or go on with a run that was interrupted.

    Args:
        recipe: what is trained.
        options: where and how.
        build: makes the method, instead of :func:`build_method`; tests pass one with a tiny encoder.

    Returns:
        The run folder; its ``result.json`` holds the digest of the trained encoder.

    Raises:
        UserError: options, store or folder do not allow the run, or the disk is full.
        RunStopped: the run was interrupted, has collapsed, or its loss is no longer a number.
    """
    if options.tensorboard:
        require_tensorboard()
    with ExitStack() as stack:
        stack.enter_context(_explained(options))
        # Who takes part, on what.
        process = stack.enter_context(joined(options.device))
        device, world_size = process.device, process.world_size
        pairs = pairs_per_process(recipe.global_batch, world_size)
        depthwise = architecture(recipe.model.architecture).depthwise
        machine = settle(options, device=device, world_size=world_size, pairs=pairs, depthwise=depthwise)
        apply(machine)

        # What is trained.
        initial = initial_weights(recipe.model, options.init)
        torch.manual_seed(recipe.seed)
        method = (build(recipe) if build else build_method(recipe, initial=initial)).to(
            device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        if recipe.model.sync_batch_norm:
            method = synchronize_batch_norm(method, process)

        # The images, and the folder that this run writes.
        store = Store.open(options.store)
        loader = stack.enter_context(
            closing(
                Loader(
                    store,
                    recipe,
                    device=device,
                    data_device=options.data_device,
                    rank=process.rank,
                    world_size=world_size,
                )
            )
        )
        steps = recipe.epochs * loader.steps_per_epoch
        probe = (
            Probe(options.probe_data, spec=input_spec(recipe), device=device)
            if options.probe_data is not None and process.first
            else None
        )
        start = process.on_first(
            lambda: claim(options, recipe, store_digest=store.digest, machine=machine, initial=initial)
        )
        if start.finished:
            logger.info("%s is finished; there is nothing to do", options.out)
            return options.out

        # What moves, and where it stands.
        optimizer = build_optimizer(method, recipe, fused=True, capturable=machine.graph)
        warm_up = recipe.optim.warmup_epochs * loader.steps_per_epoch
        state = RunState(
            method=method,
            optimizer=optimizer,
            monitor=EmbeddingMonitor(pairs=pairs),
            judge=CollapseJudge(after_step=max(UNJUDGED_STEPS, warm_up)),
        )
        if start.checkpoint is not None:
            state.restore(read_checkpoint(start.checkpoint), device)
        forward = average_gradients(method, process, compress=options.compress_gradients)
        step = TrainStep(method, forward, optimizer, size_px=recipe.views.size_px, machine=machine)
        logger.info(
            "%s from step %d to %d, %d pairs each, %d steps an epoch; %s on %s",
            *(recipe.name, state.step, steps, recipe.global_batch, loader.steps_per_epoch),
            *(machine.precision, machine.device_name),
        )

        # Who watches.
        log = RunLog(options.out, step=state.step, tensorboard=options.tensorboard) if process.first else None
        books = Bookkeeper(
            state,
            options=options,
            process=process,
            steps=steps,
            steps_per_epoch=loader.steps_per_epoch,
            identity={
                "recipe": to_dict(recipe),
                "recipe_digest": digest(recipe),
                "store_digest": store.digest,
                **({"init": initial.record()} if initial else {}),
                "machine": machine.to_dict(),
                "versions": versions(),
            },
            signals=stack.enter_context(StopSignals()),
            progress=stack.enter_context(
                TrainingProgress(steps=steps, done=state.step, global_batch=recipe.global_batch, shown=process.first)
            ),
            log=stack.enter_context(log) if log is not None else None,
            probe=probe,
        )

        # The training itself.
        mine = slice(process.rank * pairs, (process.rank + 1) * pairs)
        while state.step < steps:
            batch = loader.batch(state.step)
            params = draw_view_params(recipe.views, seed=recipe.seed, step=state.step, global_batch=recipe.global_batch)
            # The smallest is the scheduled one: a fixed rate of the predictor stays at the peak.
            rates = learning_rates(recipe, optimizer.param_groups, state.step, steps_per_epoch=loader.steps_per_epoch)
            decay = (
                target_decay(state.step, base=recipe.target.decay, schedule=recipe.target.schedule, total_steps=steps)
                if recipe.target is not None
                else None
            )
            result = step(batch, params[loader.geometry, mine], rates=rates, decay=decay)
            books.after_step(result, batch.scene, learning_rate=min(rates), target_decay=decay)
        if process.first:
            _finish(options.out, recipe, state, store_digest=store.digest)
    return options.out


@contextmanager
def _explained(options: RunOptions) -> Iterator[None]:
    """Turn what the disks refuse, a full one above all, into one line; the last checkpoint is untouched by it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.strerror or error}: {error.filename or options.out}; put that right, then go on with --resume"
        ) from error


def _finish(folder: Path, recipe: Recipe, state: RunState, *, store_digest: str) -> None:
    encoder = state.method.encoder
    assert isinstance(encoder, nn.Module)
    records = [record for record in read_records(folder / METRICS_FILE) if "loss" in record]
    result = {
        "recipe": recipe.name,
        "recipe_digest": digest(recipe),
        "store_digest": store_digest,
        "run": str(folder),
        "steps": state.step,
        "loss": records[-1]["loss"],
        "pairs_per_s": state.step * recipe.global_batch / state.seconds,
        "seconds": state.seconds,
        "weights_digest": state_digest(encoder),
    }
    write_json(folder / RESULT_FILE, result)
    logger.info("trained %s in %s; encoder %s", recipe.name, duration(state.seconds), result["weights_digest"])
