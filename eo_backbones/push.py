"""Push a weights folder to the Hub: check it, upload it as one commit, load that back and compare it, then tag it.

No state is kept between two runs except on the Hub itself, so a push that failed at any point is finished by the same
command: a folder that ``main`` already holds is not uploaded again, only loaded back and tagged. A tag therefore always
names a commit that was loaded back and compared. A commit is all or nothing: the Hub takes large files before it, and
they belong to nothing until the commit names them.
"""

import hashlib
import logging
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from yaml import YAMLError

from eo_backbones.errors import UserError
from eo_backbones.hub.download import HUB_PREFIX, LOCAL_PREFIX, is_repo_id
from eo_backbones.hub.errors import FAILURES, TOKEN_HELP, UPLOAD_FAILURES, explain_push
from eo_backbones.hub.folder import CONFIG_FILE, GOLDEN_FILE, RECIPE_FILE, WEIGHTS_FILE, recorded_digest
from eo_backbones.info import verify

BRANCH = "main"
CARD_FILE = "README.md"
REQUIRED_FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, GOLDEN_FILE, RECIPE_FILE)

_RESULTS_FOLDER = ".eval_results"  # the one hidden name that the Hub reads
_EXPORT = "'eo-train export RUN --out FOLDER'"

logger = logging.getLogger(__name__)

# The Hub's side


@dataclass(frozen=True, slots=True)
class Content:
    """The two digests that the Hub may know a file's content by, and its size.

    Attributes:
        git: sha1 of the git blob, for small files.
        sha256: for large (LFS) files.
        size: in bytes.
    """

    git: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteState:
    """What a repository holds.

    Attributes:
        commit: the newest one of ``main``.
        private: whether only its owner sees it.
        files: name -> sha256 (large files) or git id (others), at ``commit``.
        tags: name -> commit.
    """

    commit: str
    private: bool
    files: Mapping[str, str]
    tags: Mapping[str, str]


def content_of(path: Path) -> Content:
    """Return a file's digests."""
    size = path.stat().st_size
    git, sha256 = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            git.update(block)
            sha256.update(block)
    return Content(git.hexdigest(), sha256.hexdigest(), size)


def require_token() -> None:
    """Raise a UserError that says how to provide a token, if huggingface_hub finds none."""
    if get_token() is None:
        raise UserError(f"pushing needs a token: {TOKEN_HELP.format(endpoint=constants.ENDPOINT)}")


class RemoteRepository:
    """One repository on the Hub: its state, creating it, one commit, one tag.

    Every method raises :class:`UserError` if the Hub fails or refuses.
    """

    def __init__(self, repo_id: str) -> None:
        self.repo_id = repo_id
        self._api = HfApi(library_name="eo_backbones")

    @property
    def url(self) -> str:
        """Address of its page."""
        return f"{constants.ENDPOINT}/{self.repo_id}"

    def state(self) -> RemoteState | None:
        """Return what the repository holds, or ``None`` if it does not exist (or the token may not see it)."""
        try:
            info = self._api.model_info(self.repo_id, revision=BRANCH)
            files = self._files(str(info.sha))
            refs = self._api.list_repo_refs(self.repo_id)
        except RepositoryNotFoundError:
            return None
        except FAILURES as error:
            raise explain_push(error, repo_id=self.repo_id, doing="asking for it") from error
        return RemoteState(
            commit=str(info.sha),
            private=bool(info.private),
            files=files,
            tags={tag.name: tag.target_commit for tag in refs.tags},
        )

    def files_at(self, commit: str) -> Mapping[str, str]:
        """Return the files of a commit as :class:`RemoteState` lists them."""
        try:
            return self._files(commit)
        except FAILURES as error:
            raise explain_push(error, repo_id=self.repo_id, doing="reading the commit back") from error

    def create(self, *, private: bool) -> None:
        """Create the repository unless it exists by now."""
        try:
            self._api.create_repo(self.repo_id, private=private, exist_ok=True)
        except FAILURES as error:
            raise explain_push(error, repo_id=self.repo_id, doing="creating it") from error

    def commit(self, files: Mapping[str, Path], *, parent: str, message: str) -> str:
        """Add or replace files in one commit on ``main`` and return its id.

        Args:
            files: name in the repository -> file here.
            parent: what ``main`` must point at; otherwise the Hub refuses.
            message: of the commit.
        """
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        try:
            made = self._api.create_commit(
                self.repo_id, operations, commit_message=message, revision=BRANCH, parent_commit=parent
            )
        except (*FAILURES, *UPLOAD_FAILURES) as error:
            raise explain_push(error, repo_id=self.repo_id, doing="uploading") from error
        return str(made.oid)

    def tag(self, name: str, commit: str) -> None:
        """Set a tag on a commit."""
        try:
            self._api.create_tag(self.repo_id, tag=name, revision=commit)
        except FAILURES as error:
            raise explain_push(error, repo_id=self.repo_id, doing=f"setting the tag {name}") from error

    def _files(self, revision: str) -> dict[str, str]:
        entries = self._api.list_repo_tree(self.repo_id, recursive=True, revision=revision)
        return {
            entry.path: str(entry.lfs.sha256 if entry.lfs else entry.blob_id)
            for entry in entries
            if isinstance(entry, RepoFile)
        }


