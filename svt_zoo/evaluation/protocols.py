"""The published evaluation protocols: k-NN, linear probe, and multi-view classification."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..data.clips import RandomClips
from ..data.list_formats import write_table
from ..data.lists import DataConfig, VideoList
from ..data.views import Views
from ..files import write_whole
from ..models import Classifier, ZooModel
from ..options import bounds
from .features import Extracted, Pool, extract
from .knn import KNNConfig, few_shot, knn_scores, standardized
from .linear import LinearConfig, linear_probe
from .metrics import accuracy, confusion_matrix, plot_confusion
from .results import write_predictions
from .views import check_views, fast_transform

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MultiviewConfig:
    """The test of a classifier, with pooled logits of all views of a video.

    Attributes:
        views: crops x clips, such as "3x1" or "3x2"; "slow-fast 3x1" adds fast clips (SVT section 3.4).
        pool: "mean" averages the logits of all views. "sum" adds the mean of the slow and the mean of the fast clips.
            "softmax" averages probabilities. "max" takes the largest logit of each class.
    """

    views: str = "slow-fast 3x1"
    pool: Literal["mean", "sum", "softmax", "max"] = "mean"

    def __post_init__(self) -> None:
        check_views(self.views)


@dataclass(frozen=True)
class EvaluationRunConfig:
    """The folder, the device and the seed of an evaluation.

    Attributes:
        output: folder of features, predictions and figures; existing features are reused.
        seed: seed of everything random, and of the weights of init=random.
        device: "auto" uses a GPU if there is one.
        dtype: data type of the network; "auto" is bfloat16 where that is faster, "int8" is for CPUs.
    """

    output: str = "runs/evaluation"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "float32"

    def __post_init__(self) -> None:
        bounds(self, "seed", low=0)
        if not self.output:
            raise ValueError("output must name a folder, got nothing; was a variable of the shell empty?")


@dataclass(frozen=True)
class Extractor:
    """A network and the settings of `extract`; the features of each list are stored in a folder of `folder`."""

    network: ZooModel
    folder: Path
    device: torch.device
    data: DataConfig
    dtype: torch.dtype = torch.float32
    progress: bool = True

    def __call__(
        self, videos: VideoList, name: str, *, views: str | Views, pool: Pool = "mean", seed: int = 0
    ) -> Extracted:
        """Outputs of the network for the labeled videos of a list; `name` is the list in errors and in the folder.

        Raises:
            ValueError: a video has no label, or no video can be read.
        """
        unlabeled = (videos.columns.labels < 0).nonzero()[0]
        if len(unlabeled):
            first = videos.rows[unlabeled[0]].path
            raise ValueError(f"data.{name}: {len(unlabeled)} videos have no label, the first is {first}")
        extracted = extract(
            self.network,
            videos,
            views=views,
            pool=pool,
            device=self.device,
            dtype=self.dtype,
            batch_size=self.data.batch_size,
            num_workers=self.data.num_workers,
            seed=seed,
            output=self.folder / name,
            progress=self.progress,
        )
        if missing := extracted.missing:
            _log.warning("data.%s: %d of %d videos cannot be read", name, len(missing), len(videos))
            if not extracted.names:
                raise ValueError(
                    f"data.{name}: none of the {len(videos)} videos can be read, the first is {missing[0].path}: "
                    f"{missing[0].reason}"
                )
        return extracted


class Outcome(NamedTuple):
    """Result of one protocol: `scores` (N, K) of the readable `videos`, and further facts."""

    protocol: str
    scores: Tensor
    videos: Extracted
    notes: dict[str, Any]

    def metrics(self) -> dict[str, float]:
        """Accuracies in percent, each with its interval."""
        return accuracy(self.scores, self.videos.labels)


def pooled_metrics(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The metrics of the videos of all outcomes together."""
    scores = torch.cat([outcome.scores for outcome in outcomes])
    return accuracy(scores, torch.cat([outcome.videos.labels for outcome in outcomes]))


