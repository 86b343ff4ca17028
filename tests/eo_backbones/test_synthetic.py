"""Synthetic scenes: repeatable, physically plausible, neither trivial nor random, and true to the layouts on disk."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eo_backbones.bands import BANDS, LAYOUTS, S1_BANDS, S2_BANDS
from eo_backbones.datasets.eurosat import EUROSAT_CLASSES
from eo_backbones.datasets.synthetic import EQUIVALENT_LOOKS, scene, speckle, synthetic_images
from eo_backbones.datasets.synthetic_files import write_pairs, write_sen12ms
from eo_backbones.errors import UserError
from eo_backbones.rasters.reader import read_bands
from support.synthetic_layouts import write_bigearthnet, write_dfc2020, write_sen12mscr


def test_a_scene_depends_on_seed_class_index_and_size_only() -> None:
    one, two = scene(5, "River"), scene(5, "River", bands=["VV", "B08"])
    np.testing.assert_array_equal(one.s2["B08"], two.s2["B08"])
    np.testing.assert_array_equal(one.s1["VV"], two.s1["VV"])
    for other in (scene(6, "River"), scene(5, "Forest"), scene(5, "River", index=1)):
        assert (other.s2["B08"] != one.s2["B08"]).mean() > 0.9


def test_images_in_memory_are_the_scenes_in_turn() -> None:
    images, labels = synthetic_images(2, ["nir", "VH"], seed=3, size=32)
    assert (images.shape, images.dtype) == ((20, 2, 32, 32), np.float32)
    assert labels.tolist() == [*range(10), *range(10)]
    made = scene(3, "SeaLake", 32, index=1)
    np.testing.assert_array_equal(images[19], np.stack([made.s2["B08"], made.s1["VH"]]))


def test_values_are_whole_digital_numbers_and_plausible_decibels() -> None:
    for name in EUROSAT_CLASSES:
        made = scene(0, name, size=66)  # not a multiple of the 60 m grid's six pixels less one
        assert tuple(made.s2) == S2_BANDS
        assert tuple(made.s1) == S1_BANDS
        for values in made.s2.values():
            assert values.shape == (66, 66)
            assert np.array_equal(values, np.rint(values))
            assert values.min() >= 1
            assert values.max() < 28_001
        assert all(-60 <= values.min() < values.max() < 30 for values in made.s1.values())
        assert set(np.unique(made.classmap)) <= {1, 2, 4, 6, 7, 9, 10}


def test_spectra_order_as_in_nature() -> None:
    """Vegetation rises from red to near infrared, water falls, radar sees houses bright and water dark."""
    red, nir, swir, vv = np.split(synthetic_images(20, ["B04", "B08", "B11", "VV"], seed=0)[0].mean((2, 3)), 4, axis=1)
    mean = {
        name: [float(band[position::10].mean()) for band in (red, nir, swir, vv)]
        for position, name in enumerate(EUROSAT_CLASSES)
    }
    assert mean["Forest"][1] > 4 * mean["Forest"][0]
    assert mean["SeaLake"][1] < mean["SeaLake"][0]
    assert mean["AnnualCrop"][2] > mean["AnnualCrop"][0] > mean["Forest"][0]
    assert mean["Residential"][3] > mean["Pasture"][3] + 2 > mean["SeaLake"][3] + 6


def test_class_means_follow_the_real_images() -> None:
    """Grey values of B04 in EuroSAT RGB, measured on 300 images a class, times 10.78 (2750 digital numbers are 255)."""
    real = dict(zip(EUROSAT_CLASSES, (1411, 425, 1039, 933, 1345, 672, 1290, 1063, 746, 520), strict=True))
    images, labels = synthetic_images(20, ["B04"], seed=0)
    for position, name in enumerate(EUROSAT_CLASSES):
        assert images[labels == position].mean() == pytest.approx(real[name], rel=0.3), name


@pytest.mark.parametrize(("name", "gsd_px", "share"), [("B05", 2, 0.3), ("B09", 6, 0.2)])
def test_coarse_bands_are_smooth_on_the_10_m_grid(name: str, gsd_px: int, share: float) -> None:
    """Beyond the highest frequency that the native grid can hold, hardly any of a 10 m band's detail is left."""
    images, labels = synthetic_images(8, ["B03", name], seed=1)
    town = images[labels == EUROSAT_CLASSES.index("Residential")]
    power = np.abs(np.fft.fft(town - town.mean((2, 3), keepdims=True), axis=3)) ** 2
    beyond = np.abs(np.fft.fftfreq(64)) > 0.5 / gsd_px
    fine, coarse = power[..., beyond].sum((0, 2, 3)) / power.sum((0, 2, 3))
    assert fine > 0.04
    assert coarse < share * fine


