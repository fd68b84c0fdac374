"""Parsers for general list formats: folders, tables with a header, `path label` lines. Each gives blocks of videos."""

import csv
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

import numpy as np

from ..files import atomic, is_url, local_path
from .list_columns import Block, ListError, Parsed, block_of, block_of_rows, error_at
from .list_files import SUFFIXES, find_videos, group_of, slashes
from .rows import BLOCK, Array

_log = logging.getLogger(__name__)
_SUFFIXES = {*SUFFIXES.split("|"), *SUFFIXES.upper().split("|")}
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


def table(path: str, separator: str = ",") -> Iterator[tuple[Sequence[int], Mapping[str, Sequence[str]]]]:
    """Yields a table with a header in blocks: the line number of each row, and the columns by their names."""
    with open_text(path) as file:
        reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
        _, header = _rows(path, reader, 1)
        names = [cell.strip().lower() for cells in header for cell in cells]
        if len(set(names)) < len(names):
            raise error_at(path, 1, f"two columns have the same name: {', '.join(names)}")
        while (part := _rows(path, reader, BLOCK))[0]:
            lines, rows = part
            if {*map(len, rows)} != {len(names)}:
                line, size = next((line, len(row)) for line, row in zip(*part, strict=True) if len(row) != len(names))
                advice = f"; put quotes around a cell with {separator!r}" if size > len(names) else ""
                columns = f"the header has {len(names)} columns: {', '.join(names)}"
                raise error_at(path, line, f"the row has {size} cells, {columns}{advice}")
            yield lines, dict(zip(names, zip(*rows, strict=True), strict=True))


def _rows(path: str, reader: Any, most: int) -> tuple[list[int], list[list[str]]]:
    """The line numbers and the cells of the next rows that are not empty; `reader` is one of the csv module."""
    lines: list[int] = []
    rows: list[list[str]] = []
    line = reader.line_num + 1
    try:
        for cells in reader:
            if cells:
                lines.append(line)
                rows.append(cells)
            line = reader.line_num + 1
            if len(rows) == most:
                break
    except csv.Error as error:
        raise error_at(path, line, f"a cell has wrong quotes ({error}); close them, or double them") from None
    return lines, rows


def table_block(path: str, lines: Sequence[int], columns: Mapping[str, Sequence[str]]) -> Block:
    """The rows of a table, given as line numbers and columns; raises ListError for cells that do not fit."""
    file = next((name for name in PATH_COLUMNS if name in columns), None)
    if file is None:
        raise ListError(f"{path}: one column has to be {' or '.join(PATH_COLUMNS)}, the header has {list(columns)}")

    def cells(name: str) -> list[str]:
        return [*map(str.strip, columns[name])] if name in columns else [""] * len(lines)

    paths, names = cells(file), cells("class")
    if "" in paths:
        raise error_at(path, lines[paths.index("")], f"the column {file} is empty")
    if "\\" in "".join(paths):
        paths = [*map(slashes, paths)]
    start, end, frames = (_numbers(path, lines, name, cells(name)) for name in ("start_sec", "end_sec", "num_frames"))
    for i in np.flatnonzero((end >= 0) & (end <= np.maximum(start, 0))).tolist():
        raise error_at(path, lines[i], f"end_sec must be > start_sec, got {max(start[i], 0):g} to {end[i]:g}")
    labels = [label or name for label, name in zip(cells("label"), names, strict=True)]
    groups = [group or group_of(video) for group, video in zip(cells("group"), paths, strict=True)]
    return Block(paths, lines, labels, names, groups, start, end, frames, columns)


def _numbers(path: str, lines: Sequence[int], name: str, texts: Sequence[str]) -> Array:
    """The numbers of a column, -1 for an empty cell."""
    numbers = np.full(len(texts), -1.0)
    for i, text in enumerate(texts) if any(texts) else ():
        if text:
            try:
                numbers[i] = float(text)
            except ValueError:
                numbers[i] = math.nan
            if not 0 <= numbers[i] < math.inf:
                raise error_at(path, lines[i], f"{name} must be a number >= 0 or empty, got {text!r}")
    return numbers


