"""What a folder was begun with (``region.json``), and who writes into it now."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from eo_backbones.errors import UserError
from eo_backbones.files import read_json, write_atomically
from eo_backbones.progress import Progress
from eo_backbones.regions.catalog import COLLECTION_FILE
from eo_backbones.regions.folder import shown_value
from eo_backbones.regions.layout import (
    CATALOG_FILE,
    COMPONENTS_FILE,
    FAILED_FILE,
    JOURNAL_FILE,
    LOCK_FILE,
    MODEL_ITEM,
    PARTS_FOLDER,
    PICTURE_FILE,
    REGION_FILE,
    SUFFIXES,
    embedding_path,
    item_path,
)
from eo_backbones.regions.request import RegionRequest

logger = logging.getLogger(__name__)

_FORMAT_VERSION = 1
_OPTIONS = {
    "weights_sha256": "--model",
    "bands": "--bands",
    "units": "--unit",
    "scale": "--scale",
    "offset": "--offset",
    "nodata": "--nodata",
    "fuse": "--fuse",
    "size": "--size",
    "stride": "--stride",
    "max_nodata": "--max-nodata",
    "components": "--components",
    "components_from": "--components-from",
    "dtype": "--dtype",
    "format": "--format",
    "geometry": "--geometry",
    "features": "input contract of the model",
}
"""What decides the values -> what a message calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a folder was begun with: the content of ``region.json``.

    Attributes:
        decisive: see :meth:`RegionRequest.decisive`.
        model: as it was typed.
        number_format: dtype of the network's computation.
        whole: whether a run reached its end.
    """

    decisive: Mapping[str, Any]
    model: str
    number_format: torch.dtype
    whole: bool = False

    def write(self, folder: Path) -> None:
        """Write the file."""
        content = {
            "format_version": _FORMAT_VERSION,
            "version": version("eo-backbones"),
            "model": self.model,
            "number_format": str(self.number_format).removeprefix("torch."),
            "whole": self.whole,
            "settings": dict(self.decisive),
        }
        write_atomically(folder / REGION_FILE, json.dumps(content, indent=2) + "\n", sync=True)

    @classmethod
    def read(cls, folder: Path) -> "Settled | None":
        """Return what a folder was begun with; ``None``: nothing yet.

        Raises:
            UserError: the file is damaged, or of a later version.
        """
        path = folder / REGION_FILE
        if not path.is_file():
            return None
        content = read_json(path, kind="region of eo-backbones embed")
        found = content.get("format_version")
        if found != _FORMAT_VERSION:
            raise UserError(f"{path} has format version {found}, this program reads {_FORMAT_VERSION}; update it")
        settings, model = content.get("settings"), content.get("model")
        number_format = getattr(torch, str(content.get("number_format")), None)
        if not isinstance(settings, dict) or not isinstance(model, str) or not isinstance(number_format, torch.dtype):
            raise UserError(f"{path} is damaged; delete the folder and start again, or name another one with --out")
        return cls(decisive=settings, model=model, number_format=number_format, whole=content.get("whole") is True)

    def differences(self, decisive: Mapping[str, Any]) -> list[str]:
        """Return what differs from other settings, for people: ``--size (64 there, 32 now)``."""
        return [
            f"{shown} ({shown_value(self.decisive.get(name))} there, {shown_value(decisive.get(name))} now)"
            for name, shown in _OPTIONS.items()
            if self.decisive.get(name) != decisive.get(name)
        ]


def settle(
    request: RegionRequest, decisive: Mapping[str, Any], number_format: torch.dtype, progress: Progress
) -> Settled:
    """Return what the folder was begun with, after beginning it where need be.

    With ``overwrite`` a folder of other settings, or one whose run reached its end, is begun anew; a run that did not
    reach its end goes on, so that the same command can be repeated until it does.

    Args:
        request: names the folder.
        decisive: of :meth:`eo_backbones.regions.request.RegionRequest.decisive`.
        number_format: dtype in which the network would compute now; that of the beginning is kept.
        progress: is told what holds.

    Raises:
        UserError: it was begun with other settings.
    """
    folder = request.out
    found = Settled.read(folder)
    if found is not None:
        differences = found.differences(decisive)
        if request.overwrite and (differences or found.whole):
            clear(folder)
            found = None
        elif differences:
            raise UserError(
                f"{folder} was begun with other settings: {', '.join(differences)}; repeat those, name another folder "
                "with --out, or pass --overwrite to replace it"
            )
    if found is None:
        found = Settled(decisive=decisive, model=request.model, number_format=number_format)
        found.write(folder)
    elif found.whole:
        found = replace(found, whole=False)
        found.write(folder)
    if found.number_format != number_format:
        progress.note(f"computing in {found.number_format}, in which {folder} was begun".replace("torch.", ""))
    return found


def clear(folder: Path) -> None:
    """Remove what a run has written into a folder, and nothing else; what it was begun with goes last."""
    for child in [path for path in folder.iterdir() if path.is_dir()]:
        written = [embedding_path(folder, child.name, known) for known in SUFFIXES]
        for path in (*written, item_path(folder, child.name)):
            _remove(path)
        _remove_if_empty(child)
    for name in (
        PARTS_FOLDER,
        JOURNAL_FILE,
        FAILED_FILE,
        COMPONENTS_FILE,
        CATALOG_FILE,
        COLLECTION_FILE,
        PICTURE_FILE,
        MODEL_ITEM,
    ):
        _remove(folder / name)
    _remove_if_empty((folder / MODEL_ITEM).parent)
    _remove(folder / REGION_FILE)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder, and keep other commands from writing into it; a killed process keeps nobody out.

    Raises:
        UserError: one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another command is writing into {folder}; wait until it has ended, or name another folder with --out"
        ) from None
    except (OSError, NotImplementedError) as error:  # some network disks have no locks
        logger.info("%s cannot be locked: %s", folder, error)
    try:
        yield
    finally:
        lock.release()
        (folder / LOCK_FILE).unlink(missing_ok=True)
