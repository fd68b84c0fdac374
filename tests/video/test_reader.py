"""Opening a video and requesting its frames."""

import importlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from video_files import encode, moving_square, numbered, numbers, sequential

import svt_zoo.video
from svt_zoo.video import EncodedVideo, Limits, VideoReadError, open_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> EncodedVideo:
    return open_video(numbered(tmp_path_factory.mktemp("numbered") / "fifty.mp4", 50))


def test_frames_come_in_the_requested_order_with_repeats(video: EncodedVideo) -> None:
    frames = video.frames_at([7, 3, 49, 3, 0, 7])
    assert frames.dtype == torch.uint8
    assert frames.shape == (6, 48, 64, 3)
    assert numbers(frames) == [7, 3, 49, 3, 0, 7]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(indices=st.lists(st.integers(0, 49), max_size=20))
def test_any_request_returns_the_frames_with_these_numbers(video: EncodedVideo, indices: list[int]) -> None:
    assert numbers(video.frames_at(indices)) == indices


@pytest.mark.parametrize("kind", [range, torch.tensor, np.array, tuple, iter])
def test_indices_may_be_any_sequence_of_integers(video: EncodedVideo, kind: Callable) -> None:
    indices = range(2, 5) if kind is range else kind([2, 3, 4])
    assert numbers(video.frames_at(indices)) == [2, 3, 4]


def test_an_empty_request_returns_no_frames(video: EncodedVideo) -> None:
    assert video.frames_at([]).shape == (0, 48, 64, 3)


@pytest.mark.parametrize("index", [-1, 50])
def test_an_index_out_of_range_is_an_error(video: EncodedVideo, index: int) -> None:
    with pytest.raises(IndexError, match=rf"has 50 frames; index must be 0 to 49, got {index}"):
        video.frames_at([0, index])


def test_a_fractional_index_is_an_error(video: EncodedVideo) -> None:
    with pytest.raises(TypeError, match="float"):
        video.frames_at([1.5])


def test_a_video_has_a_length_a_rate_and_a_size(video: EncodedVideo) -> None:
    assert video.num_frames == 50
    assert video.duration == pytest.approx(2.0)
    assert video.fps == pytest.approx(25.0)
    assert video.pts == pytest.approx([i / 25 for i in range(50)])
    assert (video.height, video.width, video.name) == (48, 64, "fifty.mp4")
    assert "50 frames of 64x48, 2.00 s, h264" in repr(video)


def test_times_start_at_the_first_frame(shared: Path) -> None:
    with open_video(shared / "clips" / "tc_test_non_zero_start.mp4") as video:
        assert video.pts[0] == 0
        assert video.duration == pytest.approx(0.4)


def test_the_frame_at_a_time_is_the_last_one_that_started(video: EncodedVideo) -> None:
    assert video.indices_at([-1, 0, 0.039, 0.04, 1.0, 1.999, 99]) == [0, 0, 0, 1, 25, 49, 49]
    with pytest.raises(ValueError, match="nan"):
        video.indices_at([float("nan")])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.floats(-1, 3), length=st.floats(0, 1))
def test_a_clip_holds_the_frames_that_start_in_its_interval(video: EncodedVideo, start: float, length: float) -> None:
    expected = [i for i, time in enumerate(video.pts) if start - 1e-6 <= time < start + length - 1e-6]
    clip = video.get_clip(start, start + length)
    assert clip["audio"] is None
    if not expected:
        assert clip["video"] is None
    else:
        assert clip["video"] is not None
        assert clip["video"].dtype == torch.float32
        assert clip["video"].shape == (3, len(expected), 48, 64)
        assert numbers(clip["video"].permute(1, 2, 3, 0)) == expected


def test_rounding_of_times_adds_and_drops_no_frame(video: EncodedVideo) -> None:
    times = [0.0]
    for _ in range(5):
        times.append(times[-1] + Fraction(0.4))  # not exactly 2/5; PyTorchVideo's clip samplers add times up like this
    clips = [video.get_clip(start, end)["video"] for start, end in pairwise(times)]
    assert [clip.shape[1] for clip in clips if clip is not None] == [10] * 5


