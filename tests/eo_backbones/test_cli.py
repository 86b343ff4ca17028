"""The command as a user meets it: what is printed where, exit status, and one line for every mistake."""

import ast
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import close_session
from PIL import Image

from eo_backbones import weights
from eo_backbones.cli import main
from eo_backbones.cli.options import split_commas, spread
from eo_backbones.results import COLUMNS
from support.synthetic_data import eurosat_ms_folder, eurosat_rgb_folder  # noqa: F401  fixtures
from support.typed_command import Ended


@pytest.fixture
def evaluate(command: Callable[..., Ended], eurosat_rgb_folder: Path, tmp_path: Path) -> Callable[..., Ended]:  # noqa: F811
    """Run ``evaluate`` on synthetic RGB images; options given here come last."""

    def run(*args: object, root: Path = eurosat_rgb_folder, dataset: str = "eurosat-rgb") -> Ended:
        places = ("--root", root, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
        return command("evaluate", "--dataset", dataset, *places, *args)

    return run


def one_line_error(ended: Ended) -> str:
    """The message of a user's mistake: status 2, one line on standard error, nothing on standard output."""
    assert ended.status == 2
    assert ended.out == ""
    assert "Traceback" not in ended.err
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert ended.err.rstrip().endswith(line)
    return line


def test_lists_after_one_option() -> None:
    options = {"--models", "--bands"}
    typed = ["--models", "a", "b", "--seeds", "3", "--bands", "B02", "--models", "c", "--json"]
    assert spread(typed, options) == [
        *("--models", "a", "--models", "b", "--seeds", "3", "--bands", "B02", "--models", "c", "--json")
    ]
    assert spread(["--bands"], options) == ["--bands"]
    assert split_commas(["a,b", "local-dir:x,y", "c"]) == ("a", "b", "local-dir:x,y", "c")


def test_the_command_of_the_readme(evaluate: Callable[..., Ended], tmp_path: Path) -> None:
    """Space-separated lists, a report on disk, a table on standard output, where everything is."""
    ended = evaluate("--models", "random", "stats", "--bands", "B02", "B03", "B04", "--protocol", "logistic",
                     "--seeds", "2", "--size", "32")  # fmt: skip
    assert ended.status == 0
    lines = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 1 + 2 * 3 * 2
    assert "random" in ended.out and "B03" in ended.out and "±" in ended.out
    for name in ("results.csv", "report.md", "bands.png"):
        assert str(tmp_path / "out" / name) in ended.out
        assert (tmp_path / "out" / name).stat().st_size > 300
    report = (tmp_path / "out" / "report.md").read_text()
    assert "--models random stats --bands B02 B03 B04 --protocol logistic --split seeded --seeds 2 --size 32" in report


def test_lists_by_repetition_and_commas(evaluate: Callable[..., Ended], tmp_path: Path) -> None:
    ended = evaluate("--models", "stats,raw", "--bands", "B02", "--bands", "B04", "--json")
    rows = json.loads(ended.out)["rows"]
    assert [(row["model"], row["band"]) for row in rows] == [
        *(("stats", "B02"), ("stats", "B04"), ("raw", "B02"), ("raw", "B04"))
    ]
    assert set(rows[0]) == set(COLUMNS)
    again = json.loads(evaluate("--models", "stats", "raw", "--bands", "B02", "B04", "--json").out)
    assert again["added"] == 0
    assert again["rows"][0]["f1_weighted"] == pytest.approx(rows[0]["f1_weighted"], abs=1e-6)
    assert again["results"] == str(tmp_path / "out" / "results.csv")


@pytest.mark.usefixtures("empty_hub")
def test_unmeasured_imagenet_in_json(evaluate: Callable[..., Ended]) -> None:
    ended = evaluate("--models", "stats", "imagenet", "--bands", "B02", "--json")
    assert ended.status == 0
    assert "has no repository timm/resnet50.tv_in1k" in json.loads(ended.out)["not_measured"]["imagenet"]
    assert "imagenet is not measured here" in ended.err


def test_ctrl_c_says_what_is_kept(
    evaluate: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "open", interrupted)
    ended = evaluate("--models", "stats")
    assert ended.status == 130
    assert f"the finished rows are in {tmp_path / 'out'}, the same command continues from there" in ended.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--models", "rndom"], "unknown model 'rndom'; did you mean random"),
        (["--models", "eo_resnet50.byol_sen12ms"], "did you mean eo_resnet50.byol_sen12ms_90k"),
        (["--models", "eo_resnet50.byol_sen12ms_90k"], "eo-train pretrain byol-sen12ms-90k"),
        (["--models", "local-dir:nowhere"], "there is no folder nowhere"),
        (["--models", "stats", "--bands", "B99"], "unknown band 'B99'"),
        (["--models", "stats", "--bands", "B02", "--fuse", "mean"], "--bands B02+B03+B04"),
        (["--models", "stats", "--bands", "B02+B03", "--fuse", "sum"], "unknown way to fuse bands 'sum'"),
        (["--models", "stats", "--bands", "B08"], "eurosat-rgb has no band B08; it has B04, B03, B02"),
        (["--models", "stats", "--protocol", "linear"], "unknown protocol 'linear'"),
        (["--models", "stats", "--split", "standard"], "no split list"),
        (["--models", "stats", "--seeds", "0"], "--seeds 0"),
        (["--models", "stats", "--fraction", "0"], "label fraction 0"),
        (["--models", "stats", "--fraction", "0.5", "--shots", "5"], "pass one of them"),
        (["--models", "stats", "--shots", "50"], "50 shots"),
        (["--models", "stats", "--size", "8"], "--size 8"),
        (["--models", "stats", "--limit", "0"], "--limit 0"),
        (["--models", "stats", "--device", "tpu"], "device 'tpu'"),
    ],
)
def test_mistakes_in_options(evaluate: Callable[..., Ended], tmp_path: Path, args: list[str], message: str) -> None:
    assert message in one_line_error(evaluate(*args))
    assert not (tmp_path / "out").exists()


