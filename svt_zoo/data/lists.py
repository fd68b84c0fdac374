"""Lists of videos: read from all common formats into the same rows, with numeric labels and full paths."""

import hashlib
import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np

from ..files import is_url
from ..options import bounds
from .list_columns import Columns, ListError, classes_of
from .list_files import LinkResolver, find_videos, is_folder, slashes
from .list_formats import write_table
from .list_official import FORMATS, detect, read_labels
from .rows import Row as Row
from .rows import Rows


@dataclass(frozen=True)
class DataConfig:
    """The videos, and how they are read.

    Attributes:
        train: list or folder of the training videos, in any format that `read_list` knows; a path or a URL.
        val: list or folder of the evaluation videos.
        root: folder that the paths in the lists are relative to; by default the folder of each list.
        format: the format of the lists; "auto" detects it.
        where_train: rows to take from a table with columns, such as "split=train,set=ucf101".
        where_val: rows to take from the table of the evaluation videos.
        labels: file of class names.
        validation_fraction: fraction of the training groups of each class to hold out and evaluate on instead of `val`,
            to choose a recipe without looking at the test videos; 0 evaluates on `val`.
        fold: (k, n) evaluates on part k of n of `train` instead of `val`; `repeat.folds` sets it.
        subset: number of training videos to keep, drawn by the seed; null keeps all.
        allow_overlap: allow a training list that shares files or groups with the evaluation list.
        allow_cut: train on the frames that exist of files that were cut, which fail otherwise; see `svt-zoo check`.
        frame_rate: frames per second of frame folders, which do not store it.
        num_workers: processes that read videos; null is one per core, at most 8.
        batch_size: videos per batch in each process.
        max_failure_fraction: fraction of the training list that may be unreadable in an epoch before the run stops.
    """

    train: str = ""
    val: str = ""
    root: str | None = None
    format: str = "auto"
    where_train: str | None = None
    where_val: str | None = None
    labels: str | None = None
    validation_fraction: float = 0.0
    fold: tuple[int, int] | None = None
    subset: int | None = None
    allow_overlap: bool = False
    allow_cut: bool = False
    frame_rate: float = 30.0
    num_workers: int | None = None
    batch_size: int = 8
    max_failure_fraction: float = 0.01

    def __post_init__(self) -> None:
        bounds(self, "validation_fraction", low=0, high=0.99)
        bounds(self, "max_failure_fraction", low=0, high=1)
        if self.fold is not None and (not 0 <= self.fold[0] < self.fold[1] or self.validation_fraction):
            raise ValueError(f"fold must be (k, n) with 0 <= k < n and validation_fraction=0, got {self.fold}")
        bounds(self, "subset", "batch_size", low=1)
        bounds(self, "num_workers", low=0, high=1024)
        bounds(self, "frame_rate", above=0)

    def read(self, path: str, where: str | None, labels: str | Sequence[str] | None) -> "VideoList":
        """Reads `path` with the options of this section."""
        if not is_url(path) and not os.path.exists(path):
            raise FileNotFoundError(
                f"{path}: no such list, folder or video; data.train and data.val take yours, data.root the folder of a "
                "list's videos"
            )
        return read_list(
            path, root=self.root, format=self.format, labels=labels, where=where, frame_rate=self.frame_rate
        )


