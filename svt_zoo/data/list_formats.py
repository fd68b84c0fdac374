"""Parsers for general list formats: folders, tables with a header, `path label` lines. Each returns entries."""

import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..files import atomic, is_url, local_path
from .list_columns import Block, Entry, ListError, Parsed, error_at
from .list_files import SUFFIXES, find_videos, group_of, slashes
from .rows import BLOCK

_SUFFIXES = {*SUFFIXES.split("|"), *SUFFIXES.upper().split("|")}
_CSV: Any = {"skipinitialspace": True, "strict": True}
PATH_COLUMNS = ("file", "path", "video", "video_path", "filename")

# The path ends at the last video suffix that ends a word, because paths may contain spaces.
VIDEO_LINE = re.compile(rf"(.*\.(?:{SUFFIXES})\"?)(?:[ \t,]+(.*))?", re.IGNORECASE)


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


def table(
    path: str, separator: str = ",", rest: Iterable[str] = (), header: Sequence[str] = (), first: int = 1
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the line number and the cells, by column, of each row of a table with a header.

    `rest` are the lines from number `first` on of a table whose `header` was read before.
    """
    with nullcontext(rest) if rest else open_text(path) as file:
        reader = csv.reader(file, delimiter=separator, **_CSV)
        while True:
            line = reader.line_num + first
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise error_at(path, line, f"a cell has wrong quotes ({error}); close them, or double them") from None
            if not header:
                header = _column_names(cells)
                if len(set(header)) < len(header):
                    raise error_at(path, line, f"two columns have the same name: {', '.join(header)}")
            elif len(cells) == len(header):
                yield line, dict(zip(header, cells, strict=True))
            elif cells:
                advice = f"; put quotes around a cell with {separator!r}" if len(cells) > len(header) else ""
                columns = f"the header has {len(header)} columns: {', '.join(header)}"
                raise error_at(path, line, f"the row has {len(cells)} cells, {columns}{advice}")


def _column_names(cells: Sequence[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]


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


def parse_class_folders(path: str) -> Parsed:
    """`root/class/video`: the sorted folder names are the classes."""
    names = [name for name in find_videos(path) if "/" in name]
    classes = tuple(sorted({name.split("/")[0] for name in names}))
    return Parsed((Entry(name, label=name.split("/")[0], group=group_of(name)) for name in names), classes)


def parse_folder(path: str) -> Parsed:
    """Every video below a folder, without labels."""
    return Parsed(Entry(name, group=group_of(name)) for name in find_videos(path))


def parse_video(path: str) -> Parsed:
    """One video, without a label."""
    return Parsed([Entry(path if is_url(path) else os.path.basename(path), group=group_of(path))])


def parse_csv(path: str) -> Parsed:
    """CSV with a header: a column for the file, and optional label, class, group, start_sec, end_sec, num_frames.

    Filters can use the other columns. The separator may also be a tab.
    """
    _, first = next(lines(path), (0, ""))
    return Parsed(csv_entries(path, "\t" if "\t" in first else ","))


def csv_entries(
    path: str, separator: str, complete: Callable[[Mapping[str, Sequence[str]]], Mapping[str, Sequence[str]]] = dict
) -> Iterator[Entry | Block]:
    """Blocks of plain rows; the entries of all rows from the first block on that holds something unusual.

    `complete` adds columns to those of some rows, and raises a ValueError for rows that do not fit.
    """
    header: list[str] = []
    number = 1  # of the next line
    with open_text(path) as file:
        while texts := list(islice(file, BLOCK)):
            try:
                rows = list(csv.reader(texts, delimiter=separator, **_CSV))
            except csv.Error:
                rows = []
            names = header or (_column_names(rows[0]) if rows else [])
            cells = rows if header else rows[1:]
            block = None
            if len(rows) == len(texts) and len(set(names)) == len(names) and {*map(len, cells)} == {len(names)}:
                columns = dict(zip(names, zip(*cells, strict=True), strict=True))
                with suppress(ValueError):
                    block = _plain_table(complete(columns), range(number + len(rows) - len(cells), number + len(rows)))
            if block is None:
                rest = table(path, separator, chain(texts, file), header, number)
                yield from _entries(path, _completed(path, rest, complete))
                return
            yield block
            header, number = names, number + len(texts)


def _completed(
    path: str, rows: Iterable[tuple[int, Mapping[str, str]]], complete: Callable[..., Mapping[str, Sequence[str]]]
) -> Iterator[tuple[int, Mapping[str, str]]]:
    for line, row in rows:
        try:
            columns = complete({name: [cell] for name, cell in row.items()})
        except ValueError as error:
            raise error_at(path, line, f"{error}, got {row}") from None
        yield line, {name: cells[0] for name, cells in columns.items()}


def parse_parquet(path: str) -> Parsed:
    """Parquet with the columns of `parse_csv`; needs the extra `parquet`."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ListError(f"{path}: a Parquet list needs pyarrow: pip install pyarrow") from error
    try:
        file = pyarrow.parquet.ParquetFile(local_path(path))
    except pyarrow.ArrowInvalid as error:
        raise ListError(f"{path}: not a complete Parquet file ({error})") from None
    return Parsed(_parquet_entries(path, file.iter_batches(BLOCK)))


def _parquet_entries(path: str, batches: Iterable[Any]) -> Iterator[Entry | Block]:
    number = 1  # of the next row
    for batch in batches:
        columns = {
            name.strip().lower(): ["" if cell is None else str(cell) for cell in column.to_pylist()]
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        if block := _plain_table(columns, range(number, number + len(batch))):
            yield block
        else:
            rows = (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))
            yield from _entries(path, enumerate(rows, start=number))
        number += len(batch)


def parse_paths(path: str) -> Parsed:
    """Lines of `path`, `path label`, `path,label` or `path name label`; a label is a number or a name.

    Spaces in a path are kept if it ends in a video suffix. SlowFast, SVT, VideoMAE and mmaction2 use these formats.
    """
    return Parsed(_path_entries(path))


def _path_entries(path: str) -> Iterator[Entry | Block]:
    numbered = lines(path)
    labeled: bool | None = None
    while some := list(islice(numbered, BLOCK)):
        block = _plain_lines(some)
        if block is not None and labeled in (None, bool(block.label[0])):
            labeled = bool(block.label[0])
            yield block
            continue
        for line, text in some:
            entry = _path_entry(path, line, text)
            if labeled not in (None, bool(entry.label)):
                raise error_at(path, line, f"{text!r}: either every line has a label or none has")
            labeled = bool(entry.label)
            yield entry


def _path_entry(path: str, line: int, text: str) -> Entry:
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
    return Entry(file, line, label, name, group_of(file))


def _plain_lines(numbered: Sequence[tuple[int, str]]) -> Block | None:
    """The columns of lines that surely are all `path.mp4 number` or all `path.mp4`; None for any doubt."""
    numbers, texts = zip(*numbered, strict=True)
    empty, none = ("",) * len(texts), (-1,) * len(texts)
    end = texts[0].rpartition(".")[2]
    if any(sign in "".join(texts) for sign in '\\"'):
        return None
    files, labels = texts, empty
    if end not in _SUFFIXES:
        separator = next((sign for sign in " \t," if sign in end), " ")
        files, _, labels = zip(*(text.rpartition(separator) for text in texts), strict=True)
        if not "".join(labels).isdecimal() or "" in labels:
            return None
    if not {file.rpartition(".")[2] for file in files} <= _SUFFIXES:
        return None
    return Block(files, numbers, labels, empty, [*map(group_of, files)], none, none, none, {})


def _plain_table(columns: Mapping[str, Sequence[str]], line: Sequence[int]) -> Block | None:
    """The columns of a table whose cells all are as `_entries` expects them; None for any doubt."""
    file = next((name for name in PATH_COLUMNS if name in columns), None)
    if file is None:
        return None

    def cells(name: str) -> list[str]:
        return [*map(str.strip, columns[name])] if name in columns else [""] * len(line)

    paths, names = cells(file), cells("class")
    numbers = []
    for name in ("start_sec", "end_sec", "num_frames"):
        texts = cells(name)
        try:
            values = np.asarray([float(text) if text else -1.0 for text in texts])
        except ValueError:
            return None
        if not (values < math.inf).all() or np.count_nonzero(values < 0) != texts.count(""):
            return None
        numbers.append(values)
    start, end, frames = numbers
    if not all(paths) or "\\" in "".join(paths) or ((end >= 0) & (end <= np.maximum(start, 0))).any():
        return None
    labels = [label or name for label, name in zip(cells("label"), names, strict=True)]
    groups = [group or group_of(path) for group, path in zip(cells("group"), paths, strict=True)]
    return Block(paths, line, labels, names, groups, start, end, frames, columns)


def _entries(path: str, rows: Iterable[tuple[int, Mapping[str, str]]]) -> Iterator[Entry]:
    """The entries of a table, given as line numbers and cells by column."""
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
        yield Entry(
            slashes(row[file].strip()),
            line,
            label=row.get("label", "").strip() or name,
            name=name,
            group=row.get("group", "").strip() or group_of(row[file].strip()),
            start_sec=start,
            end_sec=end,
            num_frames=None if frames is None else int(frames),
            columns=row,
        )


def _number(path: str, line: int, row: Mapping[str, str], column: str) -> float | None:
    text = row.get(column, "").strip()
    try:
        number = float(text or 0)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise error_at(path, line, f"{column} must be a number >= 0 or empty, got {text!r}")
    return number if text else None
