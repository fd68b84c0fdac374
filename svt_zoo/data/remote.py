"""Fetches files from URLs (`s3://`, `hf://`, `https://`, ...) once into a local cache."""

import hashlib
import os
import posixpath
import shutil
import urllib.request
from pathlib import Path

import torch
from filelock import FileLock

from ..files import atomic

_TIMEOUT = 30.0  # seconds without data


def is_url(path: str) -> bool:
    """Whether `path` has a URL scheme, as in `s3://bucket/a.mp4`."""
    return "://" in path


def local_path(path: str, *, cache_dir: str | os.PathLike[str] | None = None) -> str:
    """The path of the file on this machine; a URL is fetched once and then read from the cache.

    Supports all schemes of fsspec and all handlers registered on iopath's `g_pathmgr`. Fetched files are kept in
    `cache_dir`, by default `torch.hub.get_dir()/videos`. Workers that need the same file wait for the worker that
    fetches it. A file appears only when it is complete.

    Raises:
        OSError: the file cannot be fetched; the message names the URL and the cause.
    """
    if not is_url(path):
        return path
    folder = Path(cache_dir) if cache_dir is not None else Path(torch.hub.get_dir()) / "videos"
    # Keep the suffix: FFmpeg recognizes some containers by it.
    name = hashlib.sha256(path.encode()).hexdigest()[:32] + posixpath.splitext(path.split("?")[0])[1]
    target = folder / name
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            if not target.exists():
                try:
                    with atomic(target) as part:
                        _fetch(path, part)
                except Exception as error:  # file systems raise different error types
                    raise OSError(f"{path} cannot be fetched: {type(error).__name__}: {error}") from error
    return str(target)


def list_remote(url: str) -> list[str] | None:
    """Paths of all files below the folder `url`, relative to it and sorted; None if `url` is not a folder.

    Raises:
        OSError: the file system cannot be reached.
    """
    import fsspec

    try:
        filesystem, root = fsspec.url_to_fs(url)
        if not filesystem.isdir(root):
            return None
        found = [str(name) for name in filesystem.find(root)]
    except Exception as error:
        raise OSError(f"{url} cannot be listed: {type(error).__name__}: {error}") from error
    return sorted(posixpath.relpath(name, root) for name in found)


def _fetch(url: str, target: Path) -> None:
    import fsspec
    from iopath.common.file_io import g_pathmgr

    scheme = url.partition("://")[0]
    if scheme in ("http", "https"):  # fsspec needs aiohttp for these
        _download(url, target)
    elif scheme in fsspec.available_protocols():
        filesystem, remote = fsspec.url_to_fs(url)
        filesystem.get_file(remote, str(target))
    else:
        shutil.copyfile(g_pathmgr.get_local_path(url), target)


def _download(url: str, target: Path) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, open(target, "wb") as file:
        shutil.copyfileobj(response, file)
        length = response.headers.get("Content-Length")
    if length is not None and target.stat().st_size != int(length):  # urllib treats a dropped connection as the end
        raise OSError(f"the connection broke after {target.stat().st_size} of {length} bytes")