@dataclass(frozen=True)
class VideoList:
    """Videos in the order of their list.

    `classes[label]` is the name of a label; `classes` is empty if there are no labels, or only numbers without names.
    `frame_rate` is the rate of folders of frames in frames per second, because folders do not store it.
    """

    rows: Sequence[Row]
    classes: tuple[str, ...] = ()
    root: str = ""
    format: str = "csv"
    frame_rate: float = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.rows, Rows):
            object.__setattr__(self, "rows", Rows.of(self.rows))

    @property
    def columns(self) -> Rows:
        """The rows as columns, which are faster to go through than the rows."""
        return cast(Rows, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_classes(self) -> int:
        """Number of classes; without class names, the highest label plus one."""
        return len(self.classes) or int(self.columns.labels.max(initial=-1)) + 1

    @cached_property
    def sha256(self) -> str:
        """Hash of rows and class names; it does not depend on the location of the root."""
        rate = [] if self.frame_rate == 30.0 else [self.frame_rate]
        digest = hashlib.sha256(json.dumps([*self.classes, *rate]).encode())
        for rows in self.columns.as_json(self.root.rstrip("/") + "/"):
            digest.update(rows.encode())
        return digest.hexdigest()

    def subset(self, n: int, seed: int = 0) -> "VideoList":
        """Draws `n` of the videos with `seed`; keeps the order of the list. Raises ValueError if there are fewer."""
        if not 1 <= n <= len(self):
            raise ValueError(f"a subset of {n} videos was requested, the list has {len(self)}")
        chosen = np.random.default_rng(seed).permutation(len(self))[:n]
        return replace(self, rows=self.columns.take(np.sort(chosen)))

    def hold_out(self, fraction: float) -> tuple["VideoList", "VideoList"]:
        """Splits the list into a training and a validation part, for model selection without the test videos.

        Holds out a fraction of each class's complete groups, at least one per class that has two or more, and keeps at
        least one. A video without a group is its own group. The split depends only on the list.
        """
        groups: dict[int, dict[str, None]] = {}  # the groups of each label, in order; label -1 is none
        for label, group in zip(self.columns.labels.tolist(), self.columns.groups(), strict=True):
            groups.setdefault(label, {})[group] = None
        held: set[str] = set()
        for label, known in groups.items():
            names = list(known)
            order = np.random.default_rng(label + 1).permutation(len(names))
            number = min(max(1, round(fraction * len(names))), len(names) - 1)
            held |= {names[i] for i in order[:number]}
        return self._without(held)

    def fold(self, number: int, total: int) -> tuple["VideoList", "VideoList"]:
        """The videos outside and inside fold `number` of `total`; complete groups are dealt in turn, class by class."""
        by_class = self.columns.take(np.argsort(self.columns.labels, kind="stable"))
        names = list(dict.fromkeys(by_class.groups()))
        if len(names) < total:
            raise ListError(f"{len(names)} groups of videos cannot be divided into {total} folds; lower repeat.folds")
        return self._without(set(names[number::total]))

    def _without(self, groups: set[str]) -> tuple["VideoList", "VideoList"]:
        """The videos outside of `groups`, and those inside; a video without a group is its own."""
        inside = np.fromiter((group in groups for group in self.columns.groups()), bool, len(self))
        return replace(self, rows=self.columns.take(~inside)), replace(self, rows=self.columns.take(inside))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the list as a CSV with a header for `read_list`. File names that are not UTF-8 keep their bytes.

        Paths below the list's folder are relative to it, so that both can be moved; other paths are absolute.
        """
        base = os.path.join(Path(path).parent.absolute(), "")
        rows = []
        for row in self.rows:
            file = row.path if is_url(row.path) else str(Path(row.path).absolute()).removeprefix(base)
            if file != slashes(file.lstrip()):  # a list's reader would change it
                file = f"./{file}"
            name = self.classes[row.label] if self.classes and row.label is not None else ""
            rows.append((file, row.label, name, row.group, row.start_sec, row.end_sec, row.num_frames))
        write_table(path, ("file", "label", "class", "group", "start_sec", "end_sec", "num_frames"), rows)


def read_list(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    format: str = "auto",
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    where: str | Mapping[str, str] | None = None,
    frame_rate: float = 30.0,
) -> VideoList:
    """Reads a list of videos in any format of `FORMATS`.

    Args:
        path: a folder, a list, one video, or a URL of these.
        root: base folder of relative paths in the list; by default the folder of the list.
        format: a key of `FORMATS`; "auto" detects the format.
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
        raise FileNotFoundError(f"{source}: no such list, folder or video")
    if not is_url(source) and not os.path.isfile(source) and not os.path.isdir(source):
        raise ListError(f"{source}: a pipe or a device, which cannot be read twice; copy it to a file")
    if format not in ("auto", *FORMATS):
        raise ValueError(f"format must be auto, {', '.join(FORMATS)}; got {format!r}")
    if not frame_rate > 0:
        raise ValueError(f"frame_rate must be > 0, got {frame_rate}")
    kind = detect(source) if format == "auto" else format
    parsed = FORMATS[kind](source)
    if root is not None and kind != "video":
        base = os.fspath(root)
    else:
        base = source if kind in ("class_folders", "folder", "hmdb51") else posixpath.dirname(source) or "."
    wanted = _parse_where(where)
    columns = Columns(source, base, wanted, _stems(base) if parsed.by_stem else {})
    for block in parsed.blocks:
        columns.add(block)
    _check_filter(columns, parsed.choose)
    kept = columns.labels(kept=True)
    if not kept:
        raise ListError(f"{source}: no videos" + (f" with {where}" if where else "") + f" (read as {kind})")
    if labels is not None:
        classes = read_labels(labels) if isinstance(labels, str | os.PathLike) else tuple(labels)
    else:
        classes = parsed.classes or classes_of(source, columns.labels(kept=False))
    rows = columns.rows(classes)
    return VideoList(rows, classes if any(one.label for one in kept) else (), base, kind, frame_rate)


def list_columns(path: str, *, format: str = "auto") -> set[str]:
    """The columns of a list that `where` can filter by; empty for a format without columns."""
    parsed = FORMATS[detect(path) if format == "auto" else format](path)
    return {key for block in parsed.blocks for key in block.columns}


def training_list(data: DataConfig, *, seed: int = 0) -> VideoList:
    """The training videos of a recipe: reduced to the subset, and free of evaluation videos (else ValueError)."""
    if not data.train:
        raise ListError("data.train is empty; add data.train=LIST_OR_FOLDER")
    videos = data.read(data.train, data.where_train, data.labels)
    if data.fold:
        videos, _ = videos.fold(*data.fold)
    elif data.val:
        test = evaluation_list(replace(data, validation_fraction=0.0), classes=videos.classes)
        check_overlap(videos, test, allow=data.allow_overlap)
    if data.validation_fraction:
        videos, _ = videos.hold_out(data.validation_fraction)
    return videos if data.subset is None else videos.subset(data.subset, seed)


def evaluation_list(data: DataConfig, *, classes: Sequence[str] | None = None) -> VideoList:
    """The evaluation videos of a recipe, or the training videos that it holds out (`validation_fraction`).

    `classes` are the names of the training labels; evaluation uses the same labels.
    """
    labels = classes or data.labels
    if data.validation_fraction or data.fold:
        if not data.train:
            raise ListError("data.validation_fraction or fold takes a part of data.train, which is empty; add it")
        videos = data.read(data.train, data.where_train, labels)
        return (videos.fold(*data.fold) if data.fold else videos.hold_out(data.validation_fraction))[1]
    if not data.val:
        raise ListError("data.val is empty; add data.val=LIST_OR_FOLDER")
    return data.read(data.val, data.where_val, labels)


def check_overlap(train: VideoList, evaluation: VideoList, *, allow: bool = False) -> list[str]:
    """The files and groups, sorted, that are in both lists; ValueError if there are any, unless `allow`."""

    resolve = LinkResolver()

    def keys(videos: VideoList) -> Iterator[str]:
        for path, group in zip(videos.columns.paths(), videos.columns.groups(), strict=True):
            yield path if is_url(path) else resolve(path)
            if group != path:
                yield f"group {group}"

    shared = sorted({*keys(train)}.intersection(keys(evaluation)))
    if shared and not allow:
        raise ValueError(
            f"training and evaluation lists share {len(shared)} files or groups: {', '.join(shared[:5])}"
            f"{', ...' if len(shared) > 5 else ''}; use disjoint splits, or set data.allow_overlap"
        )
    return shared


def _parse_where(where: str | Mapping[str, str] | None) -> dict[str, str]:
    if isinstance(where, str):
        pairs = [part.partition("=") for part in where.split(",") if part.strip()]
        where = {key.strip(): value.strip() for key, _, value in pairs}
    return {key.lower(): str(value) for key, value in (where or {}).items()}


def _check_filter(columns: Columns, choose: Sequence[str]) -> None:
    """Raises ListError if the filter names no column of the list, or not those that it must name."""
    for key in columns.wanted:
        if key not in columns.names:
            names = ", ".join(sorted(columns.names))
            have = f"the columns are {names}" if names else "this format has no columns"
            raise ListError(f"{columns.source}: nothing to filter by {key!r}; {have}")
    if missing := [key for key in choose if key not in columns.wanted]:
        values = {key: sorted(columns.parts.get(key, ())) for key in missing}
        raise ListError(f"{columns.source}: several lists in one: choose with where= one of {values}")


def _stems(base: str) -> dict[str, str]:
    """The files below the root by their stems."""
    names = reversed(find_videos(base)) if is_folder(base) else ()
    return {posixpath.splitext(posixpath.basename(name))[0]: name for name in names}
