"""The names in the folder of a region.

::

    region.json         what was asked for
    journal.jsonl       one line for each scene that was finished or failed
    failed.csv          the scenes that have no embedding, and why; only if there are any
    components.npz      principal components that all scenes share; only if asked for
    model/stac_mlm.json the model, as a STAC item
    catalog.json        STAC catalogue of the scenes, and collection.json of what they share
    ID/ID.tif           an embedding (.tif, .parquet or .zarr), and its STAC item ID/ID.json
    region.png          all scenes in place; only if asked for
    .parts/, .lock      blocks of scenes that are not finished; held while a command writes
"""

from pathlib import Path
from typing import Literal

RegionFormat = Literal["cog", "parquet", "zarr"]
SUFFIXES: dict[RegionFormat, str] = {"cog": ".tif", "parquet": ".parquet", "zarr": ".zarr"}
"""Format -> suffix of the embeddings."""

REGION_FILE = "region.json"
JOURNAL_FILE = "journal.jsonl"
FAILED_FILE = "failed.csv"
COMPONENTS_FILE = "components.npz"
MODEL_ITEM = "model/stac_mlm.json"
CATALOG_FILE = "catalog.json"
PICTURE_FILE = "region.png"
PARTS_FOLDER = ".parts"
LOCK_FILE = ".lock"


def embedding_path(folder: Path, scene: str, file_format: RegionFormat) -> Path:
    """Return where the embedding of a scene is: ``ID/ID.tif`` and the like."""
    return folder / scene / f"{scene}{SUFFIXES[file_format]}"


def item_path(folder: Path, scene: str) -> Path:
    """Return where the STAC item of a scene is."""
    return folder / scene / f"{scene}.json"
