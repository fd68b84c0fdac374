"""Extracts features of videos to one Parquet table: in one process, with torchrun, or on a Ray cluster.

    extract_features("svt_vitb_k400", "videos/", "features.parquet")

The list is divided into shards. Each shard is written atomically, next to the output. After the last one, all are
merged in the order of the list. After a kill, the same call continues, with any engine and any number of processes.
The table is always the same and has every row once.
"""

import json
import logging
import os
import time
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..data.list_formats import is_video
from ..data.lists import Row, VideoList, read_list
from ..data.pool import TaskResult, number_of_workers, output_file, progress, start_worker
from ..device import DType, choose_dtype
from ..evaluation.features import weights_sha256
from ..evaluation.prepare import prepare
from ..evaluation.start import log_start
from ..evaluation.views import parse_views
from ..files import is_url
from ..models import ZooModel, backbone_of
from .clips import Chunk, ClipReader
from .compute import Compute, Computed, Pooling
from .extract_ray import run_ray
from .extract_shards import Parts, ShardedTable
from .feature_table import Store, make_schema

_log = logging.getLogger(__name__)

Engine = Literal["local", "ray"]


class Summary(NamedTuple):
    """Result of one call: it read `videos` in `seconds`, `failed` of them with an error; earlier calls read the rest.

    `complete` states whether the table exists; with several processes, it exists after the last one finishes.
    """

    output: Path
    videos: int
    failed: int
    seconds: float
    complete: bool

    def __str__(self) -> str:
        rate = f" ({self.videos / self.seconds:.1f} a second)" if self.videos else ", nothing was left to do"
        state = "" if self.complete else ", written by the process that finishes last"
        return f"{self.videos} videos in {self.seconds:.1f} s{rate}, {self.failed} failed: {self.output}{state}"


def list_videos(source: str | os.PathLike[str], **options: Any) -> VideoList:
    """Read the videos of a list, a folder, a URL of either, or one video; options as in `read_list`.

    Raises:
        ListError, OSError: as in `read_list`.
    """
    name = os.fspath(source)
    if is_video(name.split("?")[0]) and not os.path.isdir(name):
        return VideoList((Row(name),), root=os.path.dirname(name))
    return read_list(name, **options)


