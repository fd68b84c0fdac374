"""The indexes of long videos can be kept in a folder."""

import os
from pathlib import Path

import pytest
import torch
from video_files import make, numbered

from svt_zoo.video import VideoReadError, open_video, store
from svt_zoo.video.errors import Limits


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for indexes, of short videos too."""
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "indexes"))
    monkeypatch.setattr(store, "_MIN_FRAMES", 1)
    return tmp_path / "indexes"


def no_scan(*args: object) -> None:
    raise AssertionError("the video was scanned")


@pytest.mark.parametrize("kind", ["h264, B-pyramid", "h264, avi", "vp8, hidden pictures"])
def test_an_unchanged_video_is_not_scanned_again(
    kind: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(kind, tmp_path)
    first = open_video(path)
    monkeypatch.setattr("svt_zoo.video.reader.scan", no_scan)
    again = open_video(path)
    assert again._index == first._index
    assert torch.equal(again.frames_at([3, 0]), first.frames_at([3, 0]))


def test_a_changed_video_is_scanned_again(tmp_path: Path, folder: Path) -> None:
    path = numbered(tmp_path / "video.mp4", 5)
    assert open_video(path).num_frames == 5
    assert open_video(numbered(path, 7)).num_frames == 7


def test_a_damaged_index_is_ignored(tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = numbered(tmp_path / "video.mp4", 5)
    open_video(path)
    (index,) = folder.iterdir()
    index.write_bytes(index.read_bytes()[:100])
    assert open_video(path).num_frames == 5
    assert "the video is scanned again" in caplog.text


def test_a_stored_index_does_not_lift_the_limits(tmp_path: Path, folder: Path) -> None:
    path = numbered(tmp_path / "video.mp4", 50)
    open_video(path)
    with pytest.raises(VideoReadError, match="max_duration"):
        open_video(path, limits=Limits(max_duration=0.5))


def test_a_folder_that_cannot_be_made_is_only_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "file" / "indexes"))
    assert open_video(numbered(tmp_path / "video.mp4", 5)).num_frames == 5
    assert "cannot be stored" in caplog.text


def test_nothing_is_stored_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(store.VARIABLE, raising=False)
    monkeypatch.setattr(store, "_MIN_FRAMES", 1)
    path = numbered(tmp_path / "video.mp4", 5)
    open_video(path)
    assert os.listdir(tmp_path) == ["video.mp4"]
