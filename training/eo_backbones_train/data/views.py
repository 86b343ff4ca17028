"""From coded tiles to augmented views: parameters drawn on the CPU, views made in one batch on the device.

Flip, rotation, crop and resize are one affine map, and so one bilinear interpolation. Before it, one Gaussian removes
the frequencies that the view cannot hold. Its variance is that of the random blur plus ``max(s^2 - 1, 0) / 6`` for a
crop that is shrunk s times: s^2 / 6 is the variance of the triangle that an antialiased bilinear resize averages with,
1 / 6 that of the bilinear interpolation, which is applied anyway. From 256 to 112 pixels, 7 % of a sine at 0.40 cycles
per pixel is left; without the Gaussian, 63 %.

Nothing outside a tile is ever used. The Gaussian's weights are cut off at the tile's edge and rescaled to a sum of 1;
where a rotated crop reaches beyond the tile, the tile is mirrored at its edge. No view has empty corners.

Random numbers depend only on (seed, step, position in the global batch), so a process draws the whole global batch and
takes its share. ``make_views`` has fixed shapes, draws nothing and never synchronises with the device: a CUDA graph can
hold it.
"""

import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from eo_backbones_train.recipes.recipe import MAX_BLUR_SIGMA_PX, ViewPart

VIEW_PARAMS = (
    "side",  # of the square crop, as a fraction of the square root of the tile's area
    "centre_y",  # position of the crop's centre between its extremes, 0 to 1
    "centre_x",
    "cos",  # of the rotation, counter-clockwise
    "sin",
    "flip_y",  # -1 mirrors top and bottom of the tile, 1 does not
    "flip_x",
    "blur_sigma",  # pixels of the tile; 0 for no blur
    "brightness",  # offset as a fraction of the clip range
    "contrast",  # change of the deviations from the view's mean: 0 keeps them
)
"""Columns of the view parameters."""

_CODES = 256  # of an 8-bit tile
_BLOCK = 32  # outputs per matrix product of the blur; measured best of 8 to 128 on AVX-512
_CPU_CHUNK = 8  # tiles processed together on a CPU, so that they stay in its cache; measured best of 4 to 32
_KERNEL_REACH = 2.75  # radius of the Gaussian's kernel in standard deviations; 99.4 % of its weight