def extract_features(
    model: str | ZooModel,
    videos: VideoList | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    views: str = "1x1",
    every: float | None = None,
    pooling: Pooling = "cls",
    store: Store = "float32",
    engine: Engine = "local",
    device: str | torch.device | None = None,
    dtype: DType = "float32",
    batch_size: int = 8,
    num_workers: int | None = None,
    shard_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
) -> Summary:
    """Write the features of a list of videos to a Parquet table (format: see `feature_table`).

    Args:
        model: a name or address for `load_model`, or a model (not changed); a classifier stands for its backbone.
        videos: a list, or a source for `list_videos`.
        output: the .parquet file to write.
        views: of each video, whose features are averaged: "3x1" (crops x clips), "slow-fast 3x1".
        every: seconds between two rows of one video, each of one clip; None for one row per video.
        pooling: content of a row. "cls": the class feature, D numbers. "frames": the mean of the patches of each
            frame, T x D. "patches": all patches, T x N x D.
        store: number type of the features in the table.
        engine: "local", or "ray" (an extra): CPU actors read and model actors compute, on the cluster at
            `RAY_ADDRESS`, else on this machine.
        device, dtype: device and number type of the network; by default the GPU if there is one, and float32.
        batch_size: rows per forward pass (clips, or videos with all their views).
        num_workers: processes that read videos; 0 reads in this one (local), None uses one per core.
        shard_size: videos per shard; a killed process loses at most the work on its unfinished shards.
        rank, world_size: number of this process, and count of processes that write this output together.

    Raises:
        ValueError: the output holds other features or cannot be written, or options exclude each other.
        ImportError: pyarrow, or ray for that engine, is not installed.
        WeightsError: the weights cannot be loaded.
    """
    _check_numbers(rank, world_size, batch_size=batch_size, shard_size=shard_size, workers=num_workers)
    if engine not in get_args(Engine):
        raise ValueError(f"engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
    if views != "1x1" and (every is not None or pooling != "cls"):
        raise ValueError(f"every, and pooling frames or patches, need views=1x1, got {views=}")
    output = output_file(output, ".parquet")
    start = time.monotonic()
    videos = videos if isinstance(videos, VideoList) else list_videos(videos)
    # With Ray, the actors use the GPUs.
    network, at, _ = prepare(model, "cpu" if engine == "ray" else device, "float32")
    dtype = choose_dtype(dtype, at)
    transform = network.transforms()
    network = backbone_of(network)
    reader = ClipReader(videos, parse_views(views, transform), transform, every=every, batch_size=batch_size)
    sha256 = weights_sha256(network)  # hash before the conversion to another type
    compute = Compute(network, pooling, store, at, dtype)
    identity = {"weights_sha256": sha256, "views": views} | _identity(reader, compute)
    shape = compute.shape(transform)
    schema = make_schema(shape.numel(), store, identity | _story(network, videos) | {"shape": str(list(shape))})
    table = ShardedTable(output, videos, schema, identity, shard_size)
    table.claim()
    parts = table.todo(rank, world_size, batch_size)
    what = "extraction" if engine == "local" else "extraction by Ray, whose actors use the cluster's GPUs; this process"
    count = sum(map(len, parts.values()))
    log_start(what, network, device=at, precision=dtype, output=output, videos=len(videos), videos_left=count)
    run = partial(run_ray, device=device) if engine == "ray" else run_local
    failed = _report(table.collect(run(reader, compute, parts, num_workers), parts), count, show=rank == 0)
    return Summary(table.path, count, failed, complete=table.merge(), seconds=time.monotonic() - start)


def _check_numbers(rank: int, world_size: int, **numbers: int | None) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be 0 to world_size - 1, got {rank=}, {world_size=}")
    for name, number in numbers.items():
        least = 0 if name == "workers" else 1
        if number is not None and number < least:
            raise ValueError(f"{name} must be >= {least}, got {number}")


def _report(videos: Iterator[TaskResult[str, bool]], count: int, *, show: bool) -> int:
    """Log failed videos and the progress; return the number of failures."""
    failed = 0
    for one in progress(videos, count) if show else videos:
        if one.result is None:
            failed += 1
            _log.warning("%s: %s", one.task, one.reason)
    return failed


def run_local(reader: ClipReader, compute: Compute, parts: Parts, num_workers: int | None) -> Iterator[Computed]:
    """Reads in `number_of_workers` worker processes and computes in this one."""
    loader: DataLoader[Chunk] = DataLoader(
        _Chunks(reader, parts),
        batch_size=None,
        num_workers=min(number_of_workers(num_workers), len(parts)),
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # the default one changes the global random state
    )
    return map(compute, loader)


class _Chunks(IterableDataset[Chunk]):
    """Yields the chunks of all parts; each worker reads some of the parts."""

    def __init__(self, reader: ClipReader, parts: Parts) -> None:
        self.reader = reader
        self.parts = parts

    def __iter__(self) -> Iterator[Chunk]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for part in list(self.parts)[first::step]:
            yield from self.reader.chunks(part, self.parts[part])


def _identity(reader: ClipReader, compute: Compute) -> dict[str, str]:
    """Settings that determine the rows, besides weights and views; equal settings give equal tables."""
    return {
        "list_sha256": reader.videos.sha256,
        "clip": json.dumps(vars(reader.transform)),
        "every": str(reader.every),
        "pooling": compute.pooling,
        "store": compute.store,
        "dtype": str(compute.dtype).removeprefix("torch."),
    }


def _story(network: ZooModel, videos: VideoList) -> dict[str, str]:
    """Source of the weights, to load them again, and location of the videos."""
    meta = network.meta
    weights = str(meta.get("weights") or "")
    try:
        own_version = version("svt-zoo")
    except PackageNotFoundError:
        own_version = ""  # a checkout on the path, without installation
    return {
        "weights": os.path.abspath(weights) if os.path.exists(weights) else weights,
        "model": str(meta.get("model") or type(network).__name__),
        "recipe": json.dumps(meta.get("recipe") or meta.get("title") or ""),
        "frame_rate": str(videos.frame_rate),
        "root": videos.root if is_url(videos.root) else os.path.abspath(videos.root),
        "svt_zoo_version": own_version,
    }
