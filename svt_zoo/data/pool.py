"""Long jobs over many videos: parallel, with progress, able to continue a run that was stopped."""

import ctypes
import json
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import forkserver, get_all_start_methods, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch.utils.data import get_worker_info
from tqdm import tqdm

from ..files import DISK_FULL, atomic
from ..video import VideoReadError

_log = logging.getLogger(__name__)
_LOG_EVERY = 10.0  # seconds between two progress lines if there is no terminal
_MAX_WORKERS = 8  # default limit; ten views of a video take 0.1 s on one core
_FIRST = 32  # a run ends if this many first videos all fail for the same reason

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class TaskResult(Generic[T, R]):
    """The outcome of a task: its result or, if `result` is None, the reason of the failure."""

    task: T
    result: R | None
    reason: str = ""
    disk_full: bool = False  # so that the other tasks would fail, too


def run_tasks(function: Callable[[T], R], tasks: Iterable[T], *, workers: int) -> Iterator[TaskResult[T, R]]:
    """Runs `function(task)` for each task in `workers` processes (0: in this process); yields results as they come.

    `function` is a module-level function, or a `functools.partial` of one. If a task raises or its process dies, the
    failure is reported and the other tasks continue. The processes end when the caller ends, for any reason.

    Raises:
        OSError: a task found the disk full.
    """
    for result in _run_tasks(function, tasks, workers=workers):
        if result.disk_full:
            raise OSError(f"{result.reason}; free space there, then run the same command again")
        yield result


def _run_tasks(function: Callable[[T], R], tasks: Iterable[T], *, workers: int) -> Iterator[TaskResult[T, R]]:
    if workers < 0:
        raise ValueError(f"workers must be >= 0 (0 works in this process), got {workers}")
    waiting = iter(tasks)
    if workers == 0:
        yield from (_attempt(function, task) for task in waiting)
        return
    busy: dict[Connection, tuple[T, BaseProcess]] = {}
    idle: list[tuple[Connection, BaseProcess]] = []
    try:
        while True:
            for task in islice(waiting, workers - len(busy)):
                connection, process = idle.pop() if idle else _start_process(function)
                with suppress(BrokenPipeError):  # the process is dead, which is reported below
                    connection.send(task)
                busy[connection] = task, process
            if not busy:
                return
            for ready in wait(list(busy)):
                connection = cast(Connection, ready)  # wait() also takes sockets
                task, process = busy.pop(connection)
                try:
                    result: TaskResult[T, R] = connection.recv()
                    idle.append((connection, process))
                except (EOFError, OSError):
                    result = TaskResult(task, None, _cause_of_death(process))
                yield result
    finally:
        for _, process in [*busy.values(), *idle]:
            process.kill()


