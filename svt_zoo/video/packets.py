"""Packets of a video stream: what the index stores of them, and which ones must be decoded for given frames.

Two kinds of packets can be skipped without changing a bit of the requested frames:
- A non-reference picture (FFmpeg's `NONREF`, most B-frames) that is not requested.
- The packets between the last requested picture of a group and the next restart point. A restart point is a picture
  such that no later packet refers to a picture before it.

A container's key frame is not always a restart point: with open groups of pictures or intra refresh, later pictures
refer to earlier ones across it. In H.264 and HEVC only IDR pictures are restart points. In Motion JPEG every packet is.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal, NamedTuple

SkipFrame = Literal["DEFAULT", "NONREF"]

# Codecs whose FFmpeg decoders implement `skip_frame=NONREF` exactly.
SKIPPABLE_CODECS = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg"})


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
        height, width: size of the first frame as coded, in pixels.
        stream: number of the video stream in the file.
        orientation: (transpose, flip rows, flip columns) that make a frame upright, in this order.
        cut: whether the file ends before what its container states, or its packets contradict the stated duration.
        skippable: whether packets that are not needed can be skipped.
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
    stream: int
    orientation: tuple[bool, bool, bool]
    cut: bool
    skippable: bool
    packets: tuple[Packet, ...] | None

    @property
    def fps(self) -> float:
        """Average number of frames per second. A gap longer than all else is left out: one timestamp may be wrong."""
        count, ticks = len(self.pts), self.end - self.pts[0]
        gap = max((b - a for a, b in pairwise(self.pts)), default=0)
        if count > 2 and gap * 2 > ticks:
            return float((count - 1) / ((ticks - gap) * self.time_base))
        return count / float(ticks * self.time_base)

    def actions(self, numbers: Iterable[int]) -> "list[SkipFrame | None] | None":
        """The result of `plan` for the frames of these numbers; None if all packets must be decoded."""
        if self.packets is None or not self.skippable:
            return None
        return plan(self.packets, {self.pts[i] for i in numbers})


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
