"""Writes and reads a table of features in Parquet; shards are merged into one file.

Columns: `video` (path below the metadata's `root`), `start_sec` and `end_sec` (the time that the frames cover, in
seconds), `embedding` (FixedSizeList of float16 or float32) and `error`. A row has either an embedding or an error.
Needs pyarrow, the extra `parquet`.
"""

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..files import atomic, is_url, write_whole

if TYPE_CHECKING:
    import pyarrow

Store = Literal["float16", "float32"]


class FeatureRow(NamedTuple):
    """One row: a video, the time that the feature covers (in seconds), and the feature or an error message."""

    video: str
    start_sec: float | None
    end_sec: float | None
    embedding: np.ndarray[Any, Any] | None = None
    error: str | None = None


class Block(NamedTuple):
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
        metadata=dict(metadata),
    )


def write_shard(path: Path, rows: Sequence[FeatureRow], schema: "pyarrow.Schema") -> None:
    """Write rows as one Parquet file; the write is atomic, so the file is never incomplete."""
    import pyarrow
    import pyarrow.parquet

    kind = schema.field("embedding").type
    dtype = kind.value_type.to_pandas_dtype()
    empty = np.zeros(kind.list_size, dtype)
    values = np.concatenate([empty if row.embedding is None else row.embedding.astype(dtype) for row in rows])
    missing = pyarrow.array([row.embedding is None for row in rows])
    columns = [
        pyarrow.array([row.video for row in rows], pyarrow.string()),
        pyarrow.array([row.start_sec for row in rows], pyarrow.float64()),
        pyarrow.array([row.end_sec for row in rows], pyarrow.float64()),
        pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values), type=kind, mask=missing),
        pyarrow.array([row.error for row in rows], pyarrow.string()),
    ]
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, schema=schema), sink)
    write_whole(path, sink.getvalue().to_pybytes())


def merge_shards(shards: Iterable[Path], output: Path, schema: "pyarrow.Schema") -> None:
    """Write the rows of all shards, in order, to one file; one shard is in memory at a time.

    Raises:
        ValueError: a shard is damaged.
    """
    import pyarrow.parquet

    with atomic(output) as part, pyarrow.parquet.ParquetWriter(part, schema) as writer:
        for shard in shards:
            writer.write_table(_read_shard(shard).cast(schema))


def outcomes_of(shard: Path) -> list[tuple[str, str | None]]:
    """Returns the videos of a shard, each with the error of its row; None for a row with a feature.

    Raises:
        FileNotFoundError: the shard does not exist.
        ValueError: the shard is damaged.
    """
    rows = _read_shard(shard, ["video", "error"]).to_pylist()
    return list({(row["video"], row["error"]): None for row in rows})


def _read_shard(path: Path, columns: list[str] | None = None) -> "pyarrow.Table":
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path, columns=columns, use_threads=False)
    except FileNotFoundError:
        raise
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run the extraction again") from error


class FeatureTable:
    """Reads a table of features in blocks, from a file or a folder of such files.

    Attributes:
        path: the file or folder.
        metadata: of the table: `weights`, `weights_sha256`, `recipe`, `pooling`, `views`, ...
        width: number of values per feature.

    Raises:
        ValueError: the table does not exist, or the Parquet file is not a table of features.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import pyarrow
        import pyarrow.dataset

        self.path = Path(path)
        try:
            self._dataset = pyarrow.dataset.dataset(self.path, format="parquet")
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is no Parquet file or folder of them: {str(error).splitlines()[0]}") from error
        schema = self._dataset.schema
        self.metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        if "embedding" not in schema.names or "weights_sha256" not in self.metadata:
            raise ValueError(f"{path} is no table of features; tools/extract_features.py writes them")
        self.width: int = schema.field("embedding").type.list_size

    def __len__(self) -> int:
        """Number of rows, including failures."""
        return self._dataset.count_rows()

    def blocks(self, size: int = 16384) -> Iterator[Block]:
        """Yields the rows that have a feature, in order, at most `size` at a time."""
        first = 0
        batches = self._dataset.to_batches(["embedding"], batch_size=size, batch_readahead=1, fragment_readahead=1)
        for batch in batches:
            column = batch.column("embedding")
            there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            values = column.flatten().to_numpy().astype(np.float32)  # only rows with a feature
            if len(there):
                yield Block(torch.from_numpy(first + there), torch.from_numpy(values.reshape(len(there), self.width)))
            first += batch.num_rows

    def has_features(self) -> bool:
        """Whether any row has a feature."""
        return next(self.blocks(), None) is not None

    def videos(self) -> list[str]:
        """Returns the video of each row."""
        return self._dataset.to_table(["video"]).column("video").to_pylist()

    def rows(self, numbers: Sequence[int]) -> list[FeatureRow]:
        """Returns the rows with these numbers, without their features."""
        found = self._dataset.take(list(numbers), columns=["video", "start_sec", "end_sec", "error"]).to_pylist()
        return [FeatureRow(row["video"], row["start_sec"], row["end_sec"], error=row["error"]) for row in found]

    def locate(self, video: str) -> str:
        """Returns the path or URL of a `video` of the table."""
        return video if is_url(video) else posixpath.join(self.metadata["root"], video)
