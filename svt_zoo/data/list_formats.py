"""Parsers for general list formats: folders, tables with a header, `path label` lines. Each returns entries."""

import csv
import json
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..files import is_url, list_remote, local_path
from ..video.frames import is_image

_suffixes = "3gp|avi|flv|h264|m2ts|m4v|mkv|mov|mp4|mpeg|mpg|mts|ogv|ts|vob|webm|wmv"
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _suffixes.split("|"))
PATH_COLUMNS = ("file", "path", "video", "video_path", "filename")

# The path ends at the last video suffix that ends a word. This separates spaces in the path from spaces after it.
VIDEO_LINE = re.compile(rf"(.*\.(?:{_suffixes})\"?)(?:[ \t,]+(.*))?", re.IGNORECASE)

# File names of UCF-101 and HMDB-51 contain the recording that a clip was cut from.
_UCF_NAME = re.compile(r"(v_\w+_g\d+)_c\d+")
_HMDB_NAME = re.compile(r"(.+)_[hulf]_(?:cm|nm)_np\d_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+")


@dataclass(slots=True)
class Entry:
    """One video as described by its list, before labels and paths are resolved."""

    path: str
    line: int = 0  # line number in the list; 0 for none
    label: str = ""  # a name or a number; empty for none
    name: str = ""  # class name, if the list has both a number and a name
    group: str | None = None
    start_sec: float | None = None
    end_sec: float | None = None
    num_frames: int | None = None  # of a folder of frames
    columns: Mapping[str, str] = field(default_factory=dict)  # columns for filters
    by_stem: bool = False  # `path` is only a stem: search for the file below the root


@dataclass(slots=True)
class Parsed:
    """The result of a parser: the entries and the properties of the list."""

    entries: list[Entry]
    classes: tuple[str, ...] = ()  # class names in the order of the labels, if the format has them
    choose: tuple[str, ...] = ()  # columns that a filter must name


class ListError(ValueError):
    """A list cannot be parsed; the message names the file, the line and the accepted formats."""


def error_at(source: str, line: int, message: str) -> ListError:
    """Makes the error for one line of a list."""
    return ListError(f"{source}, line {line}: {message}" if line else f"{source}: {message}")


def lines(path: str) -> Iterator[tuple[int, str]]:
    """Yields the number, from 1, and the text of each line that is not empty."""
    with open(local_path(path), encoding="utf-8-sig") as file:
        try:
            for number, text in enumerate(file, start=1):
                if text := text.strip():
                    yield number, text
        except UnicodeDecodeError as error:
            raise ListError(f"{path} is not text in UTF-8: {error}") from error


def load_json(path: str) -> Any:
    """Loads a json file."""
    with open(local_path(path), encoding="utf-8-sig") as file:
        try:
            return json.load(file)
        except ValueError as error:  # not json, or not UTF-8
            raise ListError(f"{path} is not json: {error}") from error


def is_folder(path: str) -> bool:
    """Whether `path`, local or a URL, is a folder."""
    return list_remote(path) is not None if is_url(path) else os.path.isdir(path)


def find_videos(root: str) -> list[str]:
    """Videos below `root`, relative to it and sorted: files with a video suffix, and folders that hold only images.

    Skips hidden files and folders, and follows links. Below a URL it finds only files.
    """
    if is_url(root):
        names = list_remote(root) or []
        return [name for name in names if is_video(name) and not re.search(r"(^|/)\.", name)]
    found: list[str] = []
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder already visited
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        videos = [posixpath.normpath(f"{below}/{name}") for name in names if is_video(name)]
        found += videos
        if below != "." and not videos and not subfolders and any(is_image(name) for name in names):
            found.append(below)
    return sorted(found)


def is_video(name: str) -> bool:
    """Whether a file name is that of a video: visible, with one of VIDEO_SUFFIXES."""
    return posixpath.splitext(name)[1].lower() in VIDEO_SUFFIXES and not posixpath.basename(name).startswith(".")


def group_of(path: str) -> str | None:
    """The recording of a clip of UCF-101 or HMDB-51, from its file name; None for other names."""
    stem = re.sub(rf"\.(?:{_suffixes})$", "", posixpath.basename(path.rstrip("/")))
    match = _UCF_NAME.fullmatch(stem) or _HMDB_NAME.fullmatch(stem)
    return match[1] if match else None


