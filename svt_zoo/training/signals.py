"""Requests to stop: SIGTERM or SIGUSR1 of a scheduler."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

ASKED_TO_STOP = 75  # exit status of a run that saved itself and can be resumed: EX_TEMPFAIL of sysexits.h
STOP_SIGNALS = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))  # not on Windows


@contextmanager
def on_stop_signal(handle: Callable[[], object]) -> Iterator[None]:
    """Context in which SIGTERM and SIGUSR1 call `handle`; without effect outside of the main thread."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # Python allows handlers only there
    signals = STOP_SIGNALS if in_main_thread else ()
    before = {number: signal.signal(number, lambda *_: handle()) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_when_asked() -> AbstractContextManager[None]:
    """Context in which SIGTERM and SIGUSR1 end the process with status 75.

    It is for the time before and after the loop, when there is nothing to save. The loop handles the signals itself.
    """
    return on_stop_signal(lambda: sys.exit(ASKED_TO_STOP))
