"""Extracts features of a list of videos; the result is the same for one or many processes and after restarts."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from .. import distributed
from ..batch import Batch, Failure
from ..data.datasets import VideoDataset
from ..data.lists import VideoList
from ..data.loader import collate
from ..data.pool import Outcomes, number_of_workers, start_worker
from ..data.views import Views
from ..files import write_whole
from ..models import Features, ZooModel
from .prepare import prepare
from .views import describe_views, parse_views

Pool = Literal["mean", "sum", "softmax", "max", "none"]


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
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool = True,
) -> Extracted:
    """Compute features (backbone) or logits (`Classifier`) of all videos of a list; the model is not changed.

    With an `output` folder, finished shards are kept there. After a kill, the same call continues, also with another
    number of processes. Several processes share the folder and divide the shards. The processes of one
    torch.distributed group wait for each other, and each returns all features.

    Args:
        model: a backbone, or a classifier (pass its `backbone` for features).
        videos: the list.
        views: "3x1" (crops x clips) or "slow-fast 3x1" of the model's own transform, or a custom `Views` object.
        pool: "mean" of all views; "sum": mean over views of one shape, then the sum over shapes (slow and fast);
            "none": no pooling. For logits also "softmax" (log of the mean probability) and "max".
        device: by default the GPU if there is one.
        dtype: the type that the network computes in.
        batch_size: videos per batch, at most `shard_size`; the views are computed one after the other.
        num_workers: processes that read videos; 0 reads in this one, None uses one per core.
        seed: of random views (`RandomClips`).
        output: folder of the shards; None keeps nothing.
        shard_size: videos per shard.
        rank, world_size: number of this process and count of processes; by default those of torchrun's group.
        progress: on a terminal, show a progress bar with the remaining time.

    Raises:
        CommonFailure: the first videos all fail for the same reason.
        ValueError: the folder has features of other videos, weights or views, or several processes have no folder.
        FileNotFoundError: other processes, outside torch.distributed, have not finished their shards.
    """
    rank = distributed.rank() if rank is None else rank
    world_size = distributed.world_size() if world_size is None else world_size
    _check_place(rank, world_size, output)
    if min(batch_size, shard_size) < 1:
        raise ValueError(f"batch_size and shard_size must be >= 1, got {batch_size=}, {shard_size=}")
    made = parse_views(views, model.transforms()) if isinstance(views, str) else views
    network, device, dtype = prepare(model, device, dtype)
    settings = {"list_sha256": videos.sha256, "weights_sha256": weights_sha256(model), "views": describe_views(made)}
    settings |= {"pool": pool, "dtype": str(dtype), "seed": str(seed), "shard_size": str(shard_size)}
    dataset = VideoDataset(videos, made, train=False, seed=seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(output or scratch)
        claim(folder, settings)
        mine = {_path(folder, n): rows for n, rows in sorted(shards(len(videos), shard_size).items())[rank::world_size]}
        was_read = any(_has_features(path) for path in folder.glob("features_*.safetensors"))
        # If earlier attempts read no video at all, their shards are computed again.
        todo = {path: _split(rows, batch_size) for path, rows in mine.items() if not (was_read and path.exists())}
        batches = _batches(dataset, todo.values(), number_of_workers(num_workers), device, progress and rank == 0)
        counted = _counted(batches, todo.values(), videos, Outcomes(len(videos), was_read=was_read))
        for path, parts in todo.items():
            _write(path, [_compute(network, next(counted), pool, device, dtype) for _ in parts])
        distributed.barrier()
        found = read_features(folder, videos)
    if not found.names:  # each of several processes read too few videos to raise `CommonFailure`
        Outcomes(len(videos)).add_all(found.missing)
    return found


def read_features(folder: str | os.PathLike[str], videos: VideoList) -> Extracted:
    """Read the features that `extract` wrote to its `output` folder for this list.

    Raises:
        FileNotFoundError: shards are missing; the message states how many.
        ValueError: the folder belongs to another list, or a shard is damaged.
    """
    folder = Path(folder)
    settings = json.loads((folder / "settings.json").read_text())
    if settings["list_sha256"] != videos.sha256:
        raise ValueError(
            f"{folder} holds features of another list (sha256 {settings['list_sha256']}, not {videos.sha256})"
        )
    paths = [_path(folder, shard) for shard in sorted(shards(len(videos), int(settings["shard_size"])))]
    if absent := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(
            f"{len(absent)} of {len(paths)} shards are not in {folder} yet, the first is {absent[0].name}; "
            "run extract again, or read_features once all processes have finished"
        )
    features, indices, missing = [], [], []
    for path in paths:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                features.append(file.get_tensor("features"))
                indices.append(file.get_tensor("video_index"))
                missing += [Failure(*failure) for failure in json.loads(file.metadata()["failures"])]
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it and run extract again") from error
    shapes = [part for part in features if len(part)]
    index = torch.cat(indices)
    rows = [videos.rows[i] for i in index.tolist()]
    return Extracted(
        features=torch.cat(shapes) if shapes else torch.empty(0, 0),
        labels=torch.tensor([-1 if row.label is None else row.label for row in rows], dtype=torch.int64),
        names=[row.path for row in rows],
        video_index=index,
        missing=missing,
    )


def view_features(network: ZooModel, views: Sequence[Tensor], pool: Pool = "mean") -> Tensor:
    """Pooled outputs of a network for the views of B videos: (B, D), or (B, V, D) for "none"; with gradients.

    Args:
        network: a backbone, whose class features are used, or a classifier.
        views: V tensors (B, C, T, H, W); T, H and W may differ between views, as in slow and fast clips.
        pool: as in `extract`.
    """
    outputs = [network(view) for view in views]
    rows = [output.cls if isinstance(output, Features) else output for output in outputs]
    if pool == "none":
        return torch.stack(rows, dim=1)  # (B, V, D)
    if pool == "mean":
        return torch.stack(rows).mean(dim=0)  # (B, D)
    if pool == "softmax":
        return torch.stack(rows).softmax(dim=-1).mean(dim=0).log()  # (B, K)
    if pool == "max":
        return torch.stack(rows).amax(dim=0)  # (B, K)
    if pool != "sum":
        raise ValueError(f'pool is "mean", "sum", "softmax", "max" or "none", got {pool!r}')
    shapes = dict.fromkeys(tuple(view.shape) for view in views)
    groups = [[row for row, view in zip(rows, views, strict=True) if tuple(view.shape) == shape] for shape in shapes]
    return torch.stack([torch.stack(group).mean(dim=0) for group in groups]).sum(dim=0)  # (B, D)


def _check_place(rank: int, world_size: int, output: str | os.PathLike[str] | None) -> None:
    if not 0 <= rank < world_size or (world_size > 1 and output is None):
        raise ValueError(
            f"several processes need an output, and ranks < world_size; got {rank=}, {world_size=}, {output=}"
        )


class _Part(NamedTuple):
    """Features (B, D) of a batch and its rows in the list; (0, 0) if all its videos are missing."""

    features: Tensor
    video_index: Tensor
    failures: list[Failure]


def _batches(
    dataset: VideoDataset, shards: Iterable[list[range]], num_workers: int, device: torch.device, progress: bool
) -> Iterator[Batch]:
    """Yields the batches of all shards, in order."""
    rows = [list(part) for parts in shards for part in parts]
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=rows,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=start_worker,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the default one would change the random state of a training
        prefetch_factor=1 if num_workers else None,  # float views of prefetched videos occupy shared memory
    )
    yield from tqdm(loader, unit="batch", disable=None if progress else True)


def _has_features(path: Path) -> bool:
    """Whether a shard holds the features of any video; True for a damaged one, on which `read_features` raises."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return bool(file.get_slice("video_index").get_shape()[0])
    except safetensors.SafetensorError:
        return True


