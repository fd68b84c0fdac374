"""The error that video reading raises, and the limits on a video and a request."""

import errno
import os
import time
from dataclasses import dataclass


class VideoReadError(RuntimeError):
    """A video cannot be read. The message names the file and the reason.

    Attributes:
        path: the path as passed to the reader.
        reason: what is wrong and, where possible, what to do.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)  # pickling calls the class with these arguments
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{os.fspath(self.path)}: {self.reason}"


class MissingVideoError(VideoReadError, FileNotFoundError):
    """There is no such file."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.errno = errno.ENOENT


class DamageError(VideoReadError):
    """The decoder rejects a packet or marks a frame as damaged."""


@dataclass(frozen=True)
class Limits:
    """The largest video and the largest request that the reader accepts.

    The defaults protect a worker from single extreme files. Raise them for larger videos.

    Attributes:
        max_pixels: height x width of a frame. The default allows 4K and 360-degree video in 5.7K. Some files of 100 kB
            decode to 8K, which takes 100 MB a frame.
        max_duration: length of the video in seconds.
        max_bytes: size of the frames that one call returns.
        max_decode_time: seconds for one pass over the file; None for no limit. It is checked before each packet, so
            decoding one frame may take longer.
    """

    max_pixels: int = 4096 * 4096
    max_duration: float = 6 * 3600.0
    max_bytes: int = 4 * 1024**3
    max_decode_time: float | None = None


class Deadline:
    """The time limit of one pass over a file; the pass starts when this object is made."""

    def __init__(self, path: str, limits: Limits) -> None:
        self._path, self._limit = path, limits.max_decode_time
        self._end = time.monotonic() + (self._limit or 0.0)

    def check(self) -> None:
        """Raises `VideoReadError` after the deadline."""
        if self._limit is not None and time.monotonic() > self._end:
            raise VideoReadError(self._path, f"takes longer than the {self._limit:g} s of Limits.max_decode_time")
