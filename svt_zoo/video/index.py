"""Scanning a video: one pass over its packets gives the number and the times of its frames."""

import math
import re
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
from av.video import VideoStream
from av.video.frame import VideoFrame

from .cut import ends_early
from .decode import Source, decode_packets, ffmpeg_reason, open_source, orientation
from .errors import DamageError, Deadline, Limits, VideoReadError
from .packets import SKIPPABLE_CODECS, Packet, VideoIndex
from .pictures import HEADER_CODECS, Picture, PictureReader, count_pictures, one_frame_per_packet

# Containers that store presentation times. AVI does not: FFmpeg invents them, rightly if no picture is sorted.
_TIMED_CONTAINERS = {"mov", "matroska", "mpegts", "mpeg"}
# Codecs with exactly one frame per shown packet, whose order `PictureReader` knows.
_ORDERED_CODECS = HEADER_CODECS | {"mjpeg", "av1"}
# If all packets together are at most this many bytes, they are kept for the first request: the file is read once.
_MAX_KEPT = 32 * 1024**2


def scan(path: str, limits: Limits, number: int | None = None) -> tuple[VideoIndex, Source | None]:
    """Reads all packets of a video and decodes its first frame.

    If the packets do not determine the frames and their order, all frames are decoded and counted.

    Returns:
        The index. If the packets are small, also the open source, so that the first request does not read them again.

    Raises:
        VideoReadError: the file has no video stream, a packet cannot be read or decoded, or `limits` are exceeded.
    """
    with ExitStack() as stack:
        source = stack.enter_context(closing(open_source(path, limits, number)))
        stream = _read_packets(source)
        first, packets = stream.first, None
        times = [p.pts for p in stream.packets if p.shown]
        if first is not None and not first.interlaced_frame and _timestamps_identify_frames(stream):
            packets = tuple(stream.packets)
        elif first is None or not _packets_count_frames(stream):
            source.close()
            check_duration(path, len(stream.packets) / stream.rate, limits)
            try:
                first, times = _decode_times(path, limits, source.number)
            except DamageError:
                # MP4 lists its frames. Those before the damage can be read.
                if first is None or stream.container != "mov":
                    raise

        ticks_per_frame = max(1, round(1 / (stream.rate * stream.time_base)))
        pts = sorted({time for time in times if time is not None})
        if len(pts) < len(times):  # missing or repeated times: assume a constant rate
            pts = [i * ticks_per_frame for i in range(len(times))]
        end = pts[-1] + (stream.last_duration if stream.last_duration > 0 else ticks_per_frame)
        check_duration(path, (end - pts[0]) * stream.time_base, limits)
        index = VideoIndex(
            container=stream.container,
            codec=stream.codec,
            pts=tuple(pts),
            end=end,
            time_base=stream.time_base,
            height=first.height,
            width=first.width,
            stream=source.number,
            orientation=orientation(first),
            cut=ends_early(path) or _contradicts(stream.duration, float((end - pts[0]) * stream.time_base)),
            packets=packets,
            skippable=stream.codec in SKIPPABLE_CODECS and stream.pictures.exact_nonref,
        )
        if source.packets is None:
            return index, None
        stack.pop_all()  # keeps the source open
        return index, source


@dataclass
class _Stream:
    """The header of a video stream and what one pass over its packets collects."""

    container: str
    codec: str
    time_base: Fraction
    rate: Fraction  # frames per second as the header states it
    duration: float | None  # in seconds as the container states it
    pictures: PictureReader
    packets: list[Packet] = field(default_factory=list)
    coded: list[tuple[tuple[int, int], Packet]] = field(default_factory=list)
    ordered: bool = True  # whether `coded` has all pictures that are not hidden, and no packet is marked as damaged
    counts: list[int] = field(default_factory=list)  # pictures per MPEG-4 packet of an AVI
    dts: list[int] = field(default_factory=list)  # decoding times of these packets
    delay: int = 0  # pictures that the decoder holds back to sort them
    last_duration: int = 0  # of the packet with the largest timestamp
    starts_with_key: bool = False
    first: VideoFrame | None = None


