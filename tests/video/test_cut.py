"""Files that were cut are read as far as they go, and say so."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from video_files import encode, make, moving_square

from svt_zoo.video import VideoReadError, open_video
from svt_zoo.video.cut import ends_early


def test_the_frames_of_a_cut_webm_are_read(shared: Path) -> None:
    with open_video(shared / "reported" / "cut_mid_packet.webm") as video:
        assert (video.num_frames, video.cut) == (56, True)
        assert len(video.frames_at([0, 55])) == 2


def remux(source: Path, target: Path, movflags: str) -> Path:
    with av.open(str(source)) as old, av.open(str(target), "w", options={"movflags": movflags}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target


@pytest.fixture(scope="module", params=[".webm", ".mkv", ".avi", ".mp4", ".ts", ".m2ts", "fragmented", "indexed"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 40 frames or more."""
    if request.param == "fragmented":
        return make("h264, fragmented", tmp_path_factory.mktemp("whole"))
    if request.param == "indexed":  # an index at the start lists all fragments
        plain = encode(tmp_path_factory.mktemp("plain") / "video.mp4", moving_square(40), g="8")
        return remux(plain, tmp_path_factory.mktemp("whole") / "indexed.mp4", "dash+global_sidx+frag_keyframe")
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(request.param, "libx264")
    path = tmp_path_factory.mktemp("whole") / f"video{request.param}"
    return encode(path, moving_square(40), codec=codec, g="8")


def test_a_whole_file_is_not_cut(whole: Path) -> None:
    with open_video(whole) as video:
        assert not video.cut


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0.1, 0.999))
def test_a_file_cut_anywhere_is_cut_or_refused(whole: Path, part: float) -> None:
    data = whole.read_bytes()
    path = whole.with_name(f"cut{whole.suffix}")
    path.write_bytes(data[: int(len(data) * part)])
    try:
        with open_video(path) as video:
            size = path.stat().st_size
            unknown = {".mp4": whole.name != "indexed.mp4", ".ts": size % 188 == 0, ".m2ts": size % 192 == 0}
            assert (
                video.cut or video.num_frames >= 40 or unknown.get(whole.suffix)
            )  # it may end where a shorter one would
    except VideoReadError:
        pass


@pytest.mark.parametrize("size", range(0, 64, 3))
def test_any_few_bytes_are_read_without_an_error(whole: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "start"
    path.write_bytes(whole.read_bytes()[:size])
    assert ends_early(str(path)) in (True, False)


def test_the_sizes_of_real_files_are_right(shared: Path) -> None:
    clips = [path for path in (shared / "clips").iterdir() if path.suffix != ".md"]
    assert [path.name for path in clips if ends_early(str(path))] == []


def test_a_time_scale_that_contradicts_the_stated_duration_counts_as_cut(tmp_path: Path) -> None:
    data = encode(tmp_path / "a.mkv", moving_square(40)).read_bytes()
    scale = data.index(b"\x2a\xd7\xb1\x83\x0f\x42\x40")  # 1,000,000 ns
    slow = tmp_path / "slow.mkv"
    slow.write_bytes(data[: scale + 4] + (10_000_000).to_bytes(3, "big") + data[scale + 7 :])
    with open_video(slow) as video:
        assert video.cut


def test_a_cut_motion_jpeg_avi_announces_only_frames_that_come(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.avi", tmp_path / "part.avi"
    noise = np.random.default_rng(0).integers(0, 255, (10, 64, 64, 3), dtype=np.uint8)
    with av.open(str(whole), "w") as out:
        stream = out.add_stream("mjpeg", rate=25, width=64, height=64, pix_fmt="yuvj420p")
        out.mux([p for frame in noise for p in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))])
        out.mux(stream.encode())
    content = whole.read_bytes()
    opened = 0
    for size in range(len(content) // 2, len(content), 211):
        part.write_bytes(content[:size])
        try:
            video = open_video(part)
        except VideoReadError:
            continue
        with video:
            assert len(video.frames_at([video.num_frames - 1])) == 1
        opened += 1
    assert opened
