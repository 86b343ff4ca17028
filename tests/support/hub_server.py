"""The project's own loopback Hub: the part of the Hugging Face protocol that our client calls, over real HTTP.

It is our reading of what huggingface_hub 1.33 and 2.4 ask for, checked against the package ``olah`` for downloads
(``test_hub_olah.py``); it proves nothing about the public Hub. Standard library only, 127.0.0.1 only.

    with running_hub() as hub:
        hub.store.publish("acme/model", {"config.json": b"{}"})
        ...                                     # a client with HF_ENDPOINT=hub.url
"""

import base64
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from http.server import ThreadingHTTPServer
from json import loads
from typing import Any
from urllib.parse import parse_qs

from support.hub_http import Answer, Fault, Hub, HubError, RoutedHandler
from support.hub_store import StoredFile, is_large, large_file


class HubHandler(RoutedHandler):
    """The endpoints."""

    # -- downloads

    def resolve(self, repo_id: str, revision: str, name: str) -> None:
        repository = self.repository(repo_id)
        if not repository.open_to(self.user):
            raise HubError(403 if self.user else 401, "GatedRepo", "Access to this model is restricted")
        commit = repository.at(revision)
        if commit is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        file = commit.files.get(name)
        if file is None:
            raise HubError(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit.sha})
        self._send_file(name, file, commit.sha)

    def _send_file(self, name: str, file: StoredFile, commit: str) -> None:
        content = self.hub.store.content(file)
        etag = f'"{file.etag}"'
        headers = {
            "X-Repo-Commit": commit,
            "ETag": etag,
            "X-Linked-Etag": etag,
            "X-Linked-Size": str(file.size),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        fault = self._fault(name)
        if fault and fault.kind == "status":
            raise HubError(fault.status, "", "injected fault")
        if self.command == "HEAD":
            self.send(200, b"", headers, length=file.size)
            return
        status = 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), int(asked[2] or file.size - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
            content, status = content[first : last + 1], 206
        if fault is None:
            self.send(status, content, headers)
        elif fault.kind == "flip":
            at = fault.at_byte
            self.send(status, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], headers)
        elif fault.kind == "short":
            self.send(status, content[: fault.at_byte], headers)
        else:
            self.send(status, content[: fault.at_byte], headers, length=len(content))
            self.wfile.flush()
            self.close_connection = True

    def _fault(self, name: str) -> Fault | None:
        fault = self.hub.faults.get(name)
        if fault is None or fault.times == 0 or (self.command == "HEAD" and fault.kind != "status"):
            return None
        fault.times -= 1
        return fault

    # -- what a repository holds

    def whoami(self) -> Answer:
        if self.user is None:
            raise HubError(401, "", "Invalid credentials")
        role = "write" if self.user.may_write else "read"
        return 200, {"type": "user", "name": self.user.name, "orgs": [], "auth": {"accessToken": {"role": role}}}

    def repository_info(self, repo_id: str, revision: str | None = None) -> Answer:
        repository = self.repository(repo_id)
        commit = repository.at(revision or "main")
        if commit is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [
            {"rfilename": name} | (_entry(name, file) | {"blobId": file.oid} if "blobs" in self.query else {})
            for name, file in sorted(commit.files.items())
        ]
        return 200, {
            "_id": repo_id,
            "id": repo_id,
            "modelId": repo_id,
            "author": repository.owner,
            "sha": commit.sha,
            "private": repository.private,
            "gated": "auto" if repository.gated else False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
        }

    def refs(self, repo_id: str) -> Answer:
        repository = self.repository(repo_id)
        kinds = {"branches": ("heads", repository.branches), "tags": ("tags", repository.tags)}
        return 200, {"converts": []} | {
            kind: [{"name": name, "ref": f"refs/{ref}/{name}", "targetCommit": sha} for name, sha in known.items()]
            for kind, (ref, known) in kinds.items()
        }

    def tree(self, repo_id: str, revision: str) -> Answer:
        files = self._files(repo_id, revision)
        return 200, [_entry(name, file) for name, file in sorted(files.items())]

    def paths_info(self, repo_id: str, revision: str) -> Answer:
        files = self._files(repo_id, revision)
        is_form = "form" in self.headers.get("Content-Type", "")
        names = parse_qs(self.body.decode())["paths"] if is_form else self.json()["paths"]
        return 200, [_entry(name, files[name]) for name in names if name in files]

    def _files(self, repo_id: str, revision: str) -> Mapping[str, StoredFile]:
        commit = self.repository(repo_id).at(revision)
        if commit is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit.files

    # -- uploads

    def create_repository(self) -> Answer:
        asked = self.json()
        if self.user is None or not self.user.may_write:
            raise HubError(401 if self.user is None else 403, "", "a token with write access is needed")
        repo_id = f"{asked.get('organization') or self.user.name}/{asked['name']}"
        url = {"url": f"{self.base}/{repo_id}"}
        if repo_id in self.hub.store.repositories:
            return 409, url | {"error": "You already created this model repo"}
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.store.create(repo_id, private=private)
        return 200, url | {"name": repo_id, "id": repo_id}

    def validate_yaml(self) -> Answer:
        return 200, {"errors": [], "warnings": []}

    def preupload(self, repo_id: str, revision: str) -> Answer:
        commit = self.repository(repo_id, write=True).at(revision)
        old = commit.files if commit else {}
        return 200, {
            "files": [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if is_large(one["path"], one["size"]) else "regular",
                    "shouldIgnore": False,
                    "oid": old[one["path"]].etag if one["path"] in old else None,
                }
                for one in self.json()["files"]
            ]
        }

    def large_file_batch(self, repo_id: str) -> Answer:
        self.repository(repo_id, write=True)
        objects = [{"oid": one["oid"], "size": one["size"]} for one in self.json()["objects"]]
        for one in objects:
            if one["oid"] not in self.hub.store.blobs:
                address = f"{self.base}/large-files/{one['oid']}"
                one["actions"] = {"upload": {"href": address}, "verify": {"href": f"{address}/verify"}}
        return 200, {"transfer": "basic", "objects": objects}

    def put_large_file(self, oid: str) -> Answer:
        if sha256(self.body).hexdigest() != oid:
            return 400, {"error": "the content has another sha256"}
        self.hub.store.blobs[oid] = self.body
        return 200, {}

    def verify_large_file(self, oid: str) -> Answer:
        content = self.hub.store.blobs.get(oid)
        return (200 if content is not None and len(content) == self.json()["size"] else 404), {}

    def commit(self, repo_id: str, revision: str) -> Answer:
        repository = self.repository(repo_id, write=True)
        added: dict[str, bytes | StoredFile] = {}
        deleted: list[str] = []
        header: dict[str, Any] = {}
        for line in self.body.splitlines():
            entry = loads(line)
            value = entry["value"]
            match entry["key"]:
                case "header":
                    header = value
                case "file":
                    added[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    if value["oid"] not in self.hub.store.blobs:
                        return 400, {"error": f"large file {value['oid']} was never uploaded"}
                    added[value["path"]] = large_file(value["oid"], value["size"])
                case "deletedFile" | "deletedFolder":
                    deleted.append(value["path"])
        if self.hub.before_commit is not None:
            self.hub.before_commit()
        if header.get("parentCommit") not in (None, repository.branches.get(revision)):
            return 412, {"error": "A commit has happened since. Please refresh and try again."}
        sha = self.hub.store.commit(repo_id, added, deleted, branch=revision, title=header["summary"])
        return 200, {"success": True, "commitOid": sha, "commitUrl": f"{self.base}/{repo_id}/commit/{sha}"}

    def create_tag(self, repo_id: str, revision: str) -> Answer:
        repository = self.repository(repo_id, write=True)
        commit, tag = repository.at(revision), self.json()["tag"]
        if commit is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if tag in repository.tags:
            return 409, {"error": "Tag already exists"}
        repository.tags[tag] = commit.sha
        return 200, {}


def _entry(name: str, file: StoredFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "oid": file.oid, "size": file.size}
    if file.sha256:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return entry


_MODEL = r"/api/models/(?P<repo_id>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"
_LARGE = r"/large-files/(?P<oid>[0-9a-f]{64})"
HubHandler.routes = (
    (rf"/(?P<repo_id>[^/]+/[^/]+)/resolve/{_REVISION}/(?P<name>.+)", HubHandler.resolve),
    (_MODEL, HubHandler.repository_info),
    (rf"{_MODEL}/revision/{_REVISION}", HubHandler.repository_info),
    (rf"{_MODEL}/refs", HubHandler.refs),
    (rf"{_MODEL}/tree/{_REVISION}", HubHandler.tree),
    (rf"{_MODEL}/paths-info/{_REVISION}", HubHandler.paths_info),
    (rf"{_MODEL}/preupload/{_REVISION}", HubHandler.preupload),
    (rf"{_MODEL}/commit/{_REVISION}", HubHandler.commit),
    (rf"{_MODEL}/tag/{_REVISION}", HubHandler.create_tag),
    (r"/api/whoami-v2", HubHandler.whoami),
    (r"/api/repos/create", HubHandler.create_repository),
    (r"/api/validate-yaml", HubHandler.validate_yaml),
    (r"/(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", HubHandler.large_file_batch),
    (_LARGE, HubHandler.put_large_file),
    (rf"{_LARGE}/verify", HubHandler.verify_large_file),
)


class HubServer(ThreadingHTTPServer):
    """A thread a connection; stopping also closes connections that clients keep open."""

    daemon_threads = True

    def __init__(self) -> None:
        self.open_sockets: list[socket.socket] = []

        class Handler(HubHandler):  # one object a connection, all with this server's Hub
            pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = Handler.hub = Hub(url=f"http://127.0.0.1:{self.server_address[1]}")

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.open_sockets.append(connection)
        return connection, address

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in self.open_sockets:
            with suppress(OSError):  # the client may have closed it
                connection.shutdown(socket.SHUT_RDWR)


def start_hub() -> HubServer:
    """Start a server on a free port, in threads that end with the process."""
    server = HubServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A server of one's own, which can also go away."""
    server = start_hub()
    try:
        yield server.hub
    finally:
        server.stop()
