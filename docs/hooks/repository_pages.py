"""Hook of mkdocs: pages and files of the repository that lie outside ``docs/``, and the links between all of them.

On the site a file has its path in the repository, without ``docs/`` in front. Links are written for the repository,
where people read the same files; here they are rewritten. A file that a page links to comes along.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "training/README.md",
    "model_cards/README.md",
    "model_cards/*/README.md",
    "benchmarks/README.md",
    "benchmarks/*.md",
    "benchmarks/*/*.md",
)
HOME = "README.md"
DECISIONS = "decisions/index.md"

_ALONE = "---\nhide: [navigation]\n---\n"  # the only page of its section: nothing to navigate to
_LINK = re.compile(r"(?<=\]\()([^()\s#:]+)(?=[)#\s])")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, the list of decisions, what pages link to, and the pages that ``nav`` names by a pattern."""
    outside = sorted({path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)})
    for uri in outside:
        text = _FRONT_MATTER.sub("", (ROOT / uri).read_text(encoding="utf-8"))
        files.append(File.generated(config, uri, content=(_ALONE if uri == HOME else "") + text))
    files.append(File.generated(config, DECISIONS, content=_list_of_decisions()))
    for file in list(files.documentation_pages()):
        for target in _targets(file):
            if (ROOT / target).is_file() and files.get_file_from_path(_site_uri(target)) is None:
                files.append(File.generated(config, _site_uri(target), abs_src_path=str(ROOT / target)))
    config.nav = _expanded(config.nav, [file.src_uri for file in files.documentation_pages()])
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links: as they are in the repository -> as they are on the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def rewritten(match: re.Match[str]) -> str:
        target = _repository_path(page.file, match[1])
        if not (ROOT / target).exists():
            return match[1]  # a page that is made here; or a dead link, which mkdocs reports
        uri = _site_uri(target)
        if (ROOT / target).is_dir():
            uri = next(page for page in (f"{uri}/index.md", f"{uri}/README.md") if files.get_file_from_path(page))
        return posixpath.relpath(uri, folder or ".")

    return _LINK.sub(rewritten, markdown)


def _repository_path(file: File, target: str) -> str:
    """Where in the repository a link of a page leads."""
    inside = file.abs_src_path is not None or not (ROOT / file.src_uri).exists()
    folder = posixpath.dirname(f"docs/{file.src_uri}" if inside else file.src_uri)
    return posixpath.normpath(posixpath.join(folder, target))


def _site_uri(repository_path: str) -> str:
    return repository_path.removeprefix("docs/")


def _targets(file: File) -> Iterator[str]:
    for target in _LINK.findall(file.content_string):
        yield _repository_path(file, target)


def _list_of_decisions() -> str:
    rows = []
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        number, text = title.split(". ", 1)
        rows.append(f"{number}. [{text}]({path.name})")
    return "\n".join(["# Decisions", "", "What was decided, and why.", "", *rows, ""])


def _expanded(nav: list, pages: list[str]) -> list:
    """``nav`` with each pattern, such as ``guides/*.md``, replaced by the pages that match and that no entry names."""
    named = set(_named_in(nav))

    def expand(entry: Any) -> list:
        if isinstance(entry, dict):
            return [{title: expand_all(value) if isinstance(value, list) else value} for title, value in entry.items()]
        if "*" not in entry:
            return [entry]
        matching = (page for page in sorted(pages) if PurePosixPath("/", page).match(f"/{entry}"))
        return [_titled(page) for page in matching if page not in named]

    def expand_all(entries: list) -> list:
        return [expanded for entry in entries for expanded in expand(entry)]

    return expand_all(nav)


def _titled(page: str) -> str | dict[str, str]:
    """The entry of a page: its own title, except in a dated folder, where several can have the same."""
    path = PurePosixPath(page)
    if path.stem == "README" or not path.parent.name[:1].isdigit():
        return page
    return {f"{path.parent.name}, {path.stem}": page}


def _named_in(nav: list) -> Iterator[str]:
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else (entry,):
            yield from _named_in(value) if isinstance(value, list) else (value,)
