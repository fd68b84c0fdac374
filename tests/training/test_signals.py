"""Being asked to stop, outside of the training loop."""

import os
import signal

import pytest

from svt_zoo.training.signals import ASKED_TO_STOP, StopRequest, exit_when_asked


@pytest.mark.parametrize("number", StopRequest.signals)
def test_outside_of_the_loop_a_request_to_stop_ends_the_process_with_75(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, exit_when_asked():
        os.kill(os.getpid(), number)
    assert ended.value.code == ASKED_TO_STOP == 75
    assert signal.getsignal(number) == before


def test_inside_the_loop_it_is_only_noted() -> None:
    with exit_when_asked(), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
