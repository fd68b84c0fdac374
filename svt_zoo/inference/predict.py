"""Computes features (`embed`) or classes (`predict`) of videos."""

import json
import logging
import os
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.list_files import find_videos
from ..data.list_formats import write_table
from ..data.pool import number_of_workers
from ..device import DType, clip_dtype, memory_advice
from ..evaluation.features import prepare
from ..evaluation.views import load_views, parse_views
from ..files import atomic
from ..hub.download import fetch
from ..hub.sources import WeightsError, parse_source
from ..hub.table import get_weights, list_weights
from ..models import Classifier, Features, ZooModel
from ..models.base import backbone_of, check_labels
from ..video import Limits

_log = logging.getLogger(__name__)

_MOST_THREADS = 8  # that read videos ahead

Video = str | os.PathLike[str] | Tensor | np.ndarray
Videos = Video | Iterable[Video]


class Prediction(NamedTuple):
    """The top classes of one video, best first: names (or numbers, if names are unknown) and probabilities.

    `path` is None for a video that was given as frames or as a clip.
    """

    path: Path | None
    labels: list[str]
    scores: list[float]


def embed(
    videos: Videos,
    *,
    model: str | ZooModel = "svt_vitb_k400",
    dtype: DType = "auto",
    device: str | torch.device | None = None,
    views: str = "1x1",
    batch_size: int = 4,
    progress: bool = True,
) -> Tensor:
    """Turn videos into features, one row each: float32 (N, D) on the CPU, in the order of `videos`.

    Args:
        videos: one of the following, or a list of them.
            A video file; a folder, for all videos below it, sorted by path.
            Frames uint8 (T, H, W, 3) or (T, 3, H, W), array or tensor, read like a file with 30 frames per second
            (exactly `num_frames` frames are all used).
            A float tensor (3, T, H, W) or (B, 3, T, H, W): clips that are normalized already, as `model.transforms()`
            returns them; `views` does not apply to them.
        model: a name or address for `load_model`, or a model (not changed).
        dtype: the type to compute in; "auto" is bfloat16 where that is faster on this machine, else float32;
            "int8" is faster on CPUs and less exact.
        device: by default the GPU if there is one.
        views: crops x clips per video, whose features are averaged. "1x1" is the center crop of the center clip;
            "3x10" is common. "slow-fast 3x1" adds clips with more and smaller frames (SVT section 3.4).
        batch_size: clips per forward pass, of one or several videos. Threads read the next videos meanwhile.
        progress: show a progress bar, on a terminal.

    Raises:
        VideoReadError: a file cannot be read, for any reason; videos are never skipped silently.
        WeightsError: the weights cannot be loaded.
        ValueError: there is no video, or an array has another shape or type.
    """
    network, device, dtype = prepare(model, device, dtype)
    items = _items(videos)
    if not items:
        raise ValueError("embed needs at least one video, got none")
    clips = _clips(items, network, views, progress=progress)
    outputs = _outputs(backbone_of(network), clips, batch_size, device, dtype)
    return torch.stack([output.mean(dim=0) for output in outputs])


def predict(
    videos: Videos,
    *,
    model: str | ZooModel,
    top: int = 5,
    dtype: DType = "auto",
    device: str | torch.device | None = None,
    views: str = "1x1",
    batch_size: int = 4,
    progress: bool = True,
    limits: Limits | None = None,
) -> list[Prediction]:
    """Classify videos: the `top` classes of each, with probabilities averaged over its views.

    Args:
        model: a row of the weights table or a file with a classifier, or a `Classifier`, with class names from
            `set_labels`.
        top: number of classes to return.
        videos, dtype, device, views, batch_size, progress: as in `embed`.
        limits: as in `open_video`.

    Raises:
        ValueError: the model has no classifier, or class names that do not fit it.
        VideoReadError, WeightsError: as in `embed`.
    """
    if top < 1:
        raise ValueError(f"top must be >= 1, got {top}")
    if model in list_weights() and not get_weights(str(model)).num_classes:
        raise ValueError(f"{model} has no classifier; embed() gives its features")  # before the download
    network, device, dtype = prepare(model, device, dtype, num_classes=None)
    if not isinstance(network, Classifier):
        raise ValueError(f"{network.meta.get('weights', 'this model')} has no classifier; embed() gives its features")
    names, items = label_names(network), _items(videos)
    clips = _clips(items, network, views, progress=progress, limits=limits)
    predictions = []
    for item, logits in zip(items, _outputs(network, clips, batch_size, device, dtype), strict=True):
        best = logits.softmax(dim=-1).mean(dim=0).topk(min(top, len(names)))
        path = item if isinstance(item, Path) else None
        predictions.append(Prediction(path, [names[i] for i in best.indices.tolist()], best.values.tolist()))
    return predictions


