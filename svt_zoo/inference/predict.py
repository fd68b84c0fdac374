"""Videos in, features or labels out."""

import csv
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.datasets import Views
from ..data.limits import Limits, VideoReadError
from ..evaluation.prepare import DType, prepare
from ..evaluation.views import load_views, parse_views
from ..files import atomic
from ..hub.download import fetch
from ..hub.sources import WeightsError, parse_source
from ..hub.weights import get_weights, list_weights
from ..models import Classifier, Features, ZooModel

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class Prediction(NamedTuple):
    """The likeliest classes of one video: names (numbers where no names are known) and probabilities, best first."""

    path: Path
    labels: list[str]
    scores: list[float]


def embed(
    paths: Paths,
    *,
    model: str | ZooModel = "svt_vitb_k400",
    dtype: DType = "auto",
    device: str | torch.device | None = None,
    views: str = "1x1",
    batch_size: int = 4,
    progress: bool = True,
) -> Tensor:
    """Turn videos into features, one row each: float32 (N, D) on the CPU, in the order of `paths`.

    Args:
        paths: one video file or several.
        model: a name or address `load_model` takes, or a model (left as it is).
        dtype: what the network computes in; "auto" is bfloat16 where that is faster on this machine, else float32.
        device: by default the GPU if there is one.
        views: of each video, whose features are averaged: crops x clips ("1x1" is the centre of the centre, "3x10" is
            usual), or "slow-fast 3x1", which adds clips of more and smaller frames (SVT section 3.4).
        batch_size: clips that go through the network at once.
        progress: show a bar with the time left, on a terminal.

    Raises:
        VideoReadError: a file cannot be read; nothing is silently left out.
        WeightsError: the weights cannot be had.
    """
    options: dict[str, Any] = {"dtype": dtype, "device": device, "views": views, "batch_size": batch_size}
    rows = [_sound(row) for row in embed_each(paths, model=model, progress=progress, **options)]
    if not rows:
        raise ValueError("embed needs at least one video, got none")
    return torch.stack(rows)


def embed_each(
    paths: Paths,
    *,
    model: str | ZooModel,
    dtype: DType = "auto",
    device: str | torch.device | None = None,
    views: str = "1x1",
    batch_size: int = 4,
    progress: bool = False,
) -> Iterator[Tensor | VideoReadError]:
    """As `embed`, a feature (D,) at a time; of a video that cannot be read, the error in its place."""
    network, device, dtype = prepare(model, device, dtype)
    backbone = network.backbone if isinstance(network, Classifier) else network
    chosen = parse_views(views, network.transforms())
    for out in _outputs(backbone, chosen, _listed(paths), device, dtype, batch_size, progress):
        yield out if isinstance(out, VideoReadError) else out.mean(dim=0)


def predict(
    paths: Paths,
    *,
    model: str | ZooModel,
    labels: Sequence[str] | None = None,
    top: int = 5,
    dtype: DType = "auto",
    device: str | torch.device | None = None,
    views: str = "1x1",
    batch_size: int = 4,
    progress: bool = True,
    limits: Limits | None = None,
) -> list[Prediction]:
    """Classify videos: the `top` classes of each, probabilities averaged over its views.

    Args:
        model: a row of the weights table or a file with a classifier in it, or a `Classifier`.
        labels: names of the classes in order; by default what the weights say.
        top: how many classes to return.
        paths, dtype, device, views, batch_size, progress: as of `embed`.
        limits: as of `open_video`.

    Raises:
        ValueError: the model has no classifier, or another number of classes than `labels`.
        VideoReadError, WeightsError: as of `embed`.
    """
    options: dict[str, Any] = {"dtype": dtype, "device": device, "views": views, "batch_size": batch_size}
    each = predict_each(paths, model=model, labels=labels, top=top, progress=progress, limits=limits, **options)
    return [_sound(prediction) for prediction in each]


def predict_each(
    paths: Paths,
    *,
    model: str | ZooModel,
    labels: Sequence[str] | None = None,
    top: int = 5,
    dtype: DType = "auto",
    device: str | torch.device | None = None,
    views: str = "1x1",
    batch_size: int = 4,
    progress: bool = False,
    limits: Limits | None = None,
) -> Iterator[Prediction | VideoReadError]:
    """As `predict`, a video at a time; of one that cannot be read, the error in its place."""
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    if model in list_weights() and not get_weights(str(model)).num_classes:
        raise ValueError(f"{model} has no classifier; embed() gives its features")  # said before it is downloaded
    network, device, dtype = prepare(model, device, dtype, num_classes=None)
    if not isinstance(network, Classifier):
        raise ValueError(f"{network.meta.get('weights', 'this model')} has no classifier; embed() gives its features")
    num_classes = network.head.out_features
    names = list(labels) if labels is not None else label_names(network)
    if len(names) != num_classes:
        raise ValueError(f"the classifier has {num_classes} classes, the list of labels {len(names)}")
    files = _listed(paths)
    chosen = parse_views(views, network.transforms())
    outputs = _outputs(network, chosen, files, device, dtype, batch_size, progress, limits)
    for path, logits in zip(files, outputs, strict=True):
        if isinstance(logits, VideoReadError):
            yield logits
            continue
        best = logits.softmax(dim=-1).mean(dim=0).topk(min(top, num_classes))
        yield Prediction(path, [names[i] for i in best.indices.tolist()], best.values.tolist())


def write_features(target: Path, paths: Sequence[str], features: Tensor) -> None:
    """Write features (N, D) as .npy, or as .csv with the paths in the first column."""
    with atomic(target) as part:
        if target.suffix == ".npy":
            with part.open("wb") as file:
                np.save(file, features.numpy())
            return
        with part.open("w", encoding="utf-8", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(["video", *range(features.shape[1])])
            writer.writerows([path, *row] for path, row in zip(paths, features.tolist(), strict=True))


def _sound(result: _T | VideoReadError) -> _T:
    if isinstance(result, VideoReadError):
        raise result
    return result


def label_names(model: Classifier) -> list[str]:
    """Names of a classifier's classes: from its config, else from the weights' repository, else their numbers."""
    meta = model.meta
    if meta.get("categories"):
        return list(meta["categories"])
    if meta.get("labels"):
        try:
            config = json.loads(fetch(parse_source(meta["labels"]), progress=False).read_text())
            return [config["id2label"][str(i)] for i in range(model.head.out_features)]
        except (WeightsError, KeyError, ValueError) as error:
            _log.warning("no label names, numbers instead: %s: %s", meta["labels"], error)
    return [str(i) for i in range(model.head.out_features)]


def _listed(paths: Paths) -> list[Path]:
    if isinstance(paths, str | os.PathLike):
        return [Path(paths)]
    return [Path(path) for path in paths]


def _outputs(
    network: ZooModel,
    views: Views,
    paths: Sequence[Path],
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
    progress: bool,
    limits: Limits | None = None,
) -> Iterator[Tensor | VideoReadError]:
    """What the network says of all views of each video: (V, D) or (V, K), float32 on the CPU."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    many = len(paths) > 1
    for path in tqdm(paths, unit="video", disable=None if progress and many else True):
        try:
            loaded = load_views(path, views, limits=limits)
        except VideoReadError as error:
            yield error
            continue
        parts = []
        with torch.inference_mode():
            for _, same in groupby(loaded, key=lambda view: view.shape):
                for batch in torch.stack(list(same)).split(batch_size):
                    out: Tensor | Features = network(batch.to(device=device, dtype=dtype))
                    parts.append((out.cls if isinstance(out, Features) else out).float().cpu())
        yield torch.cat(parts)
