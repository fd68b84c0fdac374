"""Writes files and folders atomically, hashes them, and fetches files from URLs (`s3://`, `hf://`, `https://`, ...)."""

import errno
import hashlib
import http.client
import json
import os
import posixpath
import shutil
import string
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from tqdm import tqdm

if TYPE_CHECKING:
    from torch import Tensor

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_CHUNK = 1 << 20  # bytes read at a time
_TIMEOUT = 30.0  # seconds without a byte
_WAITS = (1.0, 2.0)  # seconds before each retry of a download


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
    except OSError as error:
        _name(error, target)
        raise
    finally:
        remove(part)


def write_whole(target: Path, *content: bytes | memoryview) -> None:
    """Write `content`, one piece after the other, to a file that is complete or absent at any time.

    Its folder is created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".part.{os.getpid()}.{target.name}")
    try:
        with part.open("wb") as file:
            file.writelines(content)
        part.replace(target)
    except OSError as error:
        _name(error, target)
        raise
    finally:
        part.unlink(missing_ok=True)


def _name(error: OSError, target: Path) -> None:
    """Adds the file to the error of a full disk, which comes from `write` and names none."""
    if error.errno in DISK_FULL and error.filename is None:
        error.filename = os.fspath(target)


def output_file(
    path: str | os.PathLike[str], *suffixes: str, keep: Sequence[str | os.PathLike[str] | None] = ()
) -> Path:
    """Checks before a long job that `path` can be written, else raises ValueError; makes its folder.

    `keep` are files that it must not replace, such as the command's input.
    """
    target = Path(path)
    if is_url(os.fspath(path)):
        raise ValueError(f"{path} is a URL; name a file on this machine and upload it")
    for other in keep:
        if other is not None and os.path.realpath(path) == os.path.realpath(other):
            raise ValueError(f"{path} is named twice, and writing it would replace the other file; name a new file")
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


def write_tensors(target: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically. Equal tensors and metadata give equal bytes.

    (safetensors itself writes the metadata in random order.)
    """
    from safetensors.torch import save

    content = save({key: value.contiguous() for key, value in tensors.items()})
    start = 8 + int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8:start])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    write_whole(target, len(text).to_bytes(8, "little"), text, memoryview(content)[start:])


def read_facts(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if the file is missing or damaged."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


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
    target = fetched_path(path, cache_dir)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            if not target.exists():
                try:
                    with atomic(target) as part:
                        _fetch(path, part)
                except Exception as error:  # file systems raise different error types
                    raise OSError(f"{path} cannot be fetched: {type(error).__name__}: {error}") from error
    return str(target)


def fetched_path(url: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where `local_path` keeps the file of a URL."""
    folder = Path(cache_dir) if cache_dir is not None else torch_folder("videos")
    # Keep the suffix: FFmpeg recognizes some containers by it.
    return folder / (hashlib.sha256(url.encode()).hexdigest()[:32] + posixpath.splitext(url.split("?")[0])[1])


def torch_folder(name: str) -> Path:
    """A folder in torch's cache; TORCH_HOME moves it."""
    import torch  # here, because most users of this module need no torch

    return Path(torch.hub.get_dir()) / name


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
        names = [str(name) for name in filesystem.find(root)]
    except Exception as error:
        raise OSError(f"{url} cannot be listed: {type(error).__name__}: {error}") from error
    return sorted(posixpath.relpath(name, root) for name in names)


def _fetch(url: str, target: Path) -> None:
    import fsspec
    from iopath.common.file_io import g_pathmgr

    scheme = url.partition("://")[0]
    if scheme in ("http", "https"):  # fsspec needs aiohttp for these
        download(url, target)
    elif scheme in fsspec.available_protocols():
        filesystem, remote = fsspec.url_to_fs(url)
        filesystem.get_file(remote, str(target))
    else:
        shutil.copyfile(g_pathmgr.get_local_path(url), target)


class DownloadError(OSError):
    """A download failed; the message states the cause and what to do, without the address."""


class _TemporaryError(Exception):
    """Another attempt may succeed."""


def download(
    url: str,
    target: Path,
    *,
    progress: bool = False,
    max_bytes: int = 200 * 10**9,
    max_seconds: float = 12 * 3600,
) -> None:
    """Write the file of an HTTP(S) address to `target`, in up to three attempts.

    An attempt is repeated after HTTP 429 and 5xx, a dropped connection, a time-out or a truncated answer. A redirect
    from https must lead to https.

    Args:
        url: the address.
        target: the file to write. It may be incomplete after an error.
        progress: show a bar if the output is a terminal.
        max_bytes: largest size of the file.
        max_seconds: longest time of all attempts.

    Raises:
        DownloadError: the server did not send the file.
        OSError: the file cannot be written; with errno ENOSPC, the disk is full.
    """
    end = time.monotonic() + max_seconds
    for wait in (*_WAITS, None):
        try:
            _receive(url, target, progress, max_bytes, end)
            return
        except _TemporaryError as error:
            if wait is None:
                raise DownloadError(f"{error} ({len(_WAITS) + 1} attempts); try again later") from error
        time.sleep(wait)


def _receive(url: str, target: Path, progress: bool, max_bytes: int, end: float) -> None:
    """One attempt."""
    with _open(url) as response, target.open("wb") as file:
        length = response.headers.get("Content-Length")
        size = int(length) if length is not None else None
        if size is not None and size > shutil.disk_usage(target.parent).free:
            raise OSError(errno.ENOSPC, f"the file needs {size} bytes")
        name = posixpath.basename(urllib.parse.urlsplit(url).path)
        received = 0
        # disable=None: no bar where the output is not a terminal
        with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=None if progress else True) as bar:
            while chunk := _read(response):
                received += len(chunk)
                if received > max_bytes:
                    raise DownloadError(f"the file is larger than {max_bytes} bytes")
                if time.monotonic() > end:
                    raise DownloadError("the download takes too long; try again later")
                file.write(chunk)
                bar.update(len(chunk))
    if size is not None and received != size:  # urllib treats a dropped connection as the end
        raise _TemporaryError(f"the download is truncated, {received} of {size} bytes came")


class _SameScheme(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme not in (req.type, "https"):
            raise DownloadError(f"the server redirects from {req.type} to {newurl}; check the address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str) -> http.client.HTTPResponse:
    start = len("/".join(url.split("/", 3)[:3]))  # of the path
    path = urllib.parse.quote(url[start:], safe=string.punctuation, errors="surrogateescape")  # keeps escapes
    request = urllib.request.Request(url[:start] + path, headers={"User-Agent": "svt_zoo"})
    try:
        response: http.client.HTTPResponse = urllib.request.build_opener(_SameScheme).open(request, timeout=_TIMEOUT)
        return response
    except urllib.error.HTTPError as error:
        if error.code == 429 or error.code >= 500:
            raise _TemporaryError(f"the server answered HTTP {error.code}") from error
        cause = "access denied" if error.code in (401, 403) else "no such file"
        raise DownloadError(f"{cause} (HTTP {error.code}); check the address") from error
    except DownloadError:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        text = f"no network ({' '.join(str(reason).split()) or type(reason).__name__})"
        # A refused connection or an unknown host does not become right within seconds.
        if isinstance(reason, TimeoutError | ConnectionResetError | ConnectionAbortedError | http.client.HTTPException):
            raise _TemporaryError(text) from error
        raise DownloadError(f"{text}; check the connection") from error


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next bytes; an error here is one of the network, not of the disk."""
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _TemporaryError(f"the download is truncated, it broke off ({error})") from error
