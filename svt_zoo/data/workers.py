"""Setup of worker processes that read videos: they use one thread and end with their parent."""

import os
import signal
import threading
from multiprocessing import parent_process

import torch

_MOST = 8  # default limit; ten views of a video take 0.1 s on one core


def number_of_workers(asked: int | None) -> int:
    """The number of processes that read videos: as requested, or one per core available to this process, at most 8."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))  # shared by torchrun's processes


def start_worker(worker: int) -> None:
    """Sets up a worker: one thread, because parallel workers use all cores, and the same lifetime as the parent.

    A cluster that stops a job signals all its processes. The parent then saves the run and still needs its workers. If
    the parent is killed, its workers must end too. PyTorch ensures this, except under forkserver, where the server is
    the parent of the workers.
    """
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
        threading.Thread(target=_obey_parent, daemon=True).start()
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _obey_parent() -> None:
    """Ends this worker if the parent terminates it; ignores the same signal from other processes."""
    parent = parent_process()
    while parent is not None:
        info = signal.sigwaitinfo({signal.SIGTERM, signal.SIGUSR1})
        if info.si_signo == signal.SIGTERM and info.si_pid == parent.pid:
            os._exit(0)


def end_with_parent() -> None:
    """Waits until the parent process has ended, for any reason, then ends this process. Runs in a thread."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
