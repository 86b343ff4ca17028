"""Settings of the machine, not of the result: where a run reads and writes, and how fast it goes.

What defines the result is the recipe (:mod:`eo_backbones_train.recipes`). Options here may change the last bits of the
weights (precision, number of threads), never what is trained; :class:`Machine` records what they came to.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from eo_backbones.errors import UserError, unknown_name

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "bf16", "fp32")
# Below this a step is bound by kernel launches, above it by the GPU's arithmetic (PERFORMANCE C3).
GRAPH_UP_TO_PAIRS = 128


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
        precision: of the forward pass; ``auto`` is bf16 on CUDA and on CPUs with bf16 instructions, else fp32; on a CPU
            fp32 for a network with depthwise convolutions, whose backward pass has no fast bf16 there.
        graph: replay the step as a CUDA graph; None is yes on one CUDA GPU up to ``GRAPH_UP_TO_PAIRS`` pairs.
        deterministic: only algorithms that repeat bit for bit; off lets cuDNN time its algorithms and choose.
        threads: CPU threads of torch; None leaves torch's choice.
        checkpoint_minutes, checkpoint_steps: a checkpoint when either has passed; None is never.
        log_steps: steps that one record of ``metrics.jsonl`` averages over.
        monitor_steps: steps between two readings of the embeddings (std, rank, cosine).
        stop_on_collapse: end the run when the embeddings have collapsed.
        compress_gradients: average gradients between processes in bf16.
        tensorboard: also write TensorBoard event files.
        probe_data: ``KIND=DIR`` of labelled images to look at the encoder with (:mod:`eo_backbones_train.run.probe`).
        probe_epochs: epochs between two such looks.
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
    tensorboard: bool = True
    probe_data: str | None = None
    probe_epochs: int = 1

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
    """What the options came to here; two runs of one recipe agree bit for bit when this agrees (DESIGN 3.7)."""

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


def settle(
    options: RunOptions, *, device: torch.device, world_size: int, pairs: int, depthwise: bool = False
) -> Machine:
    """Decide what the options leave open.

    Args:
        options: the user's choice.
        device: the compute device of this process.
        world_size: number of processes.
        pairs: pairs of one process in one step.
        depthwise: whether the network has depthwise convolutions.

    Raises:
        UserError: an option that this machine cannot follow, or that would have no effect.
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
        precision=_precision(options.precision, cuda=cuda, depthwise=depthwise),
        graph=graph,
        deterministic=options.deterministic,
        threads=options.threads or torch.get_num_threads(),
        world_size=world_size,
        compress_gradients=options.compress_gradients,
        torch=str(torch.__version__),  # its own type would not pass torch.load(weights_only=True)
    )


def apply(machine: Machine) -> None:
    """Set torch up as ``machine`` says."""
    torch.set_num_threads(machine.threads)
    # Read by cuBLAS when it starts: without it its matrix products may differ between runs (torch, Reproducibility).
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # On CUDA an operation without a deterministic variant warns and goes on: which ones exist depends on the version.
    torch.use_deterministic_algorithms(machine.deterministic, warn_only=machine.device == "cuda")
    # Costs a pass over every new tensor; nothing here reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not machine.deterministic


def _precision(choice: str, *, cuda: bool, depthwise: bool) -> str:
    if choice != "auto":
        return choice
    if depthwise and not cuda:
        return "fp32"  # a step of EfficientNet-Lite0 takes 3.5 times as long in bf16 (benchmarks/, pretraining-trials)
    # The CPU computes in bf16 anyhow, but without these instructions more slowly than in fp32.
    fast = cuda or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
