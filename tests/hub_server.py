"""A model hub on loopback, in memory, that speaks the protocol of the Hugging Face Hub: what the tests talk to.

It serves repositories (branches, tags, commits, large files behind a second host name as on the real CDN), takes
uploads, serves plain files at `/files/<name>` as any web server would, logs every request, and breaks on demand.
`hub_protocol` holds the routes.
"""

import re
import threading
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import Literal, NamedTuple

from hub_protocol import LARGE_SUFFIXES, Blob, Handler, Repo


class Request(NamedTuple):
    """One request as the server saw it; `path` is without the query."""

    method: str
    path: str
    range: str | None


@dataclass
class Fault:
    """What goes wrong, with which requests, how many times more."""

    kind: Literal["status", "drop", "flip"]
    times: int
    path: str
    status: int


class HubServer:
    """The server; a context manager. `url` is the endpoint, `token` the only one that may write."""

    token = "hf_loopback"
    user = "tester"

    def __init__(self) -> None:
        handler = type("Handler", (Handler,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        self.cdn = f"http://localhost:{port}"  # another host name: the client must not take it for the Hub
        self.state = threading.RLock()
        self.reset()

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def reset(self) -> None:
        """Forget all content, faults and requests."""
        self.repos: dict[str, Repo] = {}
        self.files: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []

    def add_repo(self, name: str, files: dict[str, bytes], *, gated: bool = False) -> str:
        """Put files in a repository, made if need be, as one commit on main; returns its sha."""
        with self.state:
            repo = self.repos.setdefault(name, Repo(name))
            repo.gated = gated
            head = repo.resolve("main")
            blobs = {path: self.blob(path, content) for path, content in files.items()}
            return repo.commit("add files", {**(head.files if head else {}), **blobs})

    def blob(self, path: str, content: bytes) -> Blob:
        blob = Blob(content, large=path.endswith(LARGE_SUFFIXES) or len(content) > 10 << 20)
        if blob.large:
            self.objects[blob.sha256] = content
        return blob

    def break_down(
        self, kind: Literal["status", "drop", "flip"], *, times: int = 1, path: str = "", status: int = 503
    ) -> None:
        """Spoil the next `times` requests whose path contains `path`.

        "status" answers with that HTTP status; "drop" closes the connection midway through a body; "flip" changes
        one byte of a body.
        """
        self.faults.append(Fault(kind, times, path, status))

    def take_fault(self, kind: str, path: str) -> Fault | None:
        """The fault that a request for `path` is to suffer, if any; it counts as suffered."""
        with self.state:
            for fault in self.faults:
                if fault.kind == kind and fault.times > 0 and fault.path in path:
                    fault.times -= 1
                    return fault
        return None

    def log(self, method: str, path: str, range_asked: str | None) -> None:
        self.requests.append(Request(method, path, range_asked))

    def bodies(self, path: str = "") -> int:
        """How many bodies of weight files were sent, of those whose path contains `path`."""
        files = re.compile(r"/files/|/cdn/|/[^/]+/[^/]+/resolve/")
        return sum(
            request.method == "GET" and path in request.path and files.match(request.path) is not None
            for request in self.requests
        )
