"""What a video may be: the limits that a reader enforces and the one error that it raises."""

import os
import time
from dataclasses import dataclass


class VideoReadError(RuntimeError):
    """A video that cannot be read: says which file, what is wrong and, where there is one, the way out.

    Attributes:
        path: the file, as it was given.
        reason: what is wrong with it.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)  # both, so that the error survives pickling on its way out of a worker
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{os.fspath(self.path)}: {self.reason}"


@dataclass(frozen=True)
class Limits:
    """The largest video that is opened and the largest request that is answered.

    They keep one odd file of a crawl from taking a worker down; raise them where larger videos are meant.

    Attributes:
        max_pixels: of one frame (height x width). The default holds an 8K frame.
        max_duration: of the video, in seconds.
        max_bytes: of the frames that one call returns.
        max_decode_time: of one pass over the file, in seconds; None is no limit. It is looked at between two packets,
            so one frame may still take any time.
    """

    max_pixels: int = 8192 * 4352
    max_duration: float = 6 * 3600.0
    max_bytes: int = 4 * 1024**3
    max_decode_time: float | None = None


class Deadline:
    """When a pass over a file that starts now has to have ended."""

    def __init__(self, path: str, limits: Limits) -> None:
        self._path, self._limit = path, limits.max_decode_time
        self._end = time.monotonic() + (self._limit or 0.0)

    def check(self) -> None:
        """Say that it is over.

        Raises:
            VideoReadError: it is.
        """
        if self._limit is not None and time.monotonic() > self._end:
            raise VideoReadError(self._path, f"takes longer than the {self._limit:g} s of Limits.max_decode_time")
