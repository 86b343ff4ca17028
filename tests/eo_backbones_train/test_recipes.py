"""Recipes: the published ones are locked, the paper's numbers are the paper's, and overrides are typed."""

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from eo_backbones.errors import UserError
from eo_backbones.weights import WEIGHTS
from eo_backbones_train.recipe import Recipe
from eo_backbones_train.recipes import (
    RECIPES,
    describe,
    digest,
    flatten,
    from_dict,
    get_recipe,
    input_spec,
    override,
    smoke,
    to_dict,
)

PUBLISHED = (
    "byol-dfc2020",
    "simsiam-dfc2020",
    "byol-sen12ms-90k",
    "simsiam-sen12ms-90k",
    "byol-full",
    "simsiam-full",
)
MINIS = ("byol-mini", "simsiam-mini", "distill-mini")
FROM_IMAGENET = ("byol-full-imagenet", "simsiam-full-imagenet")  # locked when somebody has weights made by them
# locked as soon as their weights are published (DESIGN 3.8); `publish install` writes the snapshot
LOCKED = (*PUBLISHED, *(row.recipe for row in WEIGHTS.values() if row.published and row.recipe in MINIS))


@pytest.mark.parametrize("name", LOCKED)
def test_a_published_recipe_never_changes(repository: Path, name: str) -> None:
    """Do not update the file: somebody has weights made by this recipe. Add a recipe with a new name."""
    snapshot = json.loads((repository / "tests" / "golden" / "recipes" / f"{name}.json").read_text())
    assert to_dict(get_recipe(name)) == snapshot["recipe"]
    assert digest(get_recipe(name)) == snapshot["digest"]


def test_every_recipe_is_either_locked_or_known_not_to_be() -> None:
    assert (*PUBLISHED, *MINIS, *FROM_IMAGENET) == tuple(RECIPES)


def test_snapshots_are_of_locked_recipes(repository: Path) -> None:
    assert {path.stem for path in (repository / "tests" / "golden" / "recipes").glob("*.json")} == set(LOCKED)


@pytest.mark.parametrize("name", RECIPES)
def test_json_gives_the_recipe_back(name: str) -> None:
    recipe = get_recipe(name)
    assert from_dict(json.loads(json.dumps(to_dict(recipe)))) == recipe
    assert recipe.name == name


@pytest.mark.parametrize(
    ("name", "hidden", "out", "epochs"),
    [
        ("byol-dfc2020", 256, 128, 200),
        ("simsiam-dfc2020", 256, 128, 200),
        ("byol-sen12ms-90k", 4096, 256, 400),
        ("simsiam-sen12ms-90k", 2048, 512, 400),
    ],
)
def test_the_papers_recipes_hold_the_papers_numbers(name: str, hidden: int, out: int, epochs: int) -> None:
    recipe = get_recipe(name)
    model = recipe.model
    assert (model.projector_hidden, model.predictor_hidden, model.projector_out) == (hidden, hidden, out)
    assert model.projector_layers == 2
    assert (recipe.optim.name, recipe.optim.base_lr, recipe.optim.scale_lr) == ("adam", 3e-4, False)
    assert (recipe.global_batch, recipe.epochs, recipe.loss) == (32, epochs, "one-directional")
    assert (recipe.views.brightness, recipe.views.contrast) == (0, 0)
    assert set(recipe.data.s2_bands) == {"B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"}


@pytest.mark.parametrize("row", WEIGHTS.values(), ids=list(WEIGHTS))
def test_each_declared_weight_names_a_recipe_with_its_method_and_input(row) -> None:
    recipe = get_recipe(row.recipe)
    assert recipe.method == row.method
    assert input_spec(recipe) == row.input


def test_the_digest_depends_on_every_field() -> None:
    recipe = get_recipe("byol-mini")
    variants = [
        replace(recipe, seed=1),
        replace(recipe, views=replace(recipe.views, size_px=96)),
        replace(recipe, name="another"),
        override(recipe, ["target.decay=0.98"]),
    ]
    assert len({digest(recipe), *map(digest, variants)}) == 5
    assert all(len(digest(variant)) == 12 for variant in variants)


