"""Settings of the machine, not of the result: where a run reads and writes, and how fast it goes.

What defines the result is the recipe (:mod:`eo_backbones_train.recipes.published`). Options here may change the last
bits of the weights (precision, number of threads), never what is trained; :class:`Machine` records how they were
resolved.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from eo_backbones.device import DEVICES, PRECISIONS, pick_precision
from eo_backbones.errors import UserError, unknown_name

# Below this a step is bound by kernel launches, above it by the GPU's arithmetic (docs/decisions/0012).
GRAPH_UP_TO_PAIRS = 128

_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """One run on one machine (or several).

    Attributes:
        store: folder written by ``eo-train prepare``.
        out: the run folder; on several machines one that all of them see.
        resume: continue the run in ``out``, or start it if it has no checkpoint yet.
        init: where the weights that the recipe starts from are read: a Hub repository, ``local-dir:PATH`` or a row;
            None is the place that the recipe names.
        device: ``auto`` is CUDA where there is one.
        data_device: where the store's tiles are kept; ``auto`` is the GPU if they fit, else the host's memory map.
        precision: of the forward pass; ``auto`` is bf16 where the device has it, else fp32
            (:mod:`eo_backbones.device`); on a CPU fp32 for a network with depthwise convolutions,
            whose backward pass has no fast bf16 there.
        graph: replay the step as a CUDA graph; None is yes on one CUDA GPU up to ``GRAPH_UP_TO_PAIRS`` pairs.
        deterministic: only algorithms that repeat bit for bit; off lets cuDNN time its algorithms and choose.
        threads: CPU threads of torch; None leaves the number to torch.
        checkpoint_minutes, checkpoint_steps: save a checkpoint when either has passed; None is never.
        log_steps: steps that one record of ``metrics.jsonl`` averages over.
        monitor_steps: steps between two readings of the embeddings (std, rank, cosine).
        stop_on_collapse: end the run when the embeddings have collapsed.
        compress_gradients: average gradients between processes in bf16.
        loggers: where curves go (:data:`eo_backbones_train.tracking.logger.LOGGERS`), or ``"none"``; ``None`` is
            TensorBoard if it is installed.
        tensorboard: whether that default is wanted.
        probe_data: ``KIND=DIR`` of labelled images to probe the encoder with
            (:mod:`eo_backbones_train.pretraining.probe`).
        probe_epochs: epochs between two probes.
        config: options of the command, which ``config.yaml`` in the run folder keeps; from Python usually none.
    """

    store: Path
    out: Path
    resume: bool = False
    init: str | None = None
    device: str = "auto"
    data_device: str = "auto"
    precision: str = "auto"
    graph: bool | None = None
    deterministic: bool = True
    threads: int | None = None
    checkpoint_minutes: float | None = 10.0
    checkpoint_steps: int | None = None
    log_steps: int = 20
    monitor_steps: int = 100
    stop_on_collapse: bool = True
    compress_gradients: bool = False
    loggers: tuple[str, ...] | None = None
    tensorboard: bool = True
    probe_data: str | None = None
    probe_epochs: int = 1
    config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("device", self.device, DEVICES),
            ("data device", self.data_device, DEVICES),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in allowed:
                raise unknown_name(name, value, allowed)
        for name in ("threads", "checkpoint_minutes", "checkpoint_steps", "log_steps", "monitor_steps", "probe_epochs"):
            number = getattr(self, name)
            if number is not None and number <= 0:
                raise UserError(f"{name} is {number}; give a number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Resolved runtime settings; two runs of one recipe agree bit for bit if these agree (docs/decisions/0012)."""

    device: str
    device_name: str
    precision: str
    graph: bool
    deterministic: bool
    threads: int
    world_size: int
    compress_gradients: bool
    torch: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def resolve_machine(
    options: RunOptions, *, device: torch.device, world_size: int, pairs: int, depthwise: bool = False
) -> Machine:
    """Return the runtime settings that the options mean on this machine.

    Args:
        options: the user's choice.
        device: the compute device of this process.
        world_size: number of processes.
        pairs: pairs of one process in one step.
        depthwise: whether the network has depthwise convolutions.

    Raises:
        UserError: an option that this machine does not support, or that would have no effect.
    """
    cuda = device.type == "cuda"
    if options.graph and not cuda:
        raise UserError("--graph records a CUDA graph, and this run is on the CPU; leave it out, or use --device cuda")
    if options.graph and world_size > 1:
        raise UserError("--graph works on one GPU; leave it out when several processes average their gradients")
    if options.data_device == "cuda" and not cuda:
        raise UserError("--data-device cuda needs a run on CUDA; use --data-device cpu or auto")
    if options.compress_gradients and not (cuda and world_size > 1):
        raise UserError("--compress-gradients works between several CUDA processes (torchrun); leave it out here")
    graph = cuda and world_size == 1 and pairs <= GRAPH_UP_TO_PAIRS if options.graph is None else options.graph
    return Machine(
        device=device.type,
        device_name=torch.cuda.get_device_name(device) if cuda else _processor_name(),
        precision=_precision(options.precision, device, depthwise=depthwise),
        graph=graph,
        deterministic=options.deterministic,
        threads=options.threads or torch.get_num_threads(),
        world_size=world_size,
        compress_gradients=options.compress_gradients,
        torch=str(torch.__version__),  # its own type would not pass torch.load(weights_only=True)
    )


@contextmanager
def torch_configured_for(machine: Machine) -> Iterator[None]:
    """Set up torch as ``machine`` says, for a while: all of it is process-wide and restored at the end."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill_memory = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    workspace = os.environ.get(_CUBLAS_WORKSPACE)
    try:
        torch.set_num_threads(machine.threads)
        # Read by cuBLAS when it starts: without it its matrix products may differ between runs
        # (torch, Reproducibility).
        os.environ.setdefault(_CUBLAS_WORKSPACE, ":4096:8")
        # On CUDA an operation without a deterministic variant only warns: which ones exist depends on the version.
        torch.use_deterministic_algorithms(machine.deterministic, warn_only=machine.device == "cuda")
        # Costs a pass over every new tensor; nothing here reads memory that it has not written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = not machine.deterministic
        yield
    finally:
        torch.set_num_threads(threads)
        if workspace is None:
            os.environ.pop(_CUBLAS_WORKSPACE, None)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill_memory  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = benchmark


def _precision(name: str, device: torch.device, *, depthwise: bool) -> str:
    if name == "auto" and depthwise and device.type == "cpu":
        return "fp32"  # a step of EfficientNet-Lite0 takes 3.5 times as long in bf16 (benchmarks/, pretraining-trials)
    return pick_precision(name, device)


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
