"""Embeddings of many scenes in a folder, checked to be comparable: same network, bands, windows and components.

The folder is one that ``eo-backbones embed ... --out FOLDER`` wrote, or any folder of embeddings that single runs wrote
with the same model and, where they hold components, with the same ones (``--components-from``). Each file says itself
what it holds, so nothing else in the folder is needed; other rasters and tables in it are passed over.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from eo_backbones.errors import UserError
from eo_backbones.files import UNFINISHED
from eo_backbones.regions.layout import PARTS_FOLDER
from eo_backbones.scenes.embedding_file import EmbeddingFile, find_embedding

_SUFFIXES, _STORE_SUFFIX = (".tif", ".tiff", ".parquet"), ".zarr"
_COMMON: Mapping[str, str] = {
    "weights_sha256": "weights",
    "bands": "bands",
    "fuse": "--fuse",
    "size": "--size",
    "components": "components",
}
"""Facts that all files of a region share -> what a message calls them."""
_STATED = ("model", "weights_sha256", "bands", "units", "fuse", "size", "stride")
_FITTED = ("components_sha256", "explained")
"""Facts that tell one fit of components from another, the first that both files have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedScene(EmbeddingFile):
    """One scene of a region: an :class:`~eo_backbones.scenes.embedding_file.EmbeddingFile` with its name and date.

    Attributes:
        id: differs from that of all other scenes; the name of the file where the file does not state one.
        datetime: when the image was taken, RFC 3339 in UTC; ``None`` where nothing says so.
        cloud_cover: percent of the scene; ``None`` where nothing says so.
    """

    id: str
    datetime: str | None
    cloud_cover: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedRegion:
    """The scenes of a region, and what they have in common.

    Attributes:
        folder: where they lie.
        scenes: by their name.
        facts: ``model``, ``weights_sha256``, ``bands``, ``fuse``, ``size``, and with components ``components`` and
            ``explained``.
        features: values per cell.
    """

    folder: Path
    scenes: tuple[EmbeddedScene, ...]
    facts: Mapping[str, Any]
    features: int

    @property
    def unfinished(self) -> bool:
        """Whether a run over this folder goes on or was killed, so that scenes may be missing."""
        return (self.folder / PARTS_FOLDER).is_dir()


def open_region(folder: Path) -> EmbeddedRegion:
    """Return the scenes in a folder, after checking that their cells can be compared; values are read later.

    Args:
        folder: as the module says, searched with its sub-folders; or a single file of embeddings.

    Raises:
        UserError: no embeddings, two of different kinds, the same scene twice, or a damaged file.
    """
    if not folder.exists():
        raise UserError(f"no folder {folder}; pass one that eo-backbones embed SCENE... --out {folder} has written")
    found = [file for path in _candidates(folder) if (file := find_embedding(path)) is not None]
    if not found:
        raise UserError(f"{folder} holds no embeddings; make some with eo-backbones embed SCENE... --out {folder}")
    by_id: dict[str, EmbeddedScene] = {}
    for scene in map(_scene, found):
        if scene.id in by_id:
            raise UserError(
                f"{folder} holds scene {scene.id} twice: {by_id[scene.id].path} and {scene.path}; move one of them away"
            )
        by_id[scene.id] = scene
        refuse_other_kind(found[0], scene)
    names = ("model", *_COMMON, "explained", "features", "components_sha256")
    return EmbeddedRegion(
        folder=folder,
        scenes=tuple(by_id[name] for name in sorted(by_id)),
        facts={name: found[0].facts[name] for name in names if found[0].facts.get(name) is not None},
        features=found[0].features,
    )


def refuse_other_kind(one: EmbeddingFile, other: EmbeddingFile) -> None:
    """Check that cells of two files can be compared.

    Raises:
        UserError: other weights, bands, fusion, size of the windows or components.
    """
    for name, shown in _COMMON.items():
        first, second = one.facts.get(name), other.facts.get(name)
        if first != second:
            if name == "weights_sha256" and one.facts.get("model") != other.facts.get("model"):
                raise _different(one, other, "--model", (one.facts.get("model"), other.facts.get("model")))
            raise _different(one, other, shown, (first, second))
    stated = next((name for name in _FITTED if one.facts.get(name) and other.facts.get(name)), None)
    if stated is not None and one.facts[stated] != other.facts[stated]:
        raise UserError(
            f"{one.path} and {other.path} cannot be compared: each has components of its own; embed the second with "
            "--components-from the .components.npz of the first"
        )
    if one.features != other.features:
        raise _different(one, other, "values per cell", (one.features, other.features))


def _different(one: EmbeddingFile, other: EmbeddingFile, what: str, seen: tuple[Any, Any]) -> UserError:
    first, second = map(shown_value, seen)
    return UserError(
        f"{one.path} and {other.path} cannot be compared: other {what} ({first} and {second}); keep embeddings of one "
        "kind in a folder"
    )


def shown_value(value: Any) -> str:
    """Return a setting as messages show it, shortened."""
    if value is None or value == []:
        return "none"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _scene(file: EmbeddingFile) -> EmbeddedScene:
    lacking = [name for name in _STATED if name not in file.facts]
    if lacking:
        raise UserError(
            f"{file.path} does not say of which {lacking[0]} it is; embed the scene again with this version"
        )
    stated = {field.name: getattr(file, field.name) for field in fields(EmbeddingFile)}
    return EmbeddedScene(
        **stated,
        id=file.facts.get("scene_id") or file.path.stem,
        datetime=file.facts.get("datetime"),
        cloud_cover=file.facts.get("cloud_cover"),
    )


def _candidates(folder: Path) -> Iterator[Path]:
    """Yield the files that may be embeddings, in a fixed order."""
    if not folder.is_dir() or folder.name.endswith(_STORE_SUFFIX):
        yield folder
        return
    for above, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".part"))
        stores = [name for name in folders if name.endswith(_STORE_SUFFIX)]
        folders[:] = [name for name in folders if name not in stores]
        yield from (Path(above) / name for name in stores)
        for name in sorted(files):
            if name.lower().endswith(_SUFFIXES) and not name.startswith((UNFINISHED, ".")):
                yield Path(above) / name
