"""Ends a run if its first videos all fail for the same reason, because then the setup is wrong, not the videos."""

import os
import re
from collections.abc import Iterable

from ..video import VideoReadError

FIRST = 32  # a run ends if this many first videos all fail for the same reason


class CommonFailure(ValueError):
    """The first videos of a run all fail for the same reason; the message states how many, and the reason."""


class Outcomes:
    """Counts failed videos of a run until one is read or two fail for different reasons.

    Args:
        total: number of videos in the list. In a list shorter than `FIRST`, all videos must fail.
        was_read: whether an earlier attempt of the same run has read a video; then nothing is counted.
    """

    def __init__(self, total: int, *, was_read: bool = False) -> None:
        self.limit = min(FIRST, total)
        self.count = 0
        self._undecided = not was_read
        self._path, self._reason = "", ""  # path and reason of the first failure

    def add(self, path: str, reason: str | None) -> None:
        """Counts one video; `reason` states why it failed, or is None if it was read.

        Raises:
            CommonFailure: the first `FIRST` videos, or all videos of a shorter list, have failed for this reason.
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
        """Counts several videos, given as (path, reason). Raises the same error as `add`."""
        for path, reason in failures:
            self.add(path, reason)

    def stop(self) -> None:
        """Ends the run early if all videos so far have failed for one reason.

        Raises:
            CommonFailure: all videos so far have failed for one reason.
        """
        if self._undecided and self.count:
            videos = f"the first {self.count} videos fail, all" if self.count > 1 else "the first video fails"
            raise CommonFailure(
                f"{videos} for this reason: {' '.join(self._reason.split())}. The first is {self._path}. Check that it "
                "plays elsewhere and that the paths of the list are right; if both are, check the installed packages "
                "(pip check). Then run the same command again"
            )


def reason_of(error: Exception) -> str:
    """The reason of a failure: that of a `VideoReadError`, else the type and message of the error."""
    return error.reason if isinstance(error, VideoReadError) else f"{type(error).__name__}: {error}"


def _kind(path: str, reason: str) -> str:
    """The reason without paths and numbers, which differ between videos."""
    for name in (path, os.path.basename(path)):
        if "/" in name or "." in name:  # a plain word may be part of the reason itself
            reason = reason.replace(name, "")
    return re.sub(r"0x[0-9a-fA-F]+|\d+(\.\d+)?", "#", re.sub(r"\S*/\S*", "", reason))
