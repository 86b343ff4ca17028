"""A folder over real HTTP on 127.0.0.1, with byte ranges as GDAL asks for them; answers of other status by path."""

import contextlib
import functools
import http.server
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class FileServer:
    """A running server.

    Attributes:
        url: of the folder.
        asked: path, with its query, of each request.
        status: path -> status that is answered instead, the given number of times.
        delay_s: path -> seconds before the answer.
        accounts: path -> value of the ``Authorization`` header that it needs.
        moved: path -> where else it is.
        ranges: whether parts of files are sent.
    """

    url: str = ""
    asked: list[str] = field(default_factory=list)
    status: dict[str, list[int]] = field(default_factory=dict)
    delay_s: dict[str, float] = field(default_factory=dict)
    accounts: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    ranges: bool = True


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FileServer

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.state.asked.append(self.path)
        time.sleep(self.state.delay_s.get(path, 0))
        file = Path(self.translate_path(self.path))
        if self.state.status.get(path):
            self._send(self.state.status[path].pop(0), b"", body=body)
        elif path in self.state.moved:
            self._send(302, b"", body=body, Location=self.state.moved[path])
        elif path in self.state.accounts and self.headers.get("Authorization") != self.state.accounts[path]:
            self._send(401, b"", body=body, **{"WWW-Authenticate": 'Basic realm="files"'})
        elif not file.is_file():
            self._send(404, b"", body=body)
        else:
            content = file.read_bytes()
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked is None or not self.state.ranges:
                self._send(200, content, body=body)
                return
            first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
            if first > last:
                self._send(416, b"", body=body)
            else:
                where = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
                self._send(206, content[first : last + 1], body=body, **where)

    def _send(self, status: int, content: bytes, *, body: bool, **headers: str) -> None:
        self.send_response(status)
        ranges = {"Accept-Ranges": "bytes"} if self.state.ranges else {}
        for name, value in {**ranges, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            with contextlib.suppress(ConnectionError):  # GDAL reads no further than it needs
                self.wfile.write(content)


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """Serve a folder while the block runs."""
    state = FileServer()
    handler = functools.partial(type("Handler", (_Handler,), {"state": state}), directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
