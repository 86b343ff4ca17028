"""The same values, missing pixels and metadata through the Python API and every command that reads images.

What is refused by one must be refused by all with the same advice; what is accepted must give what plainly written
files with the same values give.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

import eo_backbones
from eo_backbones.cli import main as library_cli
from eo_backbones.contract import standardized
from eo_backbones.datasets.synthetic import scene
from eo_backbones.errors import UserError
from eo_backbones_train.cli import main as trainer_cli
from support.tiny_encoders import write_tiny_encoder

SIZE_PX = 32
CLASSES = ("Forest", "Residential")
PER_CLASS = 6

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image of one band as it is stored, and what its file says about it."""

    values: Array
    nodata: float | None = None
    mask: Array | None = None
    scale: float | None = None
    offset: float | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of input.

    Attributes:
        band: what the images hold.
        store: digital numbers or dB -> what is written.
        declared: options of the command line.
        refused: what the one line of the refusal must hold; empty where the input is accepted.
        same_as: digital numbers or dB -> image without any peculiarity that must give the same.
        in_python: whether Python, which gets values without metadata, has the same answer.
        of_sets: whether it takes several images to tell, so that ``embed`` cannot.
    """

    band: str = "B04"
    store: Callable[[Array], Image]
    declared: Sequence[str] = ()
    refused: tuple[str, ...] = ()
    same_as: Callable[[Array], Image] | None = None
    in_python: bool = True
    of_sets: bool = False
    keywords: Mapping[str, Any] = field(default_factory=dict)


def plain(values: Array) -> Image:
    return Image(values=values)


def with_odd_pixels(values: Array) -> Array:
    odd = values.copy()
    odd[0, :3] = 5.01, -0.21, -1.0
    return odd


def left_edge(values: Array, value: float) -> Array:
    """Return the values with the left fifth replaced."""
    changed = values.copy()
    changed[:, : SIZE_PX // 5] = value
    return changed


def missing_left_edge(values: Array) -> Image:
    return Image(values=left_edge(values.astype(np.float32), np.nan))


def masked(values: Array) -> Image:
    mask = np.full(values.shape, 255, np.uint8)
    mask[:, : SIZE_PX // 5] = 0
    return Image(values=left_edge(values, 20_000), mask=mask)


def linear(values: Array) -> Array:
    power: Array = (10 ** (values.astype(np.float64) / 10)).astype(np.float32)
    return power


CASES: Mapping[str, Case] = {
    "fractions as digital numbers": Case(
        store=lambda dn: Image(values=with_odd_pixels(dn.astype(np.float32) / 10_000)),
        refused=("reflectance",),
    ),
    "percent as digital numbers": Case(
        store=lambda dn: Image(values=dn.astype(np.float32) / 100), refused=("scale",), keywords={}
    ),
    "digital numbers as reflectance": Case(
        store=plain,
        declared=("--unit", "reflectance"),
        keywords={"unit": "reflectance"},
        refused=("dn",),
    ),
    "standardised values": Case(
        store=lambda dn: Image(values=((dn - dn.mean()) / dn.std()).astype(np.float32)), refused=("standardised",)
    ),
    "linear backscatter as dB": Case(
        band="VV",
        store=lambda db: Image(values=np.where(np.arange(SIZE_PX) == 3, np.float32(-1e-4), linear(db))),
        refused=("linear",),
    ),
    "dB as linear backscatter": Case(
        band="VV", store=plain, declared=("--unit", "VV=linear"), keywords={"unit": "linear"}, refused=("db",)
    ),
    "uncalibrated amplitude": Case(
        band="VV", store=lambda db: Image(values=(np.sqrt(linear(db)) * 1000).astype(np.uint16)), refused=("calibrate",)
    ),
    "a collar of 0 dB": Case(band="VV", store=lambda db: Image(values=left_edge(db, 0.0)), refused=("nodata", "0")),
    "the same with --nodata 0": Case(
        band="VV",
        store=lambda db: Image(values=left_edge(db, 0.0)),
        declared=("--nodata", "0"),
        keywords={"nodata": 0},
        same_as=missing_left_edge,
    ),
    "undeclared -9999": Case(
        store=lambda dn: Image(values=left_edge(dn.astype(np.int16), -9999)), refused=("nodata", "-9999")
    ),
    "undeclared 65535 in uint16": Case(
        store=lambda dn: Image(values=left_edge(dn, 65_535)), refused=("nodata", "65535")
    ),
    "declared nodata in int16": Case(
        store=lambda dn: Image(values=left_edge(dn.astype(np.int16), -9999), nodata=-9999),
        same_as=missing_left_edge,
        in_python=False,
    ),
    "declared nodata in uint16": Case(
        store=lambda dn: Image(values=left_edge(dn, 65_535), nodata=65_535), same_as=missing_left_edge, in_python=False
    ),
    "a mask in the file": Case(store=masked, same_as=missing_left_edge, in_python=False),
    "tags of scale and offset": Case(
        store=lambda dn: Image(values=dn + 1000, scale=1e-4, offset=-0.1),
        same_as=lambda dn: Image(values=dn.astype(np.float32)),
        in_python=False,
    ),
    "--offset -1000": Case(
        store=lambda dn: Image(values=dn + 1000),
        declared=("--offset", "-1000"),
        keywords={"offset": -1000.0},
        same_as=lambda dn: Image(values=dn.astype(np.float32)),
    ),
    "tags that contradict the declared unit": Case(
        store=lambda dn: Image(values=dn, scale=2.75e-5, offset=-0.2),
        declared=("--unit", "dn"),
        refused=("--scale", "2.75e-05"),
        in_python=False,
    ),
    "an offset that nothing states": Case(
        store=lambda dn: Image(values=dn + 1000),
        refused=("looks like +1000", "--offset -1000", "--offset 0"),
        in_python=False,
        of_sets=True,
    ),
    "no valid pixel": Case(store=lambda dn: Image(values=np.full_like(dn, 7), nodata=7), refused=(), in_python=False),
}


def images(case: Case, count: int) -> list[Array]:
    """Return digital numbers uint16, or dB float32, of so many images; classes take turns."""
    made = [scene(1, CLASSES[i % len(CLASSES)], SIZE_PX, index=i, bands=(case.band,)) for i in range(count)]
    if case.band == "VV":
        return [np.asarray(one.s1["VV"], np.float32) for one in made]
    return [one.s2[case.band].astype(np.uint16) for one in made]


def write(path: Path, image: Image, band: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile: dict[str, Any] = {"driver": "GTiff", "count": 1, "height": SIZE_PX, "width": SIZE_PX}
    profile |= {"crs": "EPSG:32632", "transform": Affine(10, 0, 5e5, 0, -10, 5e6), "dtype": image.values.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", nodata=image.nodata, **profile) as file,
    ):
        file.write(image.values, 1)
        file.descriptions = (band,)
        if image.mask is not None:
            file.write_mask(image.mask)
        if image.scale is not None:
            file.scales, file.offsets = (image.scale,), (image.offset or 0.0,)
    return path


def write_classes(folder: Path, case: Case, stored: Callable[[Array], Image]) -> list[Path]:
    return [
        write(folder / CLASSES[i % len(CLASSES)] / f"image_{i}.tif", stored(values), case.band)
        for i, values in enumerate(images(case, PER_CLASS * len(CLASSES)))
    ]


def run(main: Callable[..., Any], *words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    return int(end.value.code or 0)


Command = Callable[[Path, Case, Callable[[Array], Image], Sequence[str], Path], tuple[int, Path]]
"""Folder to work in, case, how images are stored, options, folder with models -> status and what was to be written."""


def embed(folder: Path, case: Case, stored: Callable[[Array], Image], options: Sequence[str], models: Path) -> Any:
    image = write(folder / "scene.tif", stored(images(case, 1)[0]), case.band)
    words = ["--model", f"local-dir:{models / 'encoder'}", "--bands", case.band, "--size", SIZE_PX, "--stride", SIZE_PX]
    out = folder / "out.tif"
    return run(library_cli.main, "embed", image, *words, "--max-nodata", "0.5", "--out", out, *options), out


def predict(folder: Path, case: Case, stored: Callable[[Array], Image], options: Sequence[str], models: Path) -> Any:
    files, out = write_classes(folder / "images", case, stored), folder / "out.csv"
    return run(library_cli.main, "predict", *files, "--model", models / case.band, "--out", out, *options), out


def finetune(folder: Path, case: Case, stored: Callable[[Array], Image], options: Sequence[str], models: Path) -> Any:
    write_classes(folder / "images", case, stored)
    out = folder / "finetuned"
    words = ["--model", f"local-dir:{models / 'encoder'}", "--bands", case.band, "--epochs", 2, "--no-tensorboard"]
    return run(trainer_cli.main, "finetune", "--data", folder / "images", *words, "--out", out, *options), out


def evaluate(folder: Path, case: Case, stored: Callable[[Array], Image], options: Sequence[str], models: Path) -> Any:
    write_classes(folder / "images", case, stored)
    out = folder / "evaluated"
    words = ["--models", f"local-dir:{models / 'encoder'}", "--size", SIZE_PX, "--cache", folder / "cache"]
    words += ["--dataset", "folder", "--root", folder / "images", "--protocol", "knn"]
    return run(library_cli.main, "evaluate", *words, "--out", out, *options), out


def prepare(folder: Path, case: Case, stored: Callable[[Array], Image], options: Sequence[str], models: Path) -> Any:
    del models
    other = Case(band="B04" if case.band == "VV" else "VV", store=plain)
    for one, store in ((case, stored), (other, plain)):
        sensor = "s1" if one.band == "VV" else "s2"
        for i, values in enumerate(images(one, 8)):
            write(folder / "pairs" / sensor / f"{i}.tif", store(values), one.band)
    named = [f"{case.band}={word}" if word[0] in "-0123456789dr" and word[:2] != "--" else word for word in options]
    words = ["--layout", "pairs", "--root", folder / "pairs", "--workers", 1, "--bands", "B04", "--bands", "VV"]
    return run(trainer_cli.main, "prepare", *words, "--out", folder / "store", *named), folder / "store"


COMMANDS: Mapping[str, Command] = {
    "embed": embed,
    "predict": predict,
    "finetune": finetune,
    "evaluate": evaluate,
    "prepare": prepare,
}


def values_of(written: Path) -> Array:
    """Return the numbers that a command wrote."""
    if written.suffix == ".tif":
        with rasterio.open(written) as file:
            return np.asarray(file.read())
    if written.suffix == ".csv":
        with written.open(newline="") as table:
            rows = list(csv.DictReader(table))
        return np.array([[float(row[name]) for name in row if name.startswith("p_")] for row in rows])
    if (written / "model.safetensors").is_file():
        from safetensors.numpy import load_file

        tensors = load_file(written / "model.safetensors")
        return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])
    if (written / "results.csv").is_file():
        with (written / "results.csv").open(newline="") as table:
            return np.array([[float(row["f1_weighted"]), float(row["f1_low"])] for row in csv.DictReader(table)])
    return np.stack([np.load(path) for path in sorted(written.glob("tiles-*.npy"))]).astype(np.float64)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and a classifier of each band that was fine-tuned on plain images."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_encoder(folder / "encoder", spec=standardized())
    for band in ("B04", "VV"):
        status, out = finetune(folder / f"{band} data", Case(band=band, store=plain), plain, (), folder)
        assert status == 0
        out.rename(folder / band)
    return folder


REFUSED = [name for name, case in CASES.items() if case.same_as is None]
ACCEPTED = [name for name, case in CASES.items() if case.same_as is not None]


@pytest.mark.parametrize(
    ("kind", "command"),
    [(kind, name) for kind in REFUSED for name in COMMANDS if name != "embed" or not CASES[kind].of_sets],
)
def test_every_command_refuses_with_the_same_advice(
    kind: str, command: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[kind]
    status, out = COMMANDS[command](tmp_path, case, case.store, case.declared, models)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (status, len(errors)) == (2, 1), errors
    for word in case.refused:
        assert word in errors[0]
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ACCEPTED)
def test_every_command_reads_what_the_file_means(kind: str, command: str, models: Path, tmp_path: Path) -> None:
    case = CASES[kind]
    assert case.same_as is not None
    status, out = COMMANDS[command](tmp_path / "a", case, case.store, case.declared, models)
    expected_status, expected = COMMANDS[command](tmp_path / "b", case, case.same_as, (), models)
    assert (status, expected_status) == (0, 0)
    tolerance = 1 if command == "prepare" else 1e-5  # codes of integers come from a table, of floats from a formula
    np.testing.assert_allclose(values_of(out), values_of(expected), atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("kind", [name for name, case in CASES.items() if case.in_python])
def test_python_has_the_same_answer(kind: str, models: Path) -> None:
    case, name = CASES[kind], f"local-dir:{models / 'encoder'}"
    raw = images(case, 1)[0]
    unit = {"unit": "db" if case.band == "VV" else "dn"}
    transform = eo_backbones.create_transform(name, band=case.band, **unit | dict(case.keywords))
    if case.same_as is None:
        with pytest.raises(UserError) as refusal:
            transform(case.store(raw).values)
        for word in case.refused:
            assert word in str(refusal.value)
        return
    expected = eo_backbones.create_transform(name, band=case.band, **unit)(case.same_as(raw).values)
    np.testing.assert_allclose(transform(case.store(raw).values).numpy(), expected.numpy(), atol=1e-6)
