"""The video reader: exact frames of a file, by number or by time.

    with open_video("clip.mp4") as video:
        frames = video.frames_at(range(0, video.num_frames, 4))  # uint8 (len(indices), H, W, 3)

Frames are numbered in presentation order, turned and mirrored as the metadata states. The reader uses the video stream
that FFmpeg and players prefer, and no audio. Where the headers of the stream contradict the timestamps, all frames are
decoded and counted.

A request decodes each packet at most once. It skips packets where this provably does not change the requested frames.
A request fails if the decoder rejects a packet or marks a frame as damaged. It does not detect damage in skipped
packets: request all frames to check a file.

The file stays open until the first request, which reuses the packets that were read. An `EncodedVideo` can be stored,
pickled and used in forked workers.
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

from .decode import Source, decode_frames, open_source
from .errors import Limits, MissingVideoError, VideoReadError
from .index import check_duration, scan
from .packets import VideoIndex
from .store import load_index, save_index

# Times that differ by less are equal, so that rounding adds or drops no frame.
_SAME_TIME = 1e-6  # seconds


def open_video(
    path: str | os.PathLike[str], *, stream: int | None = None, limits: Limits | None = None
) -> "EncodedVideo":
    """Opens a video file. Use it in a `with` statement.

    Reads all packets once, which takes milliseconds, and decodes one frame. Files without usable timestamps (raw
    streams, AVI with some codecs) are decoded once to count their frames. A video of hours takes seconds, each time it
    is opened; if the environment variable SVT_ZOO_VIDEO_INDEXES names a folder, its index is kept there.

    Args:
        path: a regular file. A relative path stays valid if the working folder changes.
        stream: number of a video stream, counted over all streams of the file from 0; None for the one that FFmpeg
            prefers (the default stream, never a cover picture).
        limits: the largest video and request to accept; None for the defaults of `Limits`.

    Raises:
        VideoReadError: the file is missing (then it is a `FileNotFoundError` too), not a regular file, empty, not a
            video, damaged, or exceeds the limits.
    """
    limits = limits or Limits()
    name = os.fspath(path)
    check_file(name)
    if (index := load_index(name, stream)) is not None:
        check_duration(name, (index.end - index.pts[0]) * index.time_base, limits)
        return EncodedVideo(name, index, None, limits=limits)
    index, source = scan(name, limits, stream)
    save_index(name, stream, index)
    return EncodedVideo(name, index, source, limits=limits)


def check_file(path: str) -> None:
    """Rejects files on which FFmpeg would block (pipes, devices) or give an unclear message."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise MissingVideoError(path, "no such file or directory") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise VideoReadError(path, (getattr(error, "strerror", None) or str(error)).lower()) from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoReadError(path, "a directory, not a video file")
    if not stat.S_ISREG(status.st_mode):
        raise VideoReadError(path, "a pipe, socket or device, not a regular file; copy it to a file first")
    if status.st_size == 0:
        raise VideoReadError(path, "an empty file")


