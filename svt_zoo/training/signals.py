"""Being asked to stop: a scheduler's SIGTERM or SIGUSR1 becomes a flag that the loop looks at between two steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

ASKED_TO_STOP = 75  # exit status of a run that saved itself and wants to be started again: EX_TEMPFAIL of sysexits.h


class StopRequest:
    """While it is entered, SIGTERM and SIGUSR1 set `asked` and do nothing else."""

    signals = (signal.SIGTERM, signal.SIGUSR1)

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