def test_the_native_grid_has_the_native_size() -> None:
    made = scene(0, "Highway", 120, native=True, level="L2A")
    assert {name: values.shape[0] for name, values in made.s2.items()} == {
        name: 1200 // BANDS[name].gsd_m for name in S2_BANDS
    }
    # Without the light that the air scatters, blue falls most and the short-wave infrared hardly.
    above = scene(0, "Highway", 120, native=True)
    lost = {name: float((above.s2[name] - made.s2[name]).mean()) for name in ("B02", "B04", "B12")}
    assert lost["B02"] > 400 > lost["B04"] > 100 > 30 > lost["B12"] > 0


def test_speckle_has_the_looks_and_the_correlation_of_sentinel_1() -> None:
    field = speckle((512, 512), np.random.default_rng(0))
    assert field.mean() == pytest.approx(1, abs=0.02)
    assert field.mean() ** 2 / field.var() == pytest.approx(EQUIVALENT_LOOKS, rel=0.05)
    deviation = field - field.mean()
    correlation = [(deviation[:, lag:] * deviation[:, :-lag]).mean() / field.var() for lag in (1, 2, 4)]
    assert correlation == pytest.approx([0.8, 0.4, 0.0], abs=0.04)
    assert field.min() > 0


def statistics(images: np.ndarray) -> np.ndarray:
    pixels = images.reshape(len(images), -1)
    percentiles = np.percentile(pixels, (5, 25, 50, 75, 95), axis=1).T
    return np.column_stack([pixels.mean(1), pixels.std(1), percentiles])


def test_a_probe_is_neither_trivial_nor_random() -> None:
    bands = ("B02", "B04", "B08", "B11", "VV")
    images, labels = synthetic_images(40, bands, seed=0)
    train, test = slice(0, 250), slice(250, None)
    for channel, name in enumerate(bands):
        features = {
            "statistics": statistics(images[:, channel]),
            "pixels": images[:, channel, ::4, ::4].reshape(len(images), -1),
        }
        accuracy = {}
        for kind, strength in (("statistics", 1.0), ("pixels", 0.01)):
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
            probe.fit(features[kind][train], labels[train])
            accuracy[kind] = probe.score(features[kind][test], labels[test])
        assert 0.35 < accuracy["statistics"] < 0.75, name
        assert accuracy["pixels"] < accuracy["statistics"] - 0.1, name


def test_unknown_classes_and_bands_are_refused() -> None:
    with pytest.raises(UserError, match="unknown synthetic class 'Forrest'; did you mean Forest"):
        scene(0, "Forrest")
    with pytest.raises(UserError, match="unknown band"):
        synthetic_images(1, ["B99"], seed=0)


