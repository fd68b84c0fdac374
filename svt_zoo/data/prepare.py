"""Re-encodes a collection of videos once, so that every epoch decodes it faster."""

import logging
import os
import posixpath
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from ..batch import Failure
from ..files import is_url
from ..lock import hold
from .datasets import open_row, shared_frames
from .encode import Encoding, PreparedVideo, prepare_video
from .list_formats import write_table
from .lists import Row, VideoList
from .pool import Journal, Outcomes, fingerprint, progress, run_tasks
from .views import ViewsConfig, train_views

_log = logging.getLogger(__name__)
_JOURNAL = ".prepare.jsonl"
_SAMPLE = 3  # videos of each kind that are measured
_SLOWER = 1.05  # times as long to read, beyond the noise of the measurement
_SMALLER = 0.9  # times the space, which a slower copy has to save


class _Task(NamedTuple):
    source: str
    output: str  # relative to the output folder
    num_frames: int | None


@dataclass(frozen=True)
class Preparation:
    """The result for a collection: the list with the new paths, and its videos, in the order of the old list.

    `failures`, also in `<name>_failures.csv`, could not be read or written; `new` videos were written by this run.
    `skipped` videos have no copy, because it would be worse; the list names their sources.
    """

    list: Path
    videos: tuple[PreparedVideo, ...]
    failures: tuple[Failure, ...]
    new: int
    skipped: int = 0

    @property
    def failure_list(self) -> Path:
        """The file of the failures, which exists if there are any."""
        return self.list.with_name(f"{self.list.stem}_failures.csv")

    def summary(self) -> str:
        """Counts, size and quality in one line."""
        line = (
            f"{len(self.videos)} videos prepared ({self.new} now, {len(self.videos) - self.new} before), "
            f"{len(self.failures)} failed" + (f", {self.skipped} left as they are" if self.skipped else "")
        )
        if not self.videos:
            return line
        before, after = (sum(getattr(video, name) for video in self.videos) for name in ("source_bytes", "bytes"))
        psnr = [video.psnr for video in self.videos]
        return (
            f"{line}; {before / 1e6:.1f} MB became {after / 1e6:.1f} MB ({after / before:.2f}x); "
            f"PSNR {sum(psnr) / len(psnr):.1f} dB on average, {min(psnr):.1f} dB at worst"
        )


def prepare_videos(
    videos: VideoList,
    output: str | os.PathLike[str],
    encoding: Encoding | None = None,
    *,
    name: str = "list",
    workers: int = 1,
    skip_slower: bool = False,
) -> Preparation:
    """Re-encodes every video of a list into the folder `output`.

    Writes the videos; `<name>.csv`, the list with relative paths; `<name>_report.csv`, one `PreparedVideo` per row; and
    `<name>_failures.csv` if videos failed. Failed videos stay in the list, so that a later reader reports them.

    A run that was stopped continues where it stopped. Each video appears only when it is complete. It is written again
    only if its source or the encoding has changed. `workers` is the number of processes; 0 works in this process.

    `skip_slower` first copies three videos of each kind of file (suffix) and measures them. A kind
    is not copied if its median copy takes more CPU time to read (SVT's views) and saves less than a tenth of the space.
    The list then names the sources.

    Raises:
        CommonFailure: the first videos all fail for the same reason.
        FolderInUse: another command is writing to `output`.
        ValueError: `output` is inside the sources, or holds other files. Or the mode is "frames", which stores no
            times, and the list cuts its videos by seconds.
    """
    encoding = encoding or Encoding()
    if encoding.mode == "frames" and videos.columns.has_times:
        raise ValueError("the list has start_sec and end_sec, but folders of frames keep no times; write H.264 instead")
    target = Path(output)
    if is_url(os.fspath(output)):
        raise ValueError(f"{output} is a URL; name a folder on this machine and upload it")
    names = output_names([*videos.columns.paths()], videos.root, encoding.suffix)
    _check_output(target, videos)
    with hold(target, ".prepare"):
        return _prepare(videos, target, encoding, names, name, workers, skip_slower)