def test_a_field_that_came_later_is_left_out_where_it_has_its_default() -> None:
    recipe = get_recipe("byol-full")
    assert "s2_s2_share" not in to_dict(recipe)["data"]
    mixed = override(recipe, ["data.s2_s2_share=0.5"])
    assert to_dict(mixed)["data"]["s2_s2_share"] == 0.5
    assert from_dict(to_dict(mixed)) == mixed
    assert from_dict(to_dict(recipe)).data.s2_s2_share == 0


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        get_recipe("byol-mini").epochs = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("optim.base_lr=1e-3", "optim.base_lr", 0.001),
        ("optim.weight_decay=0", "optim.weight_decay", 0.0),
        ("epochs=3", "epochs", 3),
        ("optim.scale_lr=true", "optim.scale_lr", True),
        ("loss=one-directional", "loss", "one-directional"),
        ("model.projector_layers=3", "model.projector_layers", 3),
        ("views.crop_scale=0.3,1", "views.crop_scale", [0.3, 1.0]),
        ("views.crop_scale=(0.3, 1.0)", "views.crop_scale", [0.3, 1.0]),
        ("data.s2_bands=B04,B08", "data.s2_bands", ["B04", "B08"]),
        ("data.s1_bands=VV", "data.s1_bands", ["VV"]),
        ("target.buffers=own", "target.buffers", "own"),
    ],
)
def test_an_override_changes_one_field_and_the_name(setting: str, path: str, value: object) -> None:
    before = get_recipe("byol-mini")
    after = override(before, [setting])
    expected = flatten(before) | {path: value, "name": "byol-mini+modified"}
    assert flatten(after) == expected
    assert type(flatten(after)[path]) is type(value)


