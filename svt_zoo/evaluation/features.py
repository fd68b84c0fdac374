"""Features of a list of videos: the same for one or many processes, and after a restart."""

import copy
import hashlib
import json
import logging
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .. import distributed
from ..batch import Failure
from ..data import pool as pools
from ..data.list_formats import printable
from ..data.lists import VideoList
from ..data.loader import WorkerLoader
from ..data.pool import TaskResult, number_of_workers
from ..data.views import Views
from ..device import DType, choose_device, choose_dtype, clip_dtype, memory_advice
from ..hub.loading import load_model
from ..models import Features, ZooModel
from ..models.int8 import is_int8, to_int8
from .shards import ClipBatch, ClipReader, Computed, Shard, ShardFolder
from .views import describe_views, parse_views

_log = logging.getLogger(__name__)

Pool = Literal["mean", "sum", "softmax", "max", "none", "frames", "patches"]
Store = Literal["float16", "float32"]


class Extracted(NamedTuple):
    """Outputs of a network for the videos of a list, in list order, without the unreadable videos.

    `features` is float32 (N, D), or (N, V, D) for V views without pooling. `labels` is int64 (N,), -1 for none.
    `names` holds the paths, `video_index` the rows in the list, int64 (N,). `missing` holds the unreadable videos.
    """

    features: Tensor
    labels: Tensor
    names: list[str]
    video_index: Tensor
    missing: list[Failure]


