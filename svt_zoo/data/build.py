"""Builds lists, views and datasets from a recipe; no other module of `svt_zoo.data` reads a recipe's sections."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..config import ConfigError, CPCViewsConfig, DataConfig, ViewsConfig
from .cpc_views import cpc_train_views
from .datasets import TrainViews, VideoDataset
from .flow import FlowLabels
from .lists import VideoList, check_overlap, read_list
from .random_views import ViewTransform, svt_view_specs
from .sampling import clip_window, cvrl_interval_clips, svt_views, svt_views_code


class SVTSampler:
    """Chooses the frames of SVT's views: `sampler(total, fps, rng)` returns indices per view, global views first."""

    def __init__(self, views: ViewsConfig) -> None:
        self.views = views

    def __call__(self, total: int, fps: float, rng: np.random.Generator) -> Sequence[Sequence[int]]:
        """Frame indices of all views of a video of `total` frames at `fps` frames per second."""
        views = self.views
        if views.sampling == "code":
            python = random.Random(int(rng.integers(2**63)))  # the release draws from Python's generator
            return svt_views_code(total, python, rand_fr=views.rand_fr, window=clip_window(8, 32, fps))
        if views.sampling == "cvrl":
            return cvrl_interval_clips(total, rng, num_frames=views.global_frames)
        return svt_views(
            total,
            rng,
            global_frames=views.global_frames,
            local_frames=views.local_frames,
            global_span=views.global_span,
            local_span=views.local_span,
            temporal_variation=views.temporal_variation,
        )


def svt_train_views(views: ViewsConfig, *, flow: FlowLabels | None = None) -> TrainViews:
    """Builds SVT's random views for a dataset; `flow` labels the first view."""
    num_local = 0 if views.sampling == "cvrl" else 8 if views.sampling == "code" else len(views.local_frames)
    specs = svt_view_specs(
        global_size=views.global_size,
        local_size=views.local_size,
        num_local=num_local,
        hflip=views.hflip,
        blur_and_solarize=views.blur_and_solarize,
        spatial_variation=views.spatial_variation,
        consistent=views.consistent,
    )
    return TrainViews(SVTSampler(views), [ViewTransform(spec) for spec in specs], flow=flow)


def training_list(data: DataConfig, *, seed: int = 0) -> VideoList:
    """The training videos of a recipe: read, reduced to the subset, and free of evaluation videos.

    Raises:
        ConfigError: the recipe names no list.
        ListError: a list cannot be read.
        ValueError: training and evaluation share videos or groups, and `data.allow_overlap` is off.
    """
    if not data.train:
        raise ConfigError("data.train is empty; add data.train=LIST_OR_FOLDER")
    videos = _read(data, data.train, data.labels, data.where_train)
    if data.val:
        test = evaluation_list(replace(data, validation_fraction=0.0), classes=videos.classes)
        check_overlap(videos, test, allow=data.allow_overlap)
    if data.validation_fraction:
        videos, _ = videos.hold_out(data.validation_fraction)
    return videos if data.subset is None else videos.subset(data.subset, seed)


def evaluation_list(data: DataConfig, *, classes: Sequence[str] | None = None) -> VideoList:
    """The evaluation videos of a recipe, or the training videos that it holds out (`validation_fraction`).

    `classes` are the names of the training labels; evaluation uses the same labels.

    Raises:
        ConfigError: the recipe names no list.
        ListError: a list cannot be read, or has labels that training does not have.
    """
    labels = list(classes) if classes else data.labels
    if data.validation_fraction:
        if not data.train:
            raise ConfigError(
                "data.validation_fraction holds out a part of data.train, which is empty; add data.train=LIST"
            )
        train = _read(data, data.train, labels, data.where_train)
        return train.hold_out(data.validation_fraction)[1]
    if not data.val:
        raise ConfigError("data.val is empty; add data.val=LIST_OR_FOLDER")
    return _read(data, data.val, labels, data.where_val)


def _read(data: DataConfig, path: str, labels: str | list[str] | None, where: str | None) -> VideoList:
    return read_list(path, root=data.root, format=data.format, labels=labels, where=where, frame_rate=data.frame_rate)


def train_views(views: ViewsConfig | CPCViewsConfig, *, flow: FlowLabels | None = None) -> TrainViews:
    """Builds the random views of a pre-training recipe; `flow` labels the first view of SVT."""
    return cpc_train_views(views) if isinstance(views, CPCViewsConfig) else svt_train_views(views, flow=flow)


def training_dataset(
    data: DataConfig, views: ViewsConfig | CPCViewsConfig, *, seed: int = 0, flow: FlowLabels | None = None
) -> VideoDataset:
    """Builds the dataset of a recipe's training videos and views; `flow` as in `train_views`."""
    made = train_views(views, flow=flow)
    return VideoDataset(training_list(data, seed=seed), made, train=True, seed=seed)
