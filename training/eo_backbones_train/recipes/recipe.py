"""What a recipe is: the frozen values that decide the result of a pretraining run, and nothing else.

Machine settings (device, threads, precision, graph) live in :mod:`eo_backbones_train.pretraining.run_options`; the
recipes that we publish in :mod:`eo_backbones_train.recipes.published`. An invalid :class:`Recipe` cannot be made: every
rule stands in :func:`_check`, which runs whenever one is built, read back or overridden.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from eo_backbones.bands import BANDS, Sensor
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.networks.initialisation import STAGES

REFERENCE_BATCH = 256  # the batch that scaled learning rates are written for (Goyal et al., arXiv 1706.02677)
MAX_BLUR_SIGMA_PX = 2.0  # upper end in SimCLR, BYOL and SimSiam; the kernel of data/views.py is sized for it
MIN_SIZE_PX = 32  # ResNet50 divides height and width by 32
RANDOM = "random"  # start of an encoder without weights


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPart:
    """What is trained on.

    Attributes:
        s2_bands, s1_bands: the bands a view may hold; each sample draws one of each from those that its scene has.
        input: how values are normalised: ``"unit-range"`` or ``"standardized"`` (:mod:`eo_backbones.contract`).
        sources: name of the selection of scenes, as prepared (``eo-train prepare``); part of the run's identity.
        s2_s2_share: share of the pairs whose second view is another Sentinel-2 band of the scene instead of a
            Sentinel-1 band; 0 in the paper.
        many_band_repeats: how often an epoch draws each scene that has more than four Sentinel-2 bands to draw from;
            the others are drawn once.
    """

    s2_bands: tuple[str, ...]
    s1_bands: tuple[str, ...]
    input: Literal["unit-range", "standardized"]
    sources: str
    s2_s2_share: float = 0.0
    many_band_repeats: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewPart:
    """How a view is made from a tile (:mod:`eo_backbones_train.data.views`); each of the two views draws for itself.

    Attributes:
        size_px: height and width of the view.
        crop_scale: smallest and largest area of the (square) crop, as a fraction of the tile.
        flip_p: probability of a flip, for each of the two axes.
        rotation_p: probability of a rotation by an angle uniform in plus or minus ``rotation_degrees``.
        blur_p: probability of a Gaussian blur whose deviation is uniform in ``blur_sigma``, in pixels of the tile.
        brightness: largest offset, as a fraction of the band's clip range; 0 is off. With ``unit-range``, 0.02 is
            0.02 in reflectance and 0.5 dB in backscatter.
        contrast: largest relative change of the deviations from the view's mean; 0 is off.
        spread: how far apart the two crops of a pair lie: 1 draws both positions independently, 0 puts the smaller crop
            at the same relative position as the larger one, so that it lies within it (before rotation).
        encoder_sizes_px: image sizes to which ``distill`` resizes the views of its encoder, bilinearly: the pairs of a
            step are shared out among them equally, and a size named twice gets twice as many. Empty: ``size_px``.
        co_registered: the second view of a pair is cut out, rotated and flipped as the first, so that both show the
            same ground pixel by pixel; blur, brightness and contrast stay its own.
    """

    size_px: int
    crop_scale: tuple[float, float]
    flip_p: float
    rotation_p: float
    rotation_degrees: float
    blur_p: float
    blur_sigma: tuple[float, float]
    brightness: float
    contrast: float
    spread: float = 1.0
    encoder_sizes_px: tuple[int, ...] = ()
    co_registered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPart:
    """The encoder, its heads and its batch statistics.

    Attributes:
        projector_hidden, projector_out, projector_layers: projector; two layers as in BYOL and the paper, or three with
            a last BatchNorm as in SimSiam's reference code. 0 without heads, as in ``distill``.
        predictor_hidden: hidden width of the predictor; 0 without heads.
        batch_norm: ``"joint"``: one forward pass holds both sensors, whose statistics mix; ``"separate"``: one forward
            pass for each sensor. Running statistics mix both, either way, wherever a network sees both.
        sync_batch_norm: batch statistics over all processes (CUDA only) instead of each process's share.
        trained_stages: the stem and that many of the four stages are trained, by a loss on the mean over their last
            map. Later stages start as smoothing filters (:mod:`eo_backbones.networks.initialisation`) and keep those
            weights; their BatchNorm statistics follow the data.
        architecture: a convolutional network in timm's registry; it gets one input channel.
        init: ``"random"``, or the weights that the encoder starts with: a Hub repository, a row of
            :mod:`eo_backbones.weights`, or ``sha256:`` and the digest of the tensors, wherever they come from
            (:mod:`eo_backbones_train.methods.initial_weights`).
        batch_norm_statistics: ``"trained"``: batches are normalised by their own statistics, which the running ones
            follow. ``"kept"``: by the running statistics of ``init``, which never change.
    """

    projector_hidden: int = 0
    projector_out: int = 0
    projector_layers: Literal[0, 2, 3] = 0
    predictor_hidden: int = 0
    batch_norm: Literal["joint", "separate"]
    sync_batch_norm: bool
    trained_stages: int = STAGES
    architecture: str = "resnet50"
    init: str = "random"
    batch_norm_statistics: Literal["trained", "kept"] = "trained"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPart:
    """BYOL's moving average: ``target <- decay * target + (1 - decay) * online`` after each step.

    Attributes:
        decay: the decay, or where it starts.
        schedule: ``"constant"``, or ``"cosine"`` up to 1 at the end of training.
        buffers: the target's BatchNorm running statistics: averaged like the parameters, copied from the online
            network, or its own. Training never reads them (the target normalises by its batch).
    """

    decay: float
    schedule: Literal["constant", "cosine"]
    buffers: Literal["average", "copy", "own"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherPart:
    """The frozen network of ``distill``: what the encoder starts from, with its three input channels.

    Attributes:
        sees: ``"view"``: the first view alone, copied to three channels; ``"colour"``: three Sentinel-2 bands of the
            scene at the position of the first view, from long to short wavelength (red, green and blue where the scene
            has them).
        sizes_px: sizes in pixels to which the view is resized bilinearly for the teacher; its features are the mean
            over them.
        standardize: compare features that are standardised by the teacher's mean and standard deviation.
        contrast: weight of a contrastive loss that is added, InfoNCE (van den Oord et al., arXiv 1807.03748): the
            encoder's features should be nearer to the teacher's of their own scene than to those of the others in
            the batch. 0 is off.
        temperature: of that loss; cosines are divided by it.
    """

    sees: Literal["view", "colour"]
    sizes_px: tuple[int, ...]
    standardize: bool = True
    contrast: float = 0.0
    temperature: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimPart:
    """The optimiser and its learning rate.

    Attributes:
        name: as in ``torch.optim``: weight decay is decoupled in ``adamw``, part of the gradient in the others; or
            ``lars`` (You et al., arXiv 1708.03888), timm's, which adapts the rates of what has weight decay.
        base_lr: peak learning rate; with ``scale_lr`` at a global batch of 256, growing linearly with the batch.
        decay_norm_and_bias: whether weight decay also acts on biases and BatchNorm parameters.
        momentum: of SGD and LARS, or the decay of Adam's first moment.
        warmup_epochs: epochs in which the rate grows linearly to its peak.
        schedule: after that, ``"constant"`` or ``"cosine"`` down to 0.
        fixed_predictor_lr: the predictor keeps the peak rate throughout (SimSiam, section 4.1).
    """

    name: Literal["adam", "adamw", "sgd", "lars"]
    base_lr: float
    scale_lr: bool
    weight_decay: float
    decay_norm_and_bias: bool
    momentum: float
    warmup_epochs: int
    schedule: Literal["constant", "cosine"]
    fixed_predictor_lr: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the result, apart from the images.

    Attributes:
        loss: ``"one-directional"``: the Sentinel-2 view predicts the Sentinel-1 view (the paper's equation 1);
            ``"symmetric"``: each predicts the other, as in BYOL and SimSiam; ``"to-teacher"``: both take on the
            features of the frozen teacher.
        target: the moving average of BYOL; ``None`` for the others.
        teacher: the frozen network of ``distill``; ``None`` for the others.
        global_batch: pairs in a step, over all processes.
        seed: of initialisation, order of the scenes, bands and views.

    Raises:
        UserError: a value is out of its range, or two values contradict each other.
    """

    name: str
    method: Literal["byol", "simsiam", "distill"]
    data: DataPart
    views: ViewPart
    model: ModelPart
    loss: Literal["symmetric", "one-directional", "to-teacher"]
    target: TargetPart | None
    optim: OptimPart
    epochs: int
    global_batch: int
    seed: int
    teacher: TeacherPart | None = None

    def __post_init__(self) -> None:
        for problem in _check(self):
            raise UserError(f"recipe {self.name}: {problem}")


