"""Files and folders of videos: which there are below a root, and what their names state."""

import os
import posixpath
import re

from ..files import is_url, list_remote
from ..video.frames import is_image

SUFFIXES = "3gp|avi|flv|h264|m2ts|m4v|mkv|mov|mp4|mpeg|mpg|mts|ogv|ts|vob|webm|wmv"
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in SUFFIXES.split("|"))

# File names of UCF-101 and HMDB-51 contain the recording that a clip was cut from.
_GROUP = re.compile(
    r"(?:(v_\w+_g\d+)_c\d+|(.+)_[hulf]_(?:cm|nm)_np\d_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+)"
    rf"(?i:\.(?:{SUFFIXES}))?"
)


def is_folder(path: str) -> bool:
    """Whether `path`, local or a URL, is a folder."""
    return list_remote(path) is not None if is_url(path) else os.path.isdir(path)


def files_in(folder: str) -> list[str]:
    """Names of the files in a folder, local or a URL, sorted."""
    if is_url(folder):
        return [name for name in list_remote(folder) or [] if "/" not in name]
    return sorted(os.listdir(folder or "."))


def find_videos(root: str) -> list[str]:
    """Videos below `root`, relative to it and sorted: files with a video suffix, and folders that hold only images.

    Skips hidden files and folders, and follows links. Below a URL it finds only files.
    """
    if is_url(root):
        names = list_remote(root) or []
        return [name for name in names if is_video(name) and not re.search(r"(^|/)\.", name)]
    videos: list[str] = []
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # by a link
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        files = [posixpath.normpath(f"{below}/{name}") for name in names if is_video(name)]
        videos += files
        if below != "." and not files and not subfolders and any(is_image(name) for name in names):
            videos.append(below)
    return sorted(videos)


def is_video(name: str) -> bool:
    """Whether a file name is that of a video: visible, with one of VIDEO_SUFFIXES."""
    return posixpath.splitext(name)[1].lower() in VIDEO_SUFFIXES and not posixpath.basename(name).startswith(".")


class LinkResolver:
    """`os.path.realpath` of many files: each folder is resolved and listed once."""

    def __init__(self) -> None:
        self._folders: dict[str, tuple[str, set[str] | None]] = {}  # the real path; the names that may be links, or all

    def __call__(self, path: str) -> str:
        """The path of the file without links."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder), _links_in(folder)
        real, links = self._folders[folder]
        if links is None or name in links or name in ("", ".", ".."):
            return os.path.realpath(path)
        return os.path.join(real, name)


def _links_in(folder: str) -> set[str] | None:
    """The names of the links in a folder; None if it cannot be listed."""
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except FileNotFoundError:
        return set()
    except OSError:
        return None


def group_of(path: str) -> str | None:
    """The recording of a clip of UCF-101 or HMDB-51, from its file name; None for other names."""
    if "_g" not in path and "_np" not in path:  # most names need no pattern
        return None
    match = _GROUP.fullmatch(path.rstrip("/").rpartition("/")[2])
    return (match[1] or match[2]) if match else None


def slashes(path: str) -> str:
    """Replaces backslashes in a path by slashes, unless the path has both."""
    return path.replace("\\", "/") if "/" not in path else path
