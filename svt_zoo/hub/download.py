"""Download a weight file from any kind of source, and check its hash.

Files of the Hugging Face Hub use its client and its cache. Files of other web servers use `web`, which stores them in
the folder that torchvision and timm use. Every fetch hashes the file, because the Hub's client does not detect
corrupt bytes.
"""

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from .checksums import check, sha256_of
from .sources import OWN_FILE, ByHand, HubFile, IoPath, Source, UrlFile, WeightsError, one_line, parse_source
from .web import disk_error, fetch_url

__all__ = ["HubFile", "IoPath", "Source", "UrlFile", "WeightsError", "at_revision", "fetch", "parse_source"]


_WAITS = (1.0, 2.0)  # seconds before each retry of a request to the Hub


def fetch(
    source: Source | str,
    *,
    sha256: str | None = None,
    revision: str | None = None,
    progress: bool = True,
    offline: bool | None = None,
) -> Path:
    """Return a local path of `source`: downloads the file if necessary, and checks it.

    With `sha256`, the file must have that hash. Without it, the first download's hash is recorded in
    `svt_zoo.lock.json` in `torch.hub.get_dir()/checkpoints`, and every later fetch of that source must have the same
    hash. A local file is hashed only if `sha256` is given, and its hash is never recorded.

    Args:
        source: what to fetch; a string goes through `parse_source`.
        sha256: the expected hash, 64 hexadecimal digits.
        revision: replaces the source's own revision (Hub files only).
        progress: show a progress bar if the output is a terminal.
        offline: make no request to the Hub or a web server; by default the value of HF_HUB_OFFLINE.

    Raises:
        WeightsError: the file cannot be fetched, or has the wrong hash.
        ValueError: a malformed source, or a revision for a source that has none.
    """
    if isinstance(source, str):
        source = parse_source(source)
    source = at_revision(source, revision)
    if offline is None:
        offline = constants.HF_HUB_OFFLINE
    if isinstance(source, UrlFile):
        return fetch_url(source, sha256=sha256, progress=progress, offline=offline)
    if isinstance(source, HubFile):
        return _fetch_hub(source, sha256, progress, offline)
    if isinstance(source, IoPath):
        return _fetch_iopath(source, sha256)
    if isinstance(source, ByHand):
        raise WeightsError(f"{source}: no program can fetch this file; get it there by hand and {OWN_FILE}")
    return _fetch_local(source, sha256)


def at_revision(source: Source, revision: str | None) -> Source:
    """`source` at another branch, tag or commit; unchanged for None.

    Raises:
        ValueError: it is not a file of the Hub.
    """
    if revision is None:
        return source
    if not isinstance(source, HubFile):
        raise ValueError(f"revision={revision!r} is for files of the Hub (hf://org/repo/file), got {source}")
    return replace(source, revision=revision)


def _fetch_hub(file: HubFile, sha256: str | None, progress: bool, offline: bool) -> Path:
    """Path of `file` in the Hub client's cache."""
    try:
        if not offline and not isinstance(
            try_to_load_from_cache(file.repo, file.filename, revision=file.revision), str
        ):
            _reach_hub(file)
        with _hub_progress(progress):
            path = hf_hub_download(file.repo, file.filename, revision=file.revision, local_files_only=offline)
    except Exception as error:  # broad: versions of the client differ in HTTP library, hence in errors
        raise _hub_error(file, error, offline) from error
    blob = Path(path).resolve()  # resolves the link: a wrong file is deleted by its blob
    digest = sha256_of(blob)
    promised = _lfs_sha256(path)
    if sha256 is None and promised is not None and digest != promised:
        raise WeightsError(
            f"{file}: the cached file {blob} is corrupt, its sha256 is {digest} where the Hub says "
            f"{promised}; delete it and try again"
        )
    check(str(file), digest, sha256, blob)
    return Path(path)


def _reach_hub(file: HubFile) -> None:
    """Ask the Hub for `file`, with two retries; the client's own download would retry five times, up to 8 s apart."""
    url = hf_hub_url(file.repo, file.filename, revision=file.revision)
    for wait in (*_WAITS, None):
        try:
            get_hf_file_metadata(url)
            return
        except Exception as error:  # broad: versions of the client differ in HTTP library, hence in errors
            refused = isinstance(error, HfHubHTTPError) and error.response.status_code < 500
            if refused or isinstance(error, HFValidationError) or wait is None:
                raise
        time.sleep(wait)


