"""Reads lists of videos in all common formats into the same rows, with numeric labels and full paths."""

import csv
import hashlib
import json
import os
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..files import is_url
from . import list_formats as formats
from . import list_official as official
from .labels import named_classes, read_labels, resolve_labels
from .list_formats import Entry, ListError, Parsed, find_videos

PARSERS: dict[str, Callable[[str], Parsed]] = {
    "class_folders": formats.parse_class_folders,
    "folder": formats.parse_folder,
    "csv": formats.parse_csv,
    "parquet": formats.parse_parquet,
    "paths": formats.parse_paths,
    "ucf101": official.parse_ucf101,
    "hmdb51": official.parse_hmdb51,
    "kinetics": official.parse_kinetics,
    "ssv2": official.parse_ssv2,
    "ssv2_frames": official.parse_ssv2_frames,
    "rawframes": official.parse_rawframes,
    "cpc": official.parse_cpc,
}

_PARTS = ("split", "fold")  # columns that split a data set; its classes are those of all parts


@dataclass(frozen=True, slots=True)
class Row:
    """One video of a list: a file, or a folder of frames."""

    path: str
    label: int | None = None
    group: str | None = None  # videos of one group show the same scene; keep them on one side of a split
    start_sec: float | None = None  # the used part starts here
    end_sec: float | None = None  # the used part ends before this time
    num_frames: int | None = None  # of a folder of frames, from its list