def listing(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.tif"))


def profile(path: Path) -> tuple[object, ...]:
    with rasterio.open(path) as source:
        described = source.descriptions if any(source.descriptions) else None
        compression = source.compression.name if source.compression else None
        return source.count, source.dtypes[0], source.interleaving.name, compression, source.res, described


def test_sen12ms_files_are_like_the_original(tmp_path: Path) -> None:
    write_sen12ms(tmp_path, scenes=("ROIs1970_fall/139",), patches=2, size=48)
    assert listing(tmp_path) == [
        f"ROIs1970_fall/{sensor}_139/ROIs1970_fall_{sensor}_139_p{patch}.tif"
        for sensor in ("s1", "s2")
        for patch in (1, 2)
    ]
    folder = tmp_path / "ROIs1970_fall"
    kind = ("pixel", None, (10.0, 10.0), None)
    assert profile(folder / "s2_139" / "ROIs1970_fall_s2_139_p1.tif") == (13, "uint16", *kind)
    assert profile(folder / "s1_139" / "ROIs1970_fall_s1_139_p1.tif") == (2, "float32", *kind)


def test_the_original_sen12ms_file_has_that_profile(shared_data: Path) -> None:
    folder = shared_data / "sen12ms_layout" / "ROIs1970_fall"
    kind = ("pixel", None, (10.0, 10.0), None)
    assert profile(folder / "s2_139" / "ROIs1970_fall_s2_139_p839.tif") == (13, "uint16", *kind)
    assert profile(folder / "s1_139" / "ROIs1970_fall_s1_139_p839.tif") == (2, "float32", *kind)


def test_dfc2020_and_sen12mscr_names(tmp_path: Path) -> None:
    write_dfc2020(tmp_path / "dfc", validation=1, test=1, size=16)
    assert listing(tmp_path / "dfc") == sorted(
        f"ROIs0000_{part}/{sensor}_{folder}/ROIs0000_{part}_{sensor}_0_p0.tif"
        for part, folder in (("validation", "validation"), ("test", "0"))
        for sensor in ("s1", "s2", "dfc")
    )
    with rasterio.open(tmp_path / "dfc/ROIs0000_test/dfc_0/ROIs0000_test_dfc_0_p0.tif") as source:
        np.testing.assert_array_equal(source.read(1), scene(0, "Forest", 16, index=1).classmap)
    write_sen12mscr(tmp_path / "cr", patches=1, size=16)
    assert listing(tmp_path / "cr") == [
        f"ROIs1158_spring_{sensor}/{sensor}_1/ROIs1158_spring_{sensor}_1_p1.tif" for sensor in ("s1", "s2", "s2_cloudy")
    ]


def test_bigearthnet_names_and_sizes(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path, patches=1)
    patch = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
    folder = tmp_path / "BigEarthNet-S2" / patch.removesuffix("_26_57") / patch
    assert listing(folder) == sorted(f"{patch}_{name}.tif" for name in LAYOUTS["bigearthnet-s2"])
    for name, size in (("B02", 120), ("B8A", 60), ("B09", 20)):
        with rasterio.open(folder / f"{patch}_{name}.tif") as source:
            assert (source.width, source.count, source.dtypes[0], source.res[0]) == (size, 1, "uint16", 1200 / size)
    radar = "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_26_57"
    assert listing(tmp_path / "BigEarthNet-S1") == [
        f"{radar.removesuffix('_33UUP_26_57')}/{radar}/{radar}_{name}.tif" for name in ("VH", "VV")
    ]


def test_pairs_have_names_sizes_and_display_values(tmp_path: Path) -> None:
    write_pairs(tmp_path / "raw", count=3, sizes=(32, 48))
    assert listing(tmp_path / "raw") == [f"{s}/synthetic_{i:04d}.tif" for s in ("s1", "s2") for i in range(3)]
    assert read_bands(tmp_path / "raw/s2/synthetic_0001.tif", ["B8A"]).shape == (1, 48, 48)
    raw = read_bands(tmp_path / "raw/s2/synthetic_0002.tif", ["B11", "B03"])
    write_pairs(tmp_path / "shown", count=3, sizes=(32, 48), s2_bands=("B03", "B11"), s1_bands=("VV",), display=True)
    shown = read_bands(tmp_path / "shown/s2/synthetic_0002.tif", ["B11", "B03"])
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, np.rint(raw / 2750 * 255).clip(0, 255))
    vv = read_bands(tmp_path / "raw/s1/synthetic_0002.tif", ["VV"])
    shown_vv = read_bands(tmp_path / "shown/s1/synthetic_0002.tif", ["VV"])
    np.testing.assert_array_equal(shown_vv, np.rint((vv + 25) / 25 * 255).clip(0, 255))
