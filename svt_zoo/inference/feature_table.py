"""Writes and reads a table of features in Parquet.

Columns: `video` (path below the metadata's `root`), `start_sec` and `end_sec` (the time that the frames cover, in
seconds), `embedding` (FixedSizeList of float16 or float32) and `error`. A row has either an embedding or an error.
Needs pyarrow, the extra `parquet`.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.list_formats import valid_utf8
from ..evaluation.features import Store
from ..evaluation.shards import Shard
from ..files import atomic, is_url

if TYPE_CHECKING:
    import pyarrow


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

    One shard is in memory at a time. The file is complete or absent at any time.
    """
    import pyarrow
    import pyarrow.parquet

    kind = schema.field("embedding").type
    with atomic(path) as part, pyarrow.parquet.ParquetWriter(part, schema) as writer:
        for rows, features in shards:
            has_feature = np.array([row.error is None for row in rows])
            values = np.zeros((len(rows), kind.list_size), kind.value_type.to_pandas_dtype())
            if len(features):
                values[has_feature] = features.flatten(1).numpy()
            columns = [
                pyarrow.array([valid_utf8(videos[row.video_index]) for row in rows], pyarrow.string()),
                pyarrow.array([row.start_sec for row in rows], pyarrow.float64()),
                pyarrow.array([row.end_sec for row in rows], pyarrow.float64()),
                pyarrow.FixedSizeListArray.from_arrays(
                    pyarrow.array(values.ravel()), type=kind, mask=pyarrow.array(~has_feature)
                ),
                pyarrow.array([row.error and valid_utf8(row.error) for row in rows], pyarrow.string()),
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


class FeatureTable:
    """Reads a table of features in batches, from a file or a folder of such files.

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
            raise ValueError(
                f"{path} is not a Parquet file or a folder of them: {str(error).splitlines()[0]}"
            ) from error
        schema = self._dataset.schema
        self.metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        if "embedding" not in schema.names or "weights_sha256" not in self.metadata:
            raise ValueError(f"{path} is not a table of features; svt-zoo extract writes them")
        self.width: int = schema.field("embedding").type.list_size

    def __len__(self) -> int:
        """Number of rows, including failures."""
        return self._dataset.count_rows()

    def batches(self, size: int = 16384) -> Iterator[FeatureBatch]:
        """Yields the rows that have a feature, in order, at most `size` at a time."""
        first = 0
        batches = self._dataset.to_batches(["embedding"], batch_size=size, batch_readahead=1, fragment_readahead=1)
        for batch in batches:
            column = batch.column("embedding")
            rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            values = column.flatten().to_numpy().astype(np.float32)  # only rows with a feature
            if len(rows):
                features = torch.from_numpy(values.reshape(len(rows), self.width))
                yield FeatureBatch(torch.from_numpy(first + rows), features)
            first += batch.num_rows

    def has_features(self) -> bool:
        """Whether any row has a feature."""
        return next(self.batches(), None) is not None

    def videos(self) -> list[str]:
        """Returns the video of each row."""
        return self._dataset.to_table(["video"]).column("video").to_pylist()

    def rows(self, numbers: Sequence[int]) -> list[FeatureRow]:
        """Returns the rows with these numbers, without their features."""
        rows = self._dataset.take(list(numbers), columns=list(FeatureRow._fields)).to_pylist()
        return [FeatureRow(**row) for row in rows]

    def locate(self, video: str) -> str:
        """Returns the path or URL of a `video` of the table."""
        path = video if is_url(video) else posixpath.join(self.metadata["root"], video)
        if is_url(path) or os.path.exists(path):
            return path
        # The bytes that `valid_utf8` has escaped.
        return re.sub(r"\\x([89a-f][0-9a-f])", lambda byte: chr(0xDC00 + int(byte[1], 16)), path)
