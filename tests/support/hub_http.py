"""HTTP side of the loopback Hub: reads requests, finds their endpoint, sends answers, knows who asks."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from json import dumps, loads
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from support.hub_store import TOKENS, HubStore, Repository, User

ALWAYS = 1_000_000
_LFS_TYPE = "application/vnd.git-lfs+json"


@dataclass(slots=True)
class Fault:
    """Something that goes wrong whenever a file is sent, ``times`` times.

    ``cut``: the connection breaks after ``at_byte``; ``short``: the body is whole HTTP, but ``at_byte`` bytes long;
    ``flip``: one byte is another one; ``status``: an answer of that status without content.
    """

    kind: Literal["cut", "short", "flip", "status"]
    at_byte: int = 0
    status: int = 500
    times: int = ALWAYS


@dataclass(slots=True)
class Outage:
    """The Hub fails from one request on, whatever is asked.

    ``served`` requests are answered before. ``lost``: the first request of the outage is carried out, but its answer
    never arrives; otherwise it is refused like all that follow.
    """

    served: int
    lost: bool = False
    status: int = 400


@dataclass(slots=True)
class Request:
    """One line of the log; ``status`` is 0 until the answer is sent."""

    method: str
    path: str
    headers: Mapping[str, str]
    status: int = 0


@dataclass(slots=True)
class Hub:
    """A running server: what it stores, what it was asked, what shall go wrong (file name -> fault).

    ``before_commit`` is called before a commit's parent is compared with the branch.
    """

    url: str
    store: HubStore = field(default_factory=HubStore)
    requests: list[Request] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)
    outage: Outage | None = None
    before_commit: Callable[[], object] | None = None

    def reset(self) -> None:
        self.store = HubStore()
        self.requests.clear()
        self.faults.clear()
        self.outage = None
        self.before_commit = None

    def requested(self, method: str, ending: str) -> list[Request]:
        """Requests of a method whose path ends so."""
        return [one for one in self.requests if one.method == method and one.path.endswith(ending)]


class HubError(Exception):
    """An answer other than success; ``code`` is what the client reads from X-Error-Code."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message} | headers


Answer = tuple[int, Any]  # status, JSON


class RoutedHandler(BaseHTTPRequestHandler):
    """Finds the endpoint of a request in ``routes``: patterns of whole paths, whose groups become arguments."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    routes: tuple[tuple[str, Callable[..., Answer | None]], ...] = ()
    record: Request
    body: bytes
    query: dict[str, list[str]]
    answer_is_lost: bool = False

    def log_message(self, *_: object) -> None:
        pass

    def handle_request(self) -> None:
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        self.body = self._read_body()
        self.record = Request(self.command, address.path, dict(self.headers))
        position = len(self.hub.requests)
        self.hub.requests.append(self.record)
        outage = self.hub.outage
        self.answer_is_lost = outage is not None and outage.lost and position == outage.served
        try:
            if outage is not None and position >= outage.served and not self.answer_is_lost:
                self.send_json(outage.status, {"error": "injected outage"})
            else:
                self._answer(unquote(address.path))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def _read_body(self) -> bytes:
        if length := self.headers.get("Content-Length"):
            return self.rfile.read(int(length))
        body = b""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return body

    def _answer(self, path: str) -> None:
        try:
            self._route(path)
        except HubError as error:
            self.send_json(error.status, {"error": str(error)}, error.headers)

    def _route(self, path: str) -> None:
        for pattern, method in self.routes:
            if match := re.fullmatch(pattern, path):
                answer = method(self, **match.groupdict())
                if answer is not None:
                    self.send_json(*answer)
                return
        raise HubError(404, "", f"this test Hub has no {path}")

    def send_json(self, status: int, data: object, headers: Mapping[str, str] | None = None) -> None:
        kind = _LFS_TYPE if self.path.endswith("/objects/batch") else "application/json"
        self.send(status, dumps(data).encode(), {"Content-Type": kind, **(headers or {})})

    def send(self, status: int, content: bytes, headers: Mapping[str, str], length: int | None = None) -> None:
        if self.answer_is_lost:
            raise ConnectionResetError("the answer is lost")
        self.record.status = status
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content) if length is None else length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def user(self) -> User | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if token and token not in TOKENS:
            raise HubError(401, "", "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    @property
    def base(self) -> str:
        return f"http://{self.headers['Host']}"

    def json(self) -> dict[str, Any]:
        data: dict[str, Any] = loads(self.body)
        return data

    def repository(self, repo_id: str, *, write: bool = False) -> Repository:
        repository = self.hub.store.repositories.get(repo_id)
        if repository is None or not repository.readable_by(self.user):
            # like the Hub, which does not tell strangers whether a private repository exists
            raise HubError(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if write and not repository.writable_by(self.user):
            raise HubError(403 if self.user else 401, "", "You have no write access to this repository")
        return repository
