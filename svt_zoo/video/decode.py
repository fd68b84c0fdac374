"""Decoding with PyAV: opening a file, all frames in the decoder's order, and exact frames by number.

Decoding and color conversion run in the calling thread. Each worker uses one core, and a decoder without threads can be
freed after a fork.
"""

import logging
import os
import struct
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, repeat
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video import VideoStream
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from ..signatures import foreign_kind
from .errors import DamageError, Deadline, Limits, VideoReadError
from .packets import SkipFrame, VideoIndex

logger = logging.getLogger(__name__)

Actions = Sequence[SkipFrame | None]  # one per packet, from `VideoIndex.actions`
Step = tuple[SkipFrame | None, "av.Packet[VideoStream] | None"]

# Allowed containers. FFmpeg would also render text files as video and follow playlists to other files and hosts.
_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,asf,flv,live_flv,ogg,rm,mxf,nut,ivf,dv,gif,apng,wtv,swf,nsv,gxf,bink,smk,"
    "roq,yuv4mpegpipe,h261,h263,h264,hevc,vvc,m4v,vc1,obu,av1,dirac,mjpeg,mpjpeg"
)

# PyAV 17 and 18 need this option to open files whose tags (title, artist, ...) are not UTF-8. PyAV 19 always opens them
# and does not have the option.
_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if hasattr(InputContainer, "metadata_errors") else {}


class Source:
    """An open file and its video stream, for one decoding pass.

    Attributes:
        codec: the decoder.
        packets: all packets of the stream if they have been read and are small, else None.
    """

    def __init__(self, path: str, file: str, limits: Limits, container: InputContainer, stream: VideoStream) -> None:
        self.path, self.file, self.limits = path, file, limits
        self.container, self.stream, self.codec = container, stream, stream.codec_context
        self.number = stream.index  # reading it from a closed stream would be an error
        self.packets: list[av.Packet[VideoStream]] | None = None

    def read(self, actions: Actions | None) -> Iterable[Step]:
        """Yields the action of each packet and the packet; None for `actions` decodes all packets."""
        skips: Iterable[SkipFrame | None] = repeat("DEFAULT") if actions is None else actions
        # An empty packet is the end, or a repeated frame in AVI. The decoder would take both for the end.
        return zip(skips, (p for p in self.packets or self.container.demux(self.stream) if p.size), strict=False)

    def reopen(self) -> "Source":
        """Opens the same stream again, from its start."""
        return open_source(self.path, self.limits, self.number, self.file)

    def __del__(self) -> None:
        self.close()  # PyAV's objects form a reference cycle: without this, the file stays open until the next GC run

    def close(self) -> None:
        """Closes the file and frees the packets."""
        self.packets = None
        self.container.close()


def open_source(path: str, limits: Limits, number: int | None = None, file: str | None = None) -> Source:
    """Opens a video stream for decoding without threads: stream `number`, or the one that FFmpeg prefers.

    `file` is the absolute path, for a working folder that has changed.
    """
    file = file or os.path.abspath(path)  # FFmpeg reads a relative "a:b.mp4" as protocol "a"
    size_limit = {"max_pixels": str(limits.max_pixels)}
    try:
        container = av.open(
            file,
            options=size_limit,
            container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
            **_TAGS,
        )
    except (av.FFmpegError, MemoryError) as error:
        reason = ffmpeg_reason(error)
        if isinstance(error, av.error.ArgumentError):  # FFmpeg writes its message to the log, which may be off
            reason = "Format not on whitelist"
        kind = f"; it is {kind}" if (kind := foreign_kind(file)) else ""
        raise VideoReadError(path, f"not a video that FFmpeg can open ({reason}){kind}") from error
    try:
        stream = _video_stream(path, container, limits, number)
    except VideoReadError:
        container.close()
        raise
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    stream.codec_context.options = size_limit
    return Source(path, file, limits, container, stream)


def _video_stream(path: str, container: InputContainer, limits: Limits, number: int | None) -> VideoStream:
    streams = {s.index: s for s in container.streams.video if not s.disposition & Disposition.attached_pic}
    if not streams:
        covers = ", only a cover picture" if container.streams.video else ""
        raise VideoReadError(path, f"no video stream{covers}")
    if number is None:
        best = container.streams.best("video")
        number = best.index if best is not None and best.index in streams else min(streams)
    if number not in streams:
        raise VideoReadError(path, f"stream must be one of the video streams {sorted(streams)}, got {number}")
    stream = streams[number]
    if stream.codec_context is None:
        raise VideoReadError(path, "FFmpeg has no decoder for its video stream; re-encode it")
    height, width = stream.codec_context.height, stream.codec_context.width
    if height * width > limits.max_pixels:
        raise VideoReadError(
            path,
            f"frames of {width}x{height} pixels, more than the {limits.max_pixels} of Limits.max_pixels; "
            "make it smaller with `svt-zoo prepare`, or pass limits=Limits(max_pixels=...)",
        )
    return stream


