"""The command ``eo-backbones export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from eo_backbones.cli.options import JsonOption, print_result, split_commas

if TYPE_CHECKING:
    from eo_backbones.export import Exported, Format
    from eo_backbones.networks.multi_band import Fuse

EXPORT_EPILOG = """Examples (NAME comes before the options):

[bold]eo-backbones export eo_resnet50.byol_s1s2_mini --format onnx --out encoder.onnx[/bold]

[bold]eo-backbones export local-dir:FOLDER --format torch --out classifier.pt2[/bold]

[bold]eo-backbones export hf-hub:ORG/NAME --format onnx --bands B02 B03 B04 --fuse mean --out encoder.onnx[/bold]

The file takes any number of images of any size: float32 (B, C, H, W), values as the input contract says. It is \
written only if it gives what PyTorch gives, to 1e-4, at two sizes and batch sizes. Model, digest of the weights, \
classes and input contract stand in it as JSON, under the key eo_backbones (ONNX: metadata_props; torch.export.load: \
extra_files). ONNX needs: pip install 'eo-backbones\\[export]'."""


def export(
    name: Annotated[
        str,
        typer.Argument(
            help="A row of [bold]eo-backbones list[/bold], hf-hub:ORG/NAME[@REVISION] or local-dir:PATH (also of "
            "[bold]eo-train finetune[/bold]: its classes come along)."
        ),
    ],
    format_: Annotated[str, typer.Option("--format", help="onnx, or torch (a torch.export program, .pt2).")],
    out: Annotated[Path, typer.Option(help="File to write: .onnx or .pt2.")],
    bands: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BAND...",
            help="Use a one-band encoder on each of these; without it the model as it is (B, 1, H, W).",
        ),
    ] = None,
    fuse: Annotated[str, typer.Option(help="Several bands: concat (features side by side) or mean.")] = "concat",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model as one file for other runtimes, ONNX or torch.export, checked against PyTorch."""
    from eo_backbones.export import export as write
    from eo_backbones.progress import ProgressBars

    with ProgressBars():
        exported = write(
            name,
            out,
            format=cast("Format", format_),
            bands=split_commas(bands),
            fuse=cast("Fuse", fuse),
            overwrite=overwrite,
        )
    print_result(exported.to_dict(), _lines(exported), as_json=as_json)


def _lines(exported: "Exported") -> list[str]:
    """Return the result as lines for people."""
    kind = f"ONNX, opset {exported.opset}" if exported.format == "onnx" else "torch.export program"
    shapes = " and ".join(str(list(shape)) for shape in exported.compared)
    return [
        f"wrote: {exported.path} ({kind}, {exported.size_bytes / 1e6:.1f} MB)",
        f"input: float32 (B, {exported.metadata['in_chans']}, H, W), any B, H, W",
        f"compared with PyTorch at {shapes}: outputs differ by {exported.difference:.2g} at most",
    ]
