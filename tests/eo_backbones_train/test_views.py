"""Views: drawn reproducibly, resampled as torchvision does, antialiased, and blind to what lies outside a tile."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from eo_backbones_train.data.views import VIEW_PARAMS, draw_view_params, make_views
from eo_backbones_train.recipes.published import get_recipe
from eo_backbones_train.recipes.recipe import ViewPart

TILE = 256
NAN = math.nan
FULL = get_recipe("byol-full").views
MINI = get_recipe("byol-mini").views


def view_params(count: int = 1, **changes: float | Tensor) -> Tensor:
    """Parameters [2, count, P] of views that show the whole tile unchanged, but for the changes."""
    values: dict[str, float | Tensor] = dict.fromkeys(VIEW_PARAMS, 0.0)
    values |= {"side": 1.0, "centre_y": 0.5, "centre_x": 0.5, "cos": 1.0, "flip_y": 1.0, "flip_x": 1.0} | changes
    return torch.stack([torch.as_tensor(values[name]).expand(2, count) for name in VIEW_PARAMS], dim=-1)


def coded(image: Tensor, *, low: float = -2.0, high: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Fine integer codes [2, 1, S, S] of an image, its extent, and the coefficients that give it back."""
    steps = 100_000
    codes = ((image - low) / (high - low) * steps).round().int().expand(2, 1, *image.shape)
    extent = torch.tensor(image.shape, dtype=torch.float32).expand(2, 1, 2)
    decode = torch.tensor([low, (high - low) / steps, 0.0, low, high, NAN]).expand(2, 1, 6)
    return codes.contiguous(), extent, decode


def positions(size: int = TILE) -> tuple[Tensor, Tensor]:
    """Row and column of each pixel's centre."""
    centres = torch.arange(size) + 0.5
    row, column = torch.meshgrid(centres, centres, indexing="ij")
    return row, column


def smooth_image() -> Tensor:
    row, column = positions()
    return 0.4 * torch.sin(column / 17 + 1) + 0.3 * torch.cos(row / 13) + 0.2 * torch.sin((column + 2 * row) / 31)


# ---- drawing


def drawn(views: ViewPart = FULL) -> dict[str, Tensor]:
    """Columns [2, 2000] of one step."""
    return dict(zip(VIEW_PARAMS, draw_view_params(views, seed=3, step=5, global_batch=2000).unbind(-1), strict=True))


def test_the_same_arguments_give_the_same_parameters_and_any_other_step_or_seed_others() -> None:
    first = draw_view_params(MINI, seed=1, step=7, global_batch=16)
    torch.manual_seed(99)
    assert torch.equal(first, draw_view_params(MINI, seed=1, step=7, global_batch=16))
    assert first.shape == (2, 16, len(VIEW_PARAMS))
    for seed, step in ((1, 8), (2, 7), (17, 1)):
        assert not torch.equal(first, draw_view_params(MINI, seed=seed, step=step, global_batch=16))


def test_parameters_keep_to_their_ranges_and_fill_them() -> None:
    views = replace(FULL, brightness=0.05, contrast=0.3, rotation_degrees=90.0)
    columns = drawn(views)
    angle = torch.atan2(columns["sin"], columns["cos"]).rad2deg()
    for values, low, high in (
        (columns["side"].square(), 0.2, 1.0),  # the area
        (columns["centre_y"], 0.0, 1.0),
        (columns["centre_x"], 0.0, 1.0),
        (angle, -90.0, 90.0),
        (columns["blur_sigma"], 0.0, 2.0),
        (columns["brightness"], -0.05, 0.05),
        (columns["contrast"], -0.3, 0.3),
    ):
        margin = 0.01 * (high - low)
        assert low - 1e-4 <= values.min() < low + margin
        assert high - margin < values.max() <= high + 1e-4


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_probabilities_are_kept(probability: float) -> None:
    views = replace(FULL, flip_p=probability, rotation_p=probability, blur_p=probability)
    columns = drawn(views)
    happened = {
        "flip_y": columns["flip_y"] < 0,
        "flip_x": columns["flip_x"] < 0,
        "rotation": columns["cos"] != 1,
        "blur": columns["blur_sigma"] > 0,
    }
    for name, events in happened.items():
        # Four deviations of a mean over 4000 draws.
        assert events.double().mean() == pytest.approx(probability, abs=4 * (0.25 / 4000) ** 0.5), name


def test_the_two_views_of_a_pair_draw_for_themselves() -> None:
    side = drawn()["side"]
    correlation = torch.corrcoef(side)[0, 1]
    assert abs(correlation) < 4 / 2000**0.5


# ---- geometry


