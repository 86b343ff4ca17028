"""The training steps that bench compares: ours in four variants, and two of lightly's parts, on the same tiles.

lightly is not a dependency of this project: it is imported when its step is built, and left out where it is missing.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Literal, cast

import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from eo_backbones_train.data.loader import Batch
from eo_backbones_train.data.views import draw_view_params, make_views
from eo_backbones_train.methods.build import build_method
from eo_backbones_train.optim import build_optimizer, peak_learning_rate
from eo_backbones_train.pretraining.run_options import Machine
from eo_backbones_train.pretraining.step import StepResult, TrainStep
from eo_backbones_train.recipes.published import get_recipe
from eo_backbones_train.recipes.recipe import Recipe

# They allocate or rename memory and launch nothing, though their schemas do not call them views.
_NO_LAUNCH = frozenset({"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty"})
_NO_LAUNCH |= {"aten::new_empty_strided", "aten::_unsafe_view", "aten::_reshape_alias"}

_MOMENTUM = 0.99  # of lightly's moving averages, as in its example

# The paper's BYOL on SEN12MS: Adam, and heads as in BYOL and in lightly's defaults.
_PAPER = get_recipe("byol-sen12ms-90k")
_JOINT = replace(_PAPER, loss="symmetric", model=replace(_PAPER.model, batch_norm="joint"))

VARIANTS: Mapping[str, Recipe] = MappingProxyType(
    {
        "joint": _JOINT,
        "separate": replace(_PAPER, loss="symmetric"),
        "one_directional": _PAPER,
        "simsiam": replace(_JOINT, method="simsiam", target=None),
    }
)
"""BYOL symmetric in joint passes, the same in separate passes, the paper's one-directional, SimSiam like the first.

They differ in nothing else, so that their times can be compared.
"""


class RunningStep:
    """The step of a recipe with fresh weights, built as :mod:`eo_backbones_train.pretraining.loop` builds it."""

    def __init__(self, recipe: Recipe, machine: Machine, device: torch.device) -> None:
        """Build method and optimiser."""
        method = build_method(recipe).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = build_optimizer(method, recipe, fused=True, capturable=device.type == "cuda")
        self._step = TrainStep(method, method, optimizer, size_px=recipe.views.size_px, machine=machine)
        self._rates = [peak_learning_rate(recipe)] * len(optimizer.param_groups)
        self._decay = recipe.target.decay if recipe.target is not None else None

    def __call__(self, batch: Batch, params: Tensor) -> StepResult:
        """Train on a batch with these view parameters."""
        return self._step(batch, params, rates=self._rates, decay=self._decay)


def resized(recipe: Recipe, *, size_px: int, pairs: int) -> Recipe:
    """Return the recipe with other views and another batch."""
    return replace(recipe, views=replace(recipe.views, size_px=size_px), global_batch=pairs)


def has_lightly() -> bool:
    """Whether the reference can be measured."""
    return find_spec("lightly") is not None


def steps_on(batch: Batch, *, size_px: int, machine: Machine, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return all steps, each ready to be called any number of times on the same batch.

    Args:
        batch: the tiles.
        size_px: side of the views.
        machine: settings of our steps.
        device: where the batch is.

    Returns:
        The keys of :data:`VARIANTS`, and with lightly also ``"lightly"`` (symmetric) and ``"lightly_one_directional"``.
    """
    pairs = batch.codes.shape[1]
    params = draw_view_params(_PAPER.views, seed=0, step=0, global_batch=pairs)

    def ours(recipe: Recipe) -> Callable[[], object]:
        step = RunningStep(resized(recipe, size_px=size_px, pairs=pairs), machine, device)
        return lambda: step(batch, params)

    steps = {name: ours(recipe) for name, recipe in VARIANTS.items()}
    if not has_lightly():
        return steps

    def theirs(loss: Literal["symmetric", "one-directional"]) -> Callable[[], object]:
        train = lightly_step(_PAPER, loss, device)
        return lambda: train(views_of(batch, params.to(device), size_px))

    return steps | {"lightly": theirs("symmetric"), "lightly_one_directional": theirs("one-directional")}


def views_of(batch: Batch, params: Tensor, size_px: int) -> Tensor:
    """Return the views [2, B, 1, size, size] of a batch."""
    return make_views(batch.codes, batch.extent, batch.decode, params, size_px)


class LightlyBYOL(nn.Module):
    """A BYOL network from lightly's parts, as its example ``examples/pytorch/byol.py`` puts them together.

    The encoder is ours: timm's ResNet50 with one channel.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Build it with the recipe's head sizes."""
        from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead  # noqa: PLC0415  not required
        from lightly.models.utils import deactivate_requires_grad  # noqa: PLC0415

        super().__init__()
        model = recipe.model
        encoder = timm.create_model("resnet50", pretrained=False, in_chans=1, num_classes=0)
        self.backbone, features = encoder, cast("int", encoder.num_features)
        self.projection_head = BYOLProjectionHead(features, model.projector_hidden, model.projector_out)
        self.prediction_head = BYOLPredictionHead(model.projector_out, model.predictor_hidden, model.projector_out)
        self.backbone_momentum = deepcopy(self.backbone)
        self.projection_head_momentum = deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Return the prediction."""
        y = self.backbone(x).flatten(start_dim=1)
        prediction: Tensor = self.prediction_head(self.projection_head(y))
        return prediction

    def forward_momentum(self, x: Tensor) -> Tensor:
        """Return what is to be predicted."""
        y = self.backbone_momentum(x).flatten(start_dim=1)
        projection: Tensor = self.projection_head_momentum(y)
        return projection.detach()


def lightly_step(
    recipe: Recipe, loss: Literal["symmetric", "one-directional"], device: torch.device
) -> Callable[[Tensor], None]:
    """Return a function that trains lightly's BYOL on the views [2, B, 1, H, W].

    As its example does: float32, images in NCHW order, one pass for each view; but with torch's Adam at its default
    settings, the paper's optimiser, where the example has SGD.

    Args:
        recipe: sizes of the heads.
        loss: the example's, or only its first half.
        device: where the views are.
    """
    from lightly.loss.negative_cosine_similarity import NegativeCosineSimilarity  # noqa: PLC0415  not required
    from lightly.models.utils import update_momentum  # noqa: PLC0415

    model = LightlyBYOL(recipe).to(device)
    criterion = NegativeCosineSimilarity()
    optimizer = torch.optim.Adam(model.parameters())

    def step(views: Tensor) -> None:
        x0, x1 = views
        update_momentum(model.backbone, model.backbone_momentum, m=_MOMENTUM)
        update_momentum(model.projection_head, model.projection_head_momentum, m=_MOMENTUM)
        value = criterion(model(x0), model.forward_momentum(x1))
        if loss == "symmetric":
            value = 0.5 * (value + criterion(model(x1), model.forward_momentum(x0)))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts operations that compute or copy; each is one kernel launch or more on a GPU.

    Not counted: views (``view``, ``t``, ``detach``, ...), allocations, and the profiler's marks. A foreach or fused
    operation counts once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count an operation and do it."""
        name = func.name().partition(".")[0]
        self.count += name.startswith("aten::") and not func.is_view and name not in _NO_LAUNCH
        return func(*args, **(kwargs or {}))


def launched_operations(work: Callable[[], object]) -> int:
    """Return how many operations ``work`` launches."""
    counter = OperationCounter()
    with counter:
        work()
    return counter.count
