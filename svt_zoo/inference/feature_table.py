"""Writes and reads a table of features in Parquet.

Columns: `video` (path below the metadata's `root`), `start_sec` and `end_sec` (the time that the frames cover, in
seconds), `embedding` (FixedSizeList of float16 or float32) and `error`. A row has either an embedding or an error.
Features are plain: without a dictionary or compression, in one page per row group, so that a file is read as a memory
map. Needs pyarrow, the extra `parquet`.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..data.list_formats import valid_utf8
from ..evaluation.features import Store
from ..evaluation.shards import Shard
from ..files import atomic, is_url

if TYPE_CHECKING:
    import pyarrow

_COLUMN = "embedding.list.element"  # the features, as Parquet names them
_GROUP_ROWS, _GROUP_BYTES = 16384, 1 << 26  # of a row group, at most
Array = np.ndarray[Any, np.dtype[Any]]
_PAGE = (1 << 31) - 1  # bytes; the largest page, so that a row group has one


# Equal in all tables of a folder; "False" stands for has_times, which tables of earlier versions lack.
_COMMON = ("weights_sha256", "pooling", "shape", "views", "every", "clip", "root", "frame_rate", "has_times")


class FeatureRow(NamedTuple):
    """One row without its feature: a video, the time that the feature covers (in seconds), or an error message."""

    video: str
    start_sec: float | None
    end_sec: float | None
    error: str | None = None


class FeatureBatch(NamedTuple):
    """Rows of a table that have a feature: row numbers, int64 (n,), and float32 features (n, D)."""

    numbers: Tensor
    features: Tensor


def make_schema(width: int, store: Store, metadata: Mapping[str, str]) -> "pyarrow.Schema":
    """Returns the schema of a table whose features have `width` numbers.

    Raises:
        ImportError: pyarrow is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("a table of features needs pyarrow: pip install pyarrow") from error
    number = {"float16": pyarrow.float16(), "float32": pyarrow.float32()}[store]
    return pyarrow.schema(
        [
            pyarrow.field("video", pyarrow.string(), nullable=False),
            ("start_sec", pyarrow.float64()),
            ("end_sec", pyarrow.float64()),
            ("embedding", pyarrow.list_(number, width)),
            ("error", pyarrow.string()),
        ],
        metadata={key: valid_utf8(value) for key, value in metadata.items()},
    )