def _prepare(
    videos: VideoList,
    folder: Path,
    encoding: Encoding,
    names: dict[str, str],
    name: str,
    workers: int,
    skip_slower: bool,
) -> Preparation:
    tasks = {names[row.path]: _Task(row.path, names[row.path], row.num_frames) for row in videos.rows}
    settings = [asdict(encoding), videos.frame_rate]
    signs = {output: [*settings, _absolute(task.source), *fingerprint(task.source)] for output, task in tasks.items()}
    journal = Journal(folder / _JOURNAL)
    entries = {video.output: (sign, video) for sign, video in journal.read(_parse_entry)}
    journal.start(_entry(sign, video) for sign, video in entries.values())
    prepared = {
        output: video
        for output, (sign, video) in entries.items()
        if sign == signs.get(output) and fingerprint(str(folder / output))[0] == video.bytes
    }
    todo = [task for output, task in tasks.items() if output not in prepared]
    if prepared:
        _log.info("%d of %d videos were written by an earlier run and are kept", len(prepared), len(tasks))
    kinds = {_kind(task.source) for task in todo} - {_kind(video.source) for video in prepared.values()}
    worse = {kind for kind in kinds if skip_slower and _copies_are_worse(kind, todo, encoding, videos.frame_rate)}
    skipped = {task.output: task.source for task in todo if _kind(task.source) in worse}
    todo = [task for task in todo if task.output not in skipped]
    failures: dict[str, Failure] = {}
    outcomes = Outcomes(len(tasks), was_read=bool(prepared))
    work = partial(_prepare_one, folder=folder, encoding=encoding, fps=videos.frame_rate)
    for one in progress(run_tasks(work, todo, workers=workers), len(todo)):
        output = one.task.output
        outcomes.add(one.task.source, one.reason if one.result is None else None)
        if one.result is None:
            failures[output] = Failure(one.task.source, one.reason)
        else:
            prepared[output] = one.result
            journal.append(_entry(signs[output], one.result))
    result = Preparation(
        folder / f"{name}.csv",
        tuple(prepared[output] for output in tasks if output in prepared),
        tuple(failures[output] for output in tasks if output in failures),
        len(todo) - len(failures),
        len(skipped),
    )
    num_frames = {output: video.frames for output, video in prepared.items() if not encoding.suffix}
    rows = []
    for row in videos.rows:
        output = names[row.path]
        if output in skipped:
            rows.append(row)
        else:
            rows.append(replace(row, path=os.fspath(folder / output), num_frames=num_frames.get(output)))
    _save(result, replace(videos, rows=rows))
    return result


