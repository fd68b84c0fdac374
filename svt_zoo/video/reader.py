"""The one reader of videos: any frames of a file, exact, by number or by time.

    with open_video("clip.mp4") as video:
        frames = video.frames_at(range(0, video.num_frames, 4))  # uint8 (len(indices), H, W, 3)

Frames are numbered in presentation order and upright (rotation in the metadata is applied). The first stream that is a
video and not a cover picture is read; audio is not. A request decodes each packet at most once and leaves out what the
requested frames do not need, where that is provably exact; a packet that the decoder refuses, or a frame that it marks
as damaged, fails the request. Damage in packets that a request does not need goes unnoticed by it: ask for all frames
to know that a file is sound. A file stays open from `open_video` to its first request, which uses what was read; an
`EncodedVideo` can be kept, pickled and carried into forked workers.
"""

import math
import operator
import os
import stat
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import decode
from .decode import Source
from .errors import Limits, VideoReadError
from .index import scan
from .packets import VideoIndex

__all__ = ["EncodedVideo", "Limits", "VideoPathHandler", "VideoReadError", "open_video"]

# Times that differ by less are the same, so that the rounding of a sum adds or drops no frame.
_SAME_TIME = 1e-6  # seconds


def open_video(path: str | os.PathLike[str], *, limits: Limits | None = None) -> "EncodedVideo":
    """Opens a video file, to be used in a `with` statement.

    Reads all packets once, which takes milliseconds, and decodes one frame. Files without usable timestamps (a raw
    stream, AVI with some codecs) are decoded once to count their frames.

    Args:
        path: a regular file.
        limits: the largest video and request to accept; the defaults of `Limits` if None.

    Raises:
        VideoReadError: if the file is missing, not a regular file, empty, not a video, damaged, or beyond the limits.
    """
    limits = limits or Limits()
    name = os.fspath(path)
    _check_file(name)
    index, source = scan(name, limits)
    return EncodedVideo(name, index, source, limits=limits)