def write_table(path: Path, schema: "pyarrow.Schema", shards: Iterable[Shard], videos: Sequence[str]) -> None:
    """Write the rows of all shards, in order, to one file; `videos` are the names of the videos, by number.

    One shard and one row group are in memory at a time. The file is complete or absent at any time.
    """
    import pyarrow
    import pyarrow.parquet

    kind = schema.field("embedding").type
    most = max(1, min(_GROUP_ROWS, _GROUP_BYTES // (kind.list_size * kind.value_type.bit_width // 8)))
    others = [name for name in schema.names if name != "embedding"]
    layout: dict[str, Any] = {
        "use_dictionary": others,
        "write_statistics": others,
        "compression": {**dict.fromkeys(others, "snappy"), _COLUMN: "none"},
        "data_page_size": _PAGE,
    }
    waiting = schema.empty_table()
    with atomic(path) as part, pyarrow.parquet.ParquetWriter(part, schema, **layout) as writer:
        for shard in shards:
            waiting = pyarrow.concat_tables([waiting, _arrow(schema, shard, videos)])
            while len(waiting) >= most:
                writer.write_table(waiting.slice(0, most))
                waiting = waiting.slice(most)
        if len(waiting):
            writer.write_table(waiting)


def _arrow(schema: "pyarrow.Schema", shard: Shard, videos: Sequence[str]) -> "pyarrow.Table":
    import pyarrow

    rows, features = shard
    kind = schema.field("embedding").type
    has_feature = np.array([row.error is None for row in rows])
    values = np.zeros((len(rows), kind.list_size), kind.value_type.to_pandas_dtype())
    if len(features):
        values[has_feature] = features.flatten(1).numpy()
    values = pyarrow.array(values.ravel())
    columns = [
        pyarrow.array([valid_utf8(videos[row.video_index]) for row in rows], pyarrow.string()),
        pyarrow.array([row.start_sec for row in rows], pyarrow.float64()),
        pyarrow.array([row.end_sec for row in rows], pyarrow.float64()),
        pyarrow.FixedSizeListArray.from_arrays(values, type=kind, mask=pyarrow.array(~has_feature)),
        pyarrow.array([row.error and valid_utf8(row.error) for row in rows], pyarrow.string()),
    ]
    return pyarrow.Table.from_arrays(columns, schema=schema)


class FeatureTable:
    """Reads a table of features in batches, from a file or a folder of such files.

    Attributes:
        path: the file or folder.
        metadata: of the table: `weights`, `weights_sha256`, `recipe`, `pooling`, `views`, ...
        width: number of values per feature.

    Raises:
        ValueError: the table does not exist, the Parquet file is not a table of features, or the tables of a folder
            differ in their weights, settings or root.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import pyarrow
        import pyarrow.dataset
        import pyarrow.parquet

        self.path = Path(path)
        if not self.path.exists():
            raise ValueError(f"{path}: no such table on this machine; svt-zoo extract writes them")
        try:
            self._dataset = pyarrow.dataset.dataset(self.path, format="parquet")
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{path} is not a Parquet file or a folder of them; svt-zoo extract writes one") from error
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or str(error).splitlines()[0]}") from error
        schema = self._dataset.schema
        self.metadata = _metadata(schema)
        if "embedding" not in schema.names or "weights_sha256" not in self.metadata:
            raise ValueError(f"{path} is not a table of features; svt-zoo extract writes them")
        for file in self._dataset.files[1:]:
            other = _metadata(pyarrow.parquet.read_schema(file))
            if unlike := [key for key in _COMMON if other.get(key, "False") != self.metadata.get(key, "False")]:
                raise ValueError(
                    f"{path} holds tables that differ: {file} has another {', '.join(unlike)}; separate them"
                )
        self.width: int = schema.field("embedding").type.list_size

    def __len__(self) -> int:
        """Number of rows, including failures."""
        return self._dataset.count_rows()

    def batches(self, size: int = 512) -> Iterator[FeatureBatch]:
        """Yields the rows that have a feature, in order, at most `size` at a time."""
        for numbers, features in self._groups:
            for start in range(0, len(numbers), size):
                part = slice(start, start + size)
                yield FeatureBatch(torch.from_numpy(numbers[part]), torch.from_numpy(features[part]).float())

    @cached_property
    def vectors(self) -> "Vectors":
        """The features of all rows, for access by row number."""
        return Vectors(self._groups, self.width)

    def has_features(self) -> bool:
        """Whether any row has a feature."""
        return any(len(numbers) for numbers, _ in self._groups)

    @cached_property
    def _facts(self) -> "pyarrow.Table":
        """All columns but the features."""
        return self._dataset.to_table(list(FeatureRow._fields))

    def videos(self) -> list[str]:
        """Returns the video of each row."""
        return self._facts.column("video").to_pylist()

    def video_codes(self) -> Array:
        """Returns a number for the video of each row, the same for the same video."""
        return self._facts.column("video").combine_chunks().dictionary_encode().indices.to_numpy()

    def ending_with(self, names: Iterable[str]) -> list[int]:
        """Returns the numbers of the rows whose video ends with one of `names`."""
        import pyarrow.compute

        videos = self._facts.column("video")
        found = [pyarrow.compute.ends_with(videos, name).to_numpy() for name in names]
        return np.flatnonzero(np.any(found, axis=0)).tolist()

    def rows(self, numbers: Sequence[int] | Array) -> list[FeatureRow]:
        """Returns the rows with these numbers, without their features."""
        rows = self._facts.take(np.asarray(numbers, np.int64)).to_pylist()
        return [FeatureRow(**row) for row in rows]

    @cached_property
    def _groups(self) -> list[tuple[Array, Array]]:
        """The row numbers (n,) and features (n, D) of each row group, which are read only where they are used.

        A table that other programs, or versions before this layout, have written is read into memory here.
        """
        import pyarrow.parquet

        first = 0
        groups: list[tuple[Array, Array]] = []
        for path in self._dataset.files:
            with pyarrow.parquet.ParquetFile(path) as file:
                for i in range(file.num_row_groups):
                    missing = file.read_row_group(i, ["error"]).column("error").is_valid().to_numpy()
                    values = _mapped(path, file.metadata.row_group(i), self.width, int(missing.sum()))
                    if values is None:
                        column = file.read_row_group(i, ["embedding"]).column("embedding").combine_chunks()
                        missing, values = column.is_null().to_numpy(zero_copy_only=False), np.array(column.flatten())
                    groups.append((first + np.flatnonzero(~missing), values.reshape(-1, self.width)))
                    first += len(missing)
        return groups

    def locate(self, video: str) -> str:
        """Returns the path or URL of a `video` of the table."""
        path = video if is_url(video) else posixpath.join(self.metadata["root"], video)
        if "\\x" not in path or is_url(path) or os.path.exists(path):
            return path
        # The bytes that `valid_utf8` has escaped.
        return re.sub(r"\\x([89a-f][0-9a-f])", lambda byte: chr(0xDC00 + int(byte[1], 16)), path)


def _metadata(schema: "pyarrow.Schema") -> dict[str, Any]:
    return {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}


class Vectors:
    """Features of a table by row number.

    Attributes:
        numbers: of the rows that have a feature, ascending, int64 (n,).
    """

    def __init__(self, groups: Sequence[tuple[Array, Array]], width: int) -> None:
        self.numbers = np.concatenate([np.empty(0, np.int64), *(numbers for numbers, _ in groups)])
        self._parts = [features for _, features in groups]
        self._starts = np.cumsum([0, *map(len, self._parts)])  # place of the first feature of each part
        self._width = width

    def __getitem__(self, numbers: Array) -> Tensor:
        """Normalized float32 features (m, D) of these rows (m,), which must have one."""
        places = np.searchsorted(self.numbers, numbers)
        found = np.empty((len(places), self._width), np.float32)
        part = np.searchsorted(self._starts, places, side="right") - 1
        for i in np.unique(part):
            here = part == i
            found[here] = self._parts[i][places[here] - self._starts[i]]
        return normalize(torch.from_numpy(found))


def _mapped(path: str, group: Any, width: int, missing: int) -> Array | None:
    """The features of a row group as a memory map (n * width,), or None if the file does not hold them plain.

    A column without a dictionary or compression, in one page, ends with its values: first the header of the page, then
    the levels (which lists are null), then the values. `missing` rows have no feature.
    """
    column = next(one for one in map(group.column, range(group.num_columns)) if one.path_in_schema == _COLUMN)
    dtype = {"FLOAT": np.float32, "FIXED_LEN_BYTE_ARRAY": np.float16}.get(column.physical_type)
    count = (group.num_rows - missing) * width
    plain = column.compression == "UNCOMPRESSED" and set(column.encodings) <= {"PLAIN", "RLE"}
    if dtype is None or not plain or column.num_values != count + missing or not count:
        return None
    size, end = count * np.dtype(dtype).itemsize, column.data_page_offset + column.total_compressed_size
    with open(path, "rb") as file:
        file.seek(column.data_page_offset)
        header = file.read(64)
    page, shift = 0, 0  # the second field of the header: the size of the page, a zigzag number of 7 bits a byte
    for byte in header[3:] if header.startswith(b"\x15\x00\x15") else b"":  # a data page
        page, shift = page | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            break
    if not 0 < column.total_compressed_size - page // 2 <= len(header) or page // 2 < size:
        return None  # more than one page
    return np.memmap(path, dtype, "c", end - size, (count,))
