"""Files behind a URL (`s3://`, `hf://`, `https://`, ...) become local files, fetched once into a cache."""

import hashlib
import os
import posixpath
import shutil
import urllib.request
from pathlib import Path

import torch
from filelock import FileLock

from ..files import atomic

_TIMEOUT = 30.0  # seconds without a byte


def is_url(path: str) -> bool:
    """Whether `path` names a file by scheme, as in `s3://bucket/a.mp4`."""
    return "://" in path


def local_path(path: str, *, cache_dir: str | os.PathLike[str] | None = None) -> str:
    """Where the file lies on this machine; a URL is fetched the first time and never asked for again.

    Any scheme that fsspec knows will do, and any for which a handler is registered on iopath's `g_pathmgr`. Fetched
    files are kept in `cache_dir`, by default `torch.hub.get_dir()/videos`; workers that want the same file wait for
    the one that fetches it, and nobody ever sees half a file.

    Raises:
        OSError: the file cannot be fetched; the message names the URL and the cause.
    """
    if not is_url(path):
        return path
    folder = Path(cache_dir) if cache_dir is not None else Path(torch.hub.get_dir()) / "videos"
    # The suffix stays: some containers are recognized by it.
    name = hashlib.sha256(path.encode()).hexdigest()[:32] + posixpath.splitext(path.split("?")[0])[1]
    target = folder / name
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            if not target.exists():
                try:
                    with atomic(target) as part:
                        _fetch(path, part)
                except Exception as error:  # every file system has errors of its own
                    raise OSError(f"{path} cannot be fetched: {type(error).__name__}: {error}") from error
    return str(target)


def list_remote(url: str) -> list[str] | None:
    """Paths of all files below the folder `url`, relative to it and sorted; None if `url` is no folder.

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
    if scheme in ("http", "https"):  # fsspec would need aiohttp for these
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
    if length is not None and target.stat().st_size != int(length):  # urllib takes a dropped connection for the end
        raise OSError(f"the connection broke after {target.stat().st_size} of {length} bytes")
