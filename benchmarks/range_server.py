"""A web server for files in memory that answers byte ranges, waits before each answer, and fails on demand.

    python benchmarks/range_server.py FOLDER --latency 0.02 --fail 0.05

It prints its URL, and after each line on the standard input its counts since the last one as JSON. It stands for an
object store: `latency` is the time to the first byte, and a fraction `fail` of the requests is answered by HTTP 503.
"""

import argparse
import json
import random
import re
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple


class Request(NamedTuple):
    """One request: the path, the status, the bytes of the answer, and the range that was asked for."""

    path: str
    status: int
    bytes: int
    range: str | None


class RangeServer:
    """The server; a context manager. `files` holds the content by name, `log` all requests."""

    def __init__(self, *, latency: float = 0.0, fail: float = 0.0, ranges: bool = True) -> None:
        self.files: dict[str, bytes] = {}
        self.log: list[Request] = []
        self.latency, self.fail, self.ranges = latency, fail, ranges
        self.missing = 404  # the status for other names
        self._random = random.Random(0)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "RangeServer":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def counts(self) -> dict[str, int]:
        """Requests, bytes of videos and of indexes, and injected failures since the last call; clears the log."""
        log, self.log = self.log, []
        index = sum(one.bytes for one in log if one.path.endswith(".index"))
        return {
            "requests": len(log),
            "bytes": sum(one.bytes for one in log) - index,
            "index_bytes": index,
            "failures": sum(one.status == 503 for one in log),
        }

    def answer(self, name: str, asked: str | None) -> tuple[int, bytes]:
        """The status and the content of an answer."""
        time.sleep(self.latency)
        if self._random.random() < self.fail:
            return 503, b""
        if (content := self.files.get(name)) is None:
            return self.missing, b""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "") if self.ranges else None
        if match is None:
            return 200, content
        first, last = int(match[1]), int(match[2] or len(content) - 1)
        return (206, content[first : last + 1]) if first < len(content) else (416, b"")


class _Handler(BaseHTTPRequestHandler):
    owner: RangeServer
    protocol_version = "HTTP/1.1"  # keeps connections open
    wbufsize = 1 << 16  # header and body go together
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        name, asked = urllib.parse.unquote(self.path.strip("/")), self.headers.get("Range")
        status, content = self.owner.answer(name, asked)
        self.owner.log.append(Request(name, status, len(content), asked))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before each answer (%(default)s)")
    parser.add_argument("--fail", type=float, default=0.0, help="fraction of requests that fail (%(default)s)")
    args = parser.parse_args()
    with RangeServer(latency=args.latency, fail=args.fail) as server:
        for path in args.folder.rglob("*"):
            if path.is_file():
                server.files[path.relative_to(args.folder).as_posix()] = path.read_bytes()
        print(server.url, flush=True)
        for line in sys.stdin:
            server.fail = float(line)  # the fraction that fails from now on
            print(json.dumps(server.counts()), flush=True)


if __name__ == "__main__":
    main()
