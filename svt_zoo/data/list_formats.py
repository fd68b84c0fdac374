"""Parsers for general list formats: folders, tables with a header, `path label` lines. Each returns entries."""

import csv
import json
import math
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ..files import atomic, is_url, list_remote, local_path
from ..video.frames import is_image

_suffixes = "3gp|avi|flv|h264|m2ts|m4v|mkv|mov|mp4|mpeg|mpg|mts|ogv|ts|vob|webm|wmv"
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _suffixes.split("|"))
_MAX_CLASSES = 1_000_000
PATH_COLUMNS = ("file", "path", "video", "video_path", "filename")

# The path ends at the last video suffix that ends a word, because paths may contain spaces.
VIDEO_LINE = re.compile(rf"(.*\.(?:{_suffixes})\"?)(?:[ \t,]+(.*))?", re.IGNORECASE)

# File names of UCF-101 and HMDB-51 contain the recording that a clip was cut from.
_UCF_NAME = re.compile(r"(v_\w+_g\d+)_c\d+")
_HMDB_NAME = re.compile(r"(.+)_[hulf]_(?:cm|nm)_np\d_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+")


class ListError(ValueError):
    """A list cannot be parsed; the message names the file, the line and the accepted formats."""


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


def error_at(source: str, line: int, message: str) -> ListError:
    """Makes the error for one line of a list."""
    return ListError(f"{source}, line {line}: {message}" if line else f"{source}: {message}")


def open_text(path: str) -> TextIO:
    """Opens a list, local or a URL. Bytes that are not UTF-8 become surrogates, as in Python's file names."""
    return open(local_path(path), encoding="utf-8-sig", errors="surrogateescape", newline="")


def lines(path: str) -> Iterator[tuple[int, str]]:
    """Yields the number, from 1, and the text of each line that is not empty."""
    with open_text(path) as file:
        for number, text in enumerate(file, start=1):
            if "\0" in text:
                message = "contains a NUL character, so it is not text in UTF-8; format=video reads a video"
                raise error_at(path, number, message)
            if text := text.strip():
                yield number, text


def matching_lines(path: str, pattern: str, expected: str) -> Iterator[tuple[int, re.Match[str]]]:
    """Yields number and match of each line that is not empty; raises ListError for a line that does not match."""
    for line, text in lines(path):
        match = re.fullmatch(pattern, text)
        if match is None:
            raise error_at(path, line, f"`{expected}` was expected, got {text!r}")
        yield line, match


