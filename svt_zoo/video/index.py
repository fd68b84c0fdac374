"""Scanning a video: one pass over its packets gives the number and the times of its frames."""

from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
from av.video import VideoStream
from av.video.frame import VideoFrame

from .decode import Source, decode_packets, ffmpeg_reason, open_source
from .errors import Deadline, Limits, VideoReadError
from .packets import SKIPPABLE_CODECS, Packet, VideoIndex, count_vops, is_hidden, is_restart, one_frame_per_packet

# Containers that store presentation times. AVI does not: FFmpeg invents them.
_TIMED_CONTAINERS = {"mov", "matroska", "mpegts", "mpeg"}
# Codecs with exactly one frame per shown packet.
_ONE_FRAME_PER_PACKET = SKIPPABLE_CODECS | {"vp8", "vp9", "av1"}
# If all packets together are at most this many bytes, they are kept for the first request: the file is read once.
_MAX_KEPT = 32 * 1024**2


def scan(path: str, limits: Limits) -> tuple[VideoIndex, Source | None]:
    """Reads all packets of a video and decodes its first frame.

    If the packets do not determine the number of frames, all frames are decoded and counted.

    Returns:
        The index. If the packets are small, also the open source, so that the first request does not read them again.

    Raises:
        VideoReadError: the file has no video stream, a packet cannot be read or decoded, or `limits` are exceeded.
    """
    with ExitStack() as stack:
        source = stack.enter_context(closing(open_source(path, limits)))
        stream = _read_packets(source)
        first, packets = stream.first, None
        if first is not None and _timestamps_identify_frames(stream, first):
            times = [p.pts for p in stream.packets if p.shown]
            packets = tuple(stream.packets)
        elif first is not None and _packets_count_frames(stream):
            times = [p.pts for p in stream.packets]
        else:
            source.close()
            _check_duration(path, len(stream.packets) / stream.rate, limits)
            first, times = _decode_times(path, limits)

        ticks_per_frame = max(1, round(1 / (stream.rate * stream.time_base)))
        pts = sorted({time for time in times if time is not None})
        if len(pts) < len(times):  # missing or repeated times: assume a constant rate
            pts = [i * ticks_per_frame for i in range(len(times))]
        end = pts[-1] + (stream.last_duration if stream.last_duration > 0 else ticks_per_frame)
        _check_duration(path, (end - pts[0]) * stream.time_base, limits)
        index = VideoIndex(
            container=stream.container,
            codec=stream.codec,
            pts=tuple(pts),
            end=end,
            time_base=stream.time_base,
            height=first.height,
            width=first.width,
            quarter_turns=round(first.rotation / 90) % 4,
            packets=packets,
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
    packets: list[Packet] = field(default_factory=list)
    vop_counts: list[int] = field(default_factory=list)  # of MPEG-4 packets
    last_duration: int = 0  # of the packet with the largest timestamp
    starts_with_key: bool = False
    first: VideoFrame | None = None


def _read_packets(source: Source) -> _Stream:
    """Reads all packets and decodes the first frame. Keeps the packets in `source` if they are small."""
    container, stream = source.container, source.stream
    codec = stream.codec_context.codec.canonical_name
    result = _Stream(
        container=container.format.name.split(",")[0],
        codec=codec,
        time_base=_fraction(stream.time_base or Fraction(1, 90_000)),
        rate=_fraction(stream.average_rate or stream.guessed_rate or Fraction(25)),
    )
    num_entries = len(stream.index_entries)
    extradata = stream.codec_context.extradata
    deadline = Deadline(source.path, source.limits)
    latest, size, probed = None, 0, False
    source.packets = []
    try:
        for packet in container.demux(stream):
            deadline.check()
            if not packet.size:
                continue
            key, pts = packet.is_keyframe, packet.pts
            data = bytes(packet) if key or codec in ("mpeg4", "vp8") else b""
            shown = not packet.is_discard and not is_hidden(codec, data)
            result.starts_with_key = result.starts_with_key or (key and not result.packets)
            if codec == "mpeg4":
                result.vop_counts.append(count_vops(data))
            if shown and pts is not None and (latest is None or pts > latest):
                latest, result.last_duration = pts, packet.duration or 0
            if not probed:
                result.first = _first_frame(stream, packet, shown)
                probed = shown
            result.packets.append(Packet(pts, shown, key and is_restart(codec, data, extradata)))
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


def _timestamps_identify_frames(stream: _Stream, first: VideoFrame) -> bool:
    """Whether shown packets and frames certainly correspond one to one, with unique timestamps in display order."""
    times = [p.pts for p in stream.packets if p.shown]
    start = stream.packets[0].pts
    return (
        stream.container in _TIMED_CONTAINERS
        and stream.codec in _ONE_FRAME_PER_PACKET
        and stream.starts_with_key
        and len(set(times)) == len(times)
        # Pictures before the first key frame remain from a cut. Their references are gone, so decoders drop them.
        and all(time is not None and start is not None and time >= start for time in times)
        # The two fields of an interlaced picture can be two packets.
        and not first.interlaced_frame
        and (stream.codec != "mpeg4" or set(stream.vop_counts) == {1})
    )


def _packets_count_frames(stream: _Stream) -> bool:
    """Whether the number of packets is certainly the number of frames, although timestamps do not identify them."""
    return stream.container == "avi" and (
        stream.codec == "mjpeg" or (stream.codec == "mpeg4" and one_frame_per_packet(stream.vop_counts))
    )


def _decode_times(path: str, limits: Limits) -> tuple[VideoFrame, list[int | None]]:
    """Decodes all frames. Returns the first frame and the timestamp of each, in the decoder's order."""
    first, times = None, []
    with closing(decode_packets(open_source(path, limits))) as frames:
        for frame in frames:
            first = first or frame
            times.append(frame.pts)
    if first is None:
        raise VideoReadError(path, "no frame of the video stream can be decoded")
    return first, times


def _check_duration(path: str, seconds: Fraction, limits: Limits) -> None:
    if seconds > limits.max_duration:
        raise VideoReadError(
            path, f"lasts {float(seconds):.0f} s, more than the {limits.max_duration:.0f} s of Limits.max_duration"
        )
