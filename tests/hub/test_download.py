"""Fetching weights: the same guarantees for files of the Hub and of other web servers."""

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import constants
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from svt_zoo.hub.download import HubFile, Source, UrlFile, WeightsError, at_revision, fetch, lock_path, parse_source
from svt_zoo.hub.hugging_face import at_commit
from svt_zoo.hub.sources import ByHand

ROOT = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(256)) * 8192  # 2 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
DEAD = "http://127.0.0.1:9"  # the discard port: no server listens

Failure = Callable[..., str]


@dataclass(frozen=True)
class Published:
    """A file that can be fetched, and the form of an address to fetch it by hand."""

    source: Source
    url: str
    server: HubServer

    def publish(self, content: bytes) -> None:
        """Put other bytes at the same source."""
        if isinstance(self.source, HubFile):
            self.server.add_repo(self.source.repo, {self.source.filename: content})
        else:
            self.server.files["weights.pth"] = content


@pytest.fixture(params=["hub", "web"])
def published(request: pytest.FixtureRequest, hub_server: HubServer) -> Published:
    """The file CONTENT, on the Hub at a full commit or at an address."""
    if request.param == "web":
        hub_server.files["weights.pth"] = CONTENT
        url = f"{hub_server.url}/files/weights.pth"
        return Published(UrlFile(url), url, hub_server)
    sha = hub_server.add_repo("org/svt", {"sub/weights.pth": CONTENT})
    url = f"{hub_server.url}/org/svt/resolve/{sha}/sub/weights.pth"
    return Published(HubFile("org/svt", "sub/weights.pth", sha), url, hub_server)


def on_main(published: Published) -> Published:
    """The same file at a revision that may move, for the Hub."""
    if isinstance(published.source, HubFile):
        return replace(published, source=replace(published.source, revision="main"))
    return published


def test_the_bytes_arrive(published: Published) -> None:
    assert fetch(published.source).read_bytes() == CONTENT


def test_a_source_may_be_written_as_text(published: Published) -> None:
    assert fetch(str(published.source), sha256=SHA256).read_bytes() == CONTENT


def test_a_cached_file_takes_no_request(published: Published) -> None:
    first = fetch(published.source)
    published.server.requests.clear()
    assert fetch(published.source) == first
    assert published.server.requests == []


def test_threads_that_fetch_at_once_make_one_download(published: Published) -> None:
    start = threading.Barrier(4)

    def fetch_together(_: int) -> Path:
        start.wait()
        return fetch(published.source, sha256=SHA256)

    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(fetch_together, range(4)))
    assert [path.read_bytes() == CONTENT for path in paths] == [True]
    assert published.server.bodies("weights.pth") + published.server.bodies("/cdn/") == 1


@pytest.mark.slow
def test_processes_that_fetch_at_once_make_one_download(published: Published) -> None:
    code = f"from svt_zoo.hub.download import fetch; fetch({str(published.source)!r}, sha256={SHA256!r})"
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0, 0, 0, 0]
    assert published.server.bodies("weights.pth") + published.server.bodies("/cdn/") == 1


def test_a_hash_seen_once_is_expected_from_then_on(published: Published, failure: Failure) -> None:
    published = on_main(published)
    first = fetch(published.source)
    sources = {str(published.source)}
    if isinstance(published.source, HubFile):
        sources.add(str(at_commit(published.source, first)))
    assert json.loads(lock_path().read_text()) == dict.fromkeys(sources, SHA256)
    published.publish(b"other")
    if isinstance(published.source, UrlFile):
        first.unlink()
    text = failure(published.source)
    assert f"sha256 is {OTHER}, but was {SHA256} when first downloaded" in text
    assert f"remove its entry from {lock_path()}" in text
    for commit in sources - {str(published.source)}:
        assert f"or load {commit}, which was read then" in text
        assert fetch(commit).read_bytes() == CONTENT
    lock_path().unlink()
    assert fetch(published.source).read_bytes() == b"other"


def test_a_wrong_hash_is_refused(published: Published, failure: Failure) -> None:
    assert f"wrong sha256 {SHA256}, expected {OTHER}" in failure(published.source, sha256=OTHER)


@pytest.mark.parametrize("known", [True, False], ids=["hash known", "hash recorded"])
def test_a_cached_file_that_went_bad_is_named_and_can_be_deleted(
    published: Published, failure: Failure, known: bool
) -> None:
    sha256 = SHA256 if known else None
    path = fetch(published.source, sha256=sha256).resolve()
    path.write_bytes(CONTENT[:-1] + b"!")
    text = failure(published.source, sha256=sha256)
    assert f"the cached file {path}" in text
    assert "delete" in text
    path.unlink()
    assert fetch(published.source, sha256=sha256).read_bytes() == CONTENT