def test_mistakes_in_folders(evaluate: Callable[..., Ended], tmp_path: Path) -> None:
    assert "nowhere does not exist" in one_line_error(evaluate("--models", "stats", root=tmp_path / "nowhere"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no EuroSAT class folder" in one_line_error(evaluate("--models", "stats", root=empty))
    assert "unknown data set 'eurosat'" in one_line_error(evaluate("--models", "stats", dataset="eurosat"))
    assert not (tmp_path / "out").exists()


def test_a_truncated_geotiff(evaluate: Callable[..., Ended], eurosat_ms_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    root = shutil.copytree(eurosat_ms_folder, tmp_path / "ms")
    victim = sorted(root.rglob("*.tif"))[3]
    victim.write_bytes(victim.read_bytes()[:2000])
    message = one_line_error(evaluate("--models", "stats", "--bands", "B8A", root=root, dataset="eurosat-ms"))
    assert victim.name in message
    assert not list((tmp_path / "cache").rglob("*.npy"))
    assert not (tmp_path / "out").exists()


def test_a_jpg_of_the_wrong_size(evaluate: Callable[..., Ended], eurosat_rgb_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    root = shutil.copytree(eurosat_rgb_folder, tmp_path / "rgb")
    victim = sorted(root.rglob("*.jpg"))[3]
    Image.new("RGB", (32, 64)).save(victim)
    message = one_line_error(evaluate("--models", "stats", root=root))
    assert victim.name in message
    assert "32 x 64 pixels; EuroSAT images have 64 x 64" in message


def test_an_unreachable_hub(
    command: Callable[..., Ended], evaluate: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command that asks the Hub says what would help."""

    def dead(*_: object) -> None:
        raise ConnectionRefusedError

    close_session()  # or the client would go on with a connection that it has
    monkeypatch.setattr(socket.socket, "connect", dead)
    for ended in (command("verify", "hf-hub:a/b"), command("info", "hf-hub:a/b"), evaluate("--models", "hf-hub:a/b")):
        message = one_line_error(ended)
        for help_ in ("HF_ENDPOINT", "HF_HUB_OFFLINE=1", "local-dir:PATH"):
            assert help_ in message


def test_list(command: Callable[..., Ended]) -> None:
    listed = json.loads(command("list", "--json").out)["models"]
    assert [entry["name"] for entry in listed] == list(weights.WEIGHTS)
    assert {"published", "method", "bands", "sha256", "recipe"} <= set(listed[0])
    assert [entry["name"] for entry in json.loads(command("list", "*simsiam*", "--json").out)["models"]] == [
        name for name in weights.WEIGHTS if "simsiam" in name
    ]
    assert "eo_resnet50.byol_dfc2020" in command("list").out
    assert "no declared model matches 'x*'" in one_line_error(command("list", "x*"))


def test_info(command: Callable[..., Ended], weights_folder: Path) -> None:
    facts = json.loads(command("info", "eo_resnet50.byol_dfc2020", "--json").out)
    assert (facts["name"], facts["published"], facts["in_chans"]) == ("eo_resnet50.byol_dfc2020", False, 1)
    local = command("info", f"local-dir:{weights_folder}")
    assert "license: cc-by-4.0" in local.out
    assert "did you mean eo_resnet50.byol_dfc2020" in one_line_error(command("info", "eo_resnet50.byol_dfc"))


def test_verify(command: Callable[..., Ended], weights_folder: Path, tmp_path: Path) -> None:
    facts = json.loads(command("verify", f"local-dir:{weights_folder}", "--json").out)
    assert facts["sha256"] == facts["expected"]
    assert facts["golden"] < 1e-4
    assert command("verify", f"local-dir:{weights_folder}", "--sha256", facts["sha256"]).status == 0
    assert "others than you expect" in one_line_error(
        command("verify", f"local-dir:{weights_folder}", "--sha256", "0" * 64)
    )
    broken = shutil.copytree(weights_folder, tmp_path / "broken")
    content = bytearray((broken / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (broken / "model.safetensors").write_bytes(content)
    assert "is corrupted" in one_line_error(command("verify", f"local-dir:{broken}"))


def test_demo(command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from eo_backbones import demo

    original = demo.run
    monkeypatch.setattr(demo, "run", lambda encoder, progress: original(encoder, progress, per_class=5, size=32))
    ended = command("demo", "--out", tmp_path / "shown")
    assert ended.status == 0
    first, second = ended.out.splitlines()[:2]
    assert ("not published yet" in first) == (not weights.DEFAULT.published)
    assert second.startswith("Synthetic: ") and "Real: " in second
    assert f"picture: {tmp_path / 'shown' / 'demo.png'}" in ended.out
    assert "eo-backbones evaluate --dataset" in ended.out
    assert (tmp_path / "shown" / "demo.png").stat().st_size > 10_000


def test_version_and_help(command: Callable[..., Ended]) -> None:
    assert command("--version").out.strip() == f"eo-backbones {main.package_version('eo-backbones')}"
    assert command("evaluate", "--help").status == 0
    helped = command("--help").out
    for name in ("demo", "list", "info", "verify", "evaluate", "embed", "similar", "predict", "push"):
        assert f" {name} " in helped


def test_commands_import_what_they_need_when_they_run(repository: Path) -> None:
    bodies = [ast.parse(path.read_text()).body for path in (repository / "eo_backbones" / "cli").glob("*.py")]
    nodes = [node for body in bodies for node in body]
    found = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    found |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert "typer" in found
    for heavy in ("torch", "timm", "rasterio", "matplotlib", "rich", "eo_backbones.evaluation", "eo_backbones.models"):
        assert not any(name == heavy or name.startswith(f"{heavy}.") for name in found)
