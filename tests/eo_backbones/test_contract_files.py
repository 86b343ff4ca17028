"""Whatever a field of ``config.json`` or ``recipe.json`` holds, the answer is one line."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from eo_backbones import UserError, create_model, create_transform
from eo_backbones.contract import standardized
from eo_backbones.hub import folder
from eo_backbones.info import info
from eo_backbones.prediction.classify import open_classifier
from support.tiny_encoders import write_tiny_encoder

DELETED = object()
WRONG: tuple[Any, ...] = (None, "x", "", -1, 0, 1.5, True, [], ["x"], [1], {}, {"x": 1}, float("nan"), DELETED)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network of one band and two classes with a contract, and a record beside it."""
    path = tmp_path_factory.mktemp("folder")
    write_tiny_encoder(path, spec=standardized(["B04"]))
    config = json.loads((path / "config.json").read_text())
    config["eo_backbones"]["input"]["processing_levels"] = ["L1C"]
    (path / "config.json").write_text(json.dumps(config))
    (path / "recipe.json").write_text(json.dumps({"name": "tiny", "recipe": {"name": "r"}, "recipe_digest": "d"}))
    return path


def places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field of a JSON value, from the outside inwards."""
    if at:
        yield at
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield from places(data[key], (*at, key))


def changed(data: Any, at: tuple[Any, ...], value: Any) -> Any:
    result = copy.deepcopy(data)
    inner = result
    for key in at[:-1]:
        inner = inner[key]
    if value is DELETED:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return result


def entry_points(name: str) -> dict[str, Callable[[], object]]:
    return {
        "create_model": lambda: create_model(name),
        "create_transform": lambda: create_transform(name, band="B04", unit="dn")(torch.full((4, 4), 500.0)),
        "info": lambda: info(name),
        "predict": lambda: open_classifier(name, device=torch.device("cpu")),
    }


@pytest.mark.parametrize("entry", ["create_model", "create_transform", "info", "predict"])
@pytest.mark.parametrize("file", ["config.json", "recipe.json"])
def test_a_field_of_any_kind_is_read_or_refused_in_one_line(
    classifier: Path, tmp_path: Path, file: str, entry: str
) -> None:
    data = json.loads((classifier / file).read_text())
    for path in classifier.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / file).unlink()
    work = entry_points(f"local-dir:{tmp_path}")[entry]
    for at in places(data):
        for value in WRONG if entry != "create_model" else WRONG[:6]:
            (tmp_path / file).write_text(json.dumps(changed(data, at, value)))
            try:
                work()
            except UserError as error:
                assert "\n" not in str(error), (at, value)
            except Exception as error:
                pytest.fail(f"{entry}: {at} = {value!r}: {type(error).__name__}: {error}")


BAND = ("eo_backbones", "input", "bands", 0)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (("eo_backbones",), None, "eo_backbones is damaged: null is not an object"),
        (("eo_backbones", "input"), None, "the input contract is damaged: null is not an object"),
        (("eo_backbones", "input", "normalization"), "pixel", 'normalization is "pixel", not band or image'),
        (("eo_backbones", "input", "bands"), [], "bands holds no band"),
        (("eo_backbones", "input", "processing_levels"), "L1C", 'processing_levels is "L1C", not a list of texts'),
        ((*BAND, "band"), "B99", "band is 'B99', not one of"),
        ((*BAND, "band"), 4, "band is 4, not a text"),
        ((*BAND, "unit"), "db", 'band B04 is damaged: unit is "db", not reflectance'),
        ((*BAND, "unit"), "kelvin", 'unit is "kelvin", not reflectance'),
        ((*BAND, "std"), 0, "std is 0, not above 0"),
        ((*BAND, "std"), -2.5, "std is -2.5, not above 0"),
        ((*BAND, "std"), float("nan"), "std is NaN, not a finite number"),
        ((*BAND, "mean"), None, "mean is null, not a finite number"),
        ((*BAND, "mean"), "0.1", 'mean is "0.1", not a finite number'),
        ((*BAND, "clip"), [1, 0], r"clip is \[1, 0\], not the lower number first"),
        ((*BAND, "clip"), [0, 0.5, 1], "clip is .*, not a list of two numbers"),
        ((*BAND, "display"), [0.3, 0.0], r"display is \[0.3, 0.0\], not the lower number first"),
        (("eo_backbones", "classes"), "Water", 'classes is "Water", not a list of texts'),
        (("eo_backbones", "classes"), [1, 2], "not a list of texts"),
        (("eo_backbones", "classes"), ["Water", "Water"], 'classes holds "Water" twice'),
        (("eo_backbones", "classes"), ["Water"], "classes holds 1 names, num_classes is 0"),
        (("eo_backbones", "reading"), [], r"reading is \[\], not an object"),
        (("eo_backbones", "segmentation"), None, "segmentation is null, not an object"),
        (("pretrained_cfg",), None, "pretrained_cfg is null, not an object"),
        (("pretrained_cfg", "input_size"), "64", "input_size is '64', not channels, height and width"),
        (("pretrained_cfg", "input_size"), [1, 64], "input_size is .*, not channels, height and width"),
        (("num_classes",), 7, "num_classes is .* in one place and .* in another|num_classes"),
        (("num_classes",), "none", 'num_classes is "none", not an integer of 0 or more'),
    ],
)
def test_what_a_field_cannot_mean_is_named(
    classifier: Path, tmp_path: Path, at: tuple[Any, ...], value: Any, message: str
) -> None:
    data = json.loads((classifier / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(changed(data, at, value)))
    with pytest.raises(UserError, match=message) as refused:
        folder.read_config(tmp_path / "config.json")
    assert str(refused.value).startswith(str(tmp_path / "config.json"))


def test_one_band_twice(classifier: Path, tmp_path: Path) -> None:
    data = json.loads((classifier / "config.json").read_text())
    data["eo_backbones"]["input"]["bands"].append(data["eo_backbones"]["input"]["bands"][0] | {"mean": 0.5})
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="bands holds one band twice"):
        folder.read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", ["a"], r"name is \[\"a\"\], not a text"),
        ("recipe", "byol", 'recipe is "byol", not an object'),
        ("weights_sha256", 5, "weights_sha256 is 5, not 64 hexadecimal digits"),
        ("recipe_digest", 1, "recipe_digest is 1, not a text"),
    ],
)
def test_a_record_is_checked(tmp_path: Path, field: str, value: object, message: str) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({field: value}))
    with pytest.raises(UserError, match=message):
        folder.recorded_digest(tmp_path)
