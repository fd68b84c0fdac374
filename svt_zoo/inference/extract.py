"""Features of a collection of videos as one Parquet table: by one process, by torchrun's, or by a Ray cluster.

    extract_features("svt_vitb_k400", "videos/", "features.parquet")

The list is divided into shards. Each is written, whole or not at all, beside the output; when the last one is there
they are merged in the order of the list. The same call goes on where a killed one was, with any engine and any number
of processes, and the table is the same: every row once.
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

from ..data.jobs import Done, output_file, progress
from ..data.list_formats import is_video
from ..data.lists import Row, VideoList, read_list
from ..data.remote import is_url
from ..data.workers import number_of_workers, start_worker
from ..evaluation.features import weights_sha256
from ..evaluation.prepare import DType, choose_dtype, prepare
from ..evaluation.start import log_start
from ..evaluation.views import parse_views
from ..models import Classifier, ZooModel
from .clips import Chunk, ClipReader
from .compute import Compute, Computed, Pooling
from .extract_ray import run_ray
from .extract_shards import Parts, ShardedTable
from .feature_table import Store, make_schema

_log = logging.getLogger(__name__)

Engine = Literal["local", "ray"]


class Summary(NamedTuple):
    """What one call did: it read `videos`, of which `failed` have an error, in `seconds`; others were there before.

    `complete` says whether the table is there; with several processes it is once the last has finished.
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
    """The videos of a list, a folder or a URL of either, or one video; options as of `read_list`.

    Raises:
        ListError, OSError: as of `read_list`.
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
    """Write the features of a list of videos to a Parquet table (`feature_table` says what is in it).

    Args:
        model: a name or address `load_model` takes, or a model (left as it is); of a classifier, its backbone.
        videos: a list, or what `list_videos` makes one of.
        output: the .parquet file to write.
        views: of each video, whose features are averaged: "3x1" (crops x clips), "slow-fast 3x1".
        every: seconds between two rows of one video, each of one clip; None for one row a video.
        pooling: what a row holds: the class feature ("cls", D numbers), the mean of the patches of each frame
            ("frames", T x D) or all patches ("patches", T x N x D).
        store: type of the numbers in the table.
        engine: "local", or "ray" (an extra): CPU actors read, model actors compute, on the cluster that `RAY_ADDRESS`
            names, else on this machine.
        device, dtype: where and in what the network computes; by default the GPU if there is one, and float32.
        batch_size: rows (clips, or videos with all their views) that are computed at once.
        num_workers: processes that read videos; 0 reads in this one (local), None is one a core.
        shard_size: videos of a shard, the unit of what a killed process has to do again.
        rank, world_size: number of this process, and how many share the work and the output.

    Raises:
        ValueError: the output holds other features or cannot be written; options that do not go together.
        ImportError: pyarrow, or ray for that engine, is not installed.
        WeightsError: the weights cannot be had.
    """
    _check_numbers(rank, world_size, batch_size=batch_size, shard_size=shard_size, workers=num_workers)
    if engine not in get_args(Engine):
        raise ValueError(f"engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
    if views != "1x1" and (every is not None or pooling != "cls"):
        raise ValueError(f"every, and pooling frames or patches, need views=1x1, got {views=}")
    output = output_file(output, ".parquet")
    start = time.monotonic()
    videos = videos if isinstance(videos, VideoList) else list_videos(videos)
    # The actors of Ray have the GPUs.
    network, at, _ = prepare(model, "cpu" if engine == "ray" else device, "float32")
    dtype = choose_dtype(dtype, at)
    transform = network.transforms()
    network = network.backbone if isinstance(network, Classifier) else network
    reader = ClipReader(videos, parse_views(views, transform), transform, every=every, batch_size=batch_size)
    sha256 = weights_sha256(network)  # of the weights as they were saved: before they take another type
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


def _report(videos: Iterator[Done[str, bool]], count: int, *, show: bool) -> int:
    """Say which videos fail, as they are done, and how far it is; how many failed."""
    failed = 0
    for one in progress(videos, count) if show else videos:
        if one.result is None:
            failed += 1
            _log.warning("%s: %s", one.task, one.reason)
    return failed


def run_local(reader: ClipReader, compute: Compute, parts: Parts, num_workers: int | None) -> Iterator[Computed]:
    """Reads in worker processes, as many as `number_of_workers` says, and computes in this one."""
    loader: DataLoader[Chunk] = DataLoader(
        _Chunks(reader, parts),
        batch_size=None,
        num_workers=min(number_of_workers(num_workers), len(parts)),
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else it draws from the global one
    )
    return map(compute, loader)


class _Chunks(IterableDataset[Chunk]):
    """The chunks of all parts; each worker reads some of the parts."""

    def __init__(self, reader: ClipReader, parts: Parts) -> None:
        self.reader = reader
        self.parts = parts

    def __iter__(self) -> Iterator[Chunk]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for part in list(self.parts)[first::step]:
            yield from self.reader.chunks(part, self.parts[part])


def _identity(reader: ClipReader, compute: Compute) -> dict[str, str]:
    """What decides the rows, besides weights and views: two tables with the same are the same."""
    return {
        "list_sha256": reader.videos.sha256,
        "clip": json.dumps(vars(reader.transform)),
        "every": str(reader.every),
        "pooling": compute.pooling,
        "store": compute.store,
        "dtype": str(compute.dtype).removeprefix("torch."),
    }


def _story(network: ZooModel, videos: VideoList) -> dict[str, str]:
    """Where the weights come from, to load them again, and where the videos lie."""
    meta = network.meta
    weights = str(meta.get("weights") or "")
    try:
        own_version = version("svt-zoo")
    except PackageNotFoundError:
        own_version = ""  # a checkout on the path, not installed
    return {
        "weights": os.path.abspath(weights) if os.path.exists(weights) else weights,
        "model": str(meta.get("model") or type(network).__name__),
        "recipe": json.dumps(meta.get("recipe") or meta.get("title") or ""),
        "frame_rate": str(videos.frame_rate),
        "root": videos.root if is_url(videos.root) else os.path.abspath(videos.root),
        "svt_zoo_version": own_version,
    }
