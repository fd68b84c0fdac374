"""Packets of a video stream: what the index stores of them, and which ones must be decoded for given frames.

Two kinds of packets can be skipped without changing a bit of the requested frames:
- A non-reference picture (FFmpeg's `NONREF`, most B-frames) that is not requested.
- The packets between the last requested picture of a group and the next restart point. A restart point is a picture
  such that no later packet refers to a picture before it.

A container's key frame is not always a restart point: with open groups of pictures or intra refresh, later pictures
refer to earlier ones across it. In H.264 and HEVC only IDR pictures are restart points. In Motion JPEG every packet is.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

SkipFrame = Literal["DEFAULT", "NONREF"]

# NAL unit types of IDR pictures: H.264 table 7-1; HEVC table 7-1, IDR_W_RADL and IDR_N_LP.
_IDR_TYPES = {"h264": {5}, "hevc": {19, 20}}
_INTRA_ONLY = {"mjpeg"}

# Codecs whose FFmpeg decoders implement `skip_frame=NONREF` exactly.
SKIPPABLE_CODECS = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg"})

# FFmpeg treats an MPEG-4 picture of at most this many bytes as empty.
_MAX_EMPTY_VOP = 19
_VOP_START = b"\x00\x00\x01\xb6"


class Packet(NamedTuple):
    """The properties of a packet that `plan` needs.

    Attributes:
        pts: presentation time of the picture, in units of the stream's time base; None if the file has none.
        shown: False for pictures that are decoded but not shown (edit lists, hidden reference pictures).
        restart: whether the picture is a restart point.
    """

    pts: int | None
    shown: bool
    restart: bool


@dataclass(frozen=True)
class VideoIndex:
    """The result of scanning a video. Frames are numbered in presentation order.

    Attributes:
        container, codec: FFmpeg's names.
        pts: presentation time of each frame, in units of `time_base`, ascending.
        end: end of the last frame, in the same units.
        time_base: seconds per unit.
        height, width: size of the first frame as coded, in pixels, before rotation.
        quarter_turns: number of counterclockwise 90-degree rotations to apply, 0 to 3.
        packets: all packets in decoding order. None if timestamps do not identify frames: then all packets are decoded
            and the frames are counted.
    """

    container: str
    codec: str
    pts: tuple[int, ...]
    end: int
    time_base: Fraction
    height: int
    width: int
    quarter_turns: int
    packets: tuple[Packet, ...] | None


def plan(packets: Sequence[Packet], wanted: Set[int]) -> list[SkipFrame | None]:
    """Selects the packets to decode for the pictures whose timestamps are in `wanted`.

    Returns:
        For each packet, in decoding order, the value of FFmpeg's `skip_frame`, or None to skip the packet. The list
        ends at the last packet to decode.
    """
    actions: list[SkipFrame | None] = []
    needed = False  # by a wanted picture between this packet and the next restart point
    for packet in reversed(packets):
        if packet.shown and packet.pts in wanted:
            needed = True
            actions.append("DEFAULT")
        elif needed:
            actions.append("NONREF")
        elif actions:  # before the first action, no later picture is wanted: the list ends earlier
            actions.append(None)
        if packet.restart:
            needed = False
    actions.reverse()
    return actions


def nal_length_size(codec: str, extradata: bytes | None) -> int | None:
    """Size in bytes of the length field before each NAL unit (ISO/IEC 14496-15); None with start codes (Annex B)."""
    if codec == "h264" and extradata and len(extradata) > 4 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and extradata and len(extradata) > 21 and extradata[0] == 1:
        return (extradata[21] & 3) + 1
    return None


def is_restart(codec: str, data: bytes, extradata: bytes | None) -> bool:
    """Whether a packet with the bytes `data`, which the container marks as a key frame, is a restart point."""
    if codec in _INTRA_ONLY:
        return True
    types = _IDR_TYPES.get(codec)
    if types is None:
        return False
    shift, mask = (0, 0x1F) if codec == "h264" else (1, 0x3F)
    headers = _nal_headers(data, nal_length_size(codec, extradata))
    return any((header >> shift) & mask in types for header in headers)


def _nal_headers(data: bytes, length_size: int | None) -> list[int]:
    """The first byte of each NAL unit in a packet."""
    headers = []
    if length_size is None:
        position = data.find(b"\x00\x00\x01")
        while 0 <= position < len(data) - 3:
            headers.append(data[position + 3])
            position = data.find(b"\x00\x00\x01", position + 3)
    else:
        position = 0
        while position + length_size < len(data):
            headers.append(data[position + length_size])
            position += length_size + int.from_bytes(data[position : position + length_size], "big")
    return headers


def is_hidden(codec: str, data: bytes) -> bool:
    """Whether a packet holds a reference picture that is never shown (VP8's alternate reference)."""
    return codec == "vp8" and not data[0] & 0x10  # RFC 6386, section 9.1: show_frame


def count_vops(data: bytes) -> int:
    """Number of pictures (VOPs) in an MPEG-4 part 2 packet; 0 if its picture is empty and repeats the one before."""
    return data.count(_VOP_START) if len(data) > _MAX_EMPTY_VOP else 0


def one_frame_per_packet(vop_counts: Sequence[int]) -> bool:
    """Whether an MPEG-4 stream certainly gives one frame per packet, from `count_vops` of each packet.

    With "packed B-frames", common in AVI, a packet can also hold the picture of the next packet. An empty packet ends
    such a sequence. The decoder buffers at most one picture and drops a picture that remains at the end.
    """
    buffered = 0
    for count in vop_counts:
        buffered += count - 1
        if not 0 <= buffered <= 1:
            return False
    return True