def _counted(
    batches: Iterable[Batch], shards: Iterable[list[range]], videos: VideoList, outcomes: Outcomes
) -> Iterator[Batch]:
    """Passes the batches on and counts each video, in list order."""
    for batch, rows in zip(batches, (part for parts in shards for part in parts), strict=False):
        failed, read = dict(batch.failures), set(batch.video_index.tolist())
        for i in rows:
            outcomes.add(videos.rows[i].path, None if i in read else failed[videos.rows[i].path])
        yield batch


def _compute(network: ZooModel, batch: Batch, pool: Pool, device: torch.device, dtype: torch.dtype) -> _Part:
    features = torch.empty(0, 0)
    if len(batch):
        with torch.inference_mode():
            views = [view.to(device=device, dtype=dtype, non_blocking=True) for view in batch.views]
            features = view_features(network, views, pool).float().cpu()
    return _Part(features, batch.video_index, batch.failures)


def _write(path: Path, parts: Sequence[_Part]) -> None:
    """Write a shard: the features of its batches, and the unreadable videos."""
    features = [part.features for part in parts if len(part.features)]
    failures = [failure for part in parts for failure in part.failures]
    tensors = {
        "features": torch.cat(features) if features else torch.empty(0, 0),
        "video_index": torch.cat([part.video_index for part in parts]),
    }
    write_whole(path, safetensors.torch.save(tensors, metadata={"failures": json.dumps(failures)}))


def claim(folder: Path, settings: dict[str, str]) -> None:
    """Record in the folder what its features are computed from, unless this is recorded already.

    Raises:
        ValueError: the folder records other settings.
    """
    path = folder / "settings.json"
    if not path.exists():
        write_whole(path, json.dumps(settings, indent=2).encode())
        return
    found = json.loads(path.read_text())
    different = [
        f"{name} was {found.get(name)}, is {value}" for name, value in settings.items() if found.get(name) != value
    ]
    if different:
        raise ValueError(f"{folder} holds other features: {'; '.join(different)}; delete it or choose another output")


def weights_sha256(model: ZooModel) -> str:
    """Hash of everything that determines the outputs of a model: architecture, names and values of its tensors."""
    architecture = [type(model).__name__, model.meta.get("model"), model.meta.get("model_kwargs")]
    digest = hashlib.sha256(json.dumps(architecture, default=str, sort_keys=True).encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def shards(size: int, shard_size: int) -> dict[int, range]:
    """Rows of the list in each shard."""
    return {n: range(n * shard_size, min((n + 1) * shard_size, size)) for n in range(math.ceil(size / shard_size))}


def _split(rows: range, size: int) -> list[range]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _path(folder: Path, shard: int) -> Path:
    return folder / f"features_{shard:06d}.safetensors"