def write_table(
    path: str | os.PathLike[str],
    header: Iterable[str],
    rows: Iterable[Iterable[Any]],
    types: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes a CSV or, if the path ends in .parquet, a Parquet file atomically.

    Names of files that are not UTF-8 keep their bytes in a CSV file. `types` are pyarrow's names of the types of
    columns; without one, the values determine the type.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        texts = ([valid_utf8(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
        names = list(header)
        columns = list(zip(*texts, strict=True)) or [()] * len(names)
        arrays = {name: pyarrow.array(cells, types.get(name)) for name, cells in zip(names, columns, strict=True)}
        with atomic(path) as part:
            pyarrow.parquet.write_table(pyarrow.table(arrays), part)
        return
    with atomic(path) as part, open(part, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def parquet_or_csv(path: Path) -> Path:
    """The path; one that ends in .csv, with a warning, if it ends in .parquet and pyarrow is not installed."""
    if path.suffix != ".parquet" or find_spec("pyarrow"):
        return path
    path = path.with_suffix(".csv")
    _log.warning("pyarrow is not installed (pip install pyarrow): the table is written to %s instead", path)
    return path


def valid_utf8(text: str) -> str:
    r"""The text with `\xNN` for each byte of a file name that is not UTF-8, for formats that refuse such bytes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """The text in one line: line ends, control characters and undecodable bytes become escapes such as `\\n`."""
    return text if text.isprintable() else "".join(one if one.isprintable() else escape(one) for one in text)


def escape(letter: str) -> str:
    """The letter in ASCII, such as `\\n`."""
    return letter.encode("unicode_escape").decode("ascii")


def load_json(path: str) -> Any:
    """Loads a json file."""
    with open_text(path) as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise ListError(f"{path} is not json: {error}") from error


def parse_class_folders(path: str) -> Parsed:
    """`root/class/video`: the sorted folder names are the classes."""
    rows = [(name, name.split("/")[0]) for name in find_videos(path) if "/" in name]
    return Parsed([block_of_rows(("path", "label"), rows)], tuple(sorted({label for _, label in rows})))


def parse_folder(path: str) -> Parsed:
    """Every video below a folder, without labels."""
    return Parsed([block_of(find_videos(path))])


def parse_video(path: str) -> Parsed:
    """One video, without a label."""
    return Parsed([block_of([path if is_url(path) else os.path.basename(path)])])


def parse_csv(path: str) -> Parsed:
    """CSV with a header: a column for the file, and optional label, class, group, start_sec, end_sec, num_frames.

    Filters can use the other columns. The separator may also be a tab.
    """
    _, first = next(lines(path), (0, ""))
    return Parsed(table_block(path, *part) for part in table(path, "\t" if "\t" in first else ","))


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
    return Parsed(_parquet_blocks(path, file.iter_batches(BLOCK)))


def _parquet_blocks(path: str, batches: Iterable[Any]) -> Iterator[Block]:
    number = 1  # of the next row
    for batch in batches:
        columns = {
            name.strip().lower(): ["" if cell is None else str(cell) for cell in column.to_pylist()]
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        yield table_block(path, range(number, number + len(batch)), columns)
        number += len(batch)


def parse_paths(path: str) -> Parsed:
    """Lines of `path`, `path label`, `path,label` or `path name label`; a label is a number or a name.

    Spaces in a path are kept if it ends in a video suffix. SlowFast, SVT, VideoMAE and mmaction2 use these formats.
    """
    return Parsed(_line_blocks(path))


def _line_blocks(path: str) -> Iterator[Block]:
    numbered = lines(path)
    labeled: bool | None = None
    while some := list(islice(numbered, BLOCK)):
        block = _plain_lines(some)
        if block is None:
            rows = ((line, *_path_and_label(path, line, text)) for line, text in some)
            block = block_of_rows(("line", "path", "label", "name"), rows)
        labeled = bool(block.label[0]) if labeled is None else labeled
        if {*map(bool, block.label)} != {labeled}:
            line, text = next(one for one, label in zip(some, block.label, strict=True) if bool(label) != labeled)
            raise error_at(path, line, f"{text!r}: either every line has a label or none has")
        yield block


def _path_and_label(path: str, line: int, text: str) -> tuple[str, str, str]:
    """The path, the label and the class name of a line."""
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
    return file, label, name


def _plain_lines(numbered: Sequence[tuple[int, str]]) -> Block | None:
    """The columns of lines that surely are all `path.mp4 number` or all `path.mp4`; None for any doubt."""
    numbers, texts = zip(*numbered, strict=True)
    end = texts[0].rpartition(".")[2]
    if any(sign in "".join(texts) for sign in '\\"'):
        return None
    files, labels = texts, ("",) * len(texts)
    if end not in _SUFFIXES:
        separator = next((sign for sign in " \t," if sign in end), " ")
        files, _, labels = zip(*(text.rpartition(separator) for text in texts), strict=True)
        if not "".join(labels).isdecimal() or "" in labels:
            return None
    if not {file.rpartition(".")[2] for file in files} <= _SUFFIXES:
        return None
    return block_of(files, line=numbers, label=labels)
