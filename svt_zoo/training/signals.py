"""Being asked to stop: a scheduler's SIGTERM or SIGUSR1 becomes a flag that the loop looks at between two steps."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

ASKED_TO_STOP = 75  # exit status of a run that saved itself and wants to be started again: EX_TEMPFAIL of sysexits.h


class StopRequest:
    """While it is entered, SIGTERM and SIGUSR1 set `asked` and do nothing else."""

    signals = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))  # not on Windows

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = {number: signal.signal(number, self._ask) for number in self.signals}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


@contextmanager
def exit_when_asked() -> Iterator[None]:
    """While it is entered, SIGTERM and SIGUSR1 end the process with status 75: for a run outside of the loop.

    Before the loop there is nothing to save, behind it everything is saved; inside, `StopRequest` takes over.
    """
    before = {number: signal.signal(number, _exit) for number in StopRequest.signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(ASKED_TO_STOP)
