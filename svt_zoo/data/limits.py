"""What a video may be: the limits that a reader enforces and the one error that it raises."""

import os
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
    """

    max_pixels: int = 8192 * 4352
    max_duration: float = 6 * 3600.0
    max_bytes: int = 4 * 1024**3