def test_the_second_crop_lies_as_near_to_the_first_as_the_spread_says() -> None:
    """Its place is the first's, plus ``spread`` times the way to an independent one; nothing else is drawn anew."""
    columns = [VIEW_PARAMS.index("centre_y"), VIEW_PARAMS.index("centre_x")]
    apart, near, nested = (
        draw_view_params(replace(MINI, spread=spread), seed=3, step=5, global_batch=64) for spread in (1.0, 0.25, 0.0)
    )
    first, independent = apart[0, :, columns], apart[1, :, columns]
    assert torch.allclose(near[1, :, columns], first + 0.25 * (independent - first), atol=1e-6)
    assert torch.equal(nested[1, :, columns], first)
    others = [column for column in range(len(VIEW_PARAMS)) if column not in columns]
    for params in (near, nested):
        assert torch.equal(params[0], apart[0])
        assert torch.equal(params[1, :, others], apart[1, :, others])


def test_co_registered_views_show_the_same_ground() -> None:
    """Cut, rotated and flipped alike; blur, brightness and contrast stay those that each view draws for itself."""
    views = replace(FULL, brightness=0.1, contrast=0.1)
    apart, alike = (
        draw_view_params(replace(views, co_registered=value), seed=3, step=5, global_batch=64)
        for value in (False, True)
    )
    own = [VIEW_PARAMS.index(name) for name in ("blur_sigma", "brightness", "contrast")]
    shared = [column for column in range(len(VIEW_PARAMS)) if column not in own]
    assert torch.equal(alike[0], apart[0])
    assert torch.equal(alike[1][:, own], apart[1][:, own])
    assert torch.equal(alike[1][:, shared], apart[0][:, shared])


@pytest.mark.parametrize("flip_x", [1, -1])
@pytest.mark.parametrize("flip_y", [1, -1])
@pytest.mark.parametrize(
    ("size", "side", "angle"), [(112, 160, 0), (112, 160, 30), (112, 128, 77), (64, 144, -140), (128, 96, 11)]
)
def test_one_resampling_equals_flip_rotate_crop_resize(
    size: int, side: int, angle: float, flip_y: int, flip_x: int
) -> None:
    """torchvision's antialiased chain in float32, with the same parameters, on a smooth image."""
    image = smooth_image()
    centre_y, centre_x = 120, 132
    radians = math.radians(angle)
    reach = side / 2 * (abs(math.cos(radians)) + abs(math.sin(radians)))
    params = view_params(
        side=side / TILE,
        centre_y=(centre_y - reach) / (TILE - 2 * reach),
        centre_x=(centre_x - reach) / (TILE - 2 * reach),
        cos=math.cos(radians),
        sin=math.sin(radians),
        flip_y=float(flip_y),
        flip_x=float(flip_x),
    )
    view = make_views(*coded(image), params, size)

    expected = image[None]
    if flip_x < 0:
        expected, centre_x = tv.horizontal_flip(expected), TILE - centre_x
    if flip_y < 0:
        expected, centre_y = tv.vertical_flip(expected), TILE - centre_y
    expected = tv.rotate(
        expected, angle, interpolation=InterpolationMode.BILINEAR, center=[float(centre_x), float(centre_y)]
    )
    top, left = centre_y - side // 2, centre_x - side // 2
    expected = tv.resized_crop(expected, top, left, side, side, [size, size], antialias=True)
    assert view.shape == (2, 1, 1, size, size)
    assert view.dtype == torch.float32
    error = (view[0, 0] - expected).abs()
    assert error.max() < 0.012  # of a deviation of 0.4
    assert error[:, 4:-4, 4:-4].max() < 0.006  # inside, where torchvision's kernels are not cut off


def test_the_untouched_view_of_equal_size_is_the_tile_itself() -> None:
    image = smooth_image()
    torch.testing.assert_close(make_views(*coded(image), view_params(), TILE)[0, 0, 0], image, rtol=0, atol=5e-5)


def test_a_linear_ramp_stays_exactly_linear() -> None:
    """Crop, rotation and blur of a plane sample that plane, to rounding, wherever no edge is near."""
    row, column = positions()
    ramp = 0.004 * column - 0.003 * row
    radians = math.radians(25)
    params = view_params(side=0.5, cos=math.cos(radians), sin=math.sin(radians), blur_sigma=1.5)
    view = make_views(*coded(ramp), params, 96)[0, 0, 0]
    offset = (torch.arange(96) + 0.5 - 48) / 96 * 128  # pixels of the tile from the crop's centre
    v, u = torch.meshgrid(offset, offset, indexing="ij")
    x = 128 + u * math.cos(radians) - v * math.sin(radians)
    y = 128 + u * math.sin(radians) + v * math.cos(radians)
    torch.testing.assert_close(view, 0.004 * x - 0.003 * y, rtol=0, atol=5e-5)


