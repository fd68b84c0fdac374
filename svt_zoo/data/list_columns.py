"""What the parsers of lists return, and how a list's columns are collected from it, a block of rows at a time."""

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from .list_files import group_of
from .rows import Array, Rows, RowsBuilder, full_paths

PARTS = ("split", "fold")  # columns that split a data set; its classes are those of all parts
_MAX_CLASSES = 1_000_000


class ListError(ValueError):
    """A list cannot be parsed; the message names the file, the line and the accepted formats."""


def error_at(source: str, line: int, message: str) -> ListError:
    """Makes the error for one line of a list."""
    return ListError(f"{source}, line {line}: {message}" if line else f"{source}: {message}")


class Block(NamedTuple):
    """Consecutive videos as described by their list, as columns, before labels and paths are resolved."""

    path: Sequence[str]
    line: Sequence[int]  # line number in the list; 0 for none
    label: Sequence[str]  # a name or a number; empty for none
    name: Sequence[str]  # class name, if the list has both a number and a name
    group: Sequence[str | None]
    start_sec: Sequence[float] | Array  # this and the next two: -1 for none
    end_sec: Sequence[float] | Array
    num_frames: Sequence[float] | Array  # of a folder of frames
    columns: Mapping[str, Sequence[str]]  # for filters


def block_of(path: Sequence[str], **given: Sequence[Any]) -> Block:
    """A block without times: `given` are other fields of `Block`, and columns for filters.

    Fields that are not given have no values; the names of the files give the groups.
    """
    none, empty = [-1] * len(path), [""] * len(path)
    return Block(
        path=path,
        line=given.get("line", [0] * len(path)),
        label=given.get("label", empty),
        name=given.get("name", empty),
        group=[*map(group_of, path)],
        start_sec=none,
        end_sec=none,
        num_frames=given.get("num_frames", none),
        columns={name: column for name, column in given.items() if name not in Block._fields},
    )