def table(path: str, separator: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the line number and the cells, by column, of each row of a table with a header."""
    with open_text(path) as file:
        reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
        header: list[str] = []
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise error_at(path, line, f"a cell has wrong quotes ({error}); close them, or double them") from None
            if not header:
                header = [cell.strip().lower() for cell in cells]
                if len(set(header)) < len(header):
                    raise error_at(path, line, f"two columns have the same name: {', '.join(header)}")
            elif len(cells) == len(header):
                yield line, dict(zip(header, cells, strict=True))
            elif cells:
                advice = f"; put quotes around a cell with {separator!r}" if len(cells) > len(header) else ""
                columns = f"the header has {len(header)} columns: {', '.join(header)}"
                raise error_at(path, line, f"the row has {len(cells)} cells, {columns}{advice}")


def write_table(path: str | os.PathLike[str], header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file atomically. File names that are not UTF-8 keep their bytes."""
    with atomic(Path(path)) as part, open(part, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def valid_utf8(text: str) -> str:
    r"""The text with `\xNN` for each byte of a file name that is not UTF-8, for formats that refuse such bytes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def load_json(path: str) -> Any:
    """Loads a json file."""
    with open_text(path) as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise ListError(f"{path} is not json: {error}") from error


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


def group_of(path: str) -> str | None:
    """The recording of a clip of UCF-101 or HMDB-51, from its file name; None for other names."""
    stem = re.sub(rf"\.(?:{_suffixes})$", "", posixpath.basename(path.rstrip("/")), flags=re.IGNORECASE)
    match = _UCF_NAME.fullmatch(stem) or _HMDB_NAME.fullmatch(stem)
    return match[1] if match else None


def slashes(path: str) -> str:
    """Replaces backslashes in a path by slashes, unless the path has both."""
    return path.replace("\\", "/") if "/" not in path else path


def parse_class_folders(path: str) -> Parsed:
    """`root/class/video`: the sorted folder names are the classes."""
    names = [name for name in find_videos(path) if "/" in name]
    entries = [Entry(name, label=name.split("/")[0], group=group_of(name)) for name in names]
    return Parsed(entries, tuple(sorted({entry.label for entry in entries})))


def parse_folder(path: str) -> Parsed:
    """Every video below a folder, without labels."""
    return Parsed([Entry(name, group=group_of(name)) for name in find_videos(path)])


def parse_video(path: str) -> Parsed:
    """One video, without a label."""
    return Parsed([Entry(path if is_url(path) else os.path.basename(path), group=group_of(path))])


def parse_csv(path: str) -> Parsed:
    """CSV with a header: a column for the file, and optional label, class, group, start_sec, end_sec, num_frames.

    Filters can use the other columns. The separator may also be a tab.
    """
    _, first = next(lines(path), (0, ""))
    return Parsed(_entries(path, table(path, "\t" if "\t" in first else ",")))


def parse_parquet(path: str) -> Parsed:
    """Parquet with the columns of `parse_csv`; needs the extra `parquet`."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ListError(f"{path}: a Parquet list needs pyarrow: pip install pyarrow") from error
    try:
        rows = pyarrow.parquet.read_table(local_path(path)).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ListError(f"{path}: not a complete Parquet file ({error})") from None
    texts = ({key.strip().lower(): "" if cell is None else str(cell) for key, cell in row.items()} for row in rows)
    return Parsed(_entries(path, enumerate(texts, start=1)))


def parse_paths(path: str) -> Parsed:
    """Lines of `path`, `path label`, `path,label` or `path name label`; a label is a number or a name.

    Spaces in a path are kept if it ends in a video suffix. SlowFast, SVT, VideoMAE and mmaction2 use these formats.
    """
    entries: list[Entry] = []
    for line, text in lines(path):
        match = VIDEO_LINE.fullmatch(text) or re.fullmatch(r"(.*\S)[ \t,]+(\S+)", text) or re.fullmatch(r"(.*)()", text)
        assert match is not None  # the last pattern matches any line
        file, label, name = slashes(match[1].strip('"')), match[2] or "", ""
        if re.fullmatch(r"-?\d+([ \t,]+-?\d+)+", label) or "," in label:
            raise error_at(
                path,
                line,
                f"one label expected after the path, got {label!r}; `path num_frames label` is read by "
                "format=rawframes, other columns with a header such as file,label,...",
            )
        if (both := re.fullmatch(r"(.*\S)[ \t]+(\d+)", label)) and not both[1].isdigit():
            name, label = both[1], both[2]
        if entries and bool(label) != bool(entries[0].label):
            raise error_at(path, line, f"{text!r}: either every line has a label or none has")
        entries.append(Entry(file, line, label, name, group_of(file)))
    return Parsed(entries)


def _entries(path: str, rows: Iterable[tuple[int, Mapping[str, str]]]) -> list[Entry]:
    """The entries of a table, given as line numbers and cells by column."""
    entries = []
    for line, row in rows:
        file = next((column for column in PATH_COLUMNS if column in row), None)
        if file is None:
            raise ListError(f"{path}: one column has to be {' or '.join(PATH_COLUMNS)}, the header has {list(row)}")
        if not row[file].strip():
            raise error_at(path, line, f"the column {file} is empty")
        start, end, frames = (_number(path, line, row, column) for column in ("start_sec", "end_sec", "num_frames"))
        if end is not None and end <= (start or 0.0):
            raise error_at(path, line, f"end_sec must be > start_sec, got {start or 0.0:g} to {end:g}")
        name = row.get("class", "").strip()
        entries.append(
            Entry(
                slashes(row[file].strip()),
                line,
                label=row.get("label", "").strip() or name,
                name=name,
                group=row.get("group", "").strip() or group_of(row[file]),
                start_sec=start,
                end_sec=end,
                num_frames=None if frames is None else int(frames),
                columns=row,
            )
        )
    return entries


def _number(path: str, line: int, row: Mapping[str, str], column: str) -> float | None:
    text = row.get(column, "").strip()
    try:
        number = float(text or 0)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise error_at(path, line, f"{column} must be a number >= 0 or empty, got {text!r}")
    return number if text else None


def normalize_label(source: str, entry: Entry) -> None:
    """Writes a label such as 2.0 as 2, and -1 as no label; refuses paths and labels that no file or class can have."""
    if "\0" in entry.path:
        raise error_at(source, entry.line, f"{entry.path!r} contains a NUL character; the list is not text in UTF-8")
    if any("\udc80" <= letter <= "\udcff" for letter in entry.label + entry.name):
        raise error_at(source, entry.line, f"the label {entry.label!r} is not text in UTF-8")
    if number := re.fullmatch(r"(-?\d+)(\.0*)?", entry.label):
        entry.label = "" if number[1] == "-1" else number[1]
        if not -1 <= float(number[1]) < _MAX_CLASSES:
            message = f"a label must be >= 0 (or -1 for none) and < {_MAX_CLASSES}, got {number[1]}"
            raise error_at(source, entry.line, message)


def classes_of(source: str, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Class names of a list without a class file: its labels, sorted, or the names next to its numbers."""
    labeled = [entry for entry in entries if entry.label]
    if not all(entry.label.isdecimal() for entry in labeled):
        return tuple(sorted({entry.label for entry in labeled}))
    names: dict[int, str] = {}
    for entry in labeled:
        number = int(entry.label)
        if entry.name and names.setdefault(number, entry.name) != entry.name:
            raise error_at(source, entry.line, f"label {number} is {entry.name!r} here and {names[number]!r} before")
    return tuple(names.get(number, str(number)) for number in range(max(names) + 1)) if names else ()


def resolve_labels(source: str, entries: Sequence[Entry], classes: Sequence[str]) -> list[int | None]:
    """Labels as numbers. Matches names exactly, then without case, quotes and underscores; keeps numbers."""
    exact = {name: number for number, name in enumerate(classes)}
    loose = {_fold(name): number for number, name in enumerate(classes)}
    numbers: list[int | None] = []
    for entry in entries:
        text = entry.name if entry.name and classes else entry.label
        number = exact.get(text, loose.get(_fold(text)))
        if number is None and text.isdecimal() and (not classes or int(text) < len(classes)):
            number = int(text)
        if number is None and text:
            known = f"{', '.join(classes[:3])}, ..." if len(classes) > 3 else ", ".join(classes)
            message = f"label {text!r} is none of the {len(classes)} classes ({known}), nor a number below that"
            raise error_at(source, entry.line, message)
        numbers.append(number)
    return numbers


def _fold(name: str) -> str:
    return name.strip('"').replace("_", " ").casefold()
