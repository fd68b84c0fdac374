"""Whatever timestamps state, each frame equals that of the full decode, for any request, or the file is refused.

Streams of many codecs are copied into containers with other timestamps and with lost packets, as faulty recorders and
muxers write them.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from video_files import encode, moving_square, remux, sequential

from svt_zoo.video import VideoReadError, open_video

X264 = "x264-params"
STREAMS: dict[str, dict[str, str]] = {
    "h264, B-pyramid": {X264: "bframes=5:b-pyramid=normal:keyint=10:b-adapt=0"},
    "h264, open groups": {X264: "open-gop=1:keyint=8:min-keyint=8:bframes=3:b-adapt=0"},
    "h264, no B-frames": {"bf": "0", "g": "8"},
    "h264, order as decoded": {"profile": "baseline", "g": "8"},
    "hevc": {"codec": "libx265", "x265-params": "log-level=none:keyint=10:open-gop=1:bframes=3"},
    "mpeg4": {"codec": "mpeg4", "bf": "2", "g": "8"},
    "mpeg4, no B-frames": {"codec": "mpeg4", "bf": "0", "g": "8"},
    "mpeg2": {"codec": "mpeg2video", "bf": "2", "g": "8"},
    "vp8": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "8", "g": "8", "b": "200k"},
    "vp9": {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8", "g": "8"},
    "motion jpeg": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}
CONTAINERS = {
    "hevc": [".mp4", ".mkv", ".ts"],
    "vp8": [".mkv"],
    "motion jpeg": [".mkv", ".mov", ".avi"],
    "vp9": [".mkv", ".mp4"],
}
FRAMES = 24
LATE = 8  # added to all times, so that none is before its packet's decoding time


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Encodes a stream of `STREAMS` once."""
    folder = tmp_path_factory.mktemp("streams")

    @cache
    def stream(name: str) -> Path:
        suffix = ".mkv" if name == "vp8" else ".mp4"
        return encode(folder / f"{len(list(folder.iterdir()))}{suffix}", moving_square(FRAMES, 48, 64), **STREAMS[name])

    return stream


def times(kind: str, order: list[int], first: int, second: int) -> list[int]:
    """Times of the packets in decoding order, in frames; `order` has the right ones."""
    first, second = first % len(order), second % len(order)
    if kind == "decoding order":
        return list(range(len(order)))
    if kind == "one late":
        order[first] += second + 1
    elif kind == "two swapped":
        order[first], order[second] = order[second], order[first]
    elif kind == "repeated":
        order[first] = order[second]
    elif kind == "one wild":
        order[first] += 100_000
    elif kind == "backwards":
        order.reverse()
    elif kind == "a group late":
        order[first:] = [time + second for time in order[first:]]
    elif kind == "holes":
        order[:] = [3 * time + (time % 2) for time in order]
    return order


def copy(source: Path, target: Path, kind: str, first: int, second: int, lost: set[int]) -> Path:
    """Copies a stream with other times; the packets with the numbers in `lost` are left out."""
    with av.open(str(source)) as container:
        pts = [packet.pts for packet in container.demux(video=0) if packet.size]
    ranks = [sorted(pts).index(time) for time in pts]
    stamps = times(kind, ranks, first, second)
    number = -1

    def change(packet: av.Packet) -> av.Packet | None:
        nonlocal number
        number += 1
        unit = round(1 / 25 / packet.time_base)
        packet.dts = number * unit
        packet.pts = (stamps[number] + LATE) * unit
        if kind == "decoding order":
            packet.pts = packet.dts
        return None if number in lost else packet

    return remux(source, target, change)


KIND = st.sampled_from(
    ["right", "decoding order", "one late", "two swapped", "repeated", "one wild", "backwards", "a group late", "holes"]
)
CASE = st.fixed_dictionaries(
    {
        "name": st.sampled_from(sorted(STREAMS)),
        "container": st.integers(0, 3),
        "kind": KIND,
        "first": st.integers(0, FRAMES - 1),
        "second": st.integers(0, FRAMES - 1),
        "lost": st.one_of(st.just(set()), st.sets(st.integers(0, FRAMES - 1), max_size=3)),
        "request": st.one_of(
            st.lists(st.integers(0, 999), min_size=1, max_size=1),
            st.lists(st.integers(0, 999), min_size=1, max_size=6),
            st.just(range(FRAMES)),
        ),
    }
)


def assert_law(streams: Callable[[str], Path], case: dict[str, Any]) -> None:
    """Reads one request of one copied file and compares it with the full decode."""
    suffixes = CONTAINERS.get(case["name"], [".mp4", ".mkv", ".ts", ".avi"])
    suffix = suffixes[case["container"] % len(suffixes)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"copy{suffix}"
        try:
            copy(streams(case["name"]), path, case["kind"], case["first"], case["second"], case["lost"])
        except (av.FFmpegError, OverflowError):
            assume(False)  # the container cannot hold such times
        try:
            reference = list(sequential(path))
        except av.FFmpegError:
            reference = []
        try:
            with open_video(path) as video:
                total = video.num_frames
                request = [i % total for i in case["request"]]
                frames = video.frames_at(request).numpy()
        except VideoReadError:
            assert case["lost"] or suffix == ".avi" or not reference, "a complete stream is refused"
            return
        assert total == len(reference)
        for number, frame in zip(request, frames, strict=True):
            assert np.array_equal(frame, reference[number]), f"frame {number} of {total}"


LAW = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(LAW, max_examples=200, phases=(Phase.generate,))
@given(case=CASE)
def test_any_request_equals_the_full_decode_or_the_file_is_refused(
    streams: Callable[[str], Path], case: dict[str, Any]
) -> None:
    assert_law(streams, case)


@pytest.mark.slow
@settings(LAW, max_examples=2000)
@given(case=CASE)
def test_2000_requests_equal_the_full_decode_or_the_file_is_refused(
    streams: Callable[[str], Path], case: dict[str, Any]
) -> None:
    assert_law(streams, case)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("remuxed_avi_mpeg4_bframes.mp4", 90),
        ("remuxed_avi_h264_bframes.mp4", 90),
        ("hevc_one_late_pts.mp4", 60),
        ("ts_dropout_h264.ts", 60),
    ],
)
def test_single_frames_of_reported_files_equal_the_full_decode(shared: Path, name: str, total: int) -> None:
    path = shared / "reported" / name
    reference = list(sequential(path))
    with open_video(path) as video:
        assert video.num_frames == len(reference) == total
        for number in range(total):
            assert np.array_equal(video.frames_at([number])[0].numpy(), reference[number]), f"frame {number}"