def _check(recipe: Recipe) -> Iterator[str]:
    """Yield one message for each thing that is wrong with a recipe."""
    yield from _out_of_range(recipe)
    yield from _wrong_bands("data.s2_bands", recipe.data.s2_bands, "s2")
    yield from _wrong_bands("data.s1_bands", recipe.data.s1_bands, "s1")
    for path, (low, high) in {"crop_scale": recipe.views.crop_scale, "blur_sigma": recipe.views.blur_sigma}.items():
        if low > high:
            yield f"views.{path} is ({low}, {high}); write the smaller value first"
    if recipe.method == "byol" and recipe.target is None:
        yield "method byol needs a target (decay, schedule, buffers)"
    if recipe.method != "byol" and recipe.target is not None:
        yield f"method {recipe.method} has no target; set it to null"
    if recipe.optim.name == "lars" and recipe.optim.weight_decay == 0:
        yield "optim.name lars adapts the rates of what has weight decay; set optim.weight_decay above 0 (BYOL: 1e-6)"
    yield from _wrong_start(recipe)
    yield from _wrong_teacher(recipe)


def _wrong_start(recipe: Recipe) -> Iterator[str]:
    model = recipe.model
    if model.batch_norm_statistics == "kept" and model.init == RANDOM:
        yield (
            "model.batch_norm_statistics is kept, but a random start has no statistics worth keeping; set model.init "
            "(--init SOURCE), or model.batch_norm_statistics=trained"
        )
    if model.trained_stages != STAGES and model.architecture != "resnet50":
        yield f"model.trained_stages is {model.trained_stages}, which is for resnet50 only; set it to {STAGES}"
    if model.trained_stages != STAGES and model.init != RANDOM:
        yield f"model.trained_stages is {model.trained_stages}, but late stages of model.init exist; set it to {STAGES}"
    if model.init.startswith("local-dir:"):
        yield f"model.init is {model.init}, a path of one machine; pass it as --init {model.init}"


