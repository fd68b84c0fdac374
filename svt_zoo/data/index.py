"""Writes an index beside each video of a list: then training fetches single packets from an object store."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ..batch import Failure
from ..files import is_url, local_path, write_whole
from ..video import VideoReadError
from ..video.remote import build_index, index_name
from .lists import VideoList
from .pool import Outcomes, progress, run_tasks


@dataclass(frozen=True)
class IndexReport:
    """The result for a list: indexes written now (`frames` and `bytes` together), indexes kept, and failures."""

    new: int
    kept: int
    frames: int
    bytes: int
    failures: tuple[Failure, ...]

    def summary(self) -> str:
        """Counts and sizes in one line."""
        size = f", {self.bytes / self.frames:.1f} bytes a frame" if self.frames else ""
        return f"{self.new} indexes written{size}; {self.kept} kept, {len(self.failures)} videos failed"


def index_videos(videos: VideoList, *, workers: int = 1, again: bool = False) -> IndexReport:
    """Writes `VIDEO.index` beside each file or URL that has none, or an older one than the file; `again`: beside all.

    Each video is decoded twice, to check that single packets give the same frames. For a URL, the video is fetched for
    this time, and the index is uploaded through fsspec.

    Raises:
        CommonFailure: the first videos all fail for the same reason.
    """
    paths = list(dict.fromkeys(row.path for row in videos.rows))
    outcomes, failures, results = Outcomes(len(paths)), [], []
    for one in progress(run_tasks(partial(_index_one, again=again), paths, workers=workers), len(paths)):
        outcomes.add(one.task, one.reason if one.result is None else None)
        if one.result is None:
            failures.append(Failure(one.task, one.reason))
        else:
            results.append(one.result)
    frames, sizes = (sum(column) for column in zip((0, 0), *results, strict=True))
    new = sum(frames > 0 for frames, _ in results)
    return IndexReport(new, len(results) - new, frames, sizes, tuple(failures))


def _index_one(path: str, *, again: bool) -> tuple[int, int]:
    """Writes one index. Returns its frames and bytes, or zeros if there was one."""
    if os.path.isdir(path):
        raise VideoReadError(path, "a folder of frames; only video files have an index")
    name = index_name(path)
    if not again and _is_current(path, name):
        return 0, 0
    with TemporaryDirectory() as folder:
        stored = build_index(local_path(path, cache_dir=folder))
    content = stored.to_bytes()
    if is_url(path):
        _upload(path, name, content)
    else:
        write_whole(Path(name), content)
    return len(stored.index.pts), len(content)


def _is_current(path: str, name: str) -> bool:
    """Whether there is an index `name`; that of a local file must not be older than the file."""
    if is_url(path):
        import fsspec

        files, target = fsspec.url_to_fs(name)
        return bool(files.exists(target))
    return os.path.exists(name) and os.path.getmtime(path) <= os.path.getmtime(name)


def _upload(path: str, name: str, content: bytes) -> None:
    import fsspec

    files, target = fsspec.url_to_fs(name)
    try:
        files.pipe_file(target, content)
    except Exception as error:  # file systems raise different error types
        reason = f"its server does not take the index ({type(error).__name__}: {error}); make the indexes where the "
        raise VideoReadError(path, f"{reason}files are, and upload them with the files") from error