def test_a_byte_flipped_on_the_way_is_noticed_where_the_hash_is_known(published: Published, failure: Failure) -> None:
    published.server.break_down("flip")
    assert "wrong sha256" in failure(published.source, sha256=SHA256)


def test_a_byte_flipped_on_the_way_from_the_hub_is_noticed_without_a_known_hash(
    hub_server: HubServer, failure: Failure
) -> None:
    sha = hub_server.add_repo("org/svt", {"weights.pth": CONTENT})
    hub_server.break_down("flip")
    text = failure(HubFile("org/svt", "weights.pth", sha))
    assert f"that of the Hub is {SHA256}; delete it and try again" in text
    assert not lock_path().exists()


def test_a_body_dropped_once_is_fetched_again(published: Published, no_waiting: None) -> None:
    published.server.break_down("drop")
    assert fetch(published.source, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.usefixtures("no_waiting")
def test_a_body_that_never_ends_well_is_one_error(published: Published, failure: Failure) -> None:
    published.server.break_down("drop", times=99)
    text = failure(on_main(published).source)
    assert "truncated" in text or "the connection broke" in text
    assert "by hand" in text


@pytest.mark.usefixtures("no_waiting")
def test_a_broken_server_is_named_with_its_answer(published: Published, failure: Failure) -> None:
    published.server.break_down("status", times=99, status=503)
    text = failure(published.source)
    assert "the server answered HTTP 503" in text
    assert "try again later, or fetch " in text
    assert published.url in text


def test_no_network_says_what_to_fetch_and_where_to_put_it(
    use_hub: Callable[[str], None], failure: Failure, no_waiting: None
) -> None:
    use_hub(DEAD)
    text = failure(HubFile("org/svt", "weights.pth", "v1"))
    assert "no network" in text
    assert f"fetch {DEAD}/org/svt/resolve/v1/weights.pth by hand and pass weights=/path/to/file" in text
    assert "(tools: --weights, recipes: init=); HF_HUB_OFFLINE=1 makes no requests" in text

    web = UrlFile(f"{DEAD}/files/weights.pth")
    text = failure(web)
    assert "no network" in text
    assert text.startswith(web.url)
    assert f"fetch it by hand and put it at {web.path}, or pass weights=/path/to/file" in text


def test_a_hub_that_does_not_answer_is_asked_three_times(
    hub_server: HubServer, failure: Failure, no_waiting: None
) -> None:
    hub_server.add_repo("org/svt", {"weights.pth": CONTENT})
    hub_server.requests.clear()
    hub_server.break_down("status", times=99, status=503)
    failure("hf://org/svt/weights.pth@main")
    assert len(hub_server.requests) == 3


def test_offline_serves_what_is_cached(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(published.source)
    published.server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(published.source).read_bytes() == CONTENT
    assert published.server.requests == []


def test_offline_says_what_to_fetch_by_hand(
    published: Published, failure: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    text = failure(published.source)
    assert "offline mode forbids requests" in text
    assert published.url in text
    assert "by hand" in text
    assert published.server.requests == []


def test_hf_hub_offline_in_the_environment_forbids_requests(published: Published) -> None:
    code = f"from svt_zoo.hub.download import fetch; fetch({str(published.source)!r})"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert "WeightsError" in result.stderr
    assert "offline mode forbids requests" in result.stderr
    assert published.server.requests == []


def test_what_is_not_on_the_hub_is_named(hub_server: HubServer, failure: Failure) -> None:
    hub_server.add_repo("org/svt", {"weights.pth": CONTENT})
    assert "org/none does not exist or is private" in failure("hf://org/none/weights.pth@main")
    assert "org/svt has no revision 'v9'" in failure("hf://org/svt/weights.pth@v9")
    assert "org/svt has no file 'other.pth' at 'main'" in failure("hf://org/svt/other.pth@main")
    assert "no name that the Hub allows" in failure("hf://org/a--b/weights.pth@main")


@pytest.mark.parametrize(("token", "status"), [("", 401), ("hf_stranger", 403)])
def test_a_gated_repository_says_where_to_accept_its_terms(
    hub_server: HubServer, failure: Failure, monkeypatch: pytest.MonkeyPatch, token: str, status: int
) -> None:
    hub_server.add_repo("org/gated", {"weights.pth": CONTENT}, gated=True)
    monkeypatch.setenv("HF_TOKEN", token)
    text = failure("hf://org/gated/weights.pth@main")
    assert f"gated (HTTP {status}); accept the terms at {hub_server.url}/org/gated and log in" in text


def test_what_is_not_at_an_address_is_named(hub_server: HubServer, failure: Failure) -> None:
    assert "no such file (HTTP 404)" in failure(f"{hub_server.url}/files/absent.pth")


def test_a_full_disk_under_the_hub_s_cache_is_named(
    hub_server: HubServer, failure: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sha = hub_server.add_repo("org/svt", {"weights.pth": CONTENT})
    monkeypatch.setattr("huggingface_hub.file_download.http_get", write)
    text = failure(HubFile("org/svt", "weights.pth", sha))
    assert f"disk full: {constants.HF_HUB_CACHE} has " in text
    assert "HF_HOME" in text


def test_a_revision_takes_the_place_of_the_source_s(hub_server: HubServer) -> None:
    first = hub_server.add_repo("org/svt", {"weights.pth": b"first"})
    hub_server.add_repo("org/svt", {"weights.pth": b"second"})
    assert fetch("hf://org/svt/weights.pth").read_bytes() == b"second"
    assert fetch(f"hf://org/svt/weights.pth@{first}").read_bytes() == b"first"


def test_a_revision_of_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="revision='v1' is for files of the Hub"):
        at_revision(parse_source("https://server.org/weights.pth"), "v1")


# --- local paths and iopath


def test_a_local_file_is_returned_as_it_is_and_not_recorded(hub_server: HubServer, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(CONTENT)
    assert fetch(str(path)) == path
    assert fetch(path, sha256=SHA256) == path
    path.write_bytes(b"trained on")
    assert fetch(path) == path
    assert not lock_path().exists()


def test_a_local_file_must_have_the_hash_that_is_given(tmp_path: Path, failure: Failure) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(CONTENT)
    assert f"wrong sha256 {SHA256}, expected {OTHER}" in failure(path, sha256=OTHER)


def test_a_missing_local_file_and_a_folder_are_named(tmp_path: Path, failure: Failure) -> None:
    assert f"absent.pth: no such file ({Path('absent.pth').absolute()}); check the path" in failure("absent.pth")
    assert failure(tmp_path / "absent.pth").startswith(f"{tmp_path / 'absent.pth'}: no such file; check the path")
    assert f"{tmp_path}: a folder, not a file" in failure(tmp_path)


def test_iopath_fetches_what_a_registered_handler_reads(
    hub_server: HubServer, tmp_path: Path, failure: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_io = pytest.importorskip("iopath.common.file_io")

    class Shelf(file_io.PathHandler):  # type: ignore[misc, name-defined]
        def _get_supported_prefixes(self) -> list[str]:
            return ["shelf://"]

        def _get_local_path(self, path: str, force: bool = False, **_: object) -> str:
            if path.endswith("absent"):
                raise OSError("no such\nbook")
            return str(tmp_path / path.removeprefix("shelf://"))

    manager = file_io.PathManager()
    manager.register_handler(Shelf())
    monkeypatch.setattr(file_io, "g_pathmgr", manager)
    (tmp_path / "weights.pth").write_bytes(CONTENT)
    assert fetch("shelf://weights.pth").read_bytes() == CONTENT
    (tmp_path / "weights.pth").write_bytes(b"other")
    assert "when first downloaded" in failure("shelf://weights.pth")
    assert "iopath could not fetch it (no such book)" in failure("shelf://absent")
    assert "iopath has no handler for attic://" in failure("attic://weights.pth")


# --- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_with_the_time_left(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(published.source)
    assert "weights.pth" in terminal.getvalue()
    assert "100%" in terminal.getvalue()
    assert "<00:00" in terminal.getvalue()


def test_no_bar_is_drawn_when_none_is_wanted(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(published.source, progress=False)
    assert terminal.getvalue() == ""
    assert not are_progress_bars_disabled()


def test_a_log_is_not_filled_with_bars(published: Published, capfd: pytest.CaptureFixture[str]) -> None:
    fetch(published.source)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_error_is_a_runtime_error() -> None:
    assert issubclass(WeightsError, RuntimeError)


def test_a_file_without_a_public_address_is_fetched_by_hand() -> None:
    with pytest.raises(
        WeightsError,
        match=r"^ask the authors: no program can fetch .* weights=/path/to/file \(tools: --weights, recipes: init=\)$",
    ):
        fetch(ByHand("ask the authors"))