@dataclass(frozen=True)
class VideoList:
    """Videos in the order of their list.

    `classes[label]` is the name of a label; `classes` is empty if there are no labels, or only numbers without names.
    `frame_rate` is the rate of folders of frames in frames per second, because folders do not store it.
    """

    rows: tuple[Row, ...]
    classes: tuple[str, ...] = ()
    root: str = ""
    format: str = "csv"
    frame_rate: float = 30.0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_classes(self) -> int:
        """Number of classes; without class names, the highest label plus one."""
        return len(self.classes) or max((row.label + 1 for row in self.rows if row.label is not None), default=0)

    @cached_property
    def sha256(self) -> str:
        """Hash of rows and class names; it does not depend on the location of the root."""
        root = self.root.rstrip("/") + "/"
        rate = [] if self.frame_rate == 30.0 else [self.frame_rate]
        digest = hashlib.sha256(json.dumps([*self.classes, *rate]).encode())
        for row in self.rows:
            cells = [row.path.removeprefix(root), row.label, row.group, row.start_sec, row.end_sec, row.num_frames]
            digest.update(json.dumps(cells).encode())
        return digest.hexdigest()

    def subset(self, n: int, seed: int = 0) -> "VideoList":
        """Draws `n` of the videos with `seed`; keeps the order of the list.

        Raises:
            ValueError: the list has fewer than `n` videos, or `n` is below 1.
        """
        if not 1 <= n <= len(self):
            raise ValueError(f"a subset of {n} videos was asked for, the list has {len(self)}")
        chosen = np.random.default_rng(seed).permutation(len(self))[:n]
        return replace(self, rows=tuple(self.rows[i] for i in sorted(chosen)))

    def hold_out(self, share: float) -> tuple["VideoList", "VideoList"]:
        """Splits the list into a training and a validation part, for model selection without the test videos.

        Holds out a fraction `share` of each class's complete groups, at least one per class that has two or more, and
        keeps at least one. A video without a group is its own group. The split depends only on the list.
        """
        groups: dict[int | None, dict[str, None]] = {}  # the groups of each label, in order
        for row in self.rows:
            groups.setdefault(row.label, {})[row.group or row.path] = None
        held: set[str] = set()
        for label, known in groups.items():
            names = list(known)
            order = np.random.default_rng(0 if label is None else label + 1).permutation(len(names))
            number = min(max(1, round(share * len(names))), len(names) - 1)
            held |= {names[i] for i in order[:number]}
        parts: tuple[list[Row], list[Row]] = ([], [])
        for row in self.rows:
            parts[(row.group or row.path) in held].append(row)
        return replace(self, rows=tuple(parts[0])), replace(self, rows=tuple(parts[1]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the list as a CSV with a header, which `read_list` can read."""
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "label", "class", "group", "start_sec", "end_sec", "num_frames"])
            for row in self.rows:
                name = self.classes[row.label] if self.classes and row.label is not None else ""
                writer.writerow([row.path, row.label, name, row.group, row.start_sec, row.end_sec, row.num_frames])


def read_list(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    format: str = "auto",
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    where: str | Mapping[str, str] | None = None,
    frame_rate: float = 30.0,
) -> VideoList:
    """Reads a list of videos in any format of `PARSERS`.

    Args:
        path: a folder, a file, or a URL of either.
        root: base folder of relative paths in the list; by default the folder of the list.
        format: a key of `PARSERS`; "auto" detects the format.
        labels: class names in the order of their labels, or a file of them (`read_labels`). For an evaluation list,
            pass `classes` of the training list, so that both use the same labels.
        where: keeps the rows whose columns have these values: `"split=train,set=ucf101"` or a mapping. HMDB-51 has
            the columns `fold` (1, 2, 3) and `split` (train, test). Class names come from all rows that match
            the other columns, regardless of split and fold.
        frame_rate: frames per second of folders of frames, because folders do not store it.

    Raises:
        ValueError: the format is unknown, or the frame rate is not above 0.
        ListError: the list, a label or the filter is invalid; the message names the file, the line and a solution.
        OSError: the list cannot be read or fetched.
    """
    source = os.fspath(path)
    if not is_url(source) and not os.path.exists(source):
        raise FileNotFoundError(f"{source}: no such list or folder of videos")
    if format not in ("auto", *PARSERS):
        raise ValueError(f"format must be auto, {', '.join(PARSERS)}; got {format!r}")
    if not frame_rate > 0:
        raise ValueError(f"frame_rate is a number of frames per second above 0, got {frame_rate}")
    try:
        kind = detect(source) if format == "auto" else format
        parsed = PARSERS[kind](source)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ListError(f"{source} is not a list of text in UTF-8: {error}") from error
    wanted = _wanted(where)
    entries = _filter(source, parsed, wanted)
    if not entries:
        raise ListError(f"{source}: no videos" + (f" with {where}" if where else "") + f" (read as {kind})")
    if root is not None:
        base = os.fspath(root)
    else:
        base = source if kind in ("class_folders", "folder", "hmdb51") else posixpath.dirname(source) or "."
    data_set = {key: value for key, value in wanted.items() if key not in _PARTS}
    classes = parsed.classes or named_classes(source, [entry for entry in parsed.entries if _matches(entry, data_set)])
    if labels is not None:
        classes = read_labels(labels) if isinstance(labels, str | os.PathLike) else tuple(labels)
    paths = _resolve_paths(entries, base)
    numbers = resolve_labels(source, entries, classes)
    rows = (
        Row(path, number, entry.group, entry.start_sec, entry.end_sec, entry.num_frames)
        for path, number, entry in zip(paths, numbers, entries, strict=True)
    )
    return VideoList(tuple(rows), classes if any(entry.label for entry in entries) else (), base, kind, frame_rate)


def detect(path: str) -> str:
    """Detects the format, a key of `PARSERS`, of the list at `path`.

    Raises:
        ListError: no format fits.
    """
    name, suffix = posixpath.basename(path), posixpath.splitext(path)[1].lower()
    if suffix in (".json", ".parquet"):
        return "ssv2" if suffix == ".json" else "parquet"
    if official.UCF_FILE.fullmatch(name):
        return "ucf101"
    if official.HMDB_FILE.fullmatch(name):
        raise ListError(
            f"{path} is one class of an HMDB-51 split: give the folder of all 51 and where='fold=1,split=train'"
        )
    if formats.is_folder(path):
        if any(official.HMDB_FILE.fullmatch(file) for file in official.files_in(path)):
            return "hmdb51"
        parts = [video.split("/") for video in find_videos(path)]
        in_classes = all(len(part) == 2 for part in parts) and len({part[0] for part in parts}) > 1
        return "class_folders" if in_classes else "folder"
    _, first = next(formats.lines(path), (0, ""))
    header = {column.strip().lower() for column in re.split(r"[,\t ]", first)}
    if "youtube_id" in header:
        return "kinetics"
    if {"video_id", "frame_id", "path"} <= header:
        return "ssv2_frames"
    if formats.VIDEO_LINE.fullmatch(first):
        return "paths"
    if header & set(formats.PATH_COLUMNS):
        return "csv"
    if re.fullmatch(r".+/,\s*\d+", first):
        return "cpc"
    if re.fullmatch(r".*\S[ \t]+\d+[ \t]+\d+", first):
        return "rawframes"
    if re.fullmatch(r".*\S[ \t,]+\d+", first):
        return "paths"
    raise ListError(
        f"{path}: its first line, {first[:80]!r}, is of no known format; accepted are a CSV with a header that names "
        f"{' or '.join(formats.PATH_COLUMNS)}, lines of `path label`, or format= one of {', '.join(PARSERS)}"
    )


def check_overlap(train: VideoList, evaluation: VideoList, *, allow: bool = False) -> list[str]:
    """Returns the files and groups, sorted, that are in both the training list and the evaluation list.

    Raises:
        ValueError: the lists share files or groups, and `allow` is False.
    """

    def keys(videos: VideoList) -> set[str]:
        files = {row.path if is_url(row.path) else os.path.realpath(row.path) for row in videos.rows}
        return files | {f"group {row.group}" for row in videos.rows if row.group is not None}

    shared = sorted(keys(train) & keys(evaluation))
    if shared and not allow:
        raise ValueError(
            f"training and evaluation lists share {len(shared)} files or groups: {', '.join(shared[:5])}"
            f"{', ...' if len(shared) > 5 else ''}; use disjoint splits, or set data.allow_overlap"
        )
    return shared


def _wanted(where: str | Mapping[str, str] | None) -> dict[str, str]:
    """Parses `where` into columns and required values."""
    if isinstance(where, str):
        pairs = [part.partition("=") for part in where.split(",") if part.strip()]
        where = {key.strip(): value.strip() for key, _, value in pairs}
    return {key: str(value) for key, value in (where or {}).items()}


def _matches(entry: Entry, wanted: Mapping[str, str]) -> bool:
    return all(entry.columns.get(key) == value for key, value in wanted.items())


def _filter(source: str, parsed: Parsed, wanted: Mapping[str, str]) -> list[Entry]:
    columns = {key for entry in parsed.entries for key in entry.columns}
    for key in wanted:
        if key not in columns:
            have = f"the columns are {', '.join(sorted(columns))}" if columns else "this format has no columns"
            raise ListError(f"{source}: nothing to filter by {key!r}; {have}")
    if missing := [key for key in parsed.choose if key not in wanted]:
        values = {key: sorted({entry.columns[key] for entry in parsed.entries}) for key in missing}
        raise ListError(f"{source}: several lists in one: choose with where= one of {values}")
    return [entry for entry in parsed.entries if _matches(entry, wanted)]


def _resolve_paths(entries: Sequence[Entry], base: str) -> list[str]:
    """Full paths: under the root, or the file with that stem anywhere below the root."""
    by_stem: dict[str, str] = {}
    if any(entry.by_stem for entry in entries) and formats.is_folder(base):
        by_stem = {posixpath.splitext(posixpath.basename(name))[0]: name for name in reversed(find_videos(base))}
    paths = []
    for entry in entries:
        name = by_stem.get(posixpath.splitext(entry.path)[0], entry.path) if entry.by_stem else entry.path
        paths.append(name if is_url(name) else posixpath.join(base, name))
    return paths
