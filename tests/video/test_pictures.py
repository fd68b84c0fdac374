"""What the headers of a stream state about its pictures."""

from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_files import KINDS, encode, make, moving_square

from svt_zoo.video.pictures import Picture, PictureReader, count_pictures, nal_length_size, one_frame_per_packet

HEADERS = [
    kind
    for kind, (suffix, _, _) in KINDS.items()
    if kind.startswith(("h264", "hevc", "mpeg")) and suffix not in (".avi", ".h264") and kind != "h264, interlaced"
]


def pictures(path: Path) -> list[tuple[int | None, Picture]]:
    """The timestamp of each packet and what its headers state."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        reader = PictureReader(context.codec.canonical_name, context.extradata)
        return [(p.pts, reader.read(bytes(p))) for p in container.demux(video=0) if p.size]


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_give_the_order_of_the_timestamps(tmp_path: Path, kind: str) -> None:
    found = pictures(make(kind, tmp_path))
    in_order = sorted(range(len(found)), key=lambda i: found[i][1].order or (-1, 0))
    assert [found[i][0] for i in in_order] == sorted(time for time, _ in found if time is not None)


def test_scaling_matrices_and_odd_sizes_are_read_over(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "a.mp4", moving_square(12, 66, 50), **{"x264-params": "cqm=jvt:bframes=2", "profile": "high"}
    )
    assert None not in [picture.order for _, picture in pictures(path)]


def test_unreadable_headers_give_no_order() -> None:
    reader = PictureReader("h264", None)
    assert reader.read(annex_b(SPS, IDR)).order is None


def test_an_mpeg4_key_frame_is_a_restart_point_if_all_headers_are_repeated_before_it() -> None:
    layer, changed = b"\0\0\1\x20abc", b"\0\0\1\x20abd"
    intra, predicted = b"\0\0\1\xb6\0" + bytes(30), b"\0\0\1\xb6\x40" + bytes(30)
    group = b"\0\0\1\xb3xyz"

    def restarts(*packets: bytes) -> list[bool]:
        reader = PictureReader("mpeg4")
        return [reader.read(packet).restart for packet in packets]

    assert restarts(layer + intra, predicted, layer + group + intra) == [True, False, True]
    assert restarts(layer + intra, predicted, intra, layer + intra) == [True, False, False, True]
    assert restarts(layer + intra, changed + intra, layer + intra) == [True, False, False]


def test_restart_points_are_idr_pictures_and_motion_jpeg(tmp_path: Path) -> None:
    closed = pictures(make("h264, short groups", tmp_path))
    assert [i for i, (_, picture) in enumerate(closed) if picture.restart] == [0, 12, 24, 36, 48]
    opened = pictures(make("hevc, open groups", tmp_path))
    assert [i for i, (_, picture) in enumerate(opened) if picture.restart] == [0]
    assert PictureReader("mjpeg").read(b"").restart


def annex_b(*headers: bytes) -> bytes:
    return b"".join(b"\x00\x00\x00\x01" + header + b"\x10\x20\x30" for header in headers)


SPS, IDR = b"\x67", b"\x65"


def extradata(codec: str, length_size: int | None) -> bytes | None:
    """A decoder configuration record that states the size of NAL lengths; None for start codes."""
    if length_size is None:
        return None
    return bytes([1] + [0] * (3 if codec == "h264" else 20) + [0xFC | length_size - 1, 0])


@given(
    st.lists(st.binary(max_size=60), max_size=4),
    st.sampled_from([None, 1, 2, 4]),
    st.sampled_from(["h264", "hevc", "mpeg4", "mpeg2video", "vp8", "vp9"]),
)
def test_any_bytes_are_read_without_an_error(packets: list[bytes], length_size: int | None, codec: str) -> None:
    reader = PictureReader(codec, extradata(codec, length_size))
    for data in packets:
        assert isinstance(reader.read(data), Picture)


@given(st.binary(max_size=80), st.sampled_from(["h264", "hevc"]))
def test_any_extradata_is_read_without_an_error(data: bytes, codec: str) -> None:
    for record in (data, b"\x01" + data):
        assert PictureReader(codec, record).read(b"").order is None


def test_the_size_of_nal_lengths_is_read_from_the_extradata() -> None:
    assert nal_length_size("h264", bytes([1, 100, 0, 40, 0xFF, 0xE1])) == 4
    assert nal_length_size("hevc", bytes([1] + [0] * 20 + [0xFD, 0])) == 2
    assert nal_length_size("h264", b"\x00\x00\x00\x01\x67") is None
    assert nal_length_size("h264", None) is None


@pytest.mark.parametrize(
    ("codec", "data", "hidden"),
    [
        ("vp8", b"\x00", True),
        ("vp8", b"\x10", False),
        ("vp9", b"\x80\x00", True),
        ("vp9", b"\x82\x00", False),
        ("vp9", b"\x88\x00", False),  # shows an earlier picture
        ("vp9", b"\x80\xc0", False),  # a superframe
        ("vp9", b"\xb0\x00", True),  # profile 3
        ("vp9", b"\xb1\x00", False),
        ("av1", b"\x00", False),
    ],
)
def test_headers_state_whether_the_picture_is_shown(codec: str, data: bytes, hidden: bool) -> None:
    assert PictureReader(codec).read(data).hidden == hidden


def test_pictures_in_an_mpeg4_packet_are_counted_except_empty_ones() -> None:
    picture = b"\x00\x00\x01\xb6" + bytes(30)
    assert [count_pictures("mpeg4", data) for data in (picture, picture * 2, picture[:6])] == [1, 2, 0]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([1, 1, 1], True),
        ([1, 2, 0, 1], True),
        ([1, 2, 1, 0, 2, 1, 0], True),
        ([1, 2], True),
        ([1, 0, 1], False),
        ([1, 3, 0, 0], False),
        ([1, 2, 2, 0, 0], False),
    ],
)
def test_packed_pictures_give_one_frame_per_packet_if_few_are_buffered(counts: list[int], expected: bool) -> None:
    assert one_frame_per_packet(counts) == expected
