"""The rows of a list of videos, kept as columns: small in memory, and shared with worker processes."""

import mmap
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from json.encoder import encode_basestring_ascii
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from tempfile import TemporaryFile
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from ..files import is_url

BLOCK = 2048  # rows that are handled at a time
_SHARED = 1 << 20  # bytes; workers copy smaller lists
_NUMBERS = {"label": np.int32, "start_sec": np.float64, "end_sec": np.float64, "num_frames": np.int64}  # -1 for none
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One video of a list: a file, or a folder of frames."""

    path: str
    label: int | None = None
    group: str | None = None  # videos of one group show the same scene; keep them on one side of a split
    start_sec: float | None = None  # the used part starts here
    end_sec: float | None = None  # the used part ends before this time
    num_frames: int | None = None  # of a folder of frames, from its list


class Rows(Sequence[Row]):
    """A sequence of `Row`s that are made on access.

    A row without group and times takes 12 bytes and its relative path. Worker processes map long lists from one file.
    `columns` are the arrays of a `RowsBuilder`; relative paths are joined to the folder `base`.
    """

    def __init__(self, columns: Mapping[str, Array], base: str = "") -> None:
        self._columns = dict(columns)
        self.base = base

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Rows":
        """Keeps the values of any rows."""
        builder, values = RowsBuilder(), iter(rows)
        while block := list(islice(values, BLOCK)):
            path, group = zip(*((row.path, row.group) for row in block), strict=True)
            label, *times = (
                [-1 if (value := getattr(row, name)) is None else value for row in block] for name in _NUMBERS
            )
            builder.extend(path, label, group, *times)
        return builder.build()

    def __len__(self) -> int:
        return len(self._columns["label"])

    @property
    def labels(self) -> NDArray[np.int32]:
        """The label of each row, -1 for none."""
        return self._columns["label"]

    @property
    def has_times(self) -> bool:
        """Whether any row is a part of its video."""
        return any((self._columns[name] >= 0).any() for name in ("start_sec", "end_sec") if name in self._columns)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows": ...
    def __getitem__(self, index: int | slice) -> "Row | Rows":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        i = range(len(self))[index]
        return next(iter(self._read(i, i + 1)))

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), BLOCK):
            yield from self._read(start, min(start + BLOCK, len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Rows({list(self[:3])}{', ...' if len(self) > 3 else ''})"

    def paths(self) -> Iterator[str]:
        """The path of each row."""
        for start in range(0, len(self), BLOCK):
            yield from self._paths(start, min(start + BLOCK, len(self)))

    def groups(self) -> Iterator[str]:
        """The group of each row; a video without a group is its own group, named by its path."""
        for start in range(0, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            paths = self._paths(start, stop)
            yield from (group or path for group, path in zip(self._texts("group", start, stop), paths, strict=True))

    def as_json(self, root: str) -> Iterator[str]:
        """The values of each row as a JSON list, in blocks; paths are relative to `root` where they are below it."""
        for start in range(0, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            paths = (encode_basestring_ascii(path.removeprefix(root)) for path in self._paths(start, stop))
            groups = (encode_basestring_ascii(text) if text else "null" for text in self._texts("group", start, stop))
            label, *times = (
                ["null" if number is None else repr(number) for number in self._numbers(name, start, stop)]
                for name in _NUMBERS
            )
            rows = map(", ".join, zip(paths, label, groups, *times, strict=True))
            yield f"[{']['.join(rows)}]"

    def take(self, index: Array) -> "Rows":
        """The rows at the numbers `index`, or where `index` is True."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        taken = {
            name: column[index] for name, column in self._columns.items() if not name.startswith(("path", "group"))
        }
        for name in ("path", "group"):
            if name in self._columns:
                ends = self._columns[f"{name}_ends"]
                starts, lengths = ends[index], ends[1:][index] - ends[index]
                taken[name] = _gather(self._columns[name], starts, lengths)
                taken[f"{name}_ends"] = np.concatenate([[0], lengths]).cumsum(dtype=np.int64)
        return Rows(taken, self.base)

    def _read(self, start: int, stop: int) -> Iterator[Row]:
        label, *times = (self._numbers(name, start, stop) for name in _NUMBERS)
        groups = (text or None for text in self._texts("group", start, stop))
        yield from map(Row, self._paths(start, stop), label, groups, *times)

    def _numbers(self, name: str, start: int, stop: int) -> list[Any]:
        if name not in self._columns:
            return [None] * (stop - start)
        return [None if number < 0 else number for number in self._columns[name][start:stop].tolist()]

    def _paths(self, start: int, stop: int) -> list[str]:
        return full_paths(self.base, self._texts("path", start, stop))

    def _texts(self, name: str, start: int, stop: int) -> list[str]:
        if name not in self._columns:
            return [""] * (stop - start)
        ends = self._columns[f"{name}_ends"][start : stop + 1].tolist()
        data = self._columns[name][ends[0] : ends[-1]].tobytes()
        places = [(a - ends[0], b - ends[0]) for a, b in pairwise(ends)]
        if data.isascii():
            text = data.decode("ascii")
            return [text[a:b] for a, b in places]
        return [data[a:b].decode("utf-8", "surrogatepass") for a, b in places]

    def __reduce__(self) -> tuple[Any, ...]:
        columns = sorted(self._columns.items(), key=lambda item: -item[1].itemsize)  # aligned without gaps
        if get_spawning_popen() and os.name == "posix" and sum(one.nbytes for _, one in columns) > _SHARED:
            with suppress(OSError):  # no room for the file
                layout = [(name, column.dtype, len(column)) for name, column in columns]
                return _mapped, (reduction.DupFd(self._file.fileno()), layout, self.base)
        return Rows, (self._columns, self.base)

    @cached_property
    def _file(self) -> IO[bytes]:
        """The columns in a file without a name, which ends with the last process that maps it."""
        file = TemporaryFile()  # noqa: SIM115
        for column in sorted(self._columns.values(), key=lambda column: -column.itemsize):
            file.write(column.data)
        file.flush()
        return file


