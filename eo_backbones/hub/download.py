"""From a name to verified files, downloaded from the Hugging Face Hub if need be.

A name is a row of :mod:`eo_backbones.weights`, ``hf-hub:ORG/NAME[@REVISION]`` or ``local-dir:PATH``. Neither
huggingface_hub (over plain HTTP) nor timm compares content with its digest, so this module does, on every route:

* a row: sha256 of the file = sha256 of the row ("pinned");
* any other Hub repository: the digest that the Hub reported when the file was downloaded, which the cache keeps as
  the name of the blob, so it also works offline ("not pinned": the owner of the repository controls the digest);
* a local folder: the digest in its ``recipe.json``, if it has one.

Environment: ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` as huggingface_hub reads them, and
``EO_BACKBONES_NAMESPACE``.
"""

import hashlib
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from huggingface_hub import hf_hub_download

from eo_backbones import weights as rows
from eo_backbones.errors import UserError
from eo_backbones.files import sha256_of
from eo_backbones.hub.errors import FAILURES, MissingFileError, explain
from eo_backbones.hub.folder import (
    CONFIG_FILE,
    GOLDEN_FILE,
    WEIGHTS_FILE,
    FolderConfig,
    read_config,
    recorded_digest,
    timm_fields,
)
from eo_backbones.weights import Weights

logger = logging.getLogger(__name__)

HUB_PREFIX = "hf-hub:"
LOCAL_PREFIX = "local-dir:"

_LOAD_AGAIN = "delete the file and load again"
_INSTALL_AGAIN = "install eo-backbones again"

Route = Literal["embedded", "hub", "local"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a model name refers to.

    Attributes:
        name: as the caller wrote it.
        kind: ``"row"``, ``"hub"`` or ``"local"``.
        row: for ``"row"``.
        repo_id, revision: for ``"hub"``; ``revision`` ``None`` is the default branch.
        folder: for ``"local"``.
    """

    name: str
    kind: Literal["row", "hub", "local"]
    row: Weights | None = None
    repo_id: str = ""
    revision: str | None = None
    folder: Path = Path()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The files that a model name refers to, compared with their digests.

    Attributes:
        name: as the caller wrote it.
        route: where the files come from.
        config: what is declared about the weights.
        weights_path: the weights file; ``None`` if only the declaration was asked for.
        sha256: its digest.
        expected: the digest it was compared with; ``None`` if nothing says what it should be.
        pinned: whether ``expected`` is declared in a row of this package.
        row: the row, if there is one.
    """

    name: str
    route: Route
    config: FolderConfig
    weights_path: Path | None = None
    sha256: str | None = None
    expected: str | None = None
    pinned: bool = False
    row: Weights | None = None


def is_repo_id(text: str) -> bool:
    """Return whether a text has the form ``ORG/NAME`` of a Hub repository."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None


def parse_source(name: str) -> Source:
    """Read a model name.

    Raises:
        UserError: an unknown row (nearest names shown), a prefix that does not exist, or a path without a prefix.
    """
    if name.startswith(HUB_PREFIX):
        repo_id, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
        if not is_repo_id(repo_id):
            raise UserError(
                f"{name!r} does not name a Hub repository; write {HUB_PREFIX}ORG/NAME or {HUB_PREFIX}ORG/NAME@REVISION"
            )
        return Source(name=name, kind="hub", repo_id=repo_id, revision=revision or None)
    if name.startswith(LOCAL_PREFIX):
        return Source(name=name, kind="local", folder=Path(name.removeprefix(LOCAL_PREFIX)).expanduser())
    if name in rows.families():
        return Source(name=name, kind="row", row=rows.default_of_family(name))
    if re.search(r"[/\\:]", name):
        raise UserError(
            f"{name!r} is not a declared model; write {HUB_PREFIX}ORG/NAME[@REVISION] for a Hub repository "
            f"or {LOCAL_PREFIX}PATH for a folder"
        )
    return Source(name=name, kind="row", row=rows.get_weights(name))


def resolve(
    name: str,
    *,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    with_weights: bool = True,
    sha256: str | None = None,
) -> Resolved:
    """Find, fetch and check the files of a model.

    Args:
        name: a row, ``hf-hub:ORG/NAME[@REVISION]`` or ``local-dir:PATH``.
        cache_dir: cache of huggingface_hub; its default is below ``HF_HOME``.
        local_files_only: take files from the cache only.
        with_weights: ``False`` fetches the declaration only, and accepts rows that are not published.
        sha256: of the weights, if the caller knows it. Of a Hub repository it counts instead of what the Hub reports;
            of a row or folder it must be what these say.

    Raises:
        UserError: unknown or unpublished name, any failure of the Hub, missing or corrupted file, or another one than
            ``sha256`` says.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256 := sha256.strip().lower()):
        raise UserError(f"sha256 {sha256!r} is no digest of a file; pass its 64 hexadecimal digits")
    source = parse_source(name)
    cache = _Cache(cache_dir, local_files_only)
    if source.row is not None:
        resolved = _resolve_row(source.row, name, cache, with_weights)
    elif source.kind == "hub":
        resolved = _resolve_repository(source, cache, with_weights, sha256)
    else:
        resolved = _resolve_folder(source, with_weights)
    if with_weights and sha256 not in (None, resolved.sha256):
        raise UserError(
            f"the weights of {name} are others than you expect: their sha256 is {resolved.sha256}, not {sha256}; "
            "correct the digest, or get the weights that it belongs to"
        )
    return resolved


