"""Files of ordinary web servers."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import HubServer

from svt_zoo.files import torch_folder
from svt_zoo.hub.download import UrlFile, fetch

CONTENT = bytes(range(256)) * 8192  # 2 MiB: more than one read
SHA256 = hashlib.sha256(CONTENT).hexdigest()

Failure = Callable[..., str]
LeftBehind = Callable[[], list[str]]


def checkpoints() -> Path:
    return torch_folder("checkpoints")


@pytest.fixture
def url(hub_server: HubServer) -> str:
    hub_server.files["weights.pth"] = CONTENT
    return f"{hub_server.url}/files/weights.pth"


def test_a_file_may_be_kept_under_another_name(url: str) -> None:
    assert fetch(UrlFile(url, "svt.pth")) == checkpoints() / "svt.pth"


def test_a_file_put_there_by_hand_is_taken_without_a_request(hub_server: HubServer, url: str) -> None:
    checkpoints().mkdir(parents=True)
    (checkpoints() / "weights.pth").write_bytes(CONTENT)
    assert fetch(url, sha256=SHA256).read_bytes() == CONTENT
    assert hub_server.requests == []


def test_a_download_with_the_wrong_hash_is_not_kept(
    hub_server: HubServer, url: str, failure: Failure, left_behind: LeftBehind
) -> None:
    hub_server.break_down("flip")
    assert "wrong sha256" in failure(url, sha256=SHA256)
    assert left_behind() == []
    assert fetch(url, sha256=SHA256).read_bytes() == CONTENT


def test_a_download_that_is_always_cut_short_leaves_nothing(
    hub_server: HubServer, url: str, failure: Failure, left_behind: LeftBehind, no_waiting: None
) -> None:
    hub_server.break_down("drop", times=99)
    text = failure(url)
    assert "truncated, 1048576 of 2097152 bytes came" in text or "truncated, it broke off" in text
    assert "(3 attempts)" in text
    assert left_behind() == []


def test_what_a_killed_download_left_is_replaced(url: str, left_behind: LeftBehind) -> None:
    checkpoints().mkdir(parents=True)
    (checkpoints() / ".part.weights.pth").write_bytes(b"half of an old one" * 999999)
    assert fetch(url, sha256=SHA256).read_bytes() == CONTENT
    assert left_behind() == ["svt_zoo.lock.json", "weights.pth"]


def test_a_short_trouble_of_the_server_is_waited_out(
    hub_server: HubServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    hub_server.break_down("status", times=2, status=503)
    assert fetch(url).read_bytes() == CONTENT
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize("status", [401, 403])
def test_a_denied_access_is_named(hub_server: HubServer, url: str, failure: Failure, status: int) -> None:
    hub_server.break_down("status", status=status)
    assert f"access denied (HTTP {status}); check the address, or fetch it by hand" in failure(url)


def test_a_disk_known_to_be_too_small_is_refused_before_the_download(
    url: str, failure: Failure, left_behind: LeftBehind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    text = failure(url)
    assert f"disk full: {checkpoints()} has 1000 bytes free (the file needs {len(CONTENT)} bytes)" in text
    assert "TORCH_HOME" in text
    assert left_behind() == []


def test_a_disk_that_fills_up_midway_leaves_nothing(
    url: str, failure: Failure, left_behind: LeftBehind, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = Path.open

    def open_on_full_disk(path: Path, mode: str = "r", *rest: object, **options: object) -> object:
        return open_file(Path("/dev/full") if path.name == ".part.weights.pth" and mode == "wb" else path, mode)

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    text = failure(url)
    assert f"disk full: {checkpoints()} has " in text
    assert "No space left on device" in text
    assert left_behind() == []


def test_a_folder_that_cannot_be_made_is_said_to_be_so(url: str, failure: Failure) -> None:
    checkpoints().parent.parent.mkdir(parents=True)
    checkpoints().parent.write_text("a file where the folder should be")
    assert "set TORCH_HOME to a folder of yours" in failure(url)


def test_two_addresses_that_end_in_the_same_name_are_not_confused(
    hub_server: HubServer, url: str, failure: Failure
) -> None:
    hub_server.files["v2/weights.pth"] = b"another model"
    second = f"{hub_server.url}/files/v2/weights.pth"
    cached = fetch(url)
    assert f"{cached} was downloaded from {url}; delete it" in failure(second)
    cached.unlink()
    assert fetch(second).read_bytes() == b"another model"


def test_nothing_of_a_download_is_seen_before_it_is_complete(
    hub_server: HubServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    replace = Path.replace

    def watch(part: Path, target: Path) -> Path:
        if target.name == "weights.pth":
            seen.append(target.exists())
            assert part.read_bytes() == CONTENT
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", watch)
    fetch(url)
    assert seen == [False]