def knn_protocol(
    extractor: Extractor, train: VideoList, val: VideoList, options: KNNConfig, *, seed: int = 0
) -> list[Outcome]:
    """k-nearest-neighbor classification from the training videos, for each k of the options; nothing is trained.

    Values of `ks` above the number of training videos are skipped and logged.
    """
    views = options.views
    bank, queries = extractor(train, "train", views=views), extractor(val, "val", views=views)
    features, labels, few = bank.features, bank.labels, ""
    if options.shots is not None:
        chosen = few_shot(labels, options.shots, seed)
        features, labels, few = features[chosen], labels[chosen], f", {options.shots}-shot"
    asked = queries.features
    if options.standardize:
        features, asked = standardized(features, asked)
    ks = [k for k in options.ks if k <= len(labels)] or [len(labels)]
    if skipped := ", ".join(str(k) for k in options.ks if k not in ks):
        _log.warning("there are only %d training videos, so there is no result for k = %s", len(labels), skipped)
    scores = knn_scores(
        features,
        labels,
        asked,
        num_classes=max(train.num_classes, val.num_classes),
        ks=ks,
        temperature=options.temperature,
        device=extractor.device,
    )
    notes = _training_notes(train, bank)
    return [Outcome(f"knn {k}{few}, {views} views", scores[k], queries, notes) for k in ks]


def linear_protocol(
    extractor: Extractor, train: VideoList, val: VideoList, options: LinearConfig, *, seed: int = 0
) -> Outcome:
    """A linear layer on frozen features of random clips, tested on fixed views (SVT section 4.1)."""
    clips = options.clips
    transform = extractor.network.transforms()
    fast = fast_transform(transform) if options.slow_fast else None
    views = RandomClips(transform, num_clips=clips, flip=options.hflip, fast=fast)
    data = replace(extractor.data, batch_size=max(1, extractor.data.batch_size // clips))  # a video has many views
    bank = replace(extractor, data=data)(train, "train", views=views, pool="none", seed=seed)
    features = bank.features  # (N, V, D)
    if options.slow_fast:
        pairs = features.unflatten(1, (clips, 2))  # (N, V, 2, D)
        features = pairs.mean(dim=2) if options.pool == "mean" else pairs.sum(dim=2)  # (N, V, D)
    queries = extractor(val, "val", views=options.views, pool=options.pool)
    probe = linear_probe(
        features,
        bank.labels,
        queries.features,
        queries.labels,
        num_classes=max(train.num_classes, val.num_classes),
        options=options,
        groups=[train.rows[i].group for i in bank.video_index.tolist()],
        seed=seed,
        device=extractor.device,
    )
    if len(options.lrs) > 1:
        lrs = ", ".join(f"{lr:g}" for lr in options.lrs)
        _log.info("linear probe: the learning rate is %g, chosen among %s", probe.lr, lrs)
    sweep = {f"{lr:g}": {"validation": probe.validation.get(lr), "test": probe.test[lr]} for lr in options.lrs}
    notes = {**_training_notes(train, bank), "lr": probe.lr, "top1_of_each_lr": sweep}
    return Outcome(f"linear, {options.views} views", probe.scores, queries, notes)


def multiview_protocol(
    extractor: Extractor, val: VideoList, options: MultiviewConfig, *, protocol: str = "classifier"
) -> Outcome:
    """Test a classifier on several views of each video; the logits of the views are pooled.

    Raises:
        ValueError: the network has no classifier, or fewer classes than the list.
    """
    network = extractor.network
    if not isinstance(network, Classifier):
        raise ValueError(
            f"{network.meta.get('weights', 'the network')} has no classifier; fine-tune it (svt-zoo finetune), or "
            "evaluate its features with a kNN or linear recipe (svt-zoo evaluate)"
        )
    if val.num_classes > network.head.out_features:
        raise ValueError(f"the classifier has {network.head.out_features} classes, but data.val has {val.num_classes}")
    logits = extractor(val, "val", views=options.views, pool=options.pool)
    return Outcome(f"{protocol}, {options.views} views", logits.features, logits, {})


def write_outcome(outcome: Outcome, folder: Path, *, classes: Sequence[str] = ()) -> None:
    """Write the top classes per video (Parquet or CSV), the confusion matrix (PNG) and the missing videos."""
    stem, videos = re.sub(r"\W+", "_", outcome.protocol), outcome.videos
    path = folder / f"predictions_{stem}.parquet"
    write_predictions(path, videos.names, videos.labels, outcome.scores, classes=classes)
    matrix = confusion_matrix(outcome.scores.argmax(dim=1), videos.labels, outcome.scores.shape[1])
    write_whole(folder / f"confusion_{stem}.png", plot_confusion(matrix, classes=classes))
    if videos.missing:
        write_table(folder / "missing.csv", ("path", "reason"), videos.missing)


def _training_notes(train: VideoList, bank: Extracted) -> dict[str, Any]:
    return {"train_sha256": train.sha256, "train_n": len(bank.names), "train_n_missing": len(bank.missing)}
