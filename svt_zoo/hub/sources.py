"""The sources of weight files, and their text form."""

import re
import shutil
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from ..files import DISK_FULL, torch_folder

OWN_FILE = "pass weights=/path/to/file (tools: --weights, recipes: init=)"  # the way out of every missing file
_HUB_FORM = re.compile(r"([^/@]+/[^/@]+)/([^@]*[^/@])(?:@(.+))?")


class WeightsError(RuntimeError):
    """Weights cannot be fetched or used: one line that names the source, the cause and what to do."""


class UnfitWeightsError(WeightsError):
    """Weights exist, but do not fit this network."""


@dataclass(frozen=True)
class HubFile:
    """One file of a model repository on the Hugging Face Hub.

    `filename` may lie in subfolders. `revision` is a branch, a tag or a commit; only a full commit sha pins
    the bytes and is served from the cache without a request.
    """

    repo: str
    filename: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.repo}/{self.filename}@{self.revision}"


@dataclass(frozen=True)
class UrlFile:
    """One file of a web server, kept under `filename` (by default the last part of the address)."""

    url: str
    filename: str = ""

    def __post_init__(self) -> None:
        name = self.filename or urllib.parse.unquote(urllib.parse.urlsplit(self.url).path.rpartition("/")[2])
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise ValueError(f"{self.url}: {name!r} is no file name; name one: UrlFile(url, filename)")
        object.__setattr__(self, "filename", name)

    def __str__(self) -> str:
        return self.url

    @property
    def path(self) -> Path:
        """The local path: in the folder of checkpoints that torchvision and timm use too."""
        return torch_folder("checkpoints") / self.filename


@dataclass(frozen=True)
class IoPath:
    """A file that iopath reads, such as `s3://bucket/key`, by a handler registered on its `g_pathmgr`."""

    uri: str

    def __str__(self) -> str:
        return self.uri


@dataclass(frozen=True)
class ByHand:
    """A file that only a person can download; `where` states the place."""

    where: str

    def __str__(self) -> str:
        return self.where


@dataclass(frozen=True)
class PackageFile:
    """A file of the installed package, in the folder of this module."""

    filename: str

    def __str__(self) -> str:
        return f"svt_zoo/hub/{self.filename}"

    @property
    def path(self) -> Path:
        """The local path."""
        return Path(__file__).with_name(self.filename)


Source = HubFile | UrlFile | IoPath | ByHand | PackageFile | Path


def parse_source(text: str) -> Source:
    """Parse the text form of a source.

    Args:
        text: `hf://org/repo/file@revision` (subfolders allowed; without `@revision` the branch main),
            `https://server/file`, any other `scheme://...` that iopath has a handler for, or a local path, also
            as `file:///...`.

    Raises:
        ValueError: an `hf://` source without repository or file name, or an address without a file name.
    """
    scheme, is_address, rest = text.partition("://")
    if not is_address:
        return Path(text).expanduser()
    if scheme == "file":
        return Path(urllib.parse.unquote(rest))
    if scheme in ("http", "https"):
        return UrlFile(text)
    if scheme != "hf":
        return IoPath(text)
    parts = _HUB_FORM.fullmatch(rest)
    if parts is None:
        raise ValueError(f"{text!r} is not of the form hf://org/repo/file or hf://org/repo/file@revision")
    repo, filename, revision = parts.groups()
    return HubFile(repo, filename, revision or "main")


def one_line(error: object) -> str:
    """The text of an error on one line; its class name if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def disk_error(source: Source, folder: Path, error: OSError, *, variable: str) -> WeightsError:
    """State that the disk is full or the folder is not writable; `variable` moves the cache elsewhere."""
    if error.errno in DISK_FULL:
        free = shutil.disk_usage(folder).free if folder.is_dir() else 0
        return WeightsError(
            f"{source}: disk full: {folder} has {free} bytes free ({error.strerror}); make room or set {variable} to "
            "a folder with more"
        )
    return WeightsError(f"{source}: cannot write to {folder} ({one_line(error)}); set {variable} to a folder of yours")