def extract(
    model: ZooModel,
    videos: VideoList,
    *,
    views: str | Views = "1x1",
    pool: Pool = "mean",
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 8,
    num_workers: int | None = 0,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    shard_size: int = 64,
    progress: bool = True,
) -> Extracted:
    """Compute features (backbone) or logits (`Classifier`) of all videos of a list; the model is not changed.

    With an `output` folder, finished shards are kept there. After a kill, the same call continues, also with another
    number of processes. The processes of torch.distributed divide the shards, and each returns all features.

    Args:
        model: a backbone, or a classifier (pass its `backbone` for features).
        videos: the list.
        views: "3x1" (crops x clips) or "slow-fast 3x1" of the model's own transform, or a custom `Views` object.
        pool: as in `view_features`.
        device: by default the GPU if there is one.
        dtype: the type that the network computes in; `torch.int8` is for CPUs (see `to_int8`).
        batch_size: videos per batch; the views are computed one after the other.
        num_workers: processes that read videos; 0 reads in this one, None uses one per core.
        seed: of random views (`RandomClips`).
        output: folder of the shards; None keeps nothing.
        shard_size: videos per shard.
        progress: log the progress, or show a bar on a terminal.

    Raises:
        CommonFailure: the first videos all fail for the same reason.
        ValueError: the folder has features of other videos, weights or views, or several processes have no folder.
    """
    if distributed.world_size() > 1 and output is None:
        raise ValueError(f"{distributed.world_size()} processes need a common folder as output, got none")
    if isinstance(views, str):
        views = parse_views(views, model.transforms())
    compute = Compute(model, pool, choose_device(device), dtype)
    settings = {"list_sha256": videos.sha256, "weights_sha256": weights_sha256(model), "views": describe_views(views)}
    settings |= {"pool": pool, "dtype": str(dtype), "seed": str(seed)}
    reader = ClipReader(videos, views, batch_size=batch_size, seed=seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = ShardFolder(Path(output or scratch), videos, settings, shard_size)
        fill_shards(folder, reader, compute, num_workers=num_workers, progress=progress)
        shards = list(folder.read())
        rows = [row for shard in shards for row in shard.rows]
        index = [row.video_index for row in rows if row.error is None]
        labels = [videos.rows[i].label for i in index]
        features = [shard.features for shard in shards if len(shard.features)]
        return Extracted(
            features=torch.cat(features) if features else torch.empty(0, 0),
            labels=torch.tensor([-1 if label is None else label for label in labels], dtype=torch.int64),
            names=[videos.rows[i].path for i in index],
            video_index=torch.tensor(index, dtype=torch.int64),
            missing=[Failure(videos.rows[row.video_index].path, row.error) for row in rows if row.error is not None],
        )


def fill_shards(
    folder: ShardFolder, reader: ClipReader, compute: "Compute", *, num_workers: int | None, progress: bool = True
) -> None:
    """Compute the shards that a folder lacks; the processes of torch.distributed divide them and wait for each other.

    Raises:
        CommonFailure: the first videos all fail for the same reason.
        ValueError: the folder has features of other settings.
    """
    rank = distributed.rank()
    folder.claim()
    ranges = folder.todo(rank, distributed.world_size(), reader.batch_size)
    done = folder.collect(run_local(reader, compute, ranges, num_workers), ranges)
    count_failures(done, sum(map(len, ranges)), show_progress=progress and rank == 0)
    distributed.barrier()


class Compute:
    """Applies a network to batches of clips and pools its outputs into features of type `store`.

    The caller's network is not changed.
    """

    def __init__(
        self, network: ZooModel, pool: Pool, device: torch.device, dtype: torch.dtype, store: Store = "float32"
    ) -> None:
        for name, value, allowed in (("pool", pool, get_args(Pool)), ("store", store, get_args(Store))):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        self.network = prepare(network, device, dtype)[0]
        self.pool = pool
        self.device = device
        self.dtype = dtype
        self.store = store
        self.ahead = 1 if device.type == "cuda" else 0  # batches that start before the features of one are read

    def to(self, device: torch.device | str) -> "Compute":
        """Returns a copy on another device."""
        return Compute(self.network, self.pool, torch.device(device), self.dtype, self.store)

    def features(self, views: Sequence[Tensor]) -> Tensor:
        """Features of V views (n, 3, T, H, W), in the stored type, on the CPU."""
        return self._wait(*self._start(views))

    def __call__(self, batch: ClipBatch) -> Computed:
        """Features of a batch; a row whose feature is not finite in the stored type gets an error."""
        return next(self.stream([batch]))

    def stream(self, batches: Iterable[ClipBatch]) -> Iterator[Computed]:
        """As `compute(batch)` for each batch; a GPU starts with the next one before the features are read."""
        started: deque[tuple[ClipBatch, Tensor, torch.cuda.Event | None]] = deque()
        for batch in batches:
            started.append((batch, *self._start(batch.views)))
            if len(started) > self.ahead:
                yield self._finish(*started.popleft())
        yield from (self._finish(*one) for one in started)

    @torch.inference_mode()
    def _start(self, views: Sequence[Tensor]) -> tuple[Tensor, torch.cuda.Event | None]:
        """The features on the CPU, in float32; on a GPU they are there after the event."""
        if not views:
            return torch.empty(0, 0), None
        with memory_advice(f"{len(views[0])} rows of {len(views)} x {tuple(views[0].shape[1:])}", "lower batch_size"):
            # First to the device, then to the type: in one call, the CPU would convert.
            clips = [view.to(self.device, non_blocking=True).to(clip_dtype(self.dtype)) for view in views]
            features = self.pooled(clips).float().to("cpu", non_blocking=True)
        on_gpu = self.device.type == "cuda"
        return features, torch.cuda.current_stream(self.device).record_event() if on_gpu else None

    def pooled(self, views: Sequence[Tensor]) -> Tensor:
        """Features (n, ...) of V views (n, 3, T, H, W) on the device."""
        return view_features(self.network, views, self.pool)

    def _wait(self, features: Tensor, event: torch.cuda.Event | None) -> Tensor:
        if event is not None:
            event.synchronize()
        return features.to(getattr(torch, self.store))

    def _finish(self, batch: ClipBatch, features: Tensor, event: torch.cuda.Event | None) -> Computed:
        features = self._wait(features, event)
        finite = features.isfinite()
        if self.pool == "softmax":
            finite |= features.isneginf()  # the logarithm of probability 0
        good = finite.flatten(1).all(dim=1)  # (n,)
        left = iter(good.tolist())
        error = f"the feature has numbers that are not finite in {self.store}"
        rows = [row if row.error or next(left) else row._replace(error=error) for row in batch.rows]
        return Computed(batch.start, Shard(rows, features[good]), batch.last)


def view_features(network: ZooModel, views: Sequence[Tensor], pool: Pool = "mean") -> Tensor:
    """Pooled outputs of a network for the views of B videos, with gradients: (B, D) unless stated otherwise.

    Args:
        network: a backbone, whose class features are used, or a classifier.
        views: V tensors (B, C, T, H, W); T, H and W may differ between views, as in slow and fast clips.
        pool: "mean" of all views; "sum": mean over views of one shape, then the sum over shapes (slow and fast);
            "none": no pooling, (B, V, D). For logits also "softmax" (log of the mean probability) and "max". For a
            single view of a backbone also "patches", (B, T, N, D), and their mean per frame "frames", (B, T, D).

    Raises:
        ValueError: unknown `pool`.
    """
    if pool in ("frames", "patches"):
        (view,) = views
        patches: Tensor = network(view).patches  # (B, T, N, D)
        return patches.mean(dim=2) if pool == "frames" else patches
    outputs = [network(view) for view in views]
    rows = torch.stack([output.cls if isinstance(output, Features) else output for output in outputs])  # (V, B, D)
    if pool == "none":
        return rows.transpose(0, 1)  # (B, V, D)
    if pool == "mean":
        return rows.mean(dim=0)
    if pool == "softmax":
        return rows.softmax(dim=-1).mean(dim=0).log()
    if pool == "max":
        return rows.amax(dim=0)
    if pool != "sum":
        raise ValueError(f"pool must be one of {', '.join(get_args(Pool))}, got {pool!r}")
    shapes = [view.shape for view in views]
    groups = [rows[[shape == other for other in shapes]].mean(dim=0) for shape in dict.fromkeys(shapes)]
    return torch.stack(groups).sum(dim=0)


def run_local(
    reader: ClipReader, compute: Compute, ranges: Sequence[range], num_workers: int | None
) -> Iterator[Computed]:
    """Reads in `number_of_workers` worker processes and computes in this one."""
    workers = min(number_of_workers(num_workers), len(ranges))
    loader = WorkerLoader(
        _Batches(reader, ranges),
        batch_size=None,
        num_workers=workers,
        pin_memory=compute.device.type == "cuda",
        prefetch_factor=1,  # float views of prefetched videos occupy shared memory
    )
    return compute.stream(loader)


class _Batches(IterableDataset[ClipBatch]):
    """Yields the batches of all ranges; each worker reads some of the ranges."""

    def __init__(self, reader: ClipReader, ranges: Sequence[range]) -> None:
        self.reader = reader
        self.ranges = ranges

    def __iter__(self) -> Iterator[ClipBatch]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for videos in self.ranges[first::step]:
            yield from self.reader.batches(videos)


def count_failures(outcomes: Iterable[TaskResult[str, bool]], total: int, *, show_progress: bool) -> int:
    """Log each failed video, and the progress of `total` videos; returns the number of failures."""
    failed = 0
    for one in pools.progress(outcomes, total) if show_progress else outcomes:
        if one.result is None:
            failed += 1
            _log.warning("%s", printable(f"{one.task}: {one.reason}"))
    return failed


def prepare(
    model: str | ZooModel, device: str | torch.device | None, dtype: DType, *, num_classes: int | None = 0
) -> tuple[ZooModel, torch.device, torch.dtype]:
    """Return the model in eval mode, on the chosen device and in the chosen type.

    The caller's model is not changed. The result is a copy, unless the model is already in that state.

    Raises:
        ValueError: the device or the type does not exist, or does not fit the network.
    """
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    if isinstance(model, str):
        network = load_model(model, num_classes=num_classes)
    else:
        network = model if dtype == torch.int8 or _is_ready(model, device, dtype) else copy.deepcopy(model)
    if dtype == torch.int8:
        return to_int8(network), device, dtype
    if is_int8(network):
        raise ValueError(
            f"a network of to_int8() computes in int8, got dtype={dtype}; use the network that it was made of"
        )
    return network.to(device=device, dtype=dtype).eval(), device, dtype


def _is_ready(model: ZooModel, device: torch.device, dtype: torch.dtype) -> bool:
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    here = all(tensor.device.type == device.type and tensor.dtype == dtype for tensor in tensors)
    here = here and all(device.index in (None, tensor.device.index) for tensor in tensors)
    return here and not any(module.training for module in model.modules())


def weights_sha256(model: ZooModel) -> str:
    """Hash of everything that determines the outputs of a model: architecture, names and values of its tensors."""
    architecture = [type(model).__name__, model.meta.get("model"), model.meta.get("model_kwargs")]
    digest = hashlib.sha256(json.dumps(architecture, default=str, sort_keys=True).encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
