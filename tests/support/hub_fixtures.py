"""A loopback Hub for the whole test session, and made-up weights for it (a pytest plugin, see ``tests/conftest.py``).

huggingface_hub reads ``HF_ENDPOINT`` when it is imported. So the server is started, and the environment set, when this
module is imported, before any test module: no test can reach the public Hub or read the developer's token and cache,
tests may call the client in their own process, and subprocesses inherit the same environment.
"""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.hub_http import Hub
from support.hub_server import start_hub

assert "huggingface_hub" not in sys.modules, "imported before HF_ENDPOINT was set: load this plugin first"

_HOME = Path(tempfile.mkdtemp(prefix="eo-hub-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
_HUB = start_hub().hub

for _name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE_", "HUGGINGFACE_"))]:
    del os.environ[_name]
os.environ.pop("EO_BACKBONES_NAMESPACE", None)
os.environ |= {
    "HF_ENDPOINT": _HUB.url,
    "HF_HOME": str(_HOME),
    "HF_HUB_DISABLE_XET": "1",  # uploads would go to a second service
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The session's loopback Hub, empty."""
    _HUB.reset()
    yield _HUB
    _HUB.reset()


@pytest.fixture
def empty_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The Hub without repositories, asked by a client that has nothing of other tests in its cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    return hub


@pytest.fixture(scope="session")
def run_python(repository: Path) -> RunPython:
    """Run a program in a fresh interpreter; ``variables`` are set on top of the environment, ``None`` unsets one."""

    def run(code: str, *, cwd: Path | None = None, **variables: str | None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=cwd or repository,
            env={key: value for key, value in environment.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole weights folder of our architecture: made-up float16 weights, config, recorded outputs, recipe."""
    import timm
    import torch

    from eo_backbones.contract import standardized
    from eo_backbones.files import sha256_of
    from eo_backbones.hub import folder

    path = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = timm.create_model("resnet50", in_chans=1, num_classes=0)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        inputs = torch.randn(2, 1, 64, 64)
    half = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    folder.save_weights(half, path / folder.WEIGHTS_FILE, {"recipe": "made-up"})
    model.load_state_dict(half)
    folder.save_golden(path, model, inputs)
    config = folder.config_json(input=standardized(["B04", "VV"]), license="cc-by-4.0")
    (path / folder.CONFIG_FILE).write_text(json.dumps(config))
    recipe = {folder.DIGEST_KEY: sha256_of(path / folder.WEIGHTS_FILE)}
    (path / folder.RECIPE_FILE).write_text(json.dumps(recipe))
    return path


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foreign timm folder, small: a stock three-channel network with a classifier, as timm itself saves it."""
    import timm
    import torch

    path = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(8)
        timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=5), str(path), safe_serialization=True)
    return path


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-channel encoder of another, small architecture, with our block in its config."""
    from eo_backbones.contract import unit_range
    from support.tiny_encoders import write_tiny_encoder

    path = tmp_path_factory.mktemp("tiny-encoder")
    write_tiny_encoder(path, seed=9, spec=unit_range(["VV"]))
    return path


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Let other rows than the package's be declared during a test; the first is the default."""
    from timm.models import _registry

    from eo_backbones import timm_bridge, weights

    def forget() -> None:
        """Take the declared families out of timm's registry, which has no public way to do so."""
        for family in weights.families():
            _registry._clear_model_entries(family)
            _registry._model_entrypoints.pop(family, None)

    def declare_rows(*rows: weights.Weights) -> None:
        forget()
        monkeypatch.setattr(weights, "WEIGHTS", {row.name: row for row in rows})
        monkeypatch.setattr(weights, "DEFAULT", rows[0])
        timm_bridge.register()

    yield declare_rows
    forget()
    monkeypatch.undo()
    timm_bridge.register()


def files_of(folder: Path) -> dict[str, bytes]:
    """Name -> content of the files of a folder, to publish."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