@contextmanager
def _hub_progress(shown: bool) -> Iterator[None]:
    """Show or hide the client's progress bars, which have one global switch; restores its value afterwards."""
    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _lfs_sha256(path: str) -> str | None:
    """The sha256 that names a large file in the Hub's cache; None if the name is not a sha256.

    The cache names a blob by its ETag, which for an LFS file is the sha256 of the content. Only one link is
    followed: the blob itself may be a link into a store that uses another hash for names.
    """
    blob = os.path.basename(os.readlink(path)) if os.path.islink(path) else ""
    return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None


def _hub_error(file: HubFile, error: Exception, offline: bool) -> WeightsError:
    """State in one line what the client's error means and what to do."""
    if isinstance(error, HFValidationError):
        return WeightsError(f"{file}: no name that the Hub allows ({one_line(error)}); check the source")
    url = hf_hub_url(file.repo, file.filename, revision=file.revision)
    by_hand = f"fetch {url} by hand and {OWN_FILE}"
    if isinstance(error, LocalEntryNotFoundError):
        if offline or constants.HF_HUB_OFFLINE:
            cause = f"not in the cache {constants.HF_HUB_CACHE}, and offline mode forbids requests"
            return WeightsError(f"{file}: {cause}; {by_hand}")
        # the client wraps the error of its first request
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    if isinstance(error, HfHubHTTPError):
        return WeightsError(f"{file}: {_answer(file, error, by_hand)}")
    if isinstance(error, OSError):
        if "Consistency check failed" in str(error):
            return WeightsError(f"{file}: the download is truncated ({one_line(error)}); try again, or {by_hand}")
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            cache = Path(constants.HF_HUB_CACHE)
            return disk_error(file, cache, error, needed=_hub_size(file), variable="HF_HOME")
    return WeightsError(
        f"{file}: no network, or the connection broke ({one_line(error)}); {by_hand}; "
        "HF_HUB_OFFLINE=1 makes no requests"
    )


def _answer(file: HubFile, error: HfHubHTTPError, by_hand: str) -> str:
    """What an HTTP error of the Hub means, and what to do."""
    status = error.response.status_code
    log_in = "log in (`hf auth login`, or HF_TOKEN)"
    if isinstance(error, GatedRepoError) or status == 403:
        page = f"{constants.ENDPOINT}/{file.repo}"
        return f"access is gated (HTTP {status}); accept the terms at {page} and {log_in}"
    if isinstance(error, RevisionNotFoundError):
        return f"{file.repo} has no revision {file.revision!r} (HTTP {status}); check the branch, tag or commit"
    if isinstance(error, EntryNotFoundError):
        return f"{file.repo} has no file {file.filename!r} at {file.revision!r} (HTTP {status}); check the name"
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return f"{file.repo} does not exist or is private (HTTP {status}); check the name, or {log_in}"
    return f"the server answered HTTP {status}; try again later, or {by_hand}"


def _hub_size(file: HubFile) -> int | None:
    """Size of the file in bytes; None if the Hub does not return it."""
    try:
        return get_hf_file_metadata(hf_hub_url(file.repo, file.filename, revision=file.revision)).size
    except Exception:  # the size only adds detail to an error that is raised anyway
        return None


def _fetch_iopath(file: IoPath, sha256: str | None) -> Path:
    """Local copy of `file`, made by the iopath handler of its scheme."""
    try:
        from iopath.common.file_io import g_pathmgr
    except ImportError as error:
        raise WeightsError(f"{file}: such paths need iopath; pip install iopath, or {OWN_FILE}") from error
    try:
        local = g_pathmgr.get_local_path(file.uri)
    except Exception as error:  # broad: a handler raises whatever its storage raises
        raise WeightsError(f"{file}: iopath could not fetch it ({one_line(error)}); {OWN_FILE}") from error
    if local == file.uri:
        raise WeightsError(
            f"{file}: iopath has no handler for {file.uri.partition('://')[0]}://; register one with "
            f"iopath.common.file_io.g_pathmgr.register_handler, or {OWN_FILE}"
        )
    path = Path(local)
    _require_file(file, path)
    check(str(file), sha256_of(path), sha256, path)
    return path


def _fetch_local(path: Path, sha256: str | None) -> Path:
    """Check that a local file exists and, if `sha256` is given, that it has this hash."""
    _require_file(path, path)
    if sha256 is not None and (digest := sha256_of(path)) != sha256.lower():
        raise WeightsError(f"{path}: wrong sha256 {digest}, expected {sha256}; it is another file")
    return path


def _require_file(source: Source, path: Path) -> None:
    if path.is_dir():
        raise WeightsError(
            f"{source}: a folder ({path.absolute()}), not a file; name the weight file in it, or load what "
            "save_pretrained wrote by from_pretrained(folder)"
        )
    if not path.is_file():
        raise WeightsError(
            f"{source}: no such file ({path.absolute()}); check the path (a file of the Hub is hf://org/repo/file)"
        )