def _check_file(path: str) -> None:
    """Refuses what FFmpeg would wait for (pipes, devices) or describe badly."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise VideoReadError(path, (getattr(error, "strerror", None) or str(error)).lower()) from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoReadError(path, "a directory, not a video file")
    if not stat.S_ISREG(status.st_mode):
        raise VideoReadError(path, "a pipe, socket or device, not a regular file; copy it to a file first")
    if status.st_size == 0:
        raise VideoReadError(path, "an empty file")


class EncodedVideo:
    """A video file whose frames are decoded when asked for; made by `open_video`. A PyTorchVideo `Video`.

    Attributes:
        path: the file.
        height, width: of the upright frames, in pixels.
        container, codec: FFmpeg's names of them.
    """

    def __init__(self, path: str, index: VideoIndex, source: Source | None, *, limits: Limits) -> None:
        self.path = path
        self.container, self.codec = index.container, index.codec
        self.height, self.width = index.height, index.width
        if index.quarter_turns % 2:
            self.height, self.width = self.width, self.height
        self._index = index
        self._source = source  # good for one pass over the file
        self._limits = limits

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return os.path.basename(self.path)

    @property
    def num_frames(self) -> int:
        """How many frames the video has: exact, whatever the container says."""
        return len(self._index.pts)

    @cached_property
    def pts(self) -> tuple[float, ...]:
        """When each frame is shown, in seconds from the first frame; `num_frames` ascending numbers."""
        return tuple(float(self._seconds(ticks)) for ticks in self._index.pts)

    @property
    def duration(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        return float(self._seconds(self._index.end))

    @property
    def fps(self) -> float:
        """Frames per second, on average."""
        return self.num_frames / self.duration

    def frames_at(self, indices: Iterable[int]) -> Tensor:
        """Decodes the frames with the numbers `indices`, in one pass over the file.

        Args:
            indices: any numbers from 0 to `num_frames - 1`, in any order, repeats allowed.

        Returns:
            uint8 (len(indices), H, W, 3): RGB, in the order asked.

        Raises:
            IndexError: if there is no frame with such a number.
            VideoReadError: if a packet that is needed is damaged, or the result would exceed `Limits.max_bytes`.
        """
        wanted = self._numbers(indices)
        self._check_memory(len(wanted), 1)
        places: dict[int, list[int]] = {}
        for place, number in enumerate(wanted):
            places.setdefault(number, []).append(place)
        frames = np.empty((len(wanted), self.height, self.width, 3), np.uint8)
        if wanted:
            for number, image in self._decode(sorted(places)):
                for place in places[number]:
                    frames[place] = image
        return torch.from_numpy(frames)

    def indices_at(self, seconds: Iterable[float]) -> list[int]:
        """The number of the frame that is on screen at each time: the last one shown at or before it.

        Times are in seconds from the first frame; those before it give the first, those after the end the last frame.
        """
        return [max(0, bisect_right(self.pts, _not_nan(second) + _SAME_TIME) - 1) for second in seconds]

    def get_clip(self, start_sec: float | Fraction, end_sec: float | Fraction) -> dict[str, Tensor | None]:
        """The frames shown at times in [start_sec, end_sec), in PyTorchVideo's form.

        Returns:
            {"video": float32 (C, T, H, W) in [0, 255], or None if no frame starts in that time; "audio": None}

        Raises:
            VideoReadError: as `frames_at`.
        """
        first, end = self._frames_before(start_sec), self._frames_before(end_sec)
        if first >= end:
            return {"video": None, "audio": None}
        self._check_memory(end - first, 4)
        frames = self.frames_at(range(first, end))
        return {"video": frames.permute(3, 0, 1, 2).float(), "audio": None}  # (C, T, H, W)

    def close(self) -> None:
        """Closes the file if it is open; a later request opens it for as long as it needs."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def __enter__(self) -> "EncodedVideo":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"EncodedVideo({self.path!r}, {self.num_frames} frames of {self.width}x{self.height}, "
            f"{self.duration:.2f} s, {self._index.codec})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": None}

    def _decode(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        source, self._source = self._source, None
        return decode.decode(self.path, self._index, numbers, self._limits, source)

    def _check_memory(self, num_frames: int, bytes_per_value: int) -> None:
        size = num_frames * self.height * self.width * 3 * bytes_per_value
        if size > self._limits.max_bytes:
            raise VideoReadError(
                self.path,
                f"{num_frames} frames of {self.width}x{self.height} pixels take {size} bytes, more than the "
                f"{self._limits.max_bytes} of Limits.max_bytes; ask for fewer frames at a time",
            )

    def _seconds(self, ticks: int) -> Fraction:
        return (ticks - self._index.pts[0]) * self._index.time_base

    def _frames_before(self, seconds: float | Fraction) -> int:
        """How many frames are shown before a time."""
        return bisect_left(self.pts, _not_nan(float(seconds)) - _SAME_TIME)

    def _numbers(self, indices: Iterable[int]) -> Sequence[int]:
        """`indices` as Python integers, each of them the number of a frame."""
        listed: Iterable[Any] = indices.tolist() if isinstance(indices, Tensor | np.ndarray) else indices
        numbers = [operator.index(index) for index in listed]
        for number in numbers:
            if not 0 <= number < self.num_frames:
                raise IndexError(
                    f"{self.name} has {self.num_frames} frames, numbered 0 to {self.num_frames - 1}; got index {number}"
                )
        return numbers


def _not_nan(seconds: float) -> float:
    if math.isnan(seconds):
        raise ValueError(f"a time in seconds cannot be {seconds}")
    return seconds


class VideoPathHandler:
    """Makes a PyTorchVideo dataset read its files through `open_video`.

        dataset = pytorchvideo.data.LabeledVideoDataset(paths, clip_sampler, decode_audio=False)
        dataset.video_path_handler = VideoPathHandler()

    PyTorchVideo tries the next video when one cannot be read.
    """

    def __init__(self, *, limits: Limits | None = None) -> None:
        from pytorchvideo.data.video import Video

        Video.register(EncodedVideo)  # isinstance(video, Video) holds
        self.limits = limits

    def video_from_path(
        self, filepath: str, decode_audio: bool = False, decoder: str = "pyav", fps: int = 30
    ) -> EncodedVideo:
        """Opens `filepath`; the other arguments are PyTorchVideo's and have no say here."""
        return open_video(filepath, limits=self.limits)