def _start_process(function: Callable[[T], R]) -> tuple[Connection, BaseProcess]:
    """Starts a process that runs one task after another; returns the parent's end of the pipe to it."""
    # A plain fork would copy locks that other threads hold. Windows has only spawn.
    forks = "forkserver" in get_all_start_methods()
    context: Any = get_context("forkserver" if forks else "spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs), daemon=True)
    if forks:
        context.set_forkserver_preload([f"{__package__.rpartition('.')[0]}.video"])
        _start_server()
    process.start()
    theirs.close()
    return ours, process


def _cause_of_death(process: BaseProcess) -> str:
    process.join()
    code = process.exitcode or 0
    cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"the process that worked on it ended with {cause}; was there enough memory?"


def _start_server() -> None:
    """Starts the fork server of the workers, unless it runs. It ignores Ctrl-C, which the parent handles."""
    resource_tracker.ensure_running()  # if it started below, it would unblock Ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(function: Callable[[T], R], tasks: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    with suppress(EOFError, OSError):  # the parent has closed the pipe
        while True:
            tasks.send(_attempt(function, tasks.recv()))


def _attempt(function: Callable[[T], R], task: T) -> TaskResult[T, R]:
    try:
        return TaskResult(task, function(task))
    except Exception as error:  # one bad file must not stop the job
        _log.debug("%s", task, exc_info=True)
        return TaskResult(task, None, reason_of(error), getattr(error, "errno", None) in DISK_FULL)


def _end_with_parent() -> None:
    """Waits in a thread until the parent process has ended, for any reason, then ends this process."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def number_of_workers(requested: int | None) -> int:
    """The number of processes that read videos: as requested, or one per core available to this process, at most 8."""
    if requested is not None:
        return requested
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # those of torchrun share the cores
    return min(_MAX_WORKERS, max(1, cores // processes))


def start_worker(worker: int) -> None:
    """Sets up a worker of a DataLoader: one thread, because parallel workers use all cores, and the parent's lifetime.

    A cluster that stops a job signals all its processes, but the parent still needs its workers to save the run. If the
    parent is killed, its workers must end too; PyTorch does not ensure this under forkserver.
    """
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
        threading.Thread(target=_obey_parent, daemon=True).start()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _keep_memory()
    if info := get_worker_info():
        share_with_few_files(info.num_workers)


def _keep_memory() -> None:
    """Lets glibc keep up to 128 MB of freed memory: each batch would get it from the system again, page by page."""
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            mallopt(parameter, 128 << 20) or mallopt(parameter, 32 << 20)  # 32 MB: the limit of older releases


def share_with_few_files(num_workers: int) -> bool:
    """Whether this process may open few files; then workers share batches through the file system.

    Otherwise each view of a prefetched batch is an open file in the parent, which could wait forever for the next one.
    """
    try:
        import resource
    except ImportError:  # Windows
        return False
    few = 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 64 * (num_workers + 1)
    if few:
        torch.multiprocessing.set_sharing_strategy("file_system")
    return few


def _obey_parent() -> None:
    """Ends this worker if the parent terminates it; ignores the same signal from other processes."""
    parent = parent_process()
    while parent is not None:
        info = signal.sigwaitinfo({signal.SIGTERM, signal.SIGUSR1})
        if info.si_signo == signal.SIGTERM and info.si_pid == parent.pid:
            os._exit(0)


def progress(
    results: Iterable[TaskResult[T, R]], total: int, *, is_good: Callable[[R], bool] = lambda result: True
) -> Iterator[TaskResult[T, R]]:
    """Yields the results and shows the progress: a bar on a terminal, else a log line every 10 seconds."""
    start = last_line = time.monotonic()
    failed = 0
    with tqdm(total=total, unit="video", disable=None, smoothing=0) as bar:
        for count, one in enumerate(results, start=1):
            failed += one.result is None or not is_good(one.result)
            bar.update()
            bar.set_postfix(failed=failed, refresh=False)
            now = time.monotonic()
            if bar.disable and (now - last_line > _LOG_EVERY or count == total):
                left = (now - start) / count * (total - count)
                percent = 100 * count / total
                _log.info("%d of %d videos (%d%%), %d failed, %.0f s left", count, total, percent, failed, left)
                last_line = now
            yield one


class CommonFailure(ValueError):
    """The first videos of a run all fail for the same reason; the message states how many, and the reason."""


class Outcomes:
    """Ends a run of `total` videos if the first 32 (or all) fail for the same reason: then the setup is wrong.

    `was_read`: an earlier attempt of the same run has read a video; then nothing is counted.
    """

    def __init__(self, total: int, *, was_read: bool = False) -> None:
        self.limit = min(_FIRST, total)
        self.count = 0
        self._undecided = not was_read
        self._path, self._reason = "", ""  # of the first failure

    def add(self, path: str, reason: str | None) -> None:
        """Counts one video; `reason` states why it failed, or is None if it was read. Raises CommonFailure."""
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
        """Counts several videos, given as (path, reason)."""
        for path, reason in failures:
            self.add(path, reason)

    def stop(self) -> None:
        """Raises CommonFailure if all videos so far have failed for one reason."""
        if self._undecided and self.count:
            videos = f"the first {self.count} videos fail, all" if self.count > 1 else "the first video fails"
            advice = (
                "Check the paths of the list, and their folder: data.root=FOLDER in a recipe, --root FOLDER elsewhere"
            )
            if "no such file" not in self._reason:
                advice = "Check that it plays elsewhere. If it does, check the installed packages (pip check)"
            raise CommonFailure(
                f"{videos} for this reason: {' '.join(self._reason.split())}. The first is {self._path}. {advice}. "
                "Then run the same command again"
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


class Journal:
    """A file with one JSON line per finished task; it stays readable if the run is killed at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, parse: Callable[[Any], T]) -> list[T]:
        """Returns `parse(entry)` of each line; skips what it cannot read, such as a line cut short by a kill."""
        entries = []
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                entries.append(parse(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError):
                _log.warning("%s: skipped a line that is not an entry: %.80r", self.path, line)
        return entries

    def start(self, entries: Iterable[dict[str, Any]]) -> None:
        """Replaces the content with `entries`."""
        with atomic(self.path) as part:
            part.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")

    def append(self, entry: dict[str, Any]) -> None:
        """Adds one line and flushes it, so that it survives the end of this process."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def fingerprint(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Size in bytes and modification time of a file or of all files in a folder; zeros for URLs and missing files."""
    files = os.scandir(path) if os.path.isdir(path) else [path]
    size = changed = 0
    for file in files:
        with suppress(OSError, ValueError):
            status = os.stat(file)
            size, changed = size + status.st_size, max(changed, status.st_mtime_ns)
    return size, changed