def _read_packets(source: Source) -> _Stream:
    """Reads all packets and decodes the first frame. Keeps the packets in `source` if they are small."""
    container, stream = source.container, source.stream
    codec = stream.codec_context.codec.canonical_name
    pictures = PictureReader(codec, stream.codec_context.extradata)
    result = _Stream(
        container=container.format.name.split(",")[0],
        codec=codec,
        duration=_stated_duration(stream),
        pictures=pictures,
        time_base=_fraction(stream.time_base or Fraction(1, 90_000)),
        rate=_fraction(stream.average_rate or stream.guessed_rate or Fraction(25)),
    )
    num_entries = len(stream.index_entries)
    counted = result.container == "avi" and codec == "mpeg4"
    result.ordered = (counted or result.container in _TIMED_CONTAINERS) and codec in _ORDERED_CODECS
    deadline = Deadline(source.path, source.limits)
    latest, size, probed = None, 0, False
    source.packets = []
    try:
        for packet in container.demux(stream):
            deadline.check()
            if not packet.size:
                continue
            pts, picture = packet.pts, Picture(None)
            if result.ordered:
                picture = pictures.read(bytes(packet) if codec in HEADER_CODECS else b"")
                result.ordered = picture.order is not None and not packet.is_corrupt
            if counted:
                result.counts.append(count_pictures(codec, bytes(packet)))
                result.dts.append(packet.dts or 0)
            shown = not packet.is_discard and not picture.hidden
            if not result.packets:
                result.starts_with_key = packet.is_keyframe
            if shown and pts is not None and (latest is None or pts > latest):
                latest, result.last_duration = pts, packet.duration or 0
            if not probed:
                result.first = _first_frame(stream, packet, shown)
                probed, result.delay = shown, stream.codec_context.reorder_depth
            # After an MPEG-4 key frame, B-pictures can refer to a picture before it.
            result.packets.append(Packet(pts, shown, picture.restart and not (codec == "mpeg4" and result.delay)))
            if picture.order is not None and not picture.hidden:
                result.coded.append((picture.order, result.packets[-1]))
            size += packet.size
            if size > _MAX_KEPT:
                source.packets = None
            if source.packets is not None:
                source.packets.append(packet)
    except (av.FFmpegError, MemoryError) as error:
        reason = f"packet {len(result.packets)} cannot be read ({ffmpeg_reason(error)})"
        raise VideoReadError(source.path, reason) from error
    count = len(result.packets)
    if result.container == "mov" and count < num_entries:
        reason = f"cut short: holds {count} of the {num_entries} packets that its header lists"
        raise VideoReadError(source.path, reason)
    if not count:
        raise VideoReadError(source.path, "the video stream holds no frame")
    return result


def _stated_duration(stream: VideoStream) -> float | None:
    """The duration in seconds that MP4 and Matroska state for the stream; other containers state none, or guess."""
    if stream.duration and "mov" in stream.container.format.name:
        return float(stream.duration * _fraction(stream.time_base))
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", ""))
    return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else None


def _contradicts(stated: float | None, seconds: float) -> bool:
    return stated is not None and abs(seconds - stated) > 1 + 0.1 * stated


def _fraction(value: Any) -> Fraction:
    return Fraction(value)  # PyAV 19 returns its own rational type, which its stubs do not declare as Rational


def _first_frame(stream: VideoStream, packet: "av.Packet[VideoStream]", shown: bool) -> VideoFrame | None:
    """Decodes one packet and flushes the decoder, so that it returns the frame without waiting for later ones."""
    codec = stream.codec_context
    frames = codec.decode(packet)
    if not shown:
        return None
    frames += codec.decode(None)
    codec.flush_buffers()  # allows decoding again from the first packet
    return frames[0] if frames else None


def _timestamps_identify_frames(stream: _Stream) -> bool:
    """Whether the decoder certainly returns one frame per shown packet, in the order of unique timestamps."""
    if not (stream.ordered and stream.starts_with_key) or (stream.container == "avi" and stream.delay):
        return False
    orders = [order for order, _ in stream.coded]
    by_order = sorted(range(len(orders)), key=orders.__getitem__)
    # Pictures that come before the first one remain from a cut. Their references are gone, so decoders drop them.
    if by_order[0] != 0 or max(i - place for place, i in enumerate(by_order)) > stream.delay:
        return False
    steps = {b[1] - a[1] for a, b in pairwise(orders[i] for i in by_order) if a[0] == b[0]}
    # FFmpeg's HEVC decoder drops pictures after a lost one, which leaves a gap.
    if 0 in steps or (stream.codec == "hevc" and len(steps) > 1):
        return False
    packets = [stream.coded[i][1] for i in by_order]
    times = [-math.inf if p.pts is None else p.pts for p in packets if p.shown]
    if stream.codec == "mpeg4" and not _is_regular(stream, times):
        return False
    return all(a < b for a, b in pairwise([-math.inf, *times]))


def _is_regular(stream: _Stream, times: Sequence[float]) -> bool:
    """Whether the times show no gap. After one, FFmpeg's MPEG-4 decoder may drop B-pictures."""
    steps = [b - a for a, b in pairwise(times)]
    return stream.delay == 0 or not steps or max(steps) - min(steps) <= 1


def _packets_count_frames(stream: _Stream) -> bool:
    """Whether the number of packets is certainly the number of frames, although timestamps do not identify them."""
    if stream.container != "avi" or not stream.starts_with_key:
        return False
    if stream.codec == "mpeg4":
        return one_frame_per_packet(stream.counts) and _is_regular(stream, stream.dts)
    return stream.codec == "mjpeg" and stream.ordered  # a damaged packet may give no frame


def _decode_times(path: str, limits: Limits, number: int) -> tuple[VideoFrame, list[int | None]]:
    """Decodes all frames. Returns the first frame and the timestamp of each, in the decoder's order."""
    first, times = None, []
    with closing(decode_packets(open_source(path, limits, number))) as frames:
        for frame in frames:
            first = first or frame
            times.append(frame.pts)
    if first is None:
        raise VideoReadError(path, "no frame of the video stream can be decoded")
    return first, times


def check_duration(path: str, seconds: Fraction, limits: Limits) -> None:
    """Raises a VideoReadError if a video is longer than `limits` allow."""
    if seconds > limits.max_duration:
        raise VideoReadError(
            path, f"lasts {float(seconds):.0f} s, more than the {limits.max_duration:.0f} s of Limits.max_duration"
        )
