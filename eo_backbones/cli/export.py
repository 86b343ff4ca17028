"""The commands that give a model away: ``eo-backbones save`` and ``export`` to other programs, ``push`` to the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from eo_backbones.cli.options import (
    JsonOption,
    ModelArgument,
    NodataOption,
    OffsetOption,
    ScaleOption,
    UnitOption,
    print_result,
    refuse_idle,
    split_commas,
)

if TYPE_CHECKING:
    from eo_backbones.export import Exported, Format
    from eo_backbones.networks.multi_band import Fuse
    from eo_backbones.push import Pushed

EXPORT_EPILOG = """Examples (NAME comes before the options):

[bold]eo-backbones export eo_efficientnet_lite0.distill_s1s2_mini --format onnx --out encoder.onnx[/bold]

[bold]eo-backbones export local-dir:FOLDER --format torch --out classifier.pt2[/bold]

[bold]eo-backbones export hf-hub:ORG/NAME --format onnx --bands B02 B03 B04 --fuse mean --out encoder.onnx[/bold]

[bold]eo-backbones export NAME --format onnx --with-preprocessing --band B04 --unit dn --out raw.onnx[/bold]

[bold]eo-backbones export FOLDER --format onnx --deepness 512 --out land.onnx[/bold]  (for QGIS)

The file takes any number of images of any size: float32 (B, C, H, W), values as the input contract says, or raw \
pixels with --with-preprocessing; then possible_in_unit, (B, C), is false for values that cannot be in --unit. It is \
written only if it gives what PyTorch gives, to 1e-4, at two sizes and batch sizes. Model, digest of the weights, \
classes and input contract stand in it as JSON, under the key eo_backbones (ONNX: metadata_props; torch.export.load: \
extra_files). ONNX needs: pip install 'eo-backbones\\[export]'."""


def export(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="A row of [bold]eo-backbones list[/bold], hf-hub:ORG/NAME\\[@REVISION] or local-dir:PATH (also of "
            "[bold]eo-train finetune[/bold]: its classes come along)."
        ),
    ],
    format_: Annotated[str, typer.Option("--format", help="onnx, or torch (a torch.export program, .pt2).")],
    out: Annotated[Path, typer.Option(help="File to write: .onnx or .pt2.")],
    bands: Annotated[
        list[str] | None,
        typer.Option(
            "--bands",
            "--band",
            metavar="BAND...",
            help="Use a one-band encoder on each of these; without it the model as it is (B, 1, H, W).",
        ),
    ] = None,
    fuse: Annotated[str, typer.Option(help="Several bands: concat (features side by side) or mean.")] = "concat",
    with_preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing",
            help="Put clipping and normalisation into the file: it takes raw pixels in --unit, and a second output "
            "says whether they could be in it.",
        ),
    ] = False,
    unit: UnitOption = None,
    scale: ScaleOption = None,
    offset: OffsetOption = None,
    nodata: NodataOption = None,
    deepness: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="A segmentation model for the QGIS plugin Deepness, with tiles of PX pixels (512): takes its 8-bit "
            "layers, gives probabilities, carries its metadata.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model as one file for other runtimes, ONNX or torch.export, checked against PyTorch."""
    from eo_backbones.export import export as write
    from eo_backbones.progress import ProgressBars
    from eo_backbones.rasters.options import ReadingOptions

    if not with_preprocessing:
        for option in ("unit", "scale", "offset", "nodata"):
            refuse_idle(context, option, f"--{option}", "it describes raw pixels; pass --with-preprocessing as well")

    if len(split_commas(bands)) < 2:
        refuse_idle(context, "fuse", "--fuse", "it joins several --bands; name them, or leave it out")
    raw = ReadingOptions.of(
        split_commas(unit), scale=split_commas(scale), offset=split_commas(offset), nodata=split_commas(nodata)
    )
    with ProgressBars():
        exported = write(
            name,
            out,
            format=cast("Format", format_),
            bands=split_commas(bands),
            fuse=cast("Fuse", fuse),
            raw=raw if with_preprocessing else None,
            deepness_px=deepness,
            overwrite=overwrite,
        )
    print_result(exported.to_dict(), _export_lines(exported), as_json=as_json)


def _export_lines(exported: "Exported") -> list[str]:
    """Return the result as lines for people."""
    kind = f"ONNX, opset {exported.opset}" if exported.format == "onnx" else "torch.export program"
    raw = exported.metadata.get("raw")
    taken = "values as the input contract says" if raw is None else f"raw pixels, {', '.join(raw['units'])}"
    square = {shape[-2:] for shape in exported.compared}
    sizes = "any B, H, W" if len(square) > 1 else "any B, {} x {} pixels".format(*square.pop())
    shapes = " and ".join(str(list(shape)) for shape in exported.compared)
    return [
        f"wrote: {exported.path} ({kind}, {exported.size_bytes / 1e6:.1f} MB)",
        f"input: float32 (B, {exported.metadata['in_chans']}, H, W), {sizes}; {taken}",
        f"outputs: {', '.join(exported.outputs)}",
        f"compared with PyTorch at {shapes}: outputs differ by {exported.difference:.2g} at most",
    ]


