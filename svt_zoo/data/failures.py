"""One rule for all runs: if the first videos all fail for the same reason, the run ends, since no video is at fault."""

import os
import re
from collections.abc import Iterable

from ..video import VideoReadError

FIRST = 32  # so many videos that fail alike, one after the other from the start, end a run


class CommonFailure(ValueError):
    """The first videos of a run all fail for the same reason; the message states how many, and the reason."""


class Outcomes:
    """Counts what became of the videos of a run until one is read or two fail for different reasons.

    Args:
        total: videos of the list. A shorter list than `FIRST` must fail as a whole.
        was_read: whether an earlier attempt of the same run has read a video, so that nothing needs counting.
    """

    def __init__(self, total: int, *, was_read: bool = False) -> None:
        self.limit = min(FIRST, total)
        self.count = 0
        self._undecided = not was_read
        self._path, self._reason = "", ""  # of the first failure

    def add(self, path: str, reason: str | None) -> None:
        """Count one video: why it failed, or None if it was read.

        Raises:
            CommonFailure: as many videos as the rule asks for have failed, all for this reason.
        """
        if not self._undecided:
            return
        if self.count == 0:
            self._path, self._reason = path, reason or ""
        if reason is None or _kind(path, reason) != _kind(self._path, self._reason):
            self._undecided = False
            return
        self.count += 1
        if self.count >= self.limit:
            self.stop()

    def add_all(self, failures: Iterable[tuple[str, str | None]]) -> None:
        """Count several videos, each by its path and its reason. Raises as `add`."""
        for path, reason in failures:
            self.add(path, reason)

    def stop(self) -> None:
        """End the run now, before the rule's number of videos, if all videos so far have failed for one reason.

        Raises:
            CommonFailure: they have.
        """
        if self._undecided and self.count:
            videos = f"the first {self.count} videos fail, all" if self.count > 1 else "the first video fails"
            raise CommonFailure(
                f"{videos} for this reason: {' '.join(self._reason.split())}. The first is {self._path}. Check that it "
                "plays elsewhere and that the paths of the list are right; if both are, check the installed packages "
                "(pip check). Then run the same command again"
            )


def reason_of(error: Exception) -> str:
    """Why reading a video failed: the reason of a `VideoReadError`, else the type and the message of the error."""
    return error.reason if isinstance(error, VideoReadError) else f"{type(error).__name__}: {error}"


def _kind(path: str, reason: str) -> str:
    """The reason without what differs from video to video: paths and numbers."""
    for name in (path, os.path.basename(path)):
        if "/" in name or "." in name:  # not a plain word, which the reason may hold as well
            reason = reason.replace(name, "")
    return re.sub(r"0x[0-9a-fA-F]+|\d+(\.\d+)?", "#", re.sub(r"\S*/\S*", "", reason))