def _kind(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _copies_are_worse(kind: str, tasks: Sequence[_Task], encoding: Encoding, fps: float) -> bool:
    """Whether copies of files with the suffix `kind` read slower and save no space, from a sample; logs both if so."""
    same = [task for task in tasks if _kind(task.source) == kind]
    slower: list[float] = []
    larger: list[float] = []
    for task in same[:: max(1, len(same) // _SAMPLE)][:_SAMPLE]:
        with TemporaryDirectory() as folder, suppress(Exception):  # the run reports what cannot be read
            copy = Path(folder) / f"copy{encoding.suffix}"
            made = prepare_video(task.source, copy, encoding, num_frames=task.num_frames, fps=fps)
            frames = None if encoding.suffix else made.frames
            source = _seconds(Row(task.source, num_frames=task.num_frames), fps)
            slower.append(_seconds(Row(os.fspath(copy), num_frames=frames), fps) / source)
            larger.append(made.bytes / made.source_bytes)
    if not slower or median(slower) < _SLOWER or median(larger) < _SMALLER:
        return False
    _log.warning(
        "%d videos (%s) are left as they are: in a sample of %d, copies take %.2f times as long to read and %.2f times "
        "the space. The list names the sources; --all copies them, too",
        *(len(same), kind or "folders", len(slower), median(slower), median(larger)),
    )
    return True


def _seconds(row: Row, fps: float) -> float:
    """CPU seconds to read SVT's views of a video; the minimum of three. Raises VideoReadError."""
    views, seconds = train_views(ViewsConfig()), []
    for _ in range(3):
        start, rng = time.process_time(), np.random.default_rng(0)
        with open_row(row, frame_rate=fps) as reader:
            frames, places = shared_frames(reader, views.indices(reader.num_frames, reader.fps, rng))
        views.make(frames, places, rng)
        seconds.append(time.process_time() - start)
    return min(seconds)


def _entry(sign: list[Any], video: PreparedVideo) -> dict[str, Any]:
    return {"sign": sign, "video": asdict(video)}


def _parse_entry(entry: dict[str, Any]) -> tuple[list[Any], PreparedVideo]:
    return entry["sign"], PreparedVideo(**entry["video"])


def _prepare_one(task: _Task, *, folder: Path, encoding: Encoding, fps: float) -> PreparedVideo:
    prepared = prepare_video(task.source, folder / task.output, encoding, num_frames=task.num_frames, fps=fps)
    return replace(prepared, output=task.output)


def _save(result: Preparation, videos: VideoList) -> None:
    """Writes the list, the report and, if videos failed, the failures."""
    videos.save(result.list)
    report = result.list.with_name(f"{result.list.stem}_report.csv")
    write_table(report, [field.name for field in fields(PreparedVideo)], map(astuple, result.videos))
    result.failure_list.unlink(missing_ok=True)
    if result.failures:
        write_table(result.failure_list, Failure._fields, result.failures)


def output_names(paths: Sequence[str], root: str, suffix: str) -> dict[str, str]:
    """The path of each output, relative to the output folder: the source's path below the root, with the new suffix.

    Without a common root, the deepest folder that holds all sources is the root. If two sources differ only in their
    suffix, the name keeps it; if two outputs still have the same name, it is a ValueError.
    """
    absolute = {path: _absolute(path) for path in paths}
    base = _absolute(root).rstrip("/") + "/"
    if not all(name.startswith(base) for name in absolute.values()):
        base = posixpath.commonpath([posixpath.dirname(name) for name in absolute.values()]).rstrip("/") + "/"
    stems = {name: name if os.path.isdir(path) else posixpath.splitext(name)[0] for path, name in absolute.items()}
    count = Counter(stems.values())
    outputs = {name: (name if count[stem] > 1 else stem).removeprefix(base) + suffix for name, stem in stems.items()}
    for output, n in Counter(outputs.values()).items():
        if n > 1:
            raise ValueError(
                f"{n} videos of the list would become {output}: rename them, or prepare them into different folders"
            )
    return {path: outputs[name] for path, name in absolute.items()}


def _absolute(path: str) -> str:
    """The absolute path of a file, or the path of a URL after its scheme."""
    return f"/{path.partition('://')[2]}" if is_url(path) else os.path.abspath(path)


def _check_output(folder: Path, videos: VideoList) -> None:
    """Raises ValueError for a folder where writing could destroy sources or other files of the user."""
    target = os.path.realpath(folder)
    sources = {os.path.dirname(os.path.realpath(path)) for path in videos.columns.paths() if not is_url(path)}
    if videos.format in ("class_folders", "folder") and not is_url(videos.root):
        sources.add(os.path.realpath(videos.root))
    inside = {target} & sources
    if videos.format != "video":
        inside = {source for source in sources if os.path.commonpath([source, target]) == source}
    if inside:
        raise ValueError(f"{folder} lies in {min(inside)}, which holds the sources; name a folder elsewhere")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder")
    foreign = [entry.name for entry in os.scandir(folder) if entry.name[0] != "."] if folder.exists() else []
    if foreign and not (folder / _JOURNAL).exists():
        raise ValueError(
            f"{folder} holds {foreign[0]}, which was not written by a run like this; name a new or empty folder"
        )