def _wrong_teacher(recipe: Recipe) -> Iterator[str]:
    if recipe.method != "distill":
        if recipe.views.encoder_sizes_px:
            yield f"views.encoder_sizes_px is for distill; method {recipe.method} has views.size_px alone"
        if recipe.teacher is not None:
            yield f"method {recipe.method} has no teacher; set it to null"
        if recipe.loss == "to-teacher":
            yield f"loss is to-teacher, but method {recipe.method} has none; set it to symmetric or one-directional"
        return
    if recipe.teacher is None:
        yield "method distill needs a teacher (sees, sizes_px)"
    elif not recipe.teacher.sizes_px or min(recipe.teacher.sizes_px) < MIN_SIZE_PX:
        yield f"teacher.sizes_px is {recipe.teacher.sizes_px}; name at least one size, each of {MIN_SIZE_PX} or more"
    sizes = recipe.views.encoder_sizes_px
    if sizes and (min(sizes) < MIN_SIZE_PX or recipe.global_batch % len(sizes)):
        yield (
            f"views.encoder_sizes_px is {sizes}; name sizes of {MIN_SIZE_PX} or more, as many as divide the "
            f"{recipe.global_batch} pairs of a step"
        )
    if recipe.loss != "to-teacher":
        yield f"loss is {recipe.loss}; method distill has only to-teacher"
    if recipe.model.init == RANDOM:
        yield (
            "method distill starts from the teacher's weights, and model.init is random; pass --init SOURCE "
            "(hf-hub:ORG/NAME, local-dir:PATH or a row of 'eo-backbones list')"
        )


