"""What a video file holds, found in one pass over its packets: `scan`."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.video import VideoStream
from av.video.frame import VideoFrame

from . import packets
from .decode import Source, decoded, open_source, said
from .errors import Deadline, Limits, VideoReadError
from .packets import Packet, VideoIndex

# Containers that keep the time at which each picture is shown; AVI has none, so FFmpeg makes them up.
_TIMED_FORMATS = {"mov", "matroska", "mpegts", "mpeg"}
# Codecs of which each packet that is shown gives one frame.
_ONE_TO_ONE = packets.PLANNABLE | {"vp8", "vp9", "av1"}
# A file whose packets take at most so many bytes is read once, and its packets are kept for the first decoding.
_MAX_KEPT = 32 * 1024**2


def scan(path: str, limits: Limits) -> tuple[VideoIndex, Source | None]:
    """Reads all packets of a video, decodes one frame, and all of them only if the packets do not tell their number.

    Returns:
        The index and, if the packets take little memory, the open file to `decode` from without reading it again.

    Raises:
        VideoReadError: if there is no video, a packet cannot be read, or it exceeds `limits`.
    """
    with ExitStack() as stack:
        source = stack.enter_context(open_source(path, limits))
        header = _Header.of(source)
        rows = _read_packets(path, source, header, Deadline(path, limits))
        if not rows.packets:
            raise VideoReadError(path, "the video stream holds no frame")
        known, first = tuple(rows.packets), rows.first
        if first is not None and _timestamps_tell(header, rows, first):
            times = sorted(p.pts for p in known if p.shown and p.pts is not None)
            index = _index(path, limits, header, first, times, rows.duration, known)
        elif first is not None and _counts_tell(header, rows):
            times = _one_each([p.pts for p in known], header)
            index = _index(path, limits, header, first, times, rows.duration, None)
        else:
            source.close()
            _check_duration(path, len(known) / header.rate, limits)
            counted, first = _count_frames(path, limits)
            index = _index(path, limits, header, first, _one_each(counted, header), rows.duration, None)
        if source.packets is None:
            return index, None
        stack.pop_all()
        return index, source


@dataclass(frozen=True)
class _Header:
    """What the container says of itself and its video stream; nothing of it is relied on for counting."""

    stream: int
    container: str
    codec: str
    time_base: Fraction
    rate: Fraction
    length_size: int | None
    num_entries: int

    @classmethod
    def of(cls, source: Source) -> "_Header":
        container, stream = source.container, source.stream
        codec = stream.codec_context.codec.canonical_name
        return cls(
            stream=stream.index,
            container=container.format.name.split(",")[0],
            codec=codec,
            time_base=_fraction(stream.time_base or Fraction(1, 90_000)),
            rate=_fraction(stream.average_rate or stream.guessed_rate or Fraction(25)),
            length_size=packets.nal_length_size(codec, stream.codec_context.extradata),
            num_entries=len(stream.index_entries),
        )


def _fraction(value: Any) -> Fraction:
    return Fraction(value)  # PyAV 19 returns a type of its own, which is a Rational though its stubs do not state it


@dataclass
class _Rows:
    """What one pass over the packets gathers."""

    packets: list[Packet]
    vops: list[int]
    duration: int = 0  # of the packet shown last
    starts_clean: bool = False  # the first packet is a key frame
    first: VideoFrame | None = None


def _read_packets(path: str, source: Source, header: _Header, deadline: Deadline) -> _Rows:
    """All packets of the stream and its first frame; `source` keeps the packets if they are small."""
    rows = _Rows([], [])
    codec, latest, size, probed = header.codec, None, 0, False
    source.packets = []
    try:
        for packet in source.container.demux(source.stream):
            deadline.check()
            if not packet.size:
                continue
            key, pts = packet.is_keyframe, packet.pts
            data = bytes(packet) if key or codec in ("mpeg4", "vp8") else b""
            shown = not packet.is_discard and not packets.is_hidden(codec, data)
            restart = key and packets.is_restart(codec, data, header.length_size)
            rows.starts_clean = rows.starts_clean or (key and not rows.packets)
            if codec == "mpeg4":
                rows.vops.append(packets.vops(data))
            if shown and pts is not None and (latest is None or pts > latest):
                latest, rows.duration = pts, packet.duration or 0
            if not probed:
                rows.first = _first_frame(source.stream, packet, shown)
                probed = shown
            rows.packets.append(Packet(pts, shown, restart))
            size += packet.size
            if size > _MAX_KEPT:
                source.packets = None
            if source.packets is not None:
                source.packets.append(packet)
    except (av.FFmpegError, MemoryError) as error:
        raise VideoReadError(path, f"packet {len(rows.packets)} cannot be read ({said(error)})") from error
    if header.container == "mov" and len(rows.packets) < header.num_entries:
        raise VideoReadError(
            path, f"cut short: holds {len(rows.packets)} of the {header.num_entries} packets that its header lists"
        )
    return rows


def _first_frame(stream: VideoStream, packet: "av.Packet[VideoStream]", shown: bool) -> VideoFrame | None:
    """The first frame of the stream if this packet holds it, without waiting for the decoder to sort frames."""
    codec = stream.codec_context
    frames = codec.decode(packet)
    if not shown:
        return None
    frames += codec.decode(None)
    codec.flush_buffers()  # ready to start again from the first packet
    return frames[0] if frames else None


def _timestamps_tell(header: _Header, rows: _Rows, first: VideoFrame) -> bool:
    """Whether frames and shown packets are surely the same, told apart and put in order by their timestamps."""
    times = [p.pts for p in rows.packets if p.shown]
    start = rows.packets[0].pts
    return (
        header.container in _TIMED_FORMATS
        and header.codec in _ONE_TO_ONE
        and rows.starts_clean
        and None not in times
        and len(set(times)) == len(times)
        # Pictures before the first key frame, left from a cut, refer to what is gone: decoders drop them unasked.
        and all(time is not None and start is not None and time >= start for time in times)
        # The two fields of an interlaced picture may be two packets.
        and not first.interlaced_frame
        and (header.codec != "mpeg4" or set(rows.vops) == {1})
    )


def _counts_tell(header: _Header, rows: _Rows) -> bool:
    """Whether there are surely as many frames as packets, although timestamps do not tell them apart."""
    return header.container == "avi" and (
        header.codec == "mjpeg" or (header.codec == "mpeg4" and packets.one_frame_per_packet(rows.vops))
    )


def _one_each(times: Sequence[int | None], header: _Header) -> list[int]:
    """Ascending times for as many frames: those given if they are good for it, else what the frame rate says."""
    known = sorted({time for time in times if time is not None})
    if len(known) == len(times):
        return known
    unit = max(1, round(1 / (header.rate * header.time_base)))
    return [i * unit for i in range(len(times))]


def _count_frames(path: str, limits: Limits) -> tuple[list[int | None], VideoFrame]:
    """Decodes everything: the timestamp of each frame as they come out, and the first frame."""
    times, first = [], None
    with closing(decoded(path, limits)) as frames:
        for frame in frames:
            first = first or frame
            times.append(frame.pts)
    if first is None:
        raise VideoReadError(path, "no frame of the video stream can be decoded")
    return times, first


def _index(
    path: str,
    limits: Limits,
    header: _Header,
    first: VideoFrame,
    times: Sequence[int],
    last_duration: int,
    rows: tuple[Packet, ...] | None,
) -> VideoIndex:
    """Puts together what was found, and checks it."""
    if last_duration <= 0:
        last_duration = max(1, round(1 / (header.rate * header.time_base)))
    end = times[-1] + last_duration
    _check_duration(path, (end - times[0]) * header.time_base, limits)
    return VideoIndex(
        stream=header.stream,
        container=header.container,
        codec=header.codec,
        pts=tuple(times),
        end=end,
        time_base=header.time_base,
        height=first.height,
        width=first.width,
        pixel_format=first.format.name,
        quarter_turns=round(first.rotation / 90) % 4,
        packets=rows,
    )


def _check_duration(path: str, seconds: Fraction, limits: Limits) -> None:
    if seconds > limits.max_duration:
        raise VideoReadError(
            path, f"lasts {float(seconds):.0f} s, more than the {limits.max_duration:.0f} s of Limits.max_duration"
        )
