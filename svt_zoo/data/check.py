"""Checks every video of a list: the reader that training uses decodes each video to its end.

The check finds only damage that the decoder reports; a flipped bit may change a frame without an error. The report
holds the hash of each file, which shows whether the file has changed since the check.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..files import is_url, local_path, output_file, sha256_of
from ..video import VideoReadError, open_video
from ..video.frames import FrameFolder, is_image
from .datasets import CUT
from .list_formats import parquet_or_csv, printable, write_table
from .lists import VideoList
from .pool import Journal, Outcomes, fingerprint, progress, run_tasks

_log = logging.getLogger(__name__)
_VERSION = 2  # of the check; an earlier result is not reused. 2: files that were cut


@dataclass(frozen=True)
class CheckedVideo:
    """One row of the report.

    Attributes:
        path: the file or folder of frames, as in the list.
        status: "ok", "broken", "missing", or "cut": the file ends before the duration that it states.
        reason: what is wrong.
        codec, container: FFmpeg's names.
        width, height: size of the frames after rotation to upright, in pixels.
        frames: number of frames; for a broken file, the number that its header states.
        fps: average frames per second; None for a folder of frames.
        duration: in seconds.
        bytes: size of the file, or of all frames of a folder.
        sha256: hash of the file, or of all frames of a folder.
        duplicate_of: the first path in the list with the same content.
    """

    path: str
    status: Literal["ok", "broken", "missing", "cut"]
    reason: str = ""
    codec: str | None = None
    container: str | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration: float | None = None
    bytes: int | None = None
    sha256: str | None = None
    duplicate_of: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """All rows, in the order of the list, and the file that they are written to."""

    videos: tuple[CheckedVideo, ...]
    path: Path

    @property
    def sound(self) -> bool:
        """Whether all videos are ok."""
        return not self.bad

    @property
    def bad(self) -> list[CheckedVideo]:
        """Videos that are not ok."""
        return [video for video in self.videos if video.status != "ok"]

    def summary(self) -> str:
        """Counts in one line."""
        counts = Counter(video.status for video in self.videos)
        copies = sum(video.duplicate_of is not None for video in self.videos)
        hours = sum(video.duration or 0.0 for video in self.videos) / 3600
        size = sum(video.bytes or 0 for video in self.videos) / 1e9
        return (
            f"{len(self.videos)} videos: {counts['ok']} ok, {counts['broken']} broken, {counts['missing']} missing, "
            f"{counts['cut']} cut; {copies} duplicates; {hours:.2f} hours, {size:.2f} GB"
        )

    def describe(self, most: int = 20) -> str:
        """Counts, the path of the report, and the names of at most `most` bad videos and `most` duplicates."""
        bad = [f"{video.status}: {video.path}: {video.reason}" for video in self.bad]
        copies = [f"duplicate: {v.path} has the content of {v.duplicate_of}" for v in self.videos if v.duplicate_of]
        lines = [self.summary(), f"report: {self.path}"]
        for listed in (bad, copies):
            lines += map(printable, listed[:most])
            if len(listed) > most:
                lines.append(f"... and {len(listed) - most} more in the report")
        return "\n".join(lines)

    def save(self) -> None:
        """Writes the rows as Parquet or CSV, by the suffix; the file is replaced atomically."""
        # A column that holds only None would have no type.
        types: dict[Any, str] = {int | None: "int64", float | None: "double"}
        columns = {field.name: types.get(field.type, "string") for field in fields(CheckedVideo)}
        write_table(self.path, columns, map(astuple, self.videos), columns)


def check_videos(
    videos: VideoList, report: str | os.PathLike[str], *, workers: int = 1, again: bool = False
) -> CheckReport:
    """Decodes every video of a list to its end and writes the report, .csv or .parquet (.csv without pyarrow).

    A journal next to the report, `<report>.jsonl`, records each result immediately. A run that was stopped continues
    where it stopped. A later run decodes only files that are new, have changed or were not sound, or all (`again`).

    Raises:
        CommonFailure: the first videos all fail for the same reason.
        ValueError: the report has another suffix, or its path is not writable.
    """
    target = parquet_or_csv(output_file(report, ".parquet", ".csv"))
    journal = Journal(target.with_name(f"{target.name}.jsonl"))
    tasks = list({row.path: (row.path, row.num_frames) for row in videos.rows}.values())
    keys = {path: _key(path, num_frames) for path, num_frames in tasks}
    earlier = {} if again else {key: video for key, video in journal.read(_parse_entry) if video.status == "ok"}
    checked = {path: replace(earlier[key], path=path) for path, key in keys.items() if key in earlier}
    journal.start({"key": key, **asdict(video)} for key, video in earlier.items())
    todo = [task for task in tasks if task[0] not in checked]
    if checked:
        _log.info("%d of %d videos were sound in an earlier run and are not read again", len(checked), len(tasks))
    outcomes = Outcomes(len(tasks), was_read=bool(checked))
    results = run_tasks(check_video, todo, workers=workers)
    for one in progress(results, len(todo), is_good=lambda video: video.status == "ok"):
        video = one.result or CheckedVideo(one.task[0], "broken", one.reason)
        outcomes.add(video.path, None if video.status in ("ok", "cut") else video.reason)
        checked[video.path] = video
        journal.append({"key": keys[video.path], **asdict(video)})
    result = CheckReport(_with_duplicates([checked[path] for path, _ in tasks]), target)
    result.save()
    return result


def _parse_entry(entry: dict[str, Any]) -> tuple[tuple[Any, ...], CheckedVideo]:
    return tuple(entry.pop("key")), CheckedVideo(**entry)


def check_video(task: tuple[str, int | None]) -> CheckedVideo:
    """Decodes the video `(path, num_frames)` to its end; `num_frames` is for a folder of frames. Raises nothing."""
    path, num_frames = task
    facts: dict[str, Any] = {}
    try:
        file = local_path(path)
        if not os.path.exists(file):
            return CheckedVideo(path, "missing", "no such file or directory")
        if os.path.isdir(file):
            facts |= _read_folder(file, num_frames)
        else:
            if os.path.isfile(file):  # opening a pipe would block
                facts["bytes"], facts["sha256"] = os.path.getsize(file), sha256_of(file)
            _read_file(file, facts)
    except VideoReadError as error:
        return CheckedVideo(path, "broken", error.reason, **facts)
    except OSError as error:
        return CheckedVideo(path, "missing" if is_url(path) else "broken", str(error), **facts)
    return CheckedVideo(path, **{"status": "ok", **facts})


def _read_file(path: str, facts: dict[str, Any]) -> None:
    """Decodes a file to its end, and fills `facts`: metadata first, so that broken files have it too."""
    with open_video(path) as video:
        facts |= {name: getattr(video, name) for name in ("codec", "container", "width", "height", "fps", "duration")}
        facts["frames"] = video.num_frames
        for _ in video._decode(range(video.num_frames)):  # one at a time: a long video would not fit in memory
            pass
        if video.cut:
            facts |= {"status": "cut", "reason": CUT}


def _read_folder(path: str, num_frames: int | None) -> dict[str, Any]:
    files = sorted(entry.path for entry in os.scandir(path) if is_image(entry.name))
    folder = FrameFolder(path, num_frames=num_frames)
    for _, image in folder._decode(range(folder.num_frames)):  # reads each
        height, width, _ = image.shape
    return {
        "codec": os.path.splitext(files[0])[1].lower().lstrip("."),
        "container": "folder",
        "width": width,
        "height": height,
        "frames": folder.num_frames,
        "bytes": sum(os.path.getsize(file) for file in files),
        "sha256": sha256_of(*files),
    }


def _with_duplicates(videos: Sequence[CheckedVideo]) -> tuple[CheckedVideo, ...]:
    first = {video.sha256: video.path for video in reversed(videos)}  # by the content
    originals = (first[video.sha256] if video.sha256 else video.path for video in videos)
    return tuple(
        replace(video, duplicate_of=original if original != video.path else None)
        for video, original in zip(videos, originals, strict=True)
    )


def _key(path: str, num_frames: int | None) -> tuple[str, int | None, int, int, int]:
    """The key that shows whether a video or the check has changed, independent of the working directory."""
    return path if is_url(path) else os.path.abspath(path), num_frames, *fingerprint(path), _VERSION


def default_report(source: str) -> Path:
    """The default path of the report on a list or folder: one file for each source, named after it."""
    path = Path(source).resolve()
    name, place = path.stem if path.is_file() else path.name, hashlib.sha256(os.fsencode(path)).hexdigest()[:6]
    return Path("runs", f"data_report_{name}_{place}.parquet")
