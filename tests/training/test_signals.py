"""Being asked to stop, outside of the training loop."""

import os
import signal
import threading

import pytest

from svt_zoo.training.signals import ASKED_TO_STOP, STOP_SIGNALS, exit_when_asked, on_stop_signal


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_outside_of_the_loop_a_request_to_stop_ends_the_process_with_75(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, exit_when_asked():
        os.kill(os.getpid(), number)
    assert ended.value.code == ASKED_TO_STOP == 75
    assert signal.getsignal(number) == before


def test_inside_the_loop_it_is_only_noted() -> None:
    stop = threading.Event()
    with exit_when_asked(), on_stop_signal(stop.set):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()
