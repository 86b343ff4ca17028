"""Features: streamed as computed at once, kept on disk, found again only if everything about them is the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eo_backbones.contract import standardized, unit_range
from eo_backbones.datasets import LabelledImages, open_dataset
from eo_backbones.device import fast_dtype, pick_device
from eo_backbones.errors import UserError
from eo_backbones.evaluation import encoders, features
from eo_backbones.evaluation.columns import BandChoice, choose_columns
from eo_backbones.evaluation.encoders import Encoder, Setting
from eo_backbones.evaluation.features import FeatureFile, default_cache_folder
from eo_backbones.inputs import UnitError
from eo_backbones.networks.state import state_digest
from support.synthetic_data import eurosat_ms_folder, eurosat_rgb_folder  # noqa: F401  fixtures

CPU = torch.device("cpu")
SETTING = Setting(size=32, scaling="contract", spec=unit_range())
STATS = Encoder(embed=encoders.image_statistics, digest="stats-1", stored_as=torch.float32)


@pytest.fixture
def rgb(eurosat_rgb_folder: Path) -> LabelledImages:  # noqa: F811
    return open_dataset("eurosat-rgb", eurosat_rgb_folder)


@pytest.fixture
def multispectral(eurosat_ms_folder: Path) -> LabelledImages:  # noqa: F811
    return open_dataset("eurosat-ms", eurosat_ms_folder)


def tiny_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ).eval()


def features_of(
    data: LabelledImages,
    encoder: Encoder,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    band: str = "B04",
    batch_size: int = 128,
    tick: Callable[[int], None] = lambda _: None,
) -> Tensor:
    (choice,) = choose_columns(data, [band])
    file = FeatureFile(folder, features.feature_key(data, encoder.digest, SETTING, choice), encoder.stored_as or dtype)
    job = features.FeatureJob(encoder=encoder, setting=SETTING, band=choice, file=file)
    features.extract_features(data, [job], device=CPU, dtype=dtype, tick=tick, batch_size=batch_size)
    return file.read()


def test_streamed_features_are_those_of_each_image(rgb: LabelledImages, tmp_path: Path) -> None:
    """Over several batches; value by value from the pixels: grey level x 2750 / 255 / 10000, halved in size."""
    found = features_of(rgb, STATS, tmp_path, band="red", batch_size=7)
    grey = rgb.read(5, ["B04"])[0].astype(np.float64)
    small = nn.functional.interpolate(
        torch.from_numpy(grey * 0.275 / 255)[None, None], (32, 32), mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(found[5], encoders.image_statistics(small)[0], atol=1e-6)
    assert found.shape == (len(rgb), 9)


def test_all_bands_of_a_pass_are_read_at_once(rgb: LabelledImages, tmp_path: Path) -> None:
    reads = []

    def counted(path: Path, bands: object) -> np.ndarray:
        reads.append(path)
        return rgb.reader(path, bands)  # type: ignore[arg-type]

    data = replace(rgb, reader=counted)
    jobs = [
        features.FeatureJob(
            encoder=STATS, setting=SETTING, band=band, file=FeatureFile(tmp_path, {"b": band.label}, torch.float32)
        )
        for band in choose_columns(data, ["B02", "B03", "B04"])
    ]
    features.extract_features(data, jobs, device=CPU, dtype=torch.float32, tick=lambda _: None)
    assert len(reads) == len(data)
    assert not torch.equal(jobs[0].file.read(), jobs[2].file.read())


@pytest.mark.parametrize(
    ("band", "position"), [("B8A", 12), ("B09", 8), ("paper-order:B8A", 8), ("paper-order:B12", 12)]
)
def test_bands_by_name_and_in_the_papers_order(
    multispectral: LabelledImages, tmp_path: Path, band: str, position: int
) -> None:
    """EuroSAT stores B8A last; read in SEN12MS's order, the name B8A gets water vapour (docs/decisions/0007)."""
    import rasterio

    choices = choose_columns(multispectral, [band.partition(":")[0]])
    choice = next(choice for choice in choices if choice.label == band)
    with rasterio.open(multispectral.paths[3]) as file:
        expected = file.read(position + 1)
    np.testing.assert_array_equal(multispectral.read(3, [choice.source])[0], expected)
    assert choice.treated_as == band.removeprefix("paper-order:")


