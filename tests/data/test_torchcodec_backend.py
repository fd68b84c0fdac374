"""The torchcodec backend gives PyAV's frames or says to use PyAV."""

import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from video_files import cut_by_edit_list, encode, make, moving_square

from svt_zoo.data import torchcodec_backend
from svt_zoo.data.video import VideoReadError, open_video


class FakeDecoder:
    """Stands for torchcodec's `VideoDecoder`: as many frames as told, all black, or an error."""

    num_frames = 10

    def __init__(self, path: str, **options: object) -> None:
        self.options = options

    def __len__(self) -> int:
        return self.num_frames

    def get_frames_at(self, indices: list[int]) -> "FakeDecoder":
        if 9 in indices:
            raise RuntimeError("Could not push packet to decoder")
        self.data = torch.zeros(len(indices), 96, 128, 3, dtype=torch.uint8)
        return self


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchcodec_backend, "_decoder_class", lambda: FakeDecoder)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mpeg4, avi", "no usable timestamps"),
        ("h264, raw", "no usable timestamps"),
        ("h264, transport stream", "not exact for mpegts"),
        ("mpeg2", "not exact for mpeg files"),
    ],
)
def test_files_that_torchcodec_misreads_are_refused(tmp_path: Path, kind: str, reason: str) -> None:
    with pytest.raises(VideoReadError, match=f"{reason}.*backend='pyav'"):
        open_video(make(kind, tmp_path), backend="torchcodec")


@pytest.mark.usefixtures("fake")
def test_edit_lists_odd_sizes_and_deep_colours_are_refused(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.mp4", moving_square(40), bf="2")
    odd = encode(tmp_path / "odd.webm", moving_square(4, 95, 127), codec="libvpx-vp9")
    deep = encode(tmp_path / "deep.mp4", moving_square(4), pix_fmt="yuv420p10le")
    for path in (cut_by_edit_list(whole, tmp_path / "cut.mp4", 20), odd, deep):
        with pytest.raises(VideoReadError, match=r"torchcodec .*backend='pyav'"):
            open_video(path, backend="torchcodec")


@pytest.mark.usefixtures("fake")
def test_a_different_count_or_a_failure_of_torchcodec_is_an_error(tmp_path: Path) -> None:
    with open_video(encode(tmp_path / "ten.mp4", moving_square(10)), backend="torchcodec") as video:
        assert video.frames_at([3, 3, 1]).shape == (3, 96, 128, 3)
        with pytest.raises(VideoReadError, match=r"torchcodec cannot decode it .Could not push.*backend='pyav'"):
            video.frames_at([9])
    with (
        open_video(encode(tmp_path / "eleven.mp4", moving_square(11)), backend="torchcodec") as video,
        pytest.raises(VideoReadError, match=r"torchcodec finds 10 of 11 frames.*backend='pyav'"),
    ):
        video.frames_at([0])


def test_without_torchcodec_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "ten.mp4", moving_square(10))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ImportError, match=r"pip install torchcodec"):
        open_video(path, backend="torchcodec")


CLIPS = (
    "decord_flipping_a_pancake.mkv",
    "decord_video_90.mov",
    "decord_video_180.mov",
    "intel_asl_brother_vfr.mkv",
    "kinetics_clean_and_jerk_340x256.mp4",
    "tc_av1_video.mkv",
    "tc_h265_video.mp4",
    "tc_nasa_13013.mp4",
    "tc_test_non_zero_start.mp4",
    "tc_testsrc2_odd_321x241_h264_444.mp4",
    "ucf101_v_ApplyEyeMakeup_g01_c01.avi",
)


@pytest.mark.parametrize("name", CLIPS)
def test_torchcodec_equals_pyav_or_refuses(shared: Path, name: str) -> None:
    pytest.importorskip("torchcodec", reason="the extra 'torchcodec' is not installed")
    path = shared / "clips" / name
    if name.endswith(".avi"):
        with pytest.raises(VideoReadError, match="backend='pyav'"):
            open_video(path, backend="torchcodec")
        return
    with open_video(path) as pyav, open_video(path, backend="torchcodec") as torchcodec:
        indices = [i * 7919 % pyav.num_frames for i in range(12)]
        assert_close(torchcodec.frames_at(indices), pyav.frames_at(indices), rtol=0, atol=0)
