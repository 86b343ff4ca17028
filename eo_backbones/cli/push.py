"""The command ``eo-backbones push``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eo_backbones.cli.options import JsonOption, print_result

if TYPE_CHECKING:
    from eo_backbones.push import Pushed

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
    print_result(pushed.to_dict(), _lines(pushed), as_json=as_json)


def _lines(pushed: "Pushed") -> list[str]:
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