def decode_packets(source: Source, actions: Actions | None = None) -> Generator[VideoFrame]:
    """Yields frames in the decoder's order and closes `source`.

    Args:
        source: an open file.
        actions: of `VideoIndex.actions`; None decodes all packets.

    Raises:
        VideoReadError: the decoder rejects a packet or marks a frame as damaged, or the time limit is exceeded.
    """
    with closing(source):
        codec = source.codec
        deadline = Deadline(source.path, source.limits)
        flush: Step = ("DEFAULT", None)
        position = -1
        try:
            steps = chain(source.read(actions), [flush])
            for position, (skip, packet) in enumerate(steps):  # noqa: B007  # the error below names it
                deadline.check()
                if skip is None:
                    continue
                codec.skip_frame = skip
                for frame in codec.decode(packet):
                    if frame.is_corrupt:  # errors in this picture or in one that it refers to were concealed
                        reason = f"the decoder marks the frame at {frame.time} s as damaged"
                        raise DamageError(source.path, reason)
                    yield frame
        except (av.FFmpegError, MemoryError) as error:
            reason = f"packet {position} cannot be decoded ({ffmpeg_reason(error)})"
            raise DamageError(source.path, reason) from error


def ffmpeg_reason(error: BaseException) -> str:
    """FFmpeg's message without the file name."""
    if isinstance(error, av.error.ArgumentError):  # decoders raise this for frames above their option max_pixels
        return "invalid argument; frames of more pixels than Limits.max_pixels end like this"
    return getattr(error, "strerror", None) or type(error).__name__


def decode_frames(source: Source, index: VideoIndex, wanted: Sequence[int]) -> Generator[tuple[int, NDArray[Any]]]:
    """Yields (number, upright RGB uint8 (H, W, 3)) for the frame numbers `wanted` and closes `source`.

    If timestamps identify frames, only the packets that these frames need are decoded. If the decoder's output then
    contradicts the timestamps, all frames are decoded again and counted. A number can therefore come twice: the last
    image is the right one.

    Args:
        source: an open file.
        index: the result of `scan` for this file.
        wanted: ascending numbers without repeats.

    Raises:
        VideoReadError: as `decode_packets`, or the decoder returns another number of frames than `index` has.
    """
    # All frames share one reformatter with threads=1: by default, PyAV 17 and later start threads for each frame.
    to_rgb = partial(_to_rgb, index, VideoReformatter())
    if index.packets is not None:
        by_pts = {index.pts[i]: i for i in wanted}
        latest = None
        with closing(decode_packets(source, index.actions(wanted))) as frames:
            for frame in frames:
                if frame.pts is None or (latest is not None and frame.pts <= latest):
                    break
                latest = frame.pts
                number = by_pts.pop(frame.pts, None)
                if number is not None:
                    yield number, to_rgb(frame)
                if not by_pts:
                    return
        logger.debug("%s: the decoder contradicts the timestamps; decoding and counting all frames", source.path)
        source = source.reopen()

    remaining = set(wanted)
    count = 0
    with closing(decode_packets(source)) as frames:
        for frame in frames:
            if count in remaining:
                remaining.remove(count)
                yield count, to_rgb(frame)
            count += 1
            if not remaining and index.packets is None:
                return
    if count != len(index.pts):
        reason = f"its packets promise {len(index.pts)} frames but {count} are decoded; re-encode it, e.g. with ffmpeg"
        raise VideoReadError(source.path, reason)


def _to_rgb(index: VideoIndex, reformatter: VideoReformatter, frame: VideoFrame) -> NDArray[Any]:
    """Returns the upright frame as RGB uint8 (H, W, 3), a view of the converted frame's memory."""
    height, width = index.height, index.width
    plane = reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1).planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)  # (H, bytes per padded row)
    image = rows[:height, : width * 3].reshape(height, width, 3)  # (H, W, 3)
    return turn(image, *index.orientation)


def orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """The arguments of `turn` that make a frame upright, from the display matrix beside it."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    # A pixel (x, y) is shown at (a x + c y, b x + d y). Other angles than quarter turns become the nearest one.
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    return (True, b < 0, c < 0) if abs(b) + abs(c) > abs(a) + abs(d) else (False, d < 0, a < 0)


def turn(image: NDArray[Any], transpose: bool, flip_rows: bool, flip_columns: bool) -> NDArray[Any]:
    """Turns and mirrors (H, W, 3) without a copy."""
    image = image.transpose(1, 0, 2) if transpose else image
    return image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
