"""The settings that decide the result of a fine-tuning, besides the images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, get_args

from eo_backbones.errors import UserError, unknown_name

Task = Literal["classification", "segmentation"]
Mode = Literal["linear", "partial", "full"]
Fusion = Literal["concat", "mean", "early"]
ClassWeights = Literal["none", "balanced"]

TASKS: tuple[str, ...] = get_args(Task)
MODES: tuple[str, ...] = get_args(Mode)
FUSIONS: tuple[str, ...] = get_args(Fusion)
CLASS_WEIGHTS: tuple[str, ...] = get_args(ClassWeights)
DEFAULT_BATCH: Mapping[Task, int] = MappingProxyType({"classification": 32, "segmentation": 8})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All values of one fine-tuning; the defaults are ours.

    Attributes:
        task: ``"classification"``: one class an image, by a linear layer; ``"segmentation"``: one for every pixel, by
            a decoder (:class:`eo_backbones.networks.segmentation.SegmentationNetwork`).
        model: name of the encoder to start from.
        pretrained: load its weights; else its architecture starts from random values, for comparison.
        mode: ``"linear"``: encoder frozen, BatchNorm in eval mode; of a classifier, features are computed once and one
            linear layer is trained on them; ``"partial"``: the last ``stages`` too; ``"full"``: everything, with
            smaller rates for earlier layers.
        fuse: how several bands become one prediction: ``"concat"`` and ``"mean"`` of each band's features
            (:class:`eo_backbones.MultiBand`) or feature maps, ``"early"``: one encoder whose first convolution takes
            all bands.
        stages: with ``"partial"``: how many of the encoder's last stages are trained (a ResNet has four).
        epochs: passes over the training images, at most.
        patience: epochs without a better weighted F1 (segmentation: mIoU) on the validation images after which
            training ends.
        learning_rate: of AdamW at the end of the warm-up (the first twentieth of all steps); cosine to zero after it.
        layer_decay: with ``"full"``: each block's rate is that of the next one times this.
        weight_decay: of AdamW, on what has more than one dimension.
        batch: images a step, at most.
        class_weights: ``"balanced"`` weighs an image, or a pixel, by n / (classes x number in its class) in the loss.
        shots: training images of each class; ``None``: all. Not for segmentation, whose images have several.
        size_px: side that images are resized to; for segmentation of the squares that are cut out of them to train.
        seed: of split, subset, order, augmentation and initial values.
    """

    task: Task = "classification"
    model: str
    pretrained: bool
    mode: Mode
    fuse: Fusion
    size_px: int
    stages: int = 1
    epochs: int = 50
    patience: int = 10
    learning_rate: float = 1e-3
    layer_decay: float = 0.85
    weight_decay: float = 0.05
    batch: int = 32
    class_weights: ClassWeights = "none"
    shots: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("task", self.task, TASKS),
            ("mode", self.mode, MODES),
            ("fuse", self.fuse, FUSIONS),
            ("class-weights", self.class_weights, CLASS_WEIGHTS),
        ):
            if value not in allowed:
                raise unknown_name(f"--{option}", value, allowed)
        for option, number in (
            ("stages", self.stages),
            ("epochs", self.epochs),
            ("patience", self.patience),
            ("lr", self.learning_rate),
            ("size", self.size_px),
        ):
            if number <= 0:
                raise UserError(f"--{option} is {number}; give a number above 0")
        if self.batch < 2:
            raise UserError(f"--batch is {self.batch}; BatchNorm needs at least 2 images a step")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"--layer-decay is {self.layer_decay}; give a number above 0, up to 1 (all layers alike)")
        if self.task == "segmentation" and self.shots is not None:
            raise UserError(
                "--shots counts images of a class, but an image to segment has several classes; leave it out, and "
                "choose the training images with the column split of a table (path,mask,split)"
            )
        if self.weight_decay < 0:
            raise UserError(f"--weight-decay is {self.weight_decay}; give 0 or more")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


IDLE_UNLESS: Mapping[str, tuple[str, Mode]] = MappingProxyType(
    {"stages": ("--stages", "partial"), "layer_decay": ("--layer-decay", "full")}
)
"""Field -> its option, and the only mode in which it has an effect."""


def refuse_idle_fields(values: Mapping[str, Any]) -> None:
    """Check that no field has another value than its default where it has no effect.

    Args:
        values: fields of :class:`Settings` as they were given.

    Raises:
        UserError: one has.
    """
    defaults = {field.name: field.default for field in fields(Settings)}
    for name, (option, mode) in IDLE_UNLESS.items():
        if values.get(name, defaults[name]) != defaults[name] and values.get("mode") != mode:
            raise UserError(
                f"{option} has no effect with --mode {values.get('mode')}; pass --mode {mode}, or leave it out"
            )
