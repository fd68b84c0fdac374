"""What a process that reads videos for another one owes it: one thread, and an end when the other one ends."""

import os
import signal
import threading
from multiprocessing import parent_process

import torch

_MOST = 8  # by default; ten views of a video take a core a tenth of a second


def number_of_workers(asked: int | None) -> int:
    """The processes that read videos: those asked for, or one for each core that this process may take, at most 8."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))  # torchrun's processes share them


def start_worker(worker: int) -> None:
    """Compute in one thread, since parallel workers fill the cores, and end with the parent, no sooner or later.

    A cluster that wants its machine back signals all processes of a job; the parent answers by saving the run, for
    which it still needs its workers. And one that is killed must leave none behind: PyTorch sees to that itself, but
    not under forkserver, where the parent of a worker is the server.
    """
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
        threading.Thread(target=_obey_parent, daemon=True).start()
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _obey_parent() -> None:
    """End when the parent terminates this worker; the same signal from anybody else is for the parent to answer."""
    parent = parent_process()
    while parent is not None:
        info = signal.sigwaitinfo({signal.SIGTERM, signal.SIGUSR1})
        if info.si_signo == signal.SIGTERM and info.si_pid == parent.pid:
            os._exit(0)


def end_with_parent() -> None:
    """Wait until the process that started this one is gone, however it ended, then end this one: for a thread."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
