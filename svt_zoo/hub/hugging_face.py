"""Fetches files of the Hugging Face Hub with its client, and states its errors in one line."""

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

from ..files import DISK_FULL
from .sources import OWN_FILE, HubFile, WeightsError, disk_error, one_line

_WAITS = (1.0, 2.0)  # seconds before each retry of a request to the Hub


def fetch_hub(file: HubFile, progress: bool) -> Path:
    """Path of `file` in the client's cache.

    Raises:
        WeightsError: the file cannot be fetched.
    """
    try:
        cached = try_to_load_from_cache(file.repo, file.filename, revision=file.revision)
        if not (constants.HF_HUB_OFFLINE or isinstance(cached, str)):
            _reach_hub(file)
        with _hub_progress(progress):
            path = hf_hub_download(file.repo, file.filename, revision=file.revision)
    except Exception as error:  # broad: versions of the client differ in HTTP library, hence in errors
        raise _hub_error(file, error) from error
    return Path(path)


def stated_sha256(path: Path) -> str | None:
    """The sha256 that the Hub states for a file in the client's cache; None for a small file.

    The cache names a blob by its ETag, which for an LFS file is the sha256 of the content. Only one link is followed:
    the blob itself may be a link into a store that uses another hash for names.
    """
    blob = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None


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


def _hub_error(file: HubFile, error: Exception) -> WeightsError:
    """State in one line what the client's error means and what to do."""
    if isinstance(error, HFValidationError):
        return WeightsError(f"{file}: no name that the Hub allows ({one_line(error)}); check the source")
    url = hf_hub_url(file.repo, file.filename, revision=file.revision)
    by_hand = f"fetch {url} by hand and {OWN_FILE}"
    if isinstance(error, LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            cause = f"not in the cache {constants.HF_HUB_CACHE}, and offline mode forbids requests"
            return WeightsError(f"{file}: {cause}; {by_hand}")
        # the client wraps the error of its first request
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    if isinstance(error, HfHubHTTPError):
        return WeightsError(f"{file}: {_answer(file, error, by_hand)}")
    if isinstance(error, OSError):
        if "Consistency check failed" in str(error):
            return WeightsError(f"{file}: the download is truncated ({one_line(error)}); try again, or {by_hand}")
        if error.errno in (*DISK_FULL, errno.EACCES, errno.EPERM, errno.EROFS):
            return disk_error(file, Path(constants.HF_HUB_CACHE), error, variable="HF_HOME")
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


def at_commit(file: HubFile, path: Path) -> HubFile:
    """`file` at the commit at which the client's cache holds it, as a branch or a tag may move."""
    match = re.search(r"/snapshots/([0-9a-f]{40})/", path.absolute().as_posix())
    return replace(file, revision=match[1]) if match else file
