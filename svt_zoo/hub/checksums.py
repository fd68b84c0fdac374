"""Check downloaded files by their hash; the lock file keeps the hash of each source's first download."""

import json
import logging
from pathlib import Path

from filelock import FileLock

from .. import files
from .sources import WeightsError, checkpoints_folder, one_line

_log = logging.getLogger(__name__)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        return files.sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({one_line(error)}); check its permissions") from error


def lock_path() -> Path:
    """The lock file: JSON, source -> sha256, beside the downloaded files."""
    return checkpoints_folder() / "svt_zoo.lock.json"


def recorded() -> dict[str, str]:
    """The entries of the lock file; empty if there is none.

    Raises:
        WeightsError: the lock file is damaged.
    """
    try:
        entries = json.loads(lock_path().read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{lock_path()}: cannot be read ({one_line(error)}); repair or delete it") from error
    if not isinstance(entries, dict):
        raise WeightsError(f"{lock_path()}: holds no table of source -> sha256; repair or delete it")
    return entries


def check(source: str, digest: str, sha256: str | None, path: Path | None) -> None:
    """Compare the hash of the file from `source` with the expected hash, and record it.

    Args:
        source: the source as text, which is its key in the lock file.
        digest: sha256 of the file.
        sha256: the hash it must have; None for the recorded hash of the first download, if there is one.
        path: the file's path in a cache; None for a download that is discarded if the hash is wrong.

    Raises:
        WeightsError: the hash is wrong.
    """
    if sha256 is not None:
        if digest != sha256.lower():
            way_out = (
                f"the cached file {path} is corrupt or another file of that name: delete it and try again"
                if path is not None
                else "the download was not kept: try again; if this repeats, the file there has changed"
            )
            raise WeightsError(f"{source}: wrong sha256 {digest}, expected {sha256}; {way_out}")
        if recorded().get(source) != digest:
            _record(source, digest, replace=True)
        return
    known = recorded().get(source) or _record(source, digest, replace=False)
    if digest != known:
        otherwise = f"delete the cached file {path} and try again" if path is not None else "do not use it"
        raise WeightsError(
            f"{source}: sha256 is {digest}, but was {known} when first downloaded; if you expected the "
            f"change, remove its entry from {lock_path()}, otherwise {otherwise}"
        )


def _record(source: str, digest: str, *, replace: bool) -> str:
    """Write an entry of the lock file unless another process has written it; returns the entry's hash."""
    path = lock_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            entries = recorded()
            if replace or source not in entries:
                entries[source] = digest
                files.write_whole(path, f"{json.dumps(entries, indent=1, sort_keys=True)}\n".encode())
            return entries[source]
    except OSError as error:  # a shared, read-only cache: the file itself has been checked
        _log.warning("the sha256 of %s could not be recorded in %s: %s", source, path, one_line(error))
        return digest
