"""A pretraining run from start to end: the one place where store, views, method, optimiser and log come together.

What a run writes: ``recipe.json``, ``run.json``, ``config.yaml``, ``checkpoints/``, ``metrics.jsonl``, ``tensorboard/``
(or what another logger writes), ``loss.png`` and, when it is finished, ``result.json`` (training/README.md).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import torch
from torch import nn

from eo_backbones.errors import UserError
from eo_backbones.files import refuse_unwritable, write_json
from eo_backbones.hub.folder import describe_architecture
from eo_backbones.networks.state import state_digest
from eo_backbones.progress import SILENT, Progress, duration
from eo_backbones_train.data.loader import Loader
from eo_backbones_train.data.plan import pairs_per_process
from eo_backbones_train.data.views import draw_view_params
from eo_backbones_train.methods.build import build_method
from eo_backbones_train.methods.initial_weights import initial_weights
from eo_backbones_train.optim import build_optimizer, learning_rates, target_decay
from eo_backbones_train.pretraining.bookkeeping import Bookkeeper
from eo_backbones_train.pretraining.checkpoint import RunState, read_checkpoint
from eo_backbones_train.pretraining.distributed import average_gradients, joined, synchronize_batch_norm
from eo_backbones_train.pretraining.monitors import CollapseDetector, EmbeddingMonitor
from eo_backbones_train.pretraining.probe import Probe
from eo_backbones_train.pretraining.run_folder import RESULT_FILE, claim, versions
from eo_backbones_train.pretraining.run_options import RunOptions, resolve_machine, torch_configured_for
from eo_backbones_train.pretraining.runlog import METRICS_FILE, RunLog, read_records
from eo_backbones_train.pretraining.step import TrainStep
from eo_backbones_train.pretraining.stops import StopSignals
from eo_backbones_train.recipes.published import input_spec
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.recipes.serialise import digest, to_dict
from eo_backbones_train.store.store import Store
from eo_backbones_train.tracking.logger import Tracking, choose_loggers

COLLAPSE_CHECK_AFTER = 100  # steps at least: before that, the embeddings of a fresh network are all alike

logger = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    options: RunOptions,
    *,
    build: Callable[[Recipe], nn.Module] | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Train a recipe to its end, or continue a run that was interrupted.

    Args:
        recipe: what is trained.
        options: where and how.
        build: makes the method, instead of :func:`build_method`; tests pass one with a tiny encoder.
        progress: where the first process reports progress.

    Returns:
        The run folder; its ``result.json`` holds the digest of the trained encoder.

    Raises:
        UserError: options, store or folder do not allow the run, or the disk is full.
        RunStopped: the run was interrupted, has collapsed, or its loss is not finite.
    """
    loggers = choose_loggers(options.loggers, tensorboard=options.tensorboard)
    refuse_unwritable(options.out, folder=True)
    with ExitStack() as stack:
        stack.enter_context(_os_errors_as_user_errors(options))
        # The processes and their devices.
        process = stack.enter_context(joined(options.device))
        device, world_size = process.device, process.world_size
        pairs = pairs_per_process(recipe.global_batch, world_size)
        depthwise = describe_architecture(recipe.model.architecture).depthwise
        machine = resolve_machine(options, device=device, world_size=world_size, pairs=pairs, depthwise=depthwise)
        stack.enter_context(torch_configured_for(machine))
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))

        # What is trained.
        initial = initial_weights(recipe.model, options.init)
        torch.manual_seed(recipe.seed)
        method = (build(recipe) if build else build_method(recipe, initial=initial)).to(
            device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        if recipe.model.sync_batch_norm:
            method = synchronize_batch_norm(method, process)
        optimizer = build_optimizer(method, recipe, fused=True, capturable=machine.graph)

        # The images, and the folder that this run writes to.
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

        # What changes during training, restored from a checkpoint if there is one.
        warm_up = recipe.optim.warmup_epochs * loader.steps_per_epoch
        state = RunState(
            method=method,
            optimizer=optimizer,
            monitor=EmbeddingMonitor(pairs=pairs),
            collapse=CollapseDetector(after_step=max(COLLAPSE_CHECK_AFTER, warm_up)),
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

        # Records, checkpoints, and reasons to stop.
        tracking = Tracking(
            loggers=loggers,
            name=options.out.absolute().name,
            config={"recipe": to_dict(recipe), "store_digest": store.digest, "machine": machine.to_dict()},
        )
        log = stack.enter_context(RunLog(options.out, step=state.step, tracking=tracking)) if process.first else None
        bookkeeper = Bookkeeper(
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
            tick=stack.enter_context((progress if process.first else SILENT).stage(recipe.name, steps, state.step)),
            global_batch=recipe.global_batch,
            log=log,
            probe=probe,
        )

        # The training itself.
        share = slice(process.rank * pairs, (process.rank + 1) * pairs)
        while state.step < steps:
            batch = loader.batch(state.step)
            params = draw_view_params(recipe.views, seed=recipe.seed, step=state.step, global_batch=recipe.global_batch)
            # The smallest is the scheduled one: the predictor's rate, where it is fixed, stays at the peak.
            rates = learning_rates(recipe, optimizer.param_groups, state.step, steps_per_epoch=loader.steps_per_epoch)
            decay = (
                target_decay(state.step, base=recipe.target.decay, schedule=recipe.target.schedule, total_steps=steps)
                if recipe.target is not None
                else None
            )
            result = step(batch, params[loader.geometry, share], rates=rates, decay=decay)
            bookkeeper.after_step(result, batch.scene, learning_rate=min(rates), target_decay=decay)
        if process.first:
            _write_result(options.out, recipe, state, store_digest=store.digest)
    return options.out


@contextmanager
def _os_errors_as_user_errors(options: RunOptions) -> Iterator[None]:
    """Turn errors of the disk, a full one above all, into one line; the last checkpoint is not affected by them."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.strerror or error}: {error.filename or options.out}; fix this, then continue with --resume"
        ) from error


def _write_result(folder: Path, recipe: Recipe, state: RunState, *, store_digest: str) -> None:
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