def slashes(path: str) -> str:
    """Replaces backslashes in a path by slashes, unless the path has both."""
    return path.replace("\\", "/") if "/" not in path else path


def parse_class_folders(path: str) -> Parsed:
    """`root/class/video`: the sorted folder names are the classes."""
    found = [name for name in find_videos(path) if "/" in name]
    entries = [Entry(name, label=name.split("/")[0], group=group_of(name)) for name in found]
    return Parsed(entries, tuple(sorted({entry.label for entry in entries})))


def parse_folder(path: str) -> Parsed:
    """Every video below a folder, without labels."""
    return Parsed([Entry(name, group=group_of(name)) for name in find_videos(path)])


def parse_csv(path: str) -> Parsed:
    """CSV with a header: a column for the file, and optional label, class, group, start_sec, end_sec, num_frames.

    Filters can use the other columns. The separator may also be a tab.
    """
    with open(local_path(path), encoding="utf-8-sig", newline="") as file:
        tabs = "\t" in file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter="\t" if tabs else ",")
        reader.fieldnames = [column.strip().lower() for column in reader.fieldnames or ()]
        rows = ((reader.line_num, {key: value or "" for key, value in row.items() if key}) for row in reader)
        return Parsed(_table(path, reader.fieldnames, rows))


def parse_parquet(path: str) -> Parsed:
    """Parquet with the columns of `parse_csv`; needs the extra `parquet`."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ListError(f"{path}: a Parquet list needs pyarrow: pip install pyarrow") from error
    table = pyarrow.parquet.read_table(local_path(path))
    columns = [column.strip().lower() for column in table.column_names]
    values = zip(*(column.to_pylist() for column in table.columns), strict=True)
    texts = (["" if value is None else str(value) for value in row] for row in values)
    return Parsed(_table(path, columns, enumerate((dict(zip(columns, row, strict=True)) for row in texts), start=1)))


def parse_paths(path: str) -> Parsed:
    """Lines of `path`, `path label`, `path,label` or `path name label`; a label is a number or a name.

    Spaces in a path are kept if it ends in a video suffix. SlowFast, SVT, VideoMAE and mmaction2 use these formats.
    """
    entries: list[Entry] = []
    for line, text in lines(path):
        match = VIDEO_LINE.fullmatch(text) or re.fullmatch(r"(.*\S)[ \t,]+(\S+)", text) or re.fullmatch(r"(.*)()", text)
        assert match is not None  # the last pattern matches any line
        file, label, name = slashes(match[1].strip('"')), match[2] or "", ""
        if (both := re.fullmatch(r"(.*\S)[ \t]+(\d+)", label)) and not both[1].isdigit():
            name, label = both[1], both[2]
        if entries and bool(label) != bool(entries[0].label):
            raise error_at(path, line, f"{text!r}: either every line has a label or none has")
        entries.append(Entry(file, line, label, name, group_of(file)))
    return Parsed(entries)


def _table(path: str, columns: Iterable[str], rows: Iterable[tuple[int, Mapping[str, str]]]) -> list[Entry]:
    columns = list(columns)
    file = next((column for column in PATH_COLUMNS if column in columns), None)
    if file is None:
        raise ListError(f"{path}: one column has to be {' or '.join(PATH_COLUMNS)}, the header has {columns}")

    def number(row: Mapping[str, str], line: int, column: str) -> float | None:
        text = row.get(column, "").strip()
        try:
            return float(text) if text else None
        except ValueError as error:
            raise error_at(path, line, f"{column} is a number or empty, got {text!r}") from error

    entries = []
    for line, row in rows:
        if not row[file].strip():
            raise error_at(path, line, f"the column {file} is empty")
        name, frames = row.get("class", "").strip(), number(row, line, "num_frames")
        entries.append(
            Entry(
                slashes(row[file].strip()),
                line,
                label=row.get("label", "").strip() or name,
                name=name,
                group=row.get("group", "").strip() or group_of(row[file]),
                start_sec=number(row, line, "start_sec"),
                end_sec=number(row, line, "end_sec"),
                num_frames=None if frames is None else int(frames),
                columns=row,
            )
        )
    return entries