def fetch_golden(
    resolved: Resolved, *, cache_dir: str | Path | None = None, local_files_only: bool = False
) -> Path | None:
    """Return the folder that holds the model's ``golden.safetensors``, or ``None`` if it has none."""
    assert resolved.weights_path is not None, "resolve with weights first"
    if resolved.route == "hub":
        source = parse_source(resolved.name)
        repo_id = source.row.repo_id if source.row else source.repo_id
        revision = resolved.weights_path.parent.name  # the commit that the weights are from
        try:
            return _Cache(cache_dir, local_files_only).fetch(repo_id, revision, GOLDEN_FILE).parent
        except MissingFileError:
            return None
    folder = resolved.weights_path.parent
    return folder if (folder / GOLDEN_FILE).is_file() else None


def fetch_beside(
    name: str, filename: str, *, cache_dir: str | Path | None = None, local_files_only: bool = False
) -> Path | None:
    """Return a small file beside the weights of a Hub repository or local folder, or ``None`` if there is none.

    Raises:
        UserError: any other failure of the Hub.
    """
    source = parse_source(name)
    assert source.kind != "row", "a row declares everything itself"
    if source.kind == "local":
        return path if (path := source.folder / filename).is_file() else None
    try:
        path = _Cache(cache_dir, local_files_only).fetch(source.repo_id, source.revision, filename)
    except MissingFileError:
        return None
    _compare_with_hub(path)
    return path


@dataclass(frozen=True, slots=True)
class _Cache:
    """huggingface_hub's cache; its exceptions become one-line :class:`UserError`."""

    folder: str | Path | None
    local_files_only: bool

    def fetch(self, repo_id: str, revision: str | None, filename: str) -> Path:
        """Return the path of a file in the cache, downloaded if need be; its content is not verified yet."""
        try:
            path = hf_hub_download(
                repo_id,
                filename,
                revision=revision,
                cache_dir=self.folder,
                local_files_only=self.local_files_only,
                library_name="eo_backbones",
            )
        except FAILURES as error:
            raise explain(error, repo_id=repo_id, revision=revision, filename=filename) from error
        return Path(path)


def row_config(row: Weights) -> FolderConfig:
    """Return the declaration of a row in the form that ``config.json`` has."""
    return FolderConfig(
        architecture=row.architecture,
        num_classes=0,
        in_chans=1,
        input=row.input,
        pretrained_cfg=timm_fields(row.input, license=row.license, architecture=row.architecture),
    )


