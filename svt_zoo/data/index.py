"""Writes an index beside each video of a list: then training fetches single packets from an object store."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ..batch import Failure
from ..files import is_url, local_path, write_whole
from ..video import VideoReadError
from ..video.remote import build_index, index_name
from .lists import VideoList
from .pool import Outcomes, progress, run_tasks


class _Indexed(NamedTuple):
    frames: int  # 0 for an index that exists
    bytes: int


@dataclass(frozen=True)
class IndexReport:
    """The result for a list: `new` indexes of `frames` frames and `bytes` bytes; `old` ones exist; `failures`."""

    new: int
    old: int
    frames: int
    bytes: int
    failures: tuple[Failure, ...]

    def summary(self) -> str:
        """Counts and sizes in one line."""
        size = f"; {self.bytes / 1e6:.2f} MB, {self.bytes / self.frames:.1f} bytes a frame" if self.frames else ""
        return f"{self.new + self.old} videos have an index ({self.new} new{size}), {len(self.failures)} failed"


def index_videos(videos: VideoList, *, workers: int = 1, again: bool = False) -> IndexReport:
    """Writes `VIDEO.index` beside each video, a file or a URL, that has none, or an older one than the file.

    Each video is decoded twice, to check that single packets give the same frames. A video behind a URL is fetched for
    this time, and its index is written through fsspec. `again` also writes indexes that exist.

    Raises:
        CommonFailure: the first videos all fail for the same reason.
    """
    paths = list(dict.fromkeys(row.path for row in videos.rows))
    outcomes, failures, made, old = Outcomes(len(paths)), [], [], 0
    for one in progress(run_tasks(partial(_index_one, again=again), paths, workers=workers), len(paths)):
        outcomes.add(one.task, one.reason if one.result is None else None)
        if one.result is None:
            failures.append(Failure(one.task, one.reason))
        elif one.result.frames:
            made.append(one.result)
        else:
            old += 1
    return IndexReport(len(made), old, sum(m.frames for m in made), sum(m.bytes for m in made), tuple(failures))


def _index_one(path: str, *, again: bool) -> _Indexed:
    if is_url(path):
        return _index_url(path, again)
    if os.path.isdir(path):
        raise VideoReadError(path, "a folder of frames; only video files have an index")
    target = Path(index_name(path))
    if not again and target.exists() and target.stat().st_mtime_ns >= os.stat(path).st_mtime_ns:
        return _Indexed(0, 0)
    stored = build_index(path)
    write_whole(target, content := stored.to_bytes())
    return _Indexed(len(stored.index.pts), len(content))


def _index_url(url: str, again: bool) -> _Indexed:
    import fsspec

    filesystem, target = fsspec.url_to_fs(index_name(url))
    if not again and filesystem.exists(target):
        return _Indexed(0, 0)
    with TemporaryDirectory() as folder:
        stored = build_index(local_path(url, cache_dir=folder))
    content = stored.to_bytes()
    try:
        filesystem.pipe_file(target, content)
    except NotImplementedError as error:
        reason = "its server takes no files; make the indexes where the files are, and upload them with the files"
        raise VideoReadError(url, reason) from error
    return _Indexed(len(stored.index.pts), len(content))
