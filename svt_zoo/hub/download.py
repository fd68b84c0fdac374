"""Downloads a weight file from any kind of source, and checks its hash.

Files of the Hugging Face Hub use its client and its cache, files of other web servers the folder that torchvision and
timm use. Every fetch hashes the file, because the Hub's client does not detect corrupt bytes. A lock file keeps the
hash of each source's first download.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock
from huggingface_hub import constants

from ..files import DownloadError, atomic, download, torch_folder, write_whole
from ..files import sha256_of as hash_of
from .hugging_face import at_commit, fetch_hub, stated_sha256
from .sources import (
    OWN_FILE,
    ByHand,
    HubFile,
    IoPath,
    PackageFile,
    Source,
    UrlFile,
    WeightsError,
    disk_error,
    one_line,
    parse_source,
)

_log = logging.getLogger(__name__)


def fetch(source: Source | str, *, sha256: str | None = None, progress: bool = True) -> Path:
    """Return a local path of `source`: downloads the file if necessary, and checks it.

    With `sha256`, the file must have that hash. Without it, the first download's hash is recorded in
    `svt_zoo.lock.json` in `torch.hub.get_dir()/checkpoints`, and every later fetch of that source must have the same
    hash. For a branch of the Hub, the hash is also recorded for its commit. A local file is hashed only if `sha256` is
    given, and its hash is never recorded. With HF_HUB_OFFLINE=1, there is no request to any server.

    Args:
        source: what to fetch; a string goes through `parse_source`.
        sha256: the expected hash, 64 hexadecimal digits.
        progress: show a progress bar if the output is a terminal.

    Raises:
        WeightsError: the file cannot be fetched, or has the wrong hash.
        ValueError: a malformed source.
    """
    with fetched(source, sha256=sha256, progress=progress) as path:
        return path


@contextmanager
def fetched(source: Source | str, *, sha256: str | None = None, progress: bool = True) -> Iterator[Path]:
    """As `fetch`, for a block that reads the file; an error in it keeps the hash from being recorded."""
    source = parse_source(source) if isinstance(source, str) else source
    if isinstance(source, PackageFile):
        source = source.path
    if isinstance(source, ByHand):
        raise WeightsError(f"{source}: no program can fetch this file; get it there by hand and {OWN_FILE}")
    if isinstance(source, UrlFile):
        path = _fetch_url(source, sha256, progress)
    elif isinstance(source, HubFile):
        path = fetch_hub(source, progress)
    elif isinstance(source, IoPath):
        path = _fetch_iopath(source)
    else:
        path = source
    _require_file(source, path)
    if isinstance(source, Path):
        if sha256 is not None and (digest := sha256_of(path)) != sha256.lower():
            raise WeightsError(f"{path}: wrong sha256 {digest}, expected {sha256}; it is another file")
        yield path
        return
    file = path.resolve()  # of a link in the Hub's cache, the blob: a wrong file is deleted by its blob
    digest = sha256_of(file)
    if sha256 is None:
        _check_origin(source, path, digest)
        stated = stated_sha256(path) if isinstance(source, HubFile) else None
        if stated not in (None, digest):
            raise WeightsError(
                f"{source}: the cached file {file} is corrupt, its sha256 is {digest}, that of the Hub is {stated}; "
                "delete it and try again"
            )
    check(source, digest, sha256, file)
    yield path
    record(source, digest)
    if isinstance(source, HubFile):
        record(at_commit(source, path), digest)


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


def _require_file(source: Source, path: Path) -> None:
    place = "" if str(source) == str(path.absolute()) else f" ({path.absolute()})"
    if path.is_dir():
        raise WeightsError(
            f"{source}: a folder{place}, not a file; name the weight file in it, or load what save_pretrained wrote by "
            "from_pretrained(folder)"
        )
    if not path.is_file():
        raise WeightsError(f"{source}: no such file{place}; check the path (a file of the Hub is hf://org/repo/file)")


# --- hashes


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        return hash_of(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({one_line(error)}); check its permissions") from error


def lock_path() -> Path:
    """The lock file: JSON, source -> sha256, beside the downloaded files."""
    return torch_folder("checkpoints") / "svt_zoo.lock.json"


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


def check(source: Source, digest: str, sha256: str | None, path: Path | None) -> None:
    """Compare the hash of the file from `source` with the expected hash.

    Args:
        source: where the file comes from; its text is the key in the lock file.
        digest: sha256 of the file.
        sha256: the hash it must have; None for the recorded hash of the first download, if there is one.
        path: the file's path in a cache; None for a download that is discarded if the hash is wrong.

    Raises:
        WeightsError: the hash is wrong.
    """
    known = recorded()
    expected = sha256.lower() if sha256 is not None else known.get(str(source), digest)
    if digest == expected:
        return
    if sha256 is None:
        files = f"hf://{source.repo}/{source.filename}@" if isinstance(source, HubFile) else "-"
        first = (key for key in known if key.startswith(files) and known[key] == expected and key != str(source))
        raise WeightsError(
            f"{source}: sha256 is {digest}, but was {expected} when first downloaded; if you expected the change, "
            f"remove its entry from {lock_path()}, otherwise "
            + (f"delete the cached file {path} and try again" if path is not None else "do not use it")
            + "".join(f", or load {commit}, which was read then" for commit in first)
        )
    raise WeightsError(
        f"{source}: wrong sha256 {digest}, expected {sha256}; "
        + (
            f"the cached file {path} is corrupt or another file of that name: delete it and try again"
            if path is not None
            else "the download was not kept: try again; if this repeats, the file there has changed"
        )
    )


def record(source: Source, digest: str) -> None:
    """Write the hash of the file from `source` to the lock file."""
    if recorded().get(str(source)) == digest:
        return
    path = lock_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            entries = {**recorded(), str(source): digest}
            write_whole(path, f"{json.dumps(entries, indent=1, sort_keys=True)}\n".encode())
    except OSError as error:  # a shared, read-only cache: the file itself has been checked
        _log.warning("the sha256 of %s could not be recorded in %s: %s", source, path, one_line(error))


# --- web servers and iopath


def _fetch_url(file: UrlFile, sha256: str | None, progress: bool) -> Path:
    """Path of `file` in the folder of checkpoints. If several processes call it, one downloads and the others wait."""
    path = file.path
    by_hand = f"fetch it by hand and put it at {path}, or {OWN_FILE}"
    if path.is_file():
        return path
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f"{file}: not cached, and offline mode forbids requests; {by_hand}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.is_file():
                _log.info("downloading %s to %s", file, path)
                with atomic(path) as part:  # no other process sees a partial or wrong file
                    download(file.url, part, progress=progress)
                    check(file, sha256_of(part), sha256, None)
    except DownloadError as error:
        raise WeightsError(f"{file}: {error}, or {by_hand}") from error
    except OSError as error:
        raise disk_error(file, path.parent, error, variable="TORCH_HOME") from error
    return path


def _check_origin(source: Source, path: Path, digest: str) -> None:
    """Refuse the file of another address that ends in the same name."""
    entries = recorded()
    if not isinstance(source, UrlFile) or str(source) in entries:
        return
    for other, sha256 in entries.items():
        if sha256 == digest and other.startswith("http") and other.endswith(f"/{path.name}"):
            raise WeightsError(
                f"{source}: {path} was downloaded from {other}; delete it, or fetch this one by hand under another "
                f"name and {OWN_FILE}"
            )


def _fetch_iopath(file: IoPath) -> Path:
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
    return Path(local)
