"""Which packets are decoded for given frames, and what packets hold."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svt_zoo.video.packets import Packet, count_vops, is_hidden, is_restart, nal_length_size, one_frame_per_packet, plan


def stream(restarts: list[bool], shown: list[bool] | None = None) -> list[Packet]:
    """Packets with the timestamps 0, 1, 2, ... in decoding order."""
    shown = shown or [True] * len(restarts)
    return [Packet(i, s, r) for i, (r, s) in enumerate(zip(restarts, shown, strict=True))]


def test_packets_after_the_last_wanted_one_of_a_group_are_skipped() -> None:
    packets = stream([True, False, False, False, True, False, False])
    assert plan(packets, {1, 5}) == ["NONREF", "DEFAULT", None, None, "NONREF", "DEFAULT"]


def test_packets_before_a_key_frame_that_is_not_a_restart_point_are_decoded() -> None:
    packets = stream([True, False, False, False, False, False])
    assert plan(packets, {1, 5}) == ["NONREF", "DEFAULT", "NONREF", "NONREF", "NONREF", "DEFAULT"]


def test_only_the_wanted_pictures_are_decoded_if_every_picture_is_independent() -> None:
    assert plan(stream([True] * 5), {1, 3}) == [None, "DEFAULT", None, "DEFAULT"]


def test_a_hidden_packet_with_the_time_of_a_wanted_frame_is_not_that_frame() -> None:
    packets = [Packet(0, False, True), Packet(0, True, False)]
    assert plan(packets, {0}) == ["NONREF", "DEFAULT"]


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40),
    st.sets(st.integers(0, 39), max_size=10),
)
def test_the_plan_decodes_all_that_wanted_frames_may_refer_to(kinds: list[tuple[bool, bool]], wanted: set[int]) -> None:
    packets = stream([r for r, _ in kinds], [s for _, s in kinds])
    actions = plan(packets, wanted)
    needed = [i for i, p in enumerate(packets) if p.shown and i in wanted]
    assert len(actions) == (needed[-1] + 1 if needed else 0)
    for i in needed:
        assert actions[i] == "DEFAULT"
        start = max((j for j in range(i + 1) if packets[j].restart), default=0)
        assert None not in actions[start : i + 1]
    for i, action in enumerate(actions):
        assert (action == "DEFAULT") == (i in needed)


def annex_b(*headers: bytes) -> bytes:
    return b"".join(b"\x00\x00\x00\x01" + header + b"\x10\x20\x30" for header in headers)


def length_prefixed(*headers: bytes) -> bytes:
    return b"".join((len(header) + 3).to_bytes(4, "big") + header + b"\x10\x20\x30" for header in headers)


SPS, IDR, SLICE = b"\x67", b"\x65", b"\x41"
HEVC_IDR, HEVC_CRA = bytes([19 << 1, 1]), bytes([21 << 1, 1])


def extradata(codec: str, length_size: int | None) -> bytes | None:
    """A decoder configuration record that states the size of NAL lengths; None for start codes."""
    if length_size is None:
        return None
    return bytes([1] + [0] * (3 if codec == "h264" else 20) + [0xFC | length_size - 1, 0])


@pytest.mark.parametrize(("pack", "length_size"), [(annex_b, None), (length_prefixed, 4)])
def test_only_an_idr_picture_is_a_restart_point(pack: Callable[..., bytes], length_size: int | None) -> None:
    h264, hevc = extradata("h264", length_size), extradata("hevc", length_size)
    assert is_restart("h264", pack(SPS, IDR), h264)
    assert not is_restart("h264", pack(SPS, SLICE), h264)
    assert is_restart("hevc", pack(HEVC_IDR), hevc)
    assert not is_restart("hevc", pack(HEVC_CRA), hevc)


def test_a_key_frame_is_a_restart_point_only_in_codecs_that_guarantee_it() -> None:
    assert not is_restart("mpeg4", b"\x00\x00\x01\xb6\x00", None)
    assert is_restart("mjpeg", b"\xff\xd8", None)


@given(st.binary(max_size=60), st.sampled_from([None, 1, 2, 4]), st.sampled_from(["h264", "hevc"]))
def test_any_bytes_are_parsed_without_an_error(data: bytes, length_size: int | None, codec: str) -> None:
    assert is_restart(codec, data, extradata(codec, length_size)) in (True, False)


def test_the_size_of_nal_lengths_is_read_from_the_extradata() -> None:
    assert nal_length_size("h264", bytes([1, 100, 0, 40, 0xFF, 0xE1])) == 4
    assert nal_length_size("hevc", bytes([1] + [0] * 20 + [0xFD, 0])) == 2
    assert nal_length_size("h264", b"\x00\x00\x00\x01\x67") is None
    assert nal_length_size("h264", None) is None


def test_a_vp8_header_states_whether_the_picture_is_shown() -> None:
    assert is_hidden("vp8", b"\x00")
    assert not is_hidden("vp8", b"\x10")
    assert not is_hidden("vp9", b"\x00")


def test_pictures_in_an_mpeg4_packet_are_counted_except_empty_ones() -> None:
    picture = b"\x00\x00\x01\xb6" + bytes(30)
    assert [count_vops(picture), count_vops(picture * 2), count_vops(picture[:6])] == [1, 2, 0]


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
