"""The lock of a folder: one command at a time writes into it."""

import json
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .files import read_facts, write_whole

_WAIT = 6.0  # seconds: the workers of a killed process inherited its lock, and notice its end after at most 5
_EXPIRES = 600  # seconds without a sign of life of another machine


class FolderInUse(RuntimeError):
    """Another command writes into a folder; the message names its process, its machine and its start."""


@contextmanager
def hold(folder: Path, name: str = "running") -> Iterator[None]:
    """Context in which no other process holds `name` in `folder`, which is created.

    A file lock holds for the processes of this machine, and ends with the process. For other machines the file
    `<name>.json` counts, for 10 minutes after its last change: this process touches it every minute. It does not count
    for the same Slurm job that was queued again. A folder that is still empty at the end is removed.

    Raises:
        FolderInUse: another process holds it.
        OSError: the folder cannot be written to.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock, note = FileLock(folder / f".{name.lstrip('.')}.lock", is_singleton=False), folder / f"{name}.json"
    try:
        with suppress(NotImplementedError):  # a file system without locks
            lock.acquire(timeout=0.2 if _is_alive(read_facts(note)) else _WAIT)
        os.utime(lock.lock_file)  # now, by the clock of the file system
        idle = os.path.getmtime(lock.lock_file) - note.stat().st_mtime if note.exists() else math.inf
        holder = read_facts(note)
        if idle < _EXPIRES and holder.get("machine") != _machine() and not _is_restart_of(holder):
            raise FolderInUse(
                f"{_in_use(note)}, {idle:.0f} s ago at the latest; if it has ended, delete {note.name}, or wait until "
                f"{_EXPIRES} s have passed"
            )
    except Timeout as error:
        raise FolderInUse(f"{_in_use(note)}; wait for its end, or name another folder") from error
    except BaseException:
        lock.release()
        raise
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    process = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "machine": _machine(), **_job()}
    write_whole(note, json.dumps(process).encode())
    ended = threading.Event()
    threading.Thread(target=_touch_regularly, args=(note, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        note.unlink(missing_ok=True)
        if is_new and folder.is_dir() and os.listdir(folder) == [Path(lock.lock_file).name]:
            with suppress(OSError):  # another process may have opened it now
                os.unlink(lock.lock_file)
                folder.rmdir()
        lock.release()


def _in_use(note: Path) -> str:
    holder = read_facts(note)
    if not holder:
        return f"{note.parent} is in use by another process"
    return f"{note.parent} is in use by process {holder['pid']} on {holder['host']} since {holder['since']}"


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether the process runs on this machine; False if this cannot be known."""
    if os.name != "posix" or holder.get("machine") != _machine():
        return False
    try:
        os.kill(holder["pid"], 0)
    except (OSError, KeyError, TypeError):
        return False
    return True


def _job() -> dict[str, Any]:
    """The Slurm job of this process, and how often it was queued again."""
    job, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT", "0")
    return {"job": job, "restarts": int(restarts)} if job and restarts.isdecimal() else {}


def _is_restart_of(holder: dict[str, Any]) -> bool:
    ours = _job()
    return bool(ours) and ours["job"] == holder.get("job") and ours["restarts"] > holder.get("restarts", 0)


def _touch_regularly(note: Path, ended: threading.Event) -> None:
    while not ended.wait(60):
        with suppress(OSError):
            os.utime(note)


def _machine() -> str:
    """An identity of the running kernel, which containers of one machine share."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    return boot_id.read_text().strip() if boot_id.exists() else socket.gethostname()
