"""What a Hub keeps, in memory: repositories, commits, large files, users. No HTTP here."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count

GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_LARGE_BYTES = 10_000_000

_serial = count()


@dataclass(frozen=True, slots=True)
class User:
    name: str
    may_write: bool


TOKENS: Mapping[str, User] = {"hf_write": User("acme", True), "hf_read": User("reader", False)}
"""The tokens that exist. A user reads and writes what is in the namespace of its name."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a commit: its blob, and the names a client knows it by.

    ``oid`` is the git id; for a large file that is the id of its pointer, and ``sha256`` is what the ETag shows.
    """

    oid: str
    size: int
    sha256: str | None = None
    pointer_size: int = 0

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True, slots=True)
class Commit:
    sha: str
    title: str
    parent: str | None
    files: Mapping[str, StoredFile]


@dataclass(slots=True)
class Repository:
    repo_id: str
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.repo_id.split("/")[0]

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag or a commit id names."""
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    def readable_by(self, user: User | None) -> bool:
        return not self.private or (user is not None and user.name == self.owner)

    def open_to(self, user: User | None) -> bool:
        """Whether the user may download files; a gated repository shows itself, but not its files."""
        return not self.gated or (user is not None and user.name == self.owner)

    def writable_by(self, user: User | None) -> bool:
        return user is not None and user.may_write and user.name == self.owner


class HubStore:
    """Repositories and blobs of one Hub."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}

    def create(self, repo_id: str, *, private: bool = False, gated: bool = False) -> Repository:
        repository = self.repositories[repo_id] = Repository(repo_id, private, gated)
        self.commit(repo_id, {".gitattributes": GIT_ATTRIBUTES}, title="initial commit")
        return repository

    def publish(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Put files into a repository as one commit, large ones by their sha256; return the commit id."""
        if repo_id not in self.repositories:
            self.create(repo_id, private=private, gated=gated)
        return self.commit(
            repo_id,
            {
                name: self.add_large(content) if is_large(name, len(content)) else content
                for name, content in files.items()
            },
        )

    def add_large(self, content: bytes) -> StoredFile:
        """Store a large file's content; return the file that a commit may name."""
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return large_file(digest, len(content))

    def commit(
        self,
        repo_id: str,
        added: Mapping[str, bytes | StoredFile],
        deleted: Iterable[str] = (),
        *,
        branch: str = "main",
        title: str = "commit",
    ) -> str:
        """Add a commit to a branch; return its id. A deleted name stands for a file or all files below a folder."""
        repository = self.repositories[repo_id]
        parent = repository.at(branch)
        gone = tuple(deleted)
        files = {
            name: file
            for name, file in (parent.files if parent else {}).items()
            if not any(name == one or name.startswith(f"{one.rstrip('/')}/") for one in gone)
        }
        files |= {
            name: value if isinstance(value, StoredFile) else self._add_regular(value) for name, value in added.items()
        }
        sha = hashlib.sha1(f"{repo_id} {next(_serial)}".encode()).hexdigest()
        repository.commits[sha] = Commit(sha, title, parent.sha if parent else None, files)
        repository.branches[branch] = sha
        return sha

    def content(self, file: StoredFile) -> bytes:
        return self.blobs[file.etag]

    def _add_regular(self, content: bytes) -> StoredFile:
        oid = git_blob_id(content)
        self.blobs[oid] = content
        return StoredFile(oid, len(content))


def is_large(name: str, size: int) -> bool:
    """Whether the Hub keeps a file as a large one (git LFS)."""
    return name.endswith(_LARGE_SUFFIXES) or size >= _LARGE_BYTES


def large_file(sha256: str, size: int) -> StoredFile:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return StoredFile(git_blob_id(pointer), size, sha256, len(pointer))


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