# Checking a folder and pushing it


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFolder:
    """A folder that is fit to be pushed.

    Attributes:
        files: name in the repository -> file here.
        contents: name in the repository -> its digests.
        golden: largest difference from the golden outputs.
        license: of the card.
    """

    files: Mapping[str, Path]
    contents: Mapping[str, Content]
    golden: float
    license: str

    @property
    def sha256(self) -> str:
        """Digest of the weights file."""
        return self.contents[WEIGHTS_FILE].sha256

    def missing_from(self, remote: Mapping[str, str]) -> list[str]:
        """Return the files that a commit lacks or holds with different content.

        Args:
            remote: name -> digest of the files of the commit, see :class:`RemoteState`.
        """
        return [
            name for name, content in self.contents.items() if remote.get(name) not in (content.sha256, content.git)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a push did, or would do.

    Attributes:
        repo_id: the repository; ``url`` its page.
        commit: that holds the folder; ``None`` in a dry run that would make it.
        tag: name of that commit.
        created: whether the repository is new.
        private: whether only its owner sees it.
        uploaded: files of the commit; empty if ``main`` held the folder already.
        kept: other files of the repository, which stay as they are.
        sha256: of the weights, as loaded back.
        golden: largest difference of the features, as loaded back (dry run: as loaded here).
        dry_run: whether nothing was changed.
        note: what a dry run could not find out.
    """

    repo_id: str
    url: str
    commit: str | None
    tag: str
    created: bool
    private: bool
    uploaded: tuple[str, ...]
    kept: tuple[str, ...]
    sha256: str
    golden: float
    dry_run: bool
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def push(folder: Path, repo_id: str, *, private: bool = False, tag: str | None = None, dry_run: bool = False) -> Pushed:
    """Push a weights folder to the Hub as one commit, load it back and tag it; or finish what an earlier call began.

    Args:
        folder: what ``eo-train export`` wrote, with results in its card.
        repo_id: ``ORG/NAME``; created if it does not exist.
        private: make it private; refused if it exists and is public.
        tag: name for the commit; default: the first of v1, v2, ... that is free.
        dry_run: check the folder and ask the Hub, change nothing; needs no token.

    Raises:
        UserError: a folder that must not be published, no token, any failure of the Hub, or files that come back
            other than they were sent (then there is no tag).
    """
    if not is_repo_id(repo_id):
        raise UserError(f"--repo-id {repo_id!r} does not name a Hub repository; write ORG/NAME")
    if tag is not None and not re.fullmatch(r"\w[\w.-]*", tag):
        raise UserError(f"--tag {tag!r} is not a valid tag; write something like v1")
    if not dry_run:
        require_token()
    checked = check_folder(folder)
    repository = RemoteRepository(repo_id)
    if dry_run:
        return _rehearse(checked, repository, private=private, tag=tag)
    state = repository.state()
    created = state is None
    if state is None:
        repository.create(private=private)
        logger.info("created %s%s", repository.url, " (private)" if private else "")
        state = repository.state()
        if state is None:
            raise UserError(f"{repository.url} was created, but cannot be seen; check what the token may read")
    plan = _plan(checked, repository, state, private=private, tag=tag)
    commit = state.commit
    if plan.uploaded:
        logger.info("uploading %d files as one commit", len(plan.uploaded))
        message = f"Push weights {checked.sha256[:12]}"
        commit = repository.commit(checked.files, parent=state.commit, message=message)
    logger.info("loading commit %s back", commit[:12])
    golden = _compare(checked, repository, commit)
    if state.tags.get(plan.tag) != commit:
        repository.tag(plan.tag, commit)
    return Pushed(**plan.to_dict() | {"commit": commit, "created": created, "golden": golden, "dry_run": False})


def check_folder(folder: Path) -> CheckedFolder:
    """Check that a folder is fit to be published: all files, licence and results in the card, golden outputs.

    Raises:
        UserError: whatever is missing or wrong.
    """
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}; push a folder that {_EXPORT} wrote")
    license_ = _check_card(folder / CARD_FILE)
    if recorded_digest(folder) is None:
        raise UserError(f"{folder / RECIPE_FILE} records no sha256 of the weights; write the folder with {_EXPORT}")
    golden = verify(f"{LOCAL_PREFIX}{folder}")["golden"]
    files = {
        name: path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _is_public(name := path.relative_to(folder).as_posix())
    }
    contents = {name: content_of(path) for name, path in files.items()}
    return CheckedFolder(files=files, contents=contents, golden=golden, license=license_)


def _is_public(name: str) -> bool:
    parts = name.split("/")
    return not any(part.startswith(".") and part != _RESULTS_FOLDER for part in parts) and "__pycache__" not in parts


def _check_card(path: Path) -> str:
    """Return the licence that a model card names.

    Raises:
        UserError: the card cannot be read, or lacks licence or results.
    """
    try:
        data = ModelCard(path.read_text(encoding="utf-8")).data
    except (OSError, ValueError, YAMLError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise UserError(f"the front matter of {path} cannot be read ({reason}); write it with {_EXPORT}") from error
    assert isinstance(data, ModelCardData)
    if not data.license:
        raise UserError(f"{path} does not name a licence; export with --license, say --license cc-by-4.0")
    if data.license == "other":
        link = data.get("license_link")
        if not data.license_name or not link:
            raise UserError(
                f"{path} says 'license: other' without license_name and license_link, which the Hub asks for; "
                f"export with --license, or name the terms there"
            )
        if "://" not in link and not (path.parent / link).is_file():
            raise UserError(f"{path} names the licence file {link}, which is not in {path.parent}; put it there")
    if not data.eval_results:
        raise UserError(
            f"{path} holds no results; measure them with 'eo-backbones evaluate --models {LOCAL_PREFIX}{path.parent} "
            f"...' and write them into it with 'eo-train export RUN --out {path.parent} --results RESULTS --overwrite'"
        )
    return str(data.license)


def _plan(
    checked: CheckedFolder, repository: RemoteRepository, state: RemoteState, *, private: bool, tag: str | None
) -> Pushed:
    """Return what is left to do.

    Raises:
        UserError: a public repository where a private one was asked for, or a tag that names other files.
    """
    if private and not state.private:
        raise UserError(
            f"{repository.url} exists and is public; make it private in its settings first, or pass another --repo-id"
        )
    already_there = not checked.missing_from(state.files)
    if tag is None:
        tag = _tag_of(state) if already_there else None
        tag = tag or next(name for number in count(1) if (name := f"v{number}") not in state.tags)
    elif tag in state.tags and not (already_there and state.tags[tag] == state.commit):
        raise UserError(
            f"{repository.repo_id} already has a tag {tag} for other files (commit {state.tags[tag][:12]}); "
            f"pass another --tag"
        )
    return Pushed(
        repo_id=repository.repo_id,
        url=repository.url,
        commit=state.commit if already_there else None,
        tag=tag,
        created=False,
        private=state.private,
        uploaded=() if already_there else tuple(checked.files),
        kept=tuple(name for name in sorted(state.files) if name not in checked.files),
        sha256=checked.sha256,
        golden=checked.golden,
        dry_run=True,
    )


def _tag_of(state: RemoteState) -> str | None:
    return next((name for name, commit in sorted(state.tags.items()) if commit == state.commit), None)


def _rehearse(checked: CheckedFolder, repository: RemoteRepository, *, private: bool, tag: str | None) -> Pushed:
    note = None
    try:
        state = repository.state()
    except UserError as error:
        state, note = None, str(error)
    if state is not None:
        return _plan(checked, repository, state, private=private, tag=tag)
    return Pushed(
        repo_id=repository.repo_id,
        url=repository.url,
        commit=None,
        tag=tag or "v1",
        created=note is None,
        private=private,
        uploaded=tuple(checked.files),
        kept=(),
        sha256=checked.sha256,
        golden=checked.golden,
        dry_run=True,
        note=note,
    )


def _compare(checked: CheckedFolder, repository: RemoteRepository, commit: str) -> float:
    """Load a commit back into an empty cache and return the largest difference of its features from the golden ones.

    Raises:
        UserError: a file came back with different content, or the features differ.
    """
    changed = checked.missing_from(repository.files_at(commit))
    if changed:
        raise UserError(
            f"{repository.url} returned different content than was sent for {', '.join(changed)} (commit "
            f"{commit[:12]}); it was not tagged; push again"
        )
    with tempfile.TemporaryDirectory(prefix="eo-push-") as cache:
        try:
            report = verify(f"{HUB_PREFIX}{repository.repo_id}@{commit}", cache_dir=cache, sha256=checked.sha256)
        except UserError as error:
            raise UserError(
                f"commit {commit[:12]} is on {repository.url}, but was not tagged, because loading it back failed: "
                f"{error}"
            ) from error
    if report["golden"] is None:
        raise UserError(f"{repository.url} has no {GOLDEN_FILE} at {commit[:12]}; it was not tagged; push again")
    return float(report["golden"])
