"""Embeddings of arrays in memory: the windows of :func:`eo_backbones.scenes.embed_scene`, without files.

For users of xarray: a georeferenced ``DataArray`` becomes one with a feature axis and the coordinates of the cells, and
stays lazy where it was (dask). NumPy arrays and tensors give NumPy arrays.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from affine import Affine
from torch import nn

from eo_backbones.bands import band_named_in, band_names
from eo_backbones.contract import InputSpec, Unit
from eo_backbones.device import fast_dtype, pick_device
from eo_backbones.errors import UserError, unknown_name
from eo_backbones.inputs import InputTransform, PerBand
from eo_backbones.networks.multi_band import MultiBand
from eo_backbones.scenes.compute import compute_blocks, rows_per_block
from eo_backbones.scenes.grid import Grid
from eo_backbones.scenes.request import FROZEN_FUSES, MAX_NODATA, as_network, load_network

_CHECKED_PX = 1 << 20  # of each band: the check itself looks at far fewer
_BAND_AXES = ("band", "bands", "wavelength", "variable")
_SCALING = {"scale_factor": 1.0, "add_offset": 0.0}  # attributes of netCDF, also of rioxarray


def embed(
    values: Any,
    model: str | nn.Module,
    *,
    unit: Unit | Sequence[Unit],
    band: str | Sequence[str] | None = None,
    size: int = 64,
    stride: int = 32,
    fuse: str = "concat",
    scale: PerBand | None = None,
    offset: PerBand | None = None,
    nodata: float | Sequence[float | None] | None = None,
    max_nodata: float = MAX_NODATA,
    device: str = "auto",
) -> Any:
    """Return the embeddings of all windows of an image in memory.

    Args:
        values: pixels as stored, integers or floats: NumPy array or tensor ``(H, W)`` or ``(C, H, W)``, or an
            ``xarray.DataArray`` with dimensions ``y`` and ``x`` (also ``latitude``/``longitude``) and perhaps one of
            bands. NaN is missing.
        model: name as for :func:`eo_backbones.create_model`, or an encoder that it returned.
        unit: unit of the values, one for all bands or one per band, see :class:`eo_backbones.inputs.InputTransform`.
        band: name of the band, or one a channel; default: the band coordinate of a ``DataArray``.
        size: side of a window in pixels.
        stride: pixels from one window to the next.
        fuse: ``"concat"`` lays the features of several bands side by side, ``"mean"`` averages them.
        scale: the stored values are multiplied by it, one for all bands or one per band.
        offset: added to the scaled values, likewise; -1000 for Sentinel-2 digital numbers of baseline 04.00 and later.
        nodata: stored value that means "missing"; default: that of the attributes of a ``DataArray``.
        max_nodata: a window has no value (NaN) if more than this share of its pixels is missing in any band.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        float32 ``(features, rows, cols)`` of windows: a NumPy array, or a ``DataArray`` (``feature``, and the names of
        the two axes) with the coordinates of the windows' centres, the coordinate system of the input, and what the
        embedding is of in its attributes. Backed by dask where the input is: values are then read, checked and
        computed by blocks of rows when the result is.

    Raises:
        UserError: a shape, dimension, band, unit or setting that is not allowed; values that cannot be in the unit;
            attributes that scale the values while neither ``scale`` nor ``offset`` is passed.

    Example:
        >>> red = rioxarray.open_rasterio("T32TQM_20200101T101010_B04_10m.jp2", chunks={"y": 2048})
        >>> cells = eo_backbones.embed(red, "eo_efficientnet_lite0.distill_s1s2_mini", band="B04", unit="dn")
    """
    array = _Array.of(values)
    names = array.bands if band is None else band_names([band] if isinstance(band, str) else band)
    if names is None:
        raise UserError("nothing names the band; pass band='B04', or one name a channel")
    if len(names) != array.pixels.shape[0]:
        raise UserError(
            f"{len(names)} bands ({', '.join(names)}) for {array.pixels.shape[0]} channels; pass one name a channel"
        )
    if array.scaling and scale is None and offset is None:
        said = ", ".join(f"{name}={number:g}" for name, number in array.scaling.items())
        raise UserError(
            f"the attributes say {said}, and nothing says whether that is in the values already; pass scale and "
            "offset, 1 and 0 if it is"
        )
    if fuse not in FROZEN_FUSES:
        raise unknown_name("fuse", fuse, FROZEN_FUSES)
    if not 0 <= max_nodata < 1:
        raise UserError(f"max_nodata={max_nodata:g} is a share of the pixels; pass 0 to below 1, such as 0.05")
    network, spec, digest = (
        load_network(model, names, fuse) if isinstance(model, str) else as_network(model, names, fuse)
    )
    chosen = pick_device(device)
    job = _Job(
        network=network,
        prepare=InputTransform(
            spec,
            band=names,
            unit=unit,
            scale=1.0 if scale is None else scale,
            offset=offset,
            nodata=array.nodata if nodata is None else nodata,
        ),
        grid=Grid(
            height=array.pixels.shape[1],
            width=array.pixels.shape[2],
            size=size,
            stride=stride,
            scene_transform=Affine.identity(),
            crs=None,
        ),
        max_nodata=max_nodata,
        device=chosen,
        dtype=fast_dtype(chosen),
    )
    facts = {
        "model": model if isinstance(model, str) else type(model).__name__,
        "weights_sha256": digest or "",
        "bands": list(names),
        "units": list(job.prepare.units),
        "fuse": fuse,
        "size": size,
        "stride": stride,
    }
    return array.labelled(job.lazily(array.pixels) if array.is_lazy else job.run(array.pixels), job.grid, facts)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Array:
    """What was passed: pixels ``(C, H, W)``, of NumPy or dask, and what is known about them."""

    pixels: Any
    labels: Any = None  # the DataArray, without its band axis
    bands: tuple[str, ...] | None = None
    nodata: float | None = None
    scaling: dict[str, float] | None = None

    @classmethod
    def of(cls, values: Any) -> "_Array":
        xarray = sys.modules.get("xarray")
        if xarray is not None and isinstance(values, xarray.Dataset):
            raise UserError("a Dataset holds several arrays; pass one, or values.to_dataarray('band')")
        if xarray is None or not isinstance(values, xarray.DataArray):
            pixels = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asanyarray(values)
            return cls(pixels=_with_channels(_filled(pixels)))
        others = [name for name in values.dims if name in _BAND_AXES]
        rest = [name for name in values.dims if name not in others]
        if len(rest) != 2 or len(others) > 1:
            extra = ", ".join(f"{name} ({values.sizes[name]})" for name in rest[:-2])
            raise UserError(
                f"dimensions {', '.join(map(str, values.dims))} are not (band, y, x) or (y, x); choose one place of "
                f"the others first{f', such as .isel({rest[0]}=0)' if extra else ''}"
            )
        names: tuple[str, ...] | None = None
        if others and others[0] in values.coords:
            found = [band_named_in(str(name)) for name in values.coords[others[0]].values]
            names = tuple(name for name in found if name) if all(found) else None
        ordered = values.transpose(*others, *rest)
        stated = [values.attrs.get(name) for name in ("_FillValue", "nodata", "missing_value")]
        marks = [float(mark) for mark in stated if mark is not None and not math.isnan(float(mark))]
        scaling = {
            name: float(values.attrs[name])
            for name, neutral in _SCALING.items()
            if name in values.attrs and float(values.attrs[name]) != neutral
        }
        return cls(
            pixels=_with_channels(ordered.data),
            labels=ordered.isel(dict.fromkeys(others, 0), drop=True),
            bands=names,
            nodata=marks[0] if marks else None,
            scaling=scaling,
        )

    @property
    def is_lazy(self) -> bool:
        return hasattr(self.pixels, "dask")

    def labelled(self, made: Any, grid: Grid, facts: dict[str, Any]) -> Any:
        """Return the embeddings as they are, or as a ``DataArray`` with coordinates if such a one was passed."""
        if self.labels is None:
            return made
        xarray = sys.modules["xarray"]
        axes = self.labels.dims
        coordinates: dict[str, Any] = {"feature": np.arange(made.shape[0])}
        for axis, cells in zip(axes, (grid.rows, grid.cols), strict=True):
            if axis in self.labels.coords:
                given = self.labels.coords[axis]
                centres = np.arange(cells) * grid.stride + (grid.size - 1) / 2
                placed = np.interp(centres, np.arange(given.size), given.values.astype(np.float64))
                coordinates[axis] = xarray.DataArray(placed, dims=axis, attrs=given.attrs)
        for name, given in self.labels.coords.items():
            if given.ndim == 0:
                # rioxarray would take the pixels' grid from it instead of the cells' coordinates
                attrs = {key: value for key, value in given.attrs.items() if key != "GeoTransform"}
                coordinates[name] = given.copy()
                coordinates[name].attrs = attrs
        return xarray.DataArray(made, dims=("feature", *axes), coords=coordinates, name="embedding", attrs={**facts})


def _filled(pixels: np.ndarray) -> np.ndarray:
    """Return masked pixels as NaN."""
    return np.ma.filled(pixels.astype(np.float32), np.nan) if isinstance(pixels, np.ma.MaskedArray) else pixels


def _with_channels(pixels: Any) -> Any:
    if pixels.ndim not in {2, 3}:
        raise UserError(f"an array of shape {tuple(pixels.shape)}; pass (H, W) of one band, or (C, H, W)")
    if pixels.dtype.kind not in "uif":
        raise UserError(f"values of type {pixels.dtype} are no pixels; pass integers or floats")
    return pixels[None] if pixels.ndim == 2 else pixels


@dataclass(frozen=True, slots=True)
class _Rows:
    """Pixels in memory, read by rows as :class:`eo_backbones.scenes.scene.Scene` is."""

    pixels: np.ndarray
    bands: tuple[str, ...]

    def read(self, out: np.ndarray, *, top: int, left: int = 0) -> None:
        """Fill ``out`` with the pixels from ``(top, left)`` on."""
        out[:] = self.pixels[:, top : top + out.shape[1], left : left + out.shape[2]]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Job:
    """What is done with every block of pixels."""

    network: MultiBand
    prepare: InputTransform
    grid: Grid
    max_nodata: float
    device: torch.device
    dtype: torch.dtype

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Return float32 ``(features, rows, cols)`` of pixels ``(C, H, W)``, as many rows as fit."""
        grid = replace(self.grid, height=pixels.shape[1])
        step = max(math.isqrt(max(pixels[0].size // _CHECKED_PX, 1)), 1)
        thin = pixels[:, ::step, ::step]
        self.prepare(thin)  # refuses values of another unit
        declared = self.prepare.in_units(torch.from_numpy(np.ascontiguousarray(pixels, np.float32)))
        values = torch.stack(declared).numpy()
        blocks = compute_blocks(
            _Rows(values, self.network.bands),
            grid,
            self.network,
            self._of_values(),
            first=0,
            last=grid.rows,
            rows=rows_per_block(grid),
            max_nodata=self.max_nodata,
            device=self.device,
            dtype=self.dtype,
        )
        made = np.concatenate(list(blocks)).reshape(grid.rows, grid.cols, -1)
        return np.ascontiguousarray(made.transpose(2, 0, 1))

    def _of_values(self) -> InputTransform:
        """Return the transform of values that are in their unit already and were checked."""
        spec = self.network.eo_input
        assert isinstance(spec, InputSpec), "the network was refused without"
        return InputTransform(spec, band=self.network.bands, unit=self.prepare.units, offset=0.0, check="off")

    def lazily(self, pixels: Any) -> Any:
        """Return the same as a dask array, in blocks of rows of cells."""
        dask, dask_array = import_module("dask"), import_module("dask.array")  # who passes an array of it has it
        grid, parts = self.grid, []
        step = rows_per_block(grid)
        run = dask.delayed(self.run, pure=False)
        for first in range(0, grid.rows, step):
            count = min(step, grid.rows - first)
            top = first * grid.stride
            rows = pixels[:, top : top + (count - 1) * grid.stride + grid.size]
            shape = (self.network.num_features, count, grid.cols)
            parts.append(dask_array.from_delayed(run(rows), shape, dtype=np.float32))
        return dask_array.concatenate(parts, axis=1)
