"""Which packets are decoded for which frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svt_zoo.video.packets import Packet, count_vops, is_hidden, is_restart, nal_length_size, one_frame_per_packet, plan


def stream(restarts: list[bool], shown: list[bool] | None = None) -> list[Packet]:
    """Packets with the timestamps 0, 1, 2, ... in decoding order."""
    shown = shown or [True] * len(restarts)
    return [Packet(i, s, r) for i, (r, s) in enumerate(zip(restarts, shown, strict=True))]


def test_packets_behind_the_last_wanted_one_of_a_group_are_left_out() -> None:
    packets = stream([True, False, False, False, True, False, False])
    assert plan(packets, {1, 5}) == ["NONREF", "DEFAULT", None, None, "NONREF", "DEFAULT"]


def test_packets_before_a_key_frame_that_is_no_restart_point_are_kept() -> None:
    packets = stream([True, False, False, False, False, False])
    assert plan(packets, {1, 5}) == ["NONREF", "DEFAULT", "NONREF", "NONREF", "NONREF", "DEFAULT"]


def test_of_independent_pictures_only_the_wanted_are_decoded() -> None:
    assert plan(stream([True] * 5), {1, 3}) == [None, "DEFAULT", None, "DEFAULT"]


def test_a_hidden_packet_is_not_taken_for_a_wanted_frame() -> None:
    packets = [Packet(0, False, True), Packet(0, True, False)]
    assert plan(packets, {0}) == ["NONREF", "DEFAULT"]


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40),
    st.sets(st.integers(0, 39), max_size=10),
)
def test_the_plan_decodes_all_that_wanted_frames_can_need(kinds: list[tuple[bool, bool]], wanted: set[int]) -> None:
    packets = stream([r for r, _ in kinds], [s for _, s in kinds])
    actions = plan(packets, wanted)
    found = [i for i, p in enumerate(packets) if p.shown and i in wanted]
    assert len(actions) == (found[-1] + 1 if found else 0)
    for i in found:
        assert actions[i] == "DEFAULT"
        start = max((j for j in range(i + 1) if packets[j].restart), default=0)
        assert None not in actions[start : i + 1]
    for i, action in enumerate(actions):
        assert (action == "DEFAULT") == (i in found)


def annex_b(*headers: bytes) -> bytes:
    return b"".join(b"\x00\x00\x00\x01" + header + b"\x10\x20\x30" for header in headers)


def length_prefixed(*headers: bytes) -> bytes:
    return b"".join((len(header) + 3).to_bytes(4, "big") + header + b"\x10\x20\x30" for header in headers)


SPS, IDR, SLICE = b"\x67", b"\x65", b"\x41"
HEVC_IDR, HEVC_CRA = bytes([19 << 1, 1]), bytes([21 << 1, 1])


@pytest.mark.parametrize(("pack", "length_size"), [(annex_b, None), (length_prefixed, 4)])
def test_only_an_idr_picture_is_a_restart_point(pack, length_size) -> None:
    assert is_restart("h264", pack(SPS, IDR), length_size)
    assert not is_restart("h264", pack(SPS, SLICE), length_size)
    assert is_restart("hevc", pack(HEVC_IDR), length_size)
    assert not is_restart("hevc", pack(HEVC_CRA), length_size)


def test_a_key_frame_of_a_codec_without_such_a_promise_is_no_restart_point() -> None:
    assert not is_restart("mpeg4", b"\x00\x00\x01\xb6\x00", None)
    assert is_restart("mjpeg", b"\xff\xd8", None)


@given(st.binary(max_size=60), st.sampled_from([None, 1, 2, 4]), st.sampled_from(["h264", "hevc"]))
def test_any_bytes_are_searched_to_their_end(data: bytes, length_size: int | None, codec: str) -> None:
    assert is_restart(codec, data, length_size) in (True, False)


def test_the_length_of_nal_lengths_is_read_from_the_extradata() -> None:
    assert nal_length_size("h264", bytes([1, 100, 0, 40, 0xFF, 0xE1])) == 4
    assert nal_length_size("hevc", bytes([1] + [0] * 20 + [0xFD, 0])) == 2
    assert nal_length_size("h264", b"\x00\x00\x00\x01\x67") is None
    assert nal_length_size("h264", None) is None


def test_a_vp8_packet_says_whether_it_is_shown() -> None:
    assert is_hidden("vp8", b"\x00")
    assert not is_hidden("vp8", b"\x10")
    assert not is_hidden("vp9", b"\x00")


def test_pictures_in_an_mpeg4_packet_are_counted_and_empty_ones_are_not() -> None:
    picture = b"\x00\x00\x01\xb6" + bytes(30)
    assert [count_vops(picture), count_vops(picture * 2), count_vops(picture[:6])] == [1, 2, 0]


@pytest.mark.parametrize(
    ("counts", "certain"),
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
def test_packed_pictures_give_one_frame_a_packet_while_one_is_in_store(counts: list[int], certain: bool) -> None:
    assert one_frame_per_packet(counts) == certain