def block_of_rows(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Block:
    """As `block_of`, from rows whose cells are the columns `names`."""
    columns: list[Any] = list(zip(*rows, strict=True)) or [()] * len(names)
    return block_of(**dict(zip(names, columns, strict=True)))


@dataclass(slots=True)
class Parsed:
    """The result of a parser: the videos in blocks, and the properties of the list."""

    blocks: Iterable[Block]
    classes: tuple[str, ...] = ()  # class names in the order of the labels, if the format has them
    choose: tuple[str, ...] = ()  # those of PARTS that a filter must name
    by_stem: bool = False  # paths are only stems: search for the files below the root


class Label(NamedTuple):
    """A label of a list, with its first line."""

    line: int
    label: str  # a name or a number; empty for none
    name: str  # class name, if the list has both a number and a name
    code: int  # among all labels as they are written


class Columns:
    """The videos of a list that a filter keeps, as columns.

    Args:
        source: the list, for errors.
        base: folder of relative paths.
        wanted: the filter: values of columns. Classes are those of the rows that match it, regardless of `PARTS`.
        by_stem: the path of the file with a stem.
    """

    def __init__(self, source: str, base: str, wanted: Mapping[str, str], by_stem: Mapping[str, str]) -> None:
        self.source, self.base, self.wanted, self.by_stem = source, base, wanted, by_stem
        self.names: set[str] = set()  # of the columns that a filter can use
        self.parts: dict[str, set[str]] = {}  # the values of PARTS
        self._codes: dict[tuple[str, str], int] = {}  # by label and name, as they are written
        self._labels: list[str] = []  # by code
        self._rows = RowsBuilder()
        self._line: list[Array] = []
        self._code: list[Array] = []
        self._kept: list[Array] = []
        self._key: list[Array] = []  # of the kept rows: a hash of file and times

    def add(self, block: Block) -> None:
        """Adds videos; raises ListError for a path or a label that no file or class can have."""
        size = len(block.path)
        codes = self._encode(block)
        in_set, kept = np.ones(size, bool), np.ones(size, bool)
        for key, value in self.wanted.items():
            match = np.fromiter((cell.strip() == value for cell in block.columns.get(key, [""] * size)), bool, size)
            kept &= match
            if key not in PARTS:
                in_set &= match
        self.names |= block.columns.keys()
        for key in block.columns.keys() & PARTS:
            self.parts.setdefault(key, set()).update(block.columns[key])
        self._line.append(np.asarray(block.line, np.int64)[in_set])
        self._code.append(codes[in_set])
        self._kept.append(kept[in_set])
        path, _, _, _, *values = block[:-1] if kept.all() else [list(compress(cells, kept)) for cells in block[:-1]]
        if self.by_stem:
            path = [self.by_stem.get(posixpath.splitext(name)[0], name) for name in path]
        self._rows.extend(path, codes[kept], *values)
        keys = np.fromiter(map(hash, full_paths(self.base, path)), np.int64, len(path))
        for times in values[1:3]:
            keys = keys * 31 + np.asarray(times, np.float64).view(np.int64)
        self._key.append(keys)

    def _encode(self, block: Block) -> Array:
        """The number of each label among all that are different."""
        if "\0" in "".join(block.path):
            i = next(i for i, path in enumerate(block.path) if "\0" in path)
            message = f"{block.path[i]!r} contains a NUL character; the list is not text in UTF-8"
            raise error_at(self.source, block.line[i], message)
        pairs = list(zip(block.label, block.name, strict=True))
        for pair in dict.fromkeys(pairs):
            if pair not in self._codes:
                try:
                    self._labels.append(_normalized(*pair))
                except ValueError as error:
                    raise error_at(self.source, block.line[pairs.index(pair)], str(error)) from None
                self._codes[pair] = len(self._codes)
        return np.fromiter(map(self._codes.__getitem__, pairs), np.int32, len(pairs))

    def labels(self, *, kept: bool) -> list[Label]:
        """The labels of the kept rows, or of all of their data set, in the order of their first lines."""
        codes, lines = _joined(self._code), _joined(self._line)
        if kept:
            codes, lines = codes[_joined(self._kept)], lines[_joined(self._kept)]
        first = np.full(len(self._labels), len(codes))
        first[codes[::-1]] = np.arange(len(codes))[::-1]  # the last value stays
        names = [name for _, name in self._codes]
        present = sorted((row, code) for code, row in enumerate(first.tolist()) if row < len(codes))
        return [Label(int(lines[row]), self._labels[code], names[code], code) for row, code in present]

    def rows(self, classes: Sequence[str]) -> Rows:
        """The kept rows. Raises ListError for a label that is not among the classes, or a file with two labels."""
        labels = self.labels(kept=True)
        number = np.full(len(self._labels), -1, np.int32)
        number[[one.code for one in labels]] = resolve_labels(self.source, labels, classes)
        rows = self._rows.build(self.base)
        rows.labels[:] = number[rows.labels]
        self._refuse_two_labels(rows)
        return rows

    def _refuse_two_labels(self, rows: Rows) -> None:
        keys, labels = _joined(self._key), rows.labels
        in_order = np.sort(keys)
        if (in_order[1:] != in_order[:-1]).all():
            return
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
        doubtful = keys[order][1:][same & (labels[order][1:] != labels[order][:-1])]
        lines = _joined(self._line)[_joined(self._kept)]
        first: dict[tuple[str, float | None, float | None], tuple[int | None, int]] = {}
        for i in np.flatnonzero(np.isin(keys, doubtful)).tolist():
            row, line = rows[i], int(lines[i])
            label, before = first.setdefault((row.path, row.start_sec, row.end_sec), (row.label, line))
            if label != row.label:
                message = f"{row.path} has the label {row.label} here, {label} in line {before}"
                raise error_at(self.source, line, message)


def _joined(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _normalized(label: str, name: str) -> str:
    """A label such as 2.0 as 2, and -1 as no label; ValueError for one that no class can have."""
    if any("\udc80" <= letter <= "\udcff" for letter in label + name):
        raise ValueError(f"the label {label!r} is not text in UTF-8")
    number = re.fullmatch(r"(-?\d+)(\.0*)?", label)
    if number and not -1 <= float(number[1]) < _MAX_CLASSES:
        raise ValueError(f"a label must be >= 0 (or -1 for none) and < {_MAX_CLASSES}, got {number[1]}")
    return label if not number else "" if number[1] == "-1" else number[1]


def classes_of(source: str, labels: Sequence[Label]) -> tuple[str, ...]:
    """Class names of a list without a class file: its labels, sorted, or the names next to its numbers."""
    labels = [one for one in labels if one.label]
    if not all(one.label.isdecimal() for one in labels):
        return tuple(sorted({one.label for one in labels}))
    names: dict[int, str] = {}
    for line, label, name, _ in labels:
        number = int(label)
        if name and names.setdefault(number, name) != name:
            raise error_at(source, line, f"label {number} is {name!r} here and {names[number]!r} before")
    return tuple(names.get(number, str(number)) for number in range(max(names) + 1)) if names else ()


def resolve_labels(source: str, labels: Sequence[Label], classes: Sequence[str]) -> list[int]:
    """Labels as numbers, -1 for none. Matches names exactly, then without case, quotes, underscores; keeps numbers."""
    exact = {name: number for number, name in enumerate(classes)}
    loose = {_fold(name): number for number, name in enumerate(classes)}
    numbers: list[int] = []
    for line, label, name, _ in labels:
        text = name if name and classes else label
        number = exact.get(text, loose.get(_fold(text)))
        if number is None and text.isdecimal() and (not classes or int(text) < len(classes)):
            number = int(text)
        if number is None and text:
            known = f"{', '.join(classes[:3])}, ..." if len(classes) > 3 else ", ".join(classes)
            message = f"label {text!r} is none of the {len(classes)} classes ({known}), nor a number below that"
            raise error_at(source, line, message)
        numbers.append(-1 if number is None else number)
    return numbers


def _fold(name: str) -> str:
    return name.strip('"').replace("_", " ").casefold()