SAVE_EPILOG = """Examples:

[bold]eo-backbones save eo_efficientnet_lite0.distill_s1s2_mini encoder[/bold]

[bold]eo-backbones save hf-hub:ORG/NAME@REVISION encoder[/bold]

Read it where this package is not installed: timm.create_model("local-dir:encoder", pretrained=True), \
segmentation_models_pytorch.Unet("tu-local-dir:encoder", in_channels=3), and with terratorch and transformers. The \
values it takes stand in config.json and on the card (README.md)."""


def save(
    name: ModelArgument,
    folder: Annotated[Path, typer.Argument(help="The folder to create; missing or empty.")],
    as_json: JsonOption = False,
) -> None:
    """Write a model, with card, licence and input contract, as a folder that timm reads without this package."""
    from eo_backbones.progress import ProgressBars
    from eo_backbones.save import save as write

    with ProgressBars():
        saved = write(name, folder)
    needs = saved["needs_eo_backbones"]
    loaded = f"{'eo_backbones' if needs else 'timm'}.create_model({'local-dir:' + saved['folder']!r}, pretrained=True)"
    why = ", only here: timm alone does not have this network" if needs else ", without this package"
    lines = [
        f"wrote: {saved['folder']} ({len(saved['files'])} files, {saved['bytes'] / 2**20:.1f} MiB of weights, sha256 "
        f"{saved['sha256']})",
        f"load: {loaded}{why}",
    ]
    print_result(saved, lines, as_json=as_json)


PUSH_EPILOG = """Examples:

[bold]eo-backbones push FOLDER --repo-id ORG/eo_resnet50.byol_mydata --dry-run[/bold]  (needs no token)

[bold]HF_TOKEN=hf_... eo-backbones push FOLDER --repo-id ORG/eo_resnet50.byol_mydata[/bold]

FOLDER is what eo-train export wrote, with results in its card (--results) and a licence. It becomes one commit, which \
is loaded back and compared (sha256 and features) before it gets its tag; then hf-hub:ORG/NAME@TAG loads it \
everywhere. After any failure the same command continues where the last one ended. HF_ENDPOINT names another Hub."""


def push(
    folder: Annotated[Path, typer.Argument(help="Folder of [bold]eo-train export[/bold], with results in its card.")],
    repo_id: Annotated[str, typer.Option(metavar="ORG/NAME", help="Repository; made if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make it private.")] = False,
    tag: Annotated[
        str | None, typer.Option(help="Name of the commit; the first of v1, v2, ... that is free unless given.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would happen.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Publish a weights folder on the Hugging Face Hub: one commit, loaded back and compared, then tagged."""
    from eo_backbones.progress import ProgressBars
    from eo_backbones.push import push as publish

    with ProgressBars():
        pushed = publish(folder, repo_id, private=private, tag=tag, dry_run=dry_run)
    print_result(pushed.to_dict(), _push_lines(pushed), as_json=as_json)


def _push_lines(pushed: "Pushed") -> list[str]:
    """Return the result as lines for people."""
    private = " (private)" if pushed.private else ""
    if not pushed.dry_run:
        sent = f"{len(pushed.uploaded)} files" if pushed.uploaded else "it held these files already"
        return [
            f"pushed: {pushed.url}{private}, {sent}",
            f"commit: {pushed.commit}",
            f"tag: {pushed.tag}",
            f"loaded back: sha256 {pushed.sha256} as sent, features differ by {pushed.golden:.2g} at most",
            f'load it: eo_backbones.create_model("hf-hub:{pushed.repo_id}@{pushed.tag}")',
        ]
    lines = [f"nothing was changed; this is what a push to {pushed.url} would do:"]
    if pushed.note:
        lines.append(f"(the Hub could not be asked what the repository holds: {pushed.note})")
    if pushed.created:
        lines.append(f"make the repository{private} (or the token is missing that shows it)")
    if pushed.uploaded:
        lines.append(f"upload {len(pushed.uploaded)} files as one commit: {', '.join(pushed.uploaded)}")
    else:
        lines.append(f"upload nothing: commit {pushed.commit} holds these files")
    if pushed.kept:
        lines.append(f"leave as they are: {', '.join(pushed.kept)}")
    lines += [
        f"load it back, compare sha256 {pushed.sha256} and the features",
        f"tag the commit {pushed.tag}",
    ]
    return lines
