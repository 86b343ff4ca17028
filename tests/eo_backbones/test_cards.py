"""Cards, result tables and STAC items say what contract, record and result rows say, in the form the Hub reads."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from eo_backbones.cards import CardFacts, folder_texts, model_card
from eo_backbones.cards.folder_texts import hub_results, stac_item
from eo_backbones.contract import InputSpec, standardized, unit_range
from eo_backbones.errors import UserError
from eo_backbones.hub.folder import describe_architecture
from eo_backbones.results import Result
from eo_backbones.weights import WEIGHTS, Weights
from support.result_rows import result as result_row

SHA256 = "0123456789abcdef" * 4


def record(**changes: Any) -> dict[str, Any]:
    """A record as ``eo-train export`` writes it, with made-up values."""
    return {
        "name": "byol-toy run",
        "recipe": {
            "name": "byol-toy",
            "method": "byol",
            "loss": "symmetric",
            "epochs": 7,
            "seed": 3,
            "views": {"size_px": 64, "crop_scale": [0.25, 1.0]},
        },
        "recipe_digest": "aaaabbbbcccc",
        "weights_sha256": SHA256,
        "dtype": "fp32",
        "network": "online",
        "seed": 3,
        "steps": 1234,
        "finished": True,
        "data": {
            "manifest_digest": "ddddeeee",
            "sources": [
                {"name": "floods", "layout": "pairs", "scenes": 1650, "units": {"VV": "uint8"}, "subset": None},
                {"name": "tiles", "layout": "sen12ms", "scenes": 5, "units": {"B4": "dn", "VV": "db"}, "subset": None},
            ],
        },
        "machine": {"precision": "bf16", "world_size": 2, "device_name": "Toy GPU"},
        "versions": {"python": "3.11.7", "torch": "2.15.0+cu126", "timm": "1.0.31"},
        "git_commit": "f" * 40,
    } | changes


def facts(**changes: Any) -> CardFacts:
    return replace(CardFacts(name="byol-toy run", input=standardized(("B04", "VV")), record=record()), **changes)


def result(**changes: object) -> Result:
    """A made-up row of results.csv."""
    toy: dict[str, object] = {
        "model": "local-dir:/somewhere/toy", "dataset": "eurosat-ms", "fraction": "1.0", "n_train": 16200,
        "n_test": 5400, "f1_weighted": 0.8, "accuracy": 0.81, "f1_low": 0.78, "f1_high": 0.82,
        "weights_digest": SHA256[:16],
    }  # fmt: skip
    return result_row(**toy | changes)


def sections(card: str) -> list[str]:
    return re.findall(r"^## (.+)$", card, flags=re.MULTILINE)


def table_row(card: str, first: str) -> list[str]:
    """Cells of the only table row that begins with ``first``."""
    rows = [line for line in card.splitlines() if line.startswith(f"| {first} |")]
    assert len(rows) == 1, rows
    return [cell.strip() for cell in rows[0].strip("|").split("|")]


def test_front_matter_is_what_the_hub_reads() -> None:
    data = ModelCard(model_card(facts())).data.to_dict()
    assert data == {
        "license": "other",
        "license_name": "see-licence-section",
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["timm", "earth-observation", "remote-sensing", "sentinel-1", "sentinel-2", "self-supervised", "byol"],
    }  # fmt: skip


def test_a_standard_licence_has_no_other_name() -> None:
    data = ModelCard(model_card(facts(license="cc-by-4.0"))).data
    assert data.license == "cc-by-4.0"
    assert "license_name" not in data.to_dict()


def test_every_section_is_there_in_order() -> None:
    assert sections(model_card(facts())) == [
        "How to load it", "Input", "Training", "Results", "Limits", "Licence and attribution", "Citation",
    ]  # fmt: skip


def test_the_contract_is_shown_per_band_in_native_units() -> None:
    """Figures from the DFC2020 statistics: B04 810.86 and 476.77 digital numbers, VV -13.9458 and 4.3292 dB."""
    card = model_card(facts())
    assert table_row(card, "B04") == [
        "B04", "664.6 nm", "10 m", "reflectance", "0 … 1", "0.081086", "0.047677", "0 … 0.275",
    ]  # fmt: skip
    assert table_row(card, "VV") == ["VV", "5.5 cm", "10 m", "dB", "-40 … 10", "-13.9458", "4.3292", "-25 … 0"]


def test_image_normalisation_shows_no_fixed_figures() -> None:
    card = model_card(facts(input=replace(unit_range(("B04",)), normalization="image")))
    assert "each image is standardised by its own mean and standard deviation" in card
    assert table_row(card, "B04") == ["B04", "664.6 nm", "10 m", "reflectance", "0 … 1", "0 … 0.275"]


def test_training_names_recipe_data_seed_and_versions() -> None:
    card = model_card(facts())
    assert table_row(card, "recipe")[1] == "`byol-toy`, digest `aaaabbbbcccc`"
    assert table_row(card, "seed")[1] == "3"
    assert table_row(card, "steps")[1] == "1,234"
    assert table_row(card, "versions")[1] == "python 3.11.7, torch 2.15.0+cu126, timm 1.0.31"
    assert table_row(card, "floods") == ["floods", "pairs", "1,650", "uint8"]
    assert table_row(card, "tiles") == ["tiles", "sen12ms", "5", "db, dn"]
    assert table_row(card, "`views.crop_scale`")[1] == "`0.25, 1.0`"


def test_an_unfinished_run_says_so() -> None:
    assert "Unfinished" not in model_card(facts())
    card = model_card(facts(record=record(finished=False)))
    assert "**Unfinished.** Training had completed 1,234 steps" in card
    assert "the recipe asks for 7 epochs" in card


@pytest.mark.parametrize(
    ("method", "text"),
    [("byol", "the target network (a moving average"), ("simsiam", "the projector and the predictor were needed")],
)
def test_the_card_says_which_networks_are_not_included(method: str, text: str) -> None:
    card = model_card(facts(record=record(recipe=record()["recipe"] | {"method": method})))
    assert text in card
    assert ("target network" in card) == (method == "byol")


def test_one_directional_byol_admits_that_the_encoder_saw_one_sensor() -> None:
    recipe = record()["recipe"] | {"loss": "one-directional"}
    sentence = "this encoder was trained on Sentinel-2 bands only"
    assert sentence in model_card(facts(record=record(recipe=recipe)))
    assert sentence not in model_card(facts(record=record(recipe=recipe | {"method": "simsiam"})))
    assert sentence not in model_card(facts())


def test_without_results_there_is_no_number_but_the_command() -> None:
    card = model_card(facts())
    measured = card.split("## Results")[1].split("## Limits")[0]
    assert measured.startswith("\n\nNot measured yet.")
    assert "eo-backbones evaluate --dataset eurosat-ms --root DIR --models local-dir:FOLDER random stats" in measured
    assert "--bands B04 --protocol" in measured
    assert not re.search(r"\d\.\d", measured)
    assert "model-index" not in card


def test_results_become_a_table_of_bands_by_models() -> None:
    rows = [
        result(seed=0, f1_weighted=0.80, f1_low=0.78, f1_high=0.82),
        result(seed=1, f1_weighted=0.84, f1_low=0.82, f1_high=0.86),
        result(model="random", weights_digest="", f1_weighted=0.5, f1_low=0.48, f1_high=0.52),
        result(band="VV", f1_weighted=0.6, f1_low=0.58, f1_high=0.62),
    ]
    card = model_card(facts(), rows)
    measured = card.split("## Results")[1].split("## Limits")[0].splitlines()
    assert "| band | byol-toy run | random |" in measured
    assert "| B04 | 0.820 [0.800, 0.840] | 0.500 [0.480, 0.520] |" in measured
    assert "| VV | 0.600 [0.580, 0.620] |  |" in measured
    assert "Fraction 1.0 of the training part (16200 images), 5400 test images, 64 px, 1 to 2 seeds." in measured
    assert (
        "eo-backbones evaluate --dataset eurosat-ms --root DIR --models local-dir:FOLDER random --bands B04 VV "
        "--protocol logistic --split seeded --fraction 1.0 --seeds 2 --size 64 --out RESULTS"
    ) in measured
    assert "/somewhere" not in card, "a path of the machine that measured"


def test_model_index_has_one_entry_per_band_and_no_baselines() -> None:
    rows = [
        result(),
        result(protocol="knn", f1_weighted=0.7),
        result(band="VV", f1_weighted=0.6),
        result(model="random", weights_digest=""),
    ]
    data = ModelCard(model_card(facts(), rows)).data.to_dict()
    (model,) = data["model-index"]
    assert model["name"] == "byol-toy run"
    assert [entry["dataset"]["config"] for entry in model["results"]] == ["B04", "VV"]
    red, radar = model["results"]
    assert red["task"]["type"] == "image-classification"
    assert red["dataset"] == {"name": "eurosat-ms", "type": "eurosat-ms", "config": "B04", "split": "test"}
    assert [metric["value"] for metric in red["metrics"]] == [0.8, 0.7]
    assert red["metrics"][0]["type"] == "f1"
    assert red["metrics"][0]["args"]["interval"] == [0.78, 0.82]
    assert [metric["value"] for metric in radar["metrics"]] == [0.6]


def test_baselines_of_several_scalings_are_several_columns() -> None:
    rows = [
        result(model="imagenet", weights_digest="i", input_scaling=scaling, f1_weighted=f1, f1_low=f1, f1_high=f1)
        for scaling, f1 in (("div10000", 0.3), ("standardised", 0.4))
    ]
    card = model_card(facts(), [result(), *rows])
    assert "| band | byol-toy run | imagenet, div10000 | imagenet, standardised |" in card
    assert "| B04 | 0.800 [0.780, 0.820] | 0.300 [0.300, 0.300] | 0.400 [0.400, 0.400] |" in card
    assert "not measured here" not in card
    assert "add `imagenet` to `--models`" in model_card(facts(), [result()])


def test_shots_and_neighbours_are_written_as_they_are_typed() -> None:
    rows = [result(protocol="knn"), result(protocol="knn-20"), result(fraction="5-shot")]
    card = model_card(facts(), rows)
    assert "--protocol knn --split seeded --fraction 1.0 --seeds 1" in card
    assert "--protocol logistic --split seeded --shots 5 --seeds 1" in card


def mini(**changes: Any) -> CardFacts:
    recipe = record()["recipe"] | {"data": {"sources": "s1s2-mini"}}
    return facts(record=record(recipe=recipe), **changes)


def test_a_missed_aim_is_in_the_first_lines() -> None:
    rows = [
        result(band="VV", f1_weighted=0.81),
        result(model="imagenet", band="VV", weights_digest="i", input_scaling="div10000", f1_weighted=0.80),
    ]
    row = replace(WEIGHTS["eo_resnet50.byol_s1s2_mini"], shortfall="Its radar is 8-bit.")
    card = model_card(mini(row=row), rows)
    first = card.split("\n---\n")[1].strip().splitlines()[2]
    assert first == (
        "> **Below its aim.** VV at 64 px, protocol `logistic`: 0.810, +1.0 points against the best baseline "
        "(imagenet, div10000, 0.800), where 3 were the aim. Its radar is 8-bit."
    )
    assert "Below its aim" not in model_card(mini(), [result(band="VV", f1_weighted=0.83), rows[1]])


@pytest.mark.parametrize(
    ("f1", "low", "verdict"),
    [
        (0.75, 0.73, "It is met in every comparison."),
        (0.69, 0.67, "It is **not met** in 1 of 1 comparisons."),  # 9 points
        (0.75, 0.61, "It is **not met** in 1 of 1 comparisons."),  # intervals touch
    ],
)
def test_the_criterion_is_computed_from_the_results(f1: float, low: float, verdict: str) -> None:
    """10 points above the best baseline, 0.60 [0.58, 0.62], not above the other one."""
    rows = [
        result(f1_weighted=f1, f1_low=low, f1_high=0.80),
        result(protocol="knn", f1_weighted=0.1),
        result(model="random", weights_digest="r", f1_weighted=0.50, f1_low=0.48, f1_high=0.52),
        result(model="stats", weights_digest="s", f1_weighted=0.60, f1_low=0.58, f1_high=0.62),
        result(model="raw", weights_digest="p", f1_weighted=0.95),
    ]
    card = model_card(mini(), rows)
    assert f"{verdict} Not measured, and therefore not compared: `random-bn`." in card
    assert "| stats 0.600 [0.580, 0.620] |" in card
    assert "criterion" not in model_card(facts(), rows), "weights from large data have no such criterion"


def test_stages_that_were_not_trained_are_told() -> None:
    model = record()["recipe"].get("model", {}) | {"trained_stages": 2}
    card = model_card(facts(record=record(recipe=record()["recipe"] | {"model": model})), [result()])
    assert "- Of the four stages of the network, 3 and 4 were not trained" in card
    assert "were not trained" not in model_card(facts(), [result()])


def test_what_training_brought_is_told_apart_from_the_initialisation() -> None:
    rows = [
        result(f1_weighted=0.75, f1_low=0.73, f1_high=0.77),
        result(model="stats", weights_digest="s", f1_weighted=0.60, f1_low=0.58, f1_high=0.62),
    ]
    assert "is due to training" not in model_card(mini(), rows)
    untrained = result(model="random-averaging", weights_digest="a", f1_weighted=0.70, f1_low=0.68, f1_high=0.72)
    card = model_card(mini(), [*rows, untrained])
    assert "0.750 [0.730, 0.770] | 0.700 [0.680, 0.720] | +5.0 |" in card
    assert "| stats 0.600 [0.580, 0.620] | +15.0 | yes |" in card, "not a baseline of the criterion"


def test_hub_results_are_read_back_by_the_client() -> None:
    rows = [result(seed=0), result(seed=1, f1_weighted=0.9), result(dataset="my-fields")]
    (name, text), = hub_results(rows).items()  # fmt: skip
    assert name == ".eval_results/eurosat-ms.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("torchgeo/eurosat", "B04_logistic_1.0", 0.85)
    assert "band B04 alone; 64 px, split seeded, 16200 training and 5400 test images, mean of 2 seeds" in entry.notes


def test_results_of_other_weights_are_refused() -> None:
    with pytest.raises(UserError, match=r"measured with weights ffff, not with 0123456789ab…; evaluate these weights"):
        model_card(facts(), [result(model="byol-toy run", weights_digest="ffff")])


def test_a_published_row_is_loaded_by_name_on_every_route() -> None:
    row = replace(WEIGHTS["eo_resnet50.byol_sen12ms_90k"], sha256=SHA256, revision="a" * 40)
    card = model_card(facts(name=row.name, row=row, license=row.license))
    assert f'eo_backbones.create_model("{row.name}")' in card
    assert f'timm.create_model("{row.name}", pretrained=True)' in card
    assert f'timm.create_model("hf-hub:{row.repo_id}", pretrained=True)' in card
    assert '"byol_resnet50", weights="sen12ms_90k"' in card
    assert "local-dir:" not in card


def test_a_row_of_another_family_says_what_it_is_and_what_it_started_from() -> None:
    row = Weights(
        name="eo_efficientnet_lite0.distill_toy", method="distill", data="made-up images", recipe="distill-mini",
        input=standardized(("B04", "VV")), license="other", data_license="other", num_features=1280,
        architecture="tf_efficientnet_lite0", init="ImageNet EfficientNet-Lite0 (Google, Apache-2.0)", sha256=SHA256,
    )  # fmt: skip
    sources = [{"name": name, "layout": "pairs", "scenes": 901, "units": {"VV": "uint8"}, "subset": None}
               for name in ("ombria", "sen12_five_pretrain")]  # fmt: skip
    recipe = record()["recipe"] | {"method": "distill", "model": {"architecture": row.architecture}}
    data = {"manifest_digest": "ddddeeee", "sources": sources}
    known = facts(name=row.name, row=row, license="other", record=record(recipe=recipe, data=data))
    texts = folder_texts(known, size_bytes=7_000_000)
    for text in (
        "An EfficientNet-Lite0 encoder", "1,280 features", "-> (1, 1280)",
        f"It started from {row.init}. Whatever labels", "are part of what it knows. The frozen",
        '"distill_efficientnet_lite0", weights="toy"', "names of timm's `tf_efficientnet_lite0`",
        "Two sources of the training images state no licence", f"Training started from {row.init}.",
    ):  # fmt: skip
        assert text in texts["README.md"], text
    assert f"Training started from {row.init}." in texts["LICENSE"]
    item = json.loads(texts["stac_mlm.json"])
    assert item["properties"]["mlm:architecture"] == "EfficientNet"
    assert item["properties"]["mlm:output"][0]["result"]["shape"] == [-1, 1280]
    assert json.loads(texts["config.json"])["architecture"] == row.architecture


def test_an_unpublished_row_is_loaded_from_its_folder() -> None:
    row = WEIGHTS["eo_resnet50.byol_sen12ms_90k"]
    assert not row.published
    card = model_card(facts(name=row.name, row=row, license=row.license))
    assert card.count('create_model("local-dir:FOLDER"') == 2
    assert "torch.hub" not in card


def item(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "name": "byol-toy+modified run", "license": "other", "input": standardized(("B04", "VV")), "record": record(),
        "size_bytes": 94_000_000, "network": describe_architecture("resnet50"),
    }  # fmt: skip
    made: dict[str, Any] = json.loads(json.dumps(stac_item(**arguments | changes)))
    return made


def test_stac_item_has_the_fields_that_stac_requires() -> None:
    """STAC 1.1 item specification: these keys; a null geometry has no bbox; a null datetime has a range."""
    made = item()
    assert {"type", "stac_version", "id", "geometry", "properties", "links", "assets", "stac_extensions"} == made.keys()
    assert (made["type"], made["stac_version"], made["geometry"]) == ("Feature", "1.1.0", None)
    assert made["properties"]["datetime"] is None
    assert {"start_datetime", "end_datetime"} < made["properties"].keys()
    assert "https://stac-extensions.github.io/mlm/v1.6.0/schema.json" in made["stac_extensions"]


def test_stac_item_has_the_fields_that_mlm_requires() -> None:
    """stac-extensions/mlm v1.6.0, json-schema: mlmItemFields, ModelInput, ModelOutput, AssetModelRole."""
    properties = item()["properties"]
    assert {"mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"} < properties.keys()
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", properties["mlm:name"])
    assert re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", properties["mlm:framework_version"])
    assert set(properties["mlm:tasks"]) <= {"similarity-search", "scene-classification"}  # of the closed list
    assert properties["mlm:total_parameters"] == 23_501_760
    assert not {"mlm:artifact_type", "mlm:compile_method", "mlm:entrypoint"} & properties.keys(), "of assets only"
    for entry in properties["mlm:input"]:
        assert {"name", "input", "bands"} <= entry.keys()
        assert entry["input"] == {
            "shape": [-1, 1, -1, -1], "dim_order": ["batch", "bands", "height", "width"], "data_type": "float32",
        }  # fmt: skip
    (output,) = properties["mlm:output"]
    assert {"name", "tasks", "result"} <= output.keys()
    assert output["result"] == {"shape": [-1, 2048], "dim_order": ["batch", "embedding"], "data_type": "float32"}


def test_stac_inputs_carry_clip_and_scaling_of_each_band() -> None:
    red, radar = item()["properties"]["mlm:input"]
    assert red["bands"] == [{"name": "B04", "format": "gdal-calc", "expression": "clip(A, 0.0, 1.0)"}]
    assert red["value_scaling"] == [
        {"type": "z-score", "mean": pytest.approx(0.081086), "stddev": pytest.approx(0.047677)}
    ]
    assert radar["bands"][0]["expression"] == "clip(A, -40.0, 10.0)"
    assert radar["value_scaling"] == [{"type": "z-score", "mean": -13.9458, "stddev": 4.3292}]
    bands = {band["name"]: band for band in item()["properties"]["bands"]}
    assert (bands["B04"]["unit"], bands["VV"]["unit"], bands["B04"]["gsd"]) == ("1", "dB", 10)
    assert bands["B04"]["eo:center_wavelength"] == pytest.approx(0.6646)


def test_stac_scaling_by_image_is_an_expression() -> None:
    contract: InputSpec = replace(unit_range(("B04",)), normalization="image")
    (entry,) = item(input=contract)["properties"]["mlm:input"]
    assert entry["value_scaling"] == [
        {"type": "processing", "format": "gdal-calc", "expression": "(A - mean(A)) / std(A)"}
    ]


def test_stac_assets_have_the_roles_that_mlm_requires() -> None:
    assets = item()["assets"]
    models = [asset for asset in assets.values() if "mlm:model" in asset["roles"]]
    assert [asset["href"] for asset in models] == ["./model.safetensors"]
    assert models[0]["mlm:artifact_type"] == "safetensors.torch.save_file"
    assert "mlm:weights" in models[0]["roles"]
    assert models[0]["file:checksum"] == "1220" + SHA256
    assert all("mlm:artifact_type" not in asset for asset in assets.values() if asset is not models[0])
    assert {"code", "mlm:source_code"} <= set(assets["source_code"]["roles"])
    assert assets["source_code"]["mlm:entrypoint"] == "timm.models.resnet:resnet50"


@pytest.mark.parametrize("known", [True, False])
def test_what_a_card_says_of_its_images_follows_from_what_was_recorded(known: bool) -> None:
    """OMBRIA and the patches as ``eo-train prepare`` stores them; or twelve pairs in a folder of that name."""
    counts = {"ombria": 1650 if known else 12, "multiband_pairs": 66, "sen12ms_layout": 5}
    sources = [
        {
            "name": name,
            "layout": "sen12ms" if name == "sen12ms_layout" else "pairs",
            "scenes": scenes,
            "units": {"VV": "db"},
            "subset": None,
        }
        for name, scenes in counts.items()
    ]
    recipe = record()["recipe"] | {"data": {"sources": "s1s2-mini"}}
    made = facts(record=record(recipe=recipe, data={"manifest_digest": "d", "sources": sources}))
    card = model_card(made)
    assert made.as_planned is known
    assert ("1,650 of OMBRIA: locations of floods" in card) is known
    assert ("OMBRIA" in card) is known
    assert ("which is very little" in card) is known
    assert ("- 12 of `ombria`." in card) is not known
    assert "- 66 of patches of SEN12MS-CR, BigEarthNet and TerraMesh:" in card
    assert (
        f"Trained on {sum(counts.values()):,} pairs{' of Sentinel-1 and Sentinel-2' if known else ''} images:" in card
    )
    assert ("As far as the training images come from Sentinel-1 or Sentinel-2: Contains modified" in card) is not known
    assert "Contains modified Copernicus Sentinel data." in card


def test_a_recipe_of_unknown_sources_or_method_is_refused_in_one_line() -> None:
    recipe = record()["recipe"] | {"data": {"sources": "sen12ms"}}
    planned = {"name": "byol-full", "recipe": recipe, "recipe_digest": "a"}
    with pytest.raises(UserError, match=r"data\.sources 'sen12ms' names no known sources; say in .* which"):
        model_card(facts(record=planned))
    with pytest.raises(UserError, match="method 'moco' is not described"):
        model_card(facts(record=record(recipe=record()["recipe"] | {"method": "moco"})))