def test_a_blur_has_the_deviation_that_was_asked_for() -> None:
    """A Gaussian of sigma scales a wave of frequency f by exp(-2 pi^2 f^2 sigma^2)."""
    wave = torch.sin(2 * math.pi * 0.06 * positions()[1])
    for sigma in (0.8, 1.3, 2.0):
        view = make_views(*coded(wave), view_params(blur_sigma=sigma), TILE)[0, 0, 0, 20:-20, 20:-20]
        left = float(view.std() / wave.std())
        assert left == pytest.approx(math.exp(-2 * (math.pi * 0.06 * sigma) ** 2), rel=0.02)


# ---- antialiasing


@pytest.mark.parametrize("axis", [0, 1])
def test_what_the_view_cannot_hold_is_taken_out(axis: int) -> None:
    """256 to 112: the view holds up to 0.22 cycles a pixel; at most 0.10 of a sine at 0.40 may be left."""
    sine = torch.sin(2 * math.pi * 0.40 * positions()[axis])
    view = make_views(*coded(sine), view_params(), 112)[0]
    assert view.std() / sine.std() < 0.10
    assert view[..., 4:-4, 4:-4].abs().max() < 0.10


@pytest.mark.parametrize("axis", [0, 1])
def test_what_the_view_can_hold_is_kept(axis: int) -> None:
    sine = torch.sin(2 * math.pi * 0.05 * positions()[axis])
    view = make_views(*coded(sine), view_params(), 112)[0]
    assert view.std() / sine.std() > 0.94


def test_an_enlarged_crop_is_not_blurred() -> None:
    sine = torch.sin(2 * math.pi * 0.1 * positions()[1])
    crop = make_views(*coded(sine), view_params(side=0.25), 128)[0]  # 64 pixels shown in 128
    assert crop.std() / sine.std() > 0.94


# ---- edges and extents


def extreme_params() -> Tensor:
    """Views that reach beyond their tile in every direction, strongly blurred."""
    angles = torch.linspace(0, 2 * math.pi, 12)
    corner = torch.arange(12) % 2
    return view_params(
        12,
        cos=angles.cos(),
        sin=angles.sin(),
        side=torch.linspace(0.7, 1.0, 12),
        centre_y=corner.float(),
        centre_x=1.0 - corner,
        blur_sigma=torch.linspace(0, 2, 12),
    )


