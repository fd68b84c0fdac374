import socket
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from iopath.common.file_io import PathHandler, g_pathmgr

from svt_zoo import files
from svt_zoo.data.lists import Row, read_list
from svt_zoo.files import DownloadError, download, local_path


@pytest.fixture
def bucket() -> Iterator[str]:
    """The URL of an empty folder in memory."""
    name = uuid.uuid4().hex
    yield f"memory://{name}"
    fsspec.filesystem("memory").store.clear()


def put(url: str, content: bytes) -> str:
    with fsspec.open(url, "wb") as file:
        file.write(content)
    return url


def test_a_local_path_stays_as_it_is() -> None:
    assert local_path("/a b/c.mp4") == "/a b/c.mp4"


def test_a_url_is_fetched_once_and_keeps_its_suffix(bucket: str, tmp_path: Path) -> None:
    url = put(f"{bucket}/a b.mp4", b"first")
    fetched = Path(local_path(url, cache_dir=tmp_path))
    put(url, b"second")
    assert local_path(url, cache_dir=tmp_path) == str(fetched)
    assert (fetched.suffix, fetched.read_bytes()) == (".mp4", b"first")


def test_threads_that_want_the_same_file_get_it_whole(bucket: str, tmp_path: Path) -> None:
    url, content = put(f"{bucket}/a.mp4", b"x" * 3_000_000), []
    readers = [
        threading.Thread(target=lambda: content.append(Path(local_path(url, cache_dir=tmp_path)).stat().st_size))
        for _ in range(8)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert content == [3_000_000] * 8


def test_a_file_that_is_not_there_names_the_url_and_leaves_nothing(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=rf"{bucket}/no\.mp4 cannot be fetched: FileNotFoundError"):
        local_path(f"{bucket}/no.mp4", cache_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


ESCAPED = {"/a%20b.mp4?c=d": "a b.mp4?c=d", "/%C3%BC%20.mp4": "ü%20.mp4", "/%E9.mp4": "\udce9.mp4"}


@pytest.fixture
def web_server() -> Iterator[str]:
    """The URL of a server that returns the four bytes `film` at `/a.mp4` and drops the connection at unknown paths."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "4" if self.path in ("/a.mp4", *ESCAPED) else "400")
            self.end_headers()
            self.wfile.write(b"film")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_web_addresses_need_no_further_package(web_server: str, tmp_path: Path) -> None:
    assert Path(local_path(f"{web_server}/a.mp4", cache_dir=tmp_path)).read_bytes() == b"film"


@pytest.mark.parametrize("name", ESCAPED.values())
def test_spaces_and_other_letters_of_a_web_address_are_escaped(name: str, web_server: str, tmp_path: Path) -> None:
    download(f"{web_server}/{name}", tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == b"film"


def test_a_broken_connection_leaves_no_half_file(
    web_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(OSError, match=r"is truncated, 4 of 400 bytes came \(3 attempts\)"):
        local_path(f"{web_server}/cut.mp4", cache_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_schemes_registered_with_iopath_work(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"film")

    class Shelf(PathHandler):
        def _get_supported_prefixes(self) -> list[str]:
            return ["shelf://"]

        def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
            return str(tmp_path / path.removeprefix("shelf://"))

    g_pathmgr.register_handler(Shelf(), allow_override=True)
    assert Path(local_path("shelf://a.mp4", cache_dir=tmp_path / "cache")).read_bytes() == b"film"


def test_a_list_behind_a_url_names_files_beside_it(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    put(f"{bucket}/lists/classInd.txt", b"1 Run\r\n2 Jump\r\n")
    url = put(f"{bucket}/lists/trainlist01.txt", b"Jump/v_Jump_g01_c01.avi 2\r\n")
    videos = read_list(url)
    assert videos.rows == (Row(f"{bucket}/lists/Jump/v_Jump_g01_c01.avi", 1, "v_Jump_g01"),)


def test_a_folder_behind_a_url_is_listed(bucket: str) -> None:
    for name in ("walk/b.mp4", "jump/a c.mp4", "jump/notes.txt"):
        put(f"{bucket}/{name}", b"x")
    videos = read_list(bucket)
    assert videos.classes == ("jump", "walk")
    assert [row.path for row in videos.rows] == [f"{bucket}/jump/a c.mp4", f"{bucket}/walk/b.mp4"]


def test_a_download_has_a_limit_of_size_and_of_time(web_server: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="the file is larger than 3 bytes"):
        download(f"{web_server}/a.mp4", tmp_path / "a.mp4", max_bytes=3)
    with pytest.raises(DownloadError, match="the download takes too long"):
        download(f"{web_server}/a.mp4", tmp_path / "a.mp4", max_seconds=-1)


def test_a_redirect_stays_on_https() -> None:
    request = urllib.request.Request("https://server.org/a.mp4")
    with pytest.raises(DownloadError, match=r"redirects from https to http://other\.org/a\.mp4"):
        files._SameScheme().redirect_request(request, None, 302, "", {}, "http://other.org/a.mp4")
    assert files._SameScheme().redirect_request(request, None, 302, "", {}, "https://other.org/a.mp4")


def test_a_connection_that_is_dropped_before_the_answer_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drop() -> None:
            for _ in range(3):
                connection, _ = server.accept()
                connection.recv(100)
                connection.close()

        threading.Thread(target=drop, daemon=True).start()
        with pytest.raises(DownloadError, match=r"no network \(.*\) \(3 attempts\); try again later"):
            download(f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4", tmp_path / "a.mp4")
    assert waits == [1.0, 2.0]