def full_paths(base: str, names: Iterable[str]) -> list[str]:
    """The names that are relative, joined to the folder or URL `base`; the others as they are."""
    prefix = posixpath.join(base, "")
    sign = "%23" if prefix.startswith(("http://", "https://")) else "#"  # which would end a web address
    return [name if name.startswith("/") or is_url(name) else prefix + name.replace("#", sign) for name in names]


def _gather(data: Array, starts: Array, lengths: Array) -> Array:
    """The bytes of texts, given by their places in `data`, one after the other."""
    parts = [data[:0]]
    for first in range(0, len(starts), BLOCK):
        length = lengths[first : first + BLOCK]
        shift = starts[first : first + BLOCK] - (length.cumsum() - length)
        parts.append(data[np.repeat(shift, length) + np.arange(length.sum())])
    return np.concatenate(parts)


def _mapped(file: Any, layout: list[tuple[str, np.dtype[Any], int]], base: str) -> Rows:
    descriptor = file.detach()
    content = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    os.close(descriptor)
    columns, offset = {}, 0
    for name, dtype, length in layout:
        columns[name] = np.frombuffer(content, dtype, length, offset)
        offset += length * dtype.itemsize
    return Rows(columns, base)


class RowsBuilder:
    """Collects rows, block by block, as columns. A column without any value is not kept."""

    def __init__(self) -> None:
        self._numbers: dict[str, list[Array]] = {name: [] for name in _NUMBERS}
        self._texts = {"path": bytearray(), "group": bytearray()}
        self._lengths: dict[str, list[Array]] = {"path": [], "group": []}

    def extend(
        self,
        path: Sequence[str],
        label: Sequence[int] | Array,
        group: Sequence[str | None],
        *times: Sequence[float] | Array,
    ) -> None:
        """Adds rows; `times` are `start_sec`, `end_sec` and `num_frames`. A label or a time is -1 for none."""
        for (name, dtype), numbers in zip(_NUMBERS.items(), (label, *times), strict=True):
            self._numbers[name].append(np.asarray(numbers, dtype))
        for name, texts in (("path", path), ("group", [text or "" for text in group])):
            joined = "".join(texts)
            if joined.isascii():
                self._texts[name] += joined.encode()
                lengths = map(len, texts)
            else:
                encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
                self._texts[name] += b"".join(encoded)
                lengths = map(len, encoded)
            self._lengths[name].append(np.fromiter(lengths, np.int32, len(texts)))

    def build(self, base: str = "") -> Rows:
        """The rows; relative paths are joined to the folder `base`."""
        columns: dict[str, Array] = {}
        for name, dtype in _NUMBERS.items():
            column = np.concatenate([np.empty(0, dtype), *self._numbers[name]])
            if name == "label" or (column >= 0).any():
                columns[name] = column
        for name, data in self._texts.items():
            if data or name == "path":
                columns[name] = np.frombuffer(data, np.uint8)
                columns[f"{name}_ends"] = np.concatenate([[0], *self._lengths[name]]).cumsum(dtype=np.int64)
        return Rows(columns, base)