def test_a_constant_tile_gives_constant_views() -> None:
    codes = torch.full((2, 12, 100, 100), 7, dtype=torch.uint8)
    decode = torch.tensor([0.1, 0.1, 0.0, 0.0, 5.0, NAN]).expand(2, 12, 6)
    views = make_views(codes, torch.full((2, 12, 2), 100.0), decode, extreme_params(), 48)
    torch.testing.assert_close(views, torch.full_like(views, 0.8), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(60, 60), (60, 90), (90, 47)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_what_lies_outside_a_smaller_tile_never_shows(height: int, width: int, dtype: torch.dtype) -> None:
    inside = torch.randint(1, 256, (2, 12, height, width), generator=torch.Generator().manual_seed(0))
    decode = torch.tensor([0.0, 1 / 255, 0.0, 0.0, 1.0, NAN]).expand(2, 12, 6)
    extent = torch.tensor([float(height), float(width)]).expand(2, 12, 2)
    results = []
    for filling in (0, 255):
        codes = torch.full((2, 12, 100, 100), filling, dtype=dtype)
        codes[..., :height, :width] = inside.to(dtype)
        results.append(make_views(codes, extent, decode, extreme_params(), 32))
    assert torch.equal(*results)


def test_a_smaller_tile_gives_the_views_that_it_gives_alone() -> None:
    tile = torch.randint(0, 256, (2, 12, 60, 60), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    framed = torch.zeros(2, 12, 100, 100, dtype=torch.uint8)
    framed[..., :60, :60] = tile
    decode = torch.tensor([0.0, 1 / 255, 0.0, 0.0, 1.0, NAN]).expand(2, 12, 6)
    extent = torch.full((2, 12, 2), 60.0)
    alone, in_frame = (make_views(codes, extent, decode, extreme_params(), 32) for codes in (tile, framed))
    torch.testing.assert_close(in_frame, alone, rtol=0, atol=2e-3)  # the kernel of a larger frame reaches further


def test_beyond_its_edge_a_tile_is_mirrored() -> None:
    """At 45 degrees the whole tile's corners show what lies as far inside the edge as they lie outside."""
    image = smooth_image()
    params = view_params(cos=math.cos(math.pi / 4), sin=math.sin(math.pi / 4))
    view = make_views(*coded(image), params, TILE)[0, 0, 0]
    mirrored = torch.nn.functional.pad(image[None, None], (64, 64, 64, 64), mode="reflect")[0]
    expected = tv.center_crop(tv.rotate(mirrored, 45, interpolation=InterpolationMode.BILINEAR), [TILE, TILE])[0]
    assert (view - expected).abs().max() < 0.05  # torch's padding mirrors at pixel centres, ours at the edge
    assert (view - expected)[64:-64, 64:-64].abs().max() < 0.005


# ---- decoding


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_codes_become_clipped_normalised_values(dtype: torch.dtype) -> None:
    """Each tile has one code, so that each view shows its decoded value."""
    rows = [
        # q0, q1, q2, low, high, missing, code, value
        (0.0, 0.0, 1 / 65025, 0.0, 1.0, NAN, 51, 0.04),
        (-1.0, 0.01, 0.0, -1.0, 1.0, NAN, 250, 1.0),
        (-1.0, 0.01, 0.0, -0.5, 1.0, NAN, 10, -0.5),
        (0.3, 0.01, 0.0, 0.0, 1.0, NAN, 0, 0.3),
        (0.3, 0.01, 0.0, 0.0, 1.0, 0.0, 0, 0.0),
        (0.3, 0.01, 0.0, 0.0, 1.0, 0.0, 10, 0.4),
    ]
    table = torch.tensor(rows, dtype=torch.float64)
    codes = table[:, 6].to(dtype)[:, None, None].expand(2, 6, 40, 40).contiguous()
    decode = table[:, :6].float().expand(2, 6, 6)
    views = make_views(codes, torch.full((2, 6, 2), 40.0), decode, view_params(6, blur_sigma=1.0), 32)
    expected = table[:, 7].float().view(1, 6, 1, 1, 1).expand_as(views)
    torch.testing.assert_close(views, expected, rtol=0, atol=1e-5)


def test_eight_bit_and_wide_codes_give_equal_views() -> None:
    codes = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    decode = torch.tensor([-1.0, 0.001, 0.00003, -0.9, 0.9, 0.5]).expand(2, 3, 6)
    params = draw_view_params(MINI, seed=0, step=0, global_batch=3)
    views = [make_views(c, torch.full((2, 3, 2), 64.0), decode, params, 32) for c in (codes, codes.int())]
    torch.testing.assert_close(*views, rtol=0, atol=1e-6)


def test_brightness_and_contrast_act_in_units_of_the_clip_range() -> None:
    image = smooth_image()
    plain = make_views(*coded(image), view_params(), 112)
    changed = make_views(*coded(image), view_params(brightness=0.05, contrast=-0.5), 112)
    mean = plain.mean((-2, -1), keepdim=True)
    torch.testing.assert_close(changed, mean + 0.5 * (plain - mean) + 0.05 * 4.0, rtol=0, atol=1e-5)
    clipped = make_views(*coded(image), view_params(brightness=0.9), 112)
    assert clipped.max() <= 2.0


# ---- batches


def batch(pairs: int, size: int = 48) -> tuple[Tensor, Tensor, Tensor]:
    codes = torch.randint(0, 256, (2, pairs, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    decode = torch.tensor([0.0, 1 / 255, 0.0, 0.0, 1.0, NAN]).expand(2, pairs, 6)
    return codes, torch.full((2, pairs, 2), float(size)), decode


def test_a_sample_gets_the_same_view_in_whichever_share_of_the_batch_it_lies() -> None:
    params = draw_view_params(MINI, seed=0, step=0, global_batch=11)
    whole = make_views(*batch(11), params, 32)
    for share in (slice(0, 4), slice(4, 11)):
        part = make_views(*(tensor[:, share] for tensor in (*batch(11), params)), 32)
        torch.testing.assert_close(part, whole[:, share], rtol=0, atol=1e-6)


def test_shapes_are_static_and_nothing_waits_for_the_device() -> None:
    """Fake tensors have no values: any branch on a value, or copy of one to the host, would raise."""
    with FakeTensorMode():
        codes = torch.empty(2, 5, 64, 64, dtype=torch.uint8)
        views = make_views(codes, torch.empty(2, 5, 2), torch.empty(2, 5, 6), torch.empty(2, 5, len(VIEW_PARAMS)), 32)
    assert views.shape == (2, 5, 1, 32, 32)


def test_autocast_does_not_coarsen_the_views() -> None:
    params = draw_view_params(MINI, seed=0, step=0, global_batch=4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = make_views(*batch(4), params, 32)
    assert torch.equal(inside, make_views(*batch(4), params, 32))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_graph_replays_the_views_of_new_inputs() -> None:
    static = [
        tensor.cuda().contiguous() for tensor in (*batch(6), draw_view_params(MINI, seed=0, step=0, global_batch=6))
    ]
    make_views(*static, 32)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = make_views(*static, 32)
    params = draw_view_params(MINI, seed=0, step=1, global_batch=6)
    static[3].copy_(params)
    graph.replay()
    torch.testing.assert_close(result.cpu(), make_views(*batch(6), params, 32), rtol=0, atol=1e-4)
