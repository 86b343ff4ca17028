"""What to embed and how, checked before anything is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from eo_backbones.errors import unknown_name
from eo_backbones.files import refuse_occupied, refuse_unwritable, sha256_of
from eo_backbones.rasters.reader import split_request
from eo_backbones.regions.layout import REGION_FILE, RegionFormat
from eo_backbones.scenes.encoding import EmbeddingDtype
from eo_backbones.scenes.outputs import check_format
from eo_backbones.scenes.request import EmbedSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionRequest(EmbedSettings):
    """What to embed, and how: many scenes to a folder.

    Attributes:
        scenes: files, folders, lists (``.txt``) and STAC items or catalogues, see
            :func:`eo_backbones.regions.sources.find_scenes`.
        out: the folder.
        format: of the embeddings: ``"cog"``, ``"parquet"`` or ``"zarr"``.
    """

    scenes: tuple[str, ...]
    out: Path
    format: str = "cog"

    @property
    def band_names(self) -> tuple[str, ...]:
        """Canonical names of the bands."""
        return tuple(split_request(band)[0] for band in self.bands)

    def checked(self) -> tuple[RegionFormat, EmbeddingDtype]:
        """Return format and dtype of the embeddings, after every check that needs no file but ``out``.

        Raises:
            UserError: a value that is not allowed, or an output folder that holds something else.
        """
        dtype = self.check_settings()
        chosen: RegionFormat | None = next((known for known in get_args(RegionFormat) if known == self.format), None)
        if chosen is None:
            raise unknown_name("--format", self.format, get_args(RegionFormat))
        check_format(chosen, dtype)
        self.check_geometry(chosen)
        refuse_unwritable(self.out, folder=True)
        names = {path.name for path in self.out.iterdir()} if self.out.is_dir() else set()
        refuse_occupied(
            self.out,
            earlier="a region of eo-backbones embed",
            recognised=REGION_FILE in names or all(name.startswith(".") for name in names),  # killed at its beginning
        )
        return chosen, dtype

    def decisive(self, weights: str, meaning: str) -> dict[str, Any]:
        """Return everything that decides the values of a scene, as JSON types.

        Args:
            weights: sha256 of the encoder's weights.
            meaning: of :func:`eo_backbones.scenes.request.features_digest`.
        """
        reading = self.reading
        given = self.components_from
        return {
            "weights_sha256": weights,
            "features": meaning,
            "bands": ["=".join(str(part) for part in split_request(band) if part is not None) for band in self.bands],
            "units": list(reading.units),
            "scale": list(reading.scale),
            "offset": list(reading.offset),
            "nodata": list(reading.nodata),
            "fuse": self.fuse,
            "size": self.size,
            "stride": self.stride,
            "max_nodata": self.max_nodata,
            "components": self.components,
            "components_from": None if given is None or not given.is_file() else sha256_of(given),
            "dtype": self.dtype,
            "format": self.format,
            **({} if self.geometry == "point" else {"geometry": self.geometry}),
        }