class EncodedVideo:
    """A video file whose frames are decoded on request. Made by `open_video`; a PyTorchVideo `Video`.

    Attributes:
        path: the file.
        height, width: size of the upright frames, in pixels.
        container, codec: FFmpeg's names.
    """

    def __init__(self, path: str, index: VideoIndex, source: Source | None, *, limits: Limits) -> None:
        self.path = path
        self.container, self.codec = index.container, index.codec
        self.height, self.width = index.height, index.width
        if index.orientation[0]:
            self.height, self.width = self.width, self.height
        self._index = index
        self._source = source  # for one decoding pass
        self._file = os.path.abspath(path)
        self._limits = limits

    @property
    def name(self) -> str:
        """File name without the folder."""
        return os.path.basename(self.path)

    @property
    def num_frames(self) -> int:
        """Exact number of frames, whatever the container states."""
        return len(self._index.pts)

    @property
    def cut(self) -> bool:
        """Whether the file ends before what it states, or its times contradict the stated duration. It can be read."""
        return self._index.cut

    @cached_property
    def pts(self) -> tuple[float, ...]:
        """Presentation time of each frame in seconds from the first frame, ascending."""
        return tuple(float(self._seconds(ticks)) for ticks in self._index.pts)

    @property
    def duration(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        return float(self._seconds(self._index.end))

    @property
    def fps(self) -> float:
        """Average number of frames per second. A gap longer than all else is left out: one timestamp may be wrong."""
        return self._index.fps

    def frames_at(self, indices: Iterable[int]) -> Tensor:
        """Decodes frames by number, in one pass over the file.

        Args:
            indices: numbers from 0 to `num_frames - 1`, in any order, with or without repeats.

        Returns:
            RGB uint8 (len(indices), H, W, 3), in the order of `indices`.

        Raises:
            IndexError: a number is out of range.
            VideoReadError: a packet that is needed is damaged, or the result exceeds `Limits.max_bytes`.
        """
        wanted = self._check_indices(indices)
        self._check_memory(len(wanted), 1)
        frames = np.empty((len(wanted), self.height, self.width, 3), np.uint8)
        places: dict[int, list[int]] = {}
        for place, number in enumerate(wanted):
            places.setdefault(number, []).append(place)
        if wanted:
            for number, image in self._decode(sorted(places)):
                for place in places[number]:
                    frames[place] = image
        return torch.from_numpy(frames)

    def indices_at(self, seconds: Iterable[float]) -> list[int]:
        """Returns for each time the number of the frame on screen: the last one that starts at or before it.

        Times are in seconds from the first frame. Earlier times give the first frame, later times the last.
        """
        return [max(0, bisect_right(self.pts, _not_nan(second) + _SAME_TIME) - 1) for second in seconds]

    def get_clip(self, start_sec: float | Fraction, end_sec: float | Fraction) -> dict[str, Tensor | None]:
        """Decodes the frames that start in [start_sec, end_sec). Returns them in PyTorchVideo's form.

        Returns:
            {"video": float32 (C, T, H, W) in [0, 255], or None if no frame starts in this time; "audio": None}

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
        """Closes the file if it is open. Later requests open it again for as long as they need it."""
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
            f"{self.duration:.2f} s, {self.codec})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": None}

    def _decode(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        source, self._source = self._source, None
        return decode_frames(source or self._open(), self._index, numbers)

    def _open(self) -> Source:
        return open_source(self.path, self._limits, self._index.stream, self._file)

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
        """Number of frames that start before a time."""
        return bisect_left(self.pts, _not_nan(float(seconds)) - _SAME_TIME)

    def _check_indices(self, indices: Iterable[int]) -> list[int]:
        """Returns `indices` as Python integers; raises if one is out of range."""
        values: Iterable[Any] = indices.tolist() if isinstance(indices, Tensor | np.ndarray) else indices
        numbers = [operator.index(value) for value in values]
        for number in numbers:
            if not 0 <= number < self.num_frames:
                raise IndexError(
                    f"{self.name} has {self.num_frames} frames; index must be 0 to {self.num_frames - 1}, got {number}"
                )
        return numbers


def _not_nan(seconds: float) -> float:
    if math.isnan(seconds):
        raise ValueError(f"a time in seconds must be a number, got {seconds}")
    return seconds


class VideoPathHandler:
    """Lets a PyTorchVideo dataset read its files with `open_video`.

        dataset = pytorchvideo.data.LabeledVideoDataset(paths, clip_sampler, decode_audio=False)
        dataset.video_path_handler = VideoPathHandler()

    If a video cannot be read, PyTorchVideo tries the next one.
    """

    def __init__(self, *, limits: Limits | None = None) -> None:
        from pytorchvideo.data.video import Video

        Video.register(EncodedVideo)  # makes isinstance(video, Video) true
        self.limits = limits

    def video_from_path(
        self, filepath: str, decode_audio: bool = False, decoder: str = "pyav", fps: int = 30
    ) -> EncodedVideo:
        """Opens `filepath`. The other arguments belong to PyTorchVideo's interface and are ignored."""
        return open_video(filepath, limits=self.limits)