def write_features(target: Path, paths: Sequence[str], features: Tensor) -> None:
    """Write features (N, D) as .npy, or as .csv with the paths in the first column."""
    if target.suffix == ".npy":
        with atomic(target) as part:
            np.save(part, features.numpy())
    else:
        rows = ([path, *row] for path, row in zip(paths, features.tolist(), strict=True))
        write_table(target, ["video", *map(str, range(features.shape[1]))], rows)


def label_names(model: Classifier) -> list[str]:
    """Class names of a classifier: from `set_labels`, else from the weights' repository, else their numbers.

    Raises:
        ValueError: `meta` holds names that do not fit the classifier.
    """
    names = model.meta.get("categories") or model.meta.get("labels")
    if isinstance(names, str):  # the address of a file with the names
        try:
            config = json.loads(fetch(parse_source(names), progress=False).read_text())
            return [config["id2label"][str(i)] for i in range(model.num_classes)]
        except (WeightsError, KeyError, ValueError) as error:
            _log.warning("no class names, numbers instead: %s: %s", names, error)
    elif names:
        return check_labels(names, model.num_classes)
    return [str(i) for i in range(model.num_classes)]


def _items(videos: Videos) -> list[Path | Tensor]:
    """Returns each video separately: a file, frames uint8 (T, H, W, 3) or (T, 3, H, W), or a clip (3, T, H, W)."""
    if isinstance(videos, str | os.PathLike):
        path = Path(videos)
        if not path.is_dir():
            return [path]
        files = [path / name for name in find_videos(str(path))]
        if not files:
            raise ValueError(f"{path}: no video in this folder")
        return list(files)
    if not isinstance(videos, Tensor | np.ndarray):
        return [item for video in videos for item in _items(video)]
    tensor = torch.as_tensor(videos)
    shape = tuple(tensor.shape)
    if tensor.dtype == torch.uint8:
        fits = tensor.ndim in (4, 5) and 3 in (shape[-1], shape[-3])
    else:
        fits = tensor.is_floating_point() and tensor.ndim in (4, 5) and shape[-4] == 3
    if not fits:
        raise ValueError(
            f"a video must be uint8 frames (T, H, W, 3) or (T, 3, H, W), got {tensor.dtype} {shape}; "
            "a normalized clip must be float (3, T, H, W) or (B, 3, T, H, W)"
        )
    return [tensor] if tensor.ndim == 4 else list(tensor)


def _clips(
    items: list[Path | Tensor], network: ZooModel, views: str, *, progress: bool, limits: Limits | None = None
) -> Iterator[list[Tensor]]:
    """Yields the views (3, T, H, W) of each item; threads read a few items ahead."""
    are_clips = all(isinstance(item, Tensor) and item.is_floating_point() for item in items)
    parsed = None if are_clips else parse_views(views, network.transforms())

    def load(item: Path | Tensor) -> list[Tensor]:
        if isinstance(item, Tensor) and item.is_floating_point():
            return [item]
        assert parsed is not None
        return load_views(item, parsed, limits=limits)

    threads, left = min(_MOST_THREADS, max(1, number_of_workers(None))), iter(items)
    pool = ThreadPoolExecutor(threads)
    try:
        reading = deque(pool.submit(load, item) for item in islice(left, threads))
        for _ in tqdm(items, unit="video", disable=None if progress and len(items) > 1 else True):
            clips = reading.popleft().result()
            reading.extend(pool.submit(load, item) for item in islice(left, 1))
            yield clips
    finally:
        pool.shutdown(cancel_futures=True)


@torch.inference_mode()
def _outputs(
    network: ZooModel, videos: Iterable[list[Tensor]], batch_size: int, device: torch.device, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Yields what the network outputs for the clips of each video: (V, D) or (V, K), float32 on the CPU."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    waiting: list[list[Tensor]] = []
    for clips in videos:
        waiting.append(clips)
        if sum(map(len, waiting)) >= batch_size:
            yield from _forward(network, waiting, batch_size, device, dtype)
            waiting = []
    yield from _forward(network, waiting, batch_size, device, dtype)


def _forward(
    network: ZooModel, videos: list[list[Tensor]], batch_size: int, device: torch.device, dtype: torch.dtype
) -> Iterator[Tensor]:
    """As `_outputs`, for a few videos: clips of one shape share a batch."""
    clips = [clip for video in videos for clip in video]
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for number, clip in enumerate(clips):
        by_shape[clip.shape].append(number)
    rows: dict[int, Tensor] = {}
    for shape, numbers in by_shape.items():
        for first in range(0, len(numbers), batch_size):
            part = numbers[first : first + batch_size]
            batch = torch.stack([clips[number] for number in part])
            with memory_advice(f"{len(part)} clips {tuple(shape)}", "lower batch_size"):
                # First to the device, then to the type: a GPU converts faster than a CPU.
                output: Tensor | Features = network(batch.to(device).to(clip_dtype(dtype)))
                rows |= zip(part, (output.cls if isinstance(output, Features) else output).float().cpu(), strict=True)
    in_order = iter(range(len(clips)))
    for video in videos:
        yield torch.stack([rows[next(in_order)] for _ in video])