def test_band_choice(rgb: LabelledImages, multispectral: LabelledImages) -> None:
    assert [c.label for c in choose_columns(rgb, [])] == ["B02", "B03", "B04"]
    assert len(choose_columns(multispectral, ["paper"])) == 10
    with pytest.raises(UserError, match="eurosat-rgb has no band B08; it has B04, B03, B02"):
        choose_columns(rgb, ["nir"])
    with pytest.raises(UserError, match="unknown band 'B99'"):
        choose_columns(rgb, ["B99"])
    with pytest.raises(UserError, match="named more than once"):
        choose_columns(rgb, ["red", "B04"])
    with pytest.raises(UserError, match="paper-order is a reading of eurosat-ms"):
        choose_columns(rgb, ["paper-order"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stored_features_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    """bfloat16 keeps the range of float32: no small feature becomes 0, no large one infinite."""
    values = (torch.tensor([[1e-20, 3.0, -7e4], [1.0, 2.5, 1e-3]]) if dtype != torch.float16 else torch.rand(2, 3)).to(
        dtype
    )
    file = FeatureFile(tmp_path, {"a": 1}, dtype)
    assert not file.exists()
    with file.writing(2) as writer:
        writer.put(1, values[1:])
        writer.put(0, values[:1])
    assert file.exists()
    assert torch.equal(file.read(), values)


def test_a_failed_pass_leaves_nothing(tmp_path: Path) -> None:
    file = FeatureFile(tmp_path, {"a": 1}, torch.float32)
    with pytest.raises(RuntimeError), file.writing(4) as writer:
        writer.put(0, torch.zeros(2, 3))
        raise RuntimeError
    assert not file.exists()
    assert list(file.path.parent.iterdir()) == []


def test_everything_that_decides_features_is_in_their_key(rgb: LabelledImages, tmp_path: Path) -> None:
    red, green = choose_columns(rgb, ["B04", "B03"])
    base = features.feature_key(rgb, "w", SETTING, red)
    fewer = replace(rgb, paths=rgb.paths[:-1], labels=rgb.labels[:-1])
    others = [
        features.feature_key(rgb, "v", SETTING, red),
        features.feature_key(rgb, "w", SETTING, green),
        features.feature_key(fewer, "w", SETTING, red),
        features.feature_key(rgb, "w", replace(SETTING, size=64), red),
        features.feature_key(rgb, "w", replace(SETTING, spec=standardized()), red),
        features.feature_key(rgb, "w", SETTING, BandChoice("x", "B03", "B04")),
    ]
    paths = {FeatureFile(tmp_path, key, torch.float32).path for key in [base, *others]}
    paths.add(FeatureFile(tmp_path, base, torch.bfloat16).path)
    assert len(paths) == len(others) + 2
    assert FeatureFile(tmp_path, features.feature_key(rgb, "w", SETTING, red), torch.float32).path in paths


def test_frozen_means_frozen(rgb: LabelledImages, tmp_path: Path) -> None:
    """Extraction leaves BatchNorm's running statistics as they were (lightning#15062, virtex#16)."""
    network = tiny_network()
    before = state_digest(network)
    features_of(rgb, Encoder(embed=network, digest="n"), tmp_path)
    assert state_digest(network) == before


def test_adapted_networks_standardise_their_own_band(rgb: LabelledImages) -> None:
    """After adaptation, activations over the training images have the mean and deviation that BatchNorm promises."""
    network = nn.Sequential(nn.BatchNorm2d(1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    encoder = Encoder(embed=network, digest="n")
    bands = choose_columns(rgb, ["B02", "B04"])
    train = np.arange(0, len(rgb), 2)
    adapted = features.adapt_batch_norm(
        rgb, encoder, SETTING, bands, train, device=CPU, dtype=torch.float32, tick=lambda _: None
    )
    for band in bands:
        images = features.ModelInput(rgb, SETTING, band)(
            torch.from_numpy(np.stack([rgb.read(int(i), [band.source])[0] for i in train]))
        )
        norm = adapted[band.label].network[0]
        assert norm.running_mean.item() == pytest.approx(images.mean().item(), rel=1e-4)
        assert norm.running_var.item() == pytest.approx(images.var().item(), rel=1e-4)
    digests = {entry.digest for entry in adapted.values()} | {"n"}
    digests.add(features.adapted_digest(rgb, encoder, "B04", train[1:]))
    assert len(digests) == 4
    assert network[0].running_mean.item() == 0


def test_an_interrupt_restores_the_layers_and_leaves_no_file(rgb: LabelledImages, tmp_path: Path) -> None:
    """Ctrl-C in the middle of a pass: no gradients switched off, no autocast left on, nothing half-written."""

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features_of(rgb, Encoder(embed=tiny_network(), digest="n"), tmp_path, dtype=torch.bfloat16, tick=killed)
    assert not list(tmp_path.rglob("*.*"))
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_half_precision_changes_features_little(rgb: LabelledImages, tmp_path: Path) -> None:
    """As measured: below 1 %; the effect on the metric is in benchmarks/."""
    encoder = Encoder(embed=encoders.random_resnet50(0), digest="r")
    few = replace(rgb, paths=rgb.paths[:8], labels=rgb.labels[:8])
    full = features_of(few, encoder, tmp_path)
    half = features_of(few, encoder, tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).norm() < 0.01 * full.norm()


def test_images_of_two_sizes_are_refused(rgb: LabelledImages) -> None:
    def uneven(path: Path, bands: list[str]) -> np.ndarray:
        return np.zeros((len(bands), 8, 8 if path == rgb.paths[2] else 9), np.uint8)

    with pytest.raises(UserError, match=r"has 8 x 8 pixels, other images have 9 x 8"):
        list(features.read_batches(replace(rgb, reader=uneven), ["B04"], np.arange(5)))  # type: ignore[arg-type]


def test_pixels_come_in_order_whatever_thread_reads_them(rgb: LabelledImages) -> None:
    rows = np.random.default_rng(0).permutation(len(rgb))
    got = [(start, batch) for start, batch in features.read_batches(rgb, ["B03"], rows, batch_size=3)]
    assert [start for start, _ in got] == list(range(0, len(rgb), 3))
    expected = np.stack([rgb.read(int(row), ["B03"]) for row in rows])
    np.testing.assert_array_equal(torch.cat([batch for _, batch in got]), expected)


def test_values_of_another_unit_are_refused(multispectral: LabelledImages, tmp_path: Path) -> None:
    wrong = replace(multispectral, units=("reflectance",) * len(multispectral.bands))
    with pytest.raises(UnitError, match="unit='dn'"):
        features_of(wrong, STATS, tmp_path)
    assert not list(tmp_path.rglob("*.npy"))


def test_default_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EO_BACKBONES_CACHE", str(tmp_path / "own"))
    assert default_cache_folder() == tmp_path / "own"
    monkeypatch.delenv("EO_BACKBONES_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "eo_backbones"


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    assert fast_dtype(CPU) in {torch.bfloat16, torch.float32}
    with pytest.raises(UserError, match="unknown device 'tpu'; did you mean cpu"):
        pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cpu"):
            pick_device("cuda")
        assert pick_device("auto").type == "cpu"
