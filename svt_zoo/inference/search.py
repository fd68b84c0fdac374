"""Finds nearest neighbors in a table of features, by cosine similarity.

    table = FeatureTable("features.parquet")
    feature = query_feature(table, "clip.mp4", start_sec=2, end_sec=6)
    for similarity, row in search(table, feature): ...

Exact search keeps one batch of rows in memory. For a table of millions of rows, see `search_index`.
"""

import json
import os
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ..data.datasets import FrameReader, open_row
from ..data.list_formats import valid_utf8
from ..data.lists import Row, VideoList
from ..data.transforms import EvalTransform
from ..device import choose_dtype
from ..evaluation.features import Compute, prepare, weights_sha256
from ..evaluation.shards import ClipReader
from ..evaluation.views import parse_views
from ..models import ZooModel, backbone_of
from ..video import Limits, VideoReadError
from ..video.frames import is_image
from .feature_table import FeatureRow, FeatureTable
from .search_index import exact, open_index, rerank


class Neighbor(NamedTuple):
    """A row of a table and its cosine similarity to the query."""

    similarity: float
    row: FeatureRow


def query_feature(
    table: FeatureTable,
    path: str | os.PathLike[str],
    *,
    start_sec: float | None = None,
    end_sec: float | None = None,
    model: str | ZooModel | None = None,
    device: str | torch.device | None = None,
    limits: Limits | None = None,
) -> Tensor:
    """Returns the feature (D,) of a video, a part of it or an image, with the settings of the table.

    Args:
        path: a video, a URL of one, or an image (.jpg, .png), which is used as a still video.
        start_sec, end_sec: the part of the video.
        model: by default the model that the table names.
        limits: of the query, as in `open_video`.

    Raises:
        ValueError: the model has other weights than the table, the table has tokens or no rows, or a time is wrong.
        VideoReadError: the query cannot be read.
    """
    if start_sec is not None and not start_sec >= 0:
        raise ValueError(f"the start of a query must be >= 0 seconds, got {start_sec}")
    if not table.has_features():
        raise ValueError(f"no row of {table.path} has a feature; its column `error` states why")
    metadata = table.metadata
    if metadata["pooling"] != "cls":
        raise ValueError(
            f"{table.path} holds {metadata['pooling']}, several vectors a row; search one made without --tokens"
        )
    network, device, _ = prepare(model or weights_of(table), device, "float32")
    network = check_weights(table, network)
    transform = EvalTransform(**json.loads(metadata["clip"]))
    query = VideoList((Row(os.fspath(path), start_sec=start_sec, end_sec=end_sec),))
    opener = partial(open_query, limits=limits, frame_rate=frame_rate_of(table))
    reader = ClipReader(query, parse_views(metadata["views"], transform), open_row=opener)
    compute = Compute(network, "mean", device, choose_dtype(metadata["dtype"], device))
    [row], features = compute(next(reader.batches(range(1)))).shard
    if row.error is not None:
        raise VideoReadError(path, row.error)
    return features[0]


def frame_rate_of(table: FeatureTable) -> float:
    """Returns the frame rate that the table used for folders of frames."""
    return float(table.metadata.get("frame_rate", 30.0))


def weights_of(table: FeatureTable) -> str:
    """Returns the location of the weights that made the table, from its metadata.

    Raises:
        ValueError: the metadata does not state it.
    """
    if not table.metadata["weights"]:
        raise ValueError(f"{table.path} does not state where its weights are; name them by --model")
    return table.metadata["weights"]


def check_weights(table: FeatureTable, model: ZooModel) -> ZooModel:
    """Returns the backbone of `model` if it made the table.

    Raises:
        ValueError: the model has other weights.
    """
    backbone: ZooModel = backbone_of(model)
    metadata, own = table.metadata, weights_sha256(backbone)
    if own != metadata["weights_sha256"]:
        raise ValueError(
            f"{table.path} was made with other weights (sha256 {metadata['weights_sha256'][:12]}, "
            f"{metadata['weights']}) than the query's model (sha256 {own[:12]}); name those by --model, or extract the "
            "features again"
        )
    return backbone


def search(
    table: FeatureTable, feature: Tensor, *, top: int = 10, without: Sequence[int] = (), use_faiss: bool = False
) -> list[Neighbor]:
    """Returns the `top` rows that are most similar to a feature (D,), best first.

    Args:
        without: row numbers to exclude, such as `overlapping(...)`.
        use_faiss: use the index next to the table (`open_index`): a few neighbors may be missed.

    Raises:
        ValueError: the table's features have another length, `top` is below 1, or the table is too small for an index.
        ImportError: faiss is not installed.
    """
    if top < 1:
        raise ValueError(f"top must be >= 1, got {top}")
    if feature.shape != (table.width,):
        raise ValueError(f"{table.path} has features of {table.width} numbers, the query {tuple(feature.shape)}")
    query = normalize(feature.float(), dim=0)
    if use_faiss:
        found = open_index(table).candidates(query[None], top + len(without))[0]
        scores, numbers = rerank(table, query, np.setdiff1d(found, without), top)
    else:
        scores, numbers = (part[0] for part in exact(table, query[None], top + len(without)))
        keep = ~torch.isin(numbers, torch.tensor(list(without), dtype=torch.int64))
        scores, numbers = scores[keep][:top], numbers[keep][:top]
    rows = table.rows(numbers.tolist())
    return [Neighbor(score, row) for score, row in zip(scores.tolist(), rows, strict=True)]


def overlapping(
    table: FeatureTable, path: str | os.PathLike[str], start_sec: float | None = None, end_sec: float | None = None
) -> list[int]:
    """Returns the numbers of the rows that overlap with this part of the same file, for exclusion."""
    wanted = os.path.realpath(path)
    same = table.ending_with({valid_utf8(os.path.basename(name)) for name in (os.fspath(path), wanted)})  # a link too
    low, high = start_sec or 0.0, float("inf") if end_sec is None else end_sec
    return [
        number
        for number, row in zip(same, table.rows(same), strict=True)
        if os.path.realpath(table.locate(row.video)) == wanted
        and (row.start_sec is None or row.end_sec is None or (row.start_sec < high and row.end_sec > low))
    ]


class _Image:
    """An image as a video of one frame, which is shorter than any clip."""

    num_frames, fps, pts = 1, 1000.0, (0.0,)

    def __init__(self, path: str) -> None:
        self.path = path

    def frames_at(self, indices: Sequence[int]) -> Tensor:
        try:
            with Image.open(self.path) as image:
                if image.width * image.height > Limits.max_pixels:
                    raise VideoReadError(
                        self.path, f"{image.width}x{image.height} pixels are more than Limits.max_pixels"
                    )
                pixels = torch.from_numpy(np.array(image.convert("RGB")))  # (H, W, 3)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise VideoReadError(self.path, f"not a readable image: {error}") from error
        return pixels.expand(len(indices), -1, -1, -1)

    def __enter__(self) -> "_Image":
        return self

    def __exit__(self, *exception: object) -> None:
        """Does nothing: no file is open."""


def open_query(row: Row, *, limits: Limits | None = None, frame_rate: float = 30.0) -> FrameReader:
    """Open a video, a URL of one, a folder of frames or an image; options as in `datasets.open_row`.

    Raises:
        VideoReadError: the query cannot be read.
    """
    if is_image(os.path.basename(row.path)):
        return _Image(row.path)
    return open_row(row, limits=limits, frame_rate=frame_rate)
