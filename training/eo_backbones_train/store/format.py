"""What a store folder looks like, for the module that writes it and the one that reads it.

========================================  =======================================================================
``store.json``                            groups, bands, codings, shards with counts and digests, sources
``scenes.csv``                            one line per scene: name, source, region, group, shard, row, bands
``skipped.csv``                           one line per scene that was left out, with the reason
``tiles-<group>-<number>.npy``            ``(scenes, bands, height, width)``, uint8, or uint16 in an exact store
``journal-<n>.jsonl``                     only while a source is being added: the blocks that are done
========================================  =======================================================================

``scenes.csv`` and ``skipped.csv`` only ever grow; ``store.json`` is replaced last and says how many bytes of
``scenes.csv`` count. So the folder is a valid store at every moment, also when a second source is being added.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eo_backbones.errors import UserError

FORMAT = "eo_backbones tile store"
VERSION = 1
STORE_FILE = "store.json"
SCENES_FILE = "scenes.csv"
SKIPPED_FILE = "skipped.csv"
SCENE_COLUMNS = ("scene", "source", "roi", "group", "shard", "row", "bands")
SKIPPED_COLUMNS = ("source", "scene", "reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupKey:
    """What all scenes of a group share.

    Attributes:
        height, width: tile size in pixels.
        bands: canonical names, Sentinel-2 first.
        codings: name of the coding of each band.
    """

    height: int
    width: int
    bands: tuple[str, ...]
    codings: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name in file names: size, number of bands, and a digest of bands and codings."""
        identity = " ".join(f"{band}:{coding}" for band, coding in zip(self.bands, self.codings, strict=True))
        return f"{self.height}x{self.width}-{len(self.bands)}b-{hashlib.sha256(identity.encode()).hexdigest()[:6]}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"height": self.height, "width": self.width, "bands": [*self.bands], "codings": [*self.codings]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "GroupKey":
        """Read the JSON form back; other keys are ignored."""
        return cls(
            height=data["height"], width=data["width"], bands=tuple(data["bands"]), codings=tuple(data["codings"])
        )


def shard_file(group: str, number: int, part: int) -> str:
    """Return the file name of a shard; ``part`` counts the files of one group within one block of scenes."""
    return f"tiles-{group}-{number:05d}" + (f"-{part}" if part else "") + ".npy"


def canonical_json(value: object) -> str:
    """Return JSON text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest_of(value: object) -> str:
    """Return the sha256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def manifest_digest(groups: Sequence[Mapping[str, Any]], scenes: Sequence[Sequence[str]]) -> str:
    """Return the digest of everything that decides what a training run sees.

    Args:
        groups: the groups of ``store.json``, each with its shards and their digests.
        scenes: the rows of ``scenes.csv``. The source's name is left out: it is the name of a folder on some machine.
    """
    listed = hashlib.sha256()
    for scene, _source, *rest in scenes:
        listed.update("\t".join((scene, *rest)).encode() + b"\n")
    return digest_of({"version": VERSION, "groups": groups, "scenes": listed.hexdigest()})


def described_sources(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a run records about the sources of its store: name, layout, scenes, units, subset.

    And scale, offset and nodata of bands, where they were given, and the processing levels, where they are known.
    """
    return [
        {
            "name": source["name"],
            "layout": source["layout"],
            "scenes": source["stored"],
            "units": source["units"],
            "subset": source["subset"] and source["subset"]["name"],
            **{option: source[option] for option in ("scale", "offset", "nodata", "levels") if option in source},
        }
        for source in manifest["sources"]
    ]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the contents of ``store.json``.

    Raises:
        UserError: there is no store, or it is unfinished, damaged, or of another version.
    """
    path = folder / STORE_FILE
    if not path.is_file():
        if any(folder.glob("journal-*.jsonl")):
            raise UserError(f"the store {folder} is unfinished; run the same 'eo-train prepare' command again")
        raise UserError(
            f"{folder} is not a store (it has no {STORE_FILE}); make one with 'eo-train prepare --out {folder}'"
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        file_format, version = manifest["format"], manifest["version"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged or was not written by eo-train ({error!r}); prepare the store again"
        ) from error
    if file_format != FORMAT or version != VERSION:
        raise UserError(
            f"{path} has format {file_format!r} version {version}; this program reads {FORMAT!r} version {VERSION}: "
            "prepare the store again, or use the version of eo-train that wrote it"
        )
    return manifest