def _resolve_row(row: Weights, name: str, cache: _Cache, with_weights: bool) -> Resolved:
    declared = Resolved(name=name, route="embedded" if row.embedded else "hub", config=row_config(row), row=row)
    if not with_weights:
        return declared
    if row.sha256 is None:
        raise row.unpublished_error()
    if row.embedded_path is None:
        return _pinned(declared, row, cache.fetch(row.repo_id, row.revision, WEIGHTS_FILE), _LOAD_AGAIN)
    if not row.embedded_path.is_file():
        raise UserError(f"{row.embedded_path} is missing; {_INSTALL_AGAIN}")
    return _pinned(declared, row, row.embedded_path, _INSTALL_AGAIN)


def _resolve_repository(source: Source, cache: _Cache, with_weights: bool, sha256: str | None) -> Resolved:
    config_path = cache.fetch(source.repo_id, source.revision, CONFIG_FILE)
    _compare_with_hub(config_path)
    declared = Resolved(name=source.name, route="hub", config=read_config(config_path))
    if not with_weights:
        return declared
    path = cache.fetch(source.repo_id, source.revision, WEIGHTS_FILE)
    row = _row_of_snapshot(source.repo_id, path.parent.name)
    if row is not None:
        return _pinned(declared, row, path, _LOAD_AGAIN)
    if sha256 is not None:
        _compare(path, sha256, "the caller", _LOAD_AGAIN)
        return replace(declared, weights_path=path, sha256=sha256, expected=sha256)
    expected = _compare_with_hub(path)
    logger.warning(
        "%s is not pinned: %s",
        source.name,
        "its content is what the Hub reports, which the repository's owner may change"
        if expected
        else "the cache does not record what the Hub reports, so its content is not verified",
    )
    return replace(declared, weights_path=path, sha256=sha256_of(path), expected=expected)


def _resolve_folder(source: Source, with_weights: bool) -> Resolved:
    folder = source.folder
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; {LOCAL_PREFIX}PATH takes what 'eo-train export' wrote")
    declared = Resolved(name=source.name, route="local", config=read_config(folder / CONFIG_FILE))
    if not with_weights:
        return declared
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(f"there is no {WEIGHTS_FILE} in {folder}; other formats are not loaded")
    expected = recorded_digest(folder)
    if expected is None:
        logger.warning("%s is not verified: its folder records no sha256", path)
    digest = _compare(path, expected, "its recipe.json", "export the folder again") if expected else sha256_of(path)
    return replace(declared, weights_path=path, sha256=digest, expected=expected)


def _pinned(declared: Resolved, row: Weights, path: Path, remedy: str) -> Resolved:
    """Compare a file with the digest in a row."""
    assert row.sha256 is not None
    digest = _compare(path, row.sha256, f"the row {row.name}", remedy)
    return replace(declared, row=row, weights_path=path, sha256=digest, expected=digest, pinned=True)


def _row_of_snapshot(repo_id: str, commit: str) -> Weights | None:
    """Return the row that pins this commit of this repository."""
    for row in rows.WEIGHTS.values():
        if row.published and row.embedded is None and (row.repo_id, row.revision) == (repo_id, commit):
            return row
    return None


def _compare(path: Path, expected: str, declared_in: str, remedy: str) -> str:
    digest = sha256_of(path)
    if digest != expected:
        # the blob: deleting only the link in snapshots/ would bring the same bytes back
        raise UserError(
            f"{path.resolve()} is corrupted: its sha256 is {digest[:12]}…, "
            f"{declared_in} says {expected[:12]}…; {remedy}"
        )
    return digest


def _compare_with_hub(path: Path) -> str | None:
    """Compare a cached file with the digest the Hub reported; return it, or ``None`` where the cache has no links.

    The Hub reports sha256 for large (LFS) files and the git blob's sha1 for others; the cache names the blob by it.
    """
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return _compare(path, blob.name, "the Hub", _LOAD_AGAIN)
    if re.fullmatch(r"[0-9a-f]{40}", blob.name):
        content = blob.read_bytes()
        if hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() != blob.name:
            raise UserError(f"{blob} is corrupted: it differs from what the Hub reports; {_LOAD_AGAIN}")
        return blob.name
    return None
