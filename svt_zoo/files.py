"""Write files and folders atomically, and hash them."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Yield a hidden path beside `target` to write a file or folder to. It replaces `target` at the end of the block.

    After an error it is removed. The next call removes what a killed process left. Two processes must not write
    the same target at the same time; `write_whole` allows that.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".part.{target.name}")  # the suffix stays: some writers choose the format by it
    remove(part)
    try:
        yield part
        if target.is_dir():
            remove(target)  # a folder cannot replace another one
        part.replace(target)
    finally:
        remove(part)


def write_whole(target: Path, content: bytes) -> None:
    """Write `content` to a file that is complete or absent at any time. Its folder is created."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".part.{os.getpid()}.{target.name}")
    try:
        part.write_bytes(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def sha256_of(*paths: str | os.PathLike[str]) -> str:
    """The sha256 of one file, or of several files joined in this order, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
