"""The STAC item (extension Machine Learning Model) of the model that made the embeddings of a region.

A folder of weights has it in ``stac_mlm.json``. For weights that ship in the package, and for folders without it, it is
made from what is recorded or declared of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_url

from eo_backbones.cards.folder_texts import STAC_FILE, stac_item
from eo_backbones.errors import UserError
from eo_backbones.files import read_json, write_json
from eo_backbones.hub.download import Source, fetch_beside, parse_source, resolve
from eo_backbones.hub.folder import RECIPE_FILE, WEIGHTS_FILE, describe_architecture
from eo_backbones.weights import EMBEDDED_FOLDER, Weights


def write_model_item(path: Path, facts: Mapping[str, Any]) -> None:
    """Write the item, unless it is there already for the same weights.

    Args:
        path: of the item; its folder is made if need be.
        facts: of the region: ``model`` as typed, ``weights_sha256``.
    """
    sha256 = str(facts["weights_sha256"])
    try:
        if sha256 in path.read_text(encoding="utf-8"):
            return
    except (OSError, ValueError):
        pass  # missing or damaged
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, model_item(str(facts["model"]), sha256))


def model_item(model: str, sha256: str) -> dict[str, Any]:
    """Return the item of a model, with complete addresses.

    Args:
        model: as in ``create_model``.
        sha256: of its weights.

    Raises:
        UserError: there is no such model, or nothing declares what it takes.
    """
    source = parse_source(model)
    if source.row is not None:
        return _of_row(source.row, sha256)
    item = _beside_weights(source) or _of_config(model, sha256)
    base = _place(source)
    for asset in item["assets"].values():
        href = str(asset["href"])
        asset["href"] = href if "://" in href else base + href.removeprefix("./")
    return item


def _of_row(row: Weights, sha256: str) -> dict[str, Any]:
    """Return the item of a declared row."""
    record: dict[str, Any] = {
        "recipe": {"name": row.recipe, "method": row.method},
        "recipe_digest": row.recipe_digest,
        "data": {"sources": [{"name": row.data}]},
        "weights_sha256": sha256,
    }
    if row.embedded_path is not None and (row.embedded_path.parent / RECIPE_FILE).is_file():
        record = read_json(row.embedded_path.parent / RECIPE_FILE)
    item = stac_item(
        name=row.name,
        license=row.license,
        input=row.input,
        record=record,
        size_bytes=row.size_bytes,
        network=describe_architecture(row.architecture),
    )
    del item["assets"]["config"]  # the row declares it
    if row.embedded_path is not None:
        inside = row.embedded_path.relative_to(EMBEDDED_FOLDER.parent.parent).as_posix()
        item["assets"]["weights"]["href"] = f"pkg:pypi/eo-backbones#{inside}"  # a package URL: a file in the wheel
    else:
        item["assets"]["weights"]["href"] = hf_hub_url(row.repo_id, WEIGHTS_FILE, revision=row.revision)
    return item


def _beside_weights(source: Source) -> dict[str, Any] | None:
    """Return the item in the folder of the weights, ``None`` if there is none to be had."""
    try:
        path = fetch_beside(source.name, STAC_FILE)
        item = None if path is None else read_json(path)
    except UserError:
        return None
    assets = None if item is None else item.get("assets")
    if not isinstance(assets, dict) or not all(isinstance(one, dict) and "href" in one for one in assets.values()):
        return None
    return item


def _of_config(model: str, sha256: str) -> dict[str, Any]:
    """Return the item of weights of which only ``config.json`` says something."""
    found = resolve(model, with_weights=False)
    contract, path = found.config.input, fetch_beside(model, WEIGHTS_FILE)
    if contract is None or path is None:
        raise UserError(f"{model} declares no input contract, so its STAC item cannot be written")
    return stac_item(
        name=model.rpartition(":")[2].rstrip("/").rpartition("/")[2],
        license=str(found.config.pretrained_cfg.get("license") or "other"),
        input=contract,
        record={"weights_sha256": sha256},
        size_bytes=path.stat().st_size,
        network=describe_architecture(found.config.architecture),
    )


def _place(source: Source) -> str:
    """Return the address of the folder of the weights, with a slash at its end."""
    if source.kind == "local":
        return f"{source.folder.absolute().as_uri()}/"
    return hf_hub_url(source.repo_id, WEIGHTS_FILE, revision=source.revision).removesuffix(WEIGHTS_FILE)