def test_a_recipe_is_marked_as_modified_once_and_only_if_something_was_set() -> None:
    recipe = get_recipe("byol-mini")
    assert override(recipe, []) == recipe
    assert override(override(recipe, ["seed=1"]), ["seed=2"]).name == "byol-mini+modified"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.bas_lr=1", "did you mean optim.base_lr"),
        ("epoch=1", "did you mean epochs"),
        ("views=1", "did you mean views."),
        ("epochs", "write it as field=value"),
        ("name=mine", "choose another recipe"),
        ("method=simsiam", "choose another recipe"),
        ("epochs=many", "it must be a whole number"),
        ("epochs=1.5", "it must be a whole number"),
        ("epochs=true", "it must be a whole number"),
        ("optim.base_lr=fast", "it must be a finite number"),
        ("optim.base_lr=NaN", "it must be a finite number"),
        ("optim.scale_lr=yes", "it must be true or false"),
        ("loss=both", "allowed: symmetric, one-directional"),
        ("model.projector_layers=4", "allowed: 0, 2, 3"),
        ("views.crop_scale=0.5", "it must be 2 values"),
        ("views.crop_scale=1,0.5", "smaller value first"),
        ("views.crop_scale=0.5,1.5", "between 0.001 and 1"),
        ("views.size_px=16", "between 32 and 1024"),
        ("views.blur_sigma=0,5", "between 0 and 2"),
        ("data.s2_bands=B04,B99", "unknown band 'B99'"),
        ("data.s2_bands=VV", "unknown band 'VV'"),
        ("data.s1_bands=VV,VV", "each once"),
        ("target.decay=1.1", "between 0 and 1"),
        ("epochs=0", "at least 1"),
        ("global_batch=1", "at least 2"),
        ("seed=-1", "seed is -1"),
    ],
)
def test_a_wrong_override_says_what_is_allowed(setting: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        override(get_recipe("byol-mini"), [setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_simsiam_has_no_target_to_set() -> None:
    with pytest.raises(UserError, match="no moving-average target"):
        override(get_recipe("simsiam-mini"), ["target.decay=0.9"])


def test_method_and_target_must_agree() -> None:
    byol, simsiam = get_recipe("byol-mini"), get_recipe("simsiam-mini")
    with pytest.raises(UserError, match="needs a target"):
        replace(byol, target=None)
    with pytest.raises(UserError, match="has no target"):
        replace(simsiam, target=byol.target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("seed"), "lacks the field seed"),
        (lambda data: data["optim"].pop("momentum"), "lacks the field optim.momentum"),
        (lambda data: data.update(speed=1), "unknown recipe field 'speed'"),
        (lambda data: data.update(views=3), "views is 3; it must be a JSON object"),
    ],
)
def test_a_damaged_file_is_refused_by_field(change, message: str) -> None:
    data = to_dict(get_recipe("byol-mini"))
    change(data)
    with pytest.raises(UserError, match=message):
        from_dict(data)


def test_an_unknown_recipe_shows_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean byol-mini"):
        get_recipe("byol-min")


@pytest.mark.parametrize("name", RECIPES)
def test_smoke_is_small_and_keeps_what_decides_the_code_path(name: str) -> None:
    recipe, small = get_recipe(name), smoke(get_recipe(name))
    assert (small.epochs, small.global_batch, small.views.size_px) == (1, 8, 32)

    def path(value: Recipe) -> tuple[object, ...]:
        return (
            value.method,
            value.loss,
            value.target,
            value.model.projector_layers,
            value.model.batch_norm,
            value.data,
        )

    assert path(small) == path(recipe)


def test_a_row_of_the_table_is_plain_data() -> None:
    row = describe(get_recipe("simsiam-full"))
    assert row["projector"] == "2048-2048-2048"
    assert (row["optimizer"], row["schedule"]) == ("sgd 0.05/256", "cosine")
    assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize("name", ["byol-full", "simsiam-full"])
def test_a_start_from_imagenet_is_the_only_change(name: str) -> None:
    plain, started = flatten(get_recipe(name)), flatten(get_recipe(f"{name}-imagenet"))
    changed = {field for field in plain if plain[field] != started[field]}
    assert changed == {"name", "model.init"}
    assert started["model.init"] == "hf-hub:timm/resnet50.tv_in1k"


@pytest.mark.parametrize("name", PUBLISHED)
def test_later_fields_do_not_appear_where_they_have_their_default(name: str) -> None:
    """So the digest of a published recipe is that of the day when it was published."""
    data = to_dict(get_recipe(name))
    assert "teacher" not in data
    assert not {"architecture", "init", "batch_norm_statistics"} & set(data["model"])
    assert "encoder_sizes_px" not in data["views"]


def test_a_teacher_is_set_by_its_fields() -> None:
    changed = override(get_recipe("distill-mini"), ["teacher.sizes_px=64,96", "views.encoder_sizes_px=64"])
    assert changed.teacher is not None
    assert (changed.teacher.sizes_px, changed.views.encoder_sizes_px) == ((64, 96), (64,))
    assert from_dict(json.loads(json.dumps(to_dict(changed)))) == changed


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("byol-mini", "teacher.sees=view", "byol has no teacher, so teacher.sees cannot be set"),
        ("byol-mini", "loss=to-teacher", "loss is to-teacher, but method byol has none"),
        ("byol-mini", "views.encoder_sizes_px=64", "is for distill; method byol has views.size_px alone"),
        ("distill-mini", "loss=symmetric", "method distill has to-teacher alone"),
        ("distill-mini", "teacher.sizes_px=16", "each of 32 or more"),
        ("distill-mini", "views.encoder_sizes_px=64,96,128", "as many as divide the 32 pairs"),
        ("distill-mini", "target.decay=0.9", "distill has no moving-average target"),
        ("distill-mini", "teacher.sees=sound", "allowed: view, colour"),
    ],
)
def test_fields_of_another_method_are_refused(name: str, setting: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        override(get_recipe(name), [setting])
    assert message in str(caught.value)
