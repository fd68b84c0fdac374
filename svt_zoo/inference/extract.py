"""Extracts features of videos to one Parquet table: in one process, with torchrun, or on a Ray cluster.

    extract_features("svt_vitb_k400", "videos/", "features.parquet")

The shards of the list stand beside the output until all are complete. They are then merged in the order of the list.
"""

import hashlib
import json
import logging
import math
import os
import pickle
import posixpath
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from filelock import FileLock

from ..data.lists import VideoList, read_list
from ..device import DType, choose_dtype
from ..evaluation.features import Compute, Store, count_failures, prepare, run_local, weights_sha256
from ..evaluation.results import log_start
from ..evaluation.shards import ClipReader, Computed, ShardFolder, differences
from ..evaluation.views import parse_views
from ..files import is_url, output_file, torch_folder
from ..lock import hold
from ..models import ZooModel, backbone_of
from .feature_table import FeatureTable, make_schema, write_table

if TYPE_CHECKING:
    import pyarrow

Engine = Literal["local", "ray"]
Pooling = Literal["cls", "frames", "patches"]
_REMOVED = (FileNotFoundError, FileExistsError)  # the second: `mkdir` found the folder, which was removed then
_MOST_RAY_BLOCKS = 2000  # Ray Data has a cost per block


class Summary(NamedTuple):
    """Result of one call: it read `videos` in `seconds`, `failed` of them with an error; earlier calls read the rest.

    `complete` states whether the table exists; with several processes, it exists after the last one finishes.
    """

    output: str | Path
    videos: int
    failed: int
    seconds: float
    complete: bool

    def __str__(self) -> str:
        rate = f" ({self.videos / self.seconds:.1f} a second)" if self.videos else ", nothing was left to do"
        state = "" if self.complete else ", written by the process that finishes last"
        return f"{self.videos} videos in {self.seconds:.1f} s{rate}, {self.failed} failed: {self.output}{state}"


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

    After a kill, the same call continues, with any engine and any number of processes. The table is always the same
    and has every row once.

    Args:
        model: a name or address for `load_model`, or a model (not changed); a classifier stands for its backbone.
        videos: a list, or a source for `read_list`.
        output: the .parquet file, or its URL: then all is in `torch.hub.get_dir()/features` until it is uploaded.
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
        FolderInUse: another process with the same rank writes this output.
        ImportError: pyarrow, or ray for that engine, is not installed.
        WeightsError: the weights cannot be loaded.
    """
    _check(engine, pooling, views, every, num_workers, rank, world_size)
    start = time.monotonic()
    videos = videos if isinstance(videos, VideoList) else read_list(videos)
    place, output = output, _file_for(output, world_size)
    network, at, _ = prepare(model, "cpu" if engine == "ray" else device, "float32")  # Ray's actors use the GPUs
    transform = network.transforms()
    network = backbone_of(network)
    reader = ClipReader(videos, parse_views(views, transform), transform, every=every, batch_size=batch_size)
    compute = Compute(network, "mean" if pooling == "cls" else pooling, at, choose_dtype(dtype, at), store)
    settings = {"weights_sha256": weights_sha256(network), "pooling": pooling, **_settings(reader, compute, views)}
    shape = list(compute.features([torch.zeros(1, 3, transform.num_frames, *transform.crop_size)]).shape[1:])
    schema = make_schema(math.prod(shape), store, {**settings, **_origin(network, videos), "shape": str(shape)})
    folder = ShardFolder(output.with_name(f"{output.name}.parts"), videos, settings, shard_size)
    what = "extraction by Ray, whose actors use the cluster's GPUs; this process" if engine == "ray" else "extraction"
    run = partial(run_ray, device=device) if engine == "ray" else run_local
    with nullcontext() if output.exists() else hold(folder.folder, f"rank_{rank}"):  # a table is not written again
        ranges = plan(output, folder, rank, world_size, batch_size)
        total = sum(map(len, ranges))
        facts = {"videos": len(videos), "videos_left": total}
        log_start(what, network, device=at, precision=compute.dtype, output=output, **facts)
        outcomes = folder.collect(run(reader, compute, ranges, num_workers), ranges)
        failed = count_failures(outcomes, total, show_progress=rank == 0)
        complete = merge(folder, output, schema)
    return Summary(_deliver(output, os.fspath(place)), total, failed, time.monotonic() - start, complete)


def _file_for(output: str | os.PathLike[str], world_size: int) -> Path:
    """The file to write; for a URL a local one, which holds the content of the URL if it exists."""
    url = os.fspath(output)
    if not is_url(url):
        return output_file(output, ".parquet")
    if world_size > 1:
        raise ValueError(f"{world_size} processes cannot write {url} together; name a file, or use engine=ray")
    import fsspec

    files, remote = fsspec.url_to_fs(url)
    output_file(torch_folder("features") / posixpath.basename(url), ".parquet")  # checks the suffix
    target = torch_folder("features") / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.parquet"
    if files.exists(remote):
        files.get_file(remote, str(target))
    return target


def _deliver(table: Path, place: str) -> str | Path:
    """Uploads the table if its place is a URL; returns where it is."""
    if not is_url(place) or not table.exists():
        return table
    import fsspec

    files, remote = fsspec.url_to_fs(place)
    files.makedirs(posixpath.dirname(remote), exist_ok=True)
    files.put_file(str(table), remote)
    table.unlink()
    return place


def _settings(reader: ClipReader, compute: Compute, views: str) -> dict[str, str]:
    """Settings that determine the rows, besides weights and pooling; equal settings give equal tables."""
    return {
        "views": views,
        "list_sha256": reader.videos.sha256,
        "clip": json.dumps(vars(reader.transform)),
        "every": str(reader.every),
        "store": compute.store,
        "dtype": str(compute.dtype).removeprefix("torch."),
    }


def _check(
    engine: Engine,
    pooling: Pooling,
    views: str,
    every: float | None,
    num_workers: int | None,
    rank: int,
    world_size: int,
) -> None:
    for name, value, choices in (("engine", engine, get_args(Engine)), ("pooling", pooling, get_args(Pooling))):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if views != "1x1" and (every is not None or pooling != "cls"):
        raise ValueError(f"every, and pooling frames or patches, need views=1x1, got {views=}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be 0 to world_size - 1, got {rank=}, {world_size=}")
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers must be >= 0, got {num_workers}")


def plan(output: Path, folder: ShardFolder, rank: int, world_size: int, batch_size: int) -> list[range]:
    """The videos that are left for this process; refuses an output with features of other settings."""
    if not output.exists():
        with suppress(*_REMOVED):  # another process may merge the shards now
            folder.claim()
    if output.exists() and (different := differences(FeatureTable(output).metadata, folder.settings)):
        raise ValueError(f"{output} holds other features: {different}; delete it or choose another output")
    ranges = folder.todo(rank, world_size, batch_size)
    return [] if output.exists() else ranges  # checked last: another process may merge the shards now


def merge(folder: ShardFolder, output: Path, schema: "pyarrow.Schema") -> bool:
    """Merge the shards if all are complete (in the last process); returns whether the table exists."""
    if not output.exists() and all(path.exists() for path in folder.paths):
        with suppress(*_REMOVED), FileLock(folder.folder / "merge.lock"):
            if not output.exists():  # another process may have merged the shards and removed the folder
                root = folder.videos.root.rstrip("/") + "/"
                names = [path.removeprefix(root) for path in folder.videos.columns.paths()]
                write_table(output, schema, folder.read(), names)
    if output.exists():
        shutil.rmtree(folder.folder, ignore_errors=True)
    return output.exists()


def _origin(network: ZooModel, videos: VideoList) -> dict[str, str]:
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
        "has_times": str(videos.columns.has_times),
        "root": videos.root if is_url(videos.root) else os.path.abspath(videos.root),
        "svt_zoo_version": own_version,
    }


def run_ray(
    reader: ClipReader,
    compute: Compute,
    ranges: Sequence[range],
    num_workers: int | None,
    device: str | torch.device | None,
) -> Iterator[Computed]:
    """Computes the ranges on the Ray cluster at `RAY_ADDRESS`, else on this machine; in any order.

    Some actors read, others compute. Ray Data connects them and limits the data between the two: reading waits if
    computing is slower. Every node needs svt_zoo and access to the videos under the same paths or URLs. The actors of a
    lost node start again on the others. Without a GPU for them, the command waits; stop it and run it again.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # disables usage reports to the makers of Ray
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("engine=ray needs Ray Data: pip install 'ray[data]' pyarrow") from error
    if not ranges:
        return
    is_own = not ray.is_initialized()
    if is_own:
        ray.init(include_dashboard=None if os.environ.get("RAY_ADDRESS") else False, logging_level=logging.WARNING)
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    on_gpu = gpus > 0 and torch.device(device or "cuda").type == "cuda"
    models = gpus if on_gpu else 1
    readers = max(1, min(num_workers or cpus, cpus - (0 if on_gpu else models), len(ranges)))
    ray.data.DataContext.get_current().enable_progress_bars = False  # the extraction has its own bar
    items = [{"range": pickle.dumps(videos)} for videos in ranges]
    rows = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_RAY_BLOCKS))
    rows = rows.map_batches(
        _Read,
        batch_size=1,
        num_cpus=0.5,  # each reader uses one; so those of a lost node find a place on the others
        compute=ray.data.ActorPoolStrategy(size=readers),
        fn_constructor_args=(reader,),
    )
    rows = rows.map_batches(
        _Compute,
        batch_size=1,
        num_cpus=0,
        num_gpus=1 if on_gpu else 0,
        compute=ray.data.ActorPoolStrategy(size=models),
        fn_constructor_args=(compute, "cuda" if on_gpu else "cpu"),
    )
    try:
        for row in rows.iter_rows():
            yield pickle.loads(row["computed"])
    finally:
        if is_own:
            ray.shutdown()


class _Read:
    """Actor that reads its ranges, one batch of clips at a time."""

    def __init__(self, reader: ClipReader) -> None:
        torch.set_num_threads(1)
        self.reader = reader

    def __call__(self, rows: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for batch in self.reader.batches(pickle.loads(rows["range"][0])):
            yield {"clips": _column((batch._replace(views=[]), [view.numpy() for view in batch.views]))}


class _Compute:
    """Actor that computes its batches."""

    def __init__(self, compute: Compute, device: str) -> None:
        self.compute = compute.to(device)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        batch, views = pickle.loads(rows["clips"][0])
        return {"computed": _column(self.compute(batch._replace(views=list(map(torch.from_numpy, views)))))}


def _column(value: Any) -> "np.ndarray[Any, Any]":
    """Column with one cell that holds `value` unchanged, so that the network gets the clips exactly as read."""
    column = np.empty(1, object)
    column[0] = pickle.dumps(value, protocol=5)
    return column