def test_a_clip_may_extend_beyond_the_end(video: EncodedVideo) -> None:
    clip = video.get_clip(Fraction(48, 25), float("inf"))["video"]
    assert clip is not None
    assert numbers(clip.permute(1, 2, 3, 0)) == [48, 49]


@pytest.mark.parametrize(("name", "size"), [("90", (568, 320)), ("180", (320, 568)), ("270", (568, 320)), ("0", None)])
def test_rotated_videos_are_returned_upright(shared: Path, name: str, size: tuple[int, int] | None) -> None:
    path = shared / "clips" / f"decord_video_{name}.mov"
    with open_video(path) as video, open_video(shared / "clips" / "decord_video_0.mov") as upright:
        assert (video.height, video.width) == (size or (upright.height, upright.width))
        frames = video.frames_at([0, 1, 2])
    assert frames.shape[1:3] == (video.height, video.width)
    assert_close(frames, torch.from_numpy(np.stack(list(sequential(path)))))


def test_rotation_has_the_direction_that_players_use(tmp_path: Path) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:16, :16] = 255  # a white square in the top left corner
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.set_display_rotation(-90)  # degrees counterclockwise
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with open_video(path) as video:
        frame = video.frames_at([0])[0]
    assert frame.shape == (64, 48, 3)
    assert frame[4, -4].min() > 200  # it moved to the top right corner
    assert frame[4, 4].max() < 50


UPRIGHT = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)]
SIDEWAYS = [(0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0)]


def with_matrix(source: Path, target: Path, matrix: tuple[int, ...]) -> Path:
    """Writes an MP4 that shows the pixel (x, y) at (a x + c y, b x + d y), for `matrix` (a, b, c, d)."""
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 44
    for i, value in zip((0, 1, 3, 4), matrix, strict=True):
        data[place + 4 * i : place + 4 * i + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("matrix", UPRIGHT + SIDEWAYS)
def test_the_display_matrix_turns_and_mirrors(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    plain = encode(tmp_path / "plain.mp4", np.random.default_rng(0).integers(0, 255, (2, 32, 48, 3), dtype=np.uint8))
    with open_video(plain) as video:
        image = video.frames_at([1])[0].numpy()
    a, b, c, d = matrix
    y, x = np.mgrid[:32, :48]
    rows, columns = b * x + d * y, a * x + c * y
    expected = np.zeros((48, 32, 3) if b else (32, 48, 3), np.uint8)
    expected[rows - rows.min(), columns - columns.min()] = image
    with open_video(with_matrix(plain, tmp_path / "turned.mp4", matrix)) as video:
        assert (video.height, video.width) == expected.shape[:2]
        assert np.array_equal(video.frames_at([1])[0].numpy(), expected)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("mx_hflip.mp4", lambda image: image[:, ::-1]),
        ("mx_vflip.mp4", lambda image: image[::-1]),
        ("mx_90flip.mp4", lambda image: image.transpose(1, 0, 2)),
    ],
)
def test_reported_mirrored_files_are_shown_as_players_show_them(shared: Path, name: str, shown: Callable) -> None:
    path = shared / "reported" / name
    with av.open(str(path)) as container:
        coded = next(container.decode(video=0)).to_ndarray(format="rgb24")
    with open_video(path) as video:
        assert np.array_equal(video.frames_at([0])[0].numpy(), shown(coded))


def test_the_preferred_stream_is_read_and_another_one_on_request(shared: Path) -> None:
    path = shared / "reported" / "thumbnail_stream_first.mp4"
    with open_video(path) as video:
        assert (video.num_frames, video.codec, video.width) == (90, "h264", 128)
    with open_video(path, stream=0) as video:
        assert (video.num_frames, video.codec, video.width) == (1, "mjpeg", 64)
        video.close()
        assert video.frames_at([0]).shape == (1, 48, 64, 3)
    with pytest.raises(VideoReadError, match=r"stream must be one of the video streams \[0, 1\], got 2"):
        open_video(path, stream=2)


