"""What to embed and how, checked before anything is read; the network, and what identifies scene and features."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from torch import nn

from eo_backbones.contract import InputSpec
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.files import refuse_unwritable
from eo_backbones.models import create_model
from eo_backbones.networks.multi_band import Fuse, MultiBand
from eo_backbones.rasters.band_files import BandFile
from eo_backbones.rasters.options import Numbers, ReadingOptions
from eo_backbones.rasters.reader import SIDECARS, is_gdal_name, local_file
from eo_backbones.scenes.encoding import EmbeddingDtype
from eo_backbones.scenes.geotiff import MAX_BANDS
from eo_backbones.scenes.outputs import Format, check_format
from eo_backbones.scenes.parquet import Geometry

MAX_NODATA = 0.05
"""Default of ``max_nodata``. Up to this share the features of a window hardly move: their median cosine with those of
the complete window stays above 0.95 (benchmarks/2026-11-25-missing-fill.md)."""
FROZEN_FUSES: tuple[Fuse, ...] = ("concat", "mean")
_SUFFIXES: dict[str, Format] = {".tif": "geotiff", ".tiff": "geotiff", ".parquet": "parquet", ".zarr": "zarr"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSettings:
    """How scenes are embedded.

    Attributes:
        model: as in ``create_model``.
        bands: band names, each with an optional position in the file (``"B04=4"``).
        units: one for all bands, or one a band; empty: ``uint8`` for 8-bit files, else ``dn`` (Sentinel-2) and ``db``
            (Sentinel-1).
        size: side of a window in pixels.
        stride: pixels from one window to the next, and the side of a cell.
        fuse: ``"concat"`` or ``"mean"``, see :class:`eo_backbones.MultiBand`.
        scale, offset: ``value = stored * scale + offset``, in the unit; they win over what the files say. A number for
            all bands, or several ``BAND=NUMBER``. ``offset=-1000``: Sentinel-2 baseline 04.00 and later.
        nodata: stored value that means "missing", besides what the files declare; likewise.
        max_nodata: a window has no value if more than this share of its pixels is missing in any band.
        components: keep so many principal components of the features; ``None``: the features.
        components_from: take them from this file of another embedding instead.
        dtype: of the output.
        geometry: of a cell in a table, ``"point"`` or ``"polygon"``.
        preview: also draw the first three components.
        overwrite: replace what is there.
    """

    model: str
    bands: tuple[str, ...]
    units: tuple[str, ...] = ()
    size: int = 64
    stride: int = 32
    fuse: str = "concat"
    scale: Numbers = None
    offset: Numbers = None
    nodata: Numbers = None
    max_nodata: float = MAX_NODATA
    components: int | None = None
    components_from: Path | None = None
    dtype: str = "float32"
    geometry: str = "point"
    preview: bool = False
    overwrite: bool = False

    @property
    def cell_geometry(self) -> Geometry:
        """What a cell is in a table."""
        return "polygon" if self.geometry == "polygon" else "point"

    @property
    def reading(self) -> ReadingOptions:
        """What is declared about the stored values."""
        return ReadingOptions.of(self.units, scale=self.scale, offset=self.offset, nodata=self.nodata)

    def check_settings(self) -> EmbeddingDtype:
        """Return the dtype of the output, after every check that needs no file.

        Raises:
            UserError: a value that is not allowed.
        """
        if self.fuse not in FROZEN_FUSES:
            raise UserError(f"--fuse {self.fuse} is unknown; pass {' or '.join(FROZEN_FUSES)}")
        dtype: EmbeddingDtype | None = next((known for known in get_args(EmbeddingDtype) if known == self.dtype), None)
        if dtype is None:
            raise unknown_name("--dtype", self.dtype, get_args(EmbeddingDtype))
        if not 0 <= self.max_nodata < 1:
            raise UserError(
                f"--max-nodata {self.max_nodata:g} is a share of the pixels; pass 0 to below 1, such as 0.05"
            )
        if self.geometry not in get_args(Geometry):
            raise unknown_name("--geometry", self.geometry, get_args(Geometry))
        if self.components is not None and self.components_from is not None:
            raise UserError("--components and --components-from both say which components; pass one of them")
        if self.components is not None and self.components < 1:
            raise UserError(f"--components {self.components}: pass 1 or more, or leave it out to keep all features")
        return dtype

    def check_geometry(self, chosen: Format) -> None:
        """Refuse outlines of cells where the output is a grid.

        Raises:
            UserError: it is.
        """
        if self.geometry == "polygon" and chosen != "parquet":
            raise UserError(
                f"--geometry polygon is for tables, not for {chosen}; leave it out, or pass --format parquet"
            )

    def check_width(self, features: int, chosen: str) -> None:
        """Refuse an output that cannot hold so many values per cell, before hours are spent.

        Args:
            features: of the encoder.
            chosen: format of the output.

        Raises:
            UserError: more components than features, or too many features for a TIFF.
        """
        if self.components is not None and self.components > features:
            raise UserError(f"--components {self.components}: there are {features:,} features; pass fewer")
        if chosen in {"geotiff", "cog"} and not self.components and not self.components_from and features > MAX_BANDS:
            raise UserError(f"{features:,} values per cell; a GeoTIFF has at most {MAX_BANDS:,} bands; --components 32")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest(EmbedSettings):
    """What to embed, and how: one scene to one file.

    Attributes:
        scene: files of one scene, anything that GDAL opens, or a folder with one file per band.
        out: the file to write.
        format: ``None``: by the suffix of ``out``.
    """

    scene: tuple[str, ...]
    out: Path
    format: str | None = None

    def checked(self) -> tuple[Format, EmbeddingDtype]:
        """Return format and dtype of the output, after every check that needs no file but ``out``.

        Raises:
            UserError: a value that is not allowed, or an output that is there already.
        """
        dtype = self.check_settings()
        typed = self.format or _SUFFIXES.get(self.out.suffix.lower())
        if typed is None:
            raise UserError(
                f"--out {self.out}: its suffix names no format; end it in .tif, .parquet or .zarr, or pass --format; "
                "for many scenes name a folder"
            )
        chosen: Format | None = next((known for known in get_args(Format) if known == typed), None)
        if chosen is None:
            raise unknown_name("--format", typed, get_args(Format))
        check_format(chosen, dtype)
        self.check_geometry(chosen)
        refuse_unwritable(self.out, folder=chosen == "zarr")
        if self.preview and preview_file(self.out).resolve() in {Path(path).resolve() for path in self.scene}:
            raise UserError(
                f"--preview would replace {preview_file(self.out)}, a file of the scene; pass another --out"
            )
        if self.preview:
            refuse_unwritable(preview_file(self.out), option="--preview")
        if self.out.exists() and not self.overwrite:
            raise UserError(f"{self.out} is there already; pass --overwrite to replace it, or another --out")
        return chosen, dtype


def is_one_file(out: Path, file_format: str | None) -> bool:
    """Return whether ``--out`` names the file of one scene; otherwise it names a folder for many.

    Args:
        out: ends in the suffix of a format for a file; a folder is there already, or its name has no suffix.
        file_format: as typed; ``"geotiff"`` is a file whatever its name.
    """
    if out.suffix.lower() in _SUFFIXES or file_format == "geotiff":
        return True
    looks_like_file = bool(out.suffix) and not out.suffix[1:].isdigit()  # region_2.5 is no file
    return looks_like_file and not out.is_dir()


def preview_file(out: Path) -> Path:
    """Return where the picture of an output is kept."""
    return out.with_name(f"{out.stem}.png")


def load_network(model: str, bands: Sequence[str], fuse: str) -> tuple[MultiBand, InputSpec, str]:
    """Return the encoder for the bands, in eval mode, its input contract and the digest of its weights.

    Raises:
        UserError: as ``create_model``; the model declares no input contract, or does not take one of the bands.
    """
    network, spec, digest = as_network(create_model(model, num_classes=0), bands, fuse, name=model)
    assert digest is not None, "pretrained weights have a digest"
    return network, spec, digest


def as_network(
    encoder: nn.Module, bands: Sequence[str], fuse: str, *, name: str = "this network"
) -> tuple[MultiBand, InputSpec, str | None]:
    """Return an encoder for the bands, in eval mode, its input contract and the digest of its weights, if it has one.

    Raises:
        UserError: it declares no input contract, or does not take one of the bands.
    """
    chosen: Fuse = "mean" if fuse == "mean" else "concat"
    network = MultiBand(encoder.eval(), bands, fuse=chosen).eval()
    if network.eo_input is None:
        raise UserError(f"{name} declares no input contract, so nothing says which values it takes; pass a model of "
                        "eo-backbones list, or a folder of eo-train export")  # fmt: skip
    digest = getattr(encoder, "eo_digest", None)
    return network, network.eo_input, digest if isinstance(digest, str) else None


def identity_of(band: BandFile) -> dict[str, Any]:
    """Return what identifies a band and its version: of a local file also size and time, also its sidecars'."""
    facts: dict[str, Any] = {"path": band.path, "index": band.index}
    local = local_file(band.path)
    if local is None:
        return facts
    status = local.stat()
    if not is_gdal_name(band.path):
        facts["path"] = str(local.resolve())
    facts |= {"bytes": status.st_size, "time": status.st_mtime_ns}
    beside = [sidecar for suffix in SIDECARS if (sidecar := local.with_name(f"{local.name}{suffix}")).is_file()]
    if beside:
        facts["sidecars"] = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in beside}
    return facts


def features_digest(network: MultiBand, spec: InputSpec, weights: str) -> str:
    """Return a digest of what each feature means: components fit features of the same digest only."""
    contract = spec.to_dict(with_levels=False)
    facts = {"weights": weights, "bands": network.bands, "fuse": network.fuse, "input": contract}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
