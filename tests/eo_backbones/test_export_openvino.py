"""An exported file in OpenVINO, which has its own reader of ONNX: in an environment of its own, since it is large."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import eo_backbones
from eo_backbones.export import export
from eo_backbones.rasters.options import ReadingOptions

RUN = """
import sys
import numpy as np
import openvino

model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
made = model(np.load(sys.argv[2]))
np.savez(sys.argv[3], **{name: made[name] for name in ("outputs", "possible_in_unit")})
"""


@pytest.mark.slow
@pytest.mark.timeout(600)  # the download of 60 MB
def test_openvino_gives_what_pytorch_gives(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed, so OpenVINO cannot be")
    command = ["uv", "run", "--no-project", "--python", sys.executable, "--with", "openvino==2026.4.1", "python"]
    tried = subprocess.run([*command, "-c", "import openvino"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"OpenVINO cannot be installed here: {(tried.stderr.splitlines() or ['no reason given'])[-1]}")
    name = "eo_efficientnet_lite0.distill_s1s2_mini"
    export(name, tmp_path / "raw.onnx", format="onnx", bands=["B04"], raw=ReadingOptions.of(["dn"]))
    pixels = torch.randint(200, 3000, (3, 1, 72, 96), generator=torch.Generator().manual_seed(0)).float()
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    files = [tmp_path / "raw.onnx", tmp_path / "pixels.npy", tmp_path / "made.npz"]
    subprocess.run([*command, "-c", RUN, *map(str, files)], check=True)
    transform = eo_backbones.create_transform(name, band="B04", unit="dn", offset=0.0)
    with torch.no_grad():
        expected = eo_backbones.create_model(name).eval()(transform(pixels))
    with np.load(tmp_path / "made.npz") as made:
        np.testing.assert_allclose(made["outputs"], expected.numpy(), atol=1e-4)
        assert made["possible_in_unit"].astype(bool).tolist() == [[True]] * 3