def test_a_relative_path_stays_valid_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(tmp_path / "ten.mp4", 10)
    monkeypatch.chdir(tmp_path)
    with open_video("ten.mp4") as video:
        assert numbers(video.frames_at([3])) == [3]
        monkeypatch.chdir("/")
        assert numbers(video.frames_at([4])) == [4]
        assert video.path == "ten.mp4"


def test_few_frames_per_second_are_read(shared: Path) -> None:
    with open_video(shared / "reported" / "timelapse_0.05fps.mp4") as video:
        assert (video.num_frames, video.cut) == (12, False)
        assert video.fps == pytest.approx(0.0543, abs=1e-4)
        assert len(video.frames_at(range(12))) == 12


def test_one_wild_timestamp_does_not_change_the_frame_rate(tmp_path: Path) -> None:
    with open_video(encode(tmp_path / "wild.mp4", moving_square(20), pts=[*range(19), 25 * 900])) as video:
        assert video.fps == pytest.approx(25)
        assert video.indices_at([0.4, 899]) == [10, 18]


def test_a_closed_or_pickled_video_can_be_read(video: EncodedVideo) -> None:
    copy = pickle.loads(pickle.dumps(video))
    video.close()
    assert numbers(video.frames_at([5])) == numbers(copy.frames_at([5])) == [5]


def test_file_names_may_contain_colons_and_percent_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "concat:12:30 clip %03d.mp4"
    encode(tmp_path / "plain.mp4", moving_square(3)).rename(tmp_path / name)
    with open_video(name) as video:
        assert video.num_frames == 3
        assert video.name == name


def test_the_color_matrix_in_the_file_is_used(tmp_path: Path) -> None:
    frames = np.full((2, 48, 64, 3), (30, 180, 60), np.uint8)
    plain = encode(tmp_path / "plain.mp4", frames, crf="1")
    tagged = encode(tmp_path / "tagged.mp4", frames, crf="1", colorspace="bt709")
    with open_video(plain) as a, open_video(tagged) as b:
        difference = (a.frames_at([0]).int() - b.frames_at([0]).int()).abs().max()
    assert difference > 5


def test_the_memory_of_one_request_is_limited(tmp_path: Path) -> None:
    with open_video(numbered(tmp_path / "ten.mp4", 10), limits=Limits(max_bytes=48 * 64 * 3 * 5)) as video:
        assert len(video.frames_at(range(5))) == 5
        with pytest.raises(VideoReadError, match=r"6 frames of 64x48 pixels take 55296 bytes.*Limits.max_bytes; ask"):
            video.frames_at(range(6))
        with pytest.raises(VideoReadError, match="3 frames of 64x48 pixels take 110592 bytes"):
            video.get_clip(0, 0.12)  # float32


def test_reading_starts_no_threads(shared: Path) -> None:
    before = psutil.Process().num_threads()
    for name in ("kinetics_clean_and_jerk_340x256.mp4", "tc_av1_video.mkv", "tc_h265_video.mp4"):
        with open_video(shared / "clips" / name) as video:
            video.frames_at(range(0, video.num_frames, 3))
            assert psutil.Process().num_threads() == before


def test_importing_the_package_imports_neither_pytorchvideo_nor_torchvision() -> None:
    code = "import sys, svt_zoo.video; print({'pytorchvideo', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("module", "name"), [("video", "open_video"), ("video", "VideoPathHandler"), ("limits", "Limits")]
)
def test_the_deprecated_module_returns_the_name_and_warns(module: str, name: str) -> None:
    deprecated = importlib.import_module(f"svt_zoo.data.{module}")
    with pytest.warns(DeprecationWarning, match=f"import {name} from svt_zoo.video"):
        assert getattr(deprecated, name) is getattr(svt_zoo.video, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = deprecated.nonsense
