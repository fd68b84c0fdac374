"""What is known of a video by its packets, and which of them must be decoded to get some of its frames, bit for bit.

Two kinds of packets need not be decoded. A picture that no other picture refers to (`NONREF`: most B-frames) is left
out unless it is wanted itself. Behind the last wanted picture, all packets up to the next restart point are left out: a
restart point is a picture behind which nothing refers to anything before it. A key frame of the container is not
enough: in an open group of pictures, and with intra refresh, later pictures still refer across it. For H.264 and HEVC
the picture must be an IDR picture; where every picture stands alone (Motion JPEG), each packet is one.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

SkipFrame = Literal["DEFAULT", "NONREF"]

# NAL unit types of instantaneous decoder refresh: H.264 table 7-1; HEVC table 7-1, IDR_W_RADL and IDR_N_LP.
_IDR_TYPES = {"h264": {5}, "hevc": {19, 20}}
_INTRA_ONLY = {"mjpeg"}

# Codecs whose decoders leave out exactly the pictures that no other picture refers to.
PLANNABLE = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg"})

# FFmpeg takes an MPEG-4 picture of at most this many bytes for an empty one.
_MAX_EMPTY_VOP = 19
_VOP_START = b"\x00\x00\x01\xb6"


class Packet(NamedTuple):
    """What the plan has to know of one packet.

    Attributes:
        pts: when its picture is shown, in units of the stream's time base; None if the file does not say.
        shown: whether its picture is shown at all (edit lists and hidden reference pictures are not).
        restart: whether decoding can start here, with nothing behind it referring to anything before it.
    """

    pts: int | None
    shown: bool
    restart: bool


@dataclass(frozen=True)
class VideoIndex:
    """What is known of a video before its frames are decoded; the frames are numbered in presentation order.

    Attributes:
        stream: number of the video stream in the file.
        container, codec: FFmpeg's names of them.
        pts: when each frame is shown, in units of `time_base`.
        end: when the last frame ends, in the same units.
        time_base: seconds of one unit.
        height, width: of the frames as coded, in pixels; of the first one if they differ.
        pixel_format: FFmpeg's name of it, of the first frame.
        quarter_turns: how often a frame is to be turned counterclockwise by 90 degrees, 0 to 3.
        packets: all packets in decoding order; None where their timestamps do not identify frames, so that frames can
            only be counted as they come out of the decoder.
    """

    stream: int
    container: str
    codec: str
    pts: tuple[int, ...]
    end: int
    time_base: Fraction
    height: int
    width: int
    pixel_format: str
    quarter_turns: int
    packets: tuple[Packet, ...] | None


def plan(packets: Sequence[Packet], wanted: Set[int]) -> list[SkipFrame | None]:
    """What to do with each packet, in decoding order, so that the pictures with timestamps in `wanted` come out.

    Returns:
        For each packet the value of FFmpeg's `skip_frame` to decode it with, or None if it is not to be decoded. The
        list ends with the last packet that is decoded.
    """
    actions: list[SkipFrame | None] = []
    needed_behind = False  # by a wanted picture between here and the next restart point
    for packet in reversed(packets):
        if packet.shown and packet.pts in wanted:
            needed_behind = True
            actions.append("DEFAULT")
        elif needed_behind:
            actions.append("NONREF")
        elif actions:  # else nothing is wanted from here to the end of the stream
            actions.append(None)
        if packet.restart:
            needed_behind = False
    actions.reverse()
    return actions


def nal_length_size(codec: str, extradata: bytes | None) -> int | None:
    """Bytes of the length before each NAL unit (ISO/IEC 14496-15), or None for start codes (Annex B)."""
    if codec == "h264" and extradata and len(extradata) > 4 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and extradata and len(extradata) > 21 and extradata[0] == 1:
        return (extradata[21] & 3) + 1
    return None


def is_restart(codec: str, data: bytes, length_size: int | None) -> bool:
    """Whether the packet `data`, flagged as a key frame by its container, is a restart point."""
    if codec in _INTRA_ONLY:
        return True
    types = _IDR_TYPES.get(codec)
    if types is None:
        return False
    shift, mask = (0, 0x1F) if codec == "h264" else (1, 0x3F)
    return any((header >> shift) & mask in types for header in _nal_headers(data, length_size))


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
    """Whether a packet holds a picture that is only referred to and never shown (VP8's alternate reference)."""
    return codec == "vp8" and not data[0] & 0x10  # RFC 6386, section 9.1: show_frame


def vops(data: bytes) -> int:
    """How many pictures (VOPs) an MPEG-4 part 2 packet holds; 0 if it holds one that says "as before"."""
    return data.count(_VOP_START) if len(data) > _MAX_EMPTY_VOP else 0


def one_frame_per_packet(vop_counts: Sequence[int]) -> bool:
    """Whether an MPEG-4 stream surely gives as many frames as packets, from the `vops` of its packets.

    With "packed B-frames", common in AVI, a packet may hold the picture of the next one as well, and so on until an
    empty packet takes the last of them. The decoder has room for one such picture, and drops one left at the end.
    """
    in_store = 0
    for count in vop_counts:
        in_store += count - 1
        if not 0 <= in_store <= 1:
            return False
    return True
