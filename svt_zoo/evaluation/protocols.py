"""The published evaluation protocols: k-NN, linear probe, and multi-view classification."""

import csv
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..data.clips import RandomClips
from ..data.lists import VideoList
from ..data.views import Views
from ..models import Classifier, ZooModel
from .features import Extracted, Pool, extract
from .knn import few_shot, knn_scores
from .linear import linear_probe
from .metrics import accuracy, confusion_matrix, plot_confusion
from .results import write_predictions
from .views import fast_transform

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A network and its settings; the features of each list are stored in a separate folder.

    Attributes:
        network: a backbone, or a classifier for its logits.
        folder: where features are stored; stored features are not computed again.
        device, dtype, batch_size, num_workers: as in `extract`.
    """

    network: ZooModel
    folder: Path
    device: torch.device
    dtype: torch.dtype = torch.float32
    batch_size: int = 8
    num_workers: int | None = 0

    def __call__(
        self, videos: VideoList, name: str, *, views: str | Views, pool: Pool = "mean", seed: int = 0
    ) -> Extracted:
        """Outputs of the network for the labeled videos of a list; `name` is the list in errors and in the folder.

        Raises:
            ValueError: a video has no label, or no video can be read.
        """
        if unlabelled := [row.path for row in videos.rows if row.label is None]:
            raise ValueError(f"data.{name}: {len(unlabelled)} videos have no label, the first is {unlabelled[0]}")
        found = extract(
            self.network,
            videos,
            views=views,
            pool=pool,
            device=self.device,
            dtype=self.dtype,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=seed,
            output=self.folder / name,
        )
        if found.missing:
            _log.warning("data.%s: %d of %d videos cannot be read", name, len(found.missing), len(videos))
        if not found.names:
            raise ValueError(
                f"data.{name}: none of the {len(videos)} videos can be read, the first is "
                f"{found.missing[0].path}: {found.missing[0].reason}"
            )
        return found


class Outcome(NamedTuple):
    """Result of one protocol: `scores` (N, K) of `videos`, the readable evaluation videos.

    `protocol` is a one-line name. `notes` holds further facts, such as the selected learning rate.
    """

    protocol: str
    scores: Tensor
    videos: Extracted
    notes: dict[str, Any]

    def metrics(self) -> dict[str, float]:
        """Accuracies in percent, each with its interval."""
        return accuracy(self.scores, self.videos.labels)


def knn_protocol(
    extractor: Extractor,
    train: VideoList,
    val: VideoList,
    *,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    views: str = "1x1",
    shots: int | None = None,
    seed: int = 0,
) -> list[Outcome]:
    """k-nearest-neighbor classification from the training videos, for each k in `ks`; nothing is trained.

    Args:
        extractor: of a backbone.
        train, val: lists with labels.
        ks: numbers of neighbors; values above the number of training videos are skipped and logged.
        temperature: as in `knn_scores`.
        views: crops x clips of every video, whose features are averaged.
        shots: number of training videos per class; None uses all.
        seed: of the random choice of `shots`.
    """
    bank, queries = extractor(train, "train", views=views), extractor(val, "val", views=views)
    features, labels = bank.features, bank.labels
    if shots is not None:
        chosen = few_shot(labels, shots, seed)
        features, labels = features[chosen], labels[chosen]
    usable = [k for k in ks if k <= len(labels)] or [len(labels)]
    if left_out := [k for k in ks if k not in usable]:
        _log.warning(
            "there are only %d training videos, so there is no result for k = %s",
            len(labels),
            ", ".join(map(str, left_out)),
        )
    scores = knn_scores(
        features,
        labels,
        queries.features,
        num_classes=max(train.num_classes, val.num_classes),
        ks=usable,
        temperature=temperature,
        device=extractor.device,
    )
    few = "" if shots is None else f", {shots}-shot"
    notes = _training_notes(train, bank)
    return [Outcome(f"knn {k}{few}, {views} views", scores[k], queries, notes) for k in usable]


def linear_protocol(
    extractor: Extractor,
    train: VideoList,
    val: VideoList,
    *,
    lrs: Sequence[float] = (8e-3,),
    clips: int = 20,
    hflip: float = 0.5,
    slow_fast: bool = False,
    views: str = "3x1",
    pool: Literal["mean", "sum"] = "mean",
    seed: int = 0,
    **options: Any,
) -> Outcome:
    """A linear layer on frozen features of random clips, tested on fixed views (SVT section 4.1).

    Args:
        extractor: of a backbone.
        train, val: lists with labels.
        lrs: learning rates; a held-out part of the training videos selects one.
        clips: number of random clips per training video; each epoch draws one of their features.
        hflip: probability of a flip in training.
        slow_fast: a training feature is the mean (or sum, by `pool`) of those of a slow and a fast clip.
        views, pool: of an evaluation video, as in `extract`.
        seed: of the clips, the initial weights of the layer and the order.
        options: of `linear_probe`: `epochs`, `batch_size`, `momentum`, `weight_decay`, `standardize`,
            `validation_fraction`.

    Raises:
        ValueError: `clips` is below 1, or as in `Extractor` and `linear_probe`.
    """
    if clips < 1:
        raise ValueError(f"linear.clips must be >= 1, got {clips}")
    transform = extractor.network.transforms()
    fast = fast_transform(transform) if slow_fast else None
    random_clips = RandomClips(transform, num_clips=clips, flip=hflip, fast=fast)
    few = replace(extractor, batch_size=max(1, extractor.batch_size // clips))  # each training video has many views
    bank = few(train, "train", views=random_clips, pool="none", seed=seed)
    features = bank.features  # (N, V, D)
    if slow_fast:
        pairs = features.unflatten(1, (clips, 2))  # (N, V, 2, D)
        features = pairs.mean(dim=2) if pool == "mean" else pairs.sum(dim=2)  # (N, V, D)
    queries = extractor(val, "val", views=views, pool=pool)
    probe = linear_probe(
        features,
        bank.labels,
        queries.features,
        queries.labels,
        num_classes=max(train.num_classes, val.num_classes),
        lrs=lrs,
        groups=[train.rows[i].group for i in bank.video_index.tolist()],
        seed=seed,
        device=extractor.device,
        **options,
    )
    _log.info("linear probe: the learning rate is %g, chosen among %s", probe.lr, ", ".join(f"{lr:g}" for lr in lrs))
    sweep = {f"{lr:g}": {"validation": probe.validation.get(lr), "test": probe.test[lr]} for lr in lrs}
    notes = {**_training_notes(train, bank), "lr": probe.lr, "top1_of_each_lr": sweep}
    return Outcome(f"linear, {views} views", probe.scores, queries, notes)


def multiview_protocol(
    extractor: Extractor,
    val: VideoList,
    *,
    views: str = "3x1",
    pool: Pool = "mean",
    protocol: str = "classifier",
) -> Outcome:
    """Test a classifier on several views of each video; the logits of the views are pooled.

    Args:
        extractor: of a classifier.
        val: a list with labels.
        views, pool: as in `extract`.
        protocol: name of the outcome, before its views.

    Raises:
        ValueError: the network has no classifier, or as in `Extractor`.
    """
    network = extractor.network
    if not isinstance(network, Classifier):
        raise ValueError(
            f"{network.meta.get('weights', 'the network')} has no classifier; fine-tune it (tools/finetune.py), or "
            "evaluate its features (tools/eval_knn.py, tools/eval_linear.py)"
        )
    if val.num_classes > network.head.out_features:
        raise ValueError(f"the classifier has {network.head.out_features} classes, but data.val has {val.num_classes}")
    found = extractor(val, "val", views=views, pool=pool)
    return Outcome(f"{protocol}, {views} views", found.features, found, {})


def write_outcome(outcome: Outcome, folder: Path, *, classes: Sequence[str] = ()) -> None:
    """Write the top classes per video (Parquet or CSV), the confusion matrix (PNG) and the missing videos."""
    stem = re.sub(r"\W+", "_", outcome.protocol)
    write_predictions(
        folder / f"predictions_{stem}.parquet",
        outcome.videos.names,
        outcome.videos.labels,
        outcome.scores,
        classes=classes,
    )
    matrix = confusion_matrix(outcome.scores.argmax(dim=1), outcome.videos.labels, outcome.scores.shape[1])
    plot_confusion(matrix, folder / f"confusion_{stem}.png", classes=classes)
    if outcome.videos.missing:
        with open(folder / "missing.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("path", "reason"), *outcome.videos.missing])


def _training_notes(train: VideoList, bank: Extracted) -> dict[str, Any]:
    """Notes of a result about the training videos."""
    return {"train_sha256": train.sha256, "train_n": len(bank.names), "train_n_missing": len(bank.missing)}