def draw_view_params(views: ViewPart, *, seed: int, step: int, global_batch: int) -> Tensor:
    """Draw the parameters of all views of a step.

    Args:
        views: ranges and probabilities.
        seed: of the recipe.
        step: counted from 0; different steps have different numbers, the same step always the same.
        global_batch: pairs in the step, over all processes.

    Returns:
        float32 [2, global_batch, len(VIEW_PARAMS)] on the CPU, columns as in :data:`VIEW_PARAMS`.
    """
    key = hashlib.sha256(f"views {seed} {step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8]) >> 1)
    area, y, x, rotate, angle, flip_y, flip_x, blur, sigma, brightness, contrast = torch.rand(
        11, 2, global_batch, generator=generator
    )

    def between(uniform: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * uniform

    if views.co_registered:
        for drawn in (area, y, x, rotate, angle, flip_y, flip_x):
            drawn[1] = drawn[0]
    if views.spread < 1:
        for centre in (y, x):
            centre[1].lerp_(centre[0], 1 - views.spread)
    radians = between(angle, -1, 1) * math.radians(views.rotation_degrees) * (rotate < views.rotation_p)
    columns = (
        between(area, *views.crop_scale).sqrt(),
        y,
        x,
        radians.cos(),
        radians.sin(),
        1 - 2 * (flip_y < views.flip_p).float(),
        1 - 2 * (flip_x < views.flip_p).float(),
        between(sigma, *views.blur_sigma) * (blur < views.blur_p),
        between(brightness, -views.brightness, views.brightness),
        between(contrast, -views.contrast, views.contrast),
    )
    return torch.stack(columns, dim=-1)


@torch.no_grad()
def make_views(codes: Tensor, extent: Tensor, decode: Tensor, params: Tensor, size_px: int) -> Tensor:
    """Decode tiles and make one view of each.

    Args:
        codes: uint8, int32 or float32 [V, B, S, S], V = 2 in pretraining, 5 where a teacher sees colours; a smaller
            tile lies in the upper left corner, the rest is never used.
        extent: float32 [V, B, 2] height and width of each tile in pixels.
        decode: float32 [V, B, 6] (q0, q1, q2, low, high, missing): code c stands for the model input
            ``clamp(q0 + q1 c + q2 c^2, low, high)``; code 0 for ``missing``, unless that is NaN.
        params: float32 [V, B, len(VIEW_PARAMS)], from :func:`draw_view_params`, on the device of the codes.
        size_px: height and width of the views.

    Returns:
        float32 [V, B, 1, size_px, size_px] model input.
    """
    number, pairs, tile_px = *codes.shape[:2], codes.shape[-1]
    codes, extent, decode, params = (tensor.flatten(0, 1) for tensor in (codes, extent, decode, params))
    chunk = len(codes) if codes.is_cuda else _CPU_CHUNK
    # Memory that all chunks use in turn: fresh pages would cost a CPU as much as the computation itself.
    lookup = torch.empty(chunk, tile_px, tile_px, dtype=torch.int32, device=codes.device)
    tiles, across = torch.empty(2, chunk, tile_px, tile_px, device=codes.device).unbind()
    views = torch.empty(len(codes), 1, size_px, size_px, device=codes.device)
    with torch.autocast(codes.device.type, enabled=False):
        plans = _plan(extent, decode, params, tile_px, size_px)
        for start in range(0, len(codes), chunk):
            part = slice(start, start + chunk)
            plan = _Plan(*(tensor[part] for tensor in plans))
            n = len(plan.decode)
            _decode_tiles(codes[part], plan, lookup[:n], out=tiles[:n])
            _blur(tiles[:n], plan, across[:n])
            _sample(tiles[:n], plan, out=views[part])
    return views.view(number, pairs, 1, size_px, size_px)


class _Plan(NamedTuple):
    """Everything that is done to N tiles, computed for the whole batch at once."""

    decode: Tensor  # [N, 6]
    table: Tensor  # [N, 256] model input of each 8-bit code
    inside_y: Tensor  # [N, S, 1] 1 within the tile, else 0
    inside_x: Tensor  # [N, 1, S]
    band: Tensor  # [N, block + 2 radius, block] Gaussian weights
    scale_y: Tensor  # [N, S, 1] rescales the weights within the tile to a sum of 1
    scale_x: Tensor  # [N, 1, S]
    down: Tensor  # [N, (x, y), size, 1] where the rows of the view are sampled, the tile reaching from -1 to 1
    along: Tensor  # [N, (x, y), 1, size] what its columns add to that
    ratio: Tensor  # [N, (x, y), 1, 1] tile size divided by frame size
    last: Tensor  # [N, (x, y), 1, 1] centre of the tile's last pixel, the frame reaching from -1 to 1
    offset: Tensor  # [N, 1, 1, 1]
    contrast: Tensor  # [N, 1, 1, 1]


def _plan(extent: Tensor, decode: Tensor, params: Tensor, tile_px: int, size_px: int) -> _Plan:
    side, centre_y, centre_x, cos, sin, flip_y, flip_x, blur_sigma, brightness, contrast = params.unbind(-1)
    side_px = torch.minimum(side * extent.prod(-1).sqrt(), extent.amin(-1))
    variance = blur_sigma.square() + ((side_px / size_px).square() - 1).clamp_min(0) / 6
    band = _gaussian_band(variance, _kernel_radius(tile_px, size_px))
    inside = (torch.arange(tile_px, device=extent.device) < extent[..., None]).float()  # [N, 2, S]
    weight = torch.cat([inside[..., inputs] @ weights for _, inputs, weights in _blocks(band, tile_px)], -1)
    scale = weight.clamp_min(torch.finfo(weight.dtype).tiny).reciprocal()

    # Centre of the crop: anywhere such that the rotated square lies within the tile; the middle if it is too large.
    tile = extent.flip(-1)  # from here on (x, y)
    half_tile, half_side = 0.5 * tile, 0.5 * side_px[:, None]
    margin = torch.minimum(half_side * (cos.abs() + sin.abs())[:, None], half_tile)
    centre = margin + torch.stack((centre_x, centre_y), -1) * (tile - 2 * margin)
    # A point (u, v) of the view, from -1 to 1, shows the point centre + flip(rotate(half a side * (u, v))) of the tile.
    step_u = torch.stack((flip_x * cos, flip_y * sin), -1) * half_side / half_tile
    step_v = torch.stack((-flip_x * sin, flip_y * cos), -1) * half_side / half_tile
    points = torch.arange(1, 2 * size_px, 2, device=extent.device) / size_px - 1

    return _Plan(
        decode=decode,
        table=_decode(torch.arange(_CODES, device=decode.device).float(), decode[..., None]),
        inside_y=inside[:, 0, :, None],
        inside_x=inside[:, 1, None, :],
        band=band,
        scale_y=scale[:, 0, :, None],
        scale_x=scale[:, 1, None, :],
        down=((centre / half_tile - 1)[..., None] + step_v[..., None] * points)[..., :, None],
        along=(step_u[..., None] * points)[..., None, :],
        ratio=(tile / tile_px)[..., None, None],
        last=((2 * tile - 1) / tile_px - 1)[..., None, None],
        offset=(brightness * (decode[:, 4] - decode[:, 3]))[:, None, None, None],
        contrast=contrast[:, None, None, None],
    )


def _kernel_radius(tile_px: int, size_px: int) -> int:
    """Return the radius in pixels that is enough for the strongest blur and shrinking that can occur."""
    variance = MAX_BLUR_SIGMA_PX**2 + max((tile_px / size_px) ** 2 - 1, 0) / 6
    return round(_KERNEL_REACH * math.sqrt(variance))


def _gaussian_band(variance: Tensor, radius: int) -> Tensor:
    """Return Gaussian weights [N, block + 2 radius inputs, block outputs]; a variance of 0 gives the identity."""
    outputs = torch.arange(_BLOCK, device=variance.device)
    inputs = torch.arange(-radius, _BLOCK + radius, device=variance.device)
    distance = (inputs[:, None] - outputs).float()
    smallest = torch.finfo(variance.dtype).eps
    weights = torch.exp(distance.square() / (-2 * variance.clamp_min(smallest)[:, None, None]))
    return weights * (distance.abs() <= radius)


def _blocks(band: Tensor, tile_px: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield output pixels, the input pixels that they need, and the weights [N, inputs, outputs] between them."""
    radius = (band.shape[1] - band.shape[2]) // 2
    for start in range(0, tile_px, _BLOCK):
        stop = min(start + _BLOCK, tile_px)
        first, last = max(start - radius, 0), min(stop + radius, tile_px)
        outside = first - (start - radius)
        yield slice(start, stop), slice(first, last), band[:, outside : outside + last - first, : stop - start]


def _decode(codes: Tensor, decode: Tensor) -> Tensor:
    q0, q1, q2, low, high, missing = decode.unbind(1)
    values = (q0 + codes * (q1 + codes * q2)).clamp(low, high)
    return torch.where((codes == 0) & ~missing.isnan(), missing, values)


def _decode_tiles(codes: Tensor, plan: _Plan, lookup: Tensor, *, out: Tensor) -> None:
    """Write the model input that the codes [N, S, S] stand for to ``out``."""
    if codes.dtype != torch.uint8:
        out.copy_(_decode(codes.float(), plan.decode[..., None, None]))
        return
    # Looking up the 256 values that a tile can have takes half as long as computing every pixel.
    rows = torch.arange(0, plan.table.numel(), _CODES, device=codes.device, dtype=torch.int32)
    torch.add(codes, rows[:, None, None], out=lookup)
    torch.index_select(plan.table.view(-1), 0, lookup.view(-1), out=out.view(-1))


def _blur(tiles: Tensor, plan: _Plan, across: Tensor) -> None:
    """Blur each of the tiles [N, S, S] in place by its own Gaussian, using only what lies within its extent.

    A product with a banded matrix, block by block: unlike a grouped convolution, fast on CPUs for every N.
    """
    tiles.mul_(plan.inside_y).mul_(plan.inside_x)
    for outputs, inputs, weights in _blocks(plan.band, tiles.shape[-1]):
        torch.bmm(tiles[:, :, inputs], weights, out=across[:, :, outputs])
    for outputs, inputs, weights in _blocks(plan.band, tiles.shape[-1]):
        torch.bmm(weights.mT, across[:, inputs], out=tiles[:, outputs])
    tiles.mul_(plan.scale_y).mul_(plan.scale_x)


def _sample(tiles: Tensor, plan: _Plan, *, out: Tensor) -> None:
    """Write the views [N, 1, size, size] of the tiles [N, S, S] to ``out``."""
    points = plan.down + plan.along
    points.lerp_(points.clamp(-1, 1), 2)  # mirrored at the tile's edges; a crop reaches out by 21 % at most
    points.mul_(plan.ratio).add_(plan.ratio - 1)
    torch.minimum(points, plan.last, out=points)  # beyond it the interpolation would use pixels outside the tile
    grid = points.permute(0, 2, 3, 1)
    view = F.grid_sample(tiles[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    deviation = view - view.mean((-2, -1), keepdim=True)
    low, high = plan.decode[:, 3:5, None, None, None].unbind(1)
    torch.clamp(view.addcmul_(deviation, plan.contrast).add_(plan.offset), low, high, out=out)
