"""Long jobs over many videos: parallel, with progress, and able to continue a run that was stopped."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import forkserver, get_all_start_methods, get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Generic, TypeVar

import torch
from tqdm import tqdm

from ..files import atomic
from .failures import reason_of
from .workers import end_with_parent

_log = logging.getLogger(__name__)
_LOG_EVERY = 10.0  # seconds between two progress lines if there is no terminal

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Done(Generic[T, R]):
    """The outcome of a task: its result or, if `result` is None, the reason of the failure."""

    task: T
    result: R | None
    reason: str = ""


def run(function: Callable[[T], R], tasks: Iterable[T], *, workers: int) -> Iterator[Done[T, R]]:
    """Runs `function(task)` for each task in `workers` processes (0: in this process); yields tasks as they finish.

    If a task raises or its process dies (a crash, no memory left), the failure is reported and the other tasks
    continue. The processes end when the caller ends, for any reason.

    Args:
        function: a module-level function, or a `functools.partial` of one.
        tasks: arguments of `function`; the next one is taken when a process becomes free.
        workers: number of processes.

    Raises:
        ValueError: `workers` is negative.
    """
    if workers < 0:
        raise ValueError(f"workers must be >= 0 (0 works in this process), got {workers}")
    waiting = iter(tasks)
    if workers == 0:
        for task in waiting:
            yield _attempt(function, task)
        return
    busy: dict[Connection, _Worker[T, R]] = {}
    try:
        for task in islice(waiting, workers):
            worker = _Worker(function)
            busy[worker.start(task)] = worker
        while busy:
            for connection in wait(list(busy)):
                worker = busy.pop(connection)  # type: ignore[call-overload]  # wait() also takes sockets
                done = worker.finish()
                if done.result is None and not worker.alive:
                    worker = _Worker(function)
                for task in islice(waiting, 1):
                    busy[worker.start(task)] = worker
                yield done
    finally:
        for worker in busy.values():
            worker.process.kill()


class _Worker(Generic[T, R]):
    """A process that runs one task after another, and the parent's end of the pipe to it."""

    def __init__(self, function: Callable[[T], R]) -> None:
        # A plain fork would copy locks that other threads hold. Windows has only spawn.
        forks = "forkserver" in get_all_start_methods()
        context: Any = get_context("forkserver" if forks else "spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(function, theirs), daemon=True)
        if forks:
            context.set_forkserver_preload([f"{__package__}.video"])
            _start_server()
        self.process.start()
        theirs.close()
        self.alive = True

    def start(self, task: T) -> Connection:
        self.task = task
        with suppress(BrokenPipeError):  # the process is dead; `finish` reports it
            self.connection.send(task)
        return self.connection

    def finish(self) -> Done[T, R]:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.alive = False
            self.process.join()
            code = self.process.exitcode or 0
            cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Done(self.task, None, f"the process that worked on it ended with {cause}; was there enough memory?")


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
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    while True:
        try:
            tasks.send(_attempt(function, tasks.recv()))
        except (EOFError, OSError):  # the parent has closed the pipe
            return


def _attempt(function: Callable[[T], R], task: T) -> Done[T, R]:
    try:
        return Done(task, function(task))
    except Exception as error:  # one bad file must not stop the job
        _log.debug("%s", task, exc_info=True)
        return Done(task, None, reason_of(error))


def progress(
    done: Iterable[Done[T, R]], total: int, *, is_good: Callable[[R], bool] = lambda result: True
) -> Iterator[Done[T, R]]:
    """Yields the finished tasks and shows the progress: a bar on a terminal, else a log line every 10 seconds.

    Tasks without a result, or with a result that is not good, count as failed.
    """
    bar = tqdm(total=total, unit="video", disable=None, smoothing=0)
    start = shown = time.monotonic()
    failed = count = 0
    with bar:
        for one in done:
            count += 1
            failed += one.result is None or not is_good(one.result)
            bar.update()
            bar.set_postfix(failed=failed, refresh=False)
            now = time.monotonic()
            if bar.disable and (now - shown > _LOG_EVERY or count == total):
                left = (now - start) / count * (total - count)
                _log.info(
                    "%d of %d videos (%d%%), %d failed, %.0f s left", count, total, 100 * count / total, failed, left
                )
                shown = now
            yield one


class Journal:
    """A file with one JSON line per finished task; it stays readable if the run is killed at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """Returns the entries; skips a last line that is incomplete after a kill."""
        if not self.path.exists():
            return []
        entries = []
        for line in self.path.read_bytes().splitlines():
            try:
                entries.append(json.loads(line))
            except ValueError:
                _log.debug("%s: skipped an unfinished line", self.path)
        return entries

    def start(self, entries: Iterable[dict[str, Any]]) -> None:
        """Replaces the content with `entries`."""
        with atomic(self.path) as part:
            part.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")

    def append(self, entry: dict[str, Any]) -> None:
        """Adds one line and flushes it, so that it survives the end of this process."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def fingerprint(path: str) -> tuple[int, int]:
    """Size in bytes and modification time of a file, or of all files in a folder, to detect changes.

    Zeros for URLs and for missing files.
    """
    files = [entry.path for entry in os.scandir(path)] if os.path.isdir(path) else [path]
    size = changed = 0
    for file in files:
        with suppress(OSError, ValueError):
            status = os.stat(file)
            size, changed = size + status.st_size, max(changed, status.st_mtime_ns)
    return size, changed


def output_file(path: str | os.PathLike[str], *suffixes: str) -> Path:
    """Checks before a long job that `path` can be written; makes its folder and returns the path.

    Raises:
        ValueError: the path has another suffix, is a folder, or is not writable.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"{path} is a folder; name a {' or '.join(suffixes)} file in it")
    if target.suffix not in suffixes:
        raise ValueError(f"{path}: the file to write ends in {' or '.join(suffixes)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=target.parent):
            return target
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}; name another place") from error
