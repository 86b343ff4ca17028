"""What a push asks of the Hugging Face Hub: the state of a repository, a new one, one commit, one tag.

:mod:`eo_backbones.hub` is the other module that talks to the Hub; :mod:`eo_backbones.push` decides what happens in
which order. A commit is all or nothing on the Hub's side: large files are uploaded before it, and belong to nothing
until it names them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from eo_backbones.errors import UserError
from eo_backbones.hub_errors import FAILURES, TOKEN_HELP, UPLOAD_FAILURES, explain_push

BRANCH = "main"


@dataclass(frozen=True, slots=True)
class Content:
    """A file's content under the two names that the Hub may know it by.

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
    """Raise a UserError that says how to get a token in, if huggingface_hub finds none."""
    if get_token() is None:
        raise UserError(f"pushing needs a token: {TOKEN_HELP.format(endpoint=constants.ENDPOINT)}")


class RemoteRepository:
    """One repository on the Hub. Every method raises :class:`UserError` for a failure of the Hub."""

    def __init__(self, repo_id: str) -> None:
        self.repo_id = repo_id
        self._api = HfApi(library_name="eo_backbones")

    @property
    def url(self) -> str:
        """Its page."""
        return f"{constants.ENDPOINT}/{self.repo_id}"

    def state(self) -> RemoteState | None:
        """Return what the repository holds, or ``None`` if it does not exist (or is not shown to us)."""
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
        """Make the repository, if nobody did so meanwhile."""
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
        """Give a commit a name for good."""
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