def _out_of_range(recipe: Recipe) -> Iterator[str]:
    views, model, optim = recipe.views, recipe.model, recipe.optim
    # distill has no heads, the other methods have both.
    head_low, head_high = (0, 0) if recipe.method == "distill" else (1, 65536)
    limits: tuple[tuple[str, float, float, float], ...] = (  # field, value, lowest, highest
        ("data.s2_s2_share", recipe.data.s2_s2_share, 0, 1),
        ("data.many_band_repeats", recipe.data.many_band_repeats, 1, 1000),
        ("views.size_px", views.size_px, MIN_SIZE_PX, 1024),
        ("views.crop_scale", min(views.crop_scale), 1e-3, 1),
        ("views.crop_scale", max(views.crop_scale), 1e-3, 1),
        ("views.flip_p", views.flip_p, 0, 1),
        ("views.rotation_p", views.rotation_p, 0, 1),
        ("views.rotation_degrees", views.rotation_degrees, 0, 180),
        ("views.blur_p", views.blur_p, 0, 1),
        ("views.blur_sigma", min(views.blur_sigma), 0, MAX_BLUR_SIGMA_PX),
        ("views.blur_sigma", max(views.blur_sigma), 0, MAX_BLUR_SIGMA_PX),
        ("views.brightness", views.brightness, 0, 1),
        ("views.contrast", views.contrast, 0, 1),
        ("views.spread", views.spread, 0, 1),
        ("model.projector_hidden", model.projector_hidden, head_low, head_high),
        ("model.projector_out", model.projector_out, head_low, head_high),
        ("model.projector_layers", model.projector_layers, 2 * head_low, head_high),
        ("model.predictor_hidden", model.predictor_hidden, head_low, head_high),
        ("model.trained_stages", model.trained_stages, 1, STAGES),
        ("optim.base_lr", optim.base_lr, 1e-12, 100),
        ("optim.weight_decay", optim.weight_decay, 0, 1),
        ("optim.momentum", optim.momentum, 0, 0.9999),
        ("optim.warmup_epochs", optim.warmup_epochs, 0, math.inf),
        ("teacher.contrast", recipe.teacher.contrast if recipe.teacher else 0, 0, 1000),
        ("teacher.temperature", recipe.teacher.temperature if recipe.teacher else 1, 1e-3, 1000),
        ("target.decay", recipe.target.decay if recipe.target else 0, 0, 1),
        ("epochs", recipe.epochs, 1, math.inf),
        ("global_batch", recipe.global_batch, 2, math.inf),  # BatchNorm of the heads needs two samples
        ("seed", recipe.seed, 0, 2**63 - 1),
    )
    for path, value, low, high in limits:
        if not low <= value <= high:
            bounds = f"at least {low}" if high == math.inf else f"between {low:g} and {high:g}"
            yield f"{path} is {value:g}; it must be {bounds}"


def _wrong_bands(path: str, names: tuple[str, ...], sensor: Sensor) -> Iterator[str]:
    allowed = [band.name for band in BANDS.values() if band.sensor == sensor]
    for name in names:
        if name not in allowed:
            yield f"{path}: {unknown_name('band', name, allowed)}"
    if not names or len(set(names)) != len(names):
        yield f"{path} is {names}; name at least one band, each once"
