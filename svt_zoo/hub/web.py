"""Download files of ordinary web servers: checked before they become visible, then read from disk."""

import errno
import hashlib
import http.client
import logging
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock
from tqdm import tqdm

from .checksums import check, recorded, sha256_of
from .sources import OWN_FILE, Source, UrlFile, WeightsError, one_line

_log = logging.getLogger(__name__)

_CHUNK = 1 << 20  # bytes read at a time
_TIMEOUT = 30.0  # seconds without a byte
_ATTEMPTS = 3
_FIRST_WAIT = 1.0  # seconds before the second attempt; doubles after that


class _TransientError(Exception):
    """A download failed, and a retry may succeed."""


def fetch_url(file: UrlFile, *, sha256: str | None, progress: bool, offline: bool) -> Path:
    """Path of `file` in the folder of checkpoints. If several processes call it, one downloads and the others wait.

    Raises:
        WeightsError: the file cannot be fetched, or has the wrong hash.
    """
    path = file.path
    if not path.is_file():
        if offline:
            raise WeightsError(f"{file}: not cached, and offline mode forbids requests; {_by_hand(file)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):
                if not path.is_file():
                    _download(file, path, sha256, progress)
                    return path
        except OSError as error:
            raise disk_error(file, path.parent, error, needed=None, variable="TORCH_HOME") from error
    digest = sha256_of(path)
    if sha256 is None:
        _check_origin(file, path, digest)
    check(str(file), digest, sha256, path)
    return path


def disk_error(source: Source, folder: Path, error: OSError, *, needed: int | None, variable: str) -> WeightsError:
    """State the disk error: the disk is full (needed and free bytes), or the folder is not writable.

    `variable` names the environment variable that moves the cache elsewhere.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(folder).free if folder.is_dir() else 0
        wants = f"needs {needed} bytes" if needed is not None else "needs more"
        return WeightsError(
            f"{source}: disk full: {folder} has {free} bytes free, the file {wants}; "
            f"make room or set {variable} to a folder with more"
        )
    return WeightsError(f"{source}: cannot write to {folder} ({one_line(error)}); set {variable} to a folder of yours")


def _download(file: UrlFile, path: Path, sha256: str | None, progress: bool) -> None:
    """Put the checked file at `path` in one step, so no other process sees a partial or wrong file."""
    part = path.with_name(f".{path.name}.part")  # ours under the lock, even if a killed process left one
    _log.info("downloading %s to %s", file, path)
    try:
        digest = _receive_patiently(file, part, progress)
        check(str(file), digest, sha256, None)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _receive_patiently(file: UrlFile, part: Path, progress: bool) -> str:
    """`_receive`, with retries if the error may be temporary."""
    attempt = 1
    while True:
        try:
            return _receive(file, part, progress)
        except _TransientError as error:
            if attempt == _ATTEMPTS:
                raise WeightsError(
                    f"{file}: {error} ({attempt} attempts); try again later, or {_by_hand(file)}"
                ) from error
        time.sleep(_FIRST_WAIT * 2 ** (attempt - 1))
        attempt += 1


def _receive(file: UrlFile, part: Path, progress: bool) -> str:
    """Write one answer of the server to `part`; returns its sha256."""
    with _open(file) as response:
        length = response.headers.get("Content-Length")
        size = int(length) if length is not None else None
        received, digest = 0, hashlib.sha256()
        silent = None if progress else True  # None: silent where the output is not a terminal
        try:
            if size is not None and size > shutil.disk_usage(part.parent).free:
                raise OSError(errno.ENOSPC, "not enough space")
            with (
                tqdm(total=size, desc=file.filename, unit="B", unit_scale=True, disable=silent) as bar,
                part.open("wb") as out,
            ):
                for chunk in _chunks(response):
                    out.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    bar.update(len(chunk))
        except OSError as error:
            raise disk_error(file, part.parent, error, needed=size, variable="TORCH_HOME") from error
    if size is not None and received != size:
        raise _TransientError(f"the download is truncated, {received} of {size} bytes came")
    return digest.hexdigest()


def _open(file: UrlFile) -> http.client.HTTPResponse:
    """Send the request; returns the answer, its body unread."""
    request = urllib.request.Request(file.url, headers={"User-Agent": "svt_zoo"})
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
        return response
    except urllib.error.HTTPError as error:
        if error.code == 429 or error.code >= 500:
            raise _TransientError(f"the server answered HTTP {error.code}") from error
        if error.code in (401, 403):
            raise WeightsError(f"{file}: access denied (HTTP {error.code}); {_by_hand(file)}") from error
        raise WeightsError(f"{file}: no such file (HTTP {error.code}); check the address, or {OWN_FILE}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise WeightsError(f"{file}: no network ({one_line(reason)}); {_by_hand(file)}") from error


def _chunks(response: IO[bytes]) -> Iterator[bytes]:
    """The body in chunks. An error here is a network error, as distinct from a disk error."""
    try:
        while chunk := response.read(_CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(f"the download is truncated, it broke off ({one_line(error)})") from error


def _check_origin(file: UrlFile, path: Path, digest: str) -> None:
    """Refuse the file of another address that ends in the same name."""
    entries = recorded()
    if str(file) in entries:
        return
    for other, sha256 in entries.items():
        if sha256 == digest and other.startswith("http") and other.endswith(f"/{path.name}"):
            raise WeightsError(
                f"{file}: {path} was downloaded from {other}; delete it, or fetch this one by hand under "
                f"another name and {OWN_FILE}"
            )


def _by_hand(file: UrlFile) -> str:
    return f"fetch {file.url} by hand and put it at {file.path}, or {OWN_FILE}"
