"""Videos through PyAV: an open file, its frames as the decoder gives them, and some of its frames in one exact pass.

Decoding and colour conversion run in the calling thread: a worker is one thread, and a decoder without threads has none
to wait for after a fork.
"""

import logging
import os
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video import VideoStream
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from . import packets
from .errors import Deadline, Limits, VideoReadError
from .packets import SkipFrame, VideoIndex

logger = logging.getLogger(__name__)

# What may be opened. FFmpeg would also play text files as ANSI art and follow playlists to other files and hosts.
_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,asf,flv,live_flv,ogg,rm,mxf,nut,ivf,dv,gif,apng,wtv,swf,nsv,gxf,bink,smk,"
    "roq,yuv4mpegpipe,h261,h263,h264,hevc,vvc,m4v,vc1,obu,av1,dirac,mjpeg,mpjpeg"
)

# PyAV 17 and 18 refuse a file whose tags (title, artist, ...) are not UTF-8 unless told otherwise. PyAV 19 always reads
# such tags and has no such option.
_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if hasattr(InputContainer, "metadata_errors") else {}


class Source:
    """An open file and its video stream, with its packets once they are read: enough for one pass of decoding."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.container = container
        self.stream = stream
        self.packets: list[av.Packet[VideoStream]] | None = None

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()  # PyAV's containers and streams refer to each other: left alone, they wait for the collector

    def close(self) -> None:
        """Closes the file and lets go of the packets."""
        self.packets = None
        self.container.close()


def open_source(path: str, limits: Limits) -> Source:
    """Opens the file with its first video stream that is not a cover picture, set to decode in this thread alone."""
    size_limit = {"max_pixels": str(limits.max_pixels)}
    try:
        container = av.open(
            os.path.abspath(path),  # "a:b.mp4" alone would be file b.mp4 of protocol a
            options=size_limit,
            container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
            **_TAGS,
        )
    except (av.FFmpegError, MemoryError) as error:
        raise VideoReadError(path, f"not a video that FFmpeg can open ({said(error)})") from error
    try:
        stream = _video_stream(path, container, limits)
    except VideoReadError:
        container.close()
        raise
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    stream.codec_context.options = size_limit
    return Source(container, stream)


def _video_stream(path: str, container: InputContainer, limits: Limits) -> VideoStream:
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not pictures:
        covers = ", only a cover picture" if container.streams.video else ""
        raise VideoReadError(path, f"no video stream{covers}")
    stream = pictures[0]
    if stream.codec_context is None:
        raise VideoReadError(path, "FFmpeg has no decoder for its video stream; re-encode it")
    height, width = stream.codec_context.height, stream.codec_context.width
    if height * width > limits.max_pixels:
        raise VideoReadError(
            path, f"frames of {width}x{height} pixels, more than the {limits.max_pixels} of Limits.max_pixels"
        )
    return stream


def decoded(
    path: str, limits: Limits, actions: Sequence[SkipFrame | None] | None = None, source: Source | None = None
) -> Generator[VideoFrame]:
    """The frames in the order in which the decoder gives them, of all packets or as `packets.plan` says."""
    with source or open_source(path, limits) as source:
        codec = source.stream.codec_context
        deadline = Deadline(path, limits)
        position = -1
        try:
            for packet in source.packets or source.container.demux(source.stream):
                if not packet.size:  # the end, or "as before" in AVI; to the decoder both would mean the end
                    continue
                deadline.check()
                position += 1
                if actions is not None:
                    if position == len(actions):
                        break
                    action = actions[position]
                    if action is None:
                        continue
                    codec.skip_frame = action
                for frame in codec.decode(packet):
                    yield _intact(path, frame)
            for frame in codec.decode(None):
                yield _intact(path, frame)
        except (av.FFmpegError, MemoryError) as error:
            raise VideoReadError(path, f"packet {position} cannot be decoded ({said(error)})") from error


def _intact(path: str, frame: VideoFrame) -> VideoFrame:
    """The frame; an error if the decoder patched it up, for everything that refers to it is patched up as well."""
    if frame.is_corrupt:
        raise VideoReadError(path, f"the decoder marks the frame at {frame.time} s as damaged")
    return frame


def said(error: BaseException) -> str:
    """What FFmpeg says, without the file's name."""
    if isinstance(error, av.error.ArgumentError):  # so decoders answer to their option max_pixels
        return "invalid argument; frames of more pixels than Limits.max_pixels end like this"
    return getattr(error, "strerror", None) or type(error).__name__


def decode(
    path: str, index: VideoIndex, wanted: Sequence[int], limits: Limits, source: Source | None = None
) -> Generator[tuple[int, NDArray[Any]]]:
    """The frames of the numbers `wanted` (ascending, without repeats) as (number, RGB uint8 (H, W, 3), turned upright).

    Where timestamps identify frames, only the packets that the wanted frames need are decoded. Should the decoder then
    contradict the timestamps, all frames are decoded once more and counted; what is given last for a number is right.
    `source` is what `scan` left open; it is used up.

    Raises:
        VideoReadError: if the decoder refuses a packet, marks a frame as damaged, or gives fewer frames than promised.
    """
    to_rgb = _ToRGB(index)
    if index.packets is not None:
        by_pts = {index.pts[i]: i for i in wanted}
        planned = index.codec in packets.PLANNABLE
        actions = packets.plan(index.packets, by_pts.keys()) if planned else None
        latest = None
        with closing(decoded(path, limits, actions, source)) as frames:
            for frame in frames:
                if frame.pts is None or (latest is not None and frame.pts <= latest):
                    break
                latest = frame.pts
                number = by_pts.pop(frame.pts, None)
                if number is not None:
                    yield number, to_rgb(frame)
                if not by_pts:
                    return
        logger.debug("%s: the decoder contradicts the timestamps; counting all frames instead", path)
        source = None

    left = set(wanted)
    count = 0
    with closing(decoded(path, limits, source=source)) as frames:
        for frame in frames:
            if count in left:
                left.remove(count)
                yield count, to_rgb(frame)
            count += 1
            if not left and index.packets is None:
                return
    if count != len(index.pts):
        raise VideoReadError(
            path, f"its packets promise {len(index.pts)} frames but {count} come out; re-encode it, e.g. with ffmpeg"
        )


class _ToRGB:
    """Turns decoded frames into upright RGB arrays of one size.

    One reformatter for all frames, told to use one thread: left alone, PyAV 17 and later start threads for each frame.
    """

    def __init__(self, index: VideoIndex) -> None:
        self._height, self._width, self._turns = index.height, index.width, index.quarter_turns
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> NDArray[Any]:
        """RGB uint8 (H, W, 3), a view on memory that lives as long as the array."""
        rgb = self._reformatter.reformat(frame, width=self._width, height=self._height, format="rgb24", threads=1)
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(
            -1, plane.line_size
        )  # (H, bytes of a row with padding)
        image = rows[: self._height, : self._width * 3].reshape(self._height, self._width, 3)  # (H, W, 3)
        return np.rot90(image, self._turns) if self._turns else image
