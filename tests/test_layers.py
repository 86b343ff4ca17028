"""A module imports only from lower layers: read from the syntax trees, not left to good will."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
SOURCES = {"eo_backbones": REPOSITORY, "eo_backbones_train": REPOSITORY / "training"}

# Lowest first. Modules of one row do not import each other (a sub-package may import within itself).
LAYERS = {
    "eo_backbones": (
        ("errors", "progress", "temporary"),
        ("bands", "device", "files"),
        ("contract", "results"),
        ("weights", "inputs"),
        ("rasters",),
        ("datasets",),
        ("hub",),
        ("networks",),
        ("models", "cards"),
        ("timm_bridge", "info", "evaluation", "scenes"),
        ("regions",),
        ("search",),
        ("demo", "prediction", "push", "save", "export"),
        ("mapping",),
        ("cli",),
    ),
    "eo_backbones_train": (
        ("recipes", "store"),
        ("methods", "optim", "data", "tracking"),
        ("pretraining",),
        ("export", "finetuning", "bench"),
        ("cli",),
    ),
}


def modules(package: str) -> dict[str, Path]:
    """Dotted module name -> file, for every module of a package."""
    root = SOURCES[package]
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((root / package).rglob("*.py"))
    }


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; this project imports absolutely"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def unit(package: str, dotted: str) -> str | None:
    """The layer unit (module or sub-package directly below the package) that a dotted name belongs to."""
    parts = dotted.split(".")
    known = {name for layer in LAYERS[package] for name in layer}
    return parts[1] if parts[0] == package and len(parts) > 1 and parts[1] in known else None


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_every_module_has_a_layer(package: str) -> None:
    known = {name for layer in LAYERS[package] for name in layer} | {"__main__"}
    units = {name.split(".")[1] for name in modules(package) if "." in name}
    assert units <= known, f"add {units - known} to LAYERS, where they belong"


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_imports_point_downwards(package: str) -> None:
    rank = {name: level for level, layer in enumerate(LAYERS[package]) for name in layer}
    wrong = [
        f"{module} imports {target}"
        for module, path in modules(package).items()
        if (own := unit(package, module)) is not None
        for target in imported(path)
        if (other := unit(package, target)) is not None and other != own and rank[other] >= rank[own]
    ]
    assert not wrong


def test_the_library_never_imports_the_trainer() -> None:
    wrong = [
        name for name, path in modules("eo_backbones").items() if any("eo_backbones_train" in i for i in imported(path))
    ]
    assert not wrong


def imported_with_the_module(path: Path) -> set[str]:
    """Top-level packages that importing a file imports, not those that its functions do."""
    nodes = ast.parse(path.read_text()).body
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[0] for name in plain + [str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)]}


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_extras_are_imported_where_they_are_used(package: str) -> None:
    """No module needs a package of an extra, or of the tests, to be imported."""
    optional = {
        "dask", "distributed", "faiss", "lightly", "onnx", "onnxruntime", "onnxscript", "pyarrow",
        "mlflow", "segmentation_models_pytorch", "sklearn", "tensorboard", "wandb", "xarray", "zarr",
    }  # fmt: skip
    wrong = {name: imported_with_the_module(path) & optional for name, path in modules(package).items()}
    assert not {name: found for name, found in wrong.items() if found}


def test_weights_need_no_torch() -> None:
    heavy = {"torch", "torchvision", "timm", "numpy", "rasterio"}
    for name in ("errors", "bands", "contract", "results", "weights"):
        found = {target.split(".")[0] for target in imported(SOURCES["eo_backbones"] / "eo_backbones" / f"{name}.py")}
        assert not found & heavy, name
