"""An independent witness: our client code through olah, somebody else's Hub proxy, in front of our loopback server.

The loopback server is our own reading of the Hub's protocol; olah (PyPI, MIT) is written against the public Hub. If it
can serve from our server, and its answers mean to us what the direct ones mean, that reading is not just our own.
Downloads only: olah takes no uploads.
"""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from support.hub_fixtures import RunPython
from support.hub_http import Hub

pytestmark = pytest.mark.slow

OLAH = ["uvx", "--from", "olah==0.5.4", "olah-cli"]
INSTALL_SECONDS = 120
START_SECONDS = 60

CONTENT = bytes(range(256)) * 20_000  # 5 MB, more than one of olah's blocks
CONFIG = b'{"architecture": "resnet50", "pretrained_cfg": {"input_size": [1, 64, 64]}}'
FILES = {"model.safetensors": CONTENT, "config.json": CONFIG}


@pytest.fixture(scope="module")
def olah() -> list[str]:
    """The command, installed in an environment of its own."""
    if shutil.which("uvx") is None:
        pytest.skip("uvx is not installed, so olah cannot be")
    try:
        done = subprocess.run([*OLAH, "--help"], capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"olah could not be installed within {INSTALL_SECONDS} s")
    if done.returncode != 0:
        pytest.skip(f"olah could not be installed: {done.stderr.strip().splitlines()[-1:]}")
    return OLAH


@pytest.fixture
def proxy(olah: list[str], hub: Hub, tmp_path: Path) -> Iterator[str]:
    """Address of a running olah that asks our server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    netloc = hub.url.removeprefix("http://")
    (tmp_path / "olah.toml").write_text(
        f"""
[basic]
host = "127.0.0.1"
port = {port}
repos-path = "{tmp_path / "repos"}"
hf-scheme = "http"
hf-netloc = "{netloc}"
hf-lfs-netloc = "{netloc}"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"
[accessibility]
offline = false
"""
    )
    log = tmp_path / "olah.log"
    with log.open("w") as output:
        command = [*olah, "-c", str(tmp_path / "olah.toml"), "--log-path", str(tmp_path / "logs")]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path)
        try:
            wait_for(f"http://127.0.0.1:{port}", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=20)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urlopen(url, timeout=2).close()
        except HTTPError:
            return  # any answer will do
        except (URLError, OSError):
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"olah did not answer within {START_SECONDS} s: {log.read_text()[-2000:]}")


def test_downloads_and_failures_mean_the_same_through_olah(
    proxy: str, hub: Hub, tmp_path: Path, run_python: RunPython
) -> None:
    first = hub.store.publish("acme/spare", FILES)
    hub.store.repositories["acme/spare"].tags["v1"] = first
    hub.store.publish("acme/spare", {"model.safetensors": CONTENT[::-1]})
    hub.store.publish("acme/bare", {"config.json": CONFIG})
    hub.store.publish("acme/gated", FILES, gated=True)
    hub.store.publish("acme/private", FILES, private=True)
    names = ["spare", "spare@v1", f"spare@{first}", "spare@v9", "bare", "gated", "private", "nothing"]
    code = f"""
import json, time
from eo_backbones.errors import UserError
from eo_backbones.hub.download import resolve

time.sleep = lambda _: None
results = {{}}
for name in {names}:
    try:
        results[name] = resolve(f"hf-hub:acme/{{name}}").sha256
    except UserError as error:
        results[name] = str(error)
print(json.dumps(results))
"""
    done = run_python(code, HF_ENDPOINT=proxy, HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    digest = sha256(CONTENT).hexdigest()
    assert (seen["spare@v1"], seen[f"spare@{first}"]) == (digest, digest)
    assert seen["spare"] == sha256(CONTENT[::-1]).hexdigest()
    assert "has no revision 'v9'" in seen["spare@v9"]
    assert "acme/bare has no file model.safetensors" in seen["bare"]
    assert "ask for access" in seen["gated"]
    for name in ("private", "nothing"):
        assert f"has no repository acme/{name}" in seen[name]
    assert hub.requested("GET", "/model.safetensors"), "olah must have asked our server"
