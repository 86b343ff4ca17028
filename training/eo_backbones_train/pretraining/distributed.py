"""Several processes, one run: joining them, agreeing on decisions, averaging gradients.

``torchrun`` starts the processes and sets the environment (``env://``); without it a run is one process, and nothing
here communicates. The backend is NCCL on CUDA, gloo on the CPU.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from eo_backbones.device import pick_device
from eo_backbones.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Process:
    """This process among those of the run; rank 0 writes the logs and checkpoints."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def on_first(self, action: Callable[[], T]) -> T:
        """Run ``action`` in rank 0; every process gets its result, or the :class:`UserError` that it raised."""
        if self.world_size == 1:
            return action()
        outcome: list[tuple[T | None, str | None]] = [(None, None)]
        if self.first:
            try:
                outcome = [(action(), None)]
            except UserError as error:
                outcome = [(None, str(error))]
        distributed.broadcast_object_list(outcome, src=0, device=self.device)
        result, message = outcome[0]
        if message is not None:
            raise UserError(message)
        return result  # type: ignore[return-value]  # None only where the action returns it

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process; every process must call this at the same point."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
        return bool(flags.item())

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of ``values`` over the processes."""
        if self.world_size == 1:
            return values
        total = values.to(self.device, copy=True)
        distributed.all_reduce(total)
        return total / self.world_size


@contextmanager
def joined(device: str) -> Iterator[Process]:
    """Join the processes that ``torchrun`` started, or be the only process; leave them at the end.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; with CUDA each process takes the GPU of its local rank.

    Raises:
        UserError: ``cuda`` without a CUDA GPU, or with fewer GPUs than processes on this machine.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = pick_device(device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    process = Process(rank=rank, world_size=world_size, device=chosen)
    # Within the block, the GPU of this process is the current one.
    with torch.cuda.device(chosen) if chosen.type == "cuda" else nullcontext():
        if world_size == 1:
            yield process
            return
        distributed.init_process_group(backend="nccl" if chosen.type == "cuda" else "gloo", init_method="env://")
        try:
            yield process
        finally:
            distributed.destroy_process_group()


def synchronize_batch_norm(method: nn.Module, process: Process) -> nn.Module:
    """Return the method with batch statistics taken over all processes.

    Raises:
        UserError: several processes on the CPU, where torch has no such layer.
    """
    if process.world_size == 1:
        return method  # one process holds the whole batch: ordinary batch normalisation is the same thing
    if process.device.type != "cuda":
        raise UserError(
            "model.sync_batch_norm needs CUDA when several processes share a batch; "
            "use one process, or --set model.sync_batch_norm=false"
        )
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    return converted


def average_gradients(method: nn.Module, process: Process, *, compress: bool) -> nn.Module:
    """Return what to call instead of ``method`` so that its backward pass averages gradients over the processes.

    Buffers stay each process's own (those of rank 0 are saved): broadcasting them before every pass would put rank
    0's running statistics between the passes of one step.
    """
    if process.world_size == 1:
        return method
    with warnings.catch_warnings():
        # torch 2.15 renames broadcast_buffers; 2.6, which we also run on, knows only this name.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrapped = DistributedDataParallel(
            method,
            device_ids=[process.device] if process.device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            static_graph=True,
        )
    if compress:
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped
