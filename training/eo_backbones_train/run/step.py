"""One training step: views, forward, backward, optimiser, moving average; eager, or replayed as one CUDA graph.

A graph repeats kernels with the arguments they were recorded with, so everything that changes from step to step is a
tensor that is filled before the replay: tiles, view parameters, learning rates and the decay of the moving average.
Nothing in a step draws random numbers: those are in the view parameters (DESIGN 3.7).
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eo_backbones_train.loader import Batch
from eo_backbones_train.run.run_options import Machine
from eo_backbones_train.views import make_views

_WARM_UP_STEPS = 3  # before a capture, as torch's notes on CUDA graphs do it: libraries choose and allocate


class StepResult(NamedTuple):
    """What one step leaves for the log; both stay on the device, and a replayed graph overwrites them.

    Attributes:
        loss: scalar, of this process's share of the batch, before the optimiser moved.
        embeddings: [2, B, D] pooled encoder features of the two views.
    """

    loss: Tensor
    embeddings: Tensor


class TrainStep:
    """Calls the step in the manner the machine settings ask for."""

    def __init__(
        self, method: nn.Module, forward: nn.Module, optimizer: Optimizer, *, size_px: int, machine: Machine
    ) -> None:
        """Prepare the step.

        Args:
            method: BYOL or SimSiam, on its device.
            forward: what to call: ``method``, or the wrapper that averages its gradients between processes.
            optimizer: over the parameters of ``method``; capturable if a graph is to be recorded.
            size_px: side of the views.
            machine: precision, and whether to record a graph.
        """
        device = next(method.parameters()).device
        self._method, self._forward, self._optimizer = method, forward, optimizer
        self._update_target: Callable[[Tensor], None] | None = getattr(method, "update_target", None)
        self._size_px = size_px
        self._autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=machine.precision == "bf16")
        self._decay = torch.zeros((), device=device)
        self._graph_wanted = machine.graph
        self._graph: _RecordedStep | None = None

    def __call__(self, batch: Batch, params: Tensor, *, rates: Sequence[float], decay: float | None) -> StepResult:
        """Train on one batch.

        Args:
            batch: this process's tiles.
            params: view parameters [V, B, P] of the same samples.
            rates: learning rate of each parameter group.
            decay: of the moving average of the target; None for SimSiam, which has no target.
        """
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if decay is not None:
            self._decay.fill_(decay)
        inputs = (batch.codes, batch.extent, batch.decode, params.to(batch.codes.device, non_blocking=True))
        if not self._graph_wanted:
            return self._compute(*inputs)
        if self._graph is None:
            self._graph = _RecordedStep(self._compute, inputs, self._method, self._optimizer)
        return self._graph.replay(inputs)

    def _compute(self, codes: Tensor, extent: Tensor, decode: Tensor, params: Tensor) -> StepResult:
        self._optimizer.zero_grad(set_to_none=True)
        views = make_views(codes, extent, decode, params, self._size_px)
        with self._autocast:
            output = self._forward(views)
        output.loss.backward()
        self._optimizer.step()
        if self._update_target is not None:
            self._update_target(self._decay)
        return StepResult(output.loss.detach(), output.embeddings)


class _RecordedStep:
    """A step recorded once as a CUDA graph and replayed with new inputs."""

    def __init__(
        self,
        compute: Callable[..., StepResult],
        inputs: Sequence[Tensor],
        method: nn.Module,
        optimizer: Optimizer,
    ) -> None:
        """Warm up, take every trace of it back, and record; nothing has been trained when this returns."""
        self._inputs = [tensor.clone() for tensor in inputs]
        before = Snapshot(method, optimizer)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), warnings.catch_warnings():
            # Outside of a capture torch wonders why the optimiser is capturable.
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            for _ in range(_WARM_UP_STEPS):
                compute(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        before.restore()
        # Gradients are then allocated, and written rather than added to, within the graph.
        optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's thread may pin memory meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = compute(*self._inputs)

    def replay(self, inputs: Sequence[Tensor]) -> StepResult:
        for static, tensor in zip(self._inputs, inputs, strict=True):
            static.copy_(tensor)
        self._graph.replay()
        return self._result


class Snapshot:
    """Weights, buffers and optimiser state at one moment, restored in place: a graph holds their addresses."""

    def __init__(self, method: nn.Module, optimizer: Optimizer) -> None:
        """Copy all of it."""
        self._optimizer = optimizer
        self._weights = [(tensor, tensor.detach().clone()) for tensor in method.state_dict().values()]
        self._states = {
            parameter: {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}
            for parameter, state in optimizer.state.items()
        }

    @torch.no_grad()
    def restore(self) -> None:
        """Go back; optimiser state that did not exist then becomes what a first step begins with."""
        for tensor, value in self._weights:
            tensor.copy_(value)
        for parameter, state in self._optimizer.state.items():
            saved = self._states.get(parameter, {})
            for name, value in state.items():
                if name in saved:
                    value.copy_(saved[name])
                elif isinstance(value, Tensor):
                    value.zero_()  # how Adam's moments, its step count and SGD's momentum begin
