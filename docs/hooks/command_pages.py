"""Hook of mkdocs: the reference of the commands, from the declarations that ``--help`` prints.

One page a program, one section a command. It imports both packages, which takes some seconds.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from rich.text import Text

import eo_backbones.cli.main
import eo_backbones_train.cli.main

PROGRAMS: Mapping[str, typer.Typer] = {
    "eo-backbones": eo_backbones.cli.main.app,
    "eo-train": eo_backbones_train.cli.main.app,
}

_FACTS = re.compile(
    r"\s*\[((?:default|required|env var|\d+<=|x>=|x<=)[^\]]*)\]$"
)  # what the library adds to a help text
_LINE = 88
_ADDED_BY_TYPER = ("--install-completion", "--show-completion", "--help")


def on_files(files: Any, config: Any) -> Any:
    """Add one page for each program."""
    from mkdocs.structure.files import File  # noqa: PLC0415  tests use this module where mkdocs is not installed

    for name, app in PROGRAMS.items():
        files.append(File.generated(config, f"reference/{name}.md", content=program_page(name, app)))
    return files


def program_page(name: str, app: typer.Typer) -> str:
    """Return the page of one program, as Markdown."""
    group: Any = typer.main.get_command(app)
    context = group.make_context(name, [], resilient_parsing=True)
    lines = [f"# {name}", "", _prose(group.help), ""]
    lines += [*_epilog(group.epilog or ""), "Every command takes `--help`.", ""]
    lines += [*_definitions("Options", group.get_params(context), context)]
    for command_name in group.list_commands(context):
        command = group.get_command(context, command_name)
        own = command.make_context(f"{name} {command_name}", [], parent=context, resilient_parsing=True)
        usage = " ".join([name, command_name, *command.collect_usage_pieces(own)])
        lines += [f"## {command_name}", "", _prose(command.help), "", "```text", usage, "```", ""]
        parameters = command.get_params(own)
        for kind, title in (("argument", "Arguments"), ("option", "Options")):
            lines += _definitions(title, [each for each in parameters if each.param_type_name == kind], own)
        lines += _epilog(command.epilog or "")
    return "\n".join(lines)


def _definitions(title: str, parameters: list[Any], context: Any) -> Iterator[str]:
    """A definition list: the name as typed, then what it means."""
    records = [(each.get_help_record(context), each) for each in parameters]
    shown = [record for record, each in records if record and not set(each.opts) & set(_ADDED_BY_TYPER)]
    if not shown:
        return
    yield from (f"**{title}**", "")
    for name, text in shown:
        facts = _FACTS.search(text)
        meaning = _prose(text[: facts.start()] if facts else text)
        yield from (f"`{name}`", f":   {meaning}{_in_words(facts[1]) if facts else ''}", "")


def _in_words(facts: str) -> str:
    words = []
    for fact in facts.split("; "):
        kind, _, value = fact.partition(": ")
        words.append(f"default `{value}`" if kind == "default" else f"*{kind}*" if not value else f"{kind} `{value}`")
    return f" ({', '.join(words)})"


def _prose(text: str) -> str:
    """Help text with its markup as Markdown: bold text there is something to type, unless it begins like a sentence."""
    styled = Text.from_markup(text)
    result, end = "", 0
    for span in sorted(styled.spans, key=lambda span: span.start):
        part = styled.plain[span.start : span.end]
        result += _literal(styled.plain[end : span.start])
        if "bold" not in str(span.style):
            result += _literal(part)
        else:
            result += f"**{_literal(part)}**" if re.match(r"[A-Z][a-z]", part) else f"`{part}`"
        end = span.end
    return result + _literal(styled.plain[end:])


def _literal(text: str) -> str:
    """Text in which no character is markup."""
    return re.sub(r"([*_<>\[\]`\\|])", r"\\\1", text).replace("\n", " ")


def _wrapped(command: str) -> str:
    """A command on several lines where it is long, broken before its options."""
    lines = [""]
    for part in re.split(r" (?=--)", command):
        if lines[-1] and len(lines[-1]) + len(part) > _LINE:
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}" if lines[-1] else part
    return " \\\n".join(lines)


def _epilog(text: str) -> Iterator[str]:
    """The end of a help text: lines of commands become one block, other paragraphs stay."""
    commands: list[str] = []
    for paragraph in [*text.split("\n\n"), ""]:
        typed = re.fullmatch(r"\[bold\](.*?)\[/bold\](.*)", paragraph.strip(), re.DOTALL)
        if typed and "[bold]" not in typed[2]:
            note = Text.from_markup(typed[2]).plain.strip()
            commands.append(Text.from_markup(typed[1]).plain + (f"    # {note.strip('()')}" if note else ""))
            continue
        if commands:
            yield from ("```bash", *map(_wrapped, commands), "```", "")
            commands = []
        if paragraph:
            yield from (_prose(paragraph.strip()), "")
